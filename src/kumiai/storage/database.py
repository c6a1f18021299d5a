"""The connection to the SQL database, PostgreSQL or SQLite.

Not a repository: it knows no table. Rules kept here:

- Writes go through `DatabaseManager.transaction`, reads outside of one through
  `DatabaseManager.reading`. Errors of SQLAlchemy and of the drivers leave as `StorageError`.
- SQLite has one writer. Writers of this process queue for one connection, because SQLite's own
  wait is a sleep of up to 100 ms; writers of other processes wait in ``busy_timeout``.
- PostgreSQL ends a transaction that stands idle: a leader that is stopped inside of one would
  hold its row locks for ever, and no other could take over.
- The password of the URL appears in no message and no ``repr``.
"""

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Literal

from sqlalchemy import URL, event, literal, make_url, select
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool

from kumiai.core.errors import ConfigError, StorageError
from kumiai.core.failpoints import reach
from kumiai.storage import schema

__all__ = ["DatabaseManager", "Dialect", "SQLiteSynchronous"]

Dialect = Literal["sqlite", "postgresql"]
SQLiteSynchronous = Literal["FULL", "NORMAL", "OFF"]

_SQLITE_READERS_MAX = 4
_CONNECT_TIMEOUT_SECONDS = 10.0
_CLOSE_TIMEOUT_SECONDS = 5.0
_MIGRATION_TIMEOUT_SECONDS = 600.0


