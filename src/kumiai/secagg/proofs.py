"""What a round needs of commitments and proofs, and nothing about how they work."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from kumiai.secagg.descriptor import RoundDescriptor

__all__ = ["CommittedUpdate", "UpdateProofs"]


@dataclass(frozen=True, slots=True)
class CommittedUpdate:
    """What a client says about its hidden update.

    Attributes:
        commitments: one after the other, all of one length.
        blindings: of each, secret; only their sum over all clients becomes known.
        proof: that the norm keeps the bound; empty where none is asked for.
    """

    commitments: bytes
    blindings: tuple[int, ...] = field(repr=False)
    proof: bytes

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied."""
        raise TypeError("a CommittedUpdate cannot be pickled")


class UpdateProofs(Protocol):
    """Commits to updates, and checks what others committed to."""

    def blinding_count(self, descriptor: RoundDescriptor) -> int:
        """Return how many commitments an update takes."""
        ...

    def commit(
        self, values: NDArray[np.int64], descriptor: RoundDescriptor, context: bytes
    ) -> CommittedUpdate:
        """Commit to the weighted update and, as its last number, the weight.

        Args:
            values: shape (dimension + 1,).
            descriptor: the round, which says whether the norm is to be proven.
            context: of the round and the client.
        """
        ...

    def verify_update(
        self,
        commitments: bytes,
        proof: bytes,
        weight: int,
        *,
        descriptor: RoundDescriptor,
        context: bytes,
    ) -> None:
        """Check one client's commitments and proof; a `KumiaiError` if they are not right."""
        ...

    def verify_sum(
        self, commitments: Sequence[bytes], total: NDArray[np.int64], blindings: Sequence[int]
    ) -> None:
        """Check that a sum is that of all committed vectors; a `KumiaiError` if it is not."""
        ...
