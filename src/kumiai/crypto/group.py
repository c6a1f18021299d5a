"""The group in which we commit: secp256k1, by libsecp256k1 through coincurve's public interface.

Its order is prime and it has no cofactor, so that every point which parses is in the group. The
neutral element has no encoding: here it is ``None``, and no bytes from outside can stand for it.

Additions come in batches, because libsecp256k1 then normalises once for all of them. Multiplying
takes a time that depends on the scalar, except in `base_multiple`, which is what blinds.
"""

import secrets
from collections.abc import Callable, Iterable, Sequence
from operator import mul
from typing import Final

from coincurve import PublicKey
from gmpy2 import mpz

from kumiai.core.errors import ProofError

__all__ = [
    "ORDER",
    "POINT_BYTES",
    "SCALAR_BYTES",
    "Draw",
    "Point",
    "add",
    "base_multiple",
    "certain",
    "decode_point",
    "decode_scalar",
    "dot",
    "draw_scalar",
    "encode_point",
    "encode_scalar",
    "multiply",
    "multiply_many",
    "negate",
    "same",
]

ORDER: Final = mpz(0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141)
POINT_BYTES: Final = 33
SCALAR_BYTES: Final = 32
_FIELD_PRIME: Final = 2**256 - 2**32 - 977

Point = PublicKey
"""A point that is not the neutral element."""
Draw = Callable[[], int]
"""Gives a fresh uniform scalar each time: `draw_scalar`, or known answers in a test."""


def draw_scalar() -> int:
    """Draw a uniform scalar in [0, ORDER)."""
    return secrets.randbelow(int(ORDER))


def dot(left: Sequence[mpz], right: Sequence[mpz]) -> mpz:
    """Return the sum of the products of scalars, reduced.

    Raises:
        ValueError: there are not as many of the one as of the other.
    """
    if len(left) != len(right):
        raise ValueError(f"scalars must be as many on both sides, got {len(left)}, {len(right)}")
    return sum(map(mul, left, right), mpz(0)) % ORDER


def add(points: Iterable[Point | None]) -> Point | None:
    """Return the sum of any number of points."""
    present = [point for point in points if point is not None]
    if not present:
        return None
    try:
        return PublicKey.combine_keys(present)
    except ValueError:  # the one sum that the library refuses is the neutral element
        return None


def negate(point: Point | None) -> Point | None:
    """Return the point whose sum with the given one is the neutral element."""
    if point is None:
        return None
    x, y = point.point()
    return PublicKey.from_point(x, _FIELD_PRIME - y)


def same(left: Point | None, right: Point | None) -> bool:
    """Return whether two points are one, the neutral element included."""
    if left is None or right is None:
        return left is right
    return left.format() == right.format()


def multiply(point: Point | None, scalar: int) -> Point | None:
    """Return a multiple of a point; the time it takes tells about the scalar."""
    reduced = scalar % ORDER
    if point is None or reduced == 0:
        return None
    return point.multiply(encode_scalar(reduced))


def multiply_many(points: Sequence[Point | None], scalars: Sequence[int]) -> Point | None:
    """Return the sum of the points, each multiplied by its scalar.

    Raises:
        ValueError: there are not as many scalars as points.
    """
    if len(points) != len(scalars):
        raise ValueError(f"scalars must be {len(points)}, one a point, got {len(scalars)}")
    return add(map(multiply, points, scalars))


def base_multiple(scalar: int) -> Point | None:
    """Return a multiple of the standard generator, in constant time: for secret scalars."""
    reduced = scalar % ORDER
    return PublicKey.from_valid_secret(encode_scalar(reduced)) if reduced else None


def certain(point: Point | None) -> Point:
    """Return a commitment, which is the neutral element but with probability 2^-256.

    Raises:
        ProofError: it is; whoever begins again with new randomness gets another one.
    """
    if point is None:
        raise ProofError("commitment must not be the neutral element; commit again")
    return point


def encode_point(point: Point | None) -> bytes:
    """Return the 33 bytes of a point, compressed.

    Raises:
        ValueError: the point is the neutral element, which has no encoding.
    """
    if point is None:
        raise ValueError("point must not be the neutral element, which has no encoding")
    return point.format()


def decode_point(content: bytes, *, name: str) -> Point:
    """Return the point of 33 bytes from outside.

    Args:
        content: what `encode_point` gives; the longer forms of the standard are refused.
        name: what the point is, for the error.

    Raises:
        ProofError: the bytes are not those of a point on the curve.
    """
    if len(content) != POINT_BYTES:
        raise ProofError(f"{name} must have {POINT_BYTES} bytes, got {len(content)}")
    try:
        return PublicKey(bytes(content))
    except ValueError:
        raise ProofError(f"{name} must be a compressed point on secp256k1") from None


def encode_scalar(scalar: int) -> bytes:
    """Return the 32 bytes of a scalar in [0, ORDER), the most significant first."""
    return int(scalar).to_bytes(SCALAR_BYTES, "big")


def decode_scalar(content: bytes, *, name: str) -> mpz:
    """Return the scalar of 32 bytes from outside.

    Raises:
        ProofError: there are not 32 bytes, or their number is not below the group's order.
    """
    if len(content) != SCALAR_BYTES:
        raise ProofError(f"{name} must have {SCALAR_BYTES} bytes, got {len(content)}")
    scalar = mpz(int.from_bytes(content, "big"))
    if scalar >= ORDER:
        raise ProofError(f"{name} must be below the order of the group")
    return scalar
