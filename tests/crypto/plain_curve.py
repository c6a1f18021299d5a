"""secp256k1 by the formulas of the textbook: slow, and another way to the same points.

A point is a pair of coordinates; the neutral element is `None`.
"""

from kumiai.crypto.group import Point

__all__ = ["BASE", "ORDER", "PRIME", "Affine", "affine", "plain_add", "plain_multiply"]

PRIME = 2**256 - 2**32 - 977
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
BASE = (
    0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
    0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
)

Affine = tuple[int, int] | None


def plain_add(left: Affine, right: Affine) -> Affine:
    if left is None or right is None:
        return left or right
    if left[0] == right[0] and (left[1] + right[1]) % PRIME == 0:
        return None
    if left == right:
        slope = 3 * left[0] ** 2 * pow(2 * left[1], -1, PRIME)
    else:
        slope = (right[1] - left[1]) * pow(right[0] - left[0], -1, PRIME)
    x = (slope * slope - left[0] - right[0]) % PRIME
    return x, (slope * (left[0] - x) - left[1]) % PRIME


def plain_multiply(point: Affine, scalar: int) -> Affine:
    total: Affine = None
    for bit in f"{scalar % ORDER:b}":
        total = plain_add(total, total)
        total = plain_add(total, point) if bit == "1" else total
    return total


def affine(point: Point | None) -> Affine:
    return None if point is None else point.point()
