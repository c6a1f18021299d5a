"""The cache's epoch: a row in SQL that says which values in Redis count.

Every key of the cache begins with the epoch. To raise it makes all that was stored before
unreachable, without a word to Redis: that is how an invalidation is kept while Redis is away, and
how values of a Redis that came back with an older memory are never read.

The row also names the server for which the epoch holds. Whoever meets another server claims the
row for it, which raises the epoch. The salt tells apart two epochs of the same number, of which
one was lost with a restored or failed-over database.
"""

import secrets
from dataclasses import dataclass

from sqlalchemy import BigInteger, case, func, select
from sqlalchemy.orm import Mapped, mapped_column

from kumiai.core.errors import StorageError
from kumiai.storage.database import DatabaseManager
from kumiai.storage.rows import table_of, upsert
from kumiai.storage.tables import Base, clock_sql

__all__ = ["CacheEpoch", "Epoch", "EpochKeeper"]


class CacheEpoch(Base):
    """One epoch by name."""

    __tablename__ = "cache_epoch"

    name: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(BigInteger)
    salt: Mapped[str]
    server: Mapped[str]
    changed_at: Mapped[float]
    lease_seconds: Mapped[float]


_TABLE = table_of(CacheEpoch)


@dataclass(frozen=True, slots=True)
class Epoch:
    """The row as it was read.

    Attributes:
        number: the epoch, >= 0; it only grows.
        salt: random, new with each number.
        server: for which server it holds; empty: none yet.
        age_seconds: how long ago it began, by the database's clock.
        lease_seconds: the longest time for which any process trusts what it read.
    """

    number: int
    salt: str
    server: str
    age_seconds: float
    lease_seconds: float


class EpochKeeper:
    """Reads and raises one epoch.

    Args:
        database: connected and migrated.
        name: which epoch.
    """

    def __init__(self, database: DatabaseManager, name: str) -> None:
        self._database = database
        self._name = name

    async def register(self, lease_seconds: float) -> Epoch:
        """Make the row if there is none, and let it know how long this process trusts it.

        Raises:
            StorageError: the database is away.
        """
        found = await self._find()
        if found is not None and found.lease_seconds >= lease_seconds:
            return found
        async with self._database.transaction() as connection:
            await connection.execute(
                upsert(connection, _TABLE)
                .values(
                    name=self._name,
                    epoch=0,
                    salt=_new_salt(),
                    server="",
                    changed_at=0.0,
                    lease_seconds=lease_seconds,
                )
                .on_conflict_do_nothing()
            )
            await connection.execute(
                _TABLE.update()
                .where(_TABLE.c.name == self._name, _TABLE.c.lease_seconds < lease_seconds)
                .values(lease_seconds=lease_seconds)
            )
        return await self.read()

    async def read(self) -> Epoch:
        """Return the epoch at some moment after this call.

        Raises:
            StorageError: the database is away, or nobody has registered.
        """
        found = await self._find()
        if found is None:
            raise StorageError(f"epoch {self._name!r} must be registered first, got no row")
        return found

    async def claim(self, server: str, seen: Epoch) -> Epoch:
        """Raise the epoch for another server, unless it has changed since it was seen.

        Returns:
            The epoch as it is afterwards; its server tells whose claim went through.

        Raises:
            StorageError: the database is away.
        """
        async with self._database.transaction("cache.claim") as connection:
            await connection.execute(
                _TABLE.update()
                .where(
                    _TABLE.c.name == self._name,
                    _TABLE.c.epoch == seen.number,
                    _TABLE.c.salt == seen.salt,
                )
                .values(
                    epoch=_TABLE.c.epoch + 1,
                    salt=_new_salt(),
                    server=server,
                    # Before the first claim nobody can trust anything: nobody has to be waited for.
                    changed_at=case((_TABLE.c.server == "", 0.0), else_=clock_sql()),
                )
            )
        return await self.read()

    async def bump(self) -> Epoch:
        """Raise the epoch; the server stays.

        Raises:
            StorageError: the database is away, or nobody has registered.
        """
        async with self._database.transaction("cache.bump") as connection:
            done = await connection.execute(
                _TABLE.update()
                .where(_TABLE.c.name == self._name)
                .values(epoch=_TABLE.c.epoch + 1, salt=_new_salt(), changed_at=clock_sql())
            )
        if not done.rowcount:
            raise StorageError(f"epoch {self._name!r} must be registered first, got no row")
        return await self.read()

    async def _find(self) -> Epoch | None:
        columns = _TABLE.c
        async with self._database.reading() as connection:
            row = (
                await connection.execute(
                    select(
                        columns.epoch,
                        columns.salt,
                        columns.server,
                        func.coalesce(clock_sql() - columns.changed_at, 0.0),
                        columns.lease_seconds,
                    ).where(columns.name == self._name)
                )
            ).one_or_none()
        return None if row is None else Epoch(*row)


def _new_salt() -> str:
    return secrets.token_hex(4)
