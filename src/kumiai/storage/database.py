"""The connection to the SQL database, PostgreSQL or SQLite.

Not a repository: it knows no table. Rules kept here:

- Writes go through `DatabaseManager.transaction`, reads outside of one through
  `DatabaseManager.reading`; what is hot and one statement through `DatabaseManager.write` and
  `DatabaseManager.fetch`. Errors of SQLAlchemy and of the drivers leave as `StorageError`.
- SQLite has one writer. Writers of this process queue for one connection, because SQLite's own
  wait is a sleep of up to 100 ms; writers of other processes wait in ``busy_timeout``.
- PostgreSQL ends a transaction that stands idle: a leader that is stopped inside of one would
  hold its row locks for ever, and no other could take over.
- Every wait has an end: for a connection, for a lock, for a statement, for a silent server.
- The password of the URL appears in no message and no ``repr``.
"""

import asyncio
import contextlib
import itertools
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from sqlalchemy import literal, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from kumiai.core.clock import Clock
from kumiai.core.errors import ConfigError, StorageError
from kumiai.core.failpoints import reach
from kumiai.storage import schema, single_statements
from kumiai.storage.database_checks import DatabaseFinding, examine
from kumiai.storage.database_engines import ISOLATIONS, Engines, Isolation
from kumiai.storage.database_errors import is_retryable, mend_of, words_of
from kumiai.storage.database_health import DatabaseHealth, measured_health
from kumiai.storage.database_url import Dialect, parse_url
from kumiai.storage.schema import MigrationStep
from kumiai.storage.single_statements import SingleRead, SingleWrite
from kumiai.storage.sqlite_connections import (
    SQLiteSynchronous,
    prepare_sqlite_file,
)

__all__ = ["DatabaseManager", "Dialect", "Isolation", "SQLiteSynchronous"]

_Result = TypeVar("_Result")

_SQLITE_READERS_MAX = 4
_CLOSE_TIMEOUT_SECONDS = 5.0
_RETRY_SECONDS = 0.01
_RETRY_SECONDS_MAX = 1.0


