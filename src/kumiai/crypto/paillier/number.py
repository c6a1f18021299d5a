"""Single encrypted numbers: integers of any size and binary fractions, signed, with arithmetic.

A number stands as an integer times 2^-fraction_bits; ``fraction_bits`` is public and does not
depend on the value, so nothing about it shows. An integer beyond a third of the modulus is cut into
limbs, each a ciphertext of its own; how many limbs there are is public.

A result that leaves the range of its limb is refused when it lands in the empty third in the middle
of the plaintexts, and wrong otherwise: sums of many terms belong into packed vectors, whose
head-room is counted.
"""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import zip_longest
from numbers import Integral, Real
from typing import SupportsFloat, SupportsIndex

from kumiai.core.errors import CryptoError
from kumiai.crypto.paillier.keys import PaillierPublicKey

__all__ = ["FLOAT_FRACTION_BITS", "EncryptedNumber", "join_limbs", "limbs_of", "scaled"]

FLOAT_FRACTION_BITS = 64
"""What a float gets where nothing else is said: an absolute error of at most 2^-65."""
_LIMB_COUNT_MAX = 256
_HEAD_ROOM_BITS = 128
"""A limb is this much shorter than a plaintext may be: room for sums and scalars."""
_SHIFT_BITS_MAX = _HEAD_ROOM_BITS // 2
"""How long a scalar of a number with several limbs may be, and how many fraction bits it has."""

Number = SupportsIndex | SupportsFloat
"""An int or a float, of Python or of numpy."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class EncryptedNumber:
    """A number that nobody without the private key can read, and everybody can calculate with.

    ``+`` and ``-`` take encrypted and plain numbers, ``*`` plain ones. The result of an operation
    depends on its operands alone; ``PaillierCrypto.rerandomised`` hides where it comes from.

    Attributes:
        public_key: the key it is encrypted with.
        limbs: ciphertexts, the least significant first.
        fraction_bits: the number is an integer times 2^-fraction_bits.

    Raises:
        CryptoError: there are too many limbs or fraction bits for this key.
    """

    public_key: PaillierPublicKey
    limbs: tuple[int, ...]
    fraction_bits: int = 0

    def __post_init__(self) -> None:
        if not 1 <= len(self.limbs) <= _LIMB_COUNT_MAX:
            raise CryptoError(
                f"a number must have from 1 to {_LIMB_COUNT_MAX} limbs, got {len(self.limbs)}"
            )
        most = fraction_bits_max(self.public_key)
        if len(self.limbs) > 1:
            most = _SHIFT_BITS_MAX
        if not 0 <= self.fraction_bits <= most:
            raise CryptoError(
                f"fraction_bits must be from 0 to {most} with this key, got {self.fraction_bits}; "
                "decrypt and encrypt anew, or ask for fewer fraction bits"
            )

    def plus(self, value: Number, *, fraction_bits: int | None = None) -> "EncryptedNumber":
        """Return the sum with a plain number.

        Args:
            value: an int, or a finite float.
            fraction_bits: how precisely a float is taken; without it ``FLOAT_FRACTION_BITS``.

        Raises:
            ValueError: the value is not finite.
            CryptoError: the value needs more limbs than this number has: encrypt it first.
        """
        integer, bits = scaled(value, fraction_bits)
        common = max(bits, self.fraction_bits)
        limbs = limbs_of(self.public_key, integer << (common - bits))
        mine = self._with_fraction_bits(common)
        if len(limbs) > len(mine.limbs):
            raise CryptoError(
                f"a plain number must fit into {len(mine.limbs)} limbs to be added, "
                f"got one of {len(limbs)}; encrypt it, then add"
            )
        key = self.public_key
        pairs = zip_longest(mine.limbs, limbs, fillvalue=0)
        sums = (key.raw_add(left, key.raw_encrypt(right, 1)) for left, right in pairs)
        return EncryptedNumber(key, tuple(sums), common)

    def times(self, scalar: Number, *, fraction_bits: int | None = None) -> "EncryptedNumber":
        """Return the product with a plain number, whose fraction bits are added to the result's.

        Args:
            scalar: an int, or a finite float.
            fraction_bits: how precisely a float is taken; without it ``FLOAT_FRACTION_BITS``.

        Raises:
            ValueError: the scalar is not finite, or longer than a plaintext.
            CryptoError: the product has too many fraction bits for this key.
        """
        integer, bits = scaled(scalar, fraction_bits)
        key = self.public_key
        most = key.key_size - 2 if len(self.limbs) == 1 else _SHIFT_BITS_MAX
        if integer.bit_length() > most:
            raise ValueError(
                f"scalar must have at most {most} bits for this number, got {integer.bit_length()}"
            )
        limbs = tuple(key.raw_multiply(limb, integer) for limb in self.limbs)
        return EncryptedNumber(key, limbs, self.fraction_bits + bits)

    def __add__(self, other: "EncryptedNumber | Number") -> "EncryptedNumber":
        if not isinstance(other, EncryptedNumber):
            return self.plus(other) if isinstance(other, Real) else NotImplemented
        key = self.public_key
        key.verify_same(other.public_key)
        common = max(self.fraction_bits, other.fraction_bits)
        mine, theirs = self._with_fraction_bits(common), other._with_fraction_bits(common)
        pairs = zip_longest(mine.limbs, theirs.limbs, fillvalue=1)
        sums = tuple(key.raw_add(left, right) for left, right in pairs)
        return EncryptedNumber(key, sums, common)

    def __radd__(self, other: Number) -> "EncryptedNumber":
        return self + other

    def __neg__(self) -> "EncryptedNumber":
        return self.times(-1)

    def __sub__(self, other: "EncryptedNumber | Number") -> "EncryptedNumber":
        return self + -other if isinstance(other, EncryptedNumber | Real) else NotImplemented

    def __rsub__(self, other: Number) -> "EncryptedNumber":
        return -self + other

    def __mul__(self, scalar: Number) -> "EncryptedNumber":
        return self.times(scalar) if isinstance(scalar, Real) else NotImplemented

    def __rmul__(self, scalar: Number) -> "EncryptedNumber":
        return self * scalar

    def __repr__(self) -> str:
        return (
            f"<EncryptedNumber of {len(self.limbs)} limbs with {self.fraction_bits} fraction bits "
            f"under key {self.public_key.short_name}>"
        )

    def _with_fraction_bits(self, fraction_bits: int) -> "EncryptedNumber":
        missing = fraction_bits - self.fraction_bits
        if missing == 0:
            return self
        key = self.public_key
        limbs = tuple(key.raw_multiply(limb, 1 << missing) for limb in self.limbs)
        return EncryptedNumber(key, limbs, fraction_bits)


def fraction_bits_max(public_key: PaillierPublicKey) -> int:
    """Return how many fraction bits a number may have: half of a plaintext's."""
    return public_key.key_size // 2


