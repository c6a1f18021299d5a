"""How a root is followed by the next without anybody carrying files to every member.

When a root changes, the old one signs the new one's name and key: a certificate like any other,
which proves to whoever trusts the old root that the new one is its choice. `follow` is the whole
rule by which a member changes whom it trusts: a root is added only if one that is trusted already
vouches for it, and dropped only if the one that took its place is trusted. Who hands over the
roots and the successions does not matter. Pure.

Source: RFC 4210, section 4.4 (root CA key update), of which this is the "new with old" half.
"""

from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from kumiai.core.errors import CertificateError
from kumiai.identity.signing import federation_of
from kumiai.identity.trust import TrustBundle

__all__ = ["ROOTS_MAX", "SUCCESSIONS_SIZE_BYTES_MAX", "follow", "successions_of"]

ROOTS_MAX: Final = 4
"""Of one federation at a time: two while one replaces the other, and room for a hurry."""
SUCCESSIONS_SIZE_BYTES_MAX: Final = 32 * 1024


def successions_of(pem: bytes) -> tuple[x509.Certificate, ...]:
    """Return the successions in a text.

    Args:
        pem: certificates; empty: there are none.

    Raises:
        CertificateError: it is too long, or does not parse.
    """
    if len(pem) > SUCCESSIONS_SIZE_BYTES_MAX:
        raise CertificateError(
            f"successions of roots must be at most {SUCCESSIONS_SIZE_BYTES_MAX} bytes, "
            f"got {len(pem)}"
        )
    if not pem.strip():
        return ()
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except (ValueError, x509.InvalidVersion) as error:
        raise CertificateError(
            "successions of roots must be PEM certificates, got something else; use the "
            "succession.crt that `kumiai ca rotate` made"
        ) from error


def follow(
    kept: TrustBundle,
    offered: TrustBundle,
    successions: Sequence[x509.Certificate],
    *,
    now: float,
) -> TrustBundle:
    """Return whom to trust from now on.

    Args:
        kept: whom this member trusts.
        offered: whom it should trust, by the word of somebody who may lie.
        successions: what proves it.
        now: seconds since 1970-01-01 UTC.

    Returns:
        Those offered, and of those kept the ones that none of them follows.

    Raises:
        CertificateError: one of those offered is not vouched for by one that is kept, nor by one
            that is vouched for itself; or there are too many.
    """
    if len(offered.authorities) > ROOTS_MAX:
        raise CertificateError(f"roots must be at most {ROOTS_MAX}, got {len(offered.authorities)}")
    federation = federation_of(kept.authorities[0])
    trusted = list(kept.authorities)
    waiting = [root for root in offered.authorities if root not in trusted]
    while waiting:
        vouched = [
            root
            for root in waiting
            if _is_root_of(root, federation, now) and _has_followed(root, trusted, successions, now)
        ]
        if not vouched:
            raise CertificateError(
                f"new root {waiting[0].serial_number:x} must be one of this federation that a "
                "trusted root vouches for, got another; bring the new ca.crt here by hand, and "
                "the succession.crt of `kumiai ca rotate` to the coordinator, beside its ca.crt"
            )
        trusted += vouched
        waiting = [root for root in waiting if root not in vouched]
    left = [
        root
        for root in kept.authorities
        if root not in offered.authorities
        and not any(_has_followed(each, [root], successions, now) for each in offered.authorities)
    ]
    return TrustBundle((*offered.authorities, *left))


def _has_followed(
    root: x509.Certificate,
    before: Sequence[x509.Certificate],
    successions: Sequence[x509.Certificate],
    now: float,
) -> bool:
    """Whether one of those before has named the root as its successor."""
    return any(
        _key_of(each) == _key_of(root)
        and each.subject == root.subject
        and _is_in_force(each, now)
        and any(_is_signed_by(each, old) and _is_in_force(old, now) for old in before)
        for each in successions
    )


def _is_root_of(root: x509.Certificate, federation: str, now: float) -> bool:
    is_signed = _is_signed_by(root, root)
    return is_signed and _is_in_force(root, now) and federation_of(root) == federation


def _key_of(certificate: x509.Certificate) -> object:
    try:
        return certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(
            "root must have a key that can be read, got one of another kind"
        ) from error


def _is_in_force(certificate: x509.Certificate, now: float) -> bool:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begin.timestamp() <= now <= end.timestamp()


def _is_signed_by(certificate: x509.Certificate, signer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(signer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
