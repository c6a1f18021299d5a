import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.crypto.exact_products import limbs_of, scalars_of, weighted_sum_of_rows
from kumiai.crypto.group import ORDER

SCALARS = st.one_of(
    st.integers(0, int(ORDER) - 1), st.sampled_from([0, 1, int(ORDER) - 1, 2**255, 2**240 - 1])
)


@given(st.lists(SCALARS, min_size=1, max_size=5), st.integers(1, 5))
def test_scalars_survive_their_limbs(scalars: list[int], limb_bytes: int) -> None:
    limbs = limbs_of(scalars, limb_bytes)

    assert limbs.shape == (len(scalars), -(-32 // limb_bytes))
    assert limbs.min() >= 0
    assert limbs.max() < 256**limb_bytes
    assert scalars_of(limbs, limb_bytes) == scalars
    assert scalars_of(-limbs, limb_bytes) == [-scalar % ORDER for scalar in scalars]


@pytest.mark.parametrize("limb", [2**53, -(2**53), 2**53 - 1, 1 - 2**53])
@pytest.mark.parametrize("limb_bytes", [1, 5])
def test_the_largest_limbs_are_carried_right(limb: int, limb_bytes: int) -> None:
    count = -(-32 // limb_bytes)

    sums = np.full((1, count), float(limb))

    whole = sum(limb << (8 * limb_bytes * index) for index in range(count))
    assert scalars_of(sums, limb_bytes) == [whole % ORDER]


@given(
    st.integers(0, 45),
    st.lists(st.tuples(SCALARS, st.integers(-1000, 1000)), min_size=1, max_size=40),
)
def test_sums_of_rows_are_exact(bits: int, pairs: list[tuple[int, int]]) -> None:
    largest = 2**bits - 1
    rows = np.array([[largest, -largest, value % (largest + 1)] for _, value in pairs])
    weights = [weight for weight, _ in pairs]

    total = weighted_sum_of_rows(weights, rows)

    plain = [
        sum(weight * int(value) for weight, value in zip(weights, column, strict=True)) % ORDER
        for column in rows.T
    ]
    assert total == plain


# The first bytes of all weights are 255, so that 2047 of the larger values fill 54 bits.
@pytest.mark.parametrize("largest", [2**20 - 1, 2**35 - 1])
@pytest.mark.parametrize("count", [1, 1023, 1024, 1025, 2047, 2500])
def test_more_rows_than_one_batch_are_exact(count: int, largest: int) -> None:
    rows = np.full((count, 2), largest)
    rows[:, 1] *= -1
    weights = [int(ORDER) - 1 - index for index in range(count)]

    total = weighted_sum_of_rows(weights, rows)

    whole = sum(weights) * largest
    assert total == [whole % ORDER, -whole % ORDER]


@pytest.mark.parametrize("value", [2**45, -(2**45), 2**62])
def test_values_that_would_not_be_exact_are_refused(value: int) -> None:
    with pytest.raises(ValueError, match="below 2\\^45"):
        weighted_sum_of_rows([1], np.array([[value]]))
