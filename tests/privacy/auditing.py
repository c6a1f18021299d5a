"""A many-run audit: how much privacy a release loses at least, told from what comes out of it.

Many releases with somebody's contribution, and as many without; a test tells the two apart. From
the first half of each the test's threshold is chosen, from the other its error rates are bounded
(Clopper and Pearson), and from these the epsilon of the Gaussian mechanism that such a test would
still allow. A release that loses no more than is claimed can pass that bound by chance only.

Source: Jagielski, Ullman, Oprea 2020; Nasr et al. 2023 (bounds by Gaussian differential privacy).
"""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

NORMAL = NormalDist()
CONFIDENCE = 0.975
"""Of each of the two error rates."""


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Return the delta of the Gaussian mechanism whose sensitivity is mu deviations.

    Source: Balle, Wang 2018, theorem 8.
    """
    upper = NORMAL.cdf(mu / 2 - epsilon / mu)
    return upper - math.exp(epsilon) * NORMAL.cdf(-mu / 2 - epsilon / mu)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return the epsilon of that mechanism, by halving."""
    return halved(lambda epsilon: gaussian_delta(epsilon, mu) > delta, 0.0, 100.0)


def halved(is_below: Callable[[float], bool], low: float, high: float) -> float:
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return high


def binomial_upper_tail(successes: int, trials: int, rate: float) -> float:
    """Return how likely at least so many successes are."""
    counts = np.arange(successes, trials + 1)
    logarithms = np.array(
        [
            math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
            for k in counts.tolist()
        ]
    )
    logarithms += counts * math.log(rate) + (trials - counts) * math.log1p(-rate)
    return float(np.exp(logarithms).sum())


def rate_at_least(successes: int, trials: int) -> float:
    """Return what a rate is at least, by Clopper and Pearson."""
    if successes == 0:
        return 0.0
    alpha = 1 - CONFIDENCE
    return halved(
        lambda rate: binomial_upper_tail(successes, trials, rate) < alpha, 1e-12, 1 - 1e-12
    )


def audited_epsilon(with_it: NDArray[Any], without: NDArray[Any], delta: float) -> float:
    """Return what epsilon is at least, from one score of each release.

    Args:
        with_it: scores of releases with the contribution; higher than without on the whole.
        without: as many of releases without it.
        delta: at which.
    """
    half = len(with_it) // 2
    threshold = best_threshold(with_it[:half], without[:half])
    found = rate_at_least(int(np.count_nonzero(with_it[half:] > threshold)), len(with_it) - half)
    spared = rate_at_least(int(np.count_nonzero(without[half:] <= threshold)), len(without) - half)
    if min(found, spared) <= 0 or found + spared <= 1:
        return 0.0
    return gaussian_epsilon(NORMAL.inv_cdf(found) + NORMAL.inv_cdf(spared), delta)


def best_threshold(with_it: NDArray[Any], without: NDArray[Any]) -> float:
    """Return the threshold that separates best, with enough cases on each side to bound rates."""
    candidates = np.quantile(np.concatenate([with_it, without]), np.linspace(0.02, 0.98, 97))
    count = len(with_it)

    def separation(threshold: float) -> float:
        found = (np.count_nonzero(with_it > threshold) + 0.5) / (count + 1)
        spared = (np.count_nonzero(without <= threshold) + 0.5) / (count + 1)
        # Less what chance may have added: rates near 0 and 1 are known worst.
        least = [rate - 2 * math.sqrt(rate * (1 - rate) / count) for rate in (found, spared)]
        return sum(NORMAL.inv_cdf(max(rate, 1e-9)) for rate in least)

    return float(max(candidates, key=separation))
