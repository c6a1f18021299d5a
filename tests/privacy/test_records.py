"""Each record moves the sum by its bound at most, in whole numbers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kumiai.privacy.records import RecordSum, l2_norm_max_in_steps

NUMBERS = st.floats(width=64, allow_nan=True, allow_infinity=True)


def summed(rows: np.ndarray, *, clip: float = 1.0, step: float = 1e-4) -> np.ndarray:
    total = RecordSum(rows.shape[1], clip=clip, step=step)
    total.add(rows)
    return total.total()


@given(
    arrays.arrays(np.float64, st.tuples(st.just(1), st.integers(1, 40)), elements=NUMBERS),
    st.floats(1e-3, 1e3),
    st.integers(1, 1 << 24),
)
def test_no_record_moves_the_sum_by_more_than_the_bound(
    row: np.ndarray, clip: float, steps: int
) -> None:
    moved = summed(row, clip=clip, step=clip / steps)

    bound = l2_norm_max_in_steps(clip, clip / steps, row.size)
    assert math.sqrt(int((moved.astype(object) ** 2).sum())) <= bound


def test_the_norm_is_clipped_over_all_coordinates_at_once() -> None:
    assert summed(np.array([[3.0, 4.0]])).tolist() == [6_000, 8_000]
    assert summed(np.array([[3e200, -4e200]])).tolist() == [6_000, -8_000]
    assert summed(np.array([[3e-200, 4e-200]])).tolist() == [0, 0]


def test_a_record_within_the_norm_stays_as_it_is() -> None:
    assert summed(np.array([[0.3, -0.4], [0.1, 0.2]])).tolist() == [4_000, -2_000]
    assert summed(np.zeros((3, 2))).tolist() == [0, 0]
    assert summed(np.zeros((0, 2))).tolist() == [0, 0]


def test_batches_add_up_and_their_size_changes_nothing() -> None:
    rows = np.random.default_rng(1).normal(size=(3_000, 700)).astype(np.float32)
    whole = RecordSum(700, clip=1.0, step=1e-4)
    for start in range(0, 3_000, 700):
        whole.add(rows[start : start + 700])

    assert (whole.total() == summed(rows)).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_record_that_is_not_finite_counts_as_zero(value: float) -> None:
    total = RecordSum(2, clip=1.0, step=0.5)
    total.add(np.array([[value, 1.0], [0.0, 1.0]]))

    assert total.total().tolist() == [0, 2]
    assert total.dropped == 1


@pytest.mark.parametrize("shape", [(2,), (2, 3), (1, 2, 2)])
def test_contributions_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"rows must have shape \(records, 2\)"):
        RecordSum(2, clip=1.0, step=0.1).add(np.zeros(shape))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"dimension": 0}, "dimension must be from 1"),
        ({"clip": 0.0}, "clip must be greater than 0"),
        ({"clip": math.nan}, "clip must be a finite number"),
        ({"step": -1.0}, "step must be greater than 0"),
        ({"step": 1e-12}, "clip must be at most 2\\^30 steps"),
    ],
)
def test_what_no_sum_can_be_made_with_is_named(arguments: dict[str, float], problem: str) -> None:
    fields = {"dimension": 2, "clip": 1.0, "step": 0.1, **arguments}
    with pytest.raises(ValueError, match=problem):
        RecordSum(int(fields["dimension"]), clip=fields["clip"], step=fields["step"])
