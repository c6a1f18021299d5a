"""Random projections that find a coordinate which is large modulo the group's order.

128 rows over {-1, 0, 1}, zero with probability 1/2 and each sign with 1/4. If a coordinate x of a
vector lies outside [-b, b] (of the residues nearest to zero), then a row's product with the vector,
taken modulo the order, lies in a given interval of b residues with probability at most 1/2: among
what the rest of the row sums up to, and the same plus and minus x, the first and either of the
others differ by more than the interval is long. So one of 128 rows leaves the interval but with
probability 2^-128.

The rows are a keystream, made in blocks of columns: nobody ever holds all of them.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from gmpy2 import mpz
from numpy.typing import NDArray

from kumiai.crypto.exact_products import limbs_of, scalars_of
from kumiai.crypto.group import ORDER, dot

__all__ = ["ROW_COUNT", "SEED_BYTES", "blocks", "combine", "evaluate_combined", "project"]

ROW_COUNT: Final = 128
SEED_BYTES: Final = 32
_BLOCK_COLUMNS: Final = 8192
_KEYSTREAM_BYTES: Final = 2 * ROW_COUNT * _BLOCK_COLUMNS // 8
# 5 bytes times at most 2^13 summands of absolute value 1 stay below 2^53.
_LIMB_BYTES: Final = 5


def blocks(seed: bytes, length: int) -> Iterator[NDArray[np.int8]]:
    """Give the rows, 8192 columns at a time.

    Args:
        seed: 32 bytes, from the transcript.
        length: how many columns there are.

    Yields:
        Shape (128, width), values in {-1, 0, 1}.
    """
    encryptor = Cipher(algorithms.AES256(seed), modes.CTR(bytes(16))).encryptor()
    zeros = bytes(_KEYSTREAM_BYTES)
    for start in range(0, length, _BLOCK_COLUMNS):
        bits = np.unpackbits(np.frombuffer(encryptor.update(zeros), np.uint8))
        plus, minus = bits.view(np.int8).reshape(2, ROW_COUNT, _BLOCK_COLUMNS)
        yield (plus - minus)[:, : length - start]


def project(seed: bytes, values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the product of each row with a vector.

    Args:
        seed: 32 bytes.
        values: shape (n,); their absolute values sum up to less than 2^53.

    Returns:
        Shape (128,).
    """
    total = np.zeros(ROW_COUNT)
    rest = values.astype(np.float64)
    for block in blocks(seed, len(values)):
        width = block.shape[1]
        total += block @ rest[:width]
        rest = rest[width:]
    return total.astype(np.int64)


def combine(seed: bytes, weights: Sequence[int], length: int) -> list[mpz]:
    """Return the sum of the rows, each times its scalar: one scalar a column."""
    limbs = limbs_of(weights, _LIMB_BYTES)
    combined: list[mpz] = []
    for block in blocks(seed, length):
        combined += scalars_of(block.T @ limbs, _LIMB_BYTES)
    return combined


def evaluate_combined(
    seed: bytes, weights: Sequence[int], row_point: Sequence[int], column_point: Sequence[int]
) -> mpz:
    """Return the sum over all columns of what `combine` gives, times weights of the columns.

    Args:
        seed: 32 bytes.
        weights: one scalar for each of the 128 rows.
        row_point: the first factor of a column's weight, one for each row of the matrix that the
            columns are laid out as.
        column_point: the second factor, one for each column of that matrix; a power of two of at
            most 8192 of them.
    """
    width = len(column_point)
    limbs = limbs_of(column_point, _LIMB_BYTES)
    total = mpz(0)
    first = 0
    for block in blocks(seed, len(row_point) * width):
        height = block.shape[1] // width
        parts = block.reshape(ROW_COUNT * height, width) @ limbs
        inner = scalars_of(parts, _LIMB_BYTES)
        factors = row_point[first : first + height]
        for index, weight in enumerate(weights):
            own = inner[index * height : (index + 1) * height]
            total += weight * dot(factors, own)
        first += height
    return total % ORDER
