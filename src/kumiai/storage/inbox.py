"""The inbox: many clients report at once, one transaction counts them all."""

from collections.abc import Sequence
from typing import ClassVar, cast

from kumiai.storage.accepting import accept_evaluations, accept_updates
from kumiai.storage.batching import BatchWriter
from kumiai.storage.database import DatabaseManager
from kumiai.storage.records import AcceptOutcome, AcceptRequest, EvaluationRequest, Metrics
from kumiai.storage.secure_rounds import SecureOutcome, SecureRequest, accept_messages

__all__ = ["UpdateInbox"]


_Request = AcceptRequest | EvaluationRequest | SecureRequest
_Outcome = AcceptOutcome | bool | SecureOutcome


class UpdateInbox(BatchWriter[_Request, _Outcome]):
    """Accepts updates, evaluation reports and messages in batches; any replica has one.

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

    async def accept_message(self, request: SecureRequest) -> SecureOutcome:
        """Keep a message of secure aggregation; return after the commit what became of it.

        Raises:
            StorageError: it could not be kept, or the inbox is closed.
        """
        return cast("SecureOutcome", await self._written(request))

    async def _commit(self, requests: Sequence[_Request]) -> list[_Outcome]:
        updates = [request for request in requests if isinstance(request, AcceptRequest)]
        reports = [request for request in requests if isinstance(request, EvaluationRequest)]
        messages = [request for request in requests if isinstance(request, SecureRequest)]
        async with self._database.transaction("inbox") as connection:
            accepted = iter(await accept_updates(connection, updates))
            reported = iter(await accept_evaluations(connection, reports))
            kept = iter(await accept_messages(connection, messages))
        outcomes: list[_Outcome] = []
        for request in requests:
            match request:
                case AcceptRequest():
                    outcomes.append(next(accepted))
                case EvaluationRequest():
                    outcomes.append(next(reported))
                case SecureRequest():
                    outcomes.append(next(kept))
        return outcomes
