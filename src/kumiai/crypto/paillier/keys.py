"""Keys: the modulus that encrypts and adds, and the two primes that decrypt.

Encryption is c = (1 + n)^m * r mod n^2 with a random n-th residue r (``randomisers``), so m is
hidden by r alone. What leaves a private key is a number modulo n; its powers are computed without
branches that depend on the primes, since a coordinator that picks ciphertexts could measure them.

Source: Paillier 1999, scheme 1 and section 7; generator 1 + n as Damgard and Jurik 2001.
"""

import hashlib
from collections.abc import Iterable
from typing import ClassVar, NoReturn, Self

import gmpy2

from kumiai.core.errors import CryptoError
from kumiai.crypto.paillier.primes import (
    KEY_SIZE_MIN,
    new_blum_primes,
    verify_key_size,
    verify_modulus,
    verify_primes,
)

__all__ = ["PaillierPrivateKey", "PaillierPublicKey"]

_FINGERPRINT_LABEL = b"kumiai/paillier/key-fingerprint/v1\0"


class PaillierPublicKey:
    """What encrypts and adds, and can not read.

    Args:
        n: the modulus; judged here, see ``primes``.
        is_blum: whether its owner says that both primes are 3 mod 4 and otherwise independent,
            which encryption with half-length exponents needs. ``PaillierPrivateKey.generate``
            makes such keys; of a key from elsewhere it is not known.

    Raises:
        CryptoError: the modulus is of a wrong length or can not be one of two large primes.
    """

    __slots__ = ("_fingerprint", "_is_blum", "_n", "_n_squared")

    _key_size_min: ClassVar[int] = KEY_SIZE_MIN

    def __init__(self, n: int, *, is_blum: bool = False) -> None:
        verify_key_size(n.bit_length(), self._key_size_min)
        verify_modulus(n)
        self._n: int = gmpy2.mpz(n)
        self._n_squared: int = self._n * self._n
        self._is_blum = is_blum
        width = (n.bit_length() + 7) // 8
        data = int(n).to_bytes(width, "big")
        self._fingerprint = hashlib.sha256(_FINGERPRINT_LABEL + data).digest()

    @property
    def n(self) -> int:
        """The modulus."""
        return int(self._n)

    @property
    def is_blum(self) -> bool:
        """Whether half-length exponents are sound with this key."""
        return self._is_blum

    @property
    def key_size(self) -> int:
        """The length of the modulus in bits."""
        return self._n.bit_length()

    @property
    def fingerprint(self) -> bytes:
        """32 bytes that stand for this modulus; compare them over another channel."""
        return self._fingerprint

    @property
    def ciphertext_size(self) -> int:
        """The length of one ciphertext in bytes."""
        return (2 * self.key_size + 7) // 8

    @property
    def plaintext_max(self) -> int:
        """The largest magnitude of a signed plaintext: n/3, as in ``phe``.

        The third in the middle stays empty, so that many overflows are seen.
        """
        return int(self._n // 3 - 1)

    def raw_encrypt(self, plaintext: int, randomiser: int) -> int:
        """Return (1 + n)^plaintext * randomiser mod n^2; negative plaintexts count from n down.

        Args:
            plaintext: modulo n.
            randomiser: an n-th residue that is used this once; 1 hides nothing.
        """
        return (1 + self._n * (plaintext % self._n)) * randomiser % self._n_squared

    def raw_add(self, left: int, right: int) -> int:
        """Return a ciphertext of the sum of two plaintexts."""
        return left * right % self._n_squared

    def raw_multiply(self, ciphertext: int, scalar: int) -> int:
        """Return a ciphertext of a plaintext times a scalar that is no secret."""
        product: int = gmpy2.powmod(ciphertext, scalar, self._n_squared)
        return product

    def verify_ciphertexts(self, ciphertexts: Iterable[int]) -> None:
        """Refuse what is no ciphertext under this key.

        Raises:
            CryptoError: a number is outside 1..n^2-1 or shares a factor with n.
        """
        product: int = gmpy2.mpz(1)
        for index, ciphertext in enumerate(ciphertexts):
            if not 0 < ciphertext < self._n_squared:
                raise CryptoError(f"ciphertext {index} must be from 1 to n^2 - 1")
            # One gcd for all: the product shares a factor if any of them does.
            product = product * ciphertext % self._n
        if gmpy2.gcd(product, self._n) != 1:
            raise CryptoError(
                "ciphertexts must share no factor with n; they were damaged or forged"
            )

    def verify_same(self, other: "PaillierPublicKey") -> None:
        """Refuse another key.

        Raises:
            CryptoError: the moduli differ.
        """
        if self != other:
            raise CryptoError(
                f"ciphertext must be of key {self.short_name}, got one of {other.short_name}"
            )

    @property
    def short_name(self) -> str:
        """The first eight digits of the fingerprint, for messages."""
        return self._fingerprint.hex()[:8]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PaillierPublicKey) and self._n == other._n

    def __hash__(self) -> int:
        return hash(self._fingerprint)

    def __repr__(self) -> str:
        return f"<PaillierPublicKey {self.short_name}, {self.key_size} bits>"


