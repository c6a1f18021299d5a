"""Points of secp256k1 out of any bytes, whose discrete logarithms nobody knows.

The suite ``secp256k1_XMD:SHA-256_SSWU_RO_`` of RFC 9380, for generators that everybody can make
again. What is hashed is public: nothing here takes constant time.

Source: RFC 9380, sections 5 to 8; section 8.7 and appendix E.1 for the numbers of this curve.
"""

import hashlib
from collections.abc import Sequence
from typing import Final, TypeAlias

from kumiai.crypto.fields import PrimeField

__all__ = ["DST_SIZE_BYTES_MAX", "DST_SIZE_BYTES_MIN", "POINT_SIZE_BYTES", "hash_to_curve"]

POINT_SIZE_BYTES: Final = 33
DST_SIZE_BYTES_MIN: Final = 16
DST_SIZE_BYTES_MAX: Final = 255

_PRIME: Final = 2**256 - 2**32 - 977
_FIELD: Final = PrimeField(_PRIME)
_ELEMENT_HASH_SIZE_BYTES: Final = 48
_HASH_SIZE_BYTES: Final = 32
_HASH_BLOCK_SIZE_BYTES: Final = 64

# The curve y^2 = x^3 + A x + B, from which an isogeny leads to secp256k1, and its non-square Z.
_A: Final = 0x3F8731ABDD661ADCA08A5558F0F5D272E953D363CB6F0E5D405447C01A444533
_B: Final = 1771
_Z: Final = -11

# The isogeny's polynomials, the constant term first.
_X_NUMERATOR: Final = (
    0x8E38E38E38E38E38E38E38E38E38E38E38E38E38E38E38E38E38E38DAAAAA8C7,
    0x07D3D4C80BC321D5B9F315CEA7FD44C5D595D2FC0BF63B92DFFF1044F17C6581,
    0x534C328D23F234E6E2A413DECA25CAECE4506144037C40314ECBD0B53D9DD262,
    0x8E38E38E38E38E38E38E38E38E38E38E38E38E38E38E38E38E38E38DAAAAA88C,
)
_X_DENOMINATOR: Final = (
    0xD35771193D94918A9CA34CCBB7B640DD86CD409542F8487D9FE6B745781EB49B,
    0xEDADC6F64383DC1DF7C4B2D51B54225406D36B641F5E41BBC52A56612A8C6D14,
    1,
)
_Y_NUMERATOR: Final = (
    0x4BDA12F684BDA12F684BDA12F684BDA12F684BDA12F684BDA12F684B8E38E23C,
    0xC75E0C32D5CB7C0FA9D0A54B12A0A6D5647AB046D686DA6FDFFC90FC201D71A3,
    0x29A6194691F91A73715209EF6512E576722830A201BE2018A765E85A9ECEE931,
    0x2F684BDA12F684BDA12F684BDA12F684BDA12F684BDA12F684BDA12F38E38D84,
)
_Y_DENOMINATOR: Final = (
    0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEFFFFF93B,
    0x7A06534BB8BDB49FD5E9E6632722C2989467C1BFC8E8D978DFB425D2685C2573,
    0x6484AA716545CA2CF3A70C3FA8FE337E0A3D21162F0D6299A7BF8192BFD2A76F,
    1,
)

_Point: TypeAlias = tuple[int, int]


def hash_to_curve(message: bytes, dst: bytes) -> bytes:
    """Return a point of secp256k1 in compressed form, 33 bytes.

    Args:
        message: what to make a point of; of any length.
        dst: the domain separation tag, 16 to 255 bytes; one for each use.

    Raises:
        ValueError: ``dst`` is too short or too long.
    """
    if not DST_SIZE_BYTES_MIN <= len(dst) <= DST_SIZE_BYTES_MAX:
        raise ValueError(
            f"dst must be {DST_SIZE_BYTES_MIN} to {DST_SIZE_BYTES_MAX} bytes, got {len(dst)}"
        )
    first, second = _hash_to_field(message, dst)
    x, y = _add(_map_to_curve(first), _map_to_curve(second))
    return bytes([2 + y % 2]) + x.to_bytes(POINT_SIZE_BYTES - 1, "big")


