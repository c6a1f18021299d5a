"""Connections to an SQLite file, set up as this product needs them.

The pool is SQLAlchemy's, but for its queue. WAL, so that readers wait for no writer; foreign keys,
which SQLite leaves off; and transactions that we begin ourselves, with the lock we want.
"""

import asyncio
import os
import sqlite3
import time
import weakref
from typing import Any, Final, Literal

import aiosqlite
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, NullPool
from sqlalchemy.util.queue import AsyncAdaptedQueue

from kumiai.storage.database_errors import is_busy
from kumiai.storage.database_url import DatabaseURL

__all__ = [
    "ReadyPool",
    "SQLiteSynchronous",
    "new_sqlite_engine",
    "prepare_sqlite_file",
]

SQLiteSynchronous = Literal["FULL", "NORMAL", "OFF"]

_ROWS_AT_ONCE: Final = 64


class _ReadyQueue(AsyncAdaptedQueue[ConnectionPoolEntry]):
    def get(self, block: bool = True, timeout: float | None = None) -> ConnectionPoolEntry:  # noqa: FBT001, FBT002 - the pool's
        # Some versions of SQLAlchemy wait in any case, for which one must be in a greenlet.
        return super().get(block, timeout) if self.empty() else self.get_nowait()


class ReadyPool(AsyncAdaptedQueuePool):
    """A pool that lends a connection that stands ready without a wait.

    So it can be asked outside of a greenlet as long as ``checkedin()`` is not 0: to enter one
    costs as much as to ask the file.
    """

    _queue_class = _ReadyQueue


class _WholeConnection(sqlite3.Connection):
    """Holds nothing of the file once it is closed.

    SQLite keeps the lock and the snapshot of a closed connection for as long as one of its
    statements is open, and a cancelled task's traceback may keep that one alive for long.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._cursors: weakref.WeakSet[sqlite3.Cursor] = weakref.WeakSet()

    def cursor(self, *arguments: Any) -> Any:
        cursor = super().cursor(*arguments)
        self._cursors.add(cursor)
        return cursor

    def close(self) -> None:
        for cursor in tuple(self._cursors):
            cursor.close()
        super().close()


class _EndingConnection(aiosqlite.Connection):
    """Ends once, and whoever ends it waits for that, however many do and whoever is cancelled.

    The driver's own closes and then stops its thread, in two steps, each time it is told to. It
    waits for ever if the thread has ended in between, as SQLAlchemy lets it where a task is
    cancelled that gives a connection up.
    """

    _ended: asyncio.Future[Any] | None = None

    def stop(self) -> asyncio.Future[Any] | None:
        """Close and end the thread, after all that it was told before; again does nothing more.

        Returns:
            What is done then, and whoever asks may cancel; ``None`` outside of an event loop.
        """
        if self._running:
            self._ended = super().stop()
        return None if self._ended is None else asyncio.shield(self._ended)

    async def close(self) -> None:
        """Wait until the connection is closed; who waits may be cancelled, the end goes on."""
        if (ended := self.stop()) is not None:
            await ended


def _new_connection(path: str, **options: Any) -> aiosqlite.Connection:
    """Return a connection that opens the file when it is awaited."""
    connection = _EndingConnection(
        lambda: sqlite3.connect(path, factory=_WholeConnection, **options), _ROWS_AT_ONCE
    )
    # One that is lost must not keep the program from its end; SQLAlchemy does so with its own.
    connection._thread.daemon = True  # noqa: SLF001 - the driver has no other way
    return connection


def new_sqlite_engine(
    url: DatabaseURL,
    *,
    lock_timeout_seconds: float,
    pool: dict[str, Any],
    synchronous: SQLiteSynchronous = "FULL",
    reading: bool = False,
    autocommit: bool = False,
    foreign_keys: bool = True,
) -> AsyncEngine:
    """Return an engine for the file.

    Args:
        url: of SQLite.
        lock_timeout_seconds: how long a statement waits for another program's lock.
        pool: arguments of `create_async_engine` about the pool.
        synchronous: how much a commit waits for.
        reading: refuse to write; transactions are snapshots.
        autocommit: begin no transaction.
        foreign_keys: enforce them. A migration does not: it drops tables to make them anew, which
            would delete the rows that refer to them.
    """
    engine = create_async_engine(
        url.engine,
        hide_parameters=True,
        # None: Python begins no transaction by itself, we do, with the lock we want.
        connect_args={
            "isolation_level": None,
            "timeout": lock_timeout_seconds,
            "async_creator_fn": _new_connection,
        },
        **pool,
    )
    pragmas = [f"foreign_keys = {int(foreign_keys)}", f"synchronous = {synchronous}"]
    if reading:
        pragmas.append("query_only = 1")
    _listen(engine, pragmas, begin=None if autocommit else _begin_statement(reading=reading))
    return engine


def _begin_statement(*, reading: bool) -> str:
    return "BEGIN" if reading else "BEGIN IMMEDIATE"


def _listen(engine: AsyncEngine, pragmas: list[str], *, begin: str | None) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def _on_connect(connection: DBAPIConnection, _record: object) -> None:
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    # These two go to the driver directly: by way of a cursor each would take four turns of the
    # connection's thread instead of one.
    @event.listens_for(engine.sync_engine, "begin")
    def _on_begin(connection: Any) -> None:
        if begin is not None:
            driver_call = connection.connection.dbapi_connection.run_async
            driver_call(lambda driver: driver.execute(begin))

    @event.listens_for(engine.sync_engine, "reset")
    def _on_reset(connection: DBAPIConnection, _record: object, _state: object) -> None:
        if connection.driver_connection.in_transaction:
            connection.rollback()


async def prepare_sqlite_file(url: DatabaseURL, *, lock_timeout_seconds: float) -> None:
    """Create the file if there is none, and put it into WAL mode, in which it stays.

    Raises:
        OSError: the file can not be created or written.
        DBAPIError: it is no database, or another program holds it for too long.
    """
    # Created here for its mode: the file holds metrics and names of clients. What is no file, or
    # can not be written, fails here as well, and not in the driver's thread.
    os.close(os.open(str(url.database), os.O_CREAT | os.O_RDWR, 0o600))
    engine = new_sqlite_engine(
        url,
        lock_timeout_seconds=lock_timeout_seconds,
        pool={"poolclass": NullPool},
        autocommit=True,
    )
    deadline = time.monotonic() + lock_timeout_seconds
    try:
        while True:
            try:
                async with engine.connect() as connection:
                    await connection.exec_driver_sql("PRAGMA journal_mode = WAL")
                    return
            except DBAPIError as error:
                # SQLite does not wait for this one lock; a second process that starts at
                # the same instant may hold it.
                if not is_busy(error) or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.01)
    finally:
        await engine.dispose()
