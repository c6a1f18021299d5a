"""What is promised within a transaction and done after it: late writes, invalidations.

A row is acknowledged by the commit of the transaction that holds it, so it is neither lost when the
process dies right after, nor done when the transaction is rolled back. A drain applies the rows:
at least once, those of one key in the order of their numbers, one drain per topic at a time.

Two orders have to agree: that of the numbers and that of the commits. PostgreSQL gives numbers
before the commit, so two transactions that write the same key at the same time follow one another
by a lock on the key. Rows without a key ("") are free of that: their order means nothing.
"""

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Row,
    Select,
    delete,
    func,
    insert,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.core.errors import DeadlineError, NotFoundError, StorageError
from kumiai.storage.cache.tables import OutboxEntry
from kumiai.storage.database import DatabaseManager
from kumiai.storage.rows import table_of
from kumiai.storage.tables import clock_sql

__all__ = ["CacheOutbox", "OutboxRow", "OutboxState", "OutboxToken"]

_ROWS = table_of(OutboxEntry)
_TEXT_CHARS_MAX = 512
_COUNT_SECONDS = 0.2
_POLL_SECONDS = 0.002
_POLL_SECONDS_MAX = 0.1
# Any fixed number does; it must stay the same in all versions.
_LOCK_BASE = 0x6B756D69_00000000
_LOCKS = 4096
_LOCK_KEYS = text("SELECT pg_advisory_xact_lock(:number)")


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """Something that waits to be applied.

    Attributes:
        seq: its number; of two rows with one key the higher is the later.
        topic: what kind of thing it is.
        key: what it is about; "" when the order means nothing.
        value: the bytes that were handed in.
        created_at: when, seconds since 1970-01-01 UTC by the database's clock.
        attempts: how often applying it has failed.
        reason: why it failed last.
        is_parked: it has been given up.
    """

    seq: int
    topic: str
    key: str
    value: bytes
    created_at: float
    attempts: int
    reason: str | None
    is_parked: bool


@dataclass(frozen=True, slots=True)
class OutboxState:
    """How an outbox stands.

    Attributes:
        depth: rows that wait, parked ones apart.
        age_seconds: how long the oldest of them has waited; 0 without any.
        parked: rows that were given up.
    """

    depth: int
    age_seconds: float
    parked: int


@dataclass(frozen=True, slots=True)
class OutboxToken:
    """Stands for rows that were added together.

    Attributes:
        seqs: their numbers.
    """

    seqs: tuple[int, ...]
    _connection: AsyncConnection


