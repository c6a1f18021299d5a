"""Arithmetic modulo a prime, for shares and for curves.

Elements are plain Python integers from 0 to the prime minus one, so that formulas read as in the
papers; this module holds what goes beyond ``+``, ``*`` and ``%``. Python's integers do not take
constant time: whoever can measure single operations of this process learns about the numbers.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from kumiai.core.errors import CryptoError

__all__ = ["SHARE_FIELD", "PrimeField"]


@dataclass(frozen=True, slots=True)
class PrimeField:
    """The integers modulo a prime.

    Attributes:
        prime: the modulus; that it is prime is the caller's word.
        size_bytes: how many bytes an element takes.
    """

    prime: int
    size_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        """Find the size once: many thousand shares are read in a round."""
        object.__setattr__(self, "size_bytes", (self.prime.bit_length() + 7) // 8)

    def random_element(self) -> int:
        """Return an element that each is as likely as any other, from the system's randomness."""
        return secrets.randbelow(self.prime)

    def inverse(self, element: int) -> int:
        """Return what makes 1 when multiplied with ``element``.

        Raises:
            ValueError: ``element`` is a multiple of the prime.
        """
        if element % self.prime == 0:
            raise ValueError("element must not be zero to have an inverse, got zero")
        return pow(element, -1, self.prime)

    def inverses(self, elements: Sequence[int]) -> list[int]:
        """Return the inverse of each element, for the price of one and three products each.

        Raises:
            ValueError: an element is a multiple of the prime.

        Source: Montgomery 1987, section 10.3.1.
        """
        products = [1]
        for element in elements:
            products.append(products[-1] * element % self.prime)
        rest = self.inverse(products.pop())
        found = []
        for element, product in zip(reversed(elements), reversed(products), strict=True):
            found.append(rest * product % self.prime)
            rest = rest * element % self.prime
        return found[::-1]

    def encode(self, element: int) -> bytes:
        """Return the element as bytes, the least significant first.

        Raises:
            ValueError: it is not an element.
        """
        if not 0 <= element < self.prime:
            raise ValueError(
                f"element must be at least 0 and below the prime, got {element.bit_length()} bits"
            )
        return element.to_bytes(self.size_bytes, "little")

    def decode(self, data: bytes) -> int:
        """Return the element that the bytes stand for; each has exactly one form.

        Raises:
            CryptoError: they are too few or too many, or stand for the prime or more.
        """
        if len(data) != self.size_bytes:
            raise CryptoError(f"field element must be {self.size_bytes} bytes, got {len(data)}")
        element = int.from_bytes(data, "little")
        if element >= self.prime:
            raise CryptoError("field element must be below the prime, got a larger number")
        return element


SHARE_FIELD: Final = PrimeField(2**255 - 19)
"""Where secrets are shared: 32 bytes hold an element, and each element makes 256-bit keys."""
