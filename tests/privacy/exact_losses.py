"""Privacy losses to 30 digits, by integrals and sums straight from the definitions.

Slow on purpose, and with nothing in common with the code under test.
"""

import math
from collections.abc import Callable

from mpmath import mp, mpf

__all__ = [
    "discrete_gaussian_divergence",
    "fixed_size_bound",
    "fixed_size_divergence",
    "sampled_discrete_gaussian_divergence",
    "sampled_gaussian_divergence",
    "skellam_divergence",
]

DIGITS = 30


def divergence_of_densities(
    density: Callable[[mpf], mpf], other: Callable[[mpf], mpf], order: mpf, points: list[float]
) -> mpf:
    moment = mp.quad(
        lambda x: density(x) ** order * other(x) ** (1 - order), points, method="gauss-legendre"
    )
    return mp.log(moment) / (order - 1)


def mixture(sampling_rate: float, spread: float, centre: float) -> Callable[[mpf], mpf]:
    q, s = mpf(sampling_rate), mpf(spread)
    return lambda x: (1 - q) * mp.npdf(x, 0, s) + q * mp.npdf(x, centre, s)


def grid(low: float, high: float, spread: float) -> list[float]:
    count = max(8, int((high - low) / spread / 5))
    return [low + (high - low) * step / count for step in range(count + 1)]


def sampled_gaussian_divergence(
    sampling_rate: float, spread: float, order: float, *, removed: bool = False
) -> float:
    """Return the divergence between somebody there and nobody there, or the reverse."""
    with mp.workdps(DIGITS):
        there = mixture(sampling_rate, spread, 1)
        nobody = mixture(0, spread, 1)
        pair = (nobody, there) if removed else (there, nobody)
        points = grid(-15 * spread, max(order, 2) + 15 * spread, spread)
        return float(divergence_of_densities(*pair, mpf(order), points))


def fixed_size_divergence(sampling_rate: float, spread: float, order: float) -> float:
    """Return that of one pair: all others count as -1, and one of those is replaced by a +1."""
    with mp.workdps(DIGITS):
        one, other = mixture(sampling_rate, spread, 2), mixture(0, spread, 0)
        points = grid(-15 * spread, 2 * max(order, 2) + 15 * spread, spread)
        return float(divergence_of_densities(one, other, mpf(order), points))


def fixed_size_bound(rate: float, spread: float, order: int, *, tight_order_max: int) -> float:
    """Return the log-moment of theorem 9 of Wang, Balle, Kasiviswanathan 2019, term by term."""

    # The alternating sums below lose as many digits as their largest terms have.
    with mp.workdps(2_000):
        loss = 1 / (2 * mpf(spread) ** 2)
        powers = [mp.exp(j * (j - 1) * loss) for j in range(order + 2)]

        def difference(power: int) -> mpf:
            return mp.fsum(
                (-1) ** (power - j) * math.comb(power, j) * powers[j] for j in range(power + 1)
            )

        even = {power: difference(power) for power in range(2, min(order, tight_order_max) + 2, 2)}

        def term(k: int) -> mpf:
            simple = 2 * mp.exp(k * (k - 1) * loss)
            if k == 2:
                return min(4 * mp.expm1(2 * loss), simple)
            if order > tight_order_max:
                return simple
            return min(4 * mp.sqrt(even[k // 2 * 2] * even[(k + 1) // 2 * 2]), simple)

        terms = (mp.binomial(order, k) * mpf(rate) ** k * term(k) for k in range(2, order + 1))
        moment = mp.log1p(mp.fsum(terms))
        return float(min(moment, (order - 1) * order * loss))


def divergence_of_masses(mass: Callable[[int], mpf], shift: int, order: float, reach: int) -> float:
    terms = (
        mass(k - shift) ** mpf(order) * mass(k) ** (1 - mpf(order)) for k in range(-reach, reach)
    )
    return float(mp.log(mp.fsum(terms)) / (mpf(order) - 1))


def skellam_divergence(variance: float, shift: int, order: float) -> float:
    """Return the divergence of Skellam noise around a whole number from that around 0."""
    with mp.workdps(DIGITS):
        masses: dict[int, mpf] = {}

        def mass(k: int) -> mpf:
            if abs(k) not in masses:
                masses[abs(k)] = mp.exp(-mpf(variance)) * mp.besseli(abs(k), mpf(variance))
            return masses[abs(k)]

        reach = int(20 * variance**0.5 + 6 * abs(shift) * order + 20)
        return divergence_of_masses(mass, shift, order, reach)


def discrete_gaussian_divergence(scale: float, shift: int, order: float) -> float:
    """Return the divergence of discrete Gaussian noise around a whole number from that at 0."""
    with mp.workdps(DIGITS):
        reach = int(20 * scale + 3 * abs(shift) * order + 20)
        total = mp.fsum(
            mp.exp(-(mpf(k) ** 2) / (2 * mpf(scale) ** 2)) for k in range(-reach, reach)
        )
        return divergence_of_masses(
            lambda k: mp.exp(-(mpf(k) ** 2) / (2 * mpf(scale) ** 2)) / total, shift, order, reach
        )


def sampled_discrete_gaussian_divergence(
    sampling_rate: float, scale: float, shift: int, order: float, *, removed: bool = False
) -> float:
    """Return that of discrete Gaussian noise, between somebody there by a coin and nobody there."""
    with mp.workdps(DIGITS):
        q, reach = mpf(sampling_rate), int(20 * scale + 3 * abs(shift) * max(order, 2) + 20)
        weights = {
            k: mp.exp(-(mpf(k) ** 2) / (2 * mpf(scale) ** 2))
            for k in range(-reach - abs(shift), reach + abs(shift))
        }
        total = mp.fsum(weights.values())
        terms = []
        for k in range(-reach, reach):
            nobody = weights[k] / total
            there = (1 - q) * nobody + q * weights[k - shift] / total
            one, other = (nobody, there) if removed else (there, nobody)
            terms.append(one ** mpf(order) * other ** (1 - mpf(order)))
        return float(mp.log(mp.fsum(terms)) / (mpf(order) - 1))
