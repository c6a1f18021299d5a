"""Blindings as something that can be masked: numbers modulo the group's order, added like updates.

The sum of all clients' commitments opens with the sum of their blindings, which nobody may know but
as a sum. Each client therefore sends its blindings under the same kind of masks as its update, only
modulo the group's order. A mask word is 48 bytes of keystream, reduced: no value is more probable
than others by more than 2^-128.
"""

from collections.abc import Sequence
from operator import add
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from kumiai.core.errors import ProofError
from kumiai.crypto.group import ORDER, SCALAR_BYTES, decode_scalar, encode_scalar
from kumiai.crypto.masks import Mask

__all__ = ["add_blinding_masks", "decode_blindings", "encode_blindings", "sum_blindings"]

_WORD_BYTES: Final = 48


def add_blinding_masks(blindings: Sequence[int], masks: Sequence[Mask]) -> list[int]:
    """Return blindings with masks added or taken away, modulo the group's order.

    Args:
        blindings: one for each committed row, in [0, ORDER).
        masks: whose keys are used for these blindings alone, and not for the update as well.
    """
    masked = list(blindings)
    for mask in masks:
        words = [mask.sign * word for word in _mask_words(mask.key, len(masked))]
        masked = [int(each % ORDER) for each in map(add, masked, words)]
    return masked


def _mask_words(key: bytes, count: int) -> list[int]:
    stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
    content = stream.update(bytes(count * _WORD_BYTES))
    starts = range(0, len(content), _WORD_BYTES)
    return [int.from_bytes(content[start : start + _WORD_BYTES], "little") for start in starts]


def sum_blindings(left: Sequence[int], right: Sequence[int]) -> list[int]:
    """Return the sums of two clients' blindings, row by row; masked ones add up as well.

    Raises:
        ValueError: there are not as many of the one as of the other.
    """
    return [int((a + b) % ORDER) for a, b in zip(left, right, strict=True)]


def encode_blindings(blindings: Sequence[int]) -> bytes:
    """Return 32 bytes for each blinding, masked or not."""
    return b"".join(map(encode_scalar, blindings))


def decode_blindings(content: bytes, row_count: int) -> list[int]:
    """Read blindings from outside.

    Args:
        content: of `encode_blindings`.
        row_count: how many there must be.

    Raises:
        ProofError: the length is another one, or a number is not below the group's order.
    """
    if len(content) != row_count * SCALAR_BYTES:
        raise ProofError(
            f"blindings must have {row_count * SCALAR_BYTES} bytes for {row_count} rows, "
            f"got {len(content)}"
        )
    starts = range(0, len(content), SCALAR_BYTES)
    return [
        int(decode_scalar(content[start : start + SCALAR_BYTES], name=f"blinding of row {index}"))
        for index, start in enumerate(starts)
    ]
