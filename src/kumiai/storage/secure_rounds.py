"""Secure aggregation's memory: which attempt a round is at, and every message of it, in order.

A message is kept before anybody acts on it, and is one of its kind: the same bytes again change
nothing, other bytes are refused. So a coordinator that starts again stands where the messages
stand, and can say to a client nothing but what it said before. Nothing here is secret from the
coordinator, and nothing here tells it an update.
"""

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.core.errors import ConflictError
from kumiai.storage.database import DatabaseManager
from kumiai.storage.fencing import fence
from kumiai.storage.records import Lease
from kumiai.storage.rows import clean, parsed, table_of, upsert
from kumiai.storage.secure_tables import SecureMessageRow, SecureRoundRow
from kumiai.storage.tables import Assignment, clock_sql

__all__ = [
    "SecureMessage",
    "SecureOutcome",
    "SecureRequest",
    "SecureRoundRecord",
    "SecureRoundRepository",
    "SecureRoundState",
    "accept_messages",
]

_ROUNDS = table_of(SecureRoundRow)
_MESSAGES = table_of(SecureMessageRow)
_ASSIGNMENTS = table_of(Assignment)

_SEQS_AT_ONCE = 500

SecureRoundState = Literal["open", "done", "aborted"]


@dataclass(frozen=True, slots=True)
class SecureRoundRecord:
    """One attempt to sum a round."""

    run_id: str
    round: int
    attempt: int
    state: SecureRoundState
    reason: str | None
    opened_at: float
    ended_at: float | None


@dataclass(frozen=True, slots=True)
class SecureMessage:
    """A message that is kept.

    Attributes:
        seq: grows with the time of writing.
        sender: a client; empty for the coordinator.
        kind: of the protocol's messages.
        body: as it was sent.
    """

    seq: int
    sender: str
    kind: str
    body: bytes


@dataclass(frozen=True, slots=True)
class SecureRequest:
    """A client's message that wants to be kept."""

    run_id: str
    round: int
    attempt: int
    client_id: str
    kind: str
    body: bytes


class SecureOutcome(StrEnum):
    """What became of a client's message."""

    KEPT = "kept"
    DUPLICATE = "duplicate"
    """The same bytes were kept before."""
    CONFLICT = "conflict"
    """Other bytes of the same kind were kept before; those stand."""
    NOT_OPEN = "not_open"
    """There is no such attempt, it has ended, or this client is not in the round."""


class SecureRoundRepository:
    """The attempts and messages of all runs.

    Args:
        database: connected, its schema at this version.

    Every method raises ``StorageError`` when the database fails.
    """

    def __init__(self, database: DatabaseManager) -> None:
        self._database = database

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

    async def find_open_of(self, client_id: str) -> list[SecureRoundRecord]:
        """Return the open attempts of the rounds that a client takes part in."""
        statement = (
            select(_ROUNDS)
            .join(
                _ASSIGNMENTS,
                (_ASSIGNMENTS.c.run_id == _ROUNDS.c.run_id)
                & (_ASSIGNMENTS.c.round == _ROUNDS.c.round),
            )
            .where(
                _ASSIGNMENTS.c.client_id == client_id,
                _ASSIGNMENTS.c.kind == "train",
                _ROUNDS.c.state == "open",
            )
            .order_by(_ROUNDS.c.run_id, _ROUNDS.c.round)
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(statement)).all()
        return [SecureRoundRecord(**parsed(row)) for row in rows]

    async def messages(
        self, attempt: SecureRoundRecord, *, known: Collection[int] = ()
    ) -> list[SecureMessage]:
        """Return the messages of an attempt that are not known yet, in the order of writing.

        Args:
            attempt: which.
            known: their numbers; a message that was written earlier may become visible later,
                so that the largest number alone would not do.
        """
        of_attempt = (
            _MESSAGES.c.run_id == attempt.run_id,
            _MESSAGES.c.round == attempt.round,
            _MESSAGES.c.attempt == attempt.attempt,
        )
        columns = (_MESSAGES.c.seq, _MESSAGES.c.sender, _MESSAGES.c.kind, _MESSAGES.c.body)
        async with self._database.reading() as connection:
            seqs = (await connection.execute(select(_MESSAGES.c.seq).where(*of_attempt))).scalars()
            new = sorted(set(seqs).difference(known))
            messages: list[SecureMessage] = []
            for start in range(0, len(new), _SEQS_AT_ONCE):
                some = new[start : start + _SEQS_AT_ONCE]
                rows = await connection.execute(
                    select(*columns).where(_MESSAGES.c.seq.in_(some)).order_by(_MESSAGES.c.seq)
                )
                messages += [SecureMessage(*row) for row in rows]
        return messages

    async def open(
        self,
        lease: Lease,
        round: int,  # noqa: A002 - the glossary's word
        attempt: int,
    ) -> SecureRoundRecord:
        """Begin an attempt; beginning it again returns it as it stands.

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
                opened_at=clock_sql(),
            )
            await connection.execute(statement.on_conflict_do_nothing())
            return await _locked(connection, lease.run_id, round, attempt)

    async def record(
        self, lease: Lease, attempt: SecureRoundRecord, messages: Mapping[str, bytes]
    ) -> None:
        """Keep what the coordinator is about to say, by kind; the same again changes nothing.

        Raises:
            FencedError: another leads.
            ConflictError: it has said something else, or the attempt has ended.
        """
        async with self._database.transaction("record_secure_message") as connection:
            await fence(connection, lease)
            standing = await _locked(connection, attempt.run_id, attempt.round, attempt.attempt)
            if standing.state != "open":
                raise ConflictError(_ended(standing))
            requests = [
                SecureRequest(
                    attempt.run_id, attempt.round, attempt.attempt, "", kind, messages[kind]
                )
                for kind in sorted(messages)
            ]
            if SecureOutcome.CONFLICT in await _keep(connection, requests):
                raise ConflictError(
                    f"coordinator must say one thing in round {attempt.round} of run "
                    f"{attempt.run_id}, got another after the first was kept"
                )

    async def end(
        self,
        lease: Lease,
        attempt: SecureRoundRecord,
        state: Literal["done", "aborted"],
        reason: str | None = None,
    ) -> None:
        """End an attempt; ending it again so changes nothing.

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
                .where(
                    _ROUNDS.c.run_id == attempt.run_id,
                    _ROUNDS.c.round == attempt.round,
                    _ROUNDS.c.attempt == attempt.attempt,
                )
                .values(
                    state=state,
                    reason=None if reason is None else clean(reason),
                    ended_at=clock_sql(),
                )
            )


