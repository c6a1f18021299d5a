"""The distributions that noise is drawn from, exactly: integers whose weights are log-concave.

A law is written around its mode: the weight of offset 0 is 1, and no other is greater. Its cost is
the negative logarithm of the weight, in floats with a proven error, which decides nearly every
draw; where that is too coarse, the weight is enclosed between rationals as narrow as is asked for.

Source: Canonne, Kamath, Steinke 2020 (the discrete Gaussian); Agarwal, Kairouz, Liu 2021 (Skellam
noise, the difference of two Poisson numbers); Robbins 1955 and DLMF 5.11(ii) (Stirling's series
and the bound of its error).
"""

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, ROUND_CEILING, ROUND_FLOOR, Context, Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from typing import Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "COST_MAX",
    "RATE_MAX",
    "VARIANCE_MAX",
    "VARIANCE_MIN",
    "DiscreteGaussian",
    "Floats",
    "Law",
    "Poisson",
]

Floats: TypeAlias = NDArray[np.float64]

VARIANCE_MIN: Final = Fraction(1, 4)
VARIANCE_MAX: Final = Fraction(1 << 80)
RATE_MAX: Final = 1 << 50
COST_MAX: Final = 128.0
"""Floats have to be right up to this cost; beyond it only the exact weights are asked for."""

_SMALL_RATE: Final = 1 << 13
_LOOKED_UP: Final = 1 << 11
_DIGITS_PER_BIT: Final = 0.302
_SPARE_DIGITS: Final = 64


class Law(Protocol):
    """A distribution of integers around its mode, equal to others with its parameters."""

    def __hash__(self) -> int:
        """Return the same for equal laws."""
        ...

    @property
    def deviation(self) -> float:
        """The standard deviation, roughly."""
        ...

    def costs(self, offsets: Floats) -> Floats:
        """Return the cost of each offset; infinite where the weight is 0."""
        ...

    def error(self, reach: float) -> float:
        """Return by how much `costs` is off at most, for offsets within reach and `COST_MAX`."""
        ...

    def weight_bounds(self, offset: int, bits: int) -> tuple[int, int]:
        """Return whole numbers between which lies the weight times 2^bits, a few apart."""
        ...


@dataclass(frozen=True, slots=True)
class DiscreteGaussian:
    """Weights exp(-offset^2 / (2 variance)) over all integers.

    Attributes:
        variance: the parameter, 1/4 to 2^80; the true variance is a little less below 1.
    """

    variance: Fraction

    def __post_init__(self) -> None:
        """Check the range.

        Raises:
            ValueError: the variance is out of it.
        """
        if not VARIANCE_MIN <= self.variance <= VARIANCE_MAX:
            raise ValueError(f"variance must be from 1/4 to 2^80, got {float(self.variance):g}")

    @property
    def deviation(self) -> float:
        """The standard deviation, roughly."""
        return math.sqrt(self.variance)

    def costs(self, offsets: Floats) -> Floats:
        """Return offset^2 / (2 variance)."""
        return np.square(offsets) * float(1 / (2 * self.variance))

    def error(self, reach: float) -> float:
        """Return the error of three roundings."""
        return COST_MAX * 2.0**-51

    def weight_bounds(self, offset: int, bits: int) -> tuple[int, int]:
        """Return whole numbers between which lies the weight times 2^bits."""
        numerator, denominator = self.variance.as_integer_ratio()
        with _digits(bits) as context:
            cost = Decimal(offset * offset * denominator) / Decimal(2 * numerator)
            return _exp_bounds(cost, cost * _unit(context), bits)


