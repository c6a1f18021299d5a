import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kumiai.core.errors import ProofError
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


@given(st.lists(st.integers(0, 2**260), min_size=1, max_size=4))
def test_scalars_are_written_in_33_digits(scalars: list[int]) -> None:
    digits = digits_of_scalars(scalars)

    assert digits.shape == (33, len(scalars))
    assert signed(digits) == [scalar % ORDER for scalar in scalars]
    assert digits.min() >= -128
    assert digits.max() <= 127
    assert digits.dtype == np.int16


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


def test_nothing_but_zeros_is_the_neutral_element(table: DigitTable) -> None:
    assert table.combine(digits_of_integers(np.zeros(3, np.int64))) is None


def test_more_numbers_than_points_are_refused(table: DigitTable) -> None:
    with pytest.raises(ValueError, match="at most 3 integers, got 4"):
        table.combine(digits_of_integers(np.ones(4, np.int64)))


def test_a_kept_table_is_as_good_as_a_new_one(table: DigitTable) -> None:
    kept = DigitTable.from_bytes(table.to_bytes(), POINTS)

    digits = digits_of_integers(np.array([77, -3000, 128]))
    assert group.same(kept.combine(digits), table.combine(digits))
    assert kept.point_count == 3
    assert table.to_bytes().startswith(b"kumiai digit table 1\n\x04")


def redigested(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


def test_a_damaged_table_is_refused(table: DigitTable) -> None:
    content = table.to_bytes()
    body = content[:-32]
    off_the_curve = body[:100] + bytes([body[100] ^ 1]) + body[101:]
    wrong = {
        "flipped": content[:100] + bytes([content[100] ^ 1]) + content[101:],
        "digest flipped": content[:-1] + bytes([content[-1] ^ 1]),
        "short": content[:-1],
        "long": content + b"\x00",
        "empty": b"",
        "another magic": redigested(b"x" + body[1:]),
        "no points": redigested(off_the_curve),
    }

    for bytes_of_it in wrong.values():
        with pytest.raises(ProofError, match="build it anew"):
            DigitTable.from_bytes(bytes_of_it, POINTS)


def test_a_table_of_other_points_is_refused(table: DigitTable) -> None:
    with pytest.raises(ProofError, match="same points, got others"):
        DigitTable.from_bytes(table.to_bytes(), [POINTS[0], POINTS[2], POINTS[1]])
