"""The inbox: many clients report at once, one transaction counts them all.

A commit costs milliseconds whatever it holds, so one writer task takes everything that waits,
commits it together, and then tells each caller. Nothing waits for a batch to fill: while one
batch commits, the next gathers by itself.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kumiai.core.errors import StorageError
from kumiai.storage.accepting import accept_evaluations, accept_updates
from kumiai.storage.database import DatabaseManager
from kumiai.storage.records import AcceptOutcome, AcceptRequest, EvaluationRequest, Metrics

__all__ = ["UpdateInbox"]


@dataclass(slots=True, eq=False)
class _Waiting:
    request: AcceptRequest | EvaluationRequest
    outcome: asyncio.Future[Any]
    """An `AcceptOutcome` for an update, a bool for an evaluation."""

    def tell(self, outcome: Any) -> None:
        """Tell the caller its outcome or its error, unless it has given up."""
        if self.outcome.done():
            return
        if isinstance(outcome, Exception):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)


class UpdateInbox:
    """Accepts updates and evaluation reports in batches; any replica has one.

    Args:
        database: connected.
        batch_limit: how many reports one transaction takes at most, >= 1.

    Raises:
        ValueError: ``batch_limit`` is below 1.
    """

    def __init__(self, database: DatabaseManager, *, batch_limit: int = 500) -> None:
        if batch_limit < 1:
            raise ValueError(f"batch_limit must be at least 1, got {batch_limit}")
        self._database = database
        self._batch_limit = batch_limit
        # As long as there are callers waiting, whose number the wire limits.
        self._waiting: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._writer: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the writer; starting twice does nothing."""
        if self._writer is None:
            self._closing = False
            self._writer = asyncio.create_task(self._write_batches(), name="update-inbox")

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

    async def accept(self, request: AcceptRequest) -> AcceptOutcome:
        """Count an update whose blob is durable; return after the commit.

        Raises:
            StorageError: it could not be counted, or the inbox is closed.
            ValueError: a metric is not finite.
        """
        outcome: AcceptOutcome = await self._wait_for(request)
        return outcome

    async def accept_evaluation(
        self,
        run_id: str,
        round: int,  # noqa: A002 - the glossary's word
        client_id: str,
        examples: int,
        metrics: Metrics,
    ) -> bool:
        """Count an evaluation report; return after the commit whether one stands.

        Raises:
            StorageError: it could not be counted, or the inbox is closed.
            ValueError: a metric is not finite.
        """
        stands: bool = await self._wait_for(
            EvaluationRequest(run_id, round, client_id, examples, metrics)
        )
        return stands

    async def _wait_for(self, request: AcceptRequest | EvaluationRequest) -> Any:
        if self._writer is None or self._writer.done():
            raise StorageError(
                "inbox must be open, got a report before start(), after close() or after its end"
            )
        waiting = _Waiting(request, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._wake.set()
        return await waiting.outcome

    async def _write_batches(self) -> None:
        try:
            while self._waiting or not self._closing:
                if not self._waiting:
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                size = min(len(self._waiting), self._batch_limit)
                await self._settle([self._waiting.popleft() for _ in range(size)])
        finally:
            # Reached with someone waiting only when the task itself is cancelled.
            for waiting in self._waiting:
                waiting.outcome.cancel()
            self._waiting.clear()

    async def _settle(self, batch: list[_Waiting]) -> None:
        # A caller that has given up is not counted: it will ask again.
        batch = [waiting for waiting in batch if not waiting.outcome.done()]
        if not batch:
            return
        try:
            outcomes = await self._commit([waiting.request for waiting in batch])
        except Exception as error:  # noqa: BLE001 - the outermost loop: each caller must hear
            if len(batch) > 1:
                # One bad request must not cost the others their place in the round.
                for waiting in batch:
                    await self._settle([waiting])
                return
            batch[0].tell(error)
            return
        except BaseException:
            for waiting in batch:
                waiting.outcome.cancel()
            raise
        for waiting, outcome in zip(batch, outcomes, strict=True):
            waiting.tell(outcome)

    async def _commit(
        self, requests: Sequence[AcceptRequest | EvaluationRequest]
    ) -> list[AcceptOutcome | bool]:
        updates = [request for request in requests if isinstance(request, AcceptRequest)]
        reports = [request for request in requests if isinstance(request, EvaluationRequest)]
        async with self._database.transaction("inbox") as connection:
            accepted = iter(await accept_updates(connection, updates))
            reported = iter(await accept_evaluations(connection, reports))
        return [
            next(accepted) if isinstance(request, AcceptRequest) else next(reported)
            for request in requests
        ]
