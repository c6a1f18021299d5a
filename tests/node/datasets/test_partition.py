"""Partitions: every row goes to exactly one site."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kumiai.node.datasets import (
    by_site,
    dirichlet_partition,
    iid_partition,
    load_digits,
    load_heart,
)


@given(
    labels=st.lists(st.integers(0, 4), min_size=12, max_size=200),
    sites=st.integers(1, 6),
    alpha=st.floats(0.001, 1000),
    seed=st.integers(0, 2**32),
    minimum=st.integers(1, 2),
)
@example(labels=[0] * 12, sites=6, alpha=0.001, seed=0, minimum=2)  # one site drew everything
def test_a_dirichlet_partition_covers_every_row_once_and_starves_no_site(
    labels: list[int], sites: int, alpha: float, seed: int, minimum: int
) -> None:
    parts = dirichlet_partition(np.array(labels), sites, alpha, seed, minimum=minimum)

    assert len(parts) == sites
    assert min(map(len, parts)) >= minimum
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    assert all((np.diff(part) > 0).all() for part in parts)


@given(count=st.integers(1, 100), sites=st.integers(1, 20), seed=st.integers(0, 2**32))
def test_an_even_partition_covers_every_row_once_in_equal_parts(
    count: int, sites: int, seed: int
) -> None:
    sites = min(sites, count)

    parts = iid_partition(count, sites, seed)

    sizes = [len(part) for part in parts]
    assert sorted(np.concatenate(parts)) == list(range(count))
    assert max(sizes) - min(sizes) <= 1


def test_a_small_alpha_gives_each_site_few_classes_and_a_large_one_an_even_mix() -> None:
    labels = load_digits().y

    def share_of_largest_class(alpha: float) -> float:
        parts = dirichlet_partition(labels, 5, alpha, 0)
        return float(np.mean([np.bincount(labels[part]).max() / len(part) for part in parts]))

    assert share_of_largest_class(0.1) > 0.4
    assert share_of_largest_class(1000.0) < 0.13


def test_a_partition_depends_on_its_seed_alone() -> None:
    labels = load_digits().y

    one, again, other = (dirichlet_partition(labels, 5, 0.3, seed) for seed in (1, 1, 2))

    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("sites", "alpha", "minimum", "message"),
    [
        (0, 0.3, 1, "sites must be >= 1, got 0"),
        (2, 0.0, 1, "alpha must be finite and > 0, got 0.0"),
        (2, float("inf"), 1, "alpha must be finite and > 0, got inf"),
        (2, float("nan"), 1, "alpha must be finite and > 0, got nan"),
        (2, 0.3, 0, "minimum must be >= 1, got 0"),
        (4, 0.3, 3, "rows must be at least 12 for 4 sites, got 11"),
    ],
)
def test_a_partition_that_cannot_be_is_refused(
    sites: int, alpha: float, minimum: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        dirichlet_partition(np.arange(11), sites, alpha, 0, minimum=minimum)


def test_more_sites_than_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="rows must be at least 3 for 3 sites, got 2"):
        iid_partition(2, 3, 0)


def test_natural_sites_cover_every_row_once_and_artificial_data_have_none() -> None:
    rows = by_site(load_heart())

    assert sorted(np.concatenate(list(rows.values()))) == list(range(920))
    assert by_site(load_digits()) == {}
