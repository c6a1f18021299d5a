"""Threshold keys: any t of m holders decrypt together, and fewer learn nothing.

A dealer makes the key, hands each holder one share and forgets the primes; holders never meet the
whole key, not even to decrypt. Each answers a request with a decryption share and a proof that it
used its key share, so a wrong answer is pinned on its author. A dealer that keeps the primes reads
everything: let it be somebody whom all clients trust for a moment, and never the coordinator.

Holders decrypt what they are shown: whether that is the sum of all or one client's vector is not to
be seen in a ciphertext.

Source: Damgard, Jurik 2001, section 4.1 (s = 1), after Shoup 2000. With delta = m!:

    d = 0 mod p'q', d = 1 mod n; key shares s_i = f(i) of a polynomial with f(0) = d mod n p'q'
    decryption shares c_i = c^(2 delta s_i); prod c_i^(2 lambda_i) = (1 + n)^(4 delta^2 plaintext)
"""

import math
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import gmpy2
from numpy.typing import NDArray

from kumiai.core.errors import CryptoError
from kumiai.crypto.paillier.decryption_proof import (
    DecryptionProof,
    DecryptionStatement,
    prove_decryption,
    verify_decryption,
)
from kumiai.crypto.paillier.keys import PaillierPublicKey
from kumiai.crypto.paillier.number import EncryptedNumber, join_limbs
from kumiai.crypto.paillier.primes import KEY_SIZE_MIN, new_safe_primes, verify_key_size
from kumiai.crypto.paillier.slots import values_of
from kumiai.crypto.paillier.vector import EncryptedVector

__all__ = [
    "DecryptionShare",
    "ThresholdKey",
    "ThresholdKeyShare",
    "deal_primes",
    "deal_threshold_key",
]

_SHARE_COUNT_MAX = 100  # more would make delta, and with it every exponentiation, long

Encrypted = EncryptedNumber | EncryptedVector


@dataclass(frozen=True, slots=True)
class DecryptionShare:
    """A holder's part in the decryption of something.

    Attributes:
        index: the holder's, from 1.
        values: one number for each ciphertext.
        proof: that they are right.
    """

    index: int
    values: tuple[int, ...]
    proof: DecryptionProof


