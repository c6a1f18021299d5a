"""Multiples of fixed points, so that a sum of products by small integers is a sum of look-ups.

For each point the table holds its multiples by 1 to 128. An integer is written in signed digits
between -128 and 128; each place of the digits is one batch of additions, and the places are joined
by multiplying with 256. Which entries are read depends on the integers: a neighbour who watches the
processor's caches learns about them.
"""

from collections.abc import Sequence
from typing import Final

import gmpy2
import numpy as np
from numpy.typing import NDArray

from kumiai.crypto.group import ORDER, Point, add, multiply, negate

__all__ = ["DigitTable", "digits_of_integers", "digits_of_scalars"]

Digits = NDArray[np.int16]
"""Shape (places, n), least significant place first, each in [-128, 128]."""

_RADIX: Final = 256
_DIGIT_MAX: Final = 128
_SCALAR_PLACES: Final = 33
_HALF: Final = ORDER // 2


def digits_of_integers(values: NDArray[np.int64]) -> Digits:
    """Write signed integers in as many places as the largest of them needs.

    Args:
        values: shape (n,), each of absolute value below 2^62.
    """
    places: list[NDArray[np.int16]] = []
    rest = values
    while rest.any() or not places:
        # The lowest byte, read as one with a sign.
        digit = ((rest & (_RADIX - 1)) ^ _DIGIT_MAX) - _DIGIT_MAX
        places.append(digit.astype(np.int16))
        rest = (rest - digit) >> 8
    return np.stack(places)


def digits_of_scalars(scalars: Sequence[int]) -> Digits:
    """Write scalars of the group in as many places as the largest of them needs, 33 at most.

    Each is taken as the number nearest to zero that it stands for, so that sums of products of
    short ones, negative ones too, stay short.
    """
    nearest = [_nearest_zero(scalar % ORDER) for scalar in scalars]
    packed = b"".join(int(abs(each)).to_bytes(_SCALAR_PLACES, "little") for each in nearest)
    signs = np.array(list(map(gmpy2.sign, nearest)), np.int16)
    places = (
        np.frombuffer(packed, np.uint8).reshape(len(scalars), _SCALAR_PLACES).T.astype(np.int16)
    )
    carry = np.zeros(places.shape[1], np.int16)
    for index in range(_SCALAR_PLACES):
        places[index] += carry
        carry = (places[index] >= _DIGIT_MAX).astype(np.int16)
        places[index] -= carry * _RADIX
    used = np.flatnonzero(places.any(axis=1))
    return places[: used[-1] + 1 if used.size else 1] * signs


def _nearest_zero(scalar: int) -> int:
    return scalar - ORDER if scalar > _HALF else scalar


class DigitTable:
    """The multiples of some points by 1 to 128; building takes about 0.4 ms a point."""

    __slots__ = ("_multiples", "point_count")

    def __init__(self, points: Sequence[Point]) -> None:
        self.point_count = len(points)
        self._multiples = [multiple for point in points for multiple in _multiples_of(point)]

    def combine(self, digits: Digits) -> Point | None:
        """Return the sum of the first points, each times the integer of its digits.

        Args:
            digits: shape (places, n) with n at most `point_count`.

        Raises:
            ValueError: there are more integers than points.
        """
        if digits.shape[1] > self.point_count:
            raise ValueError(
                f"digits must be of at most {self.point_count} integers, got {digits.shape[1]}"
            )
        total: Point | None = None
        for place in digits[::-1]:
            positive, negative = self._picked(place, 1), self._picked(place, -1)
            total = add([multiply(total, _RADIX), add(positive), negate(add(negative))])
        return total

    def _picked(self, place: NDArray[np.int16], sign: int) -> list[Point]:
        signed = place.astype(np.int64) * sign
        columns = np.flatnonzero(signed > 0)
        return [self._multiples[entry] for entry in (columns * _DIGIT_MAX + signed[columns] - 1)]


def _multiples_of(point: Point) -> list[Point]:
    multiples = [point]
    while len(multiples) < _DIGIT_MAX:
        multiples.append(Point.combine_keys([multiples[-1], point]))
    return multiples
