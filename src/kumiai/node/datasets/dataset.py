"""A whole data set, one site's part of it, and the division into training and held-out rows."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Dataset", "IndexArray", "SiteData", "hold_out"]

IndexArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """A table for classification. The arrays are shared and read-only.

    Attributes:
        name: of the data set.
        x: shape (rows, features), float32; NaN where a value is missing.
        y: shape (rows,), int64, the index of the class.
        features: the name of each column of ``x``.
        classes: the name of each class.
        sites: the names of the natural sites; empty where the data know none.
        site: shape (rows,), int64, the index into ``sites``; all 0 where there are none.
        group: shape (rows,), int64; rows of one group belong together (one person) and never stand
            on both sides of a division.
    """

    name: str
    x: NDArray[np.float32]
    y: NDArray[np.int64]
    features: tuple[str, ...]
    classes: tuple[str, ...]
    sites: tuple[str, ...]
    site: NDArray[np.int64]
    group: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Make the arrays read-only: every caller in the process gets the same ones."""
        for array in (self.x, self.y, self.site, self.group):
            array.flags.writeable = False


@dataclass(frozen=True, slots=True, eq=False)
class SiteData:
    """What one site holds: rows to train on, and rows held out to evaluate with.

    Attributes:
        x_train: shape (rows, ...).
        y_train: shape (rows,).
        x_test: shape (held-out rows, ...).
        y_test: shape (held-out rows,).
        features: the name of each column, if known.
        classes: the name of each class, if known.
    """

    x_train: NDArray[Any]
    y_train: NDArray[Any]
    x_test: NDArray[Any]
    y_test: NDArray[Any]
    features: tuple[str, ...] = field(default=())
    classes: tuple[str, ...] = field(default=())


def hold_out(
    x: NDArray[Any],
    y: NDArray[Any],
    *,
    fraction: float = 0.2,
    seed: int = 0,
    group: NDArray[Any] | None = None,
) -> SiteData:
    """Divide one site's rows into training and held-out rows, the same way every time.

    Both parts have nearly the same mix of classes.

    Args:
        x: shape (rows, ...).
        y: shape (rows,), classes or numbers; or (rows, ...), of which the first column counts.
        fraction: of the rows (or groups) that are held out, 0 < fraction < 1; at least one is, and
            at least one is left.
        seed: of the order in which rows are drawn.
        group: shape (rows,); rows with the same value stay together, and the first one's
            class counts. ``None``: each row for itself.

    Returns:
        Copies of the rows, each part in its original order.

    Raises:
        ValueError: the lengths differ, ``fraction`` is out of its range, or there are fewer than
            two rows (or groups).
    """
    keys = np.arange(len(y)) if group is None else np.asarray(group)
    if not len(x) == len(y) == len(keys):
        lengths = f"{len(x)}, {len(y)} and {len(keys)}"
        raise ValueError(f"x, y and group must have the same length, got {lengths}")
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be between 0 and 1, got {fraction}")
    names, first, member = np.unique(keys, return_index=True, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"data must have at least two rows or groups to divide, got {len(names)}")
    # Shuffled, then in the order of their class, then every so many: a stratified draw.
    order = np.random.default_rng(seed).permutation(len(names))
    labels = y.reshape(len(y), -1)[first, 0]
    order = order[np.argsort(labels[order], kind="stable")]
    steps = np.floor(np.arange(len(names) + 1) * fraction)
    steps[-1] = max(steps[-1], 1)
    drawn = np.zeros(len(names), bool)
    drawn[order] = np.diff(steps) > 0
    test = drawn[member]
    return SiteData(x[~test], y[~test], x[test], y[test])
