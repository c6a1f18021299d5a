"""Many ask for the same: one call in this process, and all get its result.

Who comes while a call is under way does not join it, but the next one, which begins when this one
has ended. So nobody is given the result of a call that began before he asked: what he must not
see because it was invalidated before, he does not see. With a cache below, the next call is a
look into it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from kumiai.core.errors import StorageError

__all__ = ["SingleFlight", "finished"]


@dataclass(slots=True, eq=False)
class _Flight:
    task: asyncio.Task[Any] | None = None
    waiters: int = 0


@dataclass(slots=True, eq=False)
class _Lane:
    """The calls for one key."""

    running: _Flight | None = None
    pending: _Flight | None = None
    flights: set[_Flight] = field(default_factory=set)


class SingleFlight:
    """One call per key at a time, shared by those who asked before it began.

    It belongs to one event loop. When all who wait for a call have given up, it is cancelled.

    Args:
        patience_seconds: how long a call waits for the one before it; then it begins beside it.
    """

    def __init__(self, *, patience_seconds: float) -> None:
        self._patience_seconds = patience_seconds
        self._lanes: dict[str, _Lane] = {}
        self._is_closed = False

    def __contains__(self, key: str) -> bool:
        """Return whether a call for the key is under way."""
        return key in self._lanes

    async def run(self, key: str, call: Callable[[], Awaitable[Any]]) -> tuple[Any, bool]:
        """Return the result of a call that begins after this moment, and whether it is ours.

        Args:
            key: equal for equal calls.
            call: what to do if nobody else who asks for the same is going to.

        Raises:
            BaseException: what the call raised; each who waits for it gets it.
            StorageError: it is closed.
        """
        if self._is_closed:
            raise StorageError("cache must be open, got a call after close()")
        lane = self._lanes.setdefault(key, _Lane())
        flight = lane.pending
        is_ours = flight is None
        if flight is None:
            flight = _Flight()
            lane.flights.add(flight)
            before, lane.pending = lane.running, flight
            flight.task = asyncio.create_task(self._fly(lane, flight, before, call))
            flight.task.add_done_callback(lambda _: self._land(key, lane, flight))
        return await self._wait(lane, flight), is_ours

    async def close(self) -> None:
        """End every call, and take no more."""
        self._is_closed = True
        tasks = {
            flight.task
            for lane in self._lanes.values()
            for flight in lane.flights
            if flight.task is not None
        }
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _fly(
        self,
        lane: _Lane,
        flight: _Flight,
        before: _Flight | None,
        call: Callable[[], Awaitable[Any]],
    ) -> Any:
        if before is not None and before.task is not None:
            await asyncio.wait({before.task}, timeout=self._patience_seconds)
        if lane.pending is flight:
            lane.pending = None
        lane.running = flight
        return await call()

    async def _wait(self, lane: _Lane, flight: _Flight) -> Any:
        task = flight.task
        if task is None:  # pragma: no cover - it is set before anybody can wait
            raise RuntimeError("flight must have a task, got none")
        flight.waiters += 1
        try:
            return await asyncio.shield(task)
        finally:
            flight.waiters -= 1
            if not flight.waiters and not task.done():
                # Nobody may join what is going to be cancelled.
                if lane.pending is flight:
                    lane.pending = None
                task.cancel()

    def _land(self, key: str, lane: _Lane, flight: _Flight) -> None:
        if flight.task is not None and not flight.task.cancelled():
            flight.task.exception()  # looked at: those who wait are told, if there are any
        lane.flights.discard(flight)
        if lane.running is flight:
            lane.running = None
        if not lane.flights and self._lanes.get(key) is lane:
            del self._lanes[key]


async def finished(what: Awaitable[Any]) -> Any:
    """Wait for something that must not stop half-way, and only then let a cancellation through."""
    task = asyncio.ensure_future(what)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # looked at: the cancellation is what the caller hears
        raise