def scaled(value: Number, fraction_bits: int | None = None) -> tuple[int, int]:
    """Return the integer that stands for a plain number, and its fraction bits.

    Args:
        value: an int, which stands for itself, or a finite float, which is rounded to even.
        fraction_bits: of the result; without it 0 for an int and ``FLOAT_FRACTION_BITS`` for a
            float.

    Raises:
        TypeError: the value is neither.
        ValueError: the value is not finite, or ``fraction_bits`` negative.
    """
    if fraction_bits is not None and fraction_bits < 0:
        raise ValueError(f"fraction_bits must not be negative, got {fraction_bits}")
    if not isinstance(value, Real):
        raise TypeError(f"value must be an int or a float, got {type(value).__name__}")
    if isinstance(value, Integral):
        bits = fraction_bits or 0
        return operator.index(value) << bits, bits
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("value must be finite, got NaN or infinity")
    bits = FLOAT_FRACTION_BITS if fraction_bits is None else fraction_bits
    return round(Fraction(number) * (1 << bits)), bits


def limbs_of(public_key: PaillierPublicKey, integer: int) -> list[int]:
    """Return the signed plaintexts that stand for an integer, the least significant first.

    Raises:
        ValueError: it is longer than ``_LIMB_COUNT_MAX`` limbs.
    """
    if abs(integer) <= public_key.plaintext_max:
        return [integer]
    width = _limb_bits(public_key)
    sign, rest = (-1 if integer < 0 else 1), abs(integer)
    if rest.bit_length() > width * _LIMB_COUNT_MAX:
        raise ValueError(
            f"value must have at most {width * _LIMB_COUNT_MAX} bits with this key, "
            f"got {rest.bit_length()}"
        )
    mask = (1 << width) - 1
    limbs = []
    while rest:
        limbs.append(sign * (rest & mask))
        rest >>= width
    return limbs


def join_limbs(
    public_key: PaillierPublicKey, residues: Sequence[int], fraction_bits: int
) -> int | float:
    """Return the number that decrypted limbs stand for; an int if there are no fraction bits.

    Raises:
        CryptoError: a limb has overflowed, or the number does not fit a float.
    """
    most, n, width = public_key.plaintext_max, public_key.n, _limb_bits(public_key)
    integer = 0
    for index, residue in enumerate(residues):
        signed = residue if residue <= most else residue - n
        if abs(signed) > most:
            raise CryptoError("the result must fit the key, and has overflowed; use a longer key")
        integer += int(signed) << (width * index)
    if fraction_bits == 0:
        return integer
    try:
        return integer / (1 << fraction_bits)
    except OverflowError:
        raise CryptoError("the result must fit a float, and is too large") from None


def _limb_bits(public_key: PaillierPublicKey) -> int:
    return public_key.key_size - 2 - min(_HEAD_ROOM_BITS, public_key.key_size // 4)
