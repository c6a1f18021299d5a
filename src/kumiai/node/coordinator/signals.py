"""Wakes a run's driver when something happened to it inside this process.

A wake-up is a hint: the driver always reads the rows, and looks by itself once in a while, so
that a hint lost with a crashed or distant process costs time, never correctness.
"""

import asyncio
import contextlib
from dataclasses import dataclass, field

__all__ = ["RunSignals"]


@dataclass(slots=True)
class _Run:
    event: asyncio.Event = field(default_factory=asyncio.Event)
    reports: int = 0
    reports_wanted: int = 1


class RunSignals:
    """One event per run that is waited for."""

    def __init__(self) -> None:
        """Start with nobody waiting."""
        self._runs: dict[str, _Run] = {}

    def wake(self, run_id: str) -> None:
        """Let the run's driver look at its rows now."""
        if run := self._runs.get(run_id):
            run.event.set()

    def report(self, run_id: str) -> None:
        """Count a report; the driver looks when as many came as can change its mind."""
        if run := self._runs.get(run_id):
            run.reports += 1
            if run.reports >= run.reports_wanted:
                run.event.set()

    async def wait(self, run_id: str, timeout_seconds: float, *, reports: int = 1) -> None:
        """Return at a wake-up, after so many reports, or after the time.

        What came since the last wait counts.
        """
        run = self._runs.setdefault(run_id, _Run())
        run.reports_wanted = max(reports, 1)
        if run.reports < run.reports_wanted:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_seconds):
                    await run.event.wait()
        run.event.clear()
        run.reports = 0

    def forget(self, run_id: str) -> None:
        """Drop what is kept for a run that has ended."""
        self._runs.pop(run_id, None)
