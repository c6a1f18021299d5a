"""One statement in one turn: what hot calls need, at the price of the driver.

SQLAlchemy's way through a transaction costs several times as much as the statement itself. A
single SELECT is a snapshot by itself, and a single INSERT, UPDATE or DELETE a transaction, in
both databases; so the text is compiled once, and it runs on a connection of the pool without
anything around it.

Not for statements that belong together or are built anew for each call, and only for columns of
text, numbers, booleans and bytes, which the drivers take and give as they are.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Boolean, Delete, Dialect, Insert, Select, Update
from sqlalchemy.exc import MissingGreenlet
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection

from kumiai.storage.database_errors import is_read_only_server
from kumiai.storage.sqlite_connections import ReadyPool

__all__ = ["SingleRead", "SingleWrite", "run"]

_Result = TypeVar("_Result")

_SETTLE_SECONDS = {"postgresql": 5.0, "sqlite": 60.0}
"""How long a statement that was given up may take; a file's wait for its lock ends by itself."""
_NOTHING = "SELECT 1"


@dataclass(frozen=True, slots=True)
class _Compiled:
    text: str
    names: tuple[str, ...]
    given: Mapping[str, Any]
    """The values that the statement brings along."""
    asked: frozenset[str]
    booleans: tuple[int, ...]
    """Of SQLite, which has no booleans: the columns that are to be some."""


class _SingleStatement:
    def __init__(
        self,
        statement: Select[Any] | Insert | Update | Delete,
        on_sqlite: Insert | Update | Delete | None = None,
    ) -> None:
        self._statement = statement
        self._on_sqlite = statement if on_sqlite is None else on_sqlite
        columns = statement.exported_columns
        self.fields = tuple(str(column.key) for column in columns)
        """The names of the columns."""
        self._booleans = tuple(
            index for index, column in enumerate(columns) if isinstance(column.type, Boolean)
        )
        self._compiled: dict[str, _Compiled] = {}

    def statement_for(self, dialect: Dialect) -> Select[Any] | Insert | Update | Delete:
        """Return the statement, for where it is one of several in a transaction."""
        return self._on_sqlite if dialect.name == "sqlite" else self._statement

    def compiled_for(self, dialect: Dialect) -> _Compiled:
        """Return the statement as the driver takes it; compiled at the first call."""
        found = self._compiled.get(dialect.name)
        if found is None:
            compiled: Any = self.statement_for(dialect).compile(dialect=dialect)
            asked = frozenset(name for name, bind in compiled.binds.items() if bind.required)
            found = self._compiled[dialect.name] = _Compiled(
                str(compiled),
                tuple(compiled.positiontup or ()),
                {name: compiled.params[name] for name in compiled.params.keys() - asked},
                asked,
                self._booleans if dialect.name == "sqlite" else (),
            )
        return found


class SingleRead(_SingleStatement):
    """A SELECT whose values are given by name at each call.

    Args:
        statement: built once, with `sqlalchemy.bindparam` for what differs.
    """

    def __init__(self, statement: Select[Any]) -> None:
        super().__init__(statement)


class SingleWrite(_SingleStatement):
    """A write that is a transaction by itself; its values are given by name at each call.

    Args:
        name: names the crash points ``storage.<name>.commit.before`` and ``.after``.
        statement: built once, with `sqlalchemy.bindparam` for what differs and RETURNING for
            what became of it.
        on_sqlite: the same for SQLite, where its form differs.

    Raises:
        ValueError: the statement returns nothing.
    """

    def __init__(
        self,
        name: str,
        statement: Insert | Update | Delete,
        *,
        on_sqlite: Insert | Update | Delete | None = None,
    ) -> None:
        super().__init__(statement, on_sqlite)
        if not self.fields:
            raise ValueError(f"statement of {name} must return columns, got none")
        self.name = name


