r"""Log-moments of the sampled Gaussian mechanism: what secret sampling leaves of a privacy loss.

Letters: a the order, q the chance to be sampled, s the noise's standard deviation divided by the
sensitivity, n the size of a sample out of m; N(c) the normal distribution around c of standard
deviation s; w(x) = exp((2x - 1) / (2 s^2)) - 1, the density of N(1) over that of N(0), less one.

A log-moment is K(a) = (a - 1) D(a), with D the Rényi divergence of order a. It is convex in a and 0
at 1, so that the straight line between two orders lies above it.

Strategy. All sums here have positive terms alone, so that nothing cancels and small moments keep
their digits. At whole orders they are the finite binomial sums. At the orders between, the
alternating series of the literature is replaced by what it sums up to,

    E over N(0) of (1 + q w)^a - 1 - a q w,

which is nowhere negative (Bernoulli). The trapezoidal rule on equal steps integrates it to almost
the last digit, because it is analytic around the real line. What overflows on the way becomes
infinite: callers let numpy ignore that.
"""

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "by_lines",
    "fixed_size_log_moments",
    "poisson_log_moments",
    "poisson_whole_log_moments",
]

Floats = NDArray[np.float64]

_NODES_MAX: Final = 20_000
"""Beyond so many steps for one order the bound by straight lines has to do."""
_DIGITS: Final = 42.0
"""The error of the trapezoidal rule is about exp of minus this."""
_TAIL: Final = 12.0
"""How many standard deviations of the tails are looked at."""
_SERIES_TERMS: Final = 20
_TIGHT_ORDER_MAX: Final = 256
"""Beyond it the terms of fixed-size sampling are bounded more simply, in linear time."""


def poisson_log_moments(orders: Floats, q: float, s: float) -> Floats:
    """Return K for each order when each takes part by an independent coin.

    Args:
        orders: each > 1.
        q: greater than 0, less than 1.
        s: greater than 0.

    Source: Mironov, Talwar, Zhang 2019, "Rényi Differential Privacy of the Sampled Gaussian
    Mechanism", section 3, which also shows that the other direction is never greater.
    """
    step = _step(s)
    node_counts = (np.maximum(orders, 2) + 2 * _TAIL * s) / step
    is_integrated = (orders != np.floor(orders)) & (node_counts <= _NODES_MAX)
    moments = np.empty_like(orders)
    moments[is_integrated] = [
        _poisson_between(a, q, s, step) for a in orders[is_integrated].tolist()
    ]
    moments[~is_integrated] = by_lines(orders[~is_integrated], lambda a: _poisson_at(a, q, s))
    return moments


def poisson_whole_log_moments(orders: Floats, q: float, s: float) -> Floats:
    """Return a bound of K for each order where discrete Gaussian noise moves by integers.

    With P the noise on a grid of integers and Q the same moved by a vector of integers v, the sum

        E over P of (Q/P)^k = exp(k (k - 1) |v|^2 / (2 s^2)) (sum of P's weights around k v) / (sum)

    has the last ratio 1, because k v lies on the grid: at whole orders K is that of the sampled
    Gaussian mechanism, exactly; between, the line lies above. The other direction is never greater,
    because x -> v - x exchanges P and Q (theorem 5 of the source asks for no more).

    Args:
        orders: each > 1.
        q: greater than 0, less than 1.
        s: greater than 0.

    Source: Mironov, Talwar, Zhang 2019, sections 3.1 and 3.3; Canonne, Kamath, Steinke 2020.
    """
    return by_lines(orders, lambda a: _poisson_at(a, q, s))


def fixed_size_log_moments(orders: Floats, q: float, s: float) -> Floats:
    """Return a bound of K for each order when n of m are drawn and one of the m is replaced.

    Args:
        orders: each > 1.
        q: n / m, greater than 0, at most 1.
        s: greater than 0; of the sensitivity under replacement, which is twice the clipping norm.

    Source: Wang, Balle, Kasiviswanathan 2019, "Subsampled Rényi Differential Privacy and Analytical
    Moments Accountant", theorem 9, up to order 256 in the tighter form of its appendix. The forward
    differences there of even order l are E over N(0) of w^l, integrated here. Never more than
    without sampling, because these divergences are jointly convex.
    """
    differences = _even_differences(int(min(np.ceil(orders.max()), _TIGHT_ORDER_MAX)), s)
    moments = by_lines(orders, lambda a: _fixed_size_at(a, q, s, differences))
    unsampled: Floats = (orders - 1) * orders * _loss(s)
    return np.minimum(moments, unsampled)


def by_lines(orders: Floats, moment_at: Callable[[int], float]) -> Floats:
    """Return log-moments that are known at whole orders; between, the line, which lies above."""
    around = np.unique(np.concatenate([[1.0], np.floor(orders), np.ceil(orders)]))
    moments = [0.0, *(moment_at(int(a)) for a in around[1:])]
    lines: Floats = np.interp(orders, around, moments)
    return np.where(np.isnan(lines), np.inf, lines)