@dataclass(frozen=True, slots=True)
class Poisson:
    """A Poisson number less its rate.

    Attributes:
        rate: a whole number, 1 to 2^50, so that the rate itself is a mode.
    """

    rate: int

    def __post_init__(self) -> None:
        """Check the range.

        Raises:
            ValueError: the rate is out of it.
        """
        if not 1 <= self.rate <= RATE_MAX:
            raise ValueError(f"rate must be from 1 to 2^50, got {self.rate}")

    @property
    def deviation(self) -> float:
        """The standard deviation."""
        return math.sqrt(self.rate)

    def costs(self, offsets: Floats) -> Floats:
        """Return log((rate + offset)! / rate!) - offset log(rate)."""
        if self.rate < _SMALL_RATE:
            return _poisson_costs(self.rate)[offsets.astype(np.int64) + _LOOKED_UP]
        counts = offsets + self.rate
        # Stirling's formula, the logarithm taken of the quotient: nothing large is left to cancel.
        costs = np.log1p(offsets / self.rate)
        costs *= counts + 0.5
        costs -= offsets
        costs += (1 / 12) / counts - (1 / 12) / self.rate
        return costs

    def error(self, reach: float) -> float:
        """Return the error: of log1p and its product, or of the logarithms of factorials."""
        if self.rate < _SMALL_RATE:
            count = self.rate + _LOOKED_UP
            return 2.0**-48 * count * math.log(count)
        # The third term of the series, left out above, is below 2^-40 for all rates from here on.
        return 2.0**-49 * reach + 2.0**-40

    def weight_bounds(self, offset: int, bits: int) -> tuple[int, int]:
        """Return whole numbers between which lies the weight times 2^bits."""
        count = self.rate + offset
        if count < 0:
            return 0, 0
        with _digits(bits) as context:
            logarithm, remainder = _log_factorial(count, bits)
            at_mode, remainder_at_mode = _log_factorial(self.rate, bits)
            shift = offset * Decimal(self.rate).ln()
            # Fewer than a hundred roundings, each of a number below this size.
            size = 2 * (abs(logarithm) + abs(at_mode) + abs(shift)) + bits**2
            error = 100 * size * _unit(context) + remainder + remainder_at_mode
            return _exp_bounds(logarithm - at_mode - shift, error, bits)


@lru_cache(maxsize=8)
def _poisson_costs(rate: int) -> Floats:
    """Return the costs of the offsets from -_LOOKED_UP on, for a small rate."""
    at_mode, logarithm = math.lgamma(rate + 1), math.log(rate)
    costs = np.full(2 * _LOOKED_UP, np.inf)
    for offset in range(-min(rate, _LOOKED_UP), _LOOKED_UP):
        cost = math.lgamma(rate + offset + 1) - at_mode - offset * logarithm
        costs[offset + _LOOKED_UP] = cost
    return costs


def _digits(bits: int) -> AbstractContextManager[Context]:
    precision = int(bits * _DIGITS_PER_BIT) + _SPARE_DIGITS
    return localcontext(Context(prec=precision, Emin=MIN_EMIN, Emax=MAX_EMAX))


def _unit(context: Context) -> Decimal:
    """Return the largest relative error of one operation."""
    return Decimal(10).scaleb(-context.prec)


def _exp_bounds(cost: Decimal, error: Decimal, bits: int) -> tuple[int, int]:
    """Enclose exp(-cost) 2^bits, for a cost that is off by less than the error."""
    scaled = (-cost).exp() * (1 << bits)
    # exp(e) - 1 < 2e below 1; and whole numbers below 2^bits have digits to spare.
    slack = scaled * min(2 * error + Decimal(10).scaleb(-_SPARE_DIGITS) / (1 << bits), Decimal(1))
    low = (scaled - slack).to_integral_value(ROUND_FLOOR)
    high = (scaled + slack).to_integral_value(ROUND_CEILING)
    return max(int(low) - 1, 0), min(int(high) + 1, 1 << bits)


def _log_factorial(count: int, bits: int) -> tuple[Decimal, Decimal]:
    """Return log(count!) less log(2 pi)/2, and by how much it is off at most."""
    # With so large a number the series is as good as its digits long before it diverges.
    shift = max(0, 4 * bits - count)
    number = Decimal(count + shift)
    result = (number + Decimal("0.5")) * number.ln() - number
    terms = [
        Decimal(factor.numerator) / (Decimal(factor.denominator) * number**power)
        for power, factor in _stirling_series(bits // 16 + 2)
    ]
    result += sum(terms[:-1])
    # The error is less than the first term that is left out, and of its sign.
    return result - Decimal(math.perm(count + shift, shift)).ln(), abs(terms[-1])


@lru_cache(maxsize=8)
def _stirling_series(count: int) -> list[tuple[int, Fraction]]:
    """Return the first powers of 1/n in Stirling's series, with their factors."""
    bernoulli = _bernoulli(2 * count)
    return [(k - 1, bernoulli[k] / (k * (k - 1))) for k in range(2, 2 * count + 1, 2)]


def _bernoulli(last: int) -> list[Fraction]:
    numbers = [Fraction(1)]
    for m in range(1, last + 1):
        total = sum((math.comb(m + 1, k) * numbers[k] for k in range(m)), Fraction(0))
        numbers.append(-total / (m + 1))
    return numbers