def _hash_to_field(message: bytes, dst: bytes) -> tuple[int, int]:
    """Return two elements of the curve's field (RFC 9380, section 5.2)."""
    size = _ELEMENT_HASH_SIZE_BYTES
    expanded = _expand(message, dst, 2 * size)
    first, second = (int.from_bytes(part, "big") for part in (expanded[:size], expanded[size:]))
    return first % _PRIME, second % _PRIME


def _expand(message: bytes, dst: bytes, size_bytes: int) -> bytes:
    """Return uniform bytes, a multiple of 32 (RFC 9380, section 5.3.1, with SHA-256)."""
    tag = dst + bytes([len(dst)])
    padded = bytes(_HASH_BLOCK_SIZE_BYTES) + message + size_bytes.to_bytes(2, "big") + b"\0" + tag
    whole = hashlib.sha256(padded).digest()
    block = bytes(_HASH_SIZE_BYTES)
    blocks = []
    for count in range(1, size_bytes // _HASH_SIZE_BYTES + 1):
        mixed = (int.from_bytes(whole) ^ int.from_bytes(block)).to_bytes(_HASH_SIZE_BYTES)
        block = hashlib.sha256(mixed + bytes([count]) + tag).digest()
        blocks.append(block)
    return b"".join(blocks)


def _map_to_curve(element: int) -> _Point:
    """Return a point of secp256k1 (RFC 9380, sections 6.6.2 and 6.6.3).

    No denominator of the isogeny is ever zero: its kernel has order 3, and the curve it starts
    from has, like secp256k1, a prime number of points.
    """
    x, y = _simplified_swu(element)
    x_denominator, y_denominator = (
        _polynomial(each, x) for each in (_X_DENOMINATOR, _Y_DENOMINATOR)
    )
    x_inverse, y_inverse = _FIELD.inverses([x_denominator, y_denominator])
    return (
        _polynomial(_X_NUMERATOR, x) * x_inverse % _PRIME,
        y * _polynomial(_Y_NUMERATOR, x) * y_inverse % _PRIME,
    )


def _simplified_swu(element: int) -> _Point:
    """Return a point of the isogenous curve (RFC 9380, section 6.6.2)."""
    square = _Z * element * element % _PRIME
    rest = (square * square + square) % _PRIME
    if rest:
        x = -_B * (1 + _FIELD.inverse(rest)) * _FIELD.inverse(_A) % _PRIME
    else:
        x = _B * _FIELD.inverse(_Z * _A) % _PRIME
    right_side = _isogenous_right_side(x)
    y = _square_root(right_side)
    if y * y % _PRIME != right_side:  # then the other candidate is on the curve
        x = square * x % _PRIME
        y = _square_root(_isogenous_right_side(x))
    return x, y if y % 2 == element % 2 else _PRIME - y


def _isogenous_right_side(x: int) -> int:
    return (x * x * x + _A * x + _B) % _PRIME


def _square_root(element: int) -> int:
    """Return a root of a square, and anything for another element; the prime is 3 modulo 4."""
    return pow(element, _PRIME // 4 + 1, _PRIME)


def _polynomial(coefficients: Sequence[int], x: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % _PRIME
    return value


def _add(first: _Point, second: _Point) -> _Point:
    """Return the sum of two points with different x.

    That two halves of a hash lead to the same x has a probability of 2^-255; it ends in the
    ValueError of the inverse.
    """
    (x, y), (other_x, other_y) = first, second
    slope = (other_y - y) * _FIELD.inverse(other_x - x) % _PRIME
    sum_x = (slope * slope - x - other_x) % _PRIME
    return sum_x, (slope * (x - sum_x) - y) % _PRIME