class PaillierPrivateKey:
    """What decrypts. It has no repr of its numbers and refuses pickle.

    Args:
        p: one prime; judged here, see ``primes``.
        q: the other, of the same length.

    Raises:
        CryptoError: they make no sound key, see ``primes.verify_primes``.
    """

    __slots__ = (
        "_h_p",
        "_h_q",
        "_p",
        "_p_inverse",
        "_p_squared",
        "_public_key",
        "_q",
        "_q_squared",
    )

    _public_key_class: ClassVar[type[PaillierPublicKey]] = PaillierPublicKey

    @classmethod
    def generate(cls, key_size: int = 2048) -> Self:
        """Draw a new key of ``key_size`` bits, fit for half-length exponents.

        Raises:
            CryptoError: ``key_size`` is odd, too short or too long.
        """
        verify_key_size(key_size, KEY_SIZE_MIN)
        return cls(*new_blum_primes(key_size))

    def __init__(self, p: int, q: int) -> None:
        verify_primes(p, q)
        self._public_key = self._public_key_class(p * q, is_blum=_is_blum(p, q))
        self._p: int = gmpy2.mpz(p)
        self._q: int = gmpy2.mpz(q)
        self._p_squared: int = self._p * self._p
        self._q_squared: int = self._q * self._q
        # (1 + n)^(p-1) = 1 + (p-1)n mod p^2, so Paillier's h is the inverse of -q mod p.
        self._h_p: int = gmpy2.invert(-self._q, self._p)
        self._h_q: int = gmpy2.invert(-self._p, self._q)
        self._p_inverse: int = gmpy2.invert(self._p, self._q)

    @property
    def public_key(self) -> PaillierPublicKey:
        """The key that may be told."""
        return self._public_key

    @property
    def primes(self) -> tuple[int, int]:
        """Both primes: whoever has them reads everything."""
        return int(self._p), int(self._q)

    def raw_decrypt(self, ciphertext: int) -> int:
        """Return the plaintext as a number from 0 to n - 1.

        Raises:
            CryptoError: the number is no ciphertext under this key.

        Source: Paillier 1999, section 7, decryption by Chinese remainders.
        """
        self._public_key.verify_ciphertexts([ciphertext])
        power_p: int = gmpy2.powmod_sec(ciphertext % self._p_squared, self._p - 1, self._p_squared)
        power_q: int = gmpy2.powmod_sec(ciphertext % self._q_squared, self._q - 1, self._q_squared)
        m_p = (power_p - 1) // self._p * self._h_p % self._p
        m_q = (power_q - 1) // self._q * self._h_q % self._q
        return m_p + self._p * ((m_q - m_p) * self._p_inverse % self._q)

    def __repr__(self) -> str:
        return f"<PaillierPrivateKey of {self._public_key!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a PaillierPrivateKey cannot be pickled; use private_key_to_bytes")


def _is_blum(p: int, q: int) -> bool:
    return p % 4 == 3 and q % 4 == 3 and gmpy2.gcd(p - 1, q - 1) == 2