class CacheOutbox:
    """The rows that wait, of all topics.

    Args:
        database: connected, its schema at this version.
        capacity: how many rows may wait, parked ones included; more are refused. It is looked at
            a few times a second, so several writers may overshoot it a little.

    Raises:
        ValueError: ``capacity`` is below 1.
    """

    def __init__(self, database: DatabaseManager, *, capacity: int = 100_000) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self.database = database
        self.capacity = capacity
        self.wake = asyncio.Event()
        """Set when a drain of this process has something to do sooner than it would look."""
        self._count = 0
        self._counted_at = -_COUNT_SECONDS

    async def add(
        self, connection: AsyncConnection, topic: str, items: Sequence[tuple[str, bytes]]
    ) -> OutboxToken:
        """Add rows in the caller's transaction; they count from its commit.

        Hand over all that belongs together at once: who takes several keys one after the other
        can meet another who takes them the other way round, and PostgreSQL then ends one of the
        two.

        Args:
            connection: in a read-write transaction.
            topic: under which a drain finds them.
            items: keys and values, in their order.

        Raises:
            StorageError: there is no room.
            ValueError: there are no items, or a topic or key is out of its range.
        """
        _verify_text(topic, "topic")
        if not topic or not items:
            raise ValueError(f"topic and items must be at least one each, got {topic!r}")
        for key, _ in items:
            _verify_text(key, "key")
        await self._verify_room(connection, len(items))
        await _lock_keys(connection, topic, {key for key, _ in items})
        seqs: list[int] = []
        now = clock_sql()
        rows = [{"topic": topic, "key": key, "value": value} for key, value in items]
        found = await connection.execute(
            insert(_ROWS)
            .values(created_at=now)
            .returning(_ROWS.c.seq, sort_by_parameter_order=True),
            rows,
        )
        seqs = [row.seq for row in found]
        self._count += len(items)
        return OutboxToken(tuple(seqs), connection)

    async def has_room(self, count: int = 1) -> bool:
        """Return whether so many rows more would be taken now.

        Raises:
            StorageError: the database failed.
        """
        if not self._knows_room():
            async with self.database.reading() as connection:
                await self._look_at_room(connection)
        return self._count + count <= self.capacity

    async def find_pending(self, topic: str, key: str) -> OutboxRow | None:
        """Return the latest row of a key that is not applied yet, parked or not.

        Raises:
            StorageError: the database failed.
        """
        statement = (
            select(_ROWS)
            .where(_ROWS.c.topic == topic, _ROWS.c.key == key)
            .order_by(_ROWS.c.seq.desc())
            .limit(1)
        )
        async with self.database.reading() as connection:
            row = (await connection.execute(statement)).one_or_none()
        return None if row is None else row_of(row)

    async def applied(self, token: OutboxToken, *, timeout_seconds: float = 30.0) -> None:
        """Return once the token's rows have been applied; call it after the commit.

        Of a transaction that was rolled back nothing is left, and it returns at once.

        Raises:
            DeadlineError: it took too long; they will still be applied.
            StorageError: one was given up, with the reason; or the database failed.
            ValueError: the transaction is not over yet.
        """
        connection = token._connection  # noqa: SLF001 - ours, and nobody else's business
        if not connection.closed and connection.in_transaction():
            raise ValueError("token must be of a transaction that is over, got one that goes on")
        deadline = time.monotonic() + timeout_seconds
        pause = _POLL_SECONDS
        self.wake.set()
        while True:
            left = await self._left(token)
            if not left:
                return
            for row in left:
                if row.is_parked:
                    raise StorageError(
                        f"row {row.seq} of the outbox must be applied, "
                        f"got an error {row.attempts} times: {row.reason}"
                    )
            if time.monotonic() > deadline:
                raise DeadlineError(
                    f"rows of the outbox must be applied within {timeout_seconds:g} s, "
                    f"got {len(left)} that are not"
                )
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _POLL_SECONDS_MAX)

    async def state(self, topic: str) -> OutboxState:
        """Return how many rows of a topic wait, and for how long.

        Raises:
            StorageError: the database failed.
        """
        waiting = _ROWS.c.parked_at.is_(None)
        statement = select(
            func.count().filter(waiting),
            func.min(_ROWS.c.created_at).filter(waiting),
            func.count().filter(~waiting),
            clock_sql(),
        ).where(_ROWS.c.topic == topic)
        async with self.database.reading() as connection:
            depth, oldest, parked, now = (await connection.execute(statement)).one()
        return OutboxState(depth, 0.0 if oldest is None else max(0.0, now - oldest), parked)

    async def parked(self, topic: str, *, limit: int = 100) -> list[OutboxRow]:
        """Return rows that were given up, the oldest first.

        Raises:
            StorageError: the database failed.
        """
        statement = (
            select(_ROWS)
            .where(_ROWS.c.topic == topic, _ROWS.c.parked_at.is_not(None))
            .order_by(_ROWS.c.seq)
            .limit(limit)
        )
        return await self._rows(statement)

    async def retry_parked(self, seq: int) -> None:
        """Let a row that was given up be tried again.

        Raises:
            NotFoundError: no such row is parked.
            StorageError: the database failed.
        """
        await self._change_parked(
            update(_ROWS).values(parked_at=None, attempts=0, retry_at=0.0, reason=None), seq
        )
        self.wake.set()

    async def discard_parked(self, seq: int) -> None:
        """Delete a row that was given up: an acknowledged write is lost, on somebody's word.

        Whoever caches its key invalidates it then.

        Raises:
            NotFoundError: no such row is parked.
            StorageError: the database failed.
        """
        await self._change_parked(delete(_ROWS), seq)

    async def _change_parked(self, statement: Any, seq: int) -> None:
        condition = (_ROWS.c.seq == seq) & _ROWS.c.parked_at.is_not(None)
        async with self.database.transaction("outbox.parked") as connection:
            changed = await connection.execute(statement.where(condition))
            if not changed.rowcount:
                raise NotFoundError(f"row must be parked in the outbox, got {seq}")

    async def _left(self, token: OutboxToken) -> list[OutboxRow]:
        statement = select(_ROWS).where(_ROWS.c.seq.in_(token.seqs)).limit(100)
        return await self._rows(statement)

    async def _rows(self, statement: Select[Any]) -> list[OutboxRow]:
        async with self.database.reading() as connection:
            return [row_of(row) for row in await connection.execute(statement)]

    async def _verify_room(self, connection: AsyncConnection, count: int) -> None:
        await self._look_at_room(connection)
        if self._count + count > self.capacity:
            raise StorageError(
                f"outbox must hold at most {self.capacity} rows, got {self._count} and {count} "
                "more; see whether its drains run, and what is parked"
            )

    async def _look_at_room(self, connection: AsyncConnection) -> None:
        if self._knows_room():
            return
        some: Select[Any] = select(literal_column("1")).select_from(_ROWS).limit(self.capacity + 1)
        counted = select(func.count()).select_from(some.subquery())
        self._count = (await connection.execute(counted)).scalar_one()
        self._counted_at = time.monotonic()

    def _knows_room(self) -> bool:
        is_fresh = time.monotonic() - self._counted_at < _COUNT_SECONDS
        return is_fresh and self._count < self.capacity


def row_of(row: Row[Any]) -> OutboxRow:
    """Return the record of a row."""
    return OutboxRow(
        seq=row.seq,
        topic=row.topic,
        key=row.key,
        value=bytes(row.value),
        created_at=row.created_at,
        attempts=row.attempts,
        reason=row.reason,
        is_parked=row.parked_at is not None,
    )


def _verify_text(value: str, what: str) -> None:
    # PostgreSQL stores no NUL.
    if len(value) > _TEXT_CHARS_MAX or "\x00" in value:
        raise ValueError(
            f"{what} must have at most {_TEXT_CHARS_MAX} characters and no NUL, got {len(value)}"
        )


async def _lock_keys(connection: AsyncConnection, topic: str, keys: set[str]) -> None:
    if connection.dialect.name != "postgresql":
        return  # SQLite has one writer at a time
    # In one order everywhere; and few in number, because a server's room for locks is bounded.
    numbers = sorted({_lock_number(topic, key) for key in keys if key})
    if numbers:
        await connection.execute(_LOCK_KEYS, [{"number": number} for number in numbers])


def _lock_number(topic: str, key: str) -> int:
    name = f"kumiai outbox\x00{topic}\x00{key}".encode()
    return _LOCK_BASE + int.from_bytes(hashlib.blake2b(name, digest_size=2).digest()) % _LOCKS
