"""What the lists of runs and of models take alike: filters, and how long a page is."""

from collections.abc import Sequence
from typing import Annotated, TypedDict

from fastapi import Depends, Query

from kumiai.core.errors import ConfigError
from kumiai.storage import MetricFloor

__all__ = ["Filters", "Limit"]


class _Filters(TypedDict):
    """Arguments of a query to a repository, under its names."""

    name: str | None
    tags: Sequence[str]
    search: str | None
    created_from: float | None
    created_before: float | None
    metric: MetricFloor | None


async def _filters(
    *,
    name: str | None = None,
    tag: Annotated[list[str], Query()] = [],  # noqa: B006 - FastAPI copies it
    search: str | None = None,
    created_from: float | None = None,
    created_before: float | None = None,
    metric: str | None = None,
    metric_min: float | None = None,
) -> _Filters:
    return {
        "name": name,
        "tags": tag,
        "search": search,
        "created_from": created_from,
        "created_before": created_before,
        "metric": _metric_floor(metric, metric_min),
    }


Filters = Annotated[_Filters, Depends(_filters)]
"""The filters that both lists have."""

Limit = Annotated[int, Query(ge=1, le=500)]
"""How many items a page has at most."""


def _metric_floor(metric: str | None, metric_min: float | None) -> MetricFloor | None:
    if (metric is None) != (metric_min is None):
        raise ConfigError("metric and metric_min must be given together, got one of them")
    if metric is None or metric_min is None:
        return None
    return MetricFloor(metric, metric_min)
