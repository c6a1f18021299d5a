"""How much noise a budget asks for, and how many rounds it still allows."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kumiai.privacy.checking import at_least_zero, open_fraction, whole
from kumiai.privacy.conversion import epsilon_bound
from kumiai.privacy.events import COUNT_MAX, Event
from kumiai.privacy.rdp import DEFAULT_ORDERS, checked_orders, checked_rdp, rdp_of

__all__ = ["calibrate_noise", "most_allowed", "rounds_left"]

_NOISE_EXPONENT_MIN: Final = -6
_NOISE_EXPONENT_MAX: Final = 40
"""Noise multipliers from 2^-6 to 2^40 are considered."""
_PRECISION: Final = 1e-6
"""How far above the least noise multiplier the answer may be, relative to it."""


def calibrate_noise(
    event_of: Callable[[float], Event],
    *,
    steps: int,
    target_epsilon: float,
    target_delta: float,
    orders: Sequence[float] | NDArray[np.float64] = DEFAULT_ORDERS,
    spent: Any = None,
) -> float:
    """Return the least noise multiplier with which some rounds stay within a budget.

    Args:
        event_of: makes a round's event from its noise multiplier, and costs less with more; for
            instance ``lambda z: PoissonGaussianEvent(0.01, z)``.
        steps: how many such rounds, at least 1.
        target_epsilon: what all together may cost, what is spent included.
        target_delta: at which delta, between 0 and 1.
        orders: the grid of Rényi orders.
        spent: the curve of what was spent before, one number for each order; ``None``: nothing.

    Returns:
        A noise multiplier that stays within the budget, at most a millionth above the least one;
        not below 2^-6.

    Raises:
        TypeError, ValueError: an argument is not what it must be, or no noise is enough.
    """
    grid = checked_orders(orders)
    before = _before(grid, spent)
    count = whole("steps", steps, at_least=1, at_most=COUNT_MAX)
    target = at_least_zero("target_epsilon", target_epsilon)
    delta = open_fraction("target_delta", target_delta)

    def is_enough(exponent: float) -> bool:
        curve = before + count * rdp_of(event_of(math.exp2(exponent)), grid)
        return epsilon_bound(grid, curve, delta).value <= target

    low, high = float(_NOISE_EXPONENT_MIN), float(_NOISE_EXPONENT_MAX)
    if is_enough(low):
        return math.exp2(low)
    if not is_enough(high):
        raise ValueError(
            f"target_epsilon must be more than what is spent and than what no noise can hide "
            f"at this delta, got {target!r}; take a larger epsilon or delta"
        )
    while high - low > _PRECISION:
        middle = (low + high) / 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return math.exp2(high)


def rounds_left(
    event: Event,
    *,
    target_epsilon: float,
    target_delta: float,
    orders: Sequence[float] | NDArray[np.float64] = DEFAULT_ORDERS,
    spent: Any = None,
) -> int:
    """Return how many more rounds a budget allows; at most 10^12 are counted.

    Args:
        event: a round.
        target_epsilon: what all together may cost, what is spent included.
        target_delta: at which delta, between 0 and 1.
        orders: the grid of Rényi orders.
        spent: the curve of what was spent before; ``None``: nothing.

    Raises:
        TypeError, ValueError: an argument is not what it must be.
    """
    grid = checked_orders(orders)
    before, curve = _before(grid, spent), rdp_of(event, grid)
    target = at_least_zero("target_epsilon", target_epsilon)
    delta = open_fraction("target_delta", target_delta)

    def is_affordable(count: int) -> bool:
        return epsilon_bound(grid, before + count * curve, delta).value <= target

    return most_allowed(is_affordable, COUNT_MAX)


def most_allowed(allows: Callable[[int], bool], most: int) -> int:
    """Return the largest count that is allowed, where all below an allowed one are.

    Args:
        allows: whether a count of at least 1 is.
        most: no count above this is asked for.

    Returns:
        0 if none is allowed.
    """
    low, high = 0, 1
    while high <= most and allows(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if allows(middle) else (low, middle)
    return low


def _before(grid: NDArray[np.float64], spent: Any) -> NDArray[np.float64]:
    return np.zeros_like(grid) if spent is None else checked_rdp(grid, spent)
