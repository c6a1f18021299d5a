"""An update as it goes over the wire: trained minus base, made chunk by chunk.

A delta as large as the model is never held. It is made twice, once for the digest and once for
the wire: subtracting costs less than the memory it would need.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kumiai.core.arrays import NamedArrays
from kumiai.core.codec import decode_header, encode
from kumiai.core.digest import StreamingDigest

__all__ = ["DeltaUpload"]


@dataclass(frozen=True, slots=True)
class DeltaUpload:
    """One update, ready to be sent from any offset.

    Attributes:
        digest: of the encoded delta.
        size_bytes: of the encoded delta.
    """

    digest: str
    size_bytes: int
    _header: bytes
    _pairs: tuple[tuple[NDArray[Any], NDArray[Any]], ...]

    @classmethod
    def prepare(cls, trained: NamedArrays, base: NamedArrays, *, chunk_bytes: int) -> "DeltaUpload":
        """Hash the delta of two models of one layout; both must stay as they are until sent."""
        buffers = encode(trained)
        pairs = tuple(
            (np.atleast_1d(trained[name]).reshape(-1), np.atleast_1d(base[name]).reshape(-1))
            for name in decode_header(buffers[0]).layout
        )
        upload = cls("", sum(buffer.nbytes for buffer in buffers), bytes(buffers[0]), pairs)
        digest = StreamingDigest()
        for chunk in upload.chunks(0, chunk_bytes):
            digest.update(chunk)
        return cls(digest.hexdigest(), upload.size_bytes, upload._header, pairs)

    def chunks(self, offset: int, chunk_bytes: int) -> Iterator[bytes]:
        """Yield the encoded delta from ``offset`` on, in pieces of at most ``chunk_bytes``."""
        block = _Block(chunk_bytes)
        position = 0
        for size, write in self._pieces(chunk_bytes):
            end = position + size
            if end > offset:
                skip = max(offset - position, 0)
                yield from block.take(write(), skip)
            position = end
        yield from block.rest()

    def _pieces(self, chunk_bytes: int) -> Iterator[tuple[int, Callable[[], memoryview]]]:
        """Yield (size, make) for the header and for slices of the arrays, in file order."""
        yield len(self._header), lambda: memoryview(self._header)
        for trained, base in self._pairs:
            step = max(chunk_bytes // trained.itemsize, 1)
            for start in range(0, trained.size, step):
                new, old = trained[start : start + step], base[start : start + step]
                yield new.nbytes, lambda new=new, old=old: _bytes_of(new, old)  # type: ignore[misc]


class _Block:
    """Joins small pieces and cuts large ones into blocks of one size."""

    def __init__(self, size_bytes: int) -> None:
        self._size = size_bytes
        self._parts: list[bytes] = []
        self._held = 0

    def take(self, piece: memoryview, skip: int) -> Iterator[bytes]:
        piece = piece[skip:]
        while piece:
            part = bytes(piece[: self._size - self._held])
            piece = piece[len(part) :]
            self._parts.append(part)
            self._held += len(part)
            if self._held == self._size:
                yield from self.rest()

    def rest(self) -> Iterator[bytes]:
        if self._held:
            yield self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts, self._held = [], 0


def _bytes_of(trained: NDArray[Any], base: NDArray[Any]) -> memoryview:
    # Slice by slice what `learning.delta_of` does to whole arrays. An overflow becomes an
    # infinity, which the coordinator refuses with a reason.
    difference = np.not_equal if base.dtype == np.bool_ else np.subtract
    with np.errstate(over="ignore", invalid="ignore"):
        delta = np.ascontiguousarray(difference(trained, base), dtype=base.dtype)
    return delta.view(np.uint8).data  # numpy gives no buffer of bfloat16 itself
