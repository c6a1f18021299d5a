"""Training ahead of a round: who prepares an update, who waits with one, and who has joined.

A preparation is an assignment of the kind ``prepare``; its round is the version of the model that
it starts from. It is ``assigned`` while the client trains, ``reported`` once it holds an update
and waits, and ``joined`` when a round took it in. Nothing of the update is here: the client has it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import and_, bindparam, func, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.core.errors import ConflictError
from kumiai.storage.fencing import fence
from kumiai.storage.records import AssignmentRecord, Lease
from kumiai.storage.rows import add_event_row, clean, is_one_of, parsed, table_of, upsert
from kumiai.storage.run_reports import RunReports
from kumiai.storage.single_statements import SingleRead
from kumiai.storage.tables import Assignment, clock_sql

__all__ = ["RunPreparing", "assign_evaluation", "join_round"]

_ASSIGNMENTS = table_of(Assignment)
_WAITING: Final = ("assigned", "reported")

_OF_RUN: Any = bindparam("run_id")
_OF_ROUND: Any = bindparam("round")
_PREPARE = and_(_ASSIGNMENTS.c.run_id == _OF_RUN, _ASSIGNMENTS.c.kind == "prepare")
_PREPARING = SingleRead(
    select(_ASSIGNMENTS).where(
        _PREPARE,
        _ASSIGNMENTS.c.round >= bindparam("oldest"),
        or_(
            *(_ASSIGNMENTS.c.state == state for state in _WAITING),
            _ASSIGNMENTS.c.round == _OF_ROUND,
        ),
    )
)
_TURNS = SingleRead(
    select(_ASSIGNMENTS).where(
        _ASSIGNMENTS.c.run_id == _OF_RUN,
        _ASSIGNMENTS.c.kind == "train",
        _ASSIGNMENTS.c.round <= _OF_ROUND,
        _ASSIGNMENTS.c.round >= bindparam("oldest"),
    )
)
_BASES = SingleRead(
    select(_ASSIGNMENTS.c.client_id, func.max(_ASSIGNMENTS.c.round).label("base"))
    .where(
        _PREPARE,
        _ASSIGNMENTS.c.state == "joined",
        _ASSIGNMENTS.c.round < _OF_ROUND,
        _ASSIGNMENTS.c.round >= bindparam("oldest"),
    )
    .group_by(_ASSIGNMENTS.c.client_id)
)


class RunPreparing(RunReports):
    """What is written and asked about preparations; see `kumiai.storage.runs.RunRepository`."""

    async def preparing(
        self, run_id: str, version: int, *, oldest: int = 0
    ) -> list[AssignmentRecord]:
        """Return who trains or waits, from whatever version, and all that was asked of this one.

        Whoever has waited longest is first, then who still trains, by name.

        Args:
            run_id: the run.
            version: of its model.
            oldest: nobody trains or waits from an older version; a long run has many rows.
        """
        rows = await self._fetch_once(_PREPARING, run_id=run_id, round=version, oldest=oldest)
        records = [AssignmentRecord(**row) for row in rows]
        return sorted(records, key=lambda each: (each.ended_at or float("inf"), each.client_id))

    async def bases(self, run_id: str, round: int, *, oldest: int) -> dict[str, int]:  # noqa: A002
        """Return from which version the members of a round trained, by client.

        Args:
            run_id: the run.
            round: that took them in.
            oldest: no member trained from an older version.
        """
        rows = await self._fetch_once(_BASES, run_id=run_id, round=round, oldest=oldest)
        return {row["client_id"]: row["base"] for row in rows}

    async def turns(self, run_id: str, version: int, *, oldest: int) -> list[AssignmentRecord]:
        """Return who was asked for an update by the rounds up to this version, the newest first.

        Args:
            run_id: the run.
            version: of its model.
            oldest: of the rounds; a long run has many.
        """
        rows = await self._fetch_once(_TURNS, run_id=run_id, round=version, oldest=oldest)
        records = [AssignmentRecord(**row) for row in rows]
        return sorted(records, key=lambda each: (-each.round, each.client_id))

    async def report_prepared(self, run_id: str, version: int, client_id: str) -> bool:
        """Note that a client holds its update and waits; return whether it was asked and trained.

        Telling it again changes nothing.
        """
        async with self._database.transaction("report_prepared") as connection:
            changed = await connection.execute(
                update(_ASSIGNMENTS)
                .where(_one(run_id, version, client_id), _ASSIGNMENTS.c.state == "assigned")
                .values(state="reported", reason=None, ended_at=clock_sql())
            )
        return bool(changed.rowcount)

    async def prepare(
        self,
        lease: Lease,
        *,
        version: int,
        clients: Sequence[tuple[str, int]],
        evaluates: bool = False,
    ) -> None:
        """Ask clients to train from a version of the model and to wait with what they made.

        Args:
            lease: held.
            version: the run's newest.
            clients: ``(client, seed)``; who trains or waits already must not be among them.
            evaluates: whether they measure that version first.

        Raises:
            FencedError: another leads.
        """
        async with self._database.transaction("prepare") as connection:
            await fence(connection, lease)
            statement = upsert(connection, _ASSIGNMENTS).values(
                run_id=lease.run_id,
                round=version,
                kind="prepare",
                state="assigned",
                attempt=1,
                assigned_at=clock_sql(),
            )
            statement = statement.on_conflict_do_update(
                index_elements=["run_id", "round", "client_id", "kind"],
                set_={
                    "state": "assigned",
                    "reason": None,
                    "attempt": _ASSIGNMENTS.c.attempt + 1,
                    "assigned_at": statement.excluded.assigned_at,
                    "ended_at": None,
                },
                # Not IN: its values cannot be expanded for many rows at once.
                where=and_(*(_ASSIGNMENTS.c.state != state for state in _WAITING)),
            )
            rows = [{"client_id": client_id, "seed": seed} for client_id, seed in sorted(clients)]
            await connection.execute(statement, rows)
            if evaluates:
                names = [client_id for client_id, _ in clients]
                await assign_evaluation(connection, lease.run_id, version, names)
            await add_event_row(
                connection,
                lease.run_id,
                kind="training_asked",
                text=f"{len(clients)} clients train from version {version}",
                round=version,
                data={"clients": len(clients)},
            )

    async def fail_overdue(
        self, lease: Lease, *, seconds: float, reason: str
    ) -> list[AssignmentRecord]:
        """End the preparations that have been under way for longer than this; return them.

        Args:
            lease: held.
            seconds: since their clients were asked, by the database's clock.
            reason: why, in words.

        Raises:
            FencedError: another leads.
        """
        async with self._database.transaction("fail_overdue") as connection:
            await fence(connection, lease)
            rows = await connection.execute(
                update(_ASSIGNMENTS)
                .where(
                    _ASSIGNMENTS.c.run_id == lease.run_id,
                    _ASSIGNMENTS.c.kind == "prepare",
                    _ASSIGNMENTS.c.state == "assigned",
                    _ASSIGNMENTS.c.assigned_at < clock_sql() - seconds,
                )
                .values(state="failed", reason=clean(reason), ended_at=clock_sql())
                .returning(*_ASSIGNMENTS.c)
            )
            failed = sorted(
                (AssignmentRecord(**parsed(row)) for row in rows), key=lambda each: each.client_id
            )
            for each in failed:
                await add_event_row(
                    connection,
                    lease.run_id,
                    kind="prepare_failed",
                    text=reason,
                    level="warning",
                    round=each.round,
                    client_id=each.client_id,
                )
        return failed

    async def withdraw_prepared(
        self, lease: Lease, *, newest: int, reason: str, clients: Sequence[str] | None = None
    ) -> list[str]:
        """End the preparations from this version and older ones; return whose they were.

        Args:
            lease: held.
            newest: of the versions.
            reason: why, in words.
            clients: of these alone; ``None``: of all.

        Raises:
            FencedError: another leads.
        """
        async with self._database.transaction("withdraw_prepared") as connection:
            await fence(connection, lease)
            rows = await connection.execute(
                update(_ASSIGNMENTS)
                .where(
                    _ASSIGNMENTS.c.run_id == lease.run_id,
                    _ASSIGNMENTS.c.kind == "prepare",
                    _ASSIGNMENTS.c.round <= newest,
                    _ASSIGNMENTS.c.state.in_(_WAITING),
                    _of_these(connection, clients),
                )
                .values(state="late", reason=clean(reason), ended_at=clock_sql())
                .returning(_ASSIGNMENTS.c.client_id)
            )
            withdrawn = sorted(row.client_id for row in rows)
            for client_id in withdrawn:
                await add_event_row(
                    connection,
                    lease.run_id,
                    kind="prepare_late",
                    text=reason,
                    level="warning",
                    round=newest,
                    client_id=client_id,
                )
        return withdrawn


async def join_round(
    connection: AsyncConnection, run_id: str, number: int, joined: Mapping[str, int]
) -> None:
    """Take clients that wait into a round, each with the update from its version.

    Raises:
        ConflictError: one of them does not wait with such an update.
    """
    for client_id, version in sorted(joined.items()):
        changed = await connection.execute(
            update(_ASSIGNMENTS)
            .where(_one(run_id, version, client_id), _ASSIGNMENTS.c.state == "reported")
            .values(state="joined", reason=f"round {number}")
        )
        if not changed.rowcount:
            raise ConflictError(
                f"client {client_id} must wait with an update from version {version} to join round "
                f"{number} of run {run_id}, got none"
            )


async def assign_evaluation(
    connection: AsyncConnection, run_id: str, number: int, clients: Sequence[str]
) -> None:
    """Ask clients to evaluate the model of a round; who was asked stays as it is."""
    if not clients:
        return
    statement = upsert(connection, _ASSIGNMENTS).values(
        run_id=run_id,
        round=number,
        kind="evaluate",
        state="assigned",
        attempt=1,
        seed=0,
        assigned_at=clock_sql(),
    )
    await connection.execute(
        statement.on_conflict_do_nothing(),
        [{"client_id": client_id} for client_id in sorted(clients)],
    )


def _of_these(connection: AsyncConnection, clients: Sequence[str] | None) -> Any:
    return true() if clients is None else is_one_of(connection, _ASSIGNMENTS.c.client_id, clients)


def _one(run_id: str, version: int, client_id: str) -> Any:
    return and_(
        _ASSIGNMENTS.c.run_id == run_id,
        _ASSIGNMENTS.c.round == version,
        _ASSIGNMENTS.c.client_id == client_id,
        _ASSIGNMENTS.c.kind == "prepare",
    )
