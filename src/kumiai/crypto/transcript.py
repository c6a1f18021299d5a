"""The Fiat-Shamir transcript: every challenge is a hash of all that was said before it.

Each piece is absorbed with its label and both lengths, so that no two different conversations give
the same bytes. A challenge is absorbed itself: the next one depends on it.

Source: Fiat and Shamir 1986; the strong form, with the statement inside, of Bernhard, Pereira and
Warinschi 2012.
"""

import hashlib
from typing import Final

from gmpy2 import mpz

from kumiai.crypto.group import ORDER

__all__ = ["Transcript"]

_LENGTH_BYTES: Final = 8


class Transcript:
    """What a prover and a verifier have said to each other so far."""

    __slots__ = ("_hash",)

    def __init__(self, protocol: str) -> None:
        self._hash = hashlib.sha512()
        self.append("protocol", protocol.encode())

    def append(self, label: str, *parts: bytes) -> None:
        """Absorb parts, in order, under a label."""
        for part in (label.encode(), len(parts).to_bytes(_LENGTH_BYTES, "big"), *parts):
            self._hash.update(len(part).to_bytes(_LENGTH_BYTES, "big"))
            self._hash.update(part)

    def append_integer(self, label: str, value: int) -> None:
        """Absorb an integer of at least 0."""
        self.append(label, int(value).to_bytes((int(value).bit_length() + 7) // 8, "big"))

    def challenge_bytes(self, label: str) -> bytes:
        """Return 64 bytes that nobody could know before everything so far was said."""
        self.append("challenge", label.encode())
        content = self._hash.digest()
        self.append("challenged", content)
        return content

    def challenge(self, label: str) -> mpz:
        """Return a scalar; 512 bits are reduced, so that no value is more probable than 2^-255."""
        return mpz(int.from_bytes(self.challenge_bytes(label), "big")) % ORDER

    def challenges(self, label: str, count: int) -> list[mpz]:
        """Return as many independent scalars as asked for."""
        return [self.challenge(f"{label} {index}") for index in range(count)]
