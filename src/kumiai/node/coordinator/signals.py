"""Wakes a run's driver when something happened to it inside this process.

A wake-up is a hint: the driver always reads the rows, and looks by itself once in a while, so
that a hint lost with a crashed or distant process costs time, never correctness.
"""

import asyncio
import contextlib

__all__ = ["RunSignals"]


class RunSignals:
    """One event per run."""

    def __init__(self) -> None:
        """Start with nobody waiting."""
        self._events: dict[str, asyncio.Event] = {}

    def wake(self, run_id: str) -> None:
        """Let the run's driver look at its rows now."""
        if event := self._events.get(run_id):
            event.set()

    async def wait(self, run_id: str, timeout_seconds: float) -> None:
        """Return at the next wake-up (one since the last wait counts), or after the time."""
        event = self._events.setdefault(run_id, asyncio.Event())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), timeout_seconds)
        event.clear()

    def forget(self, run_id: str) -> None:
        """Drop what is kept for a run that has ended."""
        self._events.pop(run_id, None)
