"""The filters that lists of what people named, described and tagged have in common."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import ColumnElement
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.storage.descriptions import verify_tag
from kumiai.storage.filters import MetricFloor, in_period
from kumiai.storage.rows import clean
from kumiai.storage.search import Searchable

__all__ = ["DescribedQuery", "described_as"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedQuery:
    """What lists of sessions and of models filter by; what is left out lets everything through.

    Attributes:
        name: of exactly this name.
        tags: with all of these.
        search: words, each the beginning of one in the name, the description or a tag.
        created_from, created_before: seconds since 1970 UTC; the first is included.
        metric: a model was evaluated to at least this; of a session some round's.
    """

    name: str | None = None
    tags: Collection[str] = ()
    search: str | None = None
    created_from: float | None = None
    created_before: float | None = None
    metric: MetricFloor | None = None

    def conditions(
        self, connection: AsyncConnection, searchable: Searchable
    ) -> list[ColumnElement[bool]]:
        """Return the conditions of all but the metric, which each table has elsewhere.

        Args:
            connection: says which database it is for.
            searchable: has the columns ``name`` and ``created_at``, too.

        Raises:
            ConfigError: a tag is none, the search is too long, or a time is not finite.
        """
        columns = searchable.rows.c
        named = [] if self.name is None else [columns.name == clean(self.name)]
        return [
            *named,
            *in_period(columns.created_at, self.created_from, self.created_before),
            *described_as(connection, searchable, tags=self.tags, search=self.search),
        ]


def described_as(
    connection: AsyncConnection,
    searchable: Searchable,
    *,
    tags: Collection[str],
    search: str | None,
) -> list[ColumnElement[bool]]:
    """Return the conditions that a row has all these tags and is found by these words.

    Raises:
        ConfigError: a tag is none, or the search is too long.
    """
    conditions = [searchable.has_tag(connection, verify_tag(tag)) for tag in sorted(tags)]
    if search is not None:
        conditions.append(searchable.matches(connection, search))
    return conditions
