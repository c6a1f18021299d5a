"""What several tests of noise ask: how likely counts are, and keystreams with chosen words."""

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kumiai.privacy.keystream import Keystream

KEY = bytes(range(32))
P_VALUE_MIN = 1e-6


def p_value_of_counts(counts: Sequence[int], probabilities: Sequence[float]) -> float:
    """Return how likely counts as far from their probabilities as these are.

    The tail of the chi-square distribution by its continued fraction or its series.
    Source: Abramowitz and Stegun 1964, 6.5.29 and 6.5.31.
    """
    total = sum(counts)
    expected = [total * probability for probability in probabilities]
    assert min(expected) > 5
    assert math.isclose(sum(probabilities), 1, rel_tol=1e-9)
    chi_square = sum((n - e) ** 2 / e for n, e in zip(counts, expected, strict=True))
    return upper_gamma((len(counts) - 1) / 2, chi_square / 2)


def upper_gamma(a: float, x: float) -> float:
    """Return the regularised upper incomplete gamma function."""
    factor = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1:
        term = total = 1 / a
        n = 0
        while term > total * 1e-16:
            n += 1
            term *= x / (a + n)
            total += term
        return 1 - factor * total
    fraction = 0.0
    for n in range(2000, 0, -1):
        fraction = n * (n - a) / (x + 2 * n + 1 - a - fraction)
    return factor / (x + 1 - a - fraction)


def counts_within(numbers: NDArray[Any], limit: int) -> list[int]:
    """Return how many numbers there are of each from -limit to limit, the outer ones taken in."""
    inner = np.clip(numbers, -limit, limit) + limit
    return np.bincount(inner, minlength=2 * limit + 1).tolist()


def gaussian_weight(offset: int, variance: Fraction) -> float:
    return math.exp(-float(offset * offset / (2 * variance)))


def exp_fraction(cost: Fraction, terms: int = 160) -> Fraction:
    """Return exp(-cost) for a cost of at most 8, by its series, to more than 60 digits."""
    term = total = Fraction(1)
    for n in range(1, terms):
        term *= -cost / n
        total += term
    return total


class ChosenKeystream(Keystream):
    """Gives the words of a fixed key in bulk, and chosen ones where single words are asked for."""

    __slots__ = ("_chosen",)

    def __init__(self, chosen: Iterable[int], key: bytes = KEY) -> None:
        super().__init__(key)
        self._chosen = iter(chosen)

    def draw_word(self) -> int:
        return next(self._chosen)
