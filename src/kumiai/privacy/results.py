"""What was spent, said in full: a number without its unit, adjacency and claim says nothing."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from kumiai.privacy.events import Adjacency, Event, Sampling

__all__ = ["Method", "PrivacySpent", "PrivacyUnit"]


class PrivacyUnit(StrEnum):
    """Whose contribution is hidden; arithmetic cannot tell, so whoever runs it has to say."""

    UNSTATED = "unstated"
    """Nobody has said."""
    CLIENT = "client"
    """Everything that one client contributes."""
    RECORD = "record"
    """One record among a client's data."""


class Method(StrEnum):
    """How a figure was computed; both are upper bounds of the same loss."""

    RDP = "rdp"
    """From Rényi divergences: holds also when each release is chosen by the earlier ones."""
    PLD = "pld"
    """From privacy loss distributions: tighter, for releases that were fixed beforehand."""


@dataclass(frozen=True, slots=True)
class PrivacySpent:
    """An (epsilon, delta) guarantee and what it is about.

    Attributes:
        epsilon: at least 0; infinite when there is no bound.
        delta: 0 to 1.
        unit: whose contribution is hidden.
        adjacency: from which neighbouring data; ``None`` when nothing was released.
        sampling: all that is claimed about who took part, sorted.
        method: how it was computed.
        order: the Rényi order that gave it, if one did.
        is_at_edge: a wider grid of orders might give a smaller figure.
    """

    epsilon: float
    delta: float
    unit: PrivacyUnit
    adjacency: Adjacency | None
    sampling: tuple[Sampling, ...]
    method: Method
    order: float | None
    is_at_edge: bool

    @classmethod
    def on(
        cls,
        events: Collection[Event],
        *,
        epsilon: float,
        delta: float,
        unit: PrivacyUnit,
        method: Method = Method.RDP,
        order: float | None = None,
        is_at_edge: bool = False,
    ) -> Self:
        """Return the result for some events, with what they claim."""
        return cls(
            epsilon=epsilon,
            delta=delta,
            unit=unit,
            adjacency=next((event.adjacency for event in events), None),
            sampling=tuple(sorted({event.sampling for event in events})),
            method=method,
            order=order,
            is_at_edge=is_at_edge,
        )

    def __str__(self) -> str:
        """Return it as one line."""
        claims = " and ".join(self.sampling) or "nothing released"
        return (
            f"epsilon {self.epsilon:.4g} at delta {self.delta:.4g} ({self.method}; "
            f"unit {self.unit}, adjacency {self.adjacency or 'any'}, sampling {claims})"
        )
