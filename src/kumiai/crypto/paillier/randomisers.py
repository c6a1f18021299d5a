"""Randomisers: the random n-th residues modulo n^2 that hide plaintexts, each used once.

Three ways to draw one, from the slowest with the least assumptions to the fastest:

* ``FULL``: r^n for a uniform r (Paillier 1999). Nothing but his assumption.
* ``HALF``: (h^n)^a with a random exponent a of half the length of n, by a table of powers
  (Damgard, Jurik, Nielsen 2010, section 4.2; half the length is enough by Goldreich and Rosen 2003
  if factoring is hard). The base h = -x^2 is drawn anew by each one who encrypts, so keys stay what
  they are everywhere, one number, and nobody can plant a base of small order.
* ``SHORT``: the same with 256 bits. It assumes, beyond that, that exponents that short can not be
  told from long ones, as many schemes on discrete logarithms do; 256 bits leave 128 bits of
  security against Pollard's kangaroos.

Who holds the primes works modulo p^2 and q^2 apart, on numbers half as long, and with exponents
uniform modulo p - 1 and q - 1: there ``HALF`` needs no assumption about exponents.

Which entry of a table is read depends on the exponent, so a neighbour on the same processor that
watches its caches might learn of it; do not encrypt on a host that is shared with strangers.
"""

import secrets
from enum import StrEnum
from functools import lru_cache
from typing import NoReturn, Protocol

import gmpy2

from kumiai.core.errors import CryptoError
from kumiai.crypto.paillier.keys import PaillierPrivateKey, PaillierPublicKey

__all__ = [
    "Exponents",
    "FixedBase",
    "RandomiserSource",
    "draw_many",
    "new_key_holder_source",
    "new_source",
    "verify_exponents",
]

_SHORT_BITS = 256


class Exponents(StrEnum):
    """How randomisers are drawn; see the module."""

    FULL = "full"
    HALF = "half"
    SHORT = "short"


class RandomiserSource(Protocol):
    """Where encryption gets its randomness."""

    def draw(self) -> int:
        """Return a random n-th residue modulo n^2 that nobody else gets."""
        ...


