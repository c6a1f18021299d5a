"""The gate for updates: everything that would spoil the sum is refused with its reason."""

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kumiai.core.arrays import BFLOAT16, layout_of
from kumiai.core.errors import UpdateRejectedError
from kumiai.learning import nonfinite_count, verification, verify_update

UPDATE = {"w": np.ones((2, 3), np.float32), "n": np.array(3)}
LAYOUT = layout_of(UPDATE)
FLOATS = [np.dtype(np.float16), BFLOAT16, np.dtype(np.float32), np.dtype(np.float64)]


def verify(update: Any = UPDATE, examples: Any = 10, metrics: Any = None) -> None:
    verify_update(update, LAYOUT, examples, metrics or {}, examples_max=1000)


@pytest.mark.parametrize("examples", [1, 10, 1000])
def test_a_sound_update_passes(examples: int) -> None:
    verify(dict(reversed(UPDATE.items())), examples, {"loss": 0.5, "steps": 3})


@pytest.mark.parametrize("examples", [0, -1, 1001, 10**400, 5.0, True, math.nan, "10", None])
def test_an_absurd_number_of_examples_is_refused(examples: Any) -> None:
    with pytest.raises(UpdateRejectedError, match="examples must be a whole number from 1 to 1000"):
        verify(examples=examples)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, True, "0.5", None])
def test_a_metric_that_is_no_finite_number_is_refused(value: Any) -> None:
    with pytest.raises(UpdateRejectedError, match="metric 'loss' must be a finite number, got "):
        verify(metrics={"auc": 0.5, "loss": value})


def test_a_metric_with_a_bad_name_is_refused() -> None:
    with pytest.raises(UpdateRejectedError, match="metric name must be 1 to 63 letters"):
        verify(metrics={"a/b": 0.5})


def test_too_many_metrics_are_refused() -> None:
    verify(metrics={f"m{index}": 0.0 for index in range(64)})
    with pytest.raises(UpdateRejectedError, match="metrics must be at most 64, got 65"):
        verify(metrics={f"m{index}": 0.0 for index in range(65)})


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"w": UPDATE["w"]}, "array 'n' must be present"),
        (UPDATE | {"more": UPDATE["w"]}, "array 'more' must not be present: the model has none"),
        (UPDATE | {"w": np.ones((3, 2), np.float32)}, r"array 'w' must be float32\[2, 3\], got "),
        (UPDATE | {"w": np.ones((2, 3))}, r"must be float32\[2, 3\], got float64\[2, 3\]"),
    ],
)
def test_an_update_of_another_layout_is_refused(update: Any, message: str) -> None:
    with pytest.raises(UpdateRejectedError, match=message):
        verify(update)


def test_numbers_that_are_not_finite_are_refused_with_name_and_count() -> None:
    spoiled = UPDATE["w"].copy()
    spoiled[0, 1], spoiled[1, 2] = np.nan, -np.inf

    with pytest.raises(
        UpdateRejectedError, match="array 'w' must be finite, got 2 of 6 numbers that are NaN or"
    ):
        verify(UPDATE | {"w": spoiled})


@pytest.mark.parametrize("dtype", FLOATS)
@given(st.data())
def test_every_nan_and_infinity_is_counted(dtype: np.dtype[Any], data: st.DataObject) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
    # All bit patterns: every NaN, every infinity, the largest and the smallest numbers.
    bits = data.draw(hnp.arrays(f"u{dtype.itemsize}", shape))
    array = bits.view(dtype)

    with np.errstate(all="ignore"):
        expected = sum(not math.isfinite(float(number)) for number in array.reshape(-1))

    assert nonfinite_count(array) == expected


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("index", [0, 1, 98, 99, 100, 249])
def test_one_bad_number_is_found_wherever_it_stands(
    monkeypatch: pytest.MonkeyPatch, dtype: np.dtype[Any], bad: float, index: int
) -> None:
    monkeypatch.setattr(verification, "_BLOCK_COUNT", 100)
    array = np.zeros(250, dtype)
    array[index] = bad

    assert nonfinite_count(array) == 1
    assert nonfinite_count(array.reshape(10, 25).T) == 1


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("last", [0.0, math.nan])
def test_looking_for_bad_numbers_takes_no_copy(dtype: np.dtype[Any], last: float) -> None:
    array = np.zeros(4_000_000, dtype)
    array[-1] = last

    tracemalloc.start()
    count = nonfinite_count(array)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert count == math.isnan(last)
    assert peak < 600_000


def test_infinities_of_both_signs_do_not_cancel() -> None:
    assert nonfinite_count(np.array([np.inf, -np.inf, np.inf], np.float32)) == 3


@pytest.mark.parametrize("dtype", FLOATS)
def test_large_numbers_are_finite_although_their_sum_is_not(dtype: np.dtype[Any]) -> None:
    largest = float({2: 6e4, 4: 3e38, 8: 1.7e308}[dtype.itemsize])

    assert nonfinite_count(np.full(1000, largest, dtype)) == 0


@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8"])
def test_big_endian_numbers_are_read_right(dtype: str) -> None:
    assert nonfinite_count(np.array([1.0, np.nan, 2.0, np.inf], dtype)) == 2


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64", "bool"])
def test_integers_are_always_finite(dtype: str) -> None:
    assert nonfinite_count(np.full(3, -1).astype(dtype)) == 0
