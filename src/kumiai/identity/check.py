"""Whether the owner of a certificate may enter here, now: the decision at every call.

The TLS handshake has proved that the owner holds the key. Everything else is judged here, again
and at every call: a connection outlives certificates, authorities and decisions. Each refusal has
a kind of its own, for programs, logs and the audit; the message is for people.

Pure: certificates, rules and a time in, an identity or a refusal out. What depends on the
certificates alone is computed once (`read_peer`), what depends on the moment at every call
(`verify_peer`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from kumiai.core.errors import CertificateError
from kumiai.identity import keys
from kumiai.identity.denials import Denial, Denials
from kumiai.identity.names import Identity, certificate_of, identity_of
from kumiai.identity.revocation import RevocationList
from kumiai.identity.trust import CHAIN_LENGTH_MAX, TrustBundle

__all__ = [
    "PeerCertificate",
    "PeerRefusedError",
    "PeerRules",
    "Refusal",
    "read_peer",
    "verify_peer",
]

CHAIN_SIZE_BYTES_MAX: Final = 32 * 1024

_WEAK_HASHES: Final = (hashes.MD5, hashes.SHA1)
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


class Refusal(StrEnum):
    """Why a caller is refused."""

    NO_CERTIFICATE = "no-certificate"
    OVERSIZED_CHAIN = "oversized-chain"
    UNREADABLE = "unreadable"
    SELF_SIGNED = "self-signed"
    WRONG_AUTHORITY = "wrong-authority"
    WEAK_KEY = "weak-key"
    WRONG_USAGE = "wrong-usage"
    WRONG_IDENTITY = "wrong-identity"
    WRONG_FEDERATION = "wrong-federation"
    NOT_YET_VALID = "not-yet-valid"
    EXPIRED = "expired"
    REVOKED = "revoked"
    SUSPENDED = "suspended"
    REMOVED = "removed"
    BAD_TOKEN = "bad-token"  # noqa: S105 - a kind, no secret
    MISSING_PERMISSION = "missing-permission"
    BAD_ENROLMENT = "bad-enrolment"
    ALREADY_ATTACHED = "already-attached"
    RATE_LIMITED = "rate-limited"
    LOCKED_OUT = "locked-out"
    OLD_TLS = "old-tls"
    BAD_HANDSHAKE = "bad-handshake"
    NO_CALL = "no-call"


class PeerRefusedError(CertificateError):
    """A caller may not enter, for a reason that programs can tell apart.

    Attributes:
        refusal: why.
        retry_seconds: when trying again may help; ``None``: not by waiting.
        token_id: the token that was shown and proved, and has ended; empty: none was.
    """

    def __init__(
        self,
        refusal: Refusal,
        message: str,
        *,
        retry_seconds: float | None = None,
        token_id: str = "",
    ) -> None:
        """Say why, to programs and to people."""
        super().__init__(message)
        self.refusal = refusal
        self.retry_seconds = retry_seconds
        self.token_id = token_id


_DENIALS: Final = {
    Denial.SUSPENDED: (
        Refusal.SUSPENDED,
        "is suspended; ask the federation's operator to resume it",
    ),
    Denial.REMOVED: (
        Refusal.REMOVED,
        "was removed; ask the federation's operator for an invitation",
    ),
    Denial.REVOKED: (
        Refusal.REVOKED,
        "has a revoked certificate; ask the federation's operator for a new one",
    ),
}


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """What a chain of certificates says, whatever the time.

    Attributes:
        identity: whom it speaks for.
        serials: of the leaf and of each intermediate.
        not_before: since when all of them are valid, seconds since 1970-01-01 UTC.
        not_after: until when all of them are, same.
    """

    identity: Identity
    serials: tuple[int, ...]
    not_before: float
    not_after: float


@dataclass(frozen=True, slots=True)
class PeerRules:
    """What a peer is judged by at one moment.

    Attributes:
        federation: ours.
        revoked: the revocation list in force; ``None`` where none is kept.
        denials: who is refused for now.
        clock_skew_seconds: how far ahead of ours the clock of whoever issued may be, >= 0.
    """

    federation: str
    revoked: RevocationList | None
    denials: Denials
    clock_skew_seconds: float = 60.0


def read_peer(chain: Sequence[bytes], trust: TrustBundle) -> PeerCertificate:
    """Return what a peer's certificates say, after checking all that no clock is needed for.

    Args:
        chain: PEM or DER, the peer's own first, then what links it to an authority.
        trust: the authorities.

    Raises:
        PeerRefusedError: there is none; they are too many or too long, do not parse, do not lead
            to an authority, have a weak key, are for another use or carry no identity.
    """
    certificates = _parsed(chain)
    leaf = certificates[0]
    path = _path_of(certificates, trust)
    for certificate in path:
        _verify_strong(certificate)
    _verify_usage(leaf)
    try:
        identity = identity_of(leaf)
    except CertificateError as error:
        raise PeerRefusedError(Refusal.WRONG_IDENTITY, str(error)) from error
    return PeerCertificate(
        identity=identity,
        serials=tuple(certificate.serial_number for certificate in path[:-1]),
        not_before=max(each.not_valid_before_utc.timestamp() for each in path),
        not_after=min(each.not_valid_after_utc.timestamp() for each in path),
    )


def verify_peer(peer: PeerCertificate, rules: PeerRules, now: float) -> Identity:
    """Return who the peer is, if it may enter at this moment.

    Args:
        peer: from `read_peer`.
        rules: those in force.
        now: seconds since 1970-01-01 UTC.

    Raises:
        PeerRefusedError: it is of another federation, not valid yet, expired, revoked or denied.
    """
    identity = peer.identity
    if identity.federation != rules.federation:
        raise PeerRefusedError(
            Refusal.WRONG_FEDERATION,
            f"peer must be of federation {rules.federation!r}, got {identity.uri}; "
            "use a certificate that this federation issued",
        )
    if now + rules.clock_skew_seconds < peer.not_before:
        raise PeerRefusedError(
            Refusal.NOT_YET_VALID,
            f"certificate of {identity.uri} must be valid now, got one that begins in "
            f"{peer.not_before - now:.0f} s; compare the clocks of both machines",
            retry_seconds=peer.not_before - now,
        )
    if now > peer.not_after:
        raise PeerRefusedError(
            Refusal.EXPIRED,
            f"certificate of {identity.uri} must be in force, got one that expired "
            f"{now - peer.not_after:.0f} s ago; have a new one issued, or check both clocks",
        )
    _verify_not_revoked(peer, rules.revoked)
    _verify_not_denied(identity, rules.denials)
    return identity


def _verify_not_revoked(peer: PeerCertificate, revoked: RevocationList | None) -> None:
    if revoked is None:
        return
    for serial in peer.serials:
        if revoked.is_revoked(serial):
            raise PeerRefusedError(
                Refusal.REVOKED,
                f"certificate of {peer.identity.uri} must not be revoked, "
                f"got serial {serial:x}, which is; ask the federation's operator",
            )


def _verify_not_denied(identity: Identity, denials: Denials) -> None:
    denial = denials.is_denied(identity)
    if denial is not None:
        refusal, problem = _DENIALS[denial]
        raise PeerRefusedError(refusal, f"{identity.uri} must be let in, got one that {problem}")


# ------------------------------------------------------------------- what no clock is needed for


def _parsed(chain: Sequence[bytes]) -> list[x509.Certificate]:
    if not chain:
        raise PeerRefusedError(
            Refusal.NO_CERTIFICATE,
            "peer must show a certificate, got none; give the client its certificate and key",
        )
    size_bytes = sum(map(len, chain))
    if len(chain) > CHAIN_LENGTH_MAX or size_bytes > CHAIN_SIZE_BYTES_MAX:
        raise PeerRefusedError(
            Refusal.OVERSIZED_CHAIN,
            f"peer must show at most {CHAIN_LENGTH_MAX} certificates of {CHAIN_SIZE_BYTES_MAX} "
            f"bytes together, got {len(chain)} of {size_bytes}; "
            "use the certificate file that was issued, unchanged",
        )
    try:
        certificates = [certificate_of(each) for each in chain]
        # Lazily parsed: damage shows itself only when a field is read.
        for certificate in certificates:
            list(certificate.extensions)
            _ = (certificate.subject, certificate.issuer)
            _ = (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
    except CertificateError as error:
        raise PeerRefusedError(Refusal.UNREADABLE, str(error)) from error
    except (
        ValueError,
        TypeError,  # of a text in a name that is a string of bits
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ) as error:
        raise PeerRefusedError(
            Refusal.UNREADABLE,
            "certificate must have readable names, extensions and dates, got damaged ones; "
            "have a new one issued",
        ) from error
    return certificates


def _path_of(
    certificates: Sequence[x509.Certificate], trust: TrustBundle
) -> list[x509.Certificate]:
    """Return the certificates from the peer's own to the root that vouches for it."""
    try:
        root = trust.root_of(certificates)
    except CertificateError as error:
        if len(certificates) == 1 and _is_self_signed(certificates[0]):
            raise PeerRefusedError(
                Refusal.SELF_SIGNED,
                "certificate must be signed by this federation's authority, got a self-signed "
                "one; use a certificate that this federation issued",
            ) from error
        raise PeerRefusedError(Refusal.WRONG_AUTHORITY, str(error)) from error
    return [*certificates, *([root] if certificates[-1] != root else [])]


