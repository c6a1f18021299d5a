"""Multiples of fixed points, so that a sum of products by small integers is a sum of look-ups.

For each point the table holds its multiples by 1 to 128. An integer is written in signed digits
between -128 and 127; each place of the digits is one batch of additions, and the places are joined
by multiplying with 256. Which entries are read depends on the integers: a neighbour who watches the
processor's caches learns about them.
"""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kumiai.core.errors import ProofError
from kumiai.crypto.group import ORDER, Point, add, multiply, negate, same

__all__ = ["DigitTable", "digits_of_integers", "digits_of_scalars"]

Digits = NDArray[np.int16]
"""Shape (places, n), least significant place first, each in [-128, 127]."""

_RADIX: Final = 256
_DIGIT_MAX: Final = 128
_SCALAR_PLACES: Final = 33
_UNCOMPRESSED_BYTES: Final = 65
_MAGIC: Final = b"kumiai digit table 1\n"
_DIGEST_BYTES: Final = 32


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
    """Write scalars of the group, each reduced first, in 33 places."""
    packed = b"".join(int(each % ORDER).to_bytes(_SCALAR_PLACES, "little") for each in scalars)
    places = (
        np.frombuffer(packed, np.uint8).reshape(len(scalars), _SCALAR_PLACES).T.astype(np.int16)
    )
    carry = np.zeros(places.shape[1], np.int16)
    for index in range(_SCALAR_PLACES):
        places[index] += carry
        carry = (places[index] >= _DIGIT_MAX).astype(np.int16)
        places[index] -= carry * _RADIX
    return places


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

    def to_bytes(self) -> bytes:
        """Return the table, 8.3 kB a point, to be kept and read again by `from_bytes`."""
        body = _MAGIC + b"".join(point.format(compressed=False) for point in self._multiples)
        return body + hashlib.sha256(body).digest()

    @classmethod
    def from_bytes(cls, content: bytes, points: Sequence[Point]) -> "DigitTable":
        """Read a table again, which takes about a quarter of the time of building it.

        The digest finds damage, not malice: whoever may write where the table is kept must be
        trusted not to exchange it.

        Args:
            content: of `to_bytes`.
            points: those that it must be of.

        Raises:
            ProofError: the bytes are damaged, or a table of other points.
        """
        body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
        entries = memoryview(body)[len(_MAGIC) :]
        if (
            len(entries) != len(points) * _DIGIT_MAX * _UNCOMPRESSED_BYTES
            or not body.startswith(_MAGIC)
            or not hmac.compare_digest(hashlib.sha256(body).digest(), digest)
        ):
            raise ProofError(
                f"digit table must be an undamaged one of {len(points)} points, got other bytes; "
                "build it anew"
            )
        table = cls(())
        table.point_count = len(points)
        table._multiples = _parsed(entries)
        if not all(map(same, table._multiples[::_DIGIT_MAX], points)):
            raise ProofError("digit table must be of the same points, got others; build it anew")
        return table


def _multiples_of(point: Point) -> list[Point]:
    multiples = [point]
    while len(multiples) < _DIGIT_MAX:
        multiples.append(Point.combine_keys([multiples[-1], point]))
    return multiples


def _parsed(entries: memoryview) -> list[Point]:
    starts = range(0, len(entries), _UNCOMPRESSED_BYTES)
    try:
        return [Point(bytes(entries[start : start + _UNCOMPRESSED_BYTES])) for start in starts]
    except ValueError:
        raise ProofError("digit table must hold points on secp256k1; build it anew") from None
