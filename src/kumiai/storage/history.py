"""What has been trained: sessions found and described, their rounds, their metrics over time.

A session is a run; it begins with `kumiai.storage.runs.RunRepository.create`, and only its leader
moves it. Here it is looked at, described, and deleted once it has ended.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Select, delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.core.errors import ConflictError, NotFoundError
from kumiai.core.ids import verify_name
from kumiai.storage.audit_trail import AuditTrail, NoTrail
from kumiai.storage.bulk import insert_rows
from kumiai.storage.change_notes import ChangeNotes, NoNotes, subject_of_run
from kumiai.storage.database import DatabaseManager
from kumiai.storage.described import DescribedQuery
from kumiai.storage.descriptions import Changes, change_row
from kumiai.storage.filters import metric_value, metrics_text
from kumiai.storage.namespaces import run_namespaces
from kumiai.storage.paging import Order, Page, bytewise, fetch_page, name_of_list
from kumiai.storage.records import (
    DeletedRun,
    EvaluationRecord,
    MetricPoint,
    RoundRecord,
    RunRecord,
    RunState,
)
from kumiai.storage.rows import add_event_row, clean, columns_of, parsed, table_of
from kumiai.storage.search import Searchable
from kumiai.storage.tables import EvaluationReport, Round, TrainingSession

__all__ = ["MetricSource", "SessionOrder", "SessionQuery", "TrainingHistoryRepository"]

SessionOrder = Literal["newest", "oldest", "name"]
MetricSource = Literal["training", "evaluation"]

_RUNS = table_of(TrainingSession)
_ROUNDS = table_of(Round)
_EVALUATIONS = table_of(EvaluationReport)
_COLUMNS = columns_of(TrainingSession)
_SEARCHABLE = Searchable(_RUNS, _RUNS.c.run_id)
_LIVE: Final = ("submitted", "running")
_EVALUATION_COLUMNS: Final = (
    "run_id", "round", "client_id", "examples", "metrics_json", "reported_at",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionQuery(DescribedQuery):
    """Which sessions, and in which order; a filter that is left out lets everything through.

    Attributes:
        states: in one of these; an empty collection lets nothing through.
        app: of this study.
    """

    states: Collection[RunState] | None = None
    app: str | None = None
    order: SessionOrder = "newest"


@dataclass(frozen=True, slots=True)
class _OfRun:
    run_id: str
    client_id: str | None = None
    round: int | None = None


class TrainingHistoryRepository:
    """The story of all training sessions.

    Args:
        database: connected, its schema at this version.
        notes: hears of what is changed.
        trail: takes the entries of the audit log that some calls are given.

    Every method raises ``StorageError`` when the database fails.
    """

    def __init__(
        self,
        database: DatabaseManager,
        *,
        notes: ChangeNotes | None = None,
        trail: AuditTrail | None = None,
    ) -> None:
        self._database = database
        self._notes = notes or NoNotes()
        self._trail = trail or NoTrail()

    async def get(self, run_id: str) -> RunRecord:
        """Return the session of exactly this identifier.

        Raises:
            NotFoundError: there is none.
        """
        async with self._database.reading() as connection:
            statement = select(*_COLUMNS).where(_RUNS.c.run_id == clean(run_id))
            row = (await connection.execute(statement)).one_or_none()
        if row is None:
            raise _missing(run_id)
        return RunRecord(**parsed(row))

    async def list_sessions(
        self, query: SessionQuery | None = None, *, limit: int = 50, cursor: str | None = None
    ) -> Page[RunRecord]:
        """Return one page of the sessions that the query lets through.

        Args:
            query: ``None`` for all, the newest first.
            limit: how many at most, 1 to 1000.
            cursor: ``next_cursor`` of the page before.

        Raises:
            ConfigError: the query or the cursor makes no sense.
        """
        query = query or SessionQuery()
        async with self._database.reading() as connection:
            return await fetch_page(
                connection,
                _filtered(connection, select(*_COLUMNS), query),
                RunRecord,
                order=_order(connection, query.order),
                limit=limit,
                cursor=cursor,
                list_name=name_of_list("sessions", query),
            )

    async def count_by_state(self) -> dict[str, int]:
        """Return how many sessions are in each state that some session is in."""
        async with self._database.reading() as connection:
            counted = select(_RUNS.c.state, func.count()).group_by(_RUNS.c.state)
            return {row.state: row[1] for row in await connection.execute(counted)}

    async def update(
        self,
        run_id: str,
        changes: Changes,
        *,
        expected_version: int | None = None,
        by: str | None = None,
        entry: Any = None,
    ) -> RunRecord:
        """Change what people wrote about a session, whatever its state.

        Args:
            run_id: exactly.
            changes: of description and tags.
            expected_version: the ``row_version`` that the caller has read; ``None`` for any.
            by: who does so, for the session's events; ``None`` writes none.
            entry: of the audit log, written with it; ``None``: none is kept.

        Raises:
            NotFoundError: there is no such session.
            ConflictError: it is not of the expected version.
            ConfigError: the description is too long, or a tag is none.
        """
        run_id = clean(run_id)
        async with self._database.transaction("update_run") as connection:
            row, changed = await change_row(
                connection,
                _RUNS,
                (_RUNS.c.run_id, run_id),
                changes,
                returning=_COLUMNS,
                name_columns=("name",),
                expected_version=expected_version,
            )
            if changed and by is not None:
                text = f"described by {by}"
                await add_event_row(connection, run_id, kind="run_described", text=text)
            note = await self._notes.note(connection, subject_of_run(run_id))
            if changed and entry is not None:
                await self._trail.append(connection, entry)
        await self._notes.heard(note)
        return RunRecord(**parsed(row))

    async def delete(self, run_id: str, *, entry: Any = None) -> DeletedRun:
        """Delete a session that has ended, with its rounds, models, reports and events.

        Its blobs stay where they are; the answer says where, for whoever collects them.

        Args:
            run_id: exactly.
            entry: of the audit log, written with it; ``None``: none is kept.

        Raises:
            NotFoundError: there is no such session.
            ConflictError: it has not ended.
        """
        run_id = clean(run_id)
        async with self._database.transaction("delete_run") as connection:
            of_this = _RUNS.c.run_id == run_id
            locked = select(_RUNS.c.state).where(of_this).with_for_update()
            state = await connection.scalar(locked)
            if state is None:
                raise _missing(run_id)
            if state in _LIVE:
                raise ConflictError(
                    f"run {run_id} must have ended before it is deleted, got {state}; stop it first"
                )
            await connection.execute(delete(_RUNS).where(of_this))
            note = await self._notes.note(connection, subject_of_run(run_id))
            if entry is not None:
                await self._trail.append(connection, entry)
        await self._notes.heard(note)
        return DeletedRun(run_id, run_namespaces(run_id))

    async def list_rounds(
        self, run_id: str, *, limit: int = 50, cursor: str | None = None
    ) -> Page[RoundRecord]:
        """Return one page of a session's rounds, in order; round 0 is the initial model.

        Raises:
            ConfigError: the cursor makes no sense.
        """
        async with self._database.reading() as connection:
            return await fetch_page(
                connection,
                select(_ROUNDS).where(_ROUNDS.c.run_id == clean(run_id)),
                RoundRecord,
                order=Order(_ROUNDS.c.round, _ROUNDS.c.run_id, int),
                limit=limit,
                cursor=cursor,
                list_name=name_of_list("rounds", _OfRun(run_id)),
            )

    async def list_evaluations(
        self,
        run_id: str,
        *,
        client_id: str | None = None,
        round: int | None = None,  # noqa: A002 - the glossary's word
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[EvaluationRecord]:
        """Return one page of what clients (one client) found for models (of one round).

        Raises:
            ConfigError: the cursor makes no sense.
        """
        statement = select(_EVALUATIONS).where(_EVALUATIONS.c.run_id == clean(run_id))
        if client_id is not None:
            statement = statement.where(_EVALUATIONS.c.client_id == clean(client_id))
        if round is not None:
            statement = statement.where(_EVALUATIONS.c.round == round)
        async with self._database.reading() as connection:
            return await fetch_page(
                connection,
                statement,
                EvaluationRecord,
                order=Order(
                    _EVALUATIONS.c.round, bytewise(connection, _EVALUATIONS.c.client_id), int
                ),
                limit=limit,
                cursor=cursor,
                list_name=name_of_list("evaluations", _OfRun(run_id, client_id, round)),
            )

    async def add_evaluations(self, records: Iterable[EvaluationRecord]) -> int:
        """Enter many reports from elsewhere in one transaction: all of them, or none.

        Reports of live clients come by `kumiai.storage.inbox.UpdateInbox`.

        Returns:
            How many there were.

        Raises:
            NotFoundError: one belongs to a run that does not exist.
            ConflictError: one stands already, or twice among them.
        """
        rows = (
            (
                record.run_id,
                record.round,
                record.client_id,
                record.examples,
                metrics_text(record.metrics),
                record.reported_at,
            )
            for record in records
        )
        async with self._database.transaction("add_evaluations") as connection:
            return await insert_rows(connection, _EVALUATIONS, _EVALUATION_COLUMNS, rows)

    async def metric_names(self, run_id: str, source: MetricSource = "evaluation") -> list[str]:
        """Return the metrics that the session's rounds have, sorted."""
        column = _metrics_of(source)
        statement = select(column).where(_ROUNDS.c.run_id == clean(run_id), column.is_not(None))
        async with self._database.reading() as connection:
            rows = [parsed(row) for row in await connection.execute(statement)]
        return sorted({name for row in rows for values in row.values() for name in values})

    async def metric_series(
        self, run_id: str, metric: str, source: MetricSource = "evaluation"
    ) -> list[MetricPoint]:
        """Return one metric of a session over its published rounds, in order.

        Args:
            run_id: exactly.
            metric: its name; rounds without it are left out.
            source: ``evaluation`` for what clients found for the round's model, ``training`` for
                the weighted means of the updates.
        """
        async with self._database.reading() as connection:
            value = metric_value(connection, _metrics_of(source), metric)
            return await _points(
                connection,
                select(_ROUNDS.c.round, value.label("value"), _ROUNDS.c.published_at.label("at"))
                .where(_ROUNDS.c.run_id == clean(run_id), _ROUNDS.c.stage == "published")
                .where(value.is_not(None))
                .order_by(_ROUNDS.c.round),
            )

    async def client_series(self, run_id: str, client_id: str, metric: str) -> list[MetricPoint]:
        """Return what one client found over the rounds; ``at`` is when it reported."""
        async with self._database.reading() as connection:
            value = metric_value(connection, _EVALUATIONS.c.metrics_json, metric)
            return await _points(
                connection,
                select(
                    _EVALUATIONS.c.round,
                    value.label("value"),
                    _EVALUATIONS.c.reported_at.label("at"),
                )
                .where(
                    _EVALUATIONS.c.run_id == clean(run_id),
                    _EVALUATIONS.c.client_id == clean(client_id),
                    value.is_not(None),
                )
                .order_by(_EVALUATIONS.c.round),
            )


