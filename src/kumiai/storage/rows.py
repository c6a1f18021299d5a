"""Between rows and records: JSON text, clean text, and the few statements that differ by dialect.

Not a repository: nothing here is told what a run is.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

from sqlalchemy import ARRAY, Column, ColumnElement, Row, Table, Text, bindparam, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import DeclarativeBase

from kumiai.storage.tables import Event, clock_sql

__all__ = [
    "add_event_row",
    "clean",
    "columns_of",
    "is_one_of",
    "json_text",
    "parsed",
    "parsed_values",
    "table_of",
    "upsert",
]

_TEXT_CHARS_MAX = 2000
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""All but tab and line feed, those that turn the direction of writing, and halves of a pair."""


def table_of(model: type[DeclarativeBase]) -> Table:
    """Return the Core table of an ORM class."""
    return cast("Table", model.__table__)


_EVENTS = table_of(Event)


def columns_of(model: type[DeclarativeBase]) -> tuple[Column[Any], ...]:
    """Return the columns that a record has: all but what only the search looks at."""
    return tuple(column for column in table_of(model).c if column.name != "search_terms")


def parsed(row: Row[Any]) -> dict[str, Any]:
    """Return the row by column, with each ``x_json`` parsed and named ``x``; lists are tuples."""
    return parsed_values(row._fields, row)


def parsed_values(columns: tuple[str, ...], values: Iterable[Any]) -> dict[str, Any]:
    """Return the values by the names of their columns, as `parsed` does."""
    return {
        name: _from_json(value) if is_json and value is not None else value
        for (name, is_json), value in zip(_fields(columns), values, strict=True)
    }


def _from_json(text: str) -> Any:
    value = json.loads(text)
    return tuple(value) if isinstance(value, list) else value


@lru_cache(maxsize=256)  # as many statements as we have; a run of a thousand clients asks often
def _fields(columns: tuple[str, ...]) -> tuple[tuple[str, bool], ...]:
    return tuple((name.removesuffix("_json"), name.endswith("_json")) for name in columns)


def json_text(value: Any) -> str:
    """Return JSON that is the same for equal values.

    Raises:
        ValueError: a number is not finite.
        TypeError: something in it has no place in JSON.
    """
    return _ENCODER.encode(_plain(value))


def _plain(value: Any) -> Any:
    # Mapping is what our signatures promise; json knows only dict.
    return dict(value) if isinstance(value, Mapping) else value


def clean(text: str) -> str:
    """Return ``text`` fit for a row: cut at 2000 characters, control characters replaced.

    Reasons come from other machines too. PostgreSQL stores no NUL, and that must not look like
    a failure of the database; an escape sequence must not reach an operator's terminal.
    """
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text[:_TEXT_CHARS_MAX])


def is_one_of(
    connection: AsyncConnection, column: ColumnElement[str], values: Sequence[str]
) -> ColumnElement[bool]:
    """Return ``column IN values`` with the values as one parameter.

    One parameter, so that the statement's text, and with it the server's plan, is the same for
    any number of values.
    """
    if connection.dialect.name == "postgresql":
        return column == func.any(bindparam(None, list(values), ARRAY(Text)))
    elements = func.json_each(json.dumps(list(values))).table_valued("value")
    return column.in_(select(elements.c.value))


def upsert(connection: AsyncConnection, table: Table) -> "postgresql.Insert | sqlite.Insert":
    """Return the dialect's INSERT, which knows ON CONFLICT."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


async def add_event_row(
    connection: AsyncConnection,
    run_id: str,
    *,
    kind: str,
    text: str,
    level: str = "info",
    round: int | None = None,  # noqa: A002 - the glossary's word
    client_id: str | None = None,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Insert an event; the caller's transaction holds the lock of the run's row.

    The lock makes the numbers of a run's events follow the order of their commits. Without it a
    reader that asks for what comes after the last number it saw can miss one for ever.
    """
    await connection.execute(
        _EVENTS.insert().values(
            run_id=run_id,
            round=round,
            at=clock_sql(),
            level=level,
            kind=kind,
            client_id=client_id,
            text=clean(text),
            data_json=None if data is None else json_text(data),
        )
    )