def _poisson_at(a: int, q: float, s: float) -> float:
    k = np.arange(2, a + 1, dtype=np.float64)
    terms = _log_binomials(a) + k * np.log(q) + (a - k) * np.log1p(-q)
    return _log1p_of_sum(terms + _log_abs_expm1(k * (k - 1) * _loss(s)))


def _poisson_between(a: float, q: float, s: float, step: float) -> float:
    """Integrate (1 + u)^a - 1 - a u for u = q w."""
    x = np.arange(-_TAIL * s, max(a, 2.0) + _TAIL * s + step, step)
    y = (2 * x - 1) * _loss(s)
    u = q * np.expm1(np.minimum(y, 30.0))
    log_power = a * np.where(y < 30, np.log1p(u), np.logaddexp(np.log1p(-q), np.log(q) + y))
    log_line = np.log(a * q) + y + np.log1p(np.exp(-np.log(a * q) - y))
    log_excess = np.where(
        log_power < 300,
        np.log(np.expm1(np.minimum(log_power, 300)) - a * q * np.expm1(np.minimum(y, 600))),
        log_power + np.log1p(-np.exp(log_line - log_power)),
    )
    is_near = (np.abs(u) < 0.1) & (np.abs(a * u) < 1)
    log_excess = np.where(is_near, _log_series(a, u), log_excess)
    return _log1p_of_sum(log_excess + _log_weights(x, s, step))


def _log_series(a: float, u: Floats) -> Floats:
    """Return the logarithm of the binomial series without its first two terms, by Horner."""
    rest = np.ones_like(u)
    for k in range(_SERIES_TERMS, 2, -1):
        rest = 1 + rest * u * ((a - k + 1) / k)
    logarithm: Floats = np.log(a * (a - 1) / 2) + 2 * np.log(np.abs(u)) + np.log(rest)
    return logarithm


def _fixed_size_at(a: int, q: float, s: float, differences: Floats) -> float:
    k = np.arange(2, a + 1, dtype=np.float64)
    simple = math.log(2) + k * (k - 1) * _loss(s)
    tight = np.full_like(simple, np.inf)
    if 2 * len(differences) >= a:
        low, high = (np.arange(2, a + 1) // 2 - 1), ((np.arange(2, a + 1) + 1) // 2 - 1)
        tight[1:] = math.log(4) + (differences[low] + differences[high])[1:] / 2
    tight[0] = math.log(4) + _log_abs_expm1(2 * _loss(s))
    return _log1p_of_sum(_log_binomials(a) + k * np.log(q) + np.minimum(simple, tight))


def _even_differences(order_max: int, s: float) -> Floats:
    """Return the logarithms of E over N(0) of w^l for l = 2, 4, … up to the order or one more."""
    logarithms = []
    for power in range(2, order_max + 2, 2):
        # A power l of a normal variable has its mass around sqrt(l) standard deviations.
        reach, step = (math.sqrt(power) + _TAIL) * s, s / 5
        if (2 * reach + power) / step > _NODES_MAX:
            logarithms.append(np.inf)
            continue
        x = np.arange(-reach, power + reach + step, step)
        powers = power * _log_abs_expm1((2 * x - 1) * _loss(s))
        logarithms.append(_log_sum(powers + _log_weights(x, s, step)))
    return np.array(logarithms)


def _step(s: float) -> float:
    """Return steps for which the trapezoidal rule errs by exp(-42) or so.

    Moved by i t off the real line the normal density grows by exp(t^2 / (2 s^2)), and the rule errs
    by that times exp(-2 pi t / step); (1 + q w)^a is analytic up to |t| = pi s^2.
    """
    by_density = s * math.pi * math.sqrt(2 / _DIGITS)
    by_branch = 2 / (0.5 + _DIGITS / np.square(math.pi * np.float64(s)))
    return by_density if by_density > 2 else float(by_branch)


def _loss(s: float) -> np.float64:
    return np.float64(0.5) / np.float64(s) / np.float64(s)


def _log_weights(x: Floats, s: float, step: float) -> Floats:
    logarithms: Floats = math.log(step / (s * math.sqrt(2 * math.pi))) - x * x * _loss(s)
    return logarithms


def _log_binomials(a: int) -> Floats:
    """Return log C(a, k) for k = 2 … a."""
    k = np.arange(2, a + 1, dtype=np.float64)
    logarithms: Floats = math.log(a) + np.cumsum(np.log((a - k + 1) / k))
    return logarithms


def _log_abs_expm1(y: Any) -> Any:
    return np.maximum(y, 0) + np.log(-np.expm1(-np.abs(y)))


def _log_sum(logarithms: Floats) -> float:
    top = logarithms.max()
    return float(top + np.log(np.sum(np.exp(logarithms - top)))) if np.isfinite(top) else float(top)


def _log1p_of_sum(logarithms: Floats) -> float:
    return float(np.logaddexp(0.0, _log_sum(logarithms)))