async def run(
    engine: AsyncEngine, statement: SingleRead | SingleWrite, values: Mapping[str, Any]
) -> list[Sequence[Any]]:
    """Return the rows that a statement finds or returns; a write is committed then.

    Who is cancelled while it writes hears so once the write stands or does not, whichever it is:
    else what the caller does next could overtake it. So does who reads a file, for its thread can
    not be stopped and would outlive the loop that it answers to.

    Args:
        engine: for reading or for writing.
        statement: each row is as long as its ``fields``.
        values: by name, all that the statement asks for and no others.

    Raises:
        KeyError: there is a value too many or too few.
        Exception: the driver's own; nothing was written, except that after a lost connection one
            must look.
    """
    compiled = statement.compiled_for(engine.dialect)
    if values.keys() != compiled.asked:
        raise KeyError(f"values must be {sorted(compiled.asked)}, got {sorted(values)}")
    given = {**compiled.given, **values}
    arguments = [given[name] for name in compiled.names]
    lent = await _lend(engine)
    try:
        rows = await _run(engine, lent, compiled.text, arguments)
    except BaseException as error:
        is_running = isinstance(statement, SingleWrite) or engine.dialect.name == "sqlite"
        if is_running and isinstance(error, asyncio.CancelledError):
            await _outlast(asyncio.ensure_future(_settle(engine, lent)))
        else:
            _give_back_after(engine, lent, error)
        raise
    lent.close()
    return [_with_booleans(row, compiled.booleans) for row in rows] if compiled.booleans else rows


async def _lend(engine: AsyncEngine) -> PoolProxiedConnection:
    pool = engine.sync_engine.pool
    if isinstance(pool, ReadyPool) and pool.checkedin():
        with contextlib.suppress(MissingGreenlet):  # it had broken, and must be opened anew
            return engine.sync_engine.raw_connection()
    return await engine.raw_connection()


async def _run(
    engine: AsyncEngine, lent: PoolProxiedConnection, text: str, arguments: list[Any]
) -> list[Sequence[Any]]:
    driver: Any = lent.driver_connection
    if engine.dialect.name == "postgresql":
        found: list[Sequence[Any]] = await driver.fetch(text, *arguments)
        return found
    # By the driver's cursor this would be several turns of its thread.
    return await _in_thread(driver, lambda raw: raw.execute(text, arguments).fetchall())


async def _in_thread(driver: Any, work: Callable[[Any], _Result]) -> _Result:
    result: _Result = await driver._execute(lambda: work(driver._conn))  # noqa: SLF001
    return result


def _give_back_after(
    engine: AsyncEngine, lent: PoolProxiedConnection, error: BaseException
) -> None:
    if isinstance(error, OSError) or is_read_only_server(error):
        # A server that is silent, gone or a standby now: none of its connections is of use.
        engine.sync_engine.pool._invalidate(lent, error)  # noqa: SLF001 - as SQLAlchemy does
        return
    # The driver's refusal leaves the connection as it was. After anything else, a cancellation
    # above all, an answer may still be on its way that must reach nobody.
    is_closed = getattr(lent.driver_connection, "is_closed", bool)
    if isinstance(error, Exception) and not is_closed():
        lent.close()
    else:
        lent.invalidate()


async def _settle(engine: AsyncEngine, lent: PoolProxiedConnection) -> None:
    """Give a connection back once its statement, which nobody waits for, has ended."""
    is_clear = False
    try:
        async with asyncio.timeout(_SETTLE_SECONDS[engine.dialect.name]):
            # It stands in line behind that statement, or behind the server's ending of it.
            await _run(engine, lent, _NOTHING, [])
            is_clear = True
    finally:
        if is_clear:
            lent.close()
        else:
            lent.invalidate()


async def _outlast(task: asyncio.Future[None]) -> None:
    # Cancelled once more it still waits: the first cancellation goes on afterwards, and the
    # connection must not be out when its pool closes.
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # seen to already: that connection is given up


def _with_booleans(row: Sequence[Any], columns: tuple[int, ...]) -> Sequence[Any]:
    values = list(row)
    for index in columns:
        if values[index] is not None:
            values[index] = bool(values[index])
    return values
