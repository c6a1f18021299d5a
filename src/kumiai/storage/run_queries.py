"""What any replica may ask about runs; nothing here writes."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, bindparam, func, or_, select, tuple_

from kumiai.core.errors import ConflictError, NotFoundError
from kumiai.storage.database import DatabaseManager
from kumiai.storage.records import (
    AssignmentKind,
    AssignmentRecord,
    AssignmentState,
    EvaluationRecord,
    EventRecord,
    ModelRecord,
    RoundProgress,
    RoundRecord,
    RunRecord,
    TrainTask,
    UpdateRecord,
)
from kumiai.storage.rows import columns_of, parsed, parsed_values, table_of
from kumiai.storage.single_statements import SingleRead
from kumiai.storage.tables import (
    AcceptedUpdate,
    Assignment,
    EvaluationReport,
    Event,
    FLModel,
    Round,
    TrainingSession,
    clock_sql,
)

__all__ = ["RunQueries"]

_RUNS = table_of(TrainingSession)
_ROUNDS = table_of(Round)
_ASSIGNMENTS = table_of(Assignment)
_UPDATES = table_of(AcceptedUpdate)
_EVALUATIONS = table_of(EvaluationReport)
_MODELS = table_of(FLModel)
_EVENTS = table_of(Event)
_RUN_COLUMNS = columns_of(TrainingSession)
_MODEL_COLUMNS = columns_of(FLModel)


_RUN = SingleRead(select(*_RUN_COLUMNS).where(_RUNS.c.run_id == bindparam("run_id")))
_TRAIN_TASK = SingleRead(
    select(
        _ASSIGNMENTS.c.run_id,
        _ASSIGNMENTS.c.round,
        _ASSIGNMENTS.c.client_id,
        _ASSIGNMENTS.c.state,
        _ASSIGNMENTS.c.reason,
        _ASSIGNMENTS.c.attempt,
        _ROUNDS.c.stage,
        _UPDATES.c.digest.label("accepted_digest"),
    )
    .select_from(
        _ASSIGNMENTS.join(
            _ROUNDS,
            and_(
                _ROUNDS.c.run_id == _ASSIGNMENTS.c.run_id,
                _ROUNDS.c.round == _ASSIGNMENTS.c.round,
            ),
        ).outerjoin(
            _UPDATES,
            and_(
                _UPDATES.c.run_id == _ASSIGNMENTS.c.run_id,
                _UPDATES.c.round == _ASSIGNMENTS.c.round,
                _UPDATES.c.client_id == _ASSIGNMENTS.c.client_id,
            ),
        )
    )
    .where(
        _ASSIGNMENTS.c.run_id == bindparam("run_id"),
        _ASSIGNMENTS.c.round == bindparam("round"),
        _ASSIGNMENTS.c.client_id == bindparam("client_id"),
        _ASSIGNMENTS.c.kind == "train",
    )
)


class RunQueries:
    """Questions about runs; see `kumiai.storage.runs.RunRepository` for the whole."""

    def __init__(self, database: DatabaseManager) -> None:
        self._database = database

    async def get(self, run_id: str) -> RunRecord:
        """Return the run of this identifier, or the only one that begins with it.

        Raises:
            NotFoundError: there is none.
            ConflictError: several begin with it.
        """
        return await self.find(run_id) or await self.resolve(run_id)

    async def find(self, run_id: str) -> RunRecord | None:
        """Return the run of exactly this identifier, if there is one."""
        rows = await self._fetch_once(_RUN, run_id=run_id)
        return RunRecord(**rows[0]) if rows else None

    async def resolve(self, prefix: str) -> RunRecord:
        """Return the only run whose identifier begins with ``prefix``.

        Raises:
            NotFoundError: there is none.
            ConflictError: there are several.
        """
        rows = await self._fetch(
            select(*_RUN_COLUMNS)
            .where(_RUNS.c.run_id.startswith(prefix, autoescape=True))
            .order_by(_RUNS.c.run_id)
            .limit(3)
        )
        if not rows or not prefix:
            raise NotFoundError(f"run must exist, got {prefix!r}")
        if len(rows) > 1:
            found = ", ".join(row["run_id"] for row in rows)
            raise ConflictError(f"run must be named by one prefix, got {prefix!r} for {found}")
        return RunRecord(**rows[0])

    async def list_runs(
        self,
        *,
        states: Collection[str] | None = None,
        limit: int = 50,
        before: tuple[float, str] | None = None,
    ) -> list[RunRecord]:
        """Return runs, the newest first.

        Args:
            states: only runs in one of these states.
            limit: how many at most.
            before: ``(created_at, run_id)`` of the last run of the page before.
        """
        statement = (
            select(*_RUN_COLUMNS)
            .order_by(_RUNS.c.created_at.desc(), _RUNS.c.run_id.desc())
            .limit(limit)
        )
        if states is not None:
            statement = statement.where(_RUNS.c.state.in_(sorted(states)))
        if before is not None:
            statement = statement.where(tuple_(_RUNS.c.created_at, _RUNS.c.run_id) < before)
        return [RunRecord(**row) for row in await self._fetch(statement)]

    async def rounds(self, run_id: str) -> list[RoundRecord]:
        """Return all rounds in order; the first is round 0, the initial model."""
        statement = select(_ROUNDS).where(_ROUNDS.c.run_id == run_id).order_by(_ROUNDS.c.round)
        return [RoundRecord(**row) for row in await self._fetch(statement)]

    async def round(self, run_id: str, n: int) -> RoundRecord:
        """Return round ``n``.

        Raises:
            NotFoundError: there is none.
        """
        rows = await self._fetch(
            select(_ROUNDS).where(_ROUNDS.c.run_id == run_id, _ROUNDS.c.round == n)
        )
        if not rows:
            raise NotFoundError(f"round of run {run_id} must exist, got {n}")
        return RoundRecord(**rows[0])

    async def assignments(
        self,
        run_id: str,
        round: int,  # noqa: A002
        *,
        state: AssignmentState | None = None,
    ) -> list[AssignmentRecord]:
        """Return a round's assignments (of one state), both kinds, sorted by client and kind."""
        statement = select(_ASSIGNMENTS).where(
            _ASSIGNMENTS.c.run_id == run_id, _ASSIGNMENTS.c.round == round
        )
        if state is not None:
            statement = statement.where(_ASSIGNMENTS.c.state == state)
        rows = await self._fetch(statement)
        # Sorted here, as all lists of clients are: databases differ in how they order text.
        records = [AssignmentRecord(**row) for row in rows]
        return sorted(records, key=lambda record: (record.client_id, record.kind))

    async def updates(self, run_id: str, round: int) -> list[UpdateRecord]:  # noqa: A002
        """Return the accepted updates of a round, sorted by client."""
        rows = await self._fetch(
            select(_UPDATES).where(_UPDATES.c.run_id == run_id, _UPDATES.c.round == round)
        )
        return sorted((UpdateRecord(**row) for row in rows), key=lambda record: record.client_id)

    async def evaluations(self, run_id: str, round: int) -> list[EvaluationRecord]:  # noqa: A002
        """Return the evaluation reports about the model of ``round``, sorted by client."""
        rows = await self._fetch(
            select(_EVALUATIONS).where(
                _EVALUATIONS.c.run_id == run_id, _EVALUATIONS.c.round == round
            )
        )
        records = [EvaluationRecord(**row) for row in rows]
        return sorted(records, key=lambda record: record.client_id)

    async def models(self, run_id: str) -> list[ModelRecord]:
        """Return the run's models in order of their rounds; the first is the initial one."""
        statement = (
            select(*_MODEL_COLUMNS).where(_MODELS.c.run_id == run_id).order_by(_MODELS.c.round)
        )
        return [ModelRecord(**row) for row in await self._fetch(statement)]

    async def find_model(self, run_id: str, round: int | None) -> ModelRecord | None:  # noqa: A002
        """Return the model that ``round`` published, or with ``None`` the latest, if any."""
        statement = (
            select(*_MODEL_COLUMNS)
            .where(_MODELS.c.run_id == run_id)
            .order_by(_MODELS.c.round.desc())
            .limit(1)
        )
        if round is not None:
            statement = statement.where(_MODELS.c.round == round)
        rows = await self._fetch(statement)
        return ModelRecord(**rows[0]) if rows else None

    async def open_assignments(self, client_id: str) -> list[AssignmentRecord]:
        """Return what this client still owes, over all running runs, the oldest first.

        That is what it must be told again when it attaches: training in a round that still
        collects, and evaluations.
        """
        joined = _ASSIGNMENTS.join(_RUNS, _RUNS.c.run_id == _ASSIGNMENTS.c.run_id).join(
            _ROUNDS,
            and_(
                _ROUNDS.c.run_id == _ASSIGNMENTS.c.run_id,
                _ROUNDS.c.round == _ASSIGNMENTS.c.round,
            ),
        )
        rows = await self._fetch(
            select(_ASSIGNMENTS)
            .select_from(joined)
            .where(
                _ASSIGNMENTS.c.client_id == client_id,
                _ASSIGNMENTS.c.state == "assigned",
                _RUNS.c.state == "running",
                or_(_ROUNDS.c.stage == "collecting", _ASSIGNMENTS.c.kind == "evaluate"),
            )
            .order_by(_ASSIGNMENTS.c.assigned_at, _ASSIGNMENTS.c.round)
        )
        return [AssignmentRecord(**row) for row in rows]

    async def find_train_task(
        self,
        run_id: str,
        round: int,  # noqa: A002
        client_id: str,
    ) -> TrainTask | None:
        """Return how a client's training in a round stands, or ``None`` if it was not asked."""
        rows = await self._fetch_once(_TRAIN_TASK, run_id=run_id, round=round, client_id=client_id)
        return TrainTask(**rows[0]) if rows else None

    async def may_read_model(self, client_id: str, digest: str) -> bool:
        """Tell whether an assignment of this client entitles it to the model ``digest``.

        Training in a round entitles to the model of the round before, evaluating a round to its
        own, and any assignment of a run to the run's initial model.
        """
        entitled = or_(
            and_(_ASSIGNMENTS.c.kind == "train", _ASSIGNMENTS.c.round == _MODELS.c.round + 1),
            and_(_ASSIGNMENTS.c.kind == "evaluate", _ASSIGNMENTS.c.round == _MODELS.c.round),
            _MODELS.c.round == 0,
        )
        joined = _MODELS.join(_ASSIGNMENTS, _ASSIGNMENTS.c.run_id == _MODELS.c.run_id)
        statement = (
            select(_MODELS.c.round)
            .select_from(joined)
            .where(
                _MODELS.c.digest == digest,
                _ASSIGNMENTS.c.client_id == client_id,
                entitled,
            )
            .limit(1)
        )
        return bool(await self._fetch(statement))

    async def events(
        self, run_id: str, *, after_seq: int = 0, limit: int = 500
    ) -> list[EventRecord]:
        """Return events of the run in order, from the first with a higher ``seq``."""
        rows = await self._fetch(
            select(_EVENTS)
            .where(_EVENTS.c.run_id == run_id, _EVENTS.c.seq > after_seq)
            .order_by(_EVENTS.c.seq)
            .limit(limit)
        )
        return [EventRecord(**row) for row in rows]

    async def progress(
        self,
        run_id: str,
        round: int,  # noqa: A002
        kind: AssignmentKind = "train",
    ) -> RoundProgress:
        """Count a round's assignments of one kind, with all that decides what comes next.

        Raises:
            NotFoundError: there is no such round.
        """
        of_this_round = and_(
            _ASSIGNMENTS.c.run_id == _ROUNDS.c.run_id,
            _ASSIGNMENTS.c.round == _ROUNDS.c.round,
            _ASSIGNMENTS.c.kind == kind,
        )
        told = (
            _ROUNDS.c.stage,
            _ROUNDS.c.attempt,
            _ROUNDS.c.quorum_at,
            _ROUNDS.c.deadline_at,
            _RUNS.c.stop_requested,
            _RUNS.c.epoch,
        )
        states = ("assigned", "reported", "failed", "refused", "late")
        rows = await self._fetch(
            select(
                *told,
                clock_sql().label("now"),
                *(_count(_ASSIGNMENTS.c.state == state).label(state) for state in states),
            )
            .select_from(
                _ROUNDS.join(_RUNS, _RUNS.c.run_id == _ROUNDS.c.run_id).outerjoin(
                    _ASSIGNMENTS, of_this_round
                )
            )
            .where(_ROUNDS.c.run_id == run_id, _ROUNDS.c.round == round)
            .group_by(*told)
        )
        if not rows:
            raise NotFoundError(f"round of run {run_id} must exist, got {round}")
        return RoundProgress(**rows[0])

    async def _fetch(self, statement: Select[Any]) -> list[dict[str, Any]]:
        async with self._database.reading() as connection:
            return [parsed(row) for row in await connection.execute(statement)]

    async def _fetch_once(self, read: SingleRead, **values: Any) -> list[dict[str, Any]]:
        rows = await self._database.fetch(read, **values)
        return [parsed_values(read.fields, row) for row in rows]


def _count(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.count().filter(condition)