@dataclass(frozen=True, slots=True)
class ThresholdKey:
    """What everybody knows of a shared key: encrypts like any other, and puts shares together.

    Attributes:
        public_key: what encrypts.
        threshold: how many holders decrypt together, from 2 to ``share_count``.
        share_count: how many holders there are.
        base: a random square modulo n^2, against which key shares are proved.
        verifiers: base^(delta s_i) for each holder, the first one first.

    Raises:
        CryptoError: a number is out of its range.
    """

    public_key: PaillierPublicKey
    threshold: int
    share_count: int
    base: int
    verifiers: tuple[int, ...]

    def __post_init__(self) -> None:
        _verify_counts(self.threshold, self.share_count)
        if len(self.verifiers) != self.share_count:
            raise CryptoError(f"verifiers must be {self.share_count}, got {len(self.verifiers)}")
        self.public_key.verify_ciphertexts([self.base, *self.verifiers])

    @property
    def delta(self) -> int:
        """The factorial of the number of holders."""
        return math.factorial(self.share_count)

    @property
    def secret_bits(self) -> int:
        """How long delta times a key share may be."""
        return 2 * self.public_key.key_size + self.delta.bit_length()

    def ciphertexts_of(self, encrypted: Encrypted) -> tuple[int, ...]:
        """Return what holders raise to their shares.

        Raises:
            CryptoError: it is of another key, or damaged.
        """
        self.public_key.verify_same(encrypted.public_key)
        if isinstance(encrypted, EncryptedNumber):
            ciphertexts = encrypted.limbs
        else:
            ciphertexts = encrypted.ciphertexts
        self.public_key.verify_ciphertexts(ciphertexts)
        return ciphertexts

    def statement(
        self, index: int, ciphertexts: tuple[int, ...], values: tuple[int, ...]
    ) -> DecryptionStatement:
        """Return what the holder of an index has to prove about judged ciphertexts and values."""
        verifier = self.verifiers[index - 1]
        return DecryptionStatement(
            self.public_key, self.secret_bits, index, self.base, verifier, ciphertexts, values
        )

    def verify_share(self, encrypted: Encrypted, share: DecryptionShare) -> None:
        """Refuse a decryption share that its author did not compute from its key share.

        Args:
            encrypted: what is decrypted.
            share: somebody's answer.

        Raises:
            CryptoError: the share does not belong to this, or is wrong; the message names its
                author's index.
        """
        ciphertexts = self.ciphertexts_of(encrypted)
        _verify_index(share.index, self)
        if len(share.values) != len(ciphertexts):
            raise CryptoError(
                f"decryption share {share.index} must have {len(ciphertexts)} values, "
                f"got {len(share.values)}"
            )
        self.public_key.verify_ciphertexts(share.values)
        verify_decryption(self.statement(share.index, ciphertexts, share.values), share.proof)

    def decrypt(self, number: EncryptedNumber, shares: Iterable[DecryptionShare]) -> int | float:
        """Return the number that enough holders decrypted together.

        Raises:
            CryptoError: there are too few shares, two of one holder, a wrong one, or the result
                has overflowed.
        """
        residues = self._joined(number, list(shares))
        return join_limbs(self.public_key, residues, number.fraction_bits)

    def decrypt_many(
        self, vector: EncryptedVector, shares: Iterable[DecryptionShare]
    ) -> NDArray[Any]:
        """Return the sums that enough holders decrypted together; see ``PaillierCrypto``.

        Raises:
            CryptoError: there are too few shares, two of one holder, a wrong one, or somebody put
                in more than a value.
        """
        residues = self._joined(vector, list(shares))
        return values_of(vector.layout, self.public_key, residues, vector.count)

    def _joined(self, encrypted: Encrypted, shares: list[DecryptionShare]) -> list[int]:
        used = shares[: self.threshold]
        indexes = [share.index for share in used]
        if len(set(indexes)) != self.threshold:
            raise CryptoError(
                f"shares must be of {self.threshold} different holders, got {len(set(indexes))}; "
                "ask more of them"
            )
        for share in used:
            self.verify_share(encrypted, share)
        n = gmpy2.mpz(self.public_key.n)
        weights = [2 * _weight_at_zero(self.delta, index, indexes) for index in indexes]
        inverse = gmpy2.invert(4 * self.delta**2, n)
        residues = []
        for values in zip(*(share.values for share in used), strict=True):
            power = gmpy2.mpz(1)
            for value, weight in zip(values, weights, strict=True):
                power = power * gmpy2.powmod(value, weight, n * n) % (n * n)
            residues.append((power - 1) // n * inverse % n)
        return residues


class ThresholdKeyShare:
    """One holder's share of a private key. It has no repr of it and refuses pickle.

    Args:
        key: the key that it is a share of.
        index: the holder's, from 1.
        value: the share.

    Raises:
        CryptoError: the share does not fit what the dealer published for this holder.
    """

    __slots__ = ("_exponent", "_value", "index", "key")

    def __init__(self, key: ThresholdKey, index: int, value: int) -> None:
        _verify_index(index, key)
        if not 0 < value < key.public_key.n**2:
            raise CryptoError(f"key share {index} must be from 1 to n^2 - 1")
        self.key = key
        self.index = index
        self._value = value
        self._exponent: int = gmpy2.mpz(key.delta * value)
        if self._power(key.base, self._exponent) != key.verifiers[index - 1]:
            raise CryptoError(
                f"key share {index} must fit what the dealer published; ask for it again"
            )

    @property
    def value(self) -> int:
        """The share itself: whoever has ``threshold`` of them reads everything."""
        return int(self._value)

    def decryption_share(self, encrypted: Encrypted) -> DecryptionShare:
        """Return this holder's part in decrypting something.

        Raises:
            CryptoError: it is of another key, or damaged.
        """
        ciphertexts = self.key.ciphertexts_of(encrypted)
        values = tuple(self._power(each, 2 * self._exponent) for each in ciphertexts)
        statement = self.key.statement(self.index, ciphertexts, values)
        return DecryptionShare(self.index, values, prove_decryption(statement, self._exponent))

    def __repr__(self) -> str:
        return f"<ThresholdKeyShare {self.index} of {self.key.public_key!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a ThresholdKeyShare cannot be pickled; use key_share_to_bytes")

    def _power(self, base: int, exponent: int) -> int:
        power: int = gmpy2.powmod_sec(base, exponent, gmpy2.mpz(self.key.public_key.n) ** 2)
        return power


