"""A coordinator proves to one client, for one call, that it holds the key of its certificate.

The handshake proves that as well, to the TLS library alone: gRPC tells a client nothing of the
certificate that it was shown, and asks nobody whether it is revoked. So the client sends a
challenge, and the coordinator signs it together with the client's name. Whoever stands between
them with a key that was stolen and revoked has no other key to sign with, and can have nobody
else sign: a coordinator signs only for the client whose certificate opened the connection.
"""

import secrets
import struct
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from kumiai.core.errors import CertificateError
from kumiai.identity.check import (
    PeerCertificate,
    PeerRefusedError,
    PeerRules,
    Refusal,
    read_peer,
    verify_peer,
)
from kumiai.identity.keys import is_signed_by, signed_by, verify_strong
from kumiai.identity.names import Role, certificate_of
from kumiai.identity.trust import TrustBundle, chain_of

__all__ = ["CHALLENGE_SIZE_BYTES", "new_challenge", "new_proof", "verify_proof"]

CHALLENGE_SIZE_BYTES: Final = 32
_PROOF_SIZE_BYTES_MAX: Final = 12 * 1024
_DOMAIN: Final = b"kumiai/identity/coordinator-proof/v1\x00"
_LENGTH: Final = struct.Struct(">H")


def new_challenge() -> bytes:
    """Draw a challenge."""
    return secrets.token_bytes(CHALLENGE_SIZE_BYTES)


def new_proof(challenge: bytes, client_uri: str, chain_pem: bytes, key_pem: bytes) -> bytes:
    """Return the answer to a client's challenge.

    Args:
        challenge: of `new_challenge`.
        client_uri: whose certificate opened the connection that it came over.
        chain_pem: the coordinator's certificate file.
        key_pem: the certificate's private key, not encrypted.

    Raises:
        CertificateError: the challenge is of another length; certificate or key cannot be used.
    """
    if len(challenge) != CHALLENGE_SIZE_BYTES:
        raise CertificateError(
            f"challenge must be {CHALLENGE_SIZE_BYTES} bytes, got {len(challenge)}"
        )
    signature = signed_by(key_pem, _message(challenge, client_uri))
    chain = [each.public_bytes(serialization.Encoding.DER) for each in chain_of(chain_pem)]
    return b"".join(_LENGTH.pack(len(each)) + each for each in (signature, *chain))


def verify_proof(
    proof: bytes,
    challenge: bytes,
    client_uri: str,
    *,
    trust: TrustBundle,
    rules: PeerRules,
    now: float,
) -> PeerCertificate:
    """Return which certificate the coordinator holds, after checking all of it.

    Args:
        proof: from whoever is at the other end.
        challenge: what it was sent.
        client_uri: our own name.
        trust: the federation's authorities.
        rules: what its certificate is judged by.
        now: seconds since 1970-01-01 UTC.

    Raises:
        PeerRefusedError: the certificate is not good now, or no coordinator's.
        CertificateError: the proof does not parse, or another key signed it.
    """
    signature, chain = _parsed(proof)
    peer = read_peer(chain, trust)
    identity = verify_peer(peer, rules, now)
    if identity.role is not Role.COORDINATOR:
        raise PeerRefusedError(
            Refusal.WRONG_IDENTITY, f"peer must be a coordinator, got {identity.uri}"
        )
    key = verify_strong(certificate_of(chain[0]).public_key())
    if not is_signed_by(key, signature, _message(challenge, client_uri)):
        raise CertificateError(
            f"proof of {identity.uri} must be signed by its certificate's key for this call, "
            "got another signature"
        )
    return peer


def _message(challenge: bytes, client_uri: str) -> bytes:
    return _DOMAIN + challenge + client_uri.encode()


def _parsed(proof: bytes) -> tuple[bytes, list[bytes]]:
    parts, rest = [], proof if len(proof) <= _PROOF_SIZE_BYTES_MAX else b""
    try:
        while rest:
            (size,) = _LENGTH.unpack_from(rest)
            (part,) = struct.unpack_from(f">{size}s", rest, _LENGTH.size)
            parts.append(part)
            rest = rest[_LENGTH.size + size :]
        signature, *chain = parts
        for each in chain:
            x509.load_der_x509_certificate(each)
    except (ValueError, struct.error, x509.InvalidVersion) as error:
        raise CertificateError(
            f"proof of a coordinator must be a signature and certificates, got {len(proof)} bytes "
            "of something else"
        ) from error
    return signature, chain