def _is_self_signed(certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _verify_strong(certificate: x509.Certificate) -> None:
    try:
        keys.verify_strong(certificate.public_key())
        signed_with = certificate.signature_hash_algorithm
    except (CertificateError, ValueError, UnsupportedAlgorithm) as error:
        raise PeerRefusedError(
            Refusal.WEAK_KEY, f"{error}; have a certificate issued for a new key"
        ) from error
    if isinstance(signed_with, _WEAK_HASHES):
        raise PeerRefusedError(
            Refusal.WEAK_KEY,
            f"certificate must be signed with SHA-256 or better, got {signed_with.name}; "
            "have a new one issued",
        )


def _verify_usage(leaf: x509.Certificate) -> None:
    constraints = _extension(leaf, x509.BasicConstraints)
    usage = _extension(leaf, x509.KeyUsage)
    purposes = _extension(leaf, x509.ExtendedKeyUsage)
    found = None
    if constraints is not None and constraints.ca:
        found = "an authority's"
    elif usage is None or not usage.digital_signature:
        found = "one whose key may not sign"
    elif purposes is None or ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        found = "one that is not for a client"
    if found is not None:
        raise PeerRefusedError(
            Refusal.WRONG_USAGE,
            f"certificate must be a member's, to authenticate a client, got {found}; "
            "use one that `kumiai ca issue` made",
        )


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