class DatabaseManager:
    """A pool of connections to one database.

    Args:
        url: ``sqlite:///path/to/file.db`` or ``postgresql://user:password@host:port/name``; several
            hosts as ``host1:port1,host2:port2``, of which the one that takes writes is found.
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
        ValueError: ``pool_size`` is below 1, or a time-out is not above 0.
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
        self._url = parse_url(url)
        self.dialect = self._url.dialect
        self._file = self._url.database if self.dialect == "sqlite" else None
        # SQLite: one writer, and readers, who do not wait for it.
        size = min(pool_size, _SQLITE_READERS_MAX) + 1 if self._file else pool_size
        self._engines = Engines(
            self._url,
            size,
            sqlite_synchronous,
            _positive(statement_timeout_seconds, "statement"),
            _positive(lock_timeout_seconds, "lock"),
            _positive(idle_in_transaction_timeout_seconds, "idle_in_transaction"),
        )
        self._driver_errors: tuple[type[Exception], ...] = (
            SQLAlchemyError,
            ConnectionError,
            *_errors_of(self.dialect),
        )
        self._breaking: tuple[type[Exception], ...] = (*self._driver_errors, OSError)
        self._lent = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._writers: dict[Isolation, AsyncEngine] = {}
        self._reader: AsyncEngine | None = None

    def __repr__(self) -> str:
        """Return the URL with the password hidden."""
        return f"DatabaseManager({str(self._url)!r})"

    async def connect(self) -> None:
        """Open the pool and check that the database answers; the schema stays as it is.

        Raises:
            StorageError: it does not answer; the message says what to do.
        """
        if self._writers:
            return
        with self._translated(OSError):
            if self.dialect == "sqlite":
                await prepare_sqlite_file(
                    self._url, lock_timeout_seconds=self._engines.lock_timeout_seconds
                )
            writers, reader = self._engines.new_pools()
            try:
                async with writers["read committed"].connect() as connection:
                    await connection.execute(select(literal(1)))
            except BaseException:
                await writers["read committed"].dispose()
                raise
        self._writers, self._reader = writers, reader

    async def close(self) -> None:
        """Close every connection; closing twice does nothing.

        Those who were cancelled a moment ago give theirs back first: a pool that is gone closes
        no connection.
        """
        writers, reader = self._writers, self._reader
        self._writers, self._reader = {}, None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_SECONDS):
                await self._is_idle.wait()
        for engine in (*writers.values(), reader):
            # Those that share a pool find it empty the second time.
            if engine is not None:
                await engine.dispose()

    @asynccontextmanager
    async def transaction(
        self, name: str | None = None, *, isolation: Isolation = "read committed"
    ) -> AsyncIterator[AsyncConnection]:
        """Run the body in one read-write transaction.

        It commits when the body ends, and rolls back when the body raises. On SQLite the write
        lock is taken at the start, so that a transaction never fails half-way for want of it, and
        every transaction is serializable, whatever is asked for.

        Args:
            name: names the crash points ``storage.<name>.commit.before`` and ``.after``.
            isolation: above "read committed" PostgreSQL may refuse at any statement and at the
                commit for the sake of another transaction: use `run_transaction` then.

        Raises:
            StorageError: the database refused or is gone; nothing was written, except that after
                a lost connection at the commit one must look.
            ValueError: there is no such isolation level.
        """
        if isolation not in ISOLATIONS:
            raise ValueError(f"isolation must be one of {ISOLATIONS}, got {isolation!r}")
        async with self._begun(_opened(self._writers.get(isolation))) as connection:
            yield connection
            if name is not None:
                reach(f"storage.{name}.commit.before")
        if name is not None:
            reach(f"storage.{name}.commit.after")

    async def run_transaction(
        self,
        work: Callable[[AsyncConnection], Awaitable[_Result]],
        *,
        name: str | None = None,
        isolation: Isolation = "serializable",
        attempts: int = 5,
    ) -> _Result:
        """Run ``work`` in a transaction, again if it gave way to another one.

        That is after a serialisation failure, a deadlock or a lock of SQLite that another program
        held too long: each time nothing was written. Every other error ends it, a lost connection
        above all, since nobody knows whether that transaction stands.

        Args:
            work: gets the connection; it may run several times, so what it does beside the
                database must bear that.
            name: as for `transaction`.
            isolation: as for `transaction`.
            attempts: how often at most, >= 1; between them it waits for up to 10 ms, doubled each
                time up to 1 s, by chance, so that those who met do not meet again.

        Raises:
            StorageError: the last attempt failed as well, or in another way.
            ValueError: ``attempts`` is below 1.
        """
        if attempts < 1:
            raise ValueError(f"attempts must be at least 1, got {attempts}")
        for attempt in itertools.count(1):  # pragma: no branch - it ends by itself
            try:
                async with self.transaction(name, isolation=isolation) as connection:
                    return await work(connection)
            except StorageError as error:
                if attempt >= attempts or not is_retryable(error):
                    raise
            await asyncio.sleep(_jittered_seconds(attempt))
        raise NotImplementedError  # for the type checker: the loop has no end of its own

    @asynccontextmanager
    async def savepoint(self, connection: AsyncConnection) -> AsyncIterator[None]:
        """Run the body so that its writes alone are undone when it raises.

        On PostgreSQL it is also how a transaction goes on after a statement that failed: catch the
        error outside of the savepoint. Savepoints nest.

        Args:
            connection: in a transaction of this database.

        Raises:
            StorageError: a statement of the body failed; the transaction can go on.
        """
        with self._translated():
            async with connection.begin_nested():
                yield

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Run the body on one read-only snapshot; it waits for no writer and blocks none.

        Raises:
            StorageError: the database refused or is gone, or the body tried to write.
        """
        async with self._begun(_opened(self._reader), commits=False) as connection:
            yield connection

    async def fetch(self, read: SingleRead, **values: Any) -> list[Sequence[Any]]:
        """Return the rows that one statement finds; several times cheaper than `reading`.

        Args:
            read: the statement.
            values: its values by name.

        Raises:
            StorageError: the database refused or is gone.
            KeyError: there is a value too many or too few.
        """
        return await self._in_one_turn(_opened(self._reader), read, values)

    async def write(self, write: SingleWrite, **values: Any) -> list[Sequence[Any]]:
        """Commit one statement and return its rows; several times cheaper than `transaction`.

        Its crash points lie before and after the whole: between the statement and its commit
        there is nothing of ours.

        Args:
            write: the statement.
            values: its values by name.

        Raises:
            StorageError: the database refused or is gone; nothing was written, except that after
                a lost connection one must look.
            KeyError: there is a value too many or too few.
        """
        engine = _opened(self._writers.get("read committed"))
        reach(f"storage.{write.name}.commit.before")
        rows = await self._in_one_turn(engine, write, values)
        reach(f"storage.{write.name}.commit.after")
        return rows

    async def migrate(self, to: str | None = None) -> list[MigrationStep]:
        """Bring the schema to this version; replicas that start together migrate once.

        Args:
            to: another revision. To an older one what came later is dropped with its rows.

        Returns:
            What was done, in order; nothing if the schema was there already.

        Raises:
            ConfigError: there is no revision ``to``.
            SchemaError: the schema is newer than this version of Kumiai.
            StorageError: the database refused; the schema is as it was.
        """
        _opened(self._reader)
        async with self._unhurried(foreign_keys=False) as connection:
            steps = await connection.run_sync(schema.migrate, to)
            await connection.commit()
            return steps

    async def planned_migration(self, to: str | None = None) -> list[MigrationStep]:
        """Return what `migrate` would do; nothing changes.

        Raises:
            ConfigError: there is no revision ``to``.
            SchemaError: the schema is newer than this version of Kumiai.
        """
        async with self.reading() as connection:
            return await connection.run_sync(schema.plan, to)

    async def verify_schema(self) -> None:
        """Check that the schema is that of this version.

        Raises:
            SchemaError: it is older or newer; the message says what to do.
        """
        async with self.reading() as connection:
            await connection.run_sync(schema.verify)

    async def health(self) -> DatabaseHealth:
        """Return how the database is and how busy the pool is.

        Raises:
            StorageError: it does not answer.
        """
        in_use, start = self._lent, time.perf_counter()
        async with self.reading() as connection:
            await connection.execute(select(literal(1)))
            latency = time.perf_counter() - start
            return await measured_health(
                connection,
                latency_seconds=latency,
                pool_in_use=in_use,
                pool_size=self._engines.pool_size,
                file=self._file,
            )

    async def examine(self, clock: Clock) -> list[DatabaseFinding]:
        """Look for whatever may be wrong, reading all there is; nothing changes.

        Args:
            clock: this machine's, to be compared with the database's.

        Returns:
            The findings; a database that does not answer is one.
        """
        try:
            await self.connect()
            health, now = await self.health(), clock.now()
            async with self._unhurried(reading=True) as connection:
                return [
                    each async for each in examine(connection, health, file=self._file, now=now)
                ]
        except StorageError as error:
            told, _, mend = str(error).rpartition("; ")
            return [DatabaseFinding("connection", "wrong", told, mend)]

    async def check(self) -> float:
        """Return how many seconds a trivial query takes, the wait for a connection included."""
        start = time.perf_counter()
        async with self.reading() as connection:
            await connection.execute(select(literal(1)))
        return time.perf_counter() - start

    async def _in_one_turn(
        self, engine: AsyncEngine, statement: SingleRead | SingleWrite, values: dict[str, Any]
    ) -> list[Sequence[Any]]:
        self._lent += 1
        self._is_idle.clear()
        try:
            with self._translated(OSError):
                return await single_statements.run(engine, statement, values)
        finally:
            self._take_back()

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
            closing = asyncio.ensure_future(self._close(connection))
            closing.add_done_callback(self._take_back)
            await asyncio.shield(closing)

    @asynccontextmanager
    async def _unhurried(
        self, *, reading: bool = False, foreign_keys: bool = True
    ) -> AsyncIterator[AsyncConnection]:
        """Lend a connection of its own, for what may take long; the caller commits."""
        engine = self._engines.new_unhurried(reading=reading, foreign_keys=foreign_keys)
        try:
            async with self._begun(engine, commits=False) as connection:
                yield connection
        finally:
            await engine.dispose()

    async def _close(self, connection: AsyncConnection) -> None:
        try:
            await connection.close()
        except self._breaking:
            # The connection broke while it was rolled back: what was read was read, and what was
            # not committed the server undoes by itself.
            with contextlib.suppress(*self._breaking):
                await connection.invalidate()
                await connection.close()

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
        mend = mend_of(error, self.dialect)
        if isinstance(error, PoolTimeoutError):
            seconds, size = self._engines.statement_timeout_seconds, self._engines.pool_size
            return (
                f"database {self._url} must have a free connection within {seconds:g} s, "
                f"got all {size} in use; {mend}"
            )
        return f"database {self._url} must answer, got {words_of(error)!r}; {mend}"


def _errors_of(dialect: Dialect) -> tuple[type[Exception], ...]:
    if dialect == "sqlite":
        return (sqlite3.Error,)
    try:
        import asyncpg  # noqa: F401, PLC0415 - an extra: SQLite works without it
    except ImportError as error:
        raise ConfigError(
            "database.url must be of SQLite, got postgresql without its driver; "
            "install kumiai[postgres]"
        ) from error
    from kumiai.storage.postgres_connections import ERRORS  # noqa: PLC0415 - it imports the driver

    return ERRORS


def _opened(engine: AsyncEngine | None) -> AsyncEngine:
    if engine is None:
        raise StorageError("database must be connected first, got a call before connect()")
    return engine


def _positive(seconds: float, name: str) -> float:
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{name}_timeout_seconds must be above 0, got {seconds}")
    return seconds


def _jittered_seconds(attempt: int) -> float:
    longest: float = min(_RETRY_SECONDS * 2 ** (attempt - 1), _RETRY_SECONDS_MAX)
    return longest * (secrets.randbelow(1001) / 1000)
