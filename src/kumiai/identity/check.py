"""Whether the owner of a certificate may enter here, now: the decision at every call.

The TLS handshake has proved that the certificate is genuine and its owner holds the key; it
cannot know the federation, the role or what was revoked since. Pure: bytes and a time in, an
identity or a refusal out.
"""

from collections.abc import Collection

from cryptography import x509

from kumiai.core.errors import CertificateError
from kumiai.identity.names import Identity, Role, identity_of
from kumiai.identity.revocation import RevocationList

__all__ = ["verify_peer"]


def verify_peer(
    cert: bytes | x509.Certificate | None,
    *,
    federation: str,
    roles: Collection[Role],
    revoked: RevocationList | None,
    now: float,
) -> Identity:
    """Return who the peer is, if it may enter.

    Args:
        cert: what the handshake accepted, PEM, DER or parsed; ``None`` or empty if nothing.
        federation: ours.
        roles: which roles may enter.
        revoked: the revocation list in force; ``None`` where none is kept.
        now: seconds since 1970-01-01 UTC.

    Raises:
        CertificateError: there is none, it is unreadable, of another federation, of a role
            without access, expired or revoked; the message says which.
    """
    if not cert:
        raise CertificateError(
            "peer must show a certificate, got none; give the client its certificate and key"
        )
    identity = identity_of(cert)
    if identity.federation != federation:
        raise CertificateError(
            f"peer must be of federation {federation!r}, got {identity.uri}; "
            "use a certificate that this federation issued"
        )
    if identity.role not in roles:
        allowed = " or ".join(sorted(roles)) or "nobody"
        raise CertificateError(f"peer must have the role {allowed}, got {identity.uri}")
    if now > identity.not_after:
        raise CertificateError(
            f"certificate of {identity.uri} must be in force, got one that expired "
            f"{now - identity.not_after:.0f} s ago; have a new one issued, or check both clocks"
        )
    if revoked is not None and revoked.is_revoked(identity.serial):
        raise CertificateError(
            f"certificate of {identity.uri} must not be revoked, "
            f"got serial {identity.serial:x}, which is; ask the federation's operator"
        )
    return identity
