"""A secret in a file, sealed by a passphrase.

scrypt stretches the passphrase, AES-256-GCM seals the secret, and a label that says what the
secret is for is authenticated with it, so that one sealed file cannot stand in for another.
PKCS#8 and PKCS#12 as the ``cryptography`` library writes them stretch with 2 048 iterations
(PKCS#12 in its MAC), which a guesser walks through; hence this format of our own.

The parameters are fixed by the version number: a file cannot ask for more memory than we allow.

Source: RFC 7914 (scrypt), NIST SP 800-38D (GCM).
"""

import base64
import json
import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from kumiai.core.errors import ConfigError, IntegrityError

__all__ = [
    "PASSPHRASE_SIZE_BYTES_MAX",
    "PASSPHRASE_SIZE_BYTES_MIN",
    "seal",
    "unseal",
    "verify_passphrase",
]

PASSPHRASE_SIZE_BYTES_MIN: Final = 12
PASSPHRASE_SIZE_BYTES_MAX: Final = 1024

_VERSION: Final = 1
_KEY_SIZE_BYTES: Final = 32
_SALT_SIZE_BYTES: Final = 16
_NONCE_SIZE_BYTES: Final = 12
_TAG_SIZE_BYTES: Final = 16
_FIELDS: Final = {"kumiai_sealed", "salt", "nonce", "ciphertext"}
# 128 MiB and a few tenths of a second for each guess.
_COST: Final = 2**17
_BLOCK_SIZE: Final = 8
_PARALLELISM: Final = 1
_DOMAIN: Final = b"kumiai/identity/sealed/v1/"


def seal(secret: bytes, passphrase: bytes, *, label: str) -> bytes:
    """Return ``secret`` sealed by ``passphrase``, as a JSON text.

    Args:
        secret: any bytes.
        passphrase: 12 to 1024 bytes.
        label: what the secret is for; unsealing must name the same.

    Raises:
        ConfigError: the passphrase is too short or too long.
    """
    verify_passphrase(passphrase)
    salt = secrets.token_bytes(_SALT_SIZE_BYTES)
    nonce = secrets.token_bytes(_NONCE_SIZE_BYTES)
    return _seal_with(secret, passphrase, label=label, salt=salt, nonce=nonce)


def unseal(sealed: bytes, passphrase: bytes, *, label: str) -> bytes:
    """Return the secret.

    Raises:
        IntegrityError: ``sealed`` is damaged or of another version.
        ConfigError: the passphrase is not the one it was sealed with, or the label is another.
    """
    salt, nonce, ciphertext = _parts_of(sealed)
    try:
        return AESGCM(_stretched(passphrase, salt)).decrypt(nonce, ciphertext, _context(label))
    except InvalidTag as error:
        raise ConfigError(
            f"passphrase must be the one that sealed the {label}, got another "
            f"of {len(passphrase)} bytes (or the file was changed)"
        ) from error


def verify_passphrase(passphrase: bytes) -> None:
    """Check the passphrase's length.

    Raises:
        ConfigError: it is too short or too long.
    """
    if not PASSPHRASE_SIZE_BYTES_MIN <= len(passphrase) <= PASSPHRASE_SIZE_BYTES_MAX:
        raise ConfigError(
            f"passphrase must be {PASSPHRASE_SIZE_BYTES_MIN} to {PASSPHRASE_SIZE_BYTES_MAX} "
            f"bytes, got {len(passphrase)}"
        )


def _seal_with(secret: bytes, passphrase: bytes, *, label: str, salt: bytes, nonce: bytes) -> bytes:
    ciphertext = AESGCM(_stretched(passphrase, salt)).encrypt(nonce, secret, _context(label))
    fields = {
        "kumiai_sealed": _VERSION,
        "salt": base64.b64encode(salt).decode(),
        "nonce": base64.b64encode(nonce).decode(),
        "ciphertext": base64.b64encode(ciphertext).decode(),
    }
    return (json.dumps(fields, indent=2) + "\n").encode()


def _parts_of(sealed: bytes) -> tuple[bytes, bytes, bytes]:
    try:
        salt, nonce, ciphertext = _decoded(json.loads(sealed))
    except (ValueError, TypeError, RecursionError) as error:
        raise IntegrityError(
            f"sealed file must be a sealed secret of version {_VERSION}, "
            f"got {len(sealed)} bytes of something else"
        ) from error
    if (
        len(salt) != _SALT_SIZE_BYTES
        or len(nonce) != _NONCE_SIZE_BYTES
        or len(ciphertext) < _TAG_SIZE_BYTES
    ):
        raise IntegrityError("sealed file must hold salt, nonce and ciphertext whole, got parts")
    return salt, nonce, ciphertext


def _decoded(fields: object) -> tuple[bytes, bytes, bytes]:
    if not isinstance(fields, dict) or fields.keys() != _FIELDS:
        raise ValueError("not the four fields")
    if fields["kumiai_sealed"] != _VERSION:
        raise ValueError("another version")
    return (
        base64.b64decode(fields["salt"], validate=True),
        base64.b64decode(fields["nonce"], validate=True),
        base64.b64decode(fields["ciphertext"], validate=True),
    )


def _stretched(passphrase: bytes, salt: bytes) -> bytes:
    kdf = Scrypt(salt=salt, length=_KEY_SIZE_BYTES, n=_COST, r=_BLOCK_SIZE, p=_PARALLELISM)
    return kdf.derive(passphrase)


def _context(label: str) -> bytes:
    return _DOMAIN + label.encode()
