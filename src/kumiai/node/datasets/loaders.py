"""Data loaders for apps: each gives one site its part of a vendored data set.

A fifth of every site's rows is held out, always the same rows; a person is never on both sides.
Which part a site gets is told by the ``data`` table of its client's settings:

* ``partition`` and ``partitions``: the part's number and how many there are;
* ``dirichlet``: the concentration by which classes are spread, and ``seed``, for data without
  sites of their own; without ``dirichlet`` rows are dealt evenly;
* ``site``: the name of a natural site, for data that have them; the client may also simply be
  called like it.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from kumiai.core.errors import ConfigError
from kumiai.node.datasets.dataset import Dataset, IndexArray, SiteData, hold_out
from kumiai.node.datasets.files import load_breast_cancer, load_digits, load_heart, load_rand_hie
from kumiai.node.datasets.partition import by_site, dirichlet_partition, iid_partition
from kumiai.node.study.site import Site

__all__ = ["breast_cancer", "digits", "heart", "rand_hie"]

_SEED = 7
_PART_MINIMUM = 10


def digits(site: Site, *, dirichlet: float | None = None) -> SiteData:
    """Return the site's part of the handwritten digits.

    Args:
        site: whose part; see the module for its options.
        dirichlet: used where the options name none; ``None`` deals rows evenly.

    Raises:
        ConfigError: the options do not make sense.
    """
    return _artificial_part(load_digits, site, dirichlet)


def breast_cancer(site: Site, *, dirichlet: float | None = None) -> SiteData:
    """Return the site's part of the tumours.

    Args:
        site: whose part; see the module for its options.
        dirichlet: used where the options name none; ``None`` deals rows evenly.

    Raises:
        ConfigError: the options do not make sense.
    """
    return _artificial_part(load_breast_cancer, site, dirichlet)


def heart(site: Site) -> SiteData:
    """Return the patients of one of four hospitals; missing values are NaN.

    Args:
        site: which; see the module for its options. Of fewer than four partitions each holds
            every so many hospitals.

    Raises:
        ConfigError: the options and the name tell of no hospital.
    """
    return _natural_part(load_heart, site)


def rand_hie(site: Site) -> SiteData:
    """Return the person-years of one of six sites of the RAND Health Insurance Experiment.

    Args:
        site: which; see the module for its options. Of fewer than six partitions each holds every
            so many sites.

    Raises:
        ConfigError: the options and the name tell of no site.
    """
    return _natural_part(load_rand_hie, site)


def _artificial_part(load: Callable[[], Dataset], site: Site, dirichlet: float | None) -> SiteData:
    alpha = _option(site.options, "dirichlet", dirichlet, (int, float))
    seed = _option(site.options, "seed", _SEED, (int,))
    try:
        parts = _parts(load, site.partitions, alpha, seed)
    except ValueError as error:
        raise ConfigError(f"data options of site {site.name!r}: {error}") from None
    return _divided(load(), parts[site.partition])


@lru_cache(maxsize=16)
def _parts(
    load: Callable[[], Dataset], partitions: int, alpha: float | None, seed: int
) -> list[IndexArray]:
    labels = load().y
    if alpha is None:
        return iid_partition(len(labels), partitions, seed)
    # Two rows are the least that can be divided into training and held-out rows.
    minimum = max(min(_PART_MINIMUM, len(labels) // partitions), 2)
    return dirichlet_partition(labels, partitions, alpha, seed, minimum=minimum)


def _natural_part(load: Callable[[], Dataset], site: Site) -> SiteData:
    dataset = load()
    rows = by_site(dataset)
    names = _natural_names(site, dataset)
    return _divided(dataset, np.concatenate([rows[name] for name in names]))


def _natural_names(site: Site, dataset: Dataset) -> tuple[str, ...]:
    known = ", ".join(dataset.sites)
    named = site.options.get("site")
    if named is not None:
        if named not in dataset.sites:
            raise ConfigError(
                f"data.site of site {site.name!r} must be one of {known}, got {named!r}"
            )
        return (named,)
    if "partitions" in site.options:
        if site.partitions > len(dataset.sites):
            raise ConfigError(
                f"data.partitions of site {site.name!r} must be at most {len(dataset.sites)}, "
                f"the number of sites in {dataset.name}, got {site.partitions}"
            )
        return dataset.sites[site.partition :: site.partitions]
    if site.name in dataset.sites:
        return (site.name,)
    raise ConfigError(
        f"data options of site {site.name!r} must hold partition and partitions, or site as one "
        f"of {known}, got {dict(site.options)}"
    )


def _divided(dataset: Dataset, rows: IndexArray) -> SiteData:
    try:
        part = hold_out(dataset.x[rows], dataset.y[rows], group=dataset.group[rows], seed=_SEED)
    except ValueError as error:
        raise ConfigError(f"part of {dataset.name}: {error}") from None
    return SiteData(
        part.x_train,
        part.y_train,
        part.x_test,
        part.y_test,
        features=dataset.features,
        classes=dataset.classes,
    )


def _option(options: Mapping[str, Any], name: str, default: Any, types: tuple[type, ...]) -> Any:
    value = options.get(name, default)
    if value is not None and (isinstance(value, bool) or not isinstance(value, types)):
        raise ConfigError(f"data.{name} must be a number, got {value!r}")
    return value
