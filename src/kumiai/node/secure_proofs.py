"""What updates are committed to with: the same for all rounds of a process, made at the first."""

from functools import cache

from kumiai.crypto.pedersen import PedersenRows
from kumiai.secagg import Proofs, RoundDescriptor, UpdateProofs
from kumiai.secagg.pedersen_proofs import PedersenProofs

__all__ = ["proofs_of"]


def proofs_of(descriptor: RoundDescriptor) -> UpdateProofs | None:
    """Return what a round's updates are committed to with; ``None`` where nothing is proven.

    The first call in a process takes seconds: a thousand generators are made.
    """
    return None if descriptor.proofs is Proofs.OFF else _shared()


@cache
def _shared() -> PedersenProofs:
    return PedersenProofs(PedersenRows())
