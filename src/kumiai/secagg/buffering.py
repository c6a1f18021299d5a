"""Asynchronous secure aggregation: clients come when they are ready, and add up in groups.

A client trains from the newest version of the model, holds what it made, and waits. Once enough
wait, they are a group: a round of its own, with its own keys and masks, and the model moves on by
its sum; nobody waits for anybody slower. An update from an older version counts less: its public
scale in the round's roster falls with its staleness, so that sums stay exact and everybody can see
who counts how much, and check it.

What a group cannot do is hide a client among more than its members: its size is the privacy.

Source: Nguyen et al. 2022, "Federated learning with buffered asynchronous aggregation" (FedBuff).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from kumiai.core.errors import SecureAggregationError
from kumiai.secagg.descriptor import RoundDescriptor

__all__ = ["FRESH_SCALE", "BufferPolicy", "TrainedAhead", "next_group", "verify_scales"]

FRESH_SCALE: Final = 16
"""What an update of the newest version counts; the finer, the more bits of the ring it takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferPolicy:
    """How far behind an update may be, and what it counts then.

    Attributes:
        staleness_max: how many versions an update may be behind.
        staleness_exponent: how fast an older one counts less; 0: all count the same.

    Raises:
        ValueError: a field is out of its range.
    """

    staleness_max: int = 20
    staleness_exponent: float = 0.5

    def __post_init__(self) -> None:
        """Check the fields."""
        if not 0 <= self.staleness_max <= 10_000:
            raise ValueError(f"staleness_max must be 0 to 10000, got {self.staleness_max}")
        if not 0 <= self.staleness_exponent <= 4:
            raise ValueError(f"staleness_exponent must be 0 to 4, got {self.staleness_exponent}")

    def oldest(self, version: int) -> int:
        """Return the oldest version whose updates may still be added to this one."""
        return version - self.staleness_max

    def scale(self, staleness: int) -> int:
        """Return what an update counts that is so many versions behind, 1 to `FRESH_SCALE`.

        Raises:
            SecureAggregationError: it is further behind than is allowed, or ahead.
        """
        if not 0 <= staleness <= self.staleness_max:
            raise SecureAggregationError(
                f"update must be 0 to {self.staleness_max} versions behind, got {staleness}; "
                "train again from the newest model"
            )
        return max(1, round(FRESH_SCALE / math.pow(1 + staleness, self.staleness_exponent)))


@dataclass(frozen=True, slots=True)
class TrainedAhead:
    """An update that was made before the round that it goes into.

    Attributes:
        version: of the model that it is the difference to.
        policy: under which it was made.
    """

    version: int
    policy: BufferPolicy


def next_group(
    waiting: Mapping[str, int], version: int, *, size: int, policy: BufferPolicy
) -> dict[str, int] | None:
    """Return who adds up next, by the versions that they trained from; ``None``: too few wait.

    Args:
        waiting: clients with the versions that they trained from, in the order of their coming.
        version: the model's newest.
        size: of a group.
        policy: whoever is too far behind for it is passed over.

    Raises:
        SecureAggregationError: somebody claims to have trained from a version that is not out.
    """
    ahead = [name for name, base in waiting.items() if base > version]
    if ahead:
        raise SecureAggregationError(
            f"{ahead[0]!r} must have trained from version {version} or an older one, got "
            f"{waiting[ahead[0]]}"
        )
    fresh = [name for name, base in waiting.items() if base >= policy.oldest(version)]
    return {name: waiting[name] for name in fresh[:size]} if len(fresh) >= size else None


def verify_scales(descriptor: RoundDescriptor, name: str, ahead: TrainedAhead | None) -> None:
    """Check what a round says that its members count, as one of them.

    A scale is public, and a coordinator could choose it: one member that counts a thousand times
    what the others do would stand out of the sum.

    Args:
        descriptor: the round.
        name: this member's.
        ahead: when its update was made; ``None``: in this round, as everybody's.

    Raises:
        SecureAggregationError: a scale is not what it must be, or this member's update is too old.
    """
    scales = {member.name: member.scale for member in descriptor.roster}
    if ahead is None:
        if any(scale != 1 for scale in scales.values()):
            raise SecureAggregationError(
                f"scale of each member must be 1 in a synchronous round, got up to "
                f"{max(scales.values())}; this client takes no part in it"
            )
        return
    own = ahead.policy.scale(descriptor.round_number - 1 - ahead.version)
    if scales.get(name) != own:
        raise SecureAggregationError(
            f"scale of {name!r} must be {own} for an update from version {ahead.version} in round "
            f"{descriptor.round_number}, got {scales.get(name, 'nothing')}; this client "
            "takes no part in it"
        )
    if max(scales.values()) > FRESH_SCALE:
        raise SecureAggregationError(
            f"scale of each member must be at most {FRESH_SCALE}, got {max(scales.values())}; this "
            "client takes no part in it"
        )
