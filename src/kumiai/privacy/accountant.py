"""The accountant: what a run's releases have cost together.

A thin shell over the curves of `kumiai.privacy.rdp`, the history and the conversion. It knows
releases as they are told to it, and nothing of who may know what; it is not safe to be used from
several threads at once.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kumiai.privacy.calibration import calibrate_noise, rounds_left
from kumiai.privacy.checking import fraction, whole
from kumiai.privacy.conversion import Bound, delta_bound, epsilon_bound, epsilon_of
from kumiai.privacy.events import COUNT_MAX, Event, PoissonGaussianEvent
from kumiai.privacy.history import PrivacyHistory
from kumiai.privacy.rdp import DEFAULT_ORDERS, checked_orders, rdp_of
from kumiai.privacy.results import PrivacySpent, PrivacyUnit
from kumiai.privacy.tight import tight_epsilon

__all__ = ["RDPAccountant"]

Floats = NDArray[np.float64]


class RDPAccountant:
    """Adds up the privacy losses of releases as Rényi curves, and turns them into (epsilon, delta).

    For one schedule, by hand::

        accountant = RDPAccountant()
        rdp = accountant.compute_rdp(q=0.01, noise_multiplier=1.1, steps=1000)
        epsilon = accountant.get_privacy_spent(accountant.orders, rdp, target_delta=1e-5)

    For a run, round by round::

        accountant = RDPAccountant(unit=PrivacyUnit.CLIENT)
        accountant.compose(GaussianEvent(noise_multiplier=8), count=10)
        print(accountant.epsilon(1e-5))

    Attributes:
        orders: the grid of Rényi orders, read-only.
        unit: whose contribution is hidden.
        history: every release composed so far.
    """

    def __init__(
        self,
        orders: Sequence[float] | Floats = DEFAULT_ORDERS,
        *,
        unit: PrivacyUnit = PrivacyUnit.UNSTATED,
        history: PrivacyHistory | None = None,
    ) -> None:
        """Begin.

        Args:
            orders: rising, each greater than 1.
            unit: whose contribution is hidden; told again in every result.
            history: the releases so far, from `PrivacyHistory.from_text`; ``None``: none.

        Raises:
            TypeError, ValueError: the orders are not what they must be, or the unit is unknown.
        """
        self.orders = checked_orders(orders)
        self.unit = PrivacyUnit(unit)
        self.history = PrivacyHistory() if history is None else history
        self._summed = (0, np.zeros_like(self.orders))

    def compute_rdp(self, q: float, noise_multiplier: float, steps: int) -> Floats:
        """Return the curve of equal rounds of the Poisson-sampled Gaussian mechanism.

        Nothing is added to the history.

        Args:
            q: the chance of each to take part in a round, 0 to 1; 1 is no sampling.
            noise_multiplier: standard deviation of the noise divided by the clipping norm, > 0.
            steps: how many rounds, 0 to 10^12.

        Returns:
            The Rényi divergence at each of the orders.

        Raises:
            TypeError, ValueError: an argument is not what it must be, by its name.
        """
        event = PoissonGaussianEvent(fraction("q", q), noise_multiplier)
        count = whole("steps", steps, at_least=0, at_most=COUNT_MAX)
        return _times(count, rdp_of(event, self.orders))

    def get_privacy_spent(self, orders: Any, rdp: Any, target_delta: float) -> float:
        """Return the epsilon of a curve at a delta.

        Args:
            orders: the grid of the curve, usually `orders`.
            rdp: the curve; curves of different rounds may be added before.
            target_delta: between 0 and 1.

        Raises:
            TypeError, ValueError: an argument is not what it must be.

        Warns:
            OrderGridWarning: the best order is at the edge of the grid.
        """
        return epsilon_of(orders, rdp, target_delta)

    def compose(self, event: Event, count: int = 1) -> None:
        """Add releases to the history.

        Args:
            event: what was released.
            count: how often.

        Raises:
            TypeError, ValueError: as `PrivacyHistory.append`; nothing is added.
        """
        self.history.append(event, count)

    @property
    def rdp(self) -> Floats:
        """The curve of the whole history."""
        length, curve = self._summed
        if length != len(self.history):
            curve = np.zeros_like(self.orders)
            for event, count in self.history.counts.items():
                curve = curve + _times(count, rdp_of(event, self.orders))
            curve.flags.writeable = False
            self._summed = (len(self.history), curve)
        return curve

    def epsilon(self, delta: float) -> PrivacySpent:
        """Return what the history comes to at a delta between 0 and 1."""
        bound = epsilon_bound(self.orders, self.rdp, delta)
        return self._spent(bound.value, float(delta), bound)

    def delta(self, epsilon: float) -> PrivacySpent:
        """Return what the history comes to at an epsilon of at least 0."""
        bound = delta_bound(self.orders, self.rdp, epsilon)
        return self._spent(float(epsilon), bound.value, bound)

    def tight_epsilon(self, delta: float) -> PrivacySpent:
        """Return the smallest figure known for a history that was planned beforehand.

        Args and raises: as `kumiai.privacy.tight.tight_epsilon`.
        """
        return tight_epsilon(self.history.counts, delta, unit=self.unit)

    def calibrate_noise(
        self,
        event_of: Callable[[float], Event],
        *,
        steps: int,
        target_epsilon: float,
        target_delta: float,
    ) -> float:
        """Return the least noise multiplier for some more rounds within a budget for everything.

        Args and raises: as `kumiai.privacy.calibration.calibrate_noise`.
        """
        return calibrate_noise(
            event_of,
            steps=steps,
            target_epsilon=target_epsilon,
            target_delta=target_delta,
            orders=self.orders,
            spent=self.rdp,
        )

    def rounds_left(self, event: Event, *, target_epsilon: float, target_delta: float) -> int:
        """Return how many more such rounds a budget for everything allows, at most 10^12."""
        return rounds_left(
            event,
            target_epsilon=target_epsilon,
            target_delta=target_delta,
            orders=self.orders,
            spent=self.rdp,
        )

    def _spent(self, epsilon: float, delta: float, bound: Bound) -> PrivacySpent:
        return PrivacySpent.on(
            self.history.counts,
            epsilon=epsilon,
            delta=delta,
            unit=self.unit,
            order=bound.order,
            is_at_edge=bound.is_at_edge,
        )


def _times(count: int, curve: Floats) -> Floats:
    # No rounds cost nothing, also where one round has no bound.
    return count * curve if count else np.zeros_like(curve)
