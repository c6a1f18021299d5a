"""The inbox: many clients report at once, one transaction counts them all."""

from collections.abc import Sequence
from typing import ClassVar, cast

from kumiai.storage.accepting import accept_evaluations, accept_updates
from kumiai.storage.batching import BatchWriter
from kumiai.storage.database import DatabaseManager
from kumiai.storage.records import AcceptOutcome, AcceptRequest, EvaluationRequest, Metrics

__all__ = ["UpdateInbox"]


class UpdateInbox(BatchWriter[AcceptRequest | EvaluationRequest, AcceptOutcome | bool]):
    """Accepts updates and evaluation reports in batches; any replica has one.

    Args:
        database: connected.
        batch_limit: how many reports one transaction takes at most, >= 1.

    Raises:
        ValueError: ``batch_limit`` is below 1.
    """

    _name: ClassVar = "update-inbox"
    _splits_failures: ClassVar = True

    def __init__(self, database: DatabaseManager, *, batch_limit: int = 500) -> None:
        super().__init__(batch_limit=batch_limit)
        self._database = database

    async def accept(self, request: AcceptRequest) -> AcceptOutcome:
        """Count an update whose blob is durable; return after the commit.

        Raises:
            StorageError: it could not be counted, or the inbox is closed.
            ValueError: a metric is not finite.
        """
        return cast("AcceptOutcome", await self._written(request))

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
        request = EvaluationRequest(run_id, round, client_id, examples, metrics)
        return cast("bool", await self._written(request))

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
