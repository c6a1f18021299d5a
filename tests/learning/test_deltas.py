"""What an update is, dtype by dtype."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kumiai.core.arrays import BFLOAT16, layout_of
from kumiai.core.errors import UpdateRejectedError
from kumiai.learning import FedAvg, delta_of, mean_of_updates

DTYPES = "float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool"


def trained_alone(base: dict[str, Any], trained: dict[str, Any]) -> dict[str, Any]:
    """Return the model after a round with one client."""
    mean = mean_of_updates([(delta_of(trained, base), 1.0)], layout_of(base))
    return FedAvg().apply(base, mean, {})[0]


@st.composite
def pairs_of_whole_numbers(draw: st.DrawFn) -> tuple[Any, Any]:
    dtype = np.dtype(draw(st.sampled_from(DTYPES.split())))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=2, max_side=4))
    # Up to 50 bits differences pass through float64 unchanged.
    low, high = (0, 1) if dtype == np.bool_ else (0, 100)
    if dtype.itemsize == 8 and dtype.kind in "iu":
        high = 2**50
    numbers = hnp.arrays(np.int64, shape, elements=st.integers(low, high))
    return draw(numbers).astype(dtype), draw(numbers).astype(dtype)


@given(pairs_of_whole_numbers())
def test_a_single_client_gets_its_model_back(pair: tuple[Any, Any]) -> None:
    base, trained = pair

    found = trained_alone({"a": base}, {"a": trained})["a"]

    assert found.dtype == base.dtype
    assert found.shape == base.shape
    np.testing.assert_array_equal(found, trained)


def test_bfloat16_moves_in_float32() -> None:
    base = {"a": np.array([256.0, 1.0], BFLOAT16)}
    steps = [{"a": np.array([0.75, 0.25], BFLOAT16)}, {"a": np.array([1.25, 0.5], BFLOAT16)}]

    mean = mean_of_updates([(step, 0.5) for step in steps], layout_of(base))
    model, _ = FedAvg().apply(base, mean, {})

    assert mean["a"].tolist() == [1.0, 0.375]
    assert model["a"].dtype == BFLOAT16
    assert model["a"].astype(float).tolist() == [256.0, 1.375]


@pytest.mark.parametrize(
    ("deltas", "expected"),
    [([1, 2], 12), ([1, 4], 12), ([2, 3], 12), ([3, 4], 14), ([-3, -4], 6), ([5, 5], 15)],
)
def test_counters_move_by_the_mean_rounded_half_to_even(deltas: list[int], expected: int) -> None:
    base = {"n": np.array(10)}

    mean = mean_of_updates([({"n": np.array(d)}, 0.5) for d in deltas], layout_of(base))

    assert FedAvg().apply(base, mean, {})[0]["n"] == expected


def test_unsigned_counters_may_fall() -> None:
    base = {"n": np.array([200, 3], np.uint8)}
    trained = [{"n": np.array([190, 0], np.uint8)}, {"n": np.array([198, 5], np.uint8)}]

    mean = mean_of_updates([(delta_of(each, base), 0.5) for each in trained], layout_of(base))

    assert mean["n"].tolist() == [-6.0, -0.5]
    assert FedAvg().apply(base, mean, {})[0]["n"].tolist() == [194, 3]


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8", "uint64"])
@pytest.mark.parametrize("end", ["min", "max"])
def test_the_widest_step_of_a_counter_has_a_defined_result(dtype: str, end: str) -> None:
    signed = np.iinfo(dtype.removeprefix("u"))
    base = {"n": np.zeros(2, dtype)}
    step = {"n": np.full(2, float(getattr(signed, end)))}

    found = FedAvg().apply(base, step, {})[0]["n"]

    assert abs(int(found.view(signed.dtype)[0]) - getattr(signed, end)) <= 1024


def test_a_mask_takes_the_value_of_the_majority() -> None:
    base = {"mask": np.array([True, True, False, False])}
    trained = [
        (0.4, {"mask": np.array([True, False, True, False])}),
        (0.3, {"mask": np.array([False, False, True, False])}),
        (0.3, {"mask": np.array([False, True, False, True])}),
    ]

    mean = mean_of_updates(((delta_of(t, base), w) for w, t in trained), layout_of(base))

    assert FedAvg().apply(base, mean, {})[0]["mask"].tolist() == [False, False, True, False]


def test_a_mask_stays_where_the_votes_are_even() -> None:
    base = {"mask": np.array([True, False])}

    model, _ = FedAvg().apply(base, {"mask": np.array([0.5, 0.5])}, {})

    assert model["mask"].tolist() == [True, False]


def test_a_difference_that_overflows_is_infinite() -> None:
    base = {"a": np.array([-6e4, 1.0], np.float16)}

    delta = delta_of({"a": np.array([6e4, 2.0], np.float16)}, base)

    assert delta["a"].tolist() == [np.inf, 1.0]


def test_trained_arrays_of_another_layout_are_refused() -> None:
    with pytest.raises(UpdateRejectedError, match=r"array 'a' must be float32\[2\], got float64"):
        delta_of({"a": np.ones(2)}, {"a": np.ones(2, np.float32)})


def test_the_new_model_shares_no_memory_with_its_base() -> None:
    base = {"a": np.ones(2, np.float32), "n": np.array([1, 2]), "m": np.array([True])}
    step = {name: np.zeros(array.shape) for name, array in base.items()}

    model, _ = FedAvg().apply(base, step, {})

    assert not any(np.shares_memory(model[name], base[name]) for name in base)
    assert not any(np.shares_memory(model[name], step[name]) for name in base)
