"""Signatures under a label, so that one made for one kind of message says nothing about another.

Ed25519, for simulations and for members without a certificate. A program that signs with certified
keys of another kind signs `labelled` messages as well.

Signatures are made by OpenSSL, where the private key stays, and checked by libsodium in half of
OpenSSL's time: a coordinator checks seven of each client in a round. The check is the one without
the cofactor; beyond RFC 8032, a signature whose point R is of low order is refused.

Source: RFC 8032 (Ed25519); Chalkias, Garillot, Nikolaenko 2020, "Taming the many EdDSAs" (why keys
of low order are refused).
"""

from typing import Final, NoReturn

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nacl.bindings import crypto_sign_BYTES, crypto_sign_open
from nacl.exceptions import BadSignatureError

from kumiai.core.errors import CryptoError

__all__ = ["Ed25519Signer", "Ed25519Verifier", "labelled"]

_SEED_SIZE_BYTES: Final = 32
_PUBLIC_KEY_SIZE_BYTES: Final = 32
_LABEL_SIZE_BYTES_MAX: Final = 255
_DOMAIN: Final = b"kumiai/crypto/signature/v1/"

_CURVE_PRIME: Final = 2**255 - 19
_SIGN_BIT: Final = 1 << 255
# The y of every point of order 1, 2, 4 or 8: under such a key, one signature fits many messages.
_LOW_ORDER: Final = frozenset(
    {
        0,
        1,
        _CURVE_PRIME - 1,
        2707385501144840649318225287225658788936804267575313519463743609750303402022,
        55188659117513257062467267217118295137698188065244968500265048394206261417927,
    }
)


def labelled(label: str, message: bytes) -> bytes:
    """Return what is signed for a message of the kind that the label names.

    Args:
        label: 1 to 255 bytes of UTF-8.
        message: of any length.

    Raises:
        ValueError: the label is empty or too long.
    """
    named = label.encode()
    if not 1 <= len(named) <= _LABEL_SIZE_BYTES_MAX:
        raise ValueError(f"label must be 1 to {_LABEL_SIZE_BYTES_MAX} bytes, got {len(named)}")
    return _DOMAIN + bytes([len(named)]) + named + message


class Ed25519Signer:
    """Signs with Ed25519."""

    __slots__ = ("_private", "public")

    def __init__(self, seed: bytes) -> None:
        """Make the signer that belongs to a seed.

        Args:
            seed: 32 bytes that nobody else knows.

        Raises:
            ValueError: the seed has another length.
        """
        if len(seed) != _SEED_SIZE_BYTES:
            raise ValueError(f"seed must be {_SEED_SIZE_BYTES} bytes, got {len(seed)}")
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> "Ed25519Signer":
        """Return a signer with a fresh key."""
        return cls(Ed25519PrivateKey.generate().private_bytes_raw())

    def __repr__(self) -> str:
        """Name the public half alone."""
        return f"Ed25519Signer({self.public.hex()})"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied: the key stays in this process."""
        raise TypeError("an Ed25519Signer cannot be pickled")

    def sign(self, label: str, message: bytes) -> bytes:
        """Return the signature, 64 bytes.

        Raises:
            ValueError: as `labelled`.
        """
        return self._private.sign(labelled(label, message))


class Ed25519Verifier:
    """Checks signatures made with Ed25519."""

    __slots__ = ()

    def verify(self, key: bytes, label: str, message: bytes, signature: bytes) -> None:
        """Check a signature.

        Args:
            key: the signer's public key, 32 bytes.
            label: of what kind the message is.
            message: what was signed.
            signature: from outside.

        Raises:
            CryptoError: the key's holder has not signed this message under this label, or the key
                has another length, is not in canonical form, or of low order.
            ValueError: as `labelled`.
        """
        _verify_key(key)
        signed = labelled(label, message)
        problem = f"signature of {label} must be by {key.hex()}, got one that is not"
        # libsodium takes both as one: with another length, a part of one would count as the other.
        if len(signature) != crypto_sign_BYTES:
            raise CryptoError(problem)
        try:
            crypto_sign_open(signature + signed, key)
        except BadSignatureError as error:
            raise CryptoError(problem) from error


def _verify_key(key: bytes) -> None:
    if len(key) != _PUBLIC_KEY_SIZE_BYTES:
        raise CryptoError(
            f"verification key must be {_PUBLIC_KEY_SIZE_BYTES} bytes, got {len(key)}"
        )
    y = int.from_bytes(key, "little") & ~_SIGN_BIT
    if y >= _CURVE_PRIME:
        raise CryptoError("verification key must be in canonical form, got another form of one")
    if y in _LOW_ORDER:
        raise CryptoError("verification key must not be of low order, got one that is")
