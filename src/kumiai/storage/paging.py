"""Lists in pages: each page begins after the last row of the one before, by that row's own key.

Unlike an offset this costs the same for every page, and rows that come meanwhile neither push
another one into the page twice nor out of it. A cursor names the list that it belongs to by a
digest, so that one list's place is not taken for another's. It is no secret and not signed:
whoever makes one up gets a page of a list that they may read anyway.
"""

import base64
import binascii
import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Generic, TypeVar

from sqlalchemy import ColumnElement, Select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.core.digest import digest_of
from kumiai.core.errors import ConfigError
from kumiai.storage.rows import clean, parsed

__all__ = ["PAGE_LIMIT_MAX", "Order", "Page", "bytewise", "fetch_page", "name_of_list"]

PAGE_LIMIT_MAX: Final = 1000
_CURSOR_CHARS_MAX: Final = 2000
_KEY: Final = "page_key"
_IDENTIFIER: Final = "page_identifier"

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Page(Generic[_Item]):
    """Some rows of a list, in its order.

    Attributes:
        next_cursor: where the next page begins; ``None`` on the last page.
    """

    items: tuple[_Item, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Order:
    """The order of a list: by ``key``, and by ``identifier`` where keys are equal.

    Attributes:
        key: of type ``kind``, and never NULL.
        identifier: unique among rows of one key.
        kind: of the key in Python.
    """

    key: ColumnElement[Any]
    identifier: ColumnElement[str]
    kind: type[float] | type[int] | type[str]
    is_descending: bool = False


def name_of_list(kind: str, query: Any) -> str:
    """Return a short digest that differs for lists of other filters or another order.

    Args:
        kind: what is listed.
        query: a dataclass of plain values and collections of them.
    """
    values = {name: _plain(value) for name, value in asdict(query).items()}
    return digest_of([json.dumps([kind, values], sort_keys=True).encode()])[:16]


def bytewise(connection: AsyncConnection, column: ColumnElement[str]) -> ColumnElement[str]:
    """Return the text column compared by its bytes, which is the same order in each database."""
    return column.collate("C" if connection.dialect.name == "postgresql" else "BINARY")


async def fetch_page(
    connection: AsyncConnection,
    statement: Select[Any],
    build: Callable[..., _Item],
    *,
    order: Order,
    limit: int,
    cursor: str | None,
    list_name: str,
) -> Page[_Item]:
    """Return one page of the statement's rows.

    Args:
        connection: where it is read.
        statement: the filtered rows, without an order.
        build: makes an item of the statement's columns, as `kumiai.storage.rows.parsed` names
            them.
        order: of the rows.
        limit: how many items at most, 1 to `PAGE_LIMIT_MAX`.
        cursor: ``next_cursor`` of the page before; ``None`` for the first.
        list_name: of `name_of_list`.

    Raises:
        ValueError: ``limit`` is out of its range.
        ConfigError: the cursor is no cursor, or that of another list.
    """
    if not 1 <= limit <= PAGE_LIMIT_MAX:
        raise ValueError(f"limit must be 1 to {PAGE_LIMIT_MAX}, got {limit}")
    place = (order.key, order.identifier)
    if cursor is not None:
        after = _decoded(cursor, list_name, order.kind)
        bounds = tuple_(*place)
        statement = statement.where(bounds < after if order.is_descending else bounds > after)
    ordered = statement.add_columns(
        order.key.label(_KEY), order.identifier.label(_IDENTIFIER)
    ).order_by(*(each.desc() if order.is_descending else each.asc() for each in place))
    rows = (await connection.execute(ordered.limit(limit + 1))).all()
    next_cursor = None
    found = [parsed(row) for row in rows[:limit]]
    places = [(values.pop(_KEY), values.pop(_IDENTIFIER)) for values in found]
    if len(rows) > limit:
        key, identifier = places[-1]
        next_cursor = _encoded(list_name, order.kind(key), identifier)
    return Page(tuple(build(**values) for values in found), next_cursor)


def _plain(value: Any) -> Any:
    # A set has no order, and a list of filters none that matters.
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, Collection) and not isinstance(value, str):
        return sorted(value)
    return value


def _encoded(list_name: str, key: float | str, identifier: str) -> str:
    # JSON tells a float so that it reads back as the same float.
    text = json.dumps([list_name, key, identifier], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decoded(
    cursor: str, list_name: str, kind: type[float] | type[int] | type[str]
) -> tuple[Any, str]:
    if len(cursor) > _CURSOR_CHARS_MAX:
        raise _foreign()
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        found = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        raise _foreign() from None
    match found:
        case [str(name), _, str()] if name != list_name:
            raise ConfigError(
                "cursor must be of this list, got one of other filters or another order; begin "
                "without a cursor"
            )
        case [str(), key, str(identifier)] if type(key) is kind and _fits(key, identifier):
            return key, identifier
    raise _foreign()


def _fits(key: Any, identifier: str) -> bool:
    """Tell whether a database takes these values."""
    match key:
        case float():
            return math.isfinite(key) and _is_storable(identifier)
        case int():
            return abs(key) < 2**31 and _is_storable(identifier)
        case _:
            return _is_storable(key) and _is_storable(identifier)


def _is_storable(text: str) -> bool:
    return clean(text) == text


def _foreign() -> ConfigError:
    return ConfigError("cursor must be the one that the page before gave, got something else")