def _order(connection: AsyncConnection, order: SessionOrder) -> Order:
    if order == "name":
        return Order(bytewise(connection, _RUNS.c.name), _RUNS.c.run_id, str)
    return Order(_RUNS.c.created_at, _RUNS.c.run_id, float, order == "newest")


def _filtered(
    connection: AsyncConnection, statement: Select[Any], query: SessionQuery
) -> Select[Any]:
    conditions = query.conditions(connection, _SEARCHABLE)
    if query.states is not None:
        conditions.append(_RUNS.c.state.in_(sorted(query.states)))
    if query.app is not None:
        conditions.append(_RUNS.c.app == verify_name("app", query.app))
    if query.metric is not None:
        reached = query.metric.holds(connection, _ROUNDS.c.evaluation_json)
        of_run = select(_ROUNDS.c.round).where(_ROUNDS.c.run_id == _RUNS.c.run_id, reached)
        conditions.append(of_run.exists())
    return statement.where(*conditions)


def _metrics_of(source: MetricSource) -> ColumnElement[Any]:
    return _ROUNDS.c.evaluation_json if source == "evaluation" else _ROUNDS.c.metrics_json


async def _points(connection: AsyncConnection, statement: Select[Any]) -> list[MetricPoint]:
    return [
        MetricPoint(round=number, value=float(value), at=at)
        for number, value, at in await connection.execute(statement)
    ]


def _missing(run_id: str) -> NotFoundError:
    return NotFoundError(f"run must exist, got {run_id[:80]!r}")
