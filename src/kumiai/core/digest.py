"""Content addresses: BLAKE3-256, written as 64 lower-case hexadecimal digits.

BLAKE3 because hashing an update with SHA-256 costs more than adding it to the sum.
"""

import re
from collections.abc import Iterable

from blake3 import blake3

from kumiai.core.errors import IntegrityError

__all__ = ["Buffer", "StreamingDigest", "digest_of", "verify_digest_text"]

Buffer = bytes | bytearray | memoryview

_HEX = re.compile(r"[0-9a-f]{64}")


class StreamingDigest:
    """A digest that grows with the bytes shown to it."""

    __slots__ = ("_hasher", "size_bytes")

    def __init__(self) -> None:
        """Start with no bytes seen."""
        self._hasher = blake3()
        self.size_bytes = 0

    def update(self, data: Buffer) -> None:
        """Take in the next bytes; a buffer of wider items counts as its bytes."""
        view = memoryview(data)
        if view.nbytes:  # an empty one of several dimensions cannot be cast
            self._hasher.update(view.cast("B"))
            self.size_bytes += view.nbytes

    def hexdigest(self) -> str:
        """Return the digest of all bytes so far."""
        return self._hasher.hexdigest()


def digest_of(buffers: Iterable[Buffer]) -> str:
    """Return the digest of the buffers' concatenation."""
    digest = StreamingDigest()
    for buffer in buffers:
        digest.update(buffer)
    return digest.hexdigest()


def verify_digest_text(value: str) -> str:
    """Return ``value`` if it is written as a digest.

    Raises:
        IntegrityError: it is not 64 lower-case hexadecimal digits.
    """
    if not _HEX.fullmatch(value):
        raise IntegrityError(
            f"digest must be 64 lower-case hexadecimal digits, got {len(value)} characters"
        )
    return value
