"""What updates are committed to with: the same for all rounds of a process, made at the first."""

from functools import cache

from kumiai.crypto.pedersen import PedersenRows, row_length_for
from kumiai.secagg import Proofs, RoundDescriptor, UpdateProofs
from kumiai.secagg.pedersen_proofs import PedersenProofs

__all__ = ["proofs_of"]


def proofs_of(descriptor: RoundDescriptor) -> UpdateProofs | None:
    """Return what a round's updates are committed to with; ``None`` where nothing is proven.

    The first call in a process takes up to a second: a thousand generators are made.
    """
    if descriptor.proofs is Proofs.OFF:
        return None
    return _shared(row_length_for(descriptor.upload_words))


@cache
def _shared(row_length: int) -> PedersenProofs:
    return PedersenProofs(PedersenRows(row_length))
