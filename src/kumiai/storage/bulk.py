"""Many rows at once, as fast as the driver takes them.

That is COPY on PostgreSQL, and one prepared INSERT for all of them on SQLite. All enter, or none:
the caller's transaction decides.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import Table, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.core.errors import ConflictError, KumiaiError, NotFoundError
from kumiai.storage.tables import clock_sql

__all__ = ["insert_rows", "now_of"]

_COPY_ROWS: Final = 10_000
_INSERT_ROWS: Final = 2_000

_UNIQUE: Final = {"23505", 1555, 2067}  # SQLite: of the primary key, of another
_FOREIGN_KEY: Final = {"23503", 787}


async def now_of(connection: AsyncConnection) -> float:
    """Return the database's clock."""
    return float((await connection.execute(select(clock_sql()))).scalar_one())


async def insert_rows(
    connection: AsyncConnection,
    table: Table,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
) -> int:
    """Insert all rows, however many; memory holds a few thousand at a time.

    Args:
        connection: in a read-write transaction.
        table: which; its triggers and defaults do their work.
        columns: of each row, in this order; other columns get their defaults.
        rows: values as the driver takes them.

    Returns:
        How many there were.

    Raises:
        ConflictError: a key is taken, or stands twice among the rows.
        NotFoundError: a row belongs to a run that does not exist.
    """
    count = 0
    is_postgresql = connection.dialect.name == "postgresql"
    waiting = iter(rows)
    while batch := list(itertools.islice(waiting, _COPY_ROWS if is_postgresql else _INSERT_ROWS)):
        try:
            if is_postgresql:
                await _copy(connection, table.name, columns, batch)
            else:
                names, marks = ", ".join(columns), ", ".join("?" * len(columns))
                statement = f"INSERT INTO {table.name} ({names}) VALUES ({marks})"  # noqa: S608
                await connection.exec_driver_sql(statement, [tuple(row) for row in batch])
        except Exception as error:
            known = _translated(error, table.name)
            if known is None:
                raise
            raise known from error
        count += len(batch)
    return count


async def _copy(
    connection: AsyncConnection, table: str, columns: Sequence[str], batch: list[Sequence[Any]]
) -> None:
    # The adapter begins a transaction with its first own statement, and COPY goes past it.
    await now_of(connection)
    raw = await connection.get_raw_connection()
    driver: Any = raw.driver_connection
    await driver.copy_records_to_table(table, records=batch, columns=list(columns))


def _translated(error: Exception, table: str) -> KumiaiError | None:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
    code = getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorcode", None)
    if code in _UNIQUE:
        return ConflictError(f"rows for {table} must have keys of their own, got one that is taken")
    if code in _FOREIGN_KEY:
        return NotFoundError(f"rows for {table} must belong to a run that exists, got another")
    return None
