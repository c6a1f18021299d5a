"""Whom this machine trusts, and whether its own certificate is fit to be shown.

Checking one's own certificate before connecting turns the handshake's riddles ("alert 48") into
sentences with a mend. The chain is short, member to issuer to root, and checked link by link; the
TLS library does the peer's. Reads files.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from kumiai.core.clock import Clock
from kumiai.core.errors import CertificateError
from kumiai.identity import files
from kumiai.identity.names import (
    CERTIFICATE_SIZE_BYTES_MAX,
    Identity,
    Role,
    certificate_of,
    identity_of,
)
from kumiai.identity.signing import federation_of

__all__ = ["CHAIN_LENGTH_MAX", "TrustBundle", "chain_of", "verify_own_certificate"]

CHAIN_LENGTH_MAX: Final = 4
"""A member, its issuer, and room for a root and one more that somebody put there."""


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """The authorities that are trusted: one, or two while one replaces the other.

    Attributes:
        authorities: at least one certificate of an authority.
    """

    authorities: tuple[x509.Certificate, ...]

    @classmethod
    def load(cls, source: Path | bytes) -> Self:
        """Return the authorities in a file or text.

        Args:
            source: a path, or PEM text of one or more certificates.

        Raises:
            NotFoundError: there is no such file.
            StorageError: it cannot be read.
            CertificateError: it does not parse, is empty, or holds one that is no authority.
        """
        pem = source if isinstance(source, bytes) else files.read_file(source, "ca certificate")
        try:
            authorities = x509.load_pem_x509_certificates(pem)
            is_authority = all(_is_authority(certificate) for certificate in authorities)
        except (ValueError, x509.InvalidVersion, x509.DuplicateExtension) as error:
            raise CertificateError(
                f"ca certificate must be PEM, got {len(pem)} bytes that do not parse; "
                "use the ca.crt that came with your certificate"
            ) from error
        if not is_authority:
            raise CertificateError(
                "ca certificate must be an authority's, got a member's; "
                "use the ca.crt that came with your certificate"
            )
        return cls(tuple(authorities))

    @property
    def serials(self) -> frozenset[int]:
        """The roots' serial numbers."""
        return frozenset(root.serial_number for root in self.authorities)

    def root_of(self, chain: Sequence[x509.Certificate]) -> x509.Certificate:
        """Return the root that vouches for a chain.

        Args:
            chain: a certificate, then the one that signed it, and so on; without the root.

        Raises:
            CertificateError: a link is missing or may not sign, or no root here signed the last.
        """
        for above, (child, parent) in enumerate(itertools.pairwise(chain)):
            if not _may_sign(parent, below=above) or not _is_signed_by(child, parent):
                raise CertificateError(
                    "certificate must be followed by its issuer's, got another's; use the file "
                    "as it was issued, or put the two together in that order"
                )
        for root in self.authorities:
            if root == chain[-1]:
                return root
            if _may_sign(root, below=len(chain) - 1) and _is_signed_by(chain[-1], root):
                return root
        raise CertificateError(
            "certificate must be signed by the authority in the ca file, or by an issuer of it in "
            "the same file, got another's; use the certificate, key and ca.crt that were issued "
            "together"
        )


def chain_of(pem: bytes) -> tuple[x509.Certificate, ...]:
    """Return the certificates in a member's file: its own, then those that vouch for it.

    Args:
        pem: at most 64 KiB.

    Raises:
        CertificateError: it is too long, does not parse, or holds too many.
    """
    certificate_of(pem)  # says what is wrong with the first, and with the size
    try:
        chain = tuple(x509.load_pem_x509_certificates(pem))
    except (ValueError, x509.InvalidVersion) as error:
        raise CertificateError(
            "certificate's file must hold PEM certificates alone, got one that does not parse; "
            "use the file as it was issued"
        ) from error
    if len(chain) > CHAIN_LENGTH_MAX:
        raise CertificateError(
            f"certificate's file must hold at most {CHAIN_LENGTH_MAX} certificates, "
            f"got {len(chain)}; use the file as it was issued"
        )
    return chain


def verify_own_certificate(
    cert_path: Path, key_path: Path, ca_path: Path, clock: Clock, *, role: Role
) -> Identity:
    """Return one's own identity if certificate, key and authority are fit for use.

    Args:
        cert_path: the certificate and its issuer's, PEM.
        key_path: its private key, PEM, not encrypted.
        ca_path: the authority's certificate, PEM; several during a change of authority.
        clock: tells whether the certificate is in force.
        role: what the certificate must be for.

    Raises:
        NotFoundError: a file is missing.
        StorageError: a file cannot be read.
        CertificateError: the certificate is foreign, out of force, for another role or
            federation, its key is another's, or others may read the key.
    """
    chain = chain_of(
        files.read_file(cert_path, "certificate", size_bytes_max=CERTIFICATE_SIZE_BYTES_MAX)
    )
    identity = identity_of(chain[0])
    _verify_key(key_path, chain[0])
    authority = TrustBundle.load(ca_path).root_of(chain)
    _verify_in_force(chain[0], f"certificate {cert_path}", clock)
    for issuer in chain[1:]:
        _verify_in_force(issuer, f"issuer's certificate in {cert_path}", clock)
    _verify_in_force(authority, f"ca certificate {ca_path}", clock)
    if identity.role is not role:
        raise CertificateError(
            f"certificate must be for the role {role.value}, got {identity.role.value} in "
            f"{cert_path}; have one issued with `kumiai ca issue {role.value}`"
        )
    if identity.federation != federation_of(authority):
        raise CertificateError(
            f"certificate must be of its authority's federation {federation_of(authority)!r}, "
            f"got {identity.federation!r} in {cert_path}"
        )
    return identity


def _verify_key(key_path: Path, certificate: x509.Certificate) -> None:
    files.verify_private(key_path, "private key")
    pem = files.read_file(key_path, "private key", size_bytes_max=CERTIFICATE_SIZE_BYTES_MAX)
    try:
        key = serialization.load_pem_private_key(pem, password=None)
        is_match = key.public_key() == certificate.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError(
            f"private key must be PEM without a passphrase, got something else in {key_path}"
        ) from error
    if not is_match:
        raise CertificateError(
            f"private key must belong to the certificate, got another in {key_path}; "
            "use the certificate and key that were issued together"
        )


def _verify_in_force(certificate: x509.Certificate, what: str, clock: Clock) -> None:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    now = clock.now()
    if now < begin.timestamp():
        raise CertificateError(
            f"{what} must be valid now, got one valid from {begin:%Y-%m-%d %H:%M:%S} UTC; "
            "this machine's clock is probably behind: set it"
        )
    if now > end.timestamp():
        raise CertificateError(
            f"{what} must be valid now, got one that expired at {end:%Y-%m-%d %H:%M:%S} UTC; "
            "have a new one issued with `kumiai ca issue`, or set this machine's clock"
        )


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        return False
    return constraints.value.ca


def _may_sign(authority: x509.Certificate, *, below: int) -> bool:
    """Whether an authority may have so many others between itself and a member."""
    try:
        extensions = authority.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return False
    limit = constraints.path_length
    return constraints.ca and usage.key_cert_sign and (limit is None or below <= limit)


def _is_signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
