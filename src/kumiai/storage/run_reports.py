"""What any replica may write about runs: submitting, asking to stop, what clients answer."""

from collections.abc import Mapping
from typing import Any, Literal

from sqlalchemy import select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.core.errors import ConflictError, NotFoundError
from kumiai.storage.records import (
    AssignmentKind,
    EventLevel,
    NewRun,
    RunRecord,
)
from kumiai.storage.rows import (
    add_event_row,
    clean,
    columns_of,
    json_text,
    parsed,
    table_of,
    upsert,
)
from kumiai.storage.run_queries import RunQueries
from kumiai.storage.search import search_terms
from kumiai.storage.tables import Assignment, FLModel, Round, TrainingSession, clock_sql

__all__ = ["RunReports", "insert_model"]

_RUNS = table_of(TrainingSession)
_ROUNDS = table_of(Round)
_ASSIGNMENTS = table_of(Assignment)
_MODELS = table_of(FLModel)
_RUN_COLUMNS = columns_of(TrainingSession)

_STANDING = (_RUNS.c.state, _RUNS.c.stop_requested, _RUNS.c.round)


class RunReports(RunQueries):
    """Writes that need no lease; see `kumiai.storage.runs.RunRepository` for the whole."""

    async def create(self, new: NewRun, *, entry: Any = None) -> tuple[RunRecord, bool]:
        """Create a run with its initial model as round 0.

        Args:
            new: the run.
            entry: of the audit log, written with it; ``None``: none is kept.

        Returns:
            The run, and whether this call created it: a submission that is repeated with the
            same token and the same job finds the run of the first time.

        Raises:
            ConflictError: the token stands for another job, or the identifier is taken.
        """
        async with self._database.transaction("create") as connection:
            inserted = (
                await connection.execute(
                    upsert(connection, _RUNS)
                    .values(_run_values(new))
                    .on_conflict_do_nothing()
                    .returning(*_RUN_COLUMNS)
                )
            ).one_or_none()
            if inserted is None:
                return await _same_submission(connection, new), False
            await _insert_round_zero(connection, new)
            await add_event_row(
                connection,
                new.run_id,
                kind="run_submitted",
                text=f"submitted by {new.submitted_by}",
                round=0,
            )
            if entry is not None:
                await self._trail.append(connection, entry)
        return RunRecord(**parsed(inserted)), True

    async def request_stop(self, run_id: str, reason: str, *, entry: Any = None) -> RunRecord:
        """Ask the leader to stop the run; the first reason stays.

        Args:
            run_id: exactly.
            reason: why.
            entry: of the audit log, written with it; ``None``: none is kept.

        Raises:
            NotFoundError: there is no such run.
            ConflictError: it has ended already.
        """
        async with self._database.transaction() as connection:
            run = await _locked(connection, run_id)
            if run.state not in {"submitted", "running"}:
                raise ConflictError(f"run {run_id} must be running, got {run.state}")
            if run.stop_requested:
                return await self._row_of(connection, run_id)
            await connection.execute(
                update(_RUNS)
                .where(_RUNS.c.run_id == run_id)
                .values(stop_requested=True, stop_reason=clean(reason), updated_at=clock_sql())
            )
            await add_event_row(
                connection, run_id, kind="stop_requested", text=reason, round=run.round
            )
            if entry is not None:
                await self._trail.append(connection, entry)
            return await self._row_of(connection, run_id)

    async def add_event(
        self,
        run_id: str,
        *,
        kind: str,
        text: str,
        level: EventLevel = "info",
        round: int | None = None,  # noqa: A002 - the glossary's word
        client_id: str | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Add an event to the run's story.

        Raises:
            NotFoundError: there is no such run.
        """
        async with self._database.transaction() as connection:
            await _locked(connection, run_id)
            await add_event_row(
                connection,
                run_id,
                kind=kind,
                text=text,
                level=level,
                round=round,
                client_id=client_id,
                data=data,
            )

    async def fail_assignment(
        self,
        run_id: str,
        round: int,  # noqa: A002 - the glossary's word
        client_id: str,
        kind: AssignmentKind,
        *,
        state: Literal["failed", "refused"],
        reason: str,
        attempt: int | None = None,
    ) -> bool:
        """End an assignment without a report, and tell it in an event.

        Args:
            run_id: the run.
            round: of the assignment.
            client_id: whose it is.
            kind: what was asked.
            state: how it ends.
            reason: why, in words.
            attempt: that came to nothing; if another one is asked for by now, it goes on.
                ``None``: whichever is.

        Returns:
            Whether it was still open; else nothing changed.
        """
        async with self._database.transaction() as connection:
            # First, although only the event needs it: locks are taken in one order everywhere.
            await _lock(connection, run_id)
            changed = await connection.execute(
                update(_ASSIGNMENTS)
                .where(
                    _ASSIGNMENTS.c.run_id == run_id,
                    _ASSIGNMENTS.c.round == round,
                    _ASSIGNMENTS.c.client_id == client_id,
                    _ASSIGNMENTS.c.kind == kind,
                    _ASSIGNMENTS.c.state == "assigned",
                    true() if attempt is None else _ASSIGNMENTS.c.attempt == attempt,
                )
                .values(state=state, reason=clean(reason), ended_at=clock_sql())
            )
            if changed.rowcount == 0:
                return False
            await add_event_row(
                connection,
                run_id,
                kind=f"{kind}_{state}",
                text=reason,
                level="warning",
                round=round,
                client_id=client_id,
            )
        return True

    @staticmethod
    async def _row_of(connection: AsyncConnection, run_id: str) -> RunRecord:
        row = (
            await connection.execute(select(*_RUN_COLUMNS).where(_RUNS.c.run_id == run_id))
        ).one()
        return RunRecord(**parsed(row))


async def insert_model(
    connection: AsyncConnection,
    *,
    run_id: str,
    round: int,  # noqa: A002 - the glossary's word
    digest: str,
    size_bytes: int,
    name: str,
) -> None:
    """Insert a model; its identifier follows from run and round, so doing it again clashes."""
    await connection.execute(
        _MODELS.insert().values(
            run_id=run_id,
            round=round,
            model_id=f"{run_id}.{round}",
            digest=digest,
            size_bytes=size_bytes,
            name=name,
            created_at=clock_sql(),
            search_terms=search_terms(name),
        )
    )


def _run_values(new: NewRun) -> dict[str, Any]:
    return {
        "run_id": new.run_id,
        "name": new.name,
        "app": new.app,
        "state": "submitted",
        "job_json": json_text(new.job),
        "submit_token": new.submit_token,
        "submitted_by": new.submitted_by,
        "rounds_total": new.rounds_total,
        "round": 0,
        "model_digest": new.model_digest,
        "epoch": 0,
        "lease_until": 0.0,
        "stop_requested": False,
        "created_at": clock_sql(),
        "updated_at": clock_sql(),
        "search_terms": search_terms(new.name),
    }


async def _same_submission(connection: AsyncConnection, new: NewRun) -> RunRecord:
    if new.submit_token is not None:
        row = (
            await connection.execute(
                select(*_RUN_COLUMNS).where(_RUNS.c.submit_token == new.submit_token)
            )
        ).one_or_none()
        if row is not None and row.job_json == json_text(new.job):
            return RunRecord(**parsed(row))
        if row is not None:
            raise ConflictError(
                f"submit token must stand for one job, got another job for run {row.run_id}; "
                "use a new token"
            )
    raise ConflictError(f"run identifier must be new, got {new.run_id}")


async def _insert_round_zero(connection: AsyncConnection, new: NewRun) -> None:
    await connection.execute(
        _ROUNDS.insert().values(
            run_id=new.run_id,
            round=0,
            stage="published",
            base_digest=new.model_digest,
            target_reports=0,
            min_reports=0,
            attempt=0,
            opened_at=clock_sql(),
            deadline_at=clock_sql(),
            published_at=clock_sql(),
            model_digest=new.model_digest,
        )
    )
    await insert_model(
        connection,
        run_id=new.run_id,
        round=0,
        digest=new.model_digest,
        size_bytes=new.model_size_bytes,
        name=new.name,
    )


async def _lock(connection: AsyncConnection, run_id: str) -> Any:
    # Not the full lock: rows that point at the run are inserted meanwhile.
    statement = select(*_STANDING).where(_RUNS.c.run_id == run_id).with_for_update(key_share=True)
    return (await connection.execute(statement)).one_or_none()


async def _locked(connection: AsyncConnection, run_id: str) -> Any:
    row = await _lock(connection, run_id)
    if row is None:
        raise NotFoundError(f"run must exist, got {run_id!r}")
    return row
