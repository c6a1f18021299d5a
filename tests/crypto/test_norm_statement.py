from math import isqrt

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kumiai.crypto.group import ORDER
from kumiai.crypto.norm_statement import NormStatement, largest_norm_weight
from kumiai.crypto.transcript import Transcript

STATEMENTS = st.builds(
    NormStatement,
    dimension=st.integers(1, 2**24),
    bound_squared=st.integers(0, 2**40),
    weight=st.integers(1, 2**8),
    row_length=st.sampled_from([16, 128, 1024]),
)


@given(STATEMENTS)
def test_what_verifies_cannot_have_wrapped_around(statement: NormStatement) -> None:
    largest = 1 << statement.projection_bits
    coordinates = statement.row_count * statement.row_length
    squares = coordinates * largest**2

    assert squares + (1 << statement.slack_bits) + statement.total < ORDER


@given(STATEMENTS)
def test_no_honest_projection_is_too_large(statement: NormStatement) -> None:
    # Coordinates that are all equal have the largest sum of absolute values.
    largest = isqrt(statement.length * statement.total)

    assert largest < 1 << (statement.projection_bits - 1)
    assert statement.total < 1 << statement.slack_bits


@given(STATEMENTS)
def test_rows_hold_all_coordinates_and_no_row_too_many(statement: NormStatement) -> None:
    assert 0 <= statement.row_count * statement.row_length - statement.length < statement.row_length
    assert statement.row_count <= 1 << statement.row_bits < 2 * statement.row_count
    assert 1 << statement.column_bits == statement.row_length
    assert statement.bit_count == 128 * statement.projection_bits + statement.slack_bits
    spare = statement.bit_row_count * statement.bit_row_length - statement.bit_count
    assert 0 <= spare < statement.bit_row_length
    assert statement.bit_row_count <= 1 << statement.bit_row_bits < 2 * statement.bit_row_count
    assert 1 << statement.bit_column_bits == statement.bit_row_length
    assert statement.bit_row_length == min(128, statement.row_length)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dimension": 0}, "^dimension must be at least 1, got 0"),
        ({"bound_squared": -1}, "^bound_squared must be at least 0, got -1"),
        ({"weight": 0}, "^weight must be at least 1, got 0"),
        ({"weight": -3}, "^weight must be at least 1, got -3"),
        ({"bound_squared": 2**100}, "lower the bound or the weight"),
        ({"weight": 2**50}, "lower the bound or the weight"),
    ],
)
def test_a_statement_that_cannot_be_proven_is_refused(
    changed: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        NormStatement(**{"dimension": 100, "bound_squared": 1000, **changed})


def test_the_largest_bound_is_one_that_float64_holds() -> None:
    NormStatement(dimension=3, bound_squared=2**102 - 2)

    with pytest.raises(ValueError, match="a projection of 54 bits"):
        NormStatement(dimension=3, bound_squared=2**102 - 1)


@given(st.integers(1, 2**24), st.integers(0, 2**40))
@example(1, 1)  # one weight more would make squares of 2^104
@example(2, (2**104 - 1) // 3 - 1)  # a weight of 1 makes squares of 2^104 - 1
def test_the_largest_weight_is_the_last_of_which_a_statement_can_be_made(
    dimension: int, bound_squared: int
) -> None:
    sizes = {"dimension": dimension, "bound_squared": bound_squared}

    largest = largest_norm_weight(**sizes)

    NormStatement(**sizes, weight=largest)
    with pytest.raises(ValueError, match="lower the bound or the weight"):
        NormStatement(**sizes, weight=largest + 1)


def test_a_bound_that_no_weight_fits_has_none() -> None:
    assert largest_norm_weight(dimension=1, bound_squared=2**103 - 1) == 0


def test_statements_that_differ_give_different_challenges() -> None:
    plain = {"dimension": 100, "bound_squared": 1000, "weight": 2, "row_length": 16}
    changes = [{}, {"dimension": 101}, {"bound_squared": 1001}, {"weight": 3}, {"row_length": 32}]

    challenges = set()
    for change in changes:
        transcript = Transcript("test")
        NormStatement(**{**plain, **change}).begin(transcript)
        challenges.add(transcript.challenge("x"))

    assert len(challenges) == len(changes)


def test_every_number_of_a_statement_is_absorbed_by_its_name() -> None:
    transcript, written = Transcript("test"), Transcript("test")
    statement = NormStatement(dimension=100, bound_squared=1000, weight=2, row_length=16)

    statement.begin(transcript)

    for name in ("dimension", "bound_squared", "weight", "row_length"):
        written.append_integer(name, getattr(statement, name))
    assert transcript.challenge("x") == written.challenge("x")


def test_the_weight_scales_the_bound() -> None:
    statement = NormStatement(dimension=10, bound_squared=100, weight=3)

    assert statement.total == 9 * 100 + 9
    assert statement.length == 11
