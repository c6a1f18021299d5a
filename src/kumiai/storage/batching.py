"""Many callers write at once, one transaction serves them all.

A commit costs milliseconds whatever it holds, so one writer task takes everything that waits,
commits it together, and then tells each caller. Nothing waits for a batch to fill: while one
batch commits, the next gathers by itself.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from kumiai.core.errors import StorageError

__all__ = ["BatchWriter"]

_Request = TypeVar("_Request")
_Outcome = TypeVar("_Outcome")


@dataclass(slots=True, eq=False)
class _Waiting(Generic[_Request]):
    request: _Request
    outcome: asyncio.Future[Any]

    def tell(self, outcome: Any) -> None:
        """Tell the caller its outcome or its error, unless it has given up."""
        if self.outcome.done():
            return
        if isinstance(outcome, Exception):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)


class BatchWriter(ABC, Generic[_Request, _Outcome]):
    """Commits in batches what its callers ask for; start it before, and close it after.

    Args:
        batch_limit: how many requests one transaction takes at most, >= 1.

    Raises:
        ValueError: ``batch_limit`` is below 1.
    """

    _name: ClassVar[str]
    """Of the writer's task, and in errors."""

    _splits_failures: ClassVar[bool]
    """Whether the requests of a batch that failed are tried again one by one."""

    def __init__(self, *, batch_limit: int) -> None:
        if batch_limit < 1:
            raise ValueError(f"batch_limit must be at least 1, got {batch_limit}")
        self._batch_limit = batch_limit
        # As long as there are callers waiting, whose number is limited where they come from.
        self._waiting: deque[_Waiting[_Request]] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._writer: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the writer; starting twice does nothing."""
        if self._writer is None:
            self._closing = False
            self._writer = asyncio.create_task(self._write_batches(), name=self._name)

    async def close(self) -> None:
        """Take no more, commit what waits, and end; closing twice does nothing."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        self._closing = True
        self._wake.set()
        try:
            # Not awaited itself: how it ended, if before this, is for whoever awaits `ended`.
            await asyncio.wait({writer})
        except asyncio.CancelledError:
            writer.cancel()
            raise

    async def ended(self) -> None:
        """Return once the writer has ended, which it does by itself only by an error.

        Raises:
            BaseException: what ended it; ``CancelledError`` if it was cancelled.
        """
        if (writer := self._writer) is not None:
            await asyncio.wait({writer})
            writer.result()

    @abstractmethod
    async def _commit(self, requests: Sequence[_Request]) -> Sequence[_Outcome]:
        """Commit all of them, or none; return their outcomes in order."""

    async def _written(self, request: _Request) -> _Outcome:
        """Return the request's outcome after its commit."""
        if self._writer is None or self._writer.done():
            raise StorageError(
                f"{self._name} must be open, got a request before start(), after close() or after "
                "its end"
            )
        waiting = _Waiting(request, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._wake.set()
        outcome: _Outcome = await waiting.outcome
        return outcome

    async def _write_batches(self) -> None:
        batch: list[_Waiting[_Request]] = []
        try:
            while self._waiting or not self._closing:
                if not self._waiting:
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                size = min(len(self._waiting), self._batch_limit)
                batch = [self._waiting.popleft() for _ in range(size)]
                await self._settle(batch)
                batch.clear()
        finally:
            # Reached with someone waiting only when the task itself is cancelled.
            for waiting in (*batch, *self._waiting):
                waiting.outcome.cancel()
            self._waiting.clear()

    async def _settle(self, batch: Sequence[_Waiting[_Request]]) -> None:
        # A caller that has given up is not served: it will ask again.
        batch = [waiting for waiting in batch if not waiting.outcome.done()]
        if not batch:
            return
        try:
            outcomes = await self._commit([waiting.request for waiting in batch])
        except Exception as error:  # noqa: BLE001 - the outermost loop: each caller must hear
            if self._splits_failures and len(batch) > 1:
                # One bad request must not cost the others their place.
                for waiting in batch:
                    await self._settle([waiting])
                return
            for waiting in batch:
                waiting.tell(error)
            return
        for waiting, outcome in zip(batch, outcomes, strict=True):
            waiting.tell(outcome)
