"""One run of some work for all who ask before it begins.

Not a single flight of the cache: whoever asks while the work runs waits for the *next* run, so
that what it learns is never older than its question.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from kumiai.core.errors import UnavailableError

__all__ = ["Coalesced"]

_Result = TypeVar("_Result")


class Coalesced(Generic[_Result]):
    """Shares runs of some work.

    Args:
        work: what to do.
    """

    def __init__(self, work: Callable[[], Awaitable[_Result]]) -> None:
        self._work = work
        self._running: asyncio.Task[_Result] | None = None
        self._next: asyncio.Task[_Result] | None = None

    async def join(self) -> _Result:
        """Return what a run gives that begins after this call.

        Raises:
            UnavailableError: it was closed meanwhile.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._run(self._running))
            # If all who wait are cancelled, nobody asks how it ended.
            self._next.add_done_callback(lambda task: task.cancelled() or task.exception())
        run = self._next
        try:
            return await asyncio.shield(run)
        except asyncio.CancelledError:
            me = asyncio.current_task()
            if run.cancelled() and me is not None and not me.cancelling():
                raise UnavailableError("store must be open, got closed meanwhile") from None
            raise

    def is_pending(self) -> bool:
        """Return whether a run has been asked for that has not begun, or is under way."""
        return self._next is not None or (self._running is not None and not self._running.done())

    async def close(self) -> None:
        """Cancel what runs."""
        tasks = {task for task in (self._running, self._next) if task is not None}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self, before: "asyncio.Task[_Result] | None") -> _Result:
        if before is not None and not before.done():
            await asyncio.wait({before})
        self._running, self._next = self._next, None
        return await self._work()
