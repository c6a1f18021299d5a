"""Secure aggregation's memory: which attempt a round is at, and the coordinator's steps in it.

A step is durable before anybody hears of it, so that a coordinator that starts again stands where
it stood, and says to a client nothing but what it said before. Nothing here is secret from the
coordinator, and nothing here tells it an update.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import orjson
from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.core.errors import ConflictError
from kumiai.storage.audit_trail import AuditTrail, NoTrail
from kumiai.storage.database import DatabaseManager
from kumiai.storage.fencing import fence
from kumiai.storage.records import Lease
from kumiai.storage.rows import add_event_row, clean, parsed, table_of, upsert
from kumiai.storage.secure_tables import SecureRecordRow, SecureRoundRow
from kumiai.storage.tables import Event, clock_sql

__all__ = [
    "ClientExclusion",
    "SecureRoundRecord",
    "SecureRoundRepository",
    "SecureRoundState",
    "Suspicion",
]

_EVENTS = table_of(Event)
_ROUNDS = table_of(SecureRoundRow)
_RECORDS = table_of(SecureRecordRow)

_RESULTS_KEPT: Final = 64
_WRONG_GROUPS_MAX: Final = 64
_EXCLUDED: Final = "client_excluded"
_REFUSED: Final = "sum_refused"
_SUSPECTED: Final = "client_suspected"
_CLEARED: Final = "client_cleared"

SecureRoundState = Literal["open", "done", "aborted", "wrong"]
"""``wrong``: a sum was shown, and it was not that of what its clients had committed to."""


@dataclass(frozen=True, slots=True)
class SecureRoundRecord:
    """One attempt to sum a round.

    Attributes:
        opening: what clients are told first: the round's descriptor and who is who.
    """

    run_id: str
    round: int
    attempt: int
    state: SecureRoundState
    reason: str | None
    opening: bytes = field(repr=False)
    opened_at: float
    ended_at: float | None


@dataclass(frozen=True, slots=True)
class ClientExclusion:
    """A client that was left out of a sum for what it did.

    Attributes:
        entry: of the audit log, written with it; ``None``: none is kept.
    """

    client_id: str
    reason: str
    entry: Any = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Suspicion:
    """That the wrong sums of a run point to a client now, or no longer do.

    Attributes:
        is_suspect: whether it is left out of the run from now on, or takes part again.
        entry: of the audit log, written with it; ``None``: none is kept.
    """

    client_id: str
    is_suspect: bool
    entry: Any = field(default=None, repr=False)


class SecureRoundRepository:
    """The attempts of all runs, and their records.

    Args:
        database: connected, its schema at this version.
        trail: takes the entries of the audit log.

    Every method raises ``StorageError`` when the database fails.
    """

    def __init__(self, database: DatabaseManager, *, trail: AuditTrail | None = None) -> None:
        self._database = database
        self._trail = trail or NoTrail()

    async def find(self, run_id: str, round: int) -> SecureRoundRecord | None:  # noqa: A002
        """Return the newest attempt of a round."""
        statement = (
            select(_ROUNDS)
            .where(_ROUNDS.c.run_id == run_id, _ROUNDS.c.round == round)
            .order_by(_ROUNDS.c.attempt.desc())
            .limit(1)
        )
        async with self._database.reading() as connection:
            row = (await connection.execute(statement)).one_or_none()
        return None if row is None else SecureRoundRecord(**parsed(row))

    async def attempts(self, run_id: str, round: int) -> list[SecureRoundRecord]:  # noqa: A002
        """Return all attempts of a round, the first one first."""
        statement = (
            select(_ROUNDS)
            .where(_ROUNDS.c.run_id == run_id, _ROUNDS.c.round == round)
            .order_by(_ROUNDS.c.attempt)
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(statement)).all()
        return [SecureRoundRecord(**parsed(row)) for row in rows]

    async def result(self, attempt: SecureRoundRecord) -> bytes | None:
        """Return what came of an attempt that has ended, if that is still kept."""
        found = await self.records(attempt) if attempt.state != "open" else []
        return found[0] if found else None

    async def records(self, attempt: SecureRoundRecord) -> list[bytes]:
        """Return the records of an attempt, in the order of writing."""
        statement = (
            select(_RECORDS.c.body).where(_of(_RECORDS, attempt)).order_by(_RECORDS.c.number)
        )
        async with self._database.reading() as connection:
            return list((await connection.execute(statement)).scalars())

    async def exclusions(self, run_id: str, round: int) -> dict[str, str]:  # noqa: A002
        """Return who was left out in any attempt of a round, each with the reason."""
        statement = (
            select(_EVENTS.c.client_id, _EVENTS.c.data_json)
            .where(
                _EVENTS.c.run_id == run_id,
                _EVENTS.c.round == round,
                _EVENTS.c.kind == _EXCLUDED,
            )
            .order_by(_EVENTS.c.seq)
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(statement)).all()
        return {row.client_id: orjson.loads(row.data_json)["reason"] for row in rows}

    async def wrong_groups(self, run_id: str) -> list[tuple[str, ...]]:
        """Return the newest groups whose sum was wrong and that nobody could split, 64 at most."""
        statement = (
            select(_EVENTS.c.data_json)
            .where(_EVENTS.c.run_id == run_id, _EVENTS.c.kind == _REFUSED)
            .order_by(_EVENTS.c.seq.desc())
            .limit(_WRONG_GROUPS_MAX)
        )
        async with self._database.reading() as connection:
            found = (await connection.execute(statement)).scalars().all()
        return [tuple(orjson.loads(each)["clients"]) for each in reversed(found)]

    async def open(
        self,
        lease: Lease,
        round: int,  # noqa: A002 - the glossary's word
        attempt: int,
        opening: bytes,
    ) -> SecureRoundRecord:
        """Begin an attempt; one that has begun is returned as it stands.

        Raises:
            FencedError: another leads.
        """
        async with self._database.transaction("open_secure_round") as connection:
            await fence(connection, lease)
            statement = upsert(connection, _ROUNDS).values(
                run_id=lease.run_id,
                round=round,
                attempt=attempt,
                state="open",
                opening=opening,
                opened_at=clock_sql(),
            )
            await connection.execute(statement.on_conflict_do_nothing())
            return await _locked(connection, lease.run_id, round, attempt)

    async def append(
        self,
        lease: Lease,
        attempt: SecureRoundRecord,
        number: int,
        records: Sequence[bytes],
        *,
        exclusions: Sequence[ClientExclusion] = (),
    ) -> None:
        """Write records down, before what they tell of is said.

        Args:
            lease: held.
            attempt: which.
            number: how many are there already.
            records: at least one.
            exclusions: of which some of the records tell; an event of the run tells of each.

        Raises:
            FencedError: another leads.
            ConflictError: the attempt has ended, or there are more or fewer.
        """
        async with self._database.transaction("append_secure_records") as connection:
            await fence(connection, lease)
            standing = await _locked(connection, attempt.run_id, attempt.round, attempt.attempt)
            if standing.state != "open":
                raise ConflictError(_ended(standing))
            last = (
                await connection.execute(
                    select(_RECORDS.c.number)
                    .where(_of(_RECORDS, attempt))
                    .order_by(_RECORDS.c.number.desc())
                    .limit(1)
                )
            ).scalar_one_or_none()
            if (count := 0 if last is None else last + 1) != number:
                raise ConflictError(f"records must be {number} so far, got {count}")
            rows = [
                {
                    "run_id": attempt.run_id,
                    "round": attempt.round,
                    "attempt": attempt.attempt,
                    "number": number + index,
                    "body": record,
                }
                for index, record in enumerate(records)
            ]
            await connection.execute(insert(_RECORDS), rows)
            for exclusion in exclusions:
                await self._exclude(connection, attempt, exclusion)

    async def blame(
        self,
        lease: Lease,
        round: int,  # noqa: A002 - the glossary's word
        groups: Mapping[tuple[str, ...], Any],
        *,
        suspicions: Sequence[Suspicion] = (),
    ) -> None:
        """Tell that groups are left out of a round's sum, one of each has lied; twice is once.

        Args:
            lease: held.
            round: of the run.
            groups: whose sums were wrong, each with its entry of the audit log, which is written
                with it; ``None``: none is kept.
            suspicions: what follows from them for single clients.

        Raises:
            FencedError: another leads.
        """
        async with self._database.transaction("blame_groups") as connection:
            await fence(connection, lease)
            told = [
                await self._refuse(connection, lease.run_id, round, clients, entry)
                for clients, entry in groups.items()
            ]
            for suspicion in suspicions if any(told) else ():
                await self._suspect(connection, lease.run_id, round, suspicion)

    async def _refuse(
        self,
        connection: AsyncConnection,
        run_id: str,
        round: int,  # noqa: A002 - the glossary's word
        clients: tuple[str, ...],
        entry: Any,
    ) -> bool:
        """Tell that a group is left out; return whether that is news."""
        text = (
            f"{', '.join(clients)} are left out of the sum: one of them has uploaded something "
            "else than it had committed to"
        )
        told = select(_EVENTS.c.seq).where(
            _EVENTS.c.run_id == run_id,
            _EVENTS.c.round == round,
            _EVENTS.c.kind == _REFUSED,
            _EVENTS.c.text == clean(text),
        )
        if (await connection.execute(told)).first() is not None:
            return False
        await add_event_row(
            connection,
            run_id,
            kind=_REFUSED,
            text=text,
            level="error",
            round=round,
            data={"clients": list(clients)},
        )
        if entry is not None:
            await self._trail.append(connection, entry)
        return True

    async def _suspect(
        self,
        connection: AsyncConnection,
        run_id: str,
        round: int,  # noqa: A002 - the glossary's word
        suspicion: Suspicion,
    ) -> None:
        client, is_suspect = suspicion.client_id, suspicion.is_suspect
        text = (
            f"{client} is left out of the run: it was in its wrong sums, whoever else was in them"
            if is_suspect
            else f"{client} takes part again: sums were wrong without it"
        )
        await add_event_row(
            connection,
            run_id,
            kind=_SUSPECTED if is_suspect else _CLEARED,
            text=text,
            level="error" if is_suspect else "warning",
            round=round,
            client_id=client,
        )
        if suspicion.entry is not None:
            await self._trail.append(connection, suspicion.entry)

    async def _exclude(
        self, connection: AsyncConnection, attempt: SecureRoundRecord, exclusion: ClientExclusion
    ) -> None:
        await add_event_row(
            connection,
            attempt.run_id,
            kind=_EXCLUDED,
            text=f"{exclusion.client_id} was left out of the sum: {exclusion.reason}",
            level="error",
            round=attempt.round,
            client_id=exclusion.client_id,
            data={"reason": exclusion.reason, "attempt": attempt.attempt},
        )
        if exclusion.entry is not None:
            await self._trail.append(connection, exclusion.entry)

    async def end(
        self,
        lease: Lease,
        attempt: SecureRoundRecord,
        state: Literal["done", "aborted", "wrong"],
        reason: str | None = None,
        *,
        result: bytes | None = None,
    ) -> None:
        """End an attempt, and forget its records; ending it again so changes nothing.

        Args:
            lease: held.
            attempt: which.
            state: whether there is a sum.
            reason: why not, in words.
            result: what came of it; kept for the newest rounds of the run.

        Raises:
            FencedError: another leads.
            ConflictError: it ended otherwise.
        """
        async with self._database.transaction("end_secure_round") as connection:
            await fence(connection, lease)
            standing = await _locked(connection, attempt.run_id, attempt.round, attempt.attempt)
            if standing.state == state:
                return
            if standing.state != "open":
                raise ConflictError(_ended(standing))
            await connection.execute(
                update(_ROUNDS)
                .where(_of(_ROUNDS, attempt))
                .values(
                    state=state,
                    reason=None if reason is None else clean(reason),
                    ended_at=clock_sql(),
                )
            )
            await connection.execute(delete(_RECORDS).where(_of(_RECORDS, attempt)))
            await connection.execute(
                delete(_RECORDS).where(
                    _RECORDS.c.run_id == attempt.run_id,
                    _RECORDS.c.round <= attempt.round - _RESULTS_KEPT,
                )
            )
            if result is not None:
                await connection.execute(
                    insert(_RECORDS).values(
                        run_id=attempt.run_id,
                        round=attempt.round,
                        attempt=attempt.attempt,
                        number=0,
                        body=result,
                    )
                )


def _of(table: Any, attempt: SecureRoundRecord) -> Any:
    return (
        (table.c.run_id == attempt.run_id)
        & (table.c.round == attempt.round)
        & (table.c.attempt == attempt.attempt)
    )


async def _locked(
    connection: AsyncConnection,
    run_id: str,
    round: int,  # noqa: A002 - the column
    attempt: int,
) -> SecureRoundRecord:
    row = (
        await connection.execute(
            select(_ROUNDS)
            .where(
                _ROUNDS.c.run_id == run_id,
                _ROUNDS.c.round == round,
                _ROUNDS.c.attempt == attempt,
            )
            .with_for_update()
        )
    ).one()
    return SecureRoundRecord(**parsed(row))


def _ended(attempt: SecureRoundRecord) -> str:
    return (
        f"attempt {attempt.attempt} of round {attempt.round} of run {attempt.run_id} must be open, "
        f"got one that is {attempt.state}: {attempt.reason}"
    )
