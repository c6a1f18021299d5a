"""In which attempt of a round this site gave shares away, and in which others it may do so again.

Two sums over different sites would tell one site's update. So a site takes part in one attempt of
a round, with one exception: it has found the sum of that attempt wrong itself. Then the round goes
again in two groups, which follow from what all had signed; this site's group is summed whole or
not at all.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kumiai.core.errors import IntegrityError, NotFoundError, SecureAggregationError
from kumiai.identity import files
from kumiai.secagg import RoundDescriptor

__all__ = ["RevealedAttempt"]

_SIZE_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class RevealedAttempt:
    """An attempt in which this site gave shares away.

    Attributes:
        round_id: of the attempt.
        colluders: that it withstands.
        rerun_size: clients in its smallest group.
        groups: in which it may go again; none: its sum was right, or this site does not know yet.
    """

    round_id: bytes
    colluders: int
    rerun_size: int
    groups: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def of(
        cls, descriptor: RoundDescriptor, groups: Sequence[tuple[str, ...]]
    ) -> "RevealedAttempt":
        """Return what is to be remembered of an attempt."""
        return cls(descriptor.round_id, descriptor.colluders, descriptor.rerun_size, tuple(groups))

    @classmethod
    def find(cls, path: Path) -> "RevealedAttempt | None":
        """Return what stands in a file, if it exists.

        Raises:
            IntegrityError: it is damaged.
            StorageError: it cannot be read.
        """
        try:
            content = files.read_file(path, "revealed attempt", size_bytes_max=_SIZE_BYTES_MAX)
            told = json.loads(content)
            groups = tuple(tuple(map(str, group)) for group in told["groups"])
            round_id = bytes.fromhex(told["round_id"])
            return cls(round_id, int(told["colluders"]), int(told["rerun_size"]), groups)
        except NotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(
                f"revealed attempt must be what this site wrote, got something else in {path}; "
                "the round goes on without this site"
            ) from error

    def write(self, path: Path) -> None:
        """Write it down, durably.

        Raises:
            StorageError: it is not known to be written.
        """
        told = {
            "round_id": self.round_id.hex(),
            "colluders": self.colluders,
            "rerun_size": self.rerun_size,
            "groups": self.groups,
        }
        files.write_atomic(path, json.dumps(told).encode(), mode=0o600)

    def verify(self, descriptor: RoundDescriptor) -> None:
        """Check that this site may take part in an attempt, too.

        Raises:
            SecureAggregationError: it may not.
        """
        if descriptor.round_id == self.round_id:
            return
        members = {member.name for member in descriptor.roster}
        if not any(members == set(group) for group in self.groups):
            raise SecureAggregationError(
                f"round {descriptor.round_number} must not be summed twice with this site: it gave "
                "shares in an earlier attempt, and two sums of different sites would tell one "
                "update"
            )
        if descriptor.minimum_survivors < descriptor.client_count:
            raise SecureAggregationError(
                f"group of a wrong sum must be summed whole, got minimum_survivors "
                f"{descriptor.minimum_survivors} of {descriptor.client_count}; else the difference "
                "of two sums would tell one update"
            )
        terms = (descriptor.colluders, descriptor.rerun_size)
        if terms != (self.colluders, self.rerun_size):
            raise SecureAggregationError(
                f"colluders and rerun_size of a group must be {self.colluders} and "
                f"{self.rerun_size}, as of the whole, got {terms[0]} and {terms[1]}"
            )
