"""What a release costs, as a curve: its Rényi divergence at each order of a grid.

Curves add up over releases, also when the next release is chosen by what the earlier ones showed.
They are upper bounds for the event as it is written; nothing here knows whether it was made so.

Source: Mironov 2017, "Rényi Differential Privacy"; for each kind see the function.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kumiai.privacy.checking import finite
from kumiai.privacy.events import (
    DiscreteGaussianEvent,
    Event,
    FixedSizeGaussianEvent,
    GaussianEvent,
    MatrixEvent,
    PoissonDiscreteGaussianEvent,
    PoissonGaussianEvent,
    SkellamEvent,
    TreeEvent,
)
from kumiai.privacy.subsampling import (
    by_lines,
    fixed_size_log_moments,
    poisson_log_moments,
    poisson_whole_log_moments,
)

__all__ = [
    "DEFAULT_ORDERS",
    "ORDER_MAX",
    "checked_orders",
    "checked_rdp",
    "gaussian_noise_multiplier",
    "rdp_of",
]

Floats = NDArray[np.float64]

DEFAULT_ORDERS: Final[tuple[float, ...]] = (
    *(1 + tenths / 10 for tenths in range(1, 100)),
    *(float(order) for order in range(11, 64)),
    *(128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0),
)
"""Fine where an ordinary epsilon has its best order, coarse up to where a tiny one has it."""
ORDER_MAX: Final = 65_536
_ORDER_COUNT_MAX: Final = 4096
_CACHED_CURVES: Final = 1024
_TINY: Final = float(np.finfo(np.float64).tiny)


def rdp_of(event: Event, orders: Sequence[float] | Floats = DEFAULT_ORDERS) -> Floats:
    """Return what one such release costs.

    Args:
        event: the release.
        orders: rising, each greater than 1.

    Returns:
        The Rényi divergence at each order: read-only float64, never negative, infinite where
        there is no bound. Remembered for the events seen last.

    Raises:
        TypeError, ValueError: the orders are not what they must be.
    """
    return _curve(event, tuple(checked_orders(orders).tolist()))


def checked_orders(orders: Any) -> Floats:
    """Return orders as a read-only array of float64.

    Raises:
        TypeError, ValueError: they are not rising numbers greater than 1, at most 65536.
    """
    values = np.array([finite(f"orders[{i}]", each) for i, each in enumerate(orders)])
    if not 1 <= len(values) <= _ORDER_COUNT_MAX:
        raise ValueError(f"orders must be 1 to {_ORDER_COUNT_MAX} numbers, got {len(values)}")
    if values[0] <= 1 or values[-1] > ORDER_MAX or not np.all(np.diff(values) > 0):
        raise ValueError(
            f"orders must rise, each greater than 1 and at most {ORDER_MAX}, "
            f"got {values[0]!r} to {values[-1]!r}"
        )
    values.flags.writeable = False
    return values


def checked_rdp(orders: Floats, rdp: Any) -> Floats:
    """Return a curve as float64: one number for each order, at least 0, infinite if it must be.

    Raises:
        TypeError, ValueError: it is something else.
    """
    values = np.asarray(rdp)
    if values.dtype.kind not in "iuf":
        raise TypeError(f"rdp must be numbers, got {values.dtype}")
    if values.shape != orders.shape:
        raise ValueError(f"rdp must have shape {orders.shape}, got {values.shape}")
    if not np.all(values >= 0):
        raise ValueError("rdp must be at least 0 at each order, got NaN or less")
    return values.astype(np.float64)


def gaussian_noise_multiplier(event: Event) -> float:
    """Return the noise multiplier of the one Gaussian release that an event comes to.

    Raises:
        TypeError: it comes to no such release.
    """
    match event:
        case GaussianEvent(noise_multiplier=z):
            sensitivity = 1.0
        case MatrixEvent(noise_multiplier=z):
            # The columns of one participant do not overlap, so their squares add up.
            # Source: Choquette-Choo et al. 2023, "(Amplified) Banded Matrix Factorization".
            sensitivity = math.sqrt(_participations(event)) * math.hypot(*event.coefficients)
        case TreeEvent(noise_multiplier=z):
            sensitivity = math.sqrt(_tree_squares(event))
        case _:
            raise TypeError(f"event must come to a Gaussian release, got {event.kind}")
    return z / (event.sensitivity_factor * sensitivity)


def _participations(event: MatrixEvent | TreeEvent) -> int:
    return -(-event.rounds // event.separation)


def _tree_squares(event: TreeEvent) -> int:
    """Return a bound of the sum over all nodes of the squares of one participant's counts.

    On a level of nodes over 2^l rounds the counts add up to the participations, and none is above
    the most that fit into 2^l rounds.
    """
    participations = _participations(event)
    widths = (1 << level for level in range((event.rounds - 1).bit_length() + 1))
    return sum(
        participations * min(participations, -(-width // event.separation)) for width in widths
    )


@lru_cache(maxsize=_CACHED_CURVES)
def _curve(event: Event, orders: tuple[float, ...]) -> Floats:
    sampled = PoissonGaussianEvent | PoissonDiscreteGaussianEvent
    is_free = isinstance(event, sampled) and event.sampling_rate == 0
    with np.errstate(all="ignore"):
        curve = _computed(event, np.array(orders))
    # What is too small for a float is not free, and no number is no bound.
    curve = np.where(np.isnan(curve), np.inf, np.maximum(curve, 0.0 if is_free else _TINY))
    curve.flags.writeable = False
    return curve


def _computed(event: Event, orders: Floats) -> Floats:
    match event:
        case PoissonGaussianEvent(sampling_rate=0) | PoissonDiscreteGaussianEvent(sampling_rate=0):
            return np.zeros_like(orders)
        case (
            PoissonGaussianEvent(sampling_rate=1, noise_multiplier=z)
            | PoissonDiscreteGaussianEvent(sampling_rate=1, noise_multiplier=z)
        ):
            return _of_gaussian(orders, z)
        case PoissonGaussianEvent(sampling_rate=q, noise_multiplier=z):
            # Sampling only mixes with what shows nothing, so it never costs more than none.
            moments = poisson_log_moments(orders, q, z) / (orders - 1)
            return np.minimum(moments, _of_gaussian(orders, z))
        case PoissonDiscreteGaussianEvent(sampling_rate=q, noise_multiplier=z):
            moments = poisson_whole_log_moments(orders, q, z) / (orders - 1)
            return np.minimum(moments, _of_gaussian(orders, z))
        case FixedSizeGaussianEvent(noise_multiplier=z):
            z /= event.sensitivity_factor
            q = event.sample_size / event.population
            return fixed_size_log_moments(orders, q, z) / (orders - 1)
        case DiscreteGaussianEvent(scale=scale, l2_norm_max=bound):
            # Source: Canonne, Kamath, Steinke 2020, "The Discrete Gaussian", theorem 14.
            return _of_gaussian(orders, scale / (event.sensitivity_factor * bound))
        case SkellamEvent():
            return _of_skellam(orders, event)
        case _:
            return _of_gaussian(orders, gaussian_noise_multiplier(event))


def _of_gaussian(orders: Floats, noise_multiplier: float) -> Floats:
    """Return a / (2 z^2) for each order a. Source: Mironov 2017, corollary 3."""
    z = np.float64(noise_multiplier)
    curve: Floats = orders / 2 / z / z
    return curve


def _of_skellam(orders: Floats, event: SkellamEvent) -> Floats:
    """Return the bound for noise of variance v, where L2 and L1 are the sensitivities.

    Source: Agarwal, Kairouz, Liu 2021, "The Skellam Mechanism for Differentially Private Federated
    Learning", theorem 3.5 in several dimensions: for whole orders a

        a L2^2 / (2 v) + min(((2 a - 1) L2^2 + 6 L1) / (4 v^2), 3 L1 / (2 v)).
    """
    v = np.float64(event.variance)
    square = np.float64(event.sensitivity_factor * event.l2_norm_max) ** 2
    l1 = event.sensitivity_factor * event.l1_norm_max

    def moment_at(a: int) -> float:
        excess = min(((2 * a - 1) * square + 6 * l1) / 4 / v / v, 3 * l1 / 2 / v)
        return float((a - 1) * (a * square / 2 / v + excess))

    return by_lines(orders, moment_at) / (orders - 1)
