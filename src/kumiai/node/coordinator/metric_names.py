"""Which names of metrics are the coordinator's own.

What it measures itself stands beside the clients' means in one table, under names that begin with
``central.``; a client that could choose such a name would pass its word off as the coordinator's.
"""

from collections.abc import Iterable

from kumiai.core.errors import UpdateRejectedError

__all__ = ["CENTRAL_PREFIX", "verify_client_metric_names"]

CENTRAL_PREFIX = "central."


def verify_client_metric_names(names: Iterable[str]) -> None:
    """Check that a client may report metrics under these names.

    Raises:
        UpdateRejectedError: one is of those that the coordinator measures.
    """
    for name in names:
        if name.startswith(CENTRAL_PREFIX):
            raise UpdateRejectedError(
                f"metric name must not begin with {CENTRAL_PREFIX!r}, which stands for what the "
                f"coordinator measures itself, got {name!r}; rename it in the study"
            )
