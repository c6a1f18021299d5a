"""Conditions that several lists share: a period of time, the value of a metric in JSON."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Double, cast, func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.core.errors import ConfigError
from kumiai.storage.rows import clean, json_text

__all__ = ["MetricFloor", "has_entry", "in_period", "metric_value", "metrics_text"]


@dataclass(frozen=True, slots=True)
class MetricFloor:
    """The condition that a metric is known and not below a value.

    Raises:
        ConfigError: the value is not finite.
    """

    name: str
    at_least: float

    def __post_init__(self) -> None:
        """Check the value: databases differ in how they compare others."""
        if not math.isfinite(self.at_least):
            raise ConfigError(f"the least {self.name!r} must be finite, got {self.at_least}")

    def holds(
        self, connection: AsyncConnection, metrics: ColumnElement[Any]
    ) -> ColumnElement[bool]:
        """Return the condition for a column of JSON metrics."""
        return metric_value(connection, metrics, self.name) >= self.at_least


def metrics_text(metrics: Mapping[str, float]) -> str:
    """Return metrics from elsewhere as the JSON of a row.

    Raises:
        ConfigError: a name has control characters: PostgreSQL could read no metric beside it.
        ValueError: a value is not finite.
    """
    for name in metrics:
        if clean(name) != name:
            raise ConfigError(f"name of a metric must be plain text, got {clean(name)[:80]!r}")
    return json_text(metrics)


def metric_value(
    connection: AsyncConnection, metrics: ColumnElement[Any], name: str
) -> ColumnElement[float]:
    """Return the metric's value, NULL if the JSON or the metric is missing.

    Args:
        connection: says which database it is for.
        metrics: a column that holds an object of numbers as JSON text, or NULL.
        name: any text; it is a value and no path.
    """
    if connection.dialect.name == "postgresql":
        return cast(cast(metrics, JSONB).op("->>")(name), Double())
    each = func.json_each(metrics).table_valued("key", "value")
    value: ColumnElement[float] = cast(
        select(each.c.value).where(each.c.key == name).scalar_subquery(), Double()
    )
    return value


def has_entry(
    connection: AsyncConnection, entries: ColumnElement[Any], entry: str
) -> ColumnElement[bool]:
    """Return the condition that a column of JSON lists of texts has this text in its list."""
    if connection.dialect.name == "postgresql":
        return cast(entries, JSONB).contains([entry])
    each = func.json_each(entries).table_valued("value")
    return select(each.c.value).where(each.c.value == entry).exists()


def in_period(
    column: ColumnElement[float], since: float | None, before: float | None
) -> list[ColumnElement[bool]]:
    """Return the conditions that a time lies in a period; ``None`` leaves that side open.

    Args:
        column: of times.
        since: seconds since 1970 UTC, included.
        before: seconds since 1970 UTC, not included.

    Raises:
        ConfigError: one is not finite.
    """
    for name, value in (("since", since), ("before", before)):
        if value is not None and not math.isfinite(value):
            raise ConfigError(f"{name} must be finite, got {value}")
    conditions = [] if since is None else [column >= since]
    return conditions if before is None else [*conditions, column < before]