def deal_threshold_key(
    key_size: int = 2048, *, threshold: int, share_count: int
) -> tuple[ThresholdKey, tuple[ThresholdKeyShare, ...]]:
    """Make a key that nobody has whole, and a share of it for each holder.

    Takes seconds at 2048 bits and ten times as long at 3072, for the primes.

    Args:
        key_size: in bits.
        threshold: how many holders decrypt together, from 2 to ``share_count``.
        share_count: how many holders there are, at most 100; more clients share the holders.

    Raises:
        CryptoError: an argument is out of its range.
    """
    verify_key_size(key_size, KEY_SIZE_MIN)
    _verify_counts(threshold, share_count)
    p, q = new_safe_primes(key_size)
    public_key = PaillierPublicKey(int(p * q), is_blum=True)
    return deal_primes(public_key, (p, q), threshold=threshold, share_count=share_count)


def deal_primes(
    public_key: PaillierPublicKey, primes: tuple[int, int], *, threshold: int, share_count: int
) -> tuple[ThresholdKey, tuple[ThresholdKeyShare, ...]]:
    """Deal a key out of its safe primes.

    Raises:
        CryptoError: the counts are out of their range.
    """
    _verify_counts(threshold, share_count)
    n = public_key.n
    order = math.prod(int(prime - 1) // 2 for prime in primes)
    exponent = order * pow(order, -1, n)  # 0 mod p'q', 1 mod n
    limit = n * order
    coefficients = [exponent, *(secrets.randbelow(limit) for _ in range(threshold - 1))]
    values = [_polynomial(coefficients, index, limit) for index in range(1, share_count + 1)]
    base = gmpy2.mpz(1 + secrets.randbelow(n * n - 1)) ** 2 % (n * n)
    delta = math.factorial(share_count)
    verifiers = tuple(gmpy2.powmod_sec(base, delta * value, n * n) for value in values)
    key = ThresholdKey(public_key, threshold, share_count, base, verifiers)
    shares = (ThresholdKeyShare(key, index, value) for index, value in enumerate(values, 1))
    return key, tuple(shares)


def _polynomial(coefficients: Sequence[int], x: int, modulus: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % modulus
    return value


def _weight_at_zero(delta: int, index: int, indexes: Sequence[int]) -> int:
    """Return delta times the Lagrange weight of one index at 0, which is an integer."""
    others = [each for each in indexes if each != index]
    return delta * math.prod(-each for each in others) // math.prod(index - each for each in others)


def _verify_index(index: int, key: ThresholdKey) -> None:
    if not 1 <= index <= key.share_count:
        raise CryptoError(f"index must be from 1 to {key.share_count}, got {index}")


def _verify_counts(threshold: int, share_count: int) -> None:
    if not 2 <= threshold <= share_count <= _SHARE_COUNT_MAX:
        raise CryptoError(
            f"threshold must be from 2 to share_count, and that at most {_SHARE_COUNT_MAX}, "
            f"got {threshold} and {share_count}"
        )
