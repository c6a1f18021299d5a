"""What a budget allows: limits, what is spent of them, and the decision about one more release.

Everything is computed from whole numbers, how often each event was paid for: a sum that grew by a
float for each round would lose charges that are tiny against it. Each rounding goes up, so that
what is reported is never less than what was given away.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kumiai.core.errors import BudgetExhaustedError, ConfigError, IntegrityError
from kumiai.privacy.calibration import most_allowed
from kumiai.privacy.checking import open_fraction, positive, whole
from kumiai.privacy.conversion import epsilon_bound
from kumiai.privacy.events import Event, event_from_json
from kumiai.privacy.ledger import BudgetScope, Charge, Guarantee
from kumiai.privacy.rdp import DEFAULT_ORDERS, rdp_of

__all__ = [
    "ROUNDS_MAX",
    "WINDOW_DAYS_MAX",
    "BudgetLimit",
    "Paid",
    "Standing",
    "epsilon_spent",
    "in_force",
    "merged",
    "payable",
    "releases_left",
    "standing",
    "verify_affordable",
    "verify_charge",
]

WINDOW_DAYS_MAX: Final = 36_500
ROUNDS_MAX: Final = 10**9
"""As far as a forecast looks."""
_EVENTS_CACHED: Final = 4096
_EPSILONS_CACHED: Final = 1024
_CONVERSION_ERROR: Final = 2.0**-45
_PLANNED: Final = 1 - 2.0**-40

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BudgetLimit:
    """How much a scope may spend.

    Attributes:
        scope: whose.
        guarantee: what its epsilon is about.
        epsilon: at most this, > 0.
        delta: at this delta, between 0 and 1.
        window_days: of the last so many days and today; 0: of all time.
    """

    scope: BudgetScope
    guarantee: Guarantee
    epsilon: float
    delta: float
    window_days: int = 0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            TypeError: one is none.
            ValueError: one is out of its range.
        """
        object.__setattr__(self, "epsilon", positive("epsilon", self.epsilon))
        object.__setattr__(self, "delta", open_fraction("delta", self.delta))
        days = whole("window_days", self.window_days, at_least=0, at_most=WINDOW_DAYS_MAX)
        object.__setattr__(self, "window_days", days)

    @property
    def period(self) -> str:
        """The time that it is about, in words."""
        return f"{self.window_days} days" if self.window_days else "lifetime"

    def to_content(self) -> dict[str, Any]:
        """Return it as an entry's content."""
        return {
            "scope": str(self.scope),
            "guarantee": str(self.guarantee),
            "epsilon": self.epsilon,
            "delta": self.delta,
            "window_days": self.window_days,
        }


@dataclass(frozen=True, slots=True)
class Paid:
    """What a scope has paid for on a day.

    Attributes:
        guarantee: what it protects.
        day: counted from 1970 UTC.
        event: its canonical JSON.
        count: how often.
    """

    guarantee: Guarantee
    day: int
    event: str
    count: int


@dataclass(frozen=True, slots=True)
class Standing:
    """How a budget stands.

    Attributes:
        limit: the budget.
        spent: the epsilon of what was paid for in its time; infinite where that claims less.
        events: how often each event was paid for in its time.
    """

    limit: BudgetLimit
    spent: float
    events: Mapping[str, int]

    @property
    def left(self) -> float:
        """How much higher the epsilon may get."""
        return max(0.0, self.limit.epsilon - self.spent)


def standing(limit: BudgetLimit, paid: Iterable[Paid], today: int) -> Standing:
    """Return how a budget stands.

    Args:
        limit: the budget.
        paid: all that its scope has paid for.
        today: the day, counted from 1970 UTC.
    """
    counted = in_force(limit, paid, today)
    events = merged({each.event: each.count} for each in counted)
    spent = epsilon_spent(events, limit.delta) if _is_covered(limit, counted) else math.inf
    return Standing(limit, spent, events)


def in_force(limit: BudgetLimit, paid: Iterable[Paid], today: int) -> list[Paid]:
    """Return what falls into the time of a limit, up to a day more of it than it says."""
    first = today - limit.window_days if limit.window_days else None
    return [each for each in paid if first is None or each.day >= first]


def verify_affordable(
    charge: Charge,
    limits: Mapping[BudgetScope, Sequence[BudgetLimit]],
    paid: Mapping[BudgetScope, Sequence[Paid]],
    today: int,
) -> None:
    """Check that no budget of a charge's scopes would be exceeded by it.

    Args:
        charge: what is to be paid.
        limits: of its scopes; a scope without one may spend what it likes, and it is counted.
        paid: what those scopes have paid for.
        today: the day, counted from 1970 UTC.

    Raises:
        BudgetExhaustedError: one would be; the message names the first.
    """
    for scope, events in charge.events_of().items():
        for limit in limits.get(scope, ()):
            if not charge.guarantee.covers(limit.guarantee):
                raise BudgetExhaustedError(
                    f"charge must protect {limit.guarantee}, as the budget of {scope} says, got "
                    f"one that protects {charge.guarantee}; no epsilon of it counts for that"
                )
            _verify_fits(limit, paid.get(scope, ()), events, today)


