"""The second, tighter figure: epsilon from privacy loss distributions.

For reports of schedules that were fixed beforehand, beside the one that is charged. The maths is
that of dp-accounting (extra ``privacy``), loaded on first use and fenced in: its inputs are plain
floats that were checked, sensitivities are doubled here and not there, and no event can make it ask
for a grid that does not fit into memory.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from kumiai.core.errors import ConfigError
from kumiai.privacy.checking import open_fraction
from kumiai.privacy.conversion import epsilon_bound
from kumiai.privacy.events import (
    Event,
    GaussianEvent,
    MatrixEvent,
    PoissonGaussianEvent,
    TreeEvent,
)
from kumiai.privacy.rdp import DEFAULT_ORDERS, gaussian_noise_multiplier, rdp_of
from kumiai.privacy.results import Method, PrivacySpent, PrivacyUnit

__all__ = ["EPSILON_MAX", "tight_epsilon"]

EPSILON_MAX: Final = 50.0
"""Beyond it, by Rényi orders, nobody needs a second figure, and grids become huge."""
_REACH_DELTA: Final = 1e-6
"""How far losses reach is read off at this delta or a smaller one."""
_POINTS_MAX: Final = 2_000_000
"""In a grid; what needs more gets a coarser grid, which is still a bound."""
_AT_ONCE_MAX: Final = 100_000
_STEP_MAX: Final = 1e-3
_ERROR: Final = 1.25e-4
"""A grid costs about twice the square of its step for each release: here 1/4000 of epsilon."""


def tight_epsilon(
    counts: Mapping[Event, int], delta: float, *, unit: PrivacyUnit = PrivacyUnit.UNSTATED
) -> PrivacySpent:
    """Return the smaller of the figures from loss distributions and from Rényi orders.

    Args:
        counts: how often each event was released, on a plan that did not look at the releases.
        delta: between 0 and 1.
        unit: whose contribution is hidden.

    Returns:
        The result, whose method says which figure it is. It is the one from Rényi orders where an
        event has no known loss distribution (fixed-size samples, Skellam and discrete Gaussian
        noise) or the loss is beyond `EPSILON_MAX`.

    Raises:
        TypeError, ValueError: delta is not what it must be.
        ConfigError: dp-accounting is not installed.
    """
    delta = open_fraction("delta", delta)
    orders = np.array(DEFAULT_ORDERS)
    curve = sum((count * rdp_of(each) for each, count in counts.items()), np.zeros_like(orders))
    bound = epsilon_bound(orders, curve, delta)
    reach = epsilon_bound(orders, curve, min(delta, _REACH_DELTA)).value
    tight = _by_distributions(counts, delta, reach)
    if tight >= bound.value:
        return PrivacySpent.on(
            counts,
            epsilon=bound.value,
            delta=delta,
            unit=unit,
            order=bound.order,
            is_at_edge=bound.is_at_edge,
        )
    return PrivacySpent.on(counts, epsilon=tight, delta=delta, unit=unit, method=Method.PLD)


def _by_distributions(counts: Mapping[Event, int], delta: float, reach: float) -> float:
    known = GaussianEvent | MatrixEvent | PoissonGaussianEvent | TreeEvent
    if not 0 < reach <= EPSILON_MAX or not all(isinstance(each, known) for each in counts):
        return math.inf
    distributions = _distributions()
    releases = _releases(counts)
    step = max(
        min(_STEP_MAX, math.sqrt(_ERROR * reach / sum(count for _, _, count in releases))),
        4 * reach / _POINTS_MAX,
        *(_reach(noise_multiplier) / _POINTS_MAX for _, noise_multiplier, _ in releases),
    )
    whole = distributions.identity(value_discretization_interval=step)
    for sampling_rate, noise_multiplier, count in releases:
        one = distributions.from_gaussian_mechanism(
            noise_multiplier, value_discretization_interval=step, sampling_prob=sampling_rate
        )
        whole = whole.compose(_composed(one, count))
    return float(whole.get_epsilon_for_delta(delta))


def _composed(one: Any, count: int) -> Any:
    """Return the distribution of many releases.

    By 100 000, because dp-accounting raises the size of the grid to the power of the count, as an
    integer: with a billion rounds that does not end.
    """
    whole = None
    while count:
        count, rest = divmod(count, _AT_ONCE_MAX)
        if rest:
            part = one.self_compose(rest)
            whole = part if whole is None else whole.compose(part)
        if count:
            one = one.self_compose(_AT_ONCE_MAX)
    return whole


def _releases(counts: Mapping[Event, int]) -> list[tuple[float, float, int]]:
    """Return sampling rates, noise multipliers and counts of Gaussian releases."""
    # All that is not sampled comes to one release: the squares of the ratios add up.
    squares = 0.0
    sampled: list[tuple[float, float, int]] = []
    for event, count in counts.items():
        if not isinstance(event, PoissonGaussianEvent):
            squares += count / gaussian_noise_multiplier(event) ** 2
        elif event.sampling_rate == 1:
            squares += count / event.noise_multiplier**2
        elif event.sampling_rate > 0:
            sampled.append((event.sampling_rate, event.noise_multiplier, count))
    return [(1.0, 1 / math.sqrt(squares), 1), *sampled] if squares else sampled


def _reach(noise_multiplier: float) -> float:
    """Return how far the losses of one release reach, tails of 1e-15 included."""
    return 1 / (2 * noise_multiplier**2) + 16 / noise_multiplier


def _distributions() -> Any:
    try:
        from dp_accounting.pld import (  # noqa: PLC0415 - an extra that takes a second to load
            privacy_loss_distribution,
        )
    except ImportError as error:
        raise ConfigError(
            "tight epsilon must have dp-accounting, which is not installed; "
            "install kumiai[privacy], or use the epsilon from Rényi orders"
        ) from error
    return privacy_loss_distribution
