import numpy as np
import pytest
from gmpy2 import mpz

from kumiai.crypto import projections
from kumiai.crypto.group import ORDER

SEED = bytes(range(projections.SEED_BYTES))


def whole(seed: bytes, length: int) -> np.ndarray:
    return np.concatenate(list(projections.blocks(seed, length)), axis=1)


@pytest.mark.parametrize("length", [1, 100, 8192, 8193, 20_000])
def test_there_are_as_many_columns_as_asked_for(length: int) -> None:
    rows = whole(SEED, length)

    assert rows.shape == (128, length)
    assert set(np.unique(rows)) <= {-1, 0, 1}
    assert np.array_equal(rows, whole(SEED, 20_000)[:, :length])


def test_half_are_zero_and_signs_are_even() -> None:
    rows = whole(SEED, 16_384)

    # 2^21 entries: a deviation of 0.25 % would be more than 7 standard deviations.
    assert abs((rows == 0).mean() - 0.5) < 0.0025
    assert abs((rows == 1).mean() - 0.25) < 0.0025
    assert abs((rows == -1).mean() - 0.25) < 0.0025


def test_every_bit_of_the_seed_matters() -> None:
    rows = whole(SEED, 16)

    for bit in range(256):
        flipped = (int.from_bytes(SEED, "big") ^ (1 << bit)).to_bytes(32, "big")
        assert not np.array_equal(whole(flipped, 16), rows)


def test_projections_are_the_products_with_the_rows() -> None:
    values = np.random.default_rng(1).integers(-(2**30), 2**30, 10_000)

    projected = projections.project(SEED, values)

    assert np.array_equal(projected, whole(SEED, 10_000).astype(np.int64) @ values)
    assert projected.dtype == np.int64


def test_rows_are_combined_exactly() -> None:
    weights = [pow(mpz(3), 200 + index, ORDER) for index in range(128)]

    combined = projections.combine(SEED, weights, 9000)

    rows = whole(SEED, 9000)
    for column in (0, 1, 8191, 8192, 8999):
        entries = rows[:, column].tolist()
        plain = sum(weight * entry for weight, entry in zip(weights, entries, strict=True))
        assert combined[column] == plain % ORDER
    assert len(combined) == 9000


@pytest.mark.parametrize(("height", "width"), [(1, 16), (5, 16), (9, 1024), (700, 16), (1, 8192)])
def test_the_combination_at_a_point_is_that_of_its_columns(height: int, width: int) -> None:
    weights = [pow(mpz(5), 150 + index, ORDER) for index in range(128)]
    row_point = [pow(mpz(7), 100 + index, ORDER) for index in range(height)]
    column_point = [pow(mpz(11), 90 + index, ORDER) for index in range(width)]

    value = projections.evaluate_combined(SEED, weights, row_point, column_point)

    factors = [a * b for a in row_point for b in column_point]
    combined = projections.combine(SEED, weights, height * width)
    assert value == sum(a * b for a, b in zip(factors, combined, strict=True)) % ORDER


@pytest.mark.parametrize(
    "large",
    [2**20, ORDER // 2, ORDER // 3, ORDER - 2**20, 2**255],
    ids=["just outside", "half", "a third", "minus", "high"],
)
@pytest.mark.parametrize("rest", [0, 1, 2**19], ids=["alone", "small rest", "half the interval"])
def test_a_large_coordinate_leaves_an_interval_in_half_of_the_rows(large: int, rest: int) -> None:
    rows = whole(SEED, 4096).astype(object)
    interval = 2**20
    # The others are as the cheater likes: equal, or so that outer values meet.
    values = np.array([large, rest, ORDER - large, rest], dtype=object)
    products = (rows.reshape(-1, 4) @ values + interval // 2) % ORDER

    inside = float((products < interval).mean())

    # 131 072 samples: 1/2 and five standard deviations.
    assert inside <= 0.507
