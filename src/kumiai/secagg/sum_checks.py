"""Whether a sum is that of what clients have committed to: asked by every client and the server."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kumiai.core.errors import CryptoError, SecureAggregationError
from kumiai.secagg.messages import MaskedInput
from kumiai.secagg.proofs import UpdateProofs
from kumiai.secagg.quantizing import signed
from kumiai.secagg.vectors import VectorLayout

__all__ = ["is_sum_of"]


def is_sum_of(
    vector: NDArray[np.uint8],
    inputs: Sequence[MaskedInput],
    *,
    layout: VectorLayout,
    proofs: UpdateProofs | None,
) -> bool:
    """Return whether the weights add up and, with proofs, the commitments do."""
    total = signed(layout.words(vector))
    if int(total[-1]) != sum(each.weight for each in inputs):
        return False
    if proofs is None:
        return True
    try:
        proofs.verify_sum([each.commitments for each in inputs], total, layout.blindings(vector))
    except (CryptoError, SecureAggregationError):
        return False
    return True
