"""Pedersen commitments to vectors of integers, one for each row of up to 1024 coordinates.

A commitment is the sum of the row's numbers times public generators, and of a random blinding times
the standard generator. It hides perfectly, binds as long as nobody computes discrete logarithms,
and adds up: the sum of all clients' commitments is the commitment to the sum of their vectors.

The generators come from hashing to the curve, so that nobody knows how they relate. The blinding's
generator is the curve's own, whose multiples libsecp256k1 computes in constant time.

Source: Pedersen 1991; over rows as in Wahby et al. 2018 (Hyrax), section 6.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from kumiai.core.errors import ProofError
from kumiai.crypto.digit_tables import DigitTable, digits_of_integers, digits_of_scalars
from kumiai.crypto.exact_products import VALUE_BITS_MAX, weighted_sum_of_rows
from kumiai.crypto.group import (
    POINT_BYTES,
    Draw,
    Point,
    add,
    base_multiple,
    certain,
    decode_point,
    dot,
    draw_scalar,
    encode_point,
)
from kumiai.crypto.hash_to_curve import hash_to_curve

__all__ = ["ROW_LENGTH", "Commitments", "Opening", "PedersenRows", "row_length_for"]

ROW_LENGTH: Final = 1024
_ROW_LENGTH_MIN: Final = 16
_ROWS_OF_SHORT: Final = 40
_GENERATOR_DST: Final = b"KUMIAI-V1-PEDERSEN-with-secp256k1_XMD:SHA-256_SSWU_RO_"


@dataclass(frozen=True, slots=True)
class Commitments:
    """The commitments to the rows of one vector: public."""

    points: tuple[Point, ...]

    def to_bytes(self) -> bytes:
        """Return 33 bytes a row."""
        return b"".join(map(encode_point, self.points))

    @classmethod
    def from_bytes(cls, content: bytes, row_count: int) -> "Commitments":
        """Read commitments from outside.

        Args:
            content: of `to_bytes`.
            row_count: how many there must be.

        Raises:
            ProofError: the length is another one, or something is no point on the curve.
        """
        if len(content) != row_count * POINT_BYTES:
            raise ProofError(
                f"commitments must have {row_count * POINT_BYTES} bytes for {row_count} rows, "
                f"got {len(content)}"
            )
        parts = (
            content[start : start + POINT_BYTES] for start in range(0, len(content), POINT_BYTES)
        )
        return cls(
            tuple(
                decode_point(part, name=f"commitment of row {index}")
                for index, part in enumerate(parts)
            )
        )


class Opening:
    """Rows of numbers with what blinds their commitments: secret, and never pickled."""

    __slots__ = ("blindings", "commitments", "rows")

    def __init__(
        self, rows: NDArray[np.int64], blindings: Sequence[int], commitments: Commitments
    ) -> None:
        self.rows = rows
        self.blindings = tuple(blindings)
        self.commitments = commitments

    def __repr__(self) -> str:
        return f"Opening(row_count={len(self.blindings)})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an opening holds secrets and cannot be pickled")

    def numbers(self, row_count: int) -> list[mpz]:
        """Return all numbers in one list, filled with zeros up to some rows."""
        missing = row_count * self.rows.shape[1] - self.rows.size
        return [*map(mpz, self.rows.ravel().tolist()), *[mpz(0)] * missing]

    def combined(self, weights: Sequence[mpz]) -> tuple[list[mpz], mpz]:
        """Return the sum of the rows, each times its weight, and that of the blindings."""
        return weighted_sum_of_rows(weights, self.rows), dot(weights, self.blindings)


def row_length_for(length: int) -> int:
    """Return how long the rows of a vector of some length are, the same for all who commit to it.

    Making the generators and their table takes 0.9 ms a column, once; more rows than about forty
    take longer each time.

    Args:
        length: numbers in the vector, > 0.
    """
    wanted = -(-length // _ROWS_OF_SHORT)
    return min(max(1 << (wanted - 1).bit_length(), _ROW_LENGTH_MIN), ROW_LENGTH)


class PedersenRows:
    """The generators for rows of one length, and what makes commitments with them quick.

    Making one hashes a generator for each column (0.2 s for 1024); the table of their multiples is
    built on first use, which takes about 0.5 s and 40 MB. Make one and keep it.
    """

    __slots__ = ("_table", "digest", "generators", "row_length")

    def __init__(self, row_length: int = ROW_LENGTH) -> None:
        """Hash the generators.

        Args:
            row_length: numbers in a row, a power of two from 16 to 1024.

        Raises:
            ValueError: the length is none of these.
        """
        if not _ROW_LENGTH_MIN <= row_length <= ROW_LENGTH or row_length.bit_count() != 1:
            raise ValueError(
                f"row_length must be a power of two from {_ROW_LENGTH_MIN} to {ROW_LENGTH}, "
                f"got {row_length}"
            )
        self.row_length = row_length
        self.generators = tuple(map(_generator, range(row_length)))
        encoded = b"".join(map(encode_point, self.generators))
        self.digest = hashlib.sha256(encoded).digest()
        self._table: DigitTable | None = None

    def row_count(self, length: int) -> int:
        """Return how many rows a vector of some length takes."""
        return -(-length // self.row_length)

    def commit(self, values: NDArray[np.int64]) -> Opening:
        """Commit to a vector under fresh blindings.

        Args:
            values: shape (n,) with n > 0, each of absolute value below 2^45; zeros fill the last
                row.

        Raises:
            ValueError: the vector is empty, not flat, or of other numbers.
        """
        return self.commit_rows(self.laid_out(values), draw_scalar)

    def commit_rows(self, rows: NDArray[np.int64], draw: Draw) -> Opening:
        """Commit to rows of at most `row_length` numbers, under blindings that are drawn."""
        blindings = [draw() for _ in rows]
        points = map(self._point, map(digits_of_integers, rows), blindings)
        return Opening(rows, blindings, Commitments(tuple(map(certain, points))))

    def laid_out(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return a vector as rows, the last one filled with zeros: shape (rows, row_length).

        Raises:
            ValueError: the vector is empty, not flat, or not of integers below 2^45.
        """
        if values.ndim != 1 or values.size == 0 or not np.issubdtype(values.dtype, np.integer):
            raise ValueError(
                f"values must be a flat array of integers, not empty, got shape {values.shape} of "
                f"{values.dtype}"
            )
        if max(-int(values.min()), int(values.max())) >= 1 << VALUE_BITS_MAX:
            raise ValueError(f"values must be below 2^{VALUE_BITS_MAX}, got a larger one")
        rows = np.zeros((self.row_count(values.size), self.row_length), np.int64)
        rows.reshape(-1)[: values.size] = values
        return rows

    def point_of(self, numbers: Sequence[mpz], blinding: int) -> Point | None:
        """Return the commitment to at most a row of scalars under a given blinding."""
        return self._point(digits_of_scalars(numbers), blinding)

    def _point(self, digits: NDArray[np.int16], blinding: int) -> Point | None:
        return add([self._built_table().combine(digits), base_multiple(blinding)])

    def _built_table(self) -> DigitTable:
        if self._table is None:
            self._table = DigitTable(self.generators)
        return self._table


def _generator(index: int) -> Point:
    message = b"generator " + index.to_bytes(4, "big")
    return Point(hash_to_curve(message, _GENERATOR_DST))
