"""Sums of products of field elements and small integers, exact and at the speed of BLAS.

A field element is cut into limbs of a few bytes, so that a sum of products stays below 2^53 and
float64 holds it exactly; what comes out is carried and read as integers again.
"""

from collections.abc import Sequence
from operator import add
from typing import Final

import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from kumiai.crypto.group import ORDER

__all__ = ["VALUE_BITS_MAX", "Limbs", "limbs_of", "scalars_of", "weighted_sum_of_rows"]

Limbs = NDArray[np.float64]
"""Shape (..., limb_count), the least significant first."""

VALUE_BITS_MAX: Final = 45
"""The integers that are multiplied have a smaller absolute value than 2 to this."""
_EXACT_BITS: Final = 53
_SCALAR_BYTES: Final = 32
_CARRY_BYTES: Final = 8


def limbs_of(scalars: Sequence[int], limb_bytes: int) -> Limbs:
    """Return scalars in [0, ORDER) as limbs.

    Returns:
        Shape (len(scalars), limb_count), each an integer in [0, 256**limb_bytes).
    """
    count = -(-_SCALAR_BYTES // limb_bytes)
    size = count * limb_bytes
    packed = b"".join(int(each).to_bytes(size, "little") for each in scalars)
    wide = np.zeros((len(scalars), count, _CARRY_BYTES), np.uint8)
    octets = np.frombuffer(packed, np.uint8)
    wide[:, :, :limb_bytes] = octets.reshape(len(scalars), count, limb_bytes)
    return wide.view("<i8")[:, :, 0].astype(np.float64)


def scalars_of(sums: Limbs, limb_bytes: int) -> list[mpz]:
    """Return the scalars that sums of limbs stand for, reduced.

    Args:
        sums: shape (n, limb_count), exact integers of absolute value at most 2^53.
        limb_bytes: as for `limbs_of`.
    """
    count = sums.shape[1]
    size = count * limb_bytes + _CARRY_BYTES
    whole = np.ascontiguousarray(sums.T).astype("<i8")
    packed = np.empty((sums.shape[0], size), np.uint8)
    carry = np.zeros(sums.shape[0], "<i8")
    for index in range(count):
        limb = whole[index] + carry
        carry = limb >> (8 * limb_bytes)
        octets = limb[:, None].view(np.uint8)
        packed[:, index * limb_bytes : (index + 1) * limb_bytes] = octets[:, :limb_bytes]
    packed[:, -_CARRY_BYTES:] = carry[:, None].view(np.uint8)
    content = packed.tobytes()
    read = int.from_bytes
    return [
        mpz(read(content[start : start + size], "little", signed=True)) % ORDER
        for start in range(0, len(content), size)
    ]


def weighted_sum_of_rows(weights: Sequence[int], rows: NDArray[np.int64]) -> list[mpz]:
    """Return the sum of rows of small integers, each times its scalar.

    Args:
        weights: shape (n,) with n > 0, scalars in [0, ORDER).
        rows: shape (n, columns), of absolute value below 2^45.

    Returns:
        One scalar a column, reduced.

    Raises:
        ValueError: a value is too large to be exact.
    """
    value_bits = int(np.abs(rows).max()).bit_length()
    if value_bits > VALUE_BITS_MAX:
        raise ValueError(f"rows must be below 2^{VALUE_BITS_MAX}, got {value_bits} bits")
    batch_bits = min(10, VALUE_BITS_MAX - value_bits)
    limb_bytes = (_EXACT_BITS - batch_bits - value_bits) // 8
    batch = 1 << batch_bits
    total = [mpz(0)] * rows.shape[1]
    for start in range(0, len(weights), batch):
        limbs = limbs_of(weights[start : start + batch], limb_bytes)
        part = scalars_of(rows[start : start + batch].T @ limbs, limb_bytes)
        total = [each % ORDER for each in map(add, total, part)]
    return total
