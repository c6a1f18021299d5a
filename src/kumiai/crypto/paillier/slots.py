"""Slots: many signed fixed-point values in one plaintext, so that one ciphertext adds them all.

A slot is as wide as the largest sum needs, not only a value: ``summand_count_max`` values of
``value_bits`` each can never reach their neighbour, and whoever adds counts the summands. What a
client that cheats puts into a slot is not checked: it can spill over. Packed sums are for clients
that follow the protocol.

A plaintext is sum(value_i * 2^(i * slot_bits)) with signed values; before slots are read, half a
slot is added to each, which makes all of them non-negative whatever was added or multiplied.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gmpy2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from kumiai.core.errors import CryptoError
from kumiai.crypto.paillier.keys import PaillierPublicKey

__all__ = ["SlotLayout", "packed", "unpacked", "values_of"]

_SLOT_BITS_MAX = 62  # sums are read as int64
_BLOCK_COUNT = 1 << 16  # values; bounds the memory that packing takes beside its result

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotLayout:
    """How values become slots; the same for all who take part in a sum.

    Attributes:
        value_bits: of one signed value, 2 to 32: it lies within +-(2^(value_bits - 1) - 1) units.
        summand_count_max: how many vectors may be added, each with its weight, >= 1.
        step: what one unit stands for: values are rounded to multiples of it, and sums are floats.
            ``None`` for values that are integers already; then sums are integers.

    Raises:
        ValueError: an attribute is out of its range, or a slot would have more than 62 bits.
    """

    value_bits: int = 16
    summand_count_max: int = 100
    step: float | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.value_bits <= 32:
            raise ValueError(f"value_bits must be from 2 to 32, got {self.value_bits}")
        if not 1 <= self.summand_count_max < 1 << 32:
            raise ValueError(
                f"summand_count_max must be from 1 to 2^32 - 1, got {self.summand_count_max}"
            )
        if self.step is not None and not 0 < self.step < math.inf:
            raise ValueError(f"step must be positive and finite, got {self.step}")
        if self.slot_bits > _SLOT_BITS_MAX:
            raise ValueError(
                f"slot_bits must be at most {_SLOT_BITS_MAX}, got {self.slot_bits}; "
                "take fewer value_bits or summands"
            )

    @classmethod
    def for_clip(
        cls, clip: float, *, value_bits: int = 16, summand_count_max: int = 100
    ) -> "SlotLayout":
        """Return a layout whose largest value is ``clip``.

        Raises:
            ValueError: an argument is out of its range.
        """
        return cls(
            value_bits=value_bits,
            summand_count_max=summand_count_max,
            step=clip / ((1 << (value_bits - 1)) - 1),
        )

    @property
    def value_max(self) -> int:
        """The largest magnitude of one value in units."""
        return (1 << (self.value_bits - 1)) - 1

    @property
    def slot_bits(self) -> int:
        """The width of a slot: the largest sum and a sign."""
        return 1 + (self.value_max * self.summand_count_max).bit_length()

    def slot_count(self, public_key: PaillierPublicKey) -> int:
        """Return how many slots a plaintext holds.

        Raises:
            ValueError: the key is too short for one slot.
        """
        count = (public_key.plaintext_max.bit_length() - 1) // self.slot_bits
        if count < 1:
            raise ValueError(f"a slot of {self.slot_bits} bits must fit the key; use a longer key")
        return count

    def ciphertext_count(self, public_key: PaillierPublicKey, count: int) -> int:
        """Return how many ciphertexts ``count`` values take."""
        return -(-count // self.slot_count(public_key))

    def units(self, values: NDArray[Any]) -> IntArray:
        """Return values in units, rounded to the nearest, ties to even.

        Raises:
            ValueError: a value is not finite or out of range; they are counted, not shown.
            TypeError: there is no step, and the values are not integers.
        """
        if self.step is None:
            if not np.issubdtype(values.dtype, np.integer):
                raise TypeError(
                    f"values must be integers for a layout without step, got {values.dtype}"
                )
            outside = (values > self.value_max) | (values < -self.value_max)
            units = values
        else:
            with np.errstate(over="ignore"):  # an infinite quotient is refused below
                units = np.rint(values.astype(np.float64) / self.step)
            outside = ~(np.abs(units) <= self.value_max)  # NaN is outside, too
        if outside.any():
            raise ValueError(
                f"values must be finite and within +-{self.value_max * (self.step or 1):g}, "
                f"got {int(outside.sum())} that are not; clip them first"
            )
        return units.astype(np.int64)


def packed(layout: SlotLayout, public_key: PaillierPublicKey, values: ArrayLike) -> Iterator[int]:
    """Give the plaintexts, from -n/3 to n/3, that hold values of one dimension; the last is padded.

    Raises:
        ValueError: the values are not of one dimension, not finite, or out of range.
        TypeError: they are not integers and the layout has no step.
    """
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"values must have one dimension, got {array.ndim}")
    slots, width = layout.slot_count(public_key), layout.slot_bits
    half, bias = 1 << (width - 1), _bias(layout, slots)
    block = max(1, _BLOCK_COUNT // slots) * slots
    for start in range(0, len(array), block):
        units = layout.units(array[start : start + block]) + half
        listed = units.tolist()
        for first in range(0, len(listed), slots):
            row = listed[first : first + slots]
            row += [half] * (slots - len(row))
            yield gmpy2.pack(row, width) - bias


def unpacked(
    layout: SlotLayout, public_key: PaillierPublicKey, residues: list[int], count: int
) -> IntArray:
    """Return the sums in units that decrypted plaintexts hold.

    Args:
        layout: how they were packed.
        public_key: whose plaintexts they are.
        residues: plaintexts from 0 to n - 1.
        count: how many values there are.

    Raises:
        CryptoError: a plaintext is longer than its slots: somebody put in more than a value.
    """
    slots, width = layout.slot_count(public_key), layout.slot_bits
    half, bias, end = 1 << (width - 1), _bias(layout, slots), 1 << (width * slots)
    sums = np.zeros((len(residues), slots), dtype=np.int64)
    for index, residue in enumerate(residues):
        signed = residue if residue <= public_key.plaintext_max else residue - public_key.n
        raised = signed + bias
        if not 0 <= raised < end:
            raise CryptoError(
                f"plaintext {index} must fit {slots} slots of {width} bits, and has overflowed; "
                "a summand was out of range"
            )
        row = gmpy2.unpack(gmpy2.mpz(raised), width)
        sums[index, : len(row)] = row
    return sums.ravel()[:count] - half


def values_of(
    layout: SlotLayout, public_key: PaillierPublicKey, residues: list[int], count: int
) -> NDArray[Any]:
    """Return the sums that plaintexts hold: int64 for a layout without step, else float64.

    Raises:
        CryptoError: a plaintext is longer than its slots: somebody put in more than a value.
    """
    sums = unpacked(layout, public_key, residues, count)
    return sums if layout.step is None else sums * layout.step


def _bias(layout: SlotLayout, slots: int) -> int:
    half = 1 << (layout.slot_bits - 1)
    bias: int = gmpy2.pack([half] * slots, layout.slot_bits)
    return bias
