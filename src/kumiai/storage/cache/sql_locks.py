"""Locks as leases in SQL, by the database's clock; and the fence that makes a lock worth having.

Slower than Redis by less than one thinks, and as durable as the rows it protects: the tokens of a
name grow for ever. Nothing else is needed where no Redis is.
"""

from sqlalchemy import BigInteger, Integer, UniqueConstraint, delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import Mapped, mapped_column

from kumiai.core.errors import ConflictError, FencedError
from kumiai.storage.cache.epoch import CacheEpoch, Epoch
from kumiai.storage.cache.locks import ALIVE_SECONDS, Busy, Grant, poll_seconds
from kumiai.storage.database import DatabaseManager
from kumiai.storage.rows import table_of, upsert
from kumiai.storage.tables import Base, clock_sql

__all__ = ["Lock", "LockFence", "LockWaiter", "SQLLocks", "verify_fence"]


class Lock(Base):
    """A lock and its present or last grant."""

    __tablename__ = "locks"

    name: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str]
    token: Mapped[int] = mapped_column(BigInteger)
    lease_until: Mapped[float]


class LockWaiter(Base):
    """A place in a lock's queue."""

    __tablename__ = "lock_waiters"
    __table_args__ = (UniqueConstraint("name", "owner"), {"sqlite_autoincrement": True})

    seq: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    name: Mapped[str]
    owner: Mapped[str]
    alive_until: Mapped[float]


class LockFence(Base):
    """The largest token that has written under a name."""

    __tablename__ = "lock_fences"

    name: Mapped[str] = mapped_column(primary_key=True)
    token: Mapped[int] = mapped_column(BigInteger)


_LOCKS = table_of(Lock)
_WAITERS = table_of(LockWaiter)
_FENCES = table_of(LockFence)
_EPOCHS = table_of(CacheEpoch)
_FIRST_POLL_SECONDS = 0.02


async def verify_fence(connection: AsyncConnection, name: str, token: int) -> None:
    """Refuse a writer whose lock another has got since; call it in the write's transaction.

    The row of the fence is locked until the transaction ends, so that what follows is ordered as
    the tokens are.

    Args:
        connection: in the transaction that writes under the lock.
        name: what the lock protects.
        token: the writer's `HeldLock.token`.

    Raises:
        FencedError: a larger token has written; nothing of this transaction may stay.
    """
    statement = upsert(connection, _FENCES).values(name=name, token=token)
    done = await connection.execute(
        statement.on_conflict_do_update(
            index_elements=[_FENCES.c.name],
            set_={"token": statement.excluded.token},
            where=_FENCES.c.token <= statement.excluded.token,
        )
    )
    if not done.rowcount:
        raise FencedError(
            f"token of lock {name!r} must be the largest that has written, got {token}; "
            "another holds the lock now"
        )


