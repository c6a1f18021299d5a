"""What the adapters take as a site's data, and the settings they read from a job."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kumiai.node.datasets import SiteData, hold_out

__all__ = ["positive_setting", "site_data"]


def site_data(loaded: object) -> SiteData:
    """Return what a data loader returned as ``SiteData``.

    Args:
        loaded: a ``SiteData``, or a pair ``(x, y)`` of arrays, of which a fifth is held out.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(loaded, SiteData):
        return loaded
    if isinstance(loaded, tuple) and len(loaded) == 2:
        return hold_out(np.asarray(loaded[0]), np.asarray(loaded[1]))
    raise TypeError(
        f"data loader must return a kumiai.datasets.SiteData or a pair (x, y), "
        f"got {type(loaded).__name__}"
    )


def positive_setting(config: Mapping[str, Any], name: str, default: int) -> int:
    """Return an integer >= 1 from the job's ``train`` table.

    Raises:
        ValueError: it is no integer or below 1.
    """
    value = config.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer >= 1, got {value!r}")
    return value
