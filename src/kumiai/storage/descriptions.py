"""What people write about a run, a model or a client: checked, changed version by version."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Column, ColumnElement, Row, Table, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.core.errors import ConfigError, ConflictError, NotFoundError
from kumiai.storage.rows import clean, json_text, parsed
from kumiai.storage.search import search_terms

__all__ = [
    "DESCRIPTION_CHARS_MAX",
    "TAG_COUNT_MAX",
    "Changes",
    "change_row",
    "described_values",
    "verify_description",
    "verify_tag",
]

DESCRIPTION_CHARS_MAX: Final = 2000
TAG_COUNT_MAX: Final = 32
_TAG: Final = re.compile(r"[a-z0-9][a-z0-9._:/=+-]{0,62}")


@dataclass(frozen=True, slots=True)
class Changes:
    """What to change; what is left out stays.

    Attributes:
        description: the new one, at most `DESCRIPTION_CHARS_MAX` characters; ``""`` removes it.
        tags: exactly these from now on; ``None`` keeps those that are.
        add_tags, remove_tags: applied after ``tags``, in this order.
    """

    description: str | None = None
    tags: Collection[str] | None = None
    add_tags: Collection[str] = ()
    remove_tags: Collection[str] = ()

    def tags_after(self, before: Iterable[str]) -> tuple[str, ...]:
        """Return the tags that result, sorted.

        Raises:
            ConfigError: one is no tag, or there are more than `TAG_COUNT_MAX`.
        """
        tags = set(before if self.tags is None else self.tags)
        return _verified_tags((tags | set(self.add_tags)) - set(self.remove_tags))


def verify_tag(tag: str) -> str:
    """Return ``tag`` if it is one.

    Raises:
        ConfigError: it is not 1 to 63 lower-case letters, digits or ``._:/=+-``, beginning with
            a letter or digit.
    """
    if not _TAG.fullmatch(tag):
        shown = tag if len(tag) <= 80 else tag[:77] + "..."
        raise ConfigError(
            "tag must be 1 to 63 lower-case letters, digits or '._:/=+-', beginning with a letter "
            f"or digit, got {shown!r}"
        )
    return tag


def verify_description(text: str) -> str:
    """Return the text as it is stored: without control characters.

    Raises:
        ConfigError: it is longer than `DESCRIPTION_CHARS_MAX`.
    """
    if len(text) > DESCRIPTION_CHARS_MAX:
        raise ConfigError(
            f"description must be at most {DESCRIPTION_CHARS_MAX} characters, got {len(text)}"
        )
    return clean(text)


def described_values(description: str, tags: Collection[str], *names: str) -> dict[str, Any]:
    """Return the columns of a new row that people described; ``names`` are searched, too.

    Raises:
        ConfigError: the description is too long, a tag is none, or there are too many.
    """
    description, tags = verify_description(description), _verified_tags(tags)
    return {
        "description": description,
        "tags_json": json_text(list(tags)) if tags else "[]",
        "search_terms": search_terms(*names, description, *tags),
    }


async def change_row(
    connection: AsyncConnection,
    table: Table,
    key: tuple[Column[str], str],
    changes: Changes,
    *,
    returning: Sequence[ColumnElement[Any]],
    name_columns: Sequence[str],
    others: Mapping[str, str] | None = None,
    expected_version: int | None = None,
) -> tuple[Row[Any], bool]:
    """Change one row under its lock; its version grows if anything in it does.

    Args:
        connection: in a read-write transaction.
        table: with the columns that all described tables have.
        key: the key's column and value.
        changes: of description and tags.
        returning: the columns of the row that is returned.
        name_columns: the other columns by which the row is searched.
        others: further columns to set, verified by the caller.
        expected_version: the version that the caller has read; ``None`` for whatever there is.

    Returns:
        The row as it now is, and whether it changed.

    Raises:
        NotFoundError: there is no such row.
        ConflictError: its version is another one than expected.
        ConfigError: the description is too long, or a tag is none.
    """
    column, value = key
    what = table.name.removesuffix("s")
    # Not the full lock: rows that point at this one may come meanwhile.
    locked = select(table).where(column == value).with_for_update(key_share=True)
    row = (await connection.execute(locked)).one_or_none()
    if row is None:
        raise NotFoundError(f"{what} must exist, got {value[:80]!r}")
    found = parsed(row)
    if expected_version is not None and found["row_version"] != expected_version:
        raise ConflictError(
            f"{what} {value} must be of version {expected_version}, got {found['row_version']}: "
            "somebody has changed it since; read it again"
        )
    description = found["description"]
    if changes.description is not None:
        description = verify_description(changes.description)
    tags = changes.tags_after(found["tags"])
    others = dict(others or {})
    after = {"description": description, "tags": tags, **others}
    changed = any(found[name] != text for name, text in after.items())
    names = [others.get(name, found[name]) for name in name_columns]
    if changed:
        values = {
            **others,
            **described_values(description, tags, *names),
            "row_version": table.c.row_version + 1,
        }
        await connection.execute(update(table).where(column == value).values(values))
    fresh = await connection.execute(select(*returning).where(column == value))
    return fresh.one(), changed


def _verified_tags(tags: Collection[str]) -> tuple[str, ...]:
    kept = tuple(sorted({verify_tag(tag) for tag in tags}))
    if len(kept) > TAG_COUNT_MAX:
        raise ConfigError(f"tags must be at most {TAG_COUNT_MAX}, got {len(kept)}")
    return kept