class SQLLocks:
    """Locks in the database.

    Args:
        database: connected and migrated.
    """

    def __init__(self, database: DatabaseManager) -> None:
        self._database = database

    async def acquire(
        self,
        name: str,
        owner: str,
        ttl_seconds: float,
        *,
        waits: bool,
        epoch: Epoch | None = None,
        epoch_name: str = "",
    ) -> Grant | Busy:
        """Take the lock if it is free and nobody waits for longer.

        Args:
            name: which lock.
            owner: who asks.
            ttl_seconds: how long the grant lasts.
            waits: whether to keep a place in the queue.
            epoch: grant only while this is the epoch, and tokens of it.
            epoch_name: the epoch's name.

        Raises:
            ConflictError: the epoch has changed.
        """
        # Nearly all who wait ask in vain: that must not cost a write.
        if waits and (position := await self._waits_in_vain(name, owner)) is not None:
            return Busy(poll_seconds(position, first_seconds=_FIRST_POLL_SECONDS))
        async with self._database.transaction("lock.acquire") as connection:
            if epoch is not None:
                await _verify_epoch(connection, epoch_name, epoch)
            holder, last_token, lease_until = await _locked(connection, name)
            # After the lock of the row: the wait for it may have been long.
            now = (await connection.execute(select(clock_sql()))).scalar_one()
            if holder == owner and now < lease_until:
                return Grant(last_token)
            queue = await _queue(connection, name, now)
            if now >= lease_until and (not queue or queue[0] == owner):
                floor = 0 if epoch is None else epoch.number << 40
                token = max(last_token, floor) + 1
                await _grant(connection, name, owner, token, lease_until=now + ttl_seconds)
                return Grant(token)
            if waits:
                await _wait(connection, name, owner, alive_until=now + ALIVE_SECONDS)
        position = queue.index(owner) if owner in queue else len(queue)
        return Busy(poll_seconds(position, first_seconds=_FIRST_POLL_SECONDS))

    async def extend(
        self,
        name: str,
        owner: str,
        ttl_seconds: float,
        *,
        epoch: Epoch | None = None,
        epoch_name: str = "",
    ) -> bool:
        """Let the grant last for ``ttl_seconds`` from now.

        Raises:
            ConflictError: the epoch has changed.
        """
        async with self._database.transaction() as connection:
            if epoch is not None:
                await _verify_epoch(connection, epoch_name, epoch)
            done = await connection.execute(
                _LOCKS.update()
                .where(
                    _LOCKS.c.name == name,
                    _LOCKS.c.owner == owner,
                    _LOCKS.c.lease_until > clock_sql(),
                )
                .values(lease_until=clock_sql() + ttl_seconds)
            )
        return bool(done.rowcount)

    async def release(self, name: str, owner: str) -> bool:
        """Give up the lock and the place in the queue."""
        async with self._database.transaction() as connection:
            done = await connection.execute(
                _LOCKS.update()
                .where(
                    _LOCKS.c.name == name,
                    _LOCKS.c.owner == owner,
                    _LOCKS.c.lease_until > clock_sql(),
                )
                .values(owner="", lease_until=0.0)
            )
            await connection.execute(
                delete(_WAITERS).where(_WAITERS.c.name == name, _WAITERS.c.owner == owner)
            )
        return bool(done.rowcount)

    async def has_live_leases(self) -> bool:
        """Return whether anybody holds any lock here."""
        async with self._database.reading() as connection:
            found = await connection.execute(
                select(_LOCKS.c.name).where(_LOCKS.c.lease_until > clock_sql()).limit(1)
            )
            return found.first() is not None

    async def _waits_in_vain(self, name: str, owner: str) -> int | None:
        """Return the place in the queue if asking would change nothing."""
        mine = (
            select(_WAITERS.c.name, _WAITERS.c.seq, _WAITERS.c.alive_until)
            .where(_WAITERS.c.name == name, _WAITERS.c.owner == owner)
            .subquery()
        )
        before = (
            select(func.count())
            .select_from(_WAITERS)
            .where(
                _WAITERS.c.name == name,
                _WAITERS.c.seq < mine.c.seq,
                _WAITERS.c.alive_until > clock_sql(),
            )
            .correlate(mine)
            .scalar_subquery()
        )
        async with self._database.reading() as connection:
            row = (
                await connection.execute(
                    select(
                        before.label("before"),
                        (mine.c.alive_until - clock_sql()).label("alive_seconds"),
                        (_LOCKS.c.lease_until - clock_sql()).label("lease_seconds"),
                    ).join(_LOCKS, _LOCKS.c.name == mine.c.name)
                )
            ).one_or_none()
        if row is None or row.alive_seconds < ALIVE_SECONDS / 2:
            return None
        if row.before == 0 and row.lease_seconds <= 0:
            return None
        return int(row.before)


async def _locked(connection: AsyncConnection, name: str) -> tuple[str, int, float]:
    """Return owner, token and end of the grant; nobody else touches the row from then on."""
    await connection.execute(
        upsert(connection, _LOCKS)
        .values(name=name, owner="", token=0, lease_until=0.0)
        .on_conflict_do_nothing()
    )
    locked = (
        select(_LOCKS.c.owner, _LOCKS.c.token, _LOCKS.c.lease_until)
        .where(_LOCKS.c.name == name)
        .with_for_update()
    )
    row = (await connection.execute(locked)).one()
    return row.owner, row.token, row.lease_until


async def _queue(connection: AsyncConnection, name: str, now: float) -> list[str]:
    """Return who still waits, the first first."""
    await connection.execute(
        delete(_WAITERS).where(_WAITERS.c.name == name, _WAITERS.c.alive_until <= now)
    )
    waiting = select(_WAITERS.c.owner).where(_WAITERS.c.name == name).order_by(_WAITERS.c.seq)
    return list(await connection.scalars(waiting))


async def _grant(
    connection: AsyncConnection, name: str, owner: str, token: int, *, lease_until: float
) -> None:
    await connection.execute(
        _LOCKS.update()
        .where(_LOCKS.c.name == name)
        .values(owner=owner, token=token, lease_until=lease_until)
    )
    await connection.execute(
        delete(_WAITERS).where(_WAITERS.c.name == name, _WAITERS.c.owner == owner)
    )


async def _wait(connection: AsyncConnection, name: str, owner: str, *, alive_until: float) -> None:
    """Take a place in the queue, or keep it."""
    statement = upsert(connection, _WAITERS).values(name=name, owner=owner, alive_until=alive_until)
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=[_WAITERS.c.name, _WAITERS.c.owner],
            set_={"alive_until": statement.excluded.alive_until},
        )
    )


async def _verify_epoch(connection: AsyncConnection, name: str, epoch: Epoch) -> None:
    # The lock of the row: no other epoch begins before this transaction ends.
    row = (
        await connection.execute(
            select(_EPOCHS.c.epoch, _EPOCHS.c.salt)
            .where(_EPOCHS.c.name == name)
            .with_for_update(read=True)
        )
    ).one_or_none()
    if row is None or (row.epoch, row.salt) != (epoch.number, epoch.salt):
        raise ConflictError(f"epoch {name!r} must still be {epoch.number}, got another")
