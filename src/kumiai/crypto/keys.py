"""Keys from secrets, and messages sealed with them.

Every key is derived for one purpose, which its label and context name: keys for different purposes
tell nothing about each other. Secrets and keys are plain bytes, so that they go straight into the
ciphers; whoever keeps them in an object gives that a ``repr`` without them.

Source: RFC 5869 (HKDF), NIST SP 800-38D (GCM).
"""

import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from kumiai.core.errors import CryptoError

__all__ = ["KEY_SIZE_BYTES", "SEAL_OVERHEAD_BYTES", "derive", "open_sealed", "seal"]

KEY_SIZE_BYTES: Final = 32
_NONCE_SIZE_BYTES: Final = 12
_TAG_SIZE_BYTES: Final = 16
SEAL_OVERHEAD_BYTES: Final = _NONCE_SIZE_BYTES + _TAG_SIZE_BYTES
"""How much longer a sealed message is than what is in it."""

_LABEL_SIZE_BYTES_MAX: Final = 255
_DERIVED_SIZE_BYTES_MAX: Final = 255 * 32
_DOMAIN: Final = b"kumiai/crypto/derive/v1/"


def derive(secret: bytes, *, label: str, context: bytes, size_bytes: int = KEY_SIZE_BYTES) -> bytes:
    """Return a key for one purpose, by HKDF-SHA256.

    Args:
        secret: at least 32 bytes that nobody can guess; shorter seeds make guessable keys.
        label: what the key is for, 1 to 255 bytes of UTF-8; the same in all runs and rounds.
        context: where it holds: run, round, the two sides; of any length.
        size_bytes: how long the key is, 1 to 8160.

    Raises:
        ValueError: an argument is out of its range.
    """
    if len(secret) < KEY_SIZE_BYTES:
        raise ValueError(f"secret must be at least {KEY_SIZE_BYTES} bytes, got {len(secret)}")
    named = label.encode()
    if not 1 <= len(named) <= _LABEL_SIZE_BYTES_MAX:
        raise ValueError(f"label must be 1 to {_LABEL_SIZE_BYTES_MAX} bytes, got {len(named)}")
    if not 1 <= size_bytes <= _DERIVED_SIZE_BYTES_MAX:
        raise ValueError(f"size_bytes must be 1 to {_DERIVED_SIZE_BYTES_MAX}, got {size_bytes}")
    # The label's length comes first, so that it cannot take bytes over from the context.
    info = _DOMAIN + bytes([len(named)]) + named + context
    return _hkdf(secret, salt=b"", info=info, size_bytes=size_bytes)


def seal(key: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
    """Return the plaintext, hidden and protected from change by AES-256-GCM.

    The nonce is drawn at random and goes ahead: one key seals at most 2^32 messages.

    Args:
        key: 32 bytes.
        plaintext: any bytes.
        associated_data: what else must be the same when it is opened; it is not stored.

    Raises:
        ValueError: the key has another length.
    """
    nonce = secrets.token_bytes(_NONCE_SIZE_BYTES)
    return _seal_with(key, plaintext, associated_data, nonce=nonce)


def open_sealed(key: bytes, sealed: bytes, associated_data: bytes) -> bytes:
    """Return what was sealed.

    Raises:
        CryptoError: it was sealed with another key or for something else, or was changed.
        ValueError: the key has another length.
    """
    cipher = _cipher(key)
    if len(sealed) < SEAL_OVERHEAD_BYTES:
        raise CryptoError(
            f"sealed message must be at least {SEAL_OVERHEAD_BYTES} bytes, got {len(sealed)}"
        )
    nonce, ciphertext = sealed[:_NONCE_SIZE_BYTES], sealed[_NONCE_SIZE_BYTES:]
    try:
        return cipher.decrypt(nonce, ciphertext, associated_data)
    except InvalidTag as error:
        raise CryptoError(
            f"sealed message of {len(sealed)} bytes must be unchanged and sealed with this key "
            "for this purpose, got another"
        ) from error


def _hkdf(secret: bytes, *, salt: bytes, info: bytes, size_bytes: int) -> bytes:
    return HKDF(hashes.SHA256(), length=size_bytes, salt=salt, info=info).derive(secret)


def _seal_with(key: bytes, plaintext: bytes, associated_data: bytes, *, nonce: bytes) -> bytes:
    return nonce + _cipher(key).encrypt(nonce, plaintext, associated_data)


def _cipher(key: bytes) -> AESGCM:
    # AES with a key of 16 or 24 bytes would be weaker without a word.
    if len(key) != KEY_SIZE_BYTES:
        raise ValueError(f"key must be {KEY_SIZE_BYTES} bytes, got {len(key)}")
    return AESGCM(key)
