"""A member vouches, by the key of its certificate, for a signing key that outlives it.

Certificates live for a day and their keys change with them. What a client signs within a round
must stay checkable after a renewal, offline and by the other clients, so each client keeps one
Ed25519 key for that, and its certificate's key signs who it belongs to. A voucher is public.

Whoever can issue certificates can make a voucher for a key of its own: that is why clients
remember the keys of the others (`kumiai.node.client`), and this module only says what a voucher
proves by itself.

Source: RFC 8032 (Ed25519).
"""

import base64
import binascii
import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from kumiai.core.errors import CertificateError
from kumiai.identity.check import PeerRules, read_peer, verify_peer
from kumiai.identity.keys import is_signed_by, signed_by, verify_strong
from kumiai.identity.names import Identity, certificate_of, identity_of
from kumiai.identity.trust import TrustBundle, chain_of

__all__ = ["VOUCHER_SIZE_BYTES_MAX", "VouchedKey", "new_voucher", "verify_voucher"]

VOUCHER_SIZE_BYTES_MAX: Final = 24 * 1024
PUBLIC_KEY_SIZE_BYTES: Final = 32

_VERSION: Final = 1
_DOMAIN: Final = b"kumiai/identity/signing-key-voucher/v1\x00"
_FIELDS: Final = {"version", "public_key", "made_at", "chain", "signature"}
_MEND: Final = "let the client make a new one by restarting it"


@dataclass(frozen=True, slots=True)
class VouchedKey:
    """A signing key and whose it is.

    Attributes:
        identity: the member that vouches.
        public_key: Ed25519, 32 bytes.
        made_at: when it vouched, seconds since 1970-01-01 UTC.
    """

    identity: Identity
    public_key: bytes
    made_at: float


def new_voucher(public_key: bytes, chain_pem: bytes, key_pem: bytes, now: float) -> bytes:
    """Return a member's word that a signing key is its own.

    Args:
        public_key: Ed25519, 32 bytes.
        chain_pem: the member's certificate file.
        key_pem: the certificate's private key, not encrypted.
        now: seconds since 1970-01-01 UTC.

    Raises:
        CertificateError: the certificate or its key does not parse or is too weak.
        ValueError: the public key is not 32 bytes.
    """
    if len(public_key) != PUBLIC_KEY_SIZE_BYTES:
        raise ValueError(f"public_key must be {PUBLIC_KEY_SIZE_BYTES} bytes, got {len(public_key)}")
    chain = chain_of(chain_pem)
    signature = signed_by(key_pem, _message(identity_of(chain[0]).uri, public_key, now))
    encoded = [each.public_bytes(serialization.Encoding.DER) for each in chain]
    fields = {
        "version": _VERSION,
        "public_key": public_key.hex(),
        "made_at": now,
        "chain": [base64.b64encode(each).decode() for each in encoded],
        "signature": base64.b64encode(signature).decode(),
    }
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def verify_voucher(voucher: bytes, trust: TrustBundle, rules: PeerRules, now: float) -> VouchedKey:
    """Return whose key a voucher is for, after checking all of it.

    Args:
        voucher: from anywhere.
        trust: the federation's authorities.
        rules: what the member's certificate is judged by.
        now: seconds since 1970-01-01 UTC.

    Raises:
        PeerRefusedError: the member's certificate does not let it in now.
        CertificateError: the voucher is too long, does not parse, is of the future, or another
            key signed it.
    """
    if len(voucher) > VOUCHER_SIZE_BYTES_MAX:
        raise CertificateError(
            f"voucher must be at most {VOUCHER_SIZE_BYTES_MAX} bytes, got {len(voucher)}; {_MEND}"
        )
    public_key, made_at, chain, signature = _parsed(voucher)
    identity = verify_peer(read_peer(chain, trust), rules, now)
    if made_at > now + rules.clock_skew_seconds:
        raise CertificateError(
            f"voucher of {identity.uri} must not be of the future, got one made in "
            f"{made_at - now:.0f} s; compare the clocks of both machines"
        )
    member = verify_strong(certificate_of(chain[0]).public_key())
    if not is_signed_by(member, signature, _message(identity.uri, public_key, made_at)):
        raise CertificateError(
            f"voucher of {identity.uri} must be signed by its certificate's key, "
            f"got another signature; {_MEND}"
        )
    return VouchedKey(identity, public_key, made_at)


def _message(uri: str, public_key: bytes, made_at: float) -> bytes:
    name = uri.encode()
    return _DOMAIN + struct.pack(">Hd", len(name), made_at) + name + public_key


def _parsed(voucher: bytes) -> tuple[bytes, float, Sequence[bytes], bytes]:
    try:
        return _read(json.loads(voucher))
    except (ValueError, TypeError, RecursionError, binascii.Error, x509.InvalidVersion) as error:
        raise CertificateError(
            f"voucher must be a version {_VERSION} voucher, got {len(voucher)} bytes that do not "
            f"parse; {_MEND}"
        ) from error


def _read(fields: Any) -> tuple[bytes, float, Sequence[bytes], bytes]:
    if not isinstance(fields, dict) or set(fields) != _FIELDS or fields["version"] != _VERSION:
        raise ValueError("other fields")
    public_key = bytes.fromhex(fields["public_key"])
    made_at = float(fields["made_at"])
    chain = [base64.b64decode(each, validate=True) for each in fields["chain"]]
    for each in chain:
        x509.load_der_x509_certificate(each)
    signature = base64.b64decode(fields["signature"], validate=True)
    if len(public_key) != PUBLIC_KEY_SIZE_BYTES or not math.isfinite(made_at):
        raise ValueError("other sizes")
    return public_key, made_at, chain, signature
