"""Connections to an SQLite file, set up as this product needs them.

The pool is SQLAlchemy's, but for its queue. WAL, so that readers wait for no writer; foreign keys,
which SQLite leaves off; and transactions that we begin ourselves, with the lock we want.
"""

import asyncio
import os
import sqlite3
import time
import weakref
from typing import Any, Literal

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
    "WholeConnection",
    "new_sqlite_engine",
    "prepare_sqlite_file",
]

SQLiteSynchronous = Literal["FULL", "NORMAL", "OFF"]


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


class WholeConnection(sqlite3.Connection):
    """Holds nothing of the file once it is closed.

    SQLite keeps the lock and the snapshot of a closed connection for as long as one of its
    statements is open, and a cancelled task's traceback may keep that one alive for long.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._cursors: weakref.WeakSet[sqlite3.Cursor] = weakref.WeakSet()

    def cursor(self, *arguments: Any) -> Any:
        """Return a cursor that is closed with the connection, if it is not before."""
        cursor = super().cursor(*arguments)
        self._cursors.add(cursor)
        return cursor

    def close(self) -> None:
        """Close; again does nothing, as the driver does it where a close was cancelled."""
        while self._cursors:
            self._cursors.pop().close()
        super().close()


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
            "factory": WholeConnection,
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
