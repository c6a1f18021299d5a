"""Asynchronous secure aggregation: clients come when they are ready, and add up in groups.

A client that has trained, from whatever version of the model, joins the group that is waiting.
Once enough have joined, the group is a round of its own, with its own keys and masks, and the model
moves on by its sum; nobody waits for anybody slower. An update from an older version counts less:
its public scale in the round's roster falls with the square root of its staleness, between 1 and
the scale of a fresh one, so that sums stay exact and everybody can see who counts how much.

What a group cannot do is hide a client among more than its members: its size is the privacy.

Source: Nguyen et al. 2022, "Federated learning with buffered asynchronous aggregation" (FedBuff).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from kumiai.core.errors import SecureAggregationError
from kumiai.secagg.descriptor import SURVIVORS_LEAST, Member

__all__ = ["BufferGroup", "BufferPolicy", "GroupBuffer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferPolicy:
    """How groups are formed.

    Attributes:
        group_size: clients of a group, at least 3; more than `minimum_survivors` of its rounds, so
            that some may drop out.
        staleness_max: how many versions an update may be behind.
        fresh_scale: what an update of the newest version counts, 1 to 256; the finer, the more bits
            of the ring it takes.

    Raises:
        ValueError: a field is out of its range.
    """

    group_size: int
    staleness_max: int = 20
    fresh_scale: int = 16

    def __post_init__(self) -> None:
        """Check the fields."""
        for name, value, least, most in (
            ("group_size", self.group_size, SURVIVORS_LEAST, 4096),
            ("staleness_max", self.staleness_max, 0, 10_000),
            ("fresh_scale", self.fresh_scale, 1, 256),
        ):
            if not least <= value <= most:
                raise ValueError(f"{name} must be {least} to {most}, got {value}")

    def scale(self, staleness: int) -> int:
        """Return what an update counts that is so many versions behind.

        Raises:
            SecureAggregationError: it is further behind than is allowed, or ahead.
        """
        if not 0 <= staleness <= self.staleness_max:
            raise SecureAggregationError(
                f"update must be 0 to {self.staleness_max} versions behind, got {staleness}; "
                "train again from the newest model"
            )
        return max(1, round(self.fresh_scale / math.sqrt(1 + staleness)))


@dataclass(frozen=True, slots=True)
class BufferGroup:
    """Clients that add up.

    Attributes:
        members: the roster of the group's round, by name, with their scales.
        stale: who was waiting and is too far behind by now; they must train again.
    """

    members: tuple[Member, ...]
    stale: tuple[str, ...]


class GroupBuffer:
    """Clients that wait for a group.

    Args:
        policy: how groups are formed.
    """

    __slots__ = ("_policy", "_waiting")

    def __init__(self, policy: BufferPolicy) -> None:
        """Begin with nobody."""
        self._policy = policy
        self._waiting: dict[str, tuple[bytes, int]] = {}

    @property
    def waiting(self) -> Mapping[str, int]:
        """Who waits, in the order of their coming, with the versions that they trained from."""
        return MappingProxyType({name: version for name, (_, version) in self._waiting.items()})

    def join(self, name: str, verification_key: bytes, base_version: int) -> None:
        """Let a client wait for a group; coming again changes nothing.

        Args:
            name: the client.
            verification_key: checks its signatures.
            base_version: of the model that its update is the difference to.

        Raises:
            SecureAggregationError: it waits already with another update.
        """
        known = self._waiting.setdefault(name, (verification_key, base_version))
        if known != (verification_key, base_version):
            raise SecureAggregationError(
                f"{name!r} must wait with one update, got another while the one from version "
                f"{known[1]} waits"
            )

    def leave(self, name: str) -> None:
        """Forget a client that waits, if it does."""
        self._waiting.pop(name, None)

    def form(self, version: int) -> BufferGroup | None:
        """Return the next group, if enough wait.

        Args:
            version: the model's newest.

        Raises:
            SecureAggregationError: somebody claims to have trained from a version that is not out.
        """
        oldest = version - self._policy.staleness_max
        stale = tuple(name for name, base in self.waiting.items() if base < oldest)
        fresh = [name for name in self._waiting if name not in stale]
        if len(fresh) < self._policy.group_size:
            return None
        chosen = fresh[: self._policy.group_size]
        members = tuple(
            Member(name, self._waiting[name][0], self._policy.scale(version - base))
            for name, base in ((name, self._waiting[name][1]) for name in sorted(chosen))
        )
        for name in (*chosen, *stale):
            self.leave(name)
        return BufferGroup(members, stale)
