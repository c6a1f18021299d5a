"""Proofs about updates from Pedersen commitments: what `UpdateProofs` asks for, wired."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kumiai.core.errors import ProofError
from kumiai.crypto.norm_proof import prove_norm, verify_norm
from kumiai.crypto.norm_statement import NormStatement
from kumiai.crypto.pedersen import Commitments, PedersenRows
from kumiai.crypto.sum_check import verify_sum
from kumiai.secagg.descriptor import Proofs, RoundDescriptor
from kumiai.secagg.proofs import CommittedUpdate

__all__ = ["PedersenProofs"]


class PedersenProofs:
    """Commits to rows of an update; all may share one, which is made once.

    Args:
        rows: the generators, the same for all members.
    """

    __slots__ = ("_rows",)

    def __init__(self, rows: PedersenRows) -> None:
        """Take the generators."""
        self._rows = rows

    def blinding_count(self, descriptor: RoundDescriptor) -> int:
        """Return how many rows an update has."""
        return self._rows.row_count(descriptor.upload_words)

    def commit(
        self, values: NDArray[np.int64], descriptor: RoundDescriptor, context: bytes
    ) -> CommittedUpdate:
        """Commit to the weighted update and its weight; prove its norm where the round asks.

        Args:
            values: shape (dimension + 1,).
            descriptor: the round.
            context: of the round and the client.
        """
        opening = self._rows.commit(values)
        proof = b""
        if descriptor.proofs is Proofs.NORM:
            statement = self._statement(descriptor, int(values[-1]))
            proof = prove_norm(self._rows, opening, statement, context)
        return CommittedUpdate(opening.commitments.to_bytes(), opening.blindings, proof)

    def verify_update(
        self,
        commitments: bytes,
        proof: bytes,
        weight: int,
        *,
        descriptor: RoundDescriptor,
        context: bytes,
    ) -> None:
        """Check one client's commitments, and its proof where the round asks for one.

        Raises:
            ProofError: they are malformed, or do not prove the norm; or a proof came unasked.
        """
        read = Commitments.from_bytes(commitments, self.blinding_count(descriptor))
        if descriptor.proofs is Proofs.NORM:
            statement = self._statement(descriptor, weight)
            verify_norm(self._rows, read, proof, statement, context)
        elif proof:
            raise ProofError(f"proof must be empty in this round, got {len(proof)} bytes")

    def verify_sum(
        self, commitments: Sequence[bytes], total: NDArray[np.int64], blindings: Sequence[int]
    ) -> None:
        """Check that a sum is that of all committed vectors.

        Raises:
            ProofError: it is not.
        """
        count = self._rows.row_count(total.size)
        read = [Commitments.from_bytes(each, count) for each in commitments]
        verify_sum(self._rows, read, total, blindings)

    def _statement(self, descriptor: RoundDescriptor, weight: int) -> NormStatement:
        return NormStatement(
            dimension=descriptor.dimension,
            bound_squared=descriptor.bound_squared,
            weight=weight,
            row_length=self._rows.row_length,
        )