def _verify_fits(
    limit: BudgetLimit, paid: Iterable[Paid], events: Mapping[str, int], today: int
) -> None:
    counted = in_force(limit, paid, today)
    all_events = merged([*({each.event: each.count} for each in counted), events])
    after = epsilon_spent(all_events, limit.delta) if _is_covered(limit, counted) else math.inf
    if after <= limit.epsilon:
        return
    before = standing(limit, counted, today).spent
    mend = (
        "attempts that were lost have cost as much as others; submit another run"
        if limit.scope.is_of_run
        else "wait, end the run"
    )
    raise BudgetExhaustedError(
        f"budget of {limit.scope} ({limit.period}) must allow the release, got epsilon "
        f"{limit.epsilon:g} at delta {limit.delta:g} with {before:.4g} spent, and {after:.4g} "
        f"after it; {mend}, or let an operator set another budget with `kumiai privacy budget set`"
    )


def _is_covered(limit: BudgetLimit, counted: Iterable[Paid]) -> bool:
    """Return whether all releases protect what the limit is about.

    Who hides only records says nothing about clients: no finite epsilon covers it.
    """
    return all(each.guarantee.covers(limit.guarantee) for each in counted)


def verify_charge(charge: Charge) -> None:
    """Check that a charge's events are events, in their one spelling, of its own adjacency.

    Raises:
        ConfigError: one is not.
    """
    for spend in charge.spends:
        for text in spend.events:
            try:
                event = _event(text)
            except IntegrityError as error:
                raise ConfigError(f"event of a charge is none: {error}") from error
            if event.adjacency != charge.guarantee.adjacency:
                raise ConfigError(
                    f"event must be of adjacency {charge.guarantee.adjacency}, as its charge "
                    f"says, got {event.adjacency}"
                )


def epsilon_spent(events: Mapping[str, int], delta: float) -> float:
    """Return an epsilon that holds for all of these releases together, 0 for none.

    Args:
        events: how often each was made, by canonical JSON.
        delta: at this delta, between 0 and 1.

    Source: Renyi differential privacy adds up (Mironov 2017, Proposition 1).
    """
    # Clients that take part together have paid the same: they are asked for one after the other.
    return _epsilon_of(tuple(sorted(events.items())), delta)


def payable(epsilon: float) -> float:
    """Return the epsilon to plan a run with, so that what is charged for it stays within this one.

    Each charge is rounded up; what fits to the last bit would not be paid to the last round.
    """
    return epsilon * _PLANNED


def releases_left(now: Standing, events: Mapping[str, int]) -> int:
    """Return how many more releases with these events the budget allows.

    Args:
        now: how it stands.
        events: of one release.

    Returns:
        At most `ROUNDS_MAX`, which stands for "as many as anybody wants".
    """

    def allows(count: int) -> bool:
        more = {event: count * each for event, each in events.items()}
        after = epsilon_spent(merged([now.events, more]), now.limit.delta)
        return max(after, now.spent) <= now.limit.epsilon

    return most_allowed(allows, ROUNDS_MAX)


def merged(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return how often each event stands in all of them together."""
    total: dict[str, int] = {}
    for events in counts:
        for event, count in events.items():
            total[event] = total.get(event, 0) + count
    return total


@lru_cache(maxsize=_EPSILONS_CACHED)
def _epsilon_of(events: tuple[tuple[str, int], ...], delta: float) -> float:
    # Sorted: the same events give the same bits, in whatever order they were paid for.
    total = np.zeros(len(DEFAULT_ORDERS))
    for event, count in events:
        price = np.nextafter(_count_up(count) * _rdp(event), np.inf)
        total = np.nextafter(total + price, np.inf)
    bound = epsilon_bound(DEFAULT_ORDERS, total, delta).value
    # The conversion rounds, too: by less than this.
    return bound * (1 + _CONVERSION_ERROR) + (_CONVERSION_ERROR if bound else 0.0)


def _count_up(count: int) -> float:
    near = float(count)
    return near if int(near) >= count else math.nextafter(near, math.inf)


@lru_cache(maxsize=_EVENTS_CACHED)
def _rdp(event: str) -> FloatArray:
    return rdp_of(_event(event))


@lru_cache(maxsize=_EVENTS_CACHED)
def _event(text: str) -> Event:
    return event_from_json(text)
