"""Background work that must go on: what ends by an error is told of, and started again.

For parts without which a coordinator still keeps every promise to its clients for a while. A part
without which it would only look alive ends the coordinator instead (`server.CoordinatorServer`).
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from kumiai.core.clock import Clock

__all__ = ["SupervisedWork", "SupervisionTimes"]


@dataclass(frozen=True, slots=True)
class SupervisionTimes:
    """How soon work is started again, and how long it must last to count as well."""

    first_pause_seconds: float = 0.5
    longest_pause_seconds: float = 60.0
    proved_seconds: float = 5.0


class SupervisedWork:
    """One loop that is started again whenever it ends, each time after a longer pause."""

    def __init__(
        self,
        name: str,
        work: Callable[[], Awaitable[None]],
        clock: Clock,
        times: SupervisionTimes = SupervisionTimes(),
    ) -> None:
        """Name the work; `start` begins it.

        Args:
            name: in words, for the log and for those who ask whether we are ready.
            work: goes on until it is cancelled.
            clock: tells how long it lasted.
            times: how patient to be.
        """
        self.name = name
        self._work = work
        self._clock = clock
        self._times = times
        self._task: asyncio.Task[None] | None = None
        self._began_at = 0.0
        self._failure_count = 0
        self._is_down = False
        self._log = structlog.get_logger("kumiai.coordinator")

    @property
    def is_well(self) -> bool:
        """Whether it is being done, and not just again after an error."""
        lasted = self._clock.monotonic() - self._began_at
        return not self._is_down and (
            self._failure_count == 0 or lasted >= self._times.proved_seconds
        )

    def start(self) -> None:
        """Begin; it goes on until `stop`."""
        self._task = asyncio.create_task(self._go_on(), name=self.name.replace(" ", "-"))

    async def stop(self) -> None:
        """End the work; safe to repeat."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _go_on(self) -> None:
        while True:
            self._began_at, self._is_down = self._clock.monotonic(), False
            error: Exception | None = None
            try:
                await self._work()
            except Exception as caught:  # noqa: BLE001 - the outermost loop of this work
                error = caught
            pause = self._pause_after_end()
            self._log.error(
                "background work ended, and is started again",
                work=self.name,
                retry_seconds=pause,
                exc_info=error,
            )
            await asyncio.sleep(pause)

    def _pause_after_end(self) -> float:
        if self.is_well:
            self._failure_count = 0
        self._is_down = True
        longest = self._times.longest_pause_seconds
        pause = min(self._times.first_pause_seconds * 2.0**self._failure_count, longest)
        self._failure_count = min(self._failure_count + 1, 30)
        return pause