async def accept_messages(
    connection: AsyncConnection, requests: Sequence[SecureRequest]
) -> list[SecureOutcome]:
    """Keep the clients' messages that may be kept; return what became of each.

    Args:
        connection: in a read-write transaction; nothing is kept before its commit.
        requests: each of a client that the transport has authenticated, its size limited there.
    """
    outcomes = [SecureOutcome.NOT_OPEN] * len(requests)

    def attempt_of(index: int) -> tuple[str, int, int]:
        return requests[index].run_id, requests[index].round, requests[index].attempt

    in_order = sorted(range(len(requests)), key=attempt_of)
    for (run_id, number, attempt), group in itertools.groupby(in_order, key=attempt_of):
        indices = list(group)
        # Shared: the end of an attempt and its messages follow one another.
        state = (
            await connection.execute(
                select(_ROUNDS.c.state)
                .where(
                    _ROUNDS.c.run_id == run_id,
                    _ROUNDS.c.round == number,
                    _ROUNDS.c.attempt == attempt,
                )
                .with_for_update(read=True)
            )
        ).scalar_one_or_none()
        members = await _members(connection, run_id, number) if state == "open" else frozenset()
        taken = [index for index in indices if requests[index].client_id in members]
        kept = await _keep(connection, [requests[index] for index in taken])
        for index, outcome in zip(taken, kept, strict=True):
            outcomes[index] = outcome
    return outcomes


async def _members(connection: AsyncConnection, run_id: str, number: int) -> frozenset[str]:
    statement = select(_ASSIGNMENTS.c.client_id).where(
        _ASSIGNMENTS.c.run_id == run_id,
        _ASSIGNMENTS.c.round == number,
        _ASSIGNMENTS.c.kind == "train",
    )
    return frozenset((await connection.execute(statement)).scalars())


async def _keep(
    connection: AsyncConnection, requests: Sequence[SecureRequest]
) -> list[SecureOutcome]:
    outcomes = []
    for request in requests:
        values: dict[str, Any] = {
            "run_id": request.run_id,
            "round": request.round,
            "attempt": request.attempt,
            "sender": request.client_id,
            "kind": request.kind,
        }
        statement = upsert(connection, _MESSAGES).values(
            **values, body=request.body, taken_at=clock_sql()
        )
        inserted = await connection.execute(
            statement.on_conflict_do_nothing().returning(_MESSAGES.c.seq)
        )
        if inserted.one_or_none() is not None:
            outcomes.append(SecureOutcome.KEPT)
            continue
        standing = (
            await connection.execute(select(_MESSAGES.c.body).filter_by(**values))
        ).scalar_one()
        same = standing == request.body
        outcomes.append(SecureOutcome.DUPLICATE if same else SecureOutcome.CONFLICT)
    return outcomes


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