class DatabaseManager:
    """A pool of connections to one database.

    Args:
        url: ``sqlite:///path/to/file.db`` or ``postgresql://user:password@host:port/name``.
        pool_size: connections to PostgreSQL at most, >= 1; SQLite takes few in any case.
        sqlite_synchronous: FULL survives a loss of power, NORMAL a crash of the process only;
            OFF is for simulation.
        statement_timeout_seconds: PostgreSQL ends a statement after this long; also how long a
            caller waits for a free connection.
        lock_timeout_seconds: how long a statement waits for another transaction's lock.
        idle_in_transaction_timeout_seconds: PostgreSQL ends a transaction in which nothing
            happens for this long; keep it below the lease's time to live.

    Raises:
        ConfigError: the URL is of another kind, or a driver is not installed.
        ValueError: ``pool_size`` is below 1.
    """

    dialect: Dialect

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 10,
        sqlite_synchronous: SQLiteSynchronous = "FULL",
        statement_timeout_seconds: float = 30.0,
        lock_timeout_seconds: float = 5.0,
        idle_in_transaction_timeout_seconds: float = 3.0,
    ) -> None:
        if pool_size < 1:
            raise ValueError(f"pool_size must be at least 1, got {pool_size}")
        self._url, self.dialect = _parse(url)
        self._pool_size = pool_size
        self._synchronous = sqlite_synchronous
        self._statement_timeout_seconds = statement_timeout_seconds
        self._lock_timeout_seconds = lock_timeout_seconds
        self._idle_timeout_seconds = idle_in_transaction_timeout_seconds
        self._driver_errors: tuple[type[Exception], ...] = (
            SQLAlchemyError,
            ConnectionError,
            *_errors_of(self.dialect),
        )
        self._lent = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._writer: AsyncEngine | None = None
        self._reader: AsyncEngine | None = None

    def __repr__(self) -> str:
        """Return the URL with the password hidden."""
        return f"DatabaseManager({self._shown_url()!r})"

    async def connect(self) -> None:
        """Open the pool and check that the database answers; the schema stays as it is.

        Raises:
            StorageError: it does not answer; the message says what to do.
        """
        if self._writer is not None:
            return
        with self._translated(OSError):
            if self.dialect == "sqlite":
                await self._prepare_sqlite_file()
            writer, reader = self._open_engines()
            try:
                async with writer.connect() as connection:
                    await connection.execute(select(literal(1)))
            except BaseException:
                await writer.dispose()
                raise
        self._writer, self._reader = writer, reader

    async def close(self) -> None:
        """Close every connection; closing twice does nothing.

        Those who were cancelled a moment ago give theirs back first: a pool that is gone closes
        no connection.
        """
        engines, self._writer, self._reader = {self._writer, self._reader}, None, None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_idle.wait(), _CLOSE_TIMEOUT_SECONDS)
        for engine in engines - {None}:
            if engine is not None:
                await engine.dispose()

    @asynccontextmanager
    async def transaction(self, name: str | None = None) -> AsyncIterator[AsyncConnection]:
        """Run the body in one read-write transaction.

        It commits when the body ends, and rolls back when the body raises. On SQLite the write
        lock is taken at the start, so that a transaction never fails half-way for want of it. On
        PostgreSQL it is READ COMMITTED: rows are guarded by locks and conditions, not snapshots.

        Args:
            name: names the crash points ``storage.<name>.commit.before`` and ``.after``.

        Raises:
            StorageError: the database refused or is gone; nothing was written, except that after
                a lost connection at the commit one must look.
        """
        async with self._begun(_opened(self._writer)) as connection:
            yield connection
            if name is not None:
                reach(f"storage.{name}.commit.before")
        if name is not None:
            reach(f"storage.{name}.commit.after")

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Run the body on one read-only snapshot; it waits for no writer and blocks none.

        Raises:
            StorageError: the database refused or is gone, or the body tried to write.
        """
        async with self._begun(_opened(self._reader), commits=False) as connection:
            yield connection

    async def migrate(self) -> None:
        """Bring the schema to this version; replicas that start together migrate once.

        Raises:
            SchemaError: the schema is newer than this version of Kumiai.
            StorageError: the database refused.
        """
        # An engine of its own: a migration may take long, and so may the wait for another's.
        engine = self._new_engine(
            statement_timeout_seconds=0.0,
            lock_timeout_seconds=_MIGRATION_TIMEOUT_SECONDS,
            poolclass=NullPool,
        )
        try:
            async with self._begun(engine) as connection:
                await connection.run_sync(schema.upgrade)
        finally:
            await engine.dispose()

    async def verify_schema(self) -> None:
        """Check that the schema is that of this version.

        Raises:
            SchemaError: it is older or newer; the message says what to do.
        """
        async with self.reading() as connection:
            await connection.run_sync(schema.verify)

    async def check(self) -> float:
        """Return how many seconds a trivial query takes, the wait for a connection included."""
        start = time.perf_counter()
        async with self.reading() as connection:
            await connection.execute(select(literal(1)))
        return time.perf_counter() - start

    @asynccontextmanager
    async def _begun(
        self, engine: AsyncEngine, *, commits: bool = True
    ) -> AsyncIterator[AsyncConnection]:
        self._lent += 1
        self._is_idle.clear()
        try:
            with self._translated(OSError):
                connection = await engine.connect()
        except BaseException:
            self._take_back()
            raise
        try:
            # Without OSError: one that the body raises about a file is not the database's.
            with self._translated():
                await self._begin(connection)
                yield connection
                if commits:
                    await connection.commit()
        finally:
            # This rolls back what is not committed. A cancelled task must do it, too.
            closing = asyncio.ensure_future(connection.close())
            closing.add_done_callback(self._take_back)
            await asyncio.shield(closing)

    def _take_back(self, _closing: object = None) -> None:
        self._lent -= 1
        if not self._lent:
            self._is_idle.set()

    @staticmethod
    async def _begin(connection: AsyncConnection) -> None:
        try:
            await connection.begin()
        except asyncio.CancelledError:
            # The driver goes on beginning, and nobody would know: not a connection to lend again.
            await asyncio.shield(asyncio.ensure_future(connection.invalidate()))
            raise

    @contextmanager
    def _translated(self, *more: type[Exception]) -> Iterator[None]:
        try:
            yield
        except (*self._driver_errors, *more) as error:
            raise StorageError(self._explain(error)) from error

    def _explain(self, error: Exception) -> str:
        # The driver's words only: SQLAlchemy's own message carries the statement.
        cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
        words = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        mend = (
            "see that the folder exists, is writable and has space, and that no other program "
            "holds the file"
            if self.dialect == "sqlite"
            else "see that the server runs, and that the URL's user may connect"
        )
        return f"database {self._shown_url()} must answer, got {words!r}; {mend}"

    def _shown_url(self) -> str:
        return self._url.set(drivername=self.dialect).render_as_string(hide_password=True)

    async def _prepare_sqlite_file(self) -> None:
        path = str(self._url.database)
        # Created here for its mode: the file holds metrics and names of clients.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        engine = self._new_engine(poolclass=NullPool, autocommit=True)
        deadline = time.monotonic() + self._lock_timeout_seconds
        try:
            while True:
                try:
                    async with engine.connect() as connection:
                        await connection.exec_driver_sql("PRAGMA journal_mode = WAL")
                        return
                except DBAPIError:
                    # SQLite does not wait for this one lock; a second process that starts at
                    # the same instant may hold it.
                    if time.monotonic() > deadline:
                        raise
                    await asyncio.sleep(0.01)
        finally:
            await engine.dispose()

    def _open_engines(self) -> tuple[AsyncEngine, AsyncEngine]:
        if self.dialect == "sqlite":
            readers = min(self._pool_size, _SQLITE_READERS_MAX)
            return self._new_engine(pool_size=1), self._new_engine(pool_size=readers, reading=True)
        engine = self._new_engine(pool_size=self._pool_size)
        reader = engine.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        return engine, reader

    def _new_engine(
        self,
        *,
        pool_size: int | None = None,
        poolclass: type[NullPool] | None = None,
        reading: bool = False,
        autocommit: bool = False,
        statement_timeout_seconds: float | None = None,
        lock_timeout_seconds: float | None = None,
    ) -> AsyncEngine:
        statement = (
            self._statement_timeout_seconds
            if statement_timeout_seconds is None
            else statement_timeout_seconds
        )
        lock = self._lock_timeout_seconds if lock_timeout_seconds is None else lock_timeout_seconds
        pool: dict[str, Any] = {"poolclass": poolclass}
        if poolclass is None:
            pool = {
                "poolclass": AsyncAdaptedQueuePool,
                "pool_size": pool_size,
                "max_overflow": 0,
                "pool_timeout": self._statement_timeout_seconds,
                # We do it ourselves, and only where it is needed: see below.
                "pool_reset_on_return": None if self.dialect == "sqlite" else "rollback",
            }
        if self.dialect == "sqlite":
            engine = create_async_engine(
                self._url,
                hide_parameters=True,
                # None: Python begins no transaction by itself, we do, with the lock we want.
                connect_args={"isolation_level": None, "timeout": lock},
                **pool,
            )
            _configure_sqlite(
                engine, synchronous=self._synchronous, reading=reading, autocommit=autocommit
            )
            return engine
        engine = create_async_engine(
            self._url,
            hide_parameters=True,
            connect_args={
                "timeout": _CONNECT_TIMEOUT_SECONDS,
                "server_settings": {
                    "application_name": "kumiai",
                    "jit": "off",
                    "statement_timeout": _milliseconds(statement),
                    "lock_timeout": _milliseconds(lock),
                    "idle_in_transaction_session_timeout": _milliseconds(
                        self._idle_timeout_seconds
                    ),
                },
            },
            **pool,
        )
        _replace_closed_connections(engine)
        return engine


def _parse(url: str) -> tuple[URL, Dialect]:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        # Not the text itself: it may hold a password.
        raise ConfigError(
            "database.url must be sqlite:///path/to/file.db or "
            "postgresql://user:password@host:port/name, got something that is no URL"
        ) from error.with_traceback(None)
    if parsed.drivername == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise ConfigError(
                "database.url must name a file, as in sqlite:///path/to/file.db, got none"
            )
        return parsed.set(drivername="sqlite+aiosqlite"), "sqlite"
    if parsed.drivername in {"postgresql", "postgres"}:
        return parsed.set(drivername="postgresql+asyncpg"), "postgresql"
    raise ConfigError(
        f"database.url must begin with sqlite:/// or postgresql://, got {parsed.drivername!r}"
    )


def _errors_of(dialect: Dialect) -> tuple[type[Exception], ...]:
    if dialect == "sqlite":
        return (sqlite3.Error,)
    try:
        import asyncpg  # noqa: PLC0415 - an extra: SQLite works without it
    except ImportError as error:
        raise ConfigError(
            "database.url must be of SQLite, got postgresql without its driver; "
            "install kumiai[postgres]"
        ) from error
    return (asyncpg.PostgresError, asyncpg.InterfaceError)


def _opened(engine: AsyncEngine | None) -> AsyncEngine:
    if engine is None:
        raise StorageError("database must be connected first, got a call before connect()")
    return engine


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))


def _configure_sqlite(
    engine: AsyncEngine, *, synchronous: SQLiteSynchronous, reading: bool, autocommit: bool
) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def _on_connect(connection: DBAPIConnection, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute(f"PRAGMA synchronous = {synchronous}")
        if reading:
            cursor.execute("PRAGMA query_only = ON")
        cursor.close()

    begin = "BEGIN" if reading else "BEGIN IMMEDIATE"

    # These two go to the driver directly: by way of a cursor each would take four turns of the
    # connection's thread instead of one.
    @event.listens_for(engine.sync_engine, "begin")
    def _on_begin(connection: Any) -> None:
        if not autocommit:
            driver_call = connection.connection.dbapi_connection.run_async
            driver_call(lambda driver: driver.execute(begin))

    @event.listens_for(engine.sync_engine, "reset")
    def _on_reset(connection: DBAPIConnection, _record: object, _state: object) -> None:
        if connection.driver_connection.in_transaction:
            connection.rollback()


def _replace_closed_connections(engine: AsyncEngine) -> None:
    # asyncpg knows at once when a socket has closed, so this costs no round trip, as a ping would.
    @event.listens_for(engine.sync_engine, "checkout")
    def _on_checkout(connection: Any, _record: object, _proxy: object) -> None:
        if connection.driver_connection.is_closed():
            raise DisconnectionError
