"""The long vectors of a round: what a client uploads, and the sum.

Both have one layout: the ring's words (the numbers and the weight), then the blindings of the
commitments, 32 bytes each. The coordinator's `VectorSum` takes uploads block by block and keeps
nothing of them but the sum.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from kumiai.core.digest import Buffer, digest_of
from kumiai.core.errors import SecureAggregationError
from kumiai.crypto.blindings import (
    add_blinding_masks,
    decode_blindings,
    encode_blindings,
    sum_blindings,
)
from kumiai.crypto.group import SCALAR_BYTES
from kumiai.crypto.masks import Words, add_masks
from kumiai.secagg.descriptor import RoundDescriptor
from kumiai.secagg.quantizing import signed, words_dtype
from kumiai.secagg.round_keys import blinding_mask, vector_mask

__all__ = ["Blocks", "VectorLayout", "VectorSum", "vector_digest"]

Blocks = Callable[[], Iterable[Buffer]]
"""Gives an upload's bytes from the beginning, as often as asked: a spooled file, for example."""
_MASKS_AT_ONCE: Final = 256


@dataclass(frozen=True, slots=True)
class VectorLayout:
    """Where what stands.

    Attributes:
        word_count: ring words.
        ring_bits: of each.
        blinding_count: blindings.
    """

    word_count: int
    ring_bits: int
    blinding_count: int

    @classmethod
    def of(cls, descriptor: RoundDescriptor, blinding_count: int) -> "VectorLayout":
        """Return the layout of a round's vectors."""
        return cls(descriptor.upload_words, descriptor.ring_bits, blinding_count)

    @property
    def ring_size_bytes(self) -> int:
        """How long the words are."""
        return self.word_count * self.ring_bits // 8

    @property
    def size_bytes(self) -> int:
        """How long the whole is."""
        return self.ring_size_bytes + self.blinding_count * SCALAR_BYTES

    def empty(self) -> NDArray[np.uint8]:
        """Return room for a vector."""
        return np.zeros(self.size_bytes, np.uint8)

    def words(self, vector: NDArray[np.uint8]) -> Words:
        """Return a view on the words."""
        return vector[: self.ring_size_bytes].view(words_dtype(self.ring_bits))

    def blindings(self, vector: NDArray[np.uint8]) -> list[int]:
        """Return the blindings.

        Raises:
            ProofError: one is not below the order of the group.
        """
        return decode_blindings(vector[self.ring_size_bytes :].tobytes(), self.blinding_count)

    def write_blindings(self, vector: NDArray[np.uint8], blindings: Sequence[int]) -> None:
        """Put the blindings into their place."""
        vector[self.ring_size_bytes :] = np.frombuffer(encode_blindings(blindings), np.uint8)


class VectorSum:
    """The sum of masked vectors, from which the masks are taken away at the end."""

    __slots__ = ("_blindings", "_layout", "_vector")

    def __init__(self, layout: VectorLayout) -> None:
        """Begin with zero."""
        self._layout = layout
        self._vector = layout.empty()
        self._blindings = [0] * layout.blinding_count

    def add(self, blocks: Blocks, digest: bytes) -> None:
        """Add an upload.

        The blocks are asked for twice: the digest is checked before anything is added, so that a
        wrong upload leaves the sum as it was.

        Args:
            blocks: each a multiple of a word long, best about a mebibyte.
            digest: BLAKE3 of the whole.

        Raises:
            SecureAggregationError: the upload has another digest or length.
            ProofError: a blinding is not below the order of the group.
            ValueError: a block ends within a word.
        """
        tail = self._verified_tail(blocks, digest)
        blindings = decode_blindings(tail, self._layout.blinding_count)
        words = self._layout.words(self._vector)
        at = 0
        for block in blocks():
            part = np.frombuffer(block, np.uint8)[: max(0, self._layout.ring_size_bytes - at)]
            first = at // words.itemsize
            addend = part.view(words.dtype)
            place = words[first : first + addend.size]
            np.add(place, addend, out=place)
            at += memoryview(block).nbytes
        self._blindings = sum_blindings(self._blindings, blindings)

    def remove_masks(self, masks: Sequence[tuple[bytes, Literal[1, -1]]]) -> None:
        """Take masks away: each a key with the sign by which it was added."""
        words = self._layout.words(self._vector)
        for start in range(0, len(masks), _MASKS_AT_ONCE):
            some = masks[start : start + _MASKS_AT_ONCE]
            add_masks(words, [vector_mask(key, -1 if sign == 1 else 1) for key, sign in some])
        if self._blindings:
            hidden = [blinding_mask(key, -1 if sign == 1 else 1) for key, sign in masks]
            self._blindings = add_blinding_masks(self._blindings, hidden)

    def vector(self) -> NDArray[np.uint8]:
        """Return the sum in the layout of a vector."""
        self._layout.write_blindings(self._vector, self._blindings)
        return self._vector

    def numbers(self) -> NDArray[np.int64]:
        """Return the words as signed numbers."""
        return signed(self._layout.words(self._vector))

    def _verified_tail(self, blocks: Blocks, digest: bytes) -> bytes:
        """Check digest and length; return the bytes of the blindings."""
        tail, at = bytearray(), 0
        ring = self._layout.ring_size_bytes

        def watched() -> Iterable[Buffer]:
            nonlocal at
            for block in blocks():
                view = memoryview(block).cast("B")
                if view.nbytes % (self._layout.ring_bits // 8):
                    raise ValueError(
                        f"block must be a multiple of {self._layout.ring_bits // 8} bytes, got "
                        f"{view.nbytes}"
                    )
                tail.extend(view[max(0, ring - at) :])
                at += view.nbytes
                if at > self._layout.size_bytes:
                    break
                yield block

        found = bytes.fromhex(digest_of(watched()))
        if at != self._layout.size_bytes:
            raise SecureAggregationError(
                f"upload must be {self._layout.size_bytes} bytes, got {at} or more"
            )
        if found != digest:
            raise SecureAggregationError(
                "upload must have the digest that its client signed, got another"
            )
        return bytes(tail)


def vector_digest(vector: NDArray[np.uint8]) -> bytes:
    """Return the digest by which messages name a vector."""
    return bytes.fromhex(digest_of([vector.data]))