class FixedBase:
    """Powers of one base: a table, so that each power costs one multiplication per byte.

    Args:
        base: what is raised.
        modulus: the modulus.
        exponent_bits: the longest exponent. The table holds 32 numbers per bit of it.
    """

    __slots__ = ("_modulus", "_rows")

    def __init__(self, base: int, modulus: int, exponent_bits: int) -> None:
        self._modulus = modulus
        self._rows: list[list[int]] = []
        step: int = gmpy2.mpz(base)
        for _ in range((exponent_bits + 7) // 8):
            row: list[int] = [gmpy2.mpz(1)]
            for _ in range(255):
                row.append(row[-1] * step % modulus)
            self._rows.append(row)
            step = row[-1] * step % modulus

    def power(self, exponent: int) -> int:
        """Return base^exponent.

        Raises:
            OverflowError: the exponent is negative or longer than the table.
        """
        modulus = self._modulus
        result: int = gmpy2.mpz(1)
        digits = int(exponent).to_bytes(len(self._rows), "little")
        for row, digit in zip(self._rows, digits, strict=True):
            result = result * row[digit] % modulus
        return result


class _FullWidth:
    """r^n for a uniform r."""

    def __init__(self, public_key: PaillierPublicKey) -> None:
        self._n = public_key.n

    def draw(self) -> int:
        return self._draw_with(1 + secrets.randbelow(self._n - 1))

    def _draw_with(self, unit: int) -> int:
        residue: int = gmpy2.powmod(unit, self._n, self._n * self._n)
        return residue


class _Tabled:
    """Powers of an own h^n with exponents of a fixed length."""

    def __init__(self, public_key: PaillierPublicKey, exponent_bits: int, unit: int) -> None:
        n = public_key.n
        base = gmpy2.powmod(-unit * unit, n, n * n)
        self._exponent_bits = exponent_bits
        self._table = FixedBase(base, gmpy2.mpz(n) * n, exponent_bits)

    def draw(self) -> int:
        return self._table.power(secrets.randbits(self._exponent_bits))


class _Halves:
    """Joins what the holder of the primes computed modulo p^2 and modulo q^2."""

    def __init__(self, private_key: PaillierPrivateKey) -> None:
        self.p, self.q = (gmpy2.mpz(prime) for prime in private_key.primes)
        self.p_squared, self.q_squared = self.p * self.p, self.q * self.q
        self._inverse = gmpy2.invert(self.p_squared, self.q_squared)

    def __reduce__(self) -> NoReturn:
        raise TypeError("what draws by the primes cannot be pickled")

    def join(self, left: int, right: int) -> int:
        difference = (right - left) * self._inverse % self.q_squared
        joined: int = left + self.p_squared * difference
        return joined

    def new_residues(self) -> tuple[int, int]:
        # x -> x^q permutes the p-th residues modulo p^2, since q and p - 1 share no factor, so
        # x^p is as random as x^n and costs half; the exponents are secret.
        units = (1 + secrets.randbelow(int(self.p) - 1), 1 + secrets.randbelow(int(self.q) - 1))
        left: int = gmpy2.powmod_sec(units[0], self.p, self.p_squared)
        right: int = gmpy2.powmod_sec(units[1], self.q, self.q_squared)
        return left, right


class _FullWidthOfHolder:
    """A uniform n-th residue, by Chinese remainders."""

    def __init__(self, private_key: PaillierPrivateKey) -> None:
        self._halves = _Halves(private_key)

    def draw(self) -> int:
        return self._halves.join(*self._halves.new_residues())


class _TabledOfHolder:
    """Powers of own bases modulo p^2 and q^2, with independent exponents."""

    def __init__(self, private_key: PaillierPrivateKey, exponent_bits: int | None) -> None:
        self._halves = halves = _Halves(private_key)
        left, right = halves.new_residues()
        if exponent_bits is None:
            exponent_bits = halves.p.bit_length()
            self._limits = int(halves.p) - 1, int(halves.q) - 1
        else:
            self._limits = 1 << exponent_bits, 1 << exponent_bits
        self._left = FixedBase(left, halves.p_squared, exponent_bits)
        self._right = FixedBase(right, halves.q_squared, exponent_bits)

    def draw(self) -> int:
        left = self._left.power(secrets.randbelow(self._limits[0]))
        return self._halves.join(left, self._right.power(secrets.randbelow(self._limits[1])))


def verify_exponents(public_key: PaillierPublicKey, exponents: Exponents) -> None:
    """Refuse a way to draw that is not sound with a key.

    Raises:
        CryptoError: the key is not known to be a Blum key, and only ``FULL`` is sound with it.
    """
    if exponents is not Exponents.FULL and not public_key.is_blum:
        raise CryptoError(
            f"exponents must be 'full' for key {public_key.short_name}, which is not known to be a "
            f"Blum key, got {exponents.value!r}"
        )


def new_source(public_key: PaillierPublicKey, exponents: Exponents) -> RandomiserSource:
    """Return what draws randomisers for one who has only the public key.

    Raises:
        CryptoError: the key is not known to be a Blum key, and only ``FULL`` is sound with it.
    """
    verify_exponents(public_key, exponents)
    if exponents is Exponents.FULL:
        return _FullWidth(public_key)
    bits = _SHORT_BITS if exponents is Exponents.SHORT else (public_key.key_size + 1) // 2
    return _Tabled(public_key, bits, 1 + secrets.randbelow(public_key.n - 1))


def new_key_holder_source(
    private_key: PaillierPrivateKey, exponents: Exponents
) -> RandomiserSource:
    """Return what draws randomisers for one who has the private key: faster, for any key."""
    if exponents is Exponents.FULL:
        return _FullWidthOfHolder(private_key)
    return _TabledOfHolder(private_key, _SHORT_BITS if exponents is Exponents.SHORT else None)


def draw_many(public_key: PaillierPublicKey, exponents: Exponents, count: int) -> list[int]:
    """Return fresh randomisers; for workers, who keep the table of the last keys they met."""
    verify_exponents(public_key, exponents)
    source = _kept_source(public_key, exponents)
    return [source.draw() for _ in range(count)]


# A table is read only, and exponents are drawn anew each time: a fork may share it.
@lru_cache(maxsize=2)
def _kept_source(public_key: PaillierPublicKey, exponents: Exponents) -> RandomiserSource:
    return new_source(public_key, exponents)
