"""The engines behind a database: which pools there are, and with which limits.

SQLite: one connection that writes, and a few that read. PostgreSQL: one pool for all, asked for
transactions of each kind. For migrations and long looks: a connection without time-outs.
"""

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool

from kumiai.storage.database_url import DatabaseURL
from kumiai.storage.sqlite_connections import ReadyPool, SQLiteSynchronous, new_sqlite_engine

__all__ = ["ISOLATIONS", "Engines", "Isolation"]

Isolation = Literal["read committed", "repeatable read", "serializable"]

ISOLATIONS: tuple[Isolation, ...] = ("read committed", "repeatable read", "serializable")

_MIGRATION_TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Engines:
    """How the engines of one database are made.

    Attributes:
        url: where it is.
        pool_size: connections at most; of SQLite one of them writes.
        synchronous: of SQLite.
        statement_timeout_seconds: also for a free connection.
        lock_timeout_seconds: for another transaction's lock.
        idle_timeout_seconds: for a transaction in which nothing happens.
    """

    url: DatabaseURL
    pool_size: int
    synchronous: SQLiteSynchronous
    statement_timeout_seconds: float
    lock_timeout_seconds: float
    idle_timeout_seconds: float

    def new_pools(self) -> tuple[dict[Isolation, AsyncEngine], AsyncEngine]:
        """Return an engine for writing with each isolation, and one for reading."""
        pool = {
            "poolclass": ReadyPool if self.url.dialect == "sqlite" else AsyncAdaptedQueuePool,
            "max_overflow": 0,
            "pool_timeout": self.statement_timeout_seconds,
            # SQLite's we do ourselves, and only where it is needed.
            "pool_reset_on_return": None if self.url.dialect == "sqlite" else "rollback",
        }
        if self.url.dialect == "sqlite":
            writer = self._new_sqlite({**pool, "pool_size": 1})
            reader = self._new_sqlite({**pool, "pool_size": self.pool_size - 1}, reading=True)
            return dict.fromkeys(ISOLATIONS, writer), reader
        writer = self._new_postgres({**pool, "pool_size": self.pool_size})
        writers = dict.fromkeys(ISOLATIONS, writer)
        for level in ISOLATIONS[1:]:
            writers[level] = writer.execution_options(isolation_level=level.upper())
        return writers, _read_only(writer)

    def new_unhurried(self, *, reading: bool, foreign_keys: bool) -> AsyncEngine:
        """Return an engine without a pool, for what may take long and may wait for long."""
        pool = {"poolclass": NullPool}
        if self.url.dialect == "sqlite":
            return self._new_sqlite(
                pool, reading=reading, foreign_keys=foreign_keys, lock=_MIGRATION_TIMEOUT_SECONDS
            )
        engine = self._new_postgres(pool, statement=0.0, lock=_MIGRATION_TIMEOUT_SECONDS)
        return _read_only(engine) if reading else engine

    def _new_sqlite(
        self,
        pool: dict[str, Any],
        *,
        reading: bool = False,
        foreign_keys: bool = True,
        lock: float | None = None,
    ) -> AsyncEngine:
        return new_sqlite_engine(
            self.url,
            lock_timeout_seconds=self.lock_timeout_seconds if lock is None else lock,
            pool=pool,
            synchronous=self.synchronous,
            reading=reading,
            foreign_keys=foreign_keys,
        )

    def _new_postgres(
        self, pool: dict[str, Any], *, statement: float | None = None, lock: float | None = None
    ) -> AsyncEngine:
        from kumiai.storage.postgres_connections import (  # noqa: PLC0415 - an extra
            new_postgres_engine,
        )

        return new_postgres_engine(
            self.url,
            statement_timeout_seconds=(
                self.statement_timeout_seconds if statement is None else statement
            ),
            lock_timeout_seconds=self.lock_timeout_seconds if lock is None else lock,
            idle_in_transaction_timeout_seconds=self.idle_timeout_seconds,
            pool=pool,
        )


def _read_only(engine: AsyncEngine) -> AsyncEngine:
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
