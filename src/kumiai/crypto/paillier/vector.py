"""Encrypted vectors: packed values that are added, weighted and decrypted together."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from kumiai.core.errors import CryptoError
from kumiai.crypto.paillier.keys import PaillierPublicKey
from kumiai.crypto.paillier.slots import SlotLayout, packed

__all__ = ["EncryptedVector", "sum_of_vectors"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class EncryptedVector:
    """Values that nobody without the private key can read, and everybody can add.

    Attributes:
        public_key: the key it is encrypted with.
        layout: how values lie in the plaintexts.
        count: how many values there are.
        summand_count: how many vectors are in it, each with the magnitude of its weight: 1 when it
            was just encrypted. Whoever receives one from a client checks that.
        ciphertexts: as many as the layout needs for ``count`` values.

    Raises:
        CryptoError: there are more summands than the layout has head-room for, or the number of
            ciphertexts is wrong.
    """

    public_key: PaillierPublicKey
    layout: SlotLayout
    count: int
    summand_count: int
    ciphertexts: tuple[int, ...]

    def __post_init__(self) -> None:
        _verify_head_room(self.layout, self.summand_count)
        wanted = self.layout.ciphertext_count(self.public_key, self.count)
        if len(self.ciphertexts) != wanted:
            raise CryptoError(
                f"a vector of {self.count} values must have {wanted} ciphertexts, "
                f"got {len(self.ciphertexts)}"
            )

    def __add__(self, other: "EncryptedVector") -> "EncryptedVector":
        """Return the sum by value.

        Raises:
            CryptoError: key, layout or length differ, or there is no head-room left.
        """
        if not isinstance(other, EncryptedVector):
            return NotImplemented
        _verify_alike(self, other)
        summand_count = self.summand_count + other.summand_count
        sums = map(self.public_key.raw_add, self.ciphertexts, other.ciphertexts)
        return replace(self, summand_count=summand_count, ciphertexts=tuple(sums))

    def plus(self, values: ArrayLike) -> "EncryptedVector":
        """Return the sum with plain values, which count as one summand.

        Raises:
            ValueError: a value is out of range.
            CryptoError: there are not ``count`` values, or there is no head-room left.
        """
        key, array = self.public_key, np.asarray(values)
        plain = tuple(key.raw_encrypt(each, 1) for each in packed(self.layout, key, array))
        return self + EncryptedVector(key, self.layout, len(array), 1, plain)

    def __mul__(self, weight: int) -> "EncryptedVector":
        """Return each value times an integer, which counts as that many summands.

        Raises:
            CryptoError: there is no head-room for it.
        """
        if not isinstance(weight, int):
            return NotImplemented
        summand_count = self.summand_count * abs(weight)
        # Before the arithmetic, which takes as long as the weight is.
        _verify_head_room(self.layout, summand_count)
        multiply = self.public_key.raw_multiply
        products = tuple(multiply(each, weight) for each in self.ciphertexts)
        return replace(self, summand_count=summand_count, ciphertexts=products)

    __rmul__ = __mul__

    def __repr__(self) -> str:
        return (
            f"<EncryptedVector of {self.count} values, {self.summand_count} summands, "
            f"under key {self.public_key.short_name}>"
        )


def sum_of_vectors(vectors: Iterable[EncryptedVector]) -> EncryptedVector:
    """Return the sum of at least one vector; holds one of them at a time, and the sum.

    Raises:
        ValueError: there is none.
        CryptoError: key, layout or length differ, or there is no head-room left.
    """
    remaining = iter(vectors)
    total = next(remaining, None)
    if total is None:
        raise ValueError("vectors must hold at least one, got none")
    for vector in remaining:
        total = total + vector
    return total


def _verify_alike(left: EncryptedVector, right: EncryptedVector) -> None:
    left.public_key.verify_same(right.public_key)
    if left.layout != right.layout:
        raise CryptoError(
            f"vectors must have the same layout to be added, got {left.layout} and {right.layout}"
        )
    if left.count != right.count:
        raise CryptoError(
            f"vectors must have the same length to be added, got {left.count} and {right.count}"
        )


def _verify_head_room(layout: SlotLayout, summand_count: int) -> None:
    if not 0 <= summand_count <= layout.summand_count_max:
        raise CryptoError(
            f"summand_count must be from 0 to {layout.summand_count_max} in this layout, "
            f"got {summand_count}; agree on a larger summand_count_max"
        )
