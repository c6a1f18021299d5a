"""Both sumchecks against the sums themselves, and against the polynomials' own definition."""

import pytest
from gmpy2 import mpz
from hypothesis import given, settings
from hypothesis import strategies as st

from kumiai.crypto.group import ORDER
from kumiai.crypto.sumcheck import (
    Scalars,
    equality_at,
    equality_vector,
    prove_bits,
    prove_squares,
    round_relations,
)

FIELD = st.integers(0, int(ORDER) - 1).map(mpz)
SEEDS = st.integers(0, 2**64)


class Rounds:
    """Keeps the polynomials of a sumcheck and answers with fixed challenges."""

    def __init__(self, seed: int) -> None:
        self.polynomials: list[Scalars] = []
        self._seed = seed

    def __call__(self, coefficients: Scalars) -> mpz:
        self.polynomials.append(coefficients)
        return mpz(pow(self._seed + 3, 40 + len(self.polynomials), int(ORDER)))


def numbers(seed: int, count: int) -> Scalars:
    return [mpz(pow(seed + 2, 50 + index, int(ORDER))) for index in range(count)]


def at(polynomial: Scalars, value: int) -> mpz:
    return sum(c * pow(value, k, int(ORDER)) for k, c in enumerate(polynomial)) % ORDER


def dot(left: Scalars, right: Scalars) -> mpz:
    return sum(a * b for a, b in zip(left, right, strict=True)) % ORDER


def check_chain(rounds: Rounds, point: Scalars, claim: mpz, final: mpz) -> None:
    expected = claim % ORDER
    for polynomial, challenge in zip(rounds.polynomials, point, strict=True):
        assert (at(polynomial, 0) + at(polynomial, 1)) % ORDER == expected
        expected = at(polynomial, challenge)
    assert expected == final % ORDER


@given(SEEDS, st.integers(0, 5), FIELD)
@settings(max_examples=40)
def test_the_sum_of_squares_comes_down_to_one_point(seed: int, variables: int, gamma: mpz) -> None:
    x, b = numbers(seed, 2**variables), numbers(seed + 1, 2**variables)
    rounds = Rounds(seed)

    point, value, weight = prove_squares(x, b, gamma, rounds)

    weights = equality_vector(point)
    assert value == dot(x, weights)
    assert weight == dot(b, weights)
    claim = sum(gamma * each * each - other * each for each, other in zip(x, b, strict=True))
    check_chain(rounds, point, claim, gamma * value * value - weight * value)


@given(SEEDS, st.integers(0, 5), FIELD)
@settings(max_examples=40)
def test_the_sum_over_bits_comes_down_to_one_point(seed: int, variables: int, gamma: mpz) -> None:
    x, c, e = (numbers(seed + shift, 2**variables) for shift in range(3))
    rounds = Rounds(seed)

    point, value = prove_bits(x, c, e, gamma, rounds)

    weights = equality_vector(point)
    assert value == dot(x, weights)
    claim = sum(
        gamma * last * (each * each - each) + linear * each
        for each, linear, last in zip(x, c, e, strict=True)
    )
    final = gamma * dot(e, weights) * (value * value - value) + dot(c, weights) * value
    check_chain(rounds, point, claim, final)


@pytest.mark.parametrize(("degree", "variables"), [(2, 1), (2, 4), (3, 5)])
def test_the_relations_hold_for_an_honest_chain_alone(degree: int, variables: int) -> None:
    x, b, e = (numbers(seed, 2**variables) for seed in range(3))
    rounds = Rounds(7)
    gamma = mpz(12345)
    if degree == 2:
        point, value, weight = prove_squares(x, b, gamma, rounds)
        final = (gamma * value * value - weight * value) % ORDER
    else:
        point, value = prove_bits(x, b, e, gamma, rounds)
        final = at(rounds.polynomials[-1], point[-1])
    first = rounds.polynomials[0]
    claim = (at(first, 0) + at(first, 1)) % ORDER
    powers = numbers(9, variables + 1)

    weights, claim_weight, final_weight = round_relations(point, degree, powers)

    def total(polynomials: list[Scalars], claimed: mpz, end: mpz) -> mpz:
        inner = sum(dot(a, b) for a, b in zip(weights, polynomials, strict=True))
        return (inner + claim_weight * claimed + final_weight * end) % ORDER

    assert total(rounds.polynomials, claim, final) == 0
    assert total(rounds.polynomials, claim + 1, final) != 0
    assert total(rounds.polynomials, claim, final + 1) != 0
    for index in range(variables):
        for coefficient in range(degree + 1):
            changed = [list(each) for each in rounds.polynomials]
            changed[index][coefficient] += 1
            assert total(changed, claim, final) != 0


@given(st.lists(FIELD, max_size=5), st.lists(FIELD, max_size=5))
def test_equality_weights_are_one_polynomial(left: Scalars, right: Scalars) -> None:
    size = min(len(left), len(right))
    left, right = left[:size], right[:size]

    assert equality_at(left, right) == dot(equality_vector(left), equality_vector(right))
    assert sum(equality_vector(left)) % ORDER == 1


CORNERS: list[tuple[list[int], int]] = [([0, 0, 1], 1), ([1, 0, 0], 4), ([1, 1, 0], 6)]


@pytest.mark.parametrize(("corner", "index"), CORNERS)
def test_at_a_corner_one_weight_is_one_and_its_index_has_the_corner_s_bits(
    corner: list[int], index: int
) -> None:
    weights = equality_vector(map(mpz, corner))

    assert weights == [int(position == index) for position in range(8)]


def test_the_order_of_variables_is_that_of_rows_then_columns() -> None:
    rows, columns = numbers(1, 2), numbers(2, 3)

    weights = equality_vector([*rows, *columns])

    inner = equality_vector(columns)
    assert weights == [a * b % ORDER for a in equality_vector(rows) for b in inner]
