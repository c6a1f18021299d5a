"""Masks: long vectors of uniform numbers from a key of 256 bits, added where they are needed.

A mask is the keystream of AES-256 in counter mode, read as little-endian words, and added modulo
2^32 or 2^64 to what it hides. It is never held as a whole: keystream and sum go through the
processor's cache together, piece by piece. What each word is depends on its place in the stream
alone, so that a vector may be masked in parts, in any order, and by several threads: the work is
done without the interpreter's lock.

**A key makes one mask, and one mask hides one vector.** Two vectors under the same mask give their
difference away; that no key is used twice is the caller's duty.

Source: NIST SP 800-38A section 6.5 (counter mode), Bonawitz et al. 2017 (the masks).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NoReturn, TypeAlias

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from kumiai.crypto.keys import KEY_SIZE_BYTES

__all__ = ["Mask", "Words", "add_mask", "add_masks"]

Words: TypeAlias = NDArray[np.uint32] | NDArray[np.uint64]
"""Numbers modulo 2^32 or 2^64."""

_BLOCK_SIZE_BYTES: Final = 16
_STREAM_SIZE_BYTES: Final = _BLOCK_SIZE_BYTES << 128
# As large as possible while keystream and sum stay in the second cache of one core.
_PIECE_SIZE_BYTES: Final = 1 << 18
_ZEROS: Final = memoryview(bytes(_PIECE_SIZE_BYTES))


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask to be added or taken away.

    Attributes:
        key: 32 bytes, used for nothing else.
        sign: 1 adds the mask, -1 takes it away.
    """

    key: bytes = field(repr=False)
    sign: Literal[1, -1] = 1

    def __post_init__(self) -> None:
        """Check the key's length and the sign.

        Raises:
            ValueError: one of them is not as said above.
        """
        if len(self.key) != KEY_SIZE_BYTES:
            raise ValueError(f"key must be {KEY_SIZE_BYTES} bytes, got {len(self.key)}")
        if self.sign not in (1, -1):
            raise ValueError(f"sign must be 1 or -1, got {self.sign}")

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied: the key stays in this process."""
        raise TypeError("a Mask cannot be pickled")


def add_mask(buffer: Words, key: bytes, *, sign: Literal[1, -1] = 1, offset_bytes: int = 0) -> None:
    """Add a mask to a vector in place, or take it away; as `add_masks` with one."""
    add_masks(buffer, [Mask(key, sign)], offset_bytes=offset_bytes)


def add_masks(buffer: Words, masks: Sequence[Mask], *, offset_bytes: int = 0) -> None:
    """Add masks to a vector in place, modulo 2^32 or 2^64.

    Args:
        buffer: one dimension, uint32 or uint64, without gaps.
        masks: what to add and to take away.
        offset_bytes: where in the masks the buffer begins, if it is a part of a longer vector.

    Raises:
        ValueError: the buffer is of another kind, or the offset is no place of a word.
    """
    _verify_buffer(buffer)
    _verify_offset(offset_bytes, buffer)
    streams = [
        (_keystream(mask.key, offset_bytes), np.add if mask.sign == 1 else np.subtract)
        for mask in masks
    ]
    scratch = np.empty(_PIECE_SIZE_BYTES, np.uint8)
    words = scratch.view(buffer.dtype.newbyteorder("<"))
    step = _PIECE_SIZE_BYTES // buffer.itemsize
    for start in range(0, buffer.size, step):
        piece = buffer[start : start + step]
        for stream, combine in streams:
            stream.update_into(_ZEROS[: piece.nbytes], scratch.data)
            combine(piece, words[: piece.size], out=piece)


def _keystream(key: bytes, offset_bytes: int) -> CipherContext:
    """Return the cipher with its stream at the offset: what goes in as zeros comes out as mask."""
    block, inside = divmod(offset_bytes, _BLOCK_SIZE_BYTES)
    counter = modes.CTR(block.to_bytes(_BLOCK_SIZE_BYTES, "big"))
    stream = Cipher(algorithms.AES256(key), counter).encryptor()
    stream.update(bytes(inside))
    return stream


def _verify_buffer(buffer: Words) -> None:
    if buffer.dtype not in (np.uint32, np.uint64):
        raise ValueError(f"buffer must be of uint32 or uint64, got {buffer.dtype}")
    if buffer.ndim != 1 or not buffer.flags.c_contiguous or not buffer.flags.writeable:
        raise ValueError(
            "buffer must be a vector without gaps that can be written to, "
            f"got {buffer.ndim} dimensions with strides {buffer.strides}"
        )


def _verify_offset(offset_bytes: int, buffer: Words) -> None:
    last = _STREAM_SIZE_BYTES - buffer.nbytes
    if not 0 <= offset_bytes <= last or offset_bytes % buffer.itemsize:
        raise ValueError(
            f"offset_bytes must be a multiple of {buffer.itemsize} from 0 on, got {offset_bytes}"
        )
