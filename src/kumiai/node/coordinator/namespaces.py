"""Where the blobs of a run are kept; storage names the places, because it sweeps them."""

from kumiai.storage.namespaces import (
    model_namespace,
    state_namespace,
    sum_namespace,
    update_namespace,
)

__all__ = ["model_namespace", "state_namespace", "sum_namespace", "update_namespace"]
