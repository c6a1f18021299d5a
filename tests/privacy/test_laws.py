"""The weights, in floats and between rationals, against other ways to the same numbers."""

import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kumiai.privacy import laws as remembering
from kumiai.privacy.laws import COST_MAX, DiscreteGaussian, Law, Poisson
from tests.privacy.statistics_of_noise import exp_fraction

variances = st.fractions(Fraction(1, 4), 1 << 80, max_denominator=1000)
rates = st.one_of(st.integers(1, 20_000), st.integers(0, 50).map(lambda power: 1 << power))
laws = st.one_of(variances.map(DiscreteGaussian), rates.map(Poisson))
positions = st.floats(-12, 12)
EXACT_BITS = 900


@pytest.fixture(autouse=True)
def nothing_is_remembered() -> None:
    """Let each test compute its tables itself."""
    remembering._poisson_costs.cache_clear()
    remembering._stirling_series.cache_clear()


def exact_cost(law: Law, offset: int) -> Decimal:
    """Return the cost to more digits than any float has."""
    low, high = law.weight_bounds(offset, EXACT_BITS)
    with localcontext(prec=EXACT_BITS // 3):
        return -(Decimal(low + high) / (2 << EXACT_BITS)).ln()


def poisson_weight(rate: int, offset: int) -> Fraction:
    """Return rate^offset rate! / (rate + offset)!, factor by factor."""
    weight = Fraction(1)
    for count in range(rate + 1, rate + offset + 1):
        weight *= Fraction(rate, count)
    for count in range(rate + offset + 1, rate + 1):
        weight *= Fraction(count, rate)
    return weight


@given(variance=variances, position=st.floats(-3.9, 3.9), bits=st.integers(8, 200))
def test_the_bounds_of_a_gaussian_weight_enclose_its_series(
    variance: Fraction, position: float, bits: int
) -> None:
    law = DiscreteGaussian(variance)
    offset = round(position * law.deviation)

    low, high = law.weight_bounds(offset, bits)

    assert low <= exp_fraction(offset * offset / (2 * variance)) * 2**bits <= high
    assert high - low <= 4


@given(
    rate=st.integers(1, 300), offset=st.integers(-300, 300), bits=st.sampled_from([8, 64, 192, 512])
)
def test_the_bounds_of_a_poisson_weight_enclose_the_product(
    rate: int, offset: int, bits: int
) -> None:
    low, high = Poisson(rate).weight_bounds(offset, bits)

    exact = poisson_weight(rate, offset) if rate + offset >= 0 else 0
    assert low <= exact * 2**bits <= high
    assert high - low <= 4


@pytest.mark.parametrize("rate", [1 << 20, 1 << 31, 1 << 50])
@pytest.mark.parametrize("offset", [-2_000, -1, 0, 1, 3_000])
def test_the_bounds_of_a_poisson_weight_hold_for_large_rates(rate: int, offset: int) -> None:
    low, high = Poisson(rate).weight_bounds(offset, 256)

    assert low <= poisson_weight(rate, offset) * 2**256 <= high
    assert high - low <= 4


def test_a_poisson_number_is_never_negative() -> None:
    law = Poisson(5)

    assert law.weight_bounds(-6, 64) == (0, 0)
    assert law.weight_bounds(-5, 64)[0] > 0
    assert law.costs(np.array([-6.0]))[0] == math.inf


@given(law=laws, position=positions)
def test_the_costs_in_floats_are_as_close_as_they_claim(law: Law, position: float) -> None:
    offset = round(position * law.deviation)
    assume(law.weight_bounds(offset, EXACT_BITS)[0] > 0)
    exact = exact_cost(law, offset)
    assume(exact < COST_MAX)

    cost = float(law.costs(np.array([float(offset)]))[0])

    assert abs(Decimal(cost) - exact) <= Decimal(law.error(max(510.0, abs(offset))))


@pytest.mark.parametrize(
    ("law", "reach", "most"),
    [
        (DiscreteGaussian(Fraction(9)), 510, 6e-14),
        (Poisson(1), 510, 6e-11),
        (Poisson(1000), 510, 1e-10),
        (Poisson(1 << 14), 1020, 3e-12),
        (Poisson(1 << 50), 510 << 19, 5e-7),
    ],
    ids=str,
)
def test_costs_are_close_enough_to_decide_nearly_every_draw(
    law: Law, reach: float, most: float
) -> None:
    assert 0 < law.error(reach) < most


@pytest.mark.parametrize("variance", [Fraction(6, 25), Fraction((1 << 80) + 1)])
def test_a_variance_out_of_range_is_refused(variance: Fraction) -> None:
    with pytest.raises(ValueError, match="variance must be from 1/4 to 2\\^80"):
        DiscreteGaussian(variance)


@pytest.mark.parametrize("rate", [0, -1, (1 << 50) + 1])
def test_a_rate_out_of_range_is_refused(rate: int) -> None:
    with pytest.raises(ValueError, match="rate must be from 1 to 2\\^50"):
        Poisson(rate)
