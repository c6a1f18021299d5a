"""The proof that a decryption share was computed with its author's key share.

It says: verifier = base^x, and each value is ciphertext^(2x) up to its sign, for one x that stays
hidden. One proof covers all ciphertexts of a request, since it is about their products with random
exponents of 128 bits (the small exponents test of Bellare, Garay, Rabin 1998). Both sides are
squared first: squares modulo n^2 have no small order when n is of safe primes, which the test
needs. The square of a value is also all that decryption takes, so the sign does not matter.

Source: Damgard, Jurik 2001, section 4.1, after Chaum and Pedersen 1992; Fiat-Shamir with SHA-256.
"""

import hashlib
import secrets
from dataclasses import dataclass

import gmpy2

from kumiai.core.errors import CryptoError
from kumiai.crypto.paillier.keys import PaillierPublicKey

__all__ = [
    "CHALLENGE_BITS",
    "DecryptionProof",
    "DecryptionStatement",
    "prove_decryption",
    "response_bits_max",
    "verify_decryption",
]

CHALLENGE_BITS = 256
"""How long a challenge may be."""
_CHALLENGE_LABEL = b"kumiai/paillier/decryption-share/challenge/v1\0"
_PRODUCTS_LABEL = b"kumiai/paillier/decryption-share/products/v1\0"
_PRODUCTS_EXPONENT_SIZE = 16
_HIDING_BITS = 128  # the response tells x up to a statistical distance of 2^-128


@dataclass(frozen=True, slots=True)
class DecryptionStatement:
    """What is proved.

    Attributes:
        public_key: n, of safe primes.
        secret_bits: how long x may be.
        index: of the author.
        base: a random square modulo n^2.
        verifier: base^x.
        ciphertexts: what is decrypted, judged.
        values: as many as ciphertexts, judged.
    """

    public_key: PaillierPublicKey
    secret_bits: int
    index: int
    base: int
    verifier: int
    ciphertexts: tuple[int, ...]
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DecryptionProof:
    """A proof: which x it is about stays hidden.

    Attributes:
        challenge: what the random oracle asked.
        response: nonce + challenge * x.
    """

    challenge: int
    response: int


def prove_decryption(statement: DecryptionStatement, exponent: int) -> DecryptionProof:
    """Return a proof of a true statement, whose x is ``exponent``."""
    return _prove_with(statement, exponent, secrets.randbits(_nonce_bits(statement.secret_bits)))


def _prove_with(statement: DecryptionStatement, exponent: int, nonce: int) -> DecryptionProof:
    n_squared = gmpy2.mpz(statement.public_key.n) ** 2
    products = _products(statement)
    commitments = (
        gmpy2.powmod_sec(products[0], nonce, n_squared),
        gmpy2.powmod_sec(statement.base, nonce, n_squared),
    )
    challenge = _challenge(statement, products, commitments)
    return DecryptionProof(challenge, int(nonce + challenge * exponent))


def verify_decryption(statement: DecryptionStatement, proof: DecryptionProof) -> None:
    """Refuse a proof that does not prove its statement.

    Raises:
        CryptoError: it does not.
    """
    # A negative number keeps its sign however far it is shifted.
    if proof.challenge >> CHALLENGE_BITS or proof.response >> response_bits_max(
        statement.secret_bits
    ):
        raise CryptoError(f"proof of decryption share {statement.index} must be of its length")
    n_squared = gmpy2.mpz(statement.public_key.n) ** 2
    products = _products(statement)
    pairs = (products, (statement.base, statement.verifier))
    first, second = (
        gmpy2.powmod(base, proof.response, n_squared)
        * gmpy2.powmod(power, -proof.challenge, n_squared)
        % n_squared
        for base, power in pairs
    )
    if proof.challenge != _challenge(statement, products, (first, second)):
        raise CryptoError(
            f"decryption share {statement.index} must match its key share; "
            "decrypt without that holder"
        )


def response_bits_max(secret_bits: int) -> int:
    """Return how long a response may be when x has at most ``secret_bits`` bits."""
    return _nonce_bits(secret_bits) + 1


def _nonce_bits(secret_bits: int) -> int:
    return secret_bits + CHALLENGE_BITS + _HIDING_BITS


def _products(statement: DecryptionStatement) -> tuple[int, int]:
    """Return a and a^x: the products of all ciphertext^4 and of all value^2.

    Each is raised to an exponent of its own that depends on all of them.
    """
    n_squared = gmpy2.mpz(statement.public_key.n) ** 2
    size = _PRODUCTS_EXPONENT_SIZE
    stream = hashlib.shake_256(
        _digest(_PRODUCTS_LABEL, statement, (*statement.ciphertexts, *statement.values))
    ).digest(size * len(statement.values))
    left, right = gmpy2.mpz(1), gmpy2.mpz(1)
    pairs = zip(statement.ciphertexts, statement.values, strict=True)
    for position, (ciphertext, value) in enumerate(pairs):
        exponent = int.from_bytes(stream[size * position : size * (position + 1)], "big")
        left = left * gmpy2.powmod(ciphertext, 4 * exponent, n_squared) % n_squared
        right = right * gmpy2.powmod(value, 2 * exponent, n_squared) % n_squared
    return left, right


def _challenge(
    statement: DecryptionStatement, products: tuple[int, int], commitments: tuple[int, int]
) -> int:
    return int.from_bytes(_digest(_CHALLENGE_LABEL, statement, (*products, *commitments)), "big")


def _digest(label: bytes, statement: DecryptionStatement, numbers: tuple[int, ...]) -> bytes:
    """Hash numbers of one width, after what they are about and how many there are."""
    width = statement.public_key.ciphertext_size
    transcript = hashlib.sha256(label + statement.public_key.fingerprint)
    about = (statement.index, statement.base, statement.verifier, len(numbers))
    for number in (*about, *numbers):
        transcript.update(int(number).to_bytes(width, "big"))
    return transcript.digest()
