"""What any replica may ask about runs; nothing here writes."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Integer,
    Select,
    Table,
    and_,
    bindparam,
    func,
    or_,
    select,
    tuple_,
)

from kumiai.core.errors import ConflictError, NotFoundError
from kumiai.storage.audit_trail import AuditTrail, NoTrail
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


_OF_RUN: BindParameter[Any] = bindparam("run_id")
_OF_ROUND: BindParameter[Any] = bindparam("round")
_OF_CLIENT: BindParameter[Any] = bindparam("client_id")
_ASSIGNMENTS_ROUND = and_(
    _ROUNDS.c.run_id == _ASSIGNMENTS.c.run_id, _ROUNDS.c.round == _ASSIGNMENTS.c.round
)


def _of_round(table: Table, *more: ColumnElement[bool]) -> SingleRead:
    this = (table.c.run_id == _OF_RUN, table.c.round == _OF_ROUND)
    return SingleRead(select(table).where(*this, *more))


def _count(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.count().filter(condition)


_RUN = SingleRead(select(*_RUN_COLUMNS).where(_RUNS.c.run_id == _OF_RUN))
_ALL_ROUNDS = SingleRead(
    select(_ROUNDS).where(_ROUNDS.c.run_id == _OF_RUN).order_by(_ROUNDS.c.round)
)
_ROUND = _of_round(_ROUNDS)
_ALL_ASSIGNMENTS = _of_round(_ASSIGNMENTS)
_ASSIGNMENTS_OF_STATE = _of_round(_ASSIGNMENTS, _ASSIGNMENTS.c.state == bindparam("state"))
_ALL_UPDATES = _of_round(_UPDATES)
_ALL_EVALUATIONS = _of_round(_EVALUATIONS)
_ALL_MODELS = SingleRead(
    select(*_MODEL_COLUMNS).where(_MODELS.c.run_id == _OF_RUN).order_by(_MODELS.c.round)
)
_MODEL = SingleRead(
    select(*_MODEL_COLUMNS).where(_MODELS.c.run_id == _OF_RUN, _MODELS.c.round == _OF_ROUND)
)
_LATEST_MODEL = SingleRead(
    select(*_MODEL_COLUMNS)
    .where(_MODELS.c.run_id == _OF_RUN)
    .order_by(_MODELS.c.round.desc())
    .limit(1)
)
_OPEN_ASSIGNMENTS = SingleRead(
    select(_ASSIGNMENTS)
    .select_from(
        _ASSIGNMENTS.join(_RUNS, _RUNS.c.run_id == _ASSIGNMENTS.c.run_id).join(
            _ROUNDS, _ASSIGNMENTS_ROUND
        )
    )
    .where(
        _ASSIGNMENTS.c.client_id == _OF_CLIENT,
        _ASSIGNMENTS.c.state == "assigned",
        _RUNS.c.state == "running",
        or_(_ROUNDS.c.stage == "collecting", _ASSIGNMENTS.c.kind != "train"),
    )
    .order_by(_ASSIGNMENTS.c.assigned_at, _ASSIGNMENTS.c.round)
)
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
        _ASSIGNMENTS.join(_ROUNDS, _ASSIGNMENTS_ROUND).outerjoin(
            _UPDATES,
            and_(
                _UPDATES.c.run_id == _ASSIGNMENTS.c.run_id,
                _UPDATES.c.round == _ASSIGNMENTS.c.round,
                _UPDATES.c.client_id == _ASSIGNMENTS.c.client_id,
            ),
        )
    )
    .where(
        _ASSIGNMENTS.c.run_id == _OF_RUN,
        _ASSIGNMENTS.c.round == _OF_ROUND,
        _ASSIGNMENTS.c.client_id == _OF_CLIENT,
        _ASSIGNMENTS.c.kind == "train",
    )
)
_ENTITLING_MODEL = SingleRead(
    select(_MODELS.c.round)
    .select_from(_MODELS.join(_ASSIGNMENTS, _ASSIGNMENTS.c.run_id == _MODELS.c.run_id))
    .where(
        _MODELS.c.digest == bindparam("digest"),
        _ASSIGNMENTS.c.client_id == _OF_CLIENT,
        or_(
            and_(_ASSIGNMENTS.c.kind == "train", _ASSIGNMENTS.c.round == _MODELS.c.round + 1),
            and_(_ASSIGNMENTS.c.kind != "train", _ASSIGNMENTS.c.round == _MODELS.c.round),
            _MODELS.c.round == 0,
        ),
    )
    .limit(1)
)
_NEXT_EVENTS = SingleRead(
    select(_EVENTS)
    .where(_EVENTS.c.run_id == _OF_RUN, _EVENTS.c.seq > bindparam("after_seq"))
    .order_by(_EVENTS.c.seq)
    .limit(bindparam("limit", type_=Integer))
)
_TOLD_OF_PROGRESS = (
    _ROUNDS.c.stage,
    _ROUNDS.c.attempt,
    _ROUNDS.c.quorum_at,
    _ROUNDS.c.deadline_at,
    _RUNS.c.stop_requested,
    _RUNS.c.epoch,
)
_PROGRESS = SingleRead(
    select(
        *_TOLD_OF_PROGRESS,
        clock_sql().label("now"),
        *(
            _count(_ASSIGNMENTS.c.state == state).label(state)
            for state in ("assigned", "reported", "failed", "refused", "late")
        ),
    )
    .select_from(
        _ROUNDS.join(_RUNS, _RUNS.c.run_id == _ROUNDS.c.run_id).outerjoin(
            _ASSIGNMENTS, and_(_ASSIGNMENTS_ROUND, _ASSIGNMENTS.c.kind == bindparam("kind"))
        )
    )
    .where(_ROUNDS.c.run_id == _OF_RUN, _ROUNDS.c.round == _OF_ROUND)
    .group_by(*_TOLD_OF_PROGRESS)
)


class RunQueries:
    """Questions about runs; see `kumiai.storage.runs.RunRepository` for the whole."""

    def __init__(self, database: DatabaseManager, *, trail: AuditTrail | None = None) -> None:
        self._database = database
        self._trail = trail or NoTrail()

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
        rows = await self._fetch_once(_ALL_ROUNDS, run_id=run_id)
        return [RoundRecord(**row) for row in rows]

    async def round(self, run_id: str, n: int) -> RoundRecord:
        """Return round ``n``.

        Raises:
            NotFoundError: there is none.
        """
        rows = await self._fetch_once(_ROUND, run_id=run_id, round=n)
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
        this = {"run_id": run_id, "round": round}
        if state is None:
            rows = await self._fetch_once(_ALL_ASSIGNMENTS, **this)
        else:
            rows = await self._fetch_once(_ASSIGNMENTS_OF_STATE, **this, state=state)
        # Sorted here, as all lists of clients are: databases differ in how they order text.
        records = [AssignmentRecord(**row) for row in rows]
        return sorted(records, key=lambda record: (record.client_id, record.kind))

    async def updates(self, run_id: str, round: int) -> list[UpdateRecord]:  # noqa: A002
        """Return the accepted updates of a round, sorted by client."""
        rows = await self._fetch_once(_ALL_UPDATES, run_id=run_id, round=round)
        return sorted((UpdateRecord(**row) for row in rows), key=lambda record: record.client_id)

    async def evaluations(self, run_id: str, round: int) -> list[EvaluationRecord]:  # noqa: A002
        """Return the evaluation reports about the model of ``round``, sorted by client."""
        rows = await self._fetch_once(_ALL_EVALUATIONS, run_id=run_id, round=round)
        records = [EvaluationRecord(**row) for row in rows]
        return sorted(records, key=lambda record: record.client_id)

    async def models(self, run_id: str) -> list[ModelRecord]:
        """Return the run's models in order of their rounds; the first is the initial one."""
        rows = await self._fetch_once(_ALL_MODELS, run_id=run_id)
        return [ModelRecord(**row) for row in rows]

    async def find_model(self, run_id: str, round: int | None) -> ModelRecord | None:  # noqa: A002
        """Return the model that ``round`` published, or with ``None`` the latest, if any."""
        if round is None:
            rows = await self._fetch_once(_LATEST_MODEL, run_id=run_id)
        else:
            rows = await self._fetch_once(_MODEL, run_id=run_id, round=round)
        return ModelRecord(**rows[0]) if rows else None

    async def open_assignments(self, client_id: str) -> list[AssignmentRecord]:
        """Return what this client still owes, over all running runs, the oldest first.

        That is what it must be told again when it attaches: training in a round that still
        collects, training ahead of one, and evaluations.
        """
        rows = await self._fetch_once(_OPEN_ASSIGNMENTS, client_id=client_id)
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

        Training in a round entitles to the model of the round before, evaluating a round and
        training ahead from it to its own, and any assignment of a run to the run's initial model.
        """
        rows = await self._fetch_once(_ENTITLING_MODEL, client_id=client_id, digest=digest)
        return bool(rows)

    async def events(
        self, run_id: str, *, after_seq: int = 0, limit: int = 500
    ) -> list[EventRecord]:
        """Return events of the run in order, from the first with a higher ``seq``."""
        rows = await self._fetch_once(_NEXT_EVENTS, run_id=run_id, after_seq=after_seq, limit=limit)
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
        rows = await self._fetch_once(_PROGRESS, run_id=run_id, round=round, kind=kind)
        if not rows:
            raise NotFoundError(f"round of run {run_id} must exist, got {round}")
        return RoundProgress(**rows[0])

    async def _fetch(self, statement: Select[Any]) -> list[dict[str, Any]]:
        async with self._database.reading() as connection:
            return [parsed(row) for row in await connection.execute(statement)]

    async def _fetch_once(self, read: SingleRead, **values: Any) -> list[dict[str, Any]]:
        rows = await self._database.fetch(read, **values)
        return [parsed_values(read.fields, row) for row in rows]
