"""Which names of metrics are the coordinator's own.

What it measures itself stands beside the clients' means in one table, under names that begin with
``central.``, and what it tells of a private round under ``privacy.``; a client that could choose
such a name would pass its word off as the coordinator's.
"""

from collections.abc import Iterable

from kumiai.core.errors import UpdateRejectedError

__all__ = ["CENTRAL_PREFIX", "verify_client_metric_names"]

CENTRAL_PREFIX = "central."
_OURS = (CENTRAL_PREFIX, "privacy.")


def verify_client_metric_names(names: Iterable[str]) -> None:
    """Check that a client may report metrics under these names.

    Raises:
        UpdateRejectedError: one is of those that the coordinator tells.
    """
    for name in names:
        for prefix in _OURS:
            if name.startswith(prefix):
                raise UpdateRejectedError(
                    f"metric name must not begin with {prefix!r}, which stands for what the "
                    f"coordinator tells itself, got {name!r}; rename it in the study"
                )
