import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kumiai.crypto import group
from kumiai.crypto.digit_tables import DigitTable, digits_of_integers, digits_of_scalars
from kumiai.crypto.group import ORDER, Point

FACTORS = (3, 1000, 2**200 + 1)
POINTS = [group.certain(group.base_multiple(factor)) for factor in FACTORS]


@pytest.fixture(scope="module")
def table() -> DigitTable:
    return DigitTable(POINTS)


def expected(values: list[int]) -> Point | None:
    total = sum(a * b for a, b in zip(FACTORS, values, strict=False))
    return group.base_multiple(total)


def signed(digits: np.ndarray) -> list[int]:
    return [
        sum(int(digit) << (8 * place) for place, digit in enumerate(column)) for column in digits.T
    ]


EDGES = [0, 1, -1, 127, 128, -128, -129, 255, 256, 32767, -32768, 2**45 - 1, -(2**45), 2**61]


@pytest.mark.parametrize("value", EDGES)
def test_integers_are_written_in_digits_that_the_table_has(value: int) -> None:
    digits = digits_of_integers(np.array([value, 5]))

    assert signed(digits) == [value, 5]
    assert np.abs(digits).max() <= 128
    assert digits.dtype == np.int16


def test_small_integers_take_one_place_and_nothing_takes_one_as_well() -> None:
    assert digits_of_integers(np.array([127, -128])).shape == (1, 2)
    assert digits_of_integers(np.array([128, 0])).shape == (2, 2)
    assert digits_of_integers(np.zeros(4, np.int64)).shape == (1, 4)


@given(st.lists(st.integers(-(2**260), 2**260), min_size=1, max_size=4))
def test_scalars_are_written_in_digits_that_the_table_has(scalars: list[int]) -> None:
    digits = digits_of_scalars(scalars)

    assert len(digits) <= 33
    assert [value % ORDER for value in signed(digits)] == [scalar % ORDER for scalar in scalars]
    assert np.abs(digits).max() <= 128
    assert digits.dtype == np.int16


@pytest.mark.parametrize(
    ("scalar", "places"),
    [(0, 1), (127, 1), (-127, 1), (128, 2), (-128, 2), (2**142, 18), (-(2**142), 18)],
)
def test_scalars_near_zero_take_few_places(scalar: int, places: int) -> None:
    assert len(digits_of_scalars([scalar])) == places
    assert len(digits_of_scalars([int(ORDER) + scalar, 1])) == places


HALF = int(ORDER) // 2


@pytest.mark.parametrize(
    ("scalar", "nearest"), [(0, 0), (HALF, HALF), (HALF + 1, -HALF), (int(ORDER) - 1, -1)]
)
def test_a_scalar_is_written_as_the_number_nearest_to_zero(scalar: int, nearest: int) -> None:
    assert signed(digits_of_scalars([scalar])) == [nearest]


@given(st.lists(st.integers(-(2**45), 2**45), min_size=3, max_size=3))
@settings(max_examples=30)
def test_a_table_gives_the_sum_of_multiples(table: DigitTable, values: list[int]) -> None:
    combined = table.combine(digits_of_integers(np.array(values)))

    assert group.same(combined, expected(values))


@given(st.lists(st.integers(0, int(ORDER) - 1), min_size=1, max_size=3))
@settings(max_examples=20)
def test_a_table_gives_the_sum_of_multiples_by_scalars(
    table: DigitTable, scalars: list[int]
) -> None:
    assert group.same(table.combine(digits_of_scalars(scalars)), expected(scalars))


def test_a_zero_takes_no_point(table: DigitTable) -> None:
    assert table._picked(np.array([0, 1, 0], np.int16), 1) == [POINTS[1]]
    assert table._picked(np.array([0, 1, 0], np.int16), -1) == []


def test_nothing_but_zeros_is_the_neutral_element(table: DigitTable) -> None:
    assert table.combine(digits_of_integers(np.zeros(3, np.int64))) is None


def test_more_numbers_than_points_are_refused(table: DigitTable) -> None:
    with pytest.raises(ValueError, match="at most 3 integers, got 4"):
        table.combine(digits_of_integers(np.ones(4, np.int64)))
