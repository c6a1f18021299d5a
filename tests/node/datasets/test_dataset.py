"""hold_out: a site's rows, divided once and for all."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.node.datasets import Dataset, hold_out


@given(
    rows=st.integers(2, 60),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32),
)
def test_every_row_is_on_exactly_one_side_and_no_side_is_empty(
    rows: int, fraction: float, seed: int
) -> None:
    x = np.arange(rows)

    data = hold_out(x, x % 3, fraction=fraction, seed=seed)

    assert sorted([*data.x_train, *data.x_test]) == list(range(rows))
    assert len(data.x_train) >= 1
    assert abs(len(data.x_test) - max(rows * fraction, 1)) <= 1
    np.testing.assert_array_equal(data.y_train, data.x_train % 3)
    np.testing.assert_array_equal(data.y_test, data.x_test % 3)


@given(
    group=st.lists(st.integers(0, 8), min_size=2, max_size=60).filter(lambda g: len(set(g)) > 1),
    seed=st.integers(0, 2**32),
)
def test_rows_of_one_group_stay_together(group: list[int], seed: int) -> None:
    keys = np.array(group)

    data = hold_out(keys, np.zeros(len(keys)), group=keys, seed=seed)

    assert not set(data.x_train) & set(data.x_test)
    assert len(data.x_train) + len(data.x_test) == len(keys)


def test_both_sides_have_the_same_mix_of_classes() -> None:
    labels = np.repeat([0, 1], [900, 100])

    data = hold_out(labels, labels)

    assert np.bincount(data.y_test).tolist() == [180, 20]


def test_targets_of_several_columns_are_mixed_by_the_first() -> None:
    targets = np.stack([np.repeat([0, 1], [900, 100]), np.arange(1000)], axis=1)

    data = hold_out(np.arange(1000), targets)

    assert np.bincount(data.y_test[:, 0]).tolist() == [180, 20]


def test_the_division_is_the_same_every_time_and_another_for_another_seed() -> None:
    x = np.arange(100)

    first, again, other = (hold_out(x, x * 0, seed=seed) for seed in (1, 1, 2))

    np.testing.assert_array_equal(first.x_test, again.x_test)
    assert not np.array_equal(first.x_test, other.x_test)


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        ([1, 2], [1], {}, "x, y and group must have the same length, got 2, 1"),
        ([1, 2], [1, 2], {"group": np.zeros(3)}, "must have the same length, got 2, 2 and 3"),
        ([1, 2], [1, 2], {"fraction": 1.0}, "fraction must be between 0 and 1, got 1.0"),
        ([1, 2], [1, 2], {"fraction": float("nan")}, "fraction must be between 0 and 1, got nan"),
        ([1], [1], {}, "data must have at least two rows or groups to divide, got 1"),
        ([1, 2], [1, 2], {"group": np.zeros(2)}, "at least two rows or groups to divide, got 1"),
    ],
)
def test_data_that_cannot_be_divided_are_refused(
    x: list[int], y: list[int], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        hold_out(np.array(x), np.array(y), **options)


def test_the_arrays_of_a_data_set_are_read_only() -> None:
    ints = np.zeros(1, np.int64)
    dataset = Dataset("d", np.zeros((1, 1), np.float32), ints, ("f",), ("c",), (), ints, ints)

    with pytest.raises(ValueError, match="read-only"):
        dataset.x[0, 0] = 1
