"""Primes and moduli: how they are drawn, and what is asked of those that others bring.

A modulus that is prime, a power, or has a small factor gives every secret away (CVE-2023-33241 is
of this kind), so each key is judged before its first use. What can not be seen from the modulus
alone is whether its owner drew it well; but the owner reads every ciphertext in any case.
"""

import math
import secrets
from functools import cache

import gmpy2
import numpy as np
from numpy.typing import NDArray

from kumiai.core.errors import CryptoError

__all__ = [
    "KEY_SIZE_MAX",
    "KEY_SIZE_MIN",
    "new_blum_primes",
    "new_safe_primes",
    "verify_key_size",
    "verify_modulus",
    "verify_primes",
]

KEY_SIZE_MIN = 2048
"""Bits; 2048 is worth 112 bits of security, 3072 is worth 128 (NIST SP 800-57, table 2)."""
KEY_SIZE_MAX = 8192
_SMALL_FACTOR_BITS = 20
_PRIME_ROUNDS = 40  # a composite passes with a chance below 4^-40
_SIEVE_COUNT = 1 << 16
_PRIMES_APART_BITS = 100  # FIPS 186-5, A.1.3: |p - q| > 2^(half - 100)


def verify_key_size(key_size: int, least: int) -> None:
    """Refuse a length of a modulus, in bits, that is odd, or not from ``least`` to the longest.

    Raises:
        CryptoError: it is.
    """
    if not least <= key_size <= KEY_SIZE_MAX or key_size % 2:
        raise CryptoError(
            f"key_size must be even and from {least} to {KEY_SIZE_MAX} bits, got {key_size}"
        )


def new_blum_primes(key_size: int) -> tuple[int, int]:
    """Draw two primes whose product is a Blum modulus of exactly ``key_size`` bits.

    Both are 3 mod 4, and p - 1 and q - 1 share no factor but 2.

    Source: Damgard, Jurik, Nielsen 2010, section 4.2.
    """
    while True:
        p, q = _new_blum_prime(key_size // 2), _new_blum_prime(key_size // 2)
        if math.gcd(int(p) - 1, int(q) - 1) == 2 and _far_apart(p, q):
            return p, q


def new_safe_primes(key_size: int) -> tuple[int, int]:
    """Draw two primes p = 2p' + 1, q = 2q' + 1 with p' and q' prime, as threshold keys need.

    Their product is a Blum modulus of exactly ``key_size`` bits. Takes seconds: such primes are
    rare.

    Source: Damgard, Jurik 2001, section 4.1.
    """
    while True:
        p, q = _new_safe_prime(key_size // 2), _new_safe_prime(key_size // 2)
        if _far_apart(p, q):
            return p, q


def verify_modulus(n: int) -> None:
    """Refuse a modulus that is certainly none of two large primes.

    Raises:
        CryptoError: it is even, prime, a power, or has a factor below 2^20.
    """
    if n < 2 or n % 2 == 0:
        raise CryptoError("modulus must be odd and positive; ask its owner for another key")
    if gmpy2.is_power(n):
        raise CryptoError("modulus must be no square or other power; ask for another key")
    if gmpy2.gcd(_small_primes_product() % n, n) != 1:
        raise CryptoError(
            f"modulus must have no factor below 2^{_SMALL_FACTOR_BITS}; ask for another key"
        )
    if gmpy2.is_prime(n):
        raise CryptoError("modulus must be no prime; ask its owner for another key")


def verify_primes(p: int, q: int) -> None:
    """Refuse factors that make no sound key.

    Of the same length, none divides the other's predecessor, so that n = pq shares no factor with
    (p - 1)(q - 1) and every ciphertext has one plaintext (Paillier 1999, section 3).

    Raises:
        CryptoError: they are equal, close, of different length or not prime.
    """
    if p == q:
        raise CryptoError("p and q must differ; make another key")
    if p.bit_length() != q.bit_length():
        raise CryptoError("p and q must have the same length; make another key")
    if not _far_apart(p, q):
        raise CryptoError("p and q must be far apart; make another key")
    if not _both_prime(p, q):
        raise CryptoError("p and q must be prime; make another key")


def _new_blum_prime(bits: int) -> int:
    while True:
        # The two top bits make every product of two exactly twice as long.
        candidate: int = gmpy2.mpz(secrets.randbits(bits) | 3 << (bits - 2) | 3)
        if gmpy2.is_prime(candidate, _PRIME_ROUNDS):
            return candidate


def _new_safe_prime(bits: int) -> int:
    while True:
        start = gmpy2.mpz(secrets.randbits(bits - 1) | 3 << (bits - 3) | 1)
        for offset in _unsieved(start):
            half: int = start + 2 * int(offset)
            # One quick test of each first: nearly all fail there.
            if not (gmpy2.is_strong_prp(half, 2) and gmpy2.is_strong_prp(2 * half + 1, 2)):
                continue
            prime = 2 * half + 1
            if prime.bit_length() == bits and _both_prime(half, prime):
                return prime


def _unsieved(start: int) -> NDArray[np.intp]:
    """Return k such that neither h = start + 2k nor 2h + 1 has a small factor; start is odd."""
    sieve = np.ones(_SIEVE_COUNT, dtype=np.bool_)
    for prime in _sieve_primes():
        inverse_of_2, rest = (prime + 1) // 2, int(start % prime)
        sieve[-rest * inverse_of_2 % prime :: prime] = False
        sieve[(prime // 2 - rest) * inverse_of_2 % prime :: prime] = False
    return np.flatnonzero(sieve)


@cache
def _sieve_primes() -> tuple[int, ...]:
    return tuple(n for n in range(3, 1 << 15, 2) if gmpy2.is_prime(n))


def _both_prime(p: int, q: int) -> bool:
    return bool(gmpy2.is_prime(p, _PRIME_ROUNDS) and gmpy2.is_prime(q, _PRIME_ROUNDS))


def _far_apart(p: int, q: int) -> bool:
    return abs(p - q).bit_length() > p.bit_length() - _PRIMES_APART_BITS


@cache
def _small_primes_product() -> int:
    product: int = gmpy2.primorial(1 << _SMALL_FACTOR_BITS)
    return product
