"""From a Rényi curve to (epsilon, delta), and back.

Each order of the grid gives a valid bound, the least is taken. A best order at the edge of the grid
means that a wider grid might give a smaller figure: the figure is right, and perhaps too large.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kumiai.privacy.checking import at_least_zero, open_fraction
from kumiai.privacy.rdp import checked_orders, checked_rdp

__all__ = ["Bound", "OrderGridWarning", "delta_bound", "delta_of", "epsilon_bound", "epsilon_of"]

Floats = NDArray[np.float64]


class OrderGridWarning(UserWarning):
    """The best order is at the edge of the grid; a wider grid may give a smaller epsilon."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A figure with the order that gave it.

    Attributes:
        value: the epsilon or the delta.
        order: the best one of the grid; ``None`` when none was needed, or none gives a bound.
        is_at_edge: a wider grid may give less.
    """

    value: float
    order: float | None
    is_at_edge: bool


def epsilon_of(orders: Any, rdp: Any, delta: float) -> float:
    """Return the epsilon of a curve at a delta; warn when the grid is too narrow.

    Args:
        orders: rising, each greater than 1.
        rdp: one number for each order, at least 0.
        delta: between 0 and 1.

    Returns:
        At least 0; infinite when no order gives a bound.

    Raises:
        TypeError, ValueError: an argument is not what it must be.
    """
    return _told(epsilon_bound(orders, rdp, delta))


def delta_of(orders: Any, rdp: Any, epsilon: float) -> float:
    """Return the delta of a curve at an epsilon of at least 0; otherwise as `epsilon_of`."""
    return _told(delta_bound(orders, rdp, epsilon))


def epsilon_bound(orders: Any, rdp: Any, delta: float) -> Bound:
    """Return the epsilon with its order; never warn.

    Source: Canonne, Kamath, Steinke 2020, "The Discrete Gaussian", proposition 12; and epsilon 0
    where delta^2 >= 1 - exp(-KL), by Bretagnolle and Huber, with KL at most the curve anywhere.
    """
    grid = checked_orders(orders)
    curve, delta = checked_rdp(grid, rdp), open_fraction("delta", delta)
    if -np.expm1(-curve.min()) <= np.square(delta):
        return Bound(0.0, None, is_at_edge=False)
    candidates = curve + np.log1p(-1 / grid) - (np.log(delta) + np.log(grid)) / (grid - 1)
    return _least(grid, np.maximum(candidates, 0.0))


def delta_bound(orders: Any, rdp: Any, epsilon: float) -> Bound:
    """Return the delta with its order; never warn. Sources as for `epsilon_bound`."""
    grid = checked_orders(orders)
    curve, epsilon = checked_rdp(grid, rdp), at_least_zero("epsilon", epsilon)
    with np.errstate(over="ignore"):
        candidates = np.exp((grid - 1) * (curve - epsilon + np.log1p(-1 / grid)) - np.log(grid))
    found = _least(grid, candidates)
    by_variation = float(np.sqrt(-np.expm1(-curve.min())))
    if by_variation < found.value:
        return Bound(by_variation, None, is_at_edge=False)
    return found


def _least(orders: Floats, candidates: Floats) -> Bound:
    best = int(np.argmin(candidates))
    value = float(candidates[best])
    if not 0 < value < np.inf:
        return Bound(value, None, is_at_edge=False)
    return Bound(value, float(orders[best]), is_at_edge=best in (0, len(orders) - 1))


def _told(bound: Bound) -> float:
    if bound.is_at_edge:
        warnings.warn(
            f"orders must reach further for the smallest bound, got the best one at their edge: "
            f"{bound.order:g}",
            OrderGridWarning,
            stacklevel=3,
        )
    return bound.value
