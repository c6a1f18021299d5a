"""Private keys as PEM text, and which public keys are strong enough.

Ours are ECDSA on P-256. A member may bring P-384 or RSA of 3072 to 8192 bits: what is weaker does
not protect (NIST SP 800-57 part 1, table 2: less than 128 bits), what is longer only costs the
verifier, and P-521 and the Edwards curves are refused by the TLS library inside gRPC.

Source of the signatures: FIPS 186-5 (ECDSA), RFC 8017 section 8.1 (RSA-PSS).
"""

import hashlib
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from kumiai.core.errors import CertificateError, IntegrityError

__all__ = [
    "MemberKey",
    "digest_of",
    "is_signed_by",
    "new_key",
    "private_key_of",
    "private_pem_of",
    "signed_by",
    "verify_strong",
]

RSA_BITS_MIN: Final = 3072
RSA_BITS_MAX: Final = 8192

_CURVES: Final = (ec.SECP256R1, ec.SECP384R1)
_PSS: Final = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
_DIGEST_DOMAIN: Final = b"kumiai/identity/public-key/v1/"

MemberKey: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
"""A public key that a member's certificate may be for."""


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a fresh private key on P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def verify_strong(key: object) -> MemberKey:
    """Return the public key if it is strong enough.

    Raises:
        CertificateError: it is too weak, too long, or of a kind that is not used here.
    """
    match key:
        case ec.EllipticCurvePublicKey() if isinstance(key.curve, _CURVES):
            return key
        case ec.EllipticCurvePublicKey():
            got = f"the curve {key.curve.name}"
        case rsa.RSAPublicKey() if RSA_BITS_MIN <= key.key_size <= RSA_BITS_MAX:
            return key
        case rsa.RSAPublicKey():
            got = f"RSA of {key.key_size} bits"
        case _:
            got = "another kind"
    raise CertificateError(
        f"key must be on P-256 or P-384, or RSA of {RSA_BITS_MIN} to {RSA_BITS_MAX} bits, got {got}"
    )


def digest_of(key: MemberKey) -> str:
    """Return what a public key is recognised by, 64 hexadecimal digits."""
    spki = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(_DIGEST_DOMAIN + spki).hexdigest()


def private_pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the key as PKCS#8 in PEM, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def private_key_of(pem: bytes, what: str) -> ec.EllipticCurvePrivateKey:
    """Parse a private key.

    Args:
        pem: the key, not encrypted.
        what: whose it is; begins the error message.

    Raises:
        IntegrityError: it does not parse, or is not on an elliptic curve.
    """
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise IntegrityError(
            f"{what} must be an unencrypted private key in PEM, got one that does not parse; "
            "restore it from a backup"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise IntegrityError(f"{what} must be on an elliptic curve, got another kind")
    return key


def signed_by(key_pem: bytes, message: bytes) -> bytes:
    """Return a member's signature: ECDSA, or RSA-PSS, with SHA-256.

    Args:
        key_pem: the private key of its certificate, not encrypted.
        message: with a label of what it is for.

    Raises:
        CertificateError: the key does not parse, or is of another kind.
    """
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError) as error:
        raise CertificateError(
            "private key must be PEM without a passphrase, got one that does not parse"
        ) from error
    match key:
        case ec.EllipticCurvePrivateKey():
            return key.sign(message, ec.ECDSA(hashes.SHA256()))
        case rsa.RSAPrivateKey():
            return key.sign(message, _PSS, hashes.SHA256())
        case _:
            raise CertificateError("private key must be on an elliptic curve or RSA, got another")


def is_signed_by(key: MemberKey, signature: bytes, message: bytes) -> bool:
    """Return whether a signature is one of `signed_by` with this key."""
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, message, _PSS, hashes.SHA256())
        else:
            key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True
