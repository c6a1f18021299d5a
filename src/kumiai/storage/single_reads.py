"""Reading by one statement, in one turn: what hot questions need, at the price of the driver.

SQLAlchemy's way through a transaction costs several times as much as the question itself. A
single SELECT is a snapshot by itself and needs none; so its text is compiled once, and it runs on
a connection of the pool without anything around it.

Not for writing, not for statements that are built anew for each call, and only for columns of
text, numbers, booleans and bytes, which the drivers take and give as they are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Boolean, Dialect, Select
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection

__all__ = ["SingleRead", "fetch"]

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class _Compiled:
    text: str
    names: tuple[str, ...]
    defaults: Mapping[str, Any]
    booleans: tuple[int, ...]
    """Of SQLite, which has no booleans: the columns that are to be some."""


class SingleRead:
    """A SELECT whose values are given by name at each call.

    Args:
        statement: built once, with `sqlalchemy.bindparam` for what differs.
    """

    def __init__(self, statement: Select[Any]) -> None:
        self._statement = statement
        columns = statement.exported_columns
        self.fields = tuple(str(column.key) for column in columns)
        """The names of the columns."""
        self._booleans = tuple(
            index for index, column in enumerate(columns) if isinstance(column.type, Boolean)
        )
        self._compiled: dict[str, _Compiled] = {}

    def compiled_for(self, dialect: Dialect) -> _Compiled:
        """Return the statement as the driver takes it; compiled at the first call."""
        found = self._compiled.get(dialect.name)
        if found is None:
            compiled = self._statement.compile(dialect=dialect)
            found = self._compiled[dialect.name] = _Compiled(
                str(compiled),
                tuple(compiled.positiontup or ()),
                dict(compiled.params),
                self._booleans if dialect.name == "sqlite" else (),
            )
        return found


async def fetch(
    engine: AsyncEngine, read: SingleRead, values: Mapping[str, Any]
) -> list[Sequence[Any]]:
    """Return the rows that a statement finds, each as long as ``read.fields``.

    Args:
        engine: for reading.
        read: the statement.
        values: by name; what the statement does not know is a mistake.

    Raises:
        KeyError: there is no such value in the statement.
        Exception: the driver's own.
    """
    compiled = read.compiled_for(engine.dialect)
    if unknown := values.keys() - compiled.defaults.keys():
        raise KeyError(f"values must be of the statement, got {sorted(unknown)}")
    given = {**compiled.defaults, **values}
    arguments = [given[name] for name in compiled.names]
    lent = await engine.raw_connection()
    try:
        rows = await _run(engine, lent, compiled.text, arguments)
    except BaseException as error:
        _give_back_after(lent, error)
        raise
    lent.close()
    return [_with_booleans(row, compiled.booleans) for row in rows] if compiled.booleans else rows


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


def _give_back_after(lent: PoolProxiedConnection, error: BaseException) -> None:
    # The driver's refusal leaves the connection as it was. After anything else, a time-out or a
    # cancellation above all, an answer may still be on its way that must reach nobody.
    is_closed = getattr(lent.driver_connection, "is_closed", bool)
    if isinstance(error, Exception) and not isinstance(error, OSError) and not is_closed():
        lent.close()
    else:
        lent.invalidate()


def _with_booleans(row: Sequence[Any], columns: tuple[int, ...]) -> Sequence[Any]:
    values = list(row)
    for index in columns:
        if values[index] is not None:
            values[index] = bool(values[index])
    return values
