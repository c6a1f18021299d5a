"""Which rows go to which site."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from kumiai.node.datasets.dataset import Dataset, IndexArray

__all__ = ["by_site", "dirichlet_partition", "iid_partition"]


def by_site(dataset: Dataset) -> Mapping[str, IndexArray]:
    """Return the rows of each natural site; empty where the data know no sites."""
    return {name: np.flatnonzero(dataset.site == index) for index, name in enumerate(dataset.sites)}


def iid_partition(count: int, sites: int, seed: int) -> list[IndexArray]:
    """Deal ``count`` rows to ``sites`` sites at random, their sizes differing by at most one.

    Args:
        count: how many rows there are.
        sites: how many sites, 1 <= sites <= count.
        seed: of the order.

    Returns:
        One ascending index array for each site; together they hold every row once.

    Raises:
        ValueError: there are fewer rows than sites.
    """
    _verify_enough(count, sites, 1)
    order = np.random.default_rng(seed).permutation(count)
    return [np.sort(part) for part in np.array_split(order, sites)]


def dirichlet_partition(
    labels: NDArray[np.integer], sites: int, alpha: float, seed: int, *, minimum: int = 1
) -> list[IndexArray]:
    """Split rows so that sites differ in their mix of classes and in size.

    For every class the sites' shares are drawn from a symmetric Dirichlet distribution. A site that
    got fewer than ``minimum`` rows receives single rows from whichever site is largest.

    Args:
        labels: shape (rows,), the class of each row.
        sites: how many sites, >= 1.
        alpha: > 0; small (0.1) gives each site few classes, large (100) an even mix.
        seed: of shares and order.
        minimum: the least number of rows of a site, >= 1.

    Returns:
        One ascending index array for each site; together they hold every row once.

    Raises:
        ValueError: ``alpha`` is not positive, or there are fewer than ``sites * minimum`` rows.

    Source: Hsu, Qi, Brown 2019, section 3 (per class, as is usual since).
    """
    _verify_enough(len(labels), sites, minimum)
    if not 0 < alpha < np.inf:
        raise ValueError(f"alpha must be finite and > 0, got {alpha}")
    rng = np.random.default_rng(seed)
    owner = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        cuts = np.round(np.cumsum(rng.dirichlet(np.full(sites, alpha))) * len(rows))
        owner[rows] = np.searchsorted(cuts[:-1], np.arange(len(rows)), side="right")
    _feed(owner, sites, minimum, rng)
    return [np.flatnonzero(owner == site) for site in range(sites)]


def _feed(owner: IndexArray, sites: int, minimum: int, rng: np.random.Generator) -> None:
    sizes = np.bincount(owner, minlength=sites)
    for site in np.flatnonzero(sizes < minimum):
        while sizes[site] < minimum:
            donor = int(np.argmax(sizes))
            owner[rng.choice(np.flatnonzero(owner == donor))] = site
            sizes[donor] -= 1
            sizes[site] += 1


def _verify_enough(count: int, sites: int, minimum: int) -> None:
    if sites < 1:
        raise ValueError(f"sites must be >= 1, got {sites}")
    if minimum < 1:
        raise ValueError(f"minimum must be >= 1, got {minimum}")
    if count < sites * minimum:
        raise ValueError(f"rows must be at least {sites * minimum} for {sites} sites, got {count}")
