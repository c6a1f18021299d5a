"""An update as it goes over the wire: trained minus base, made chunk by chunk.

A delta as large as the model is never held. It is made twice, once for the digest and once for
the wire: subtracting costs less than the memory it would need.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kumiai.core.arrays import NamedArrays
from kumiai.core.codec import decode_header, encode
from kumiai.core.digest import StreamingDigest, digest_of

__all__ = ["ArraysUpload", "DeltaUpload"]


@dataclass(frozen=True, slots=True)
class ArraysUpload:
    """Arrays that go as they are, ready to be sent from any offset.

    Attributes:
        digest: of the encoded arrays.
        size_bytes: of the encoded arrays.
    """

    digest: str
    size_bytes: int
    _content: bytes = field(repr=False)

    @classmethod
    def prepare(cls, arrays: NamedArrays) -> "ArraysUpload":
        """Encode and hash the arrays."""
        content = b"".join(encode(arrays))
        return cls(digest_of([content]), len(content), content)

    def chunks(self, offset: int, chunk_bytes: int) -> Iterator[bytes]:
        """Yield the encoded arrays from ``offset`` on, in pieces of at most ``chunk_bytes``."""
        for start in range(offset, self.size_bytes, chunk_bytes):
            yield self._content[start : start + chunk_bytes]


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
        for block in upload._blocks(0, chunk_bytes):
            digest.update(block)
        return cls(digest.hexdigest(), upload.size_bytes, upload._header, pairs)

    def chunks(self, offset: int, chunk_bytes: int) -> Iterator[bytes]:
        """Yield the encoded delta from ``offset`` on, in pieces of at most ``chunk_bytes``."""
        for block in self._blocks(offset, chunk_bytes):
            yield bytes(block)

    def _blocks(self, offset: int, size_bytes: int) -> Iterator[memoryview]:
        """Yield the same as views of one block of memory: each is gone when the next is made."""
        block = _Block(size_bytes)
        yield from block.take(self._header[offset:])
        skip = max(offset - len(self._header), 0)
        for trained, base in self._pairs:
            yield from block.subtract(trained, base, skip)
            skip = max(skip - base.nbytes, 0)
        yield from block.rest()


class _Block:
    """Memory of one chunk, filled again and again.

    Numbers are subtracted right into it: an array for each difference, and a copy to bring the
    differences into chunks, would cost more than the subtraction.
    """

    def __init__(self, size_bytes: int) -> None:
        self._view = memoryview(bytearray(size_bytes))
        self._filled = 0

    def take(self, data: bytes | memoryview) -> Iterator[memoryview]:
        """Add bytes; yield each block that is full."""
        while data:
            count = min(len(data), len(self._view) - self._filled)
            self._view[self._filled : self._filled + count] = data[:count]
            data = data[count:]
            yield from self._advance(count)

    def subtract(
        self, trained: NDArray[Any], base: NDArray[Any], skip: int
    ) -> Iterator[memoryview]:
        """Add the bytes of ``trained - base`` but the first ``skip``; yield each full block."""
        index, inside = divmod(min(skip, base.nbytes), base.itemsize)
        while index < base.size:
            fitting = (len(self._view) - self._filled) // base.itemsize
            if inside or not fitting:  # one number that a border of chunks divides
                number = np.empty(1, base.dtype)
                _subtract(trained[index : index + 1], base[index : index + 1], number)
                yield from self.take(number.tobytes()[inside:])
                index, inside = index + 1, 0
                continue
            end = min(index + fitting, base.size)
            target = np.ndarray((end - index,), base.dtype, self._view, self._filled)
            _subtract(trained[index:end], base[index:end], target)
            index = end
            yield from self._advance(target.nbytes)

    def rest(self) -> Iterator[memoryview]:
        """Yield what is left, if anything is."""
        if self._filled:
            yield self._view[: self._filled]
            self._filled = 0

    def _advance(self, count: int) -> Iterator[memoryview]:
        self._filled += count
        if self._filled == len(self._view):
            yield from self.rest()


def _subtract(trained: NDArray[Any], base: NDArray[Any], target: NDArray[Any]) -> None:
    # Slice by slice what `learning.delta_of` does to whole arrays. An overflow becomes an
    # infinity, which the coordinator refuses with a reason.
    difference = np.not_equal if base.dtype == np.bool_ else np.subtract
    with np.errstate(over="ignore", invalid="ignore"):
        difference(trained, base, out=target)
