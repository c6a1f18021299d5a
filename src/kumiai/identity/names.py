"""The identity that a certificate carries: federation, role and name, read from its URI name.

This module reads; it does not judge. Whether the certificate is genuine is the TLS handshake's
business, whether its owner may enter is ``check.py``'s. It keeps one rule: a certificate says
exactly one thing, in exactly one spelling, or it says nothing.
"""

import functools
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from kumiai.core.errors import CertificateError, ConfigError
from kumiai.core.ids import verify_name

__all__ = ["Identity", "Role", "certificate_of", "identity_of", "identity_uri"]

CERTIFICATE_SIZE_BYTES_MAX: Final = 64 * 1024
"""A chain of a handful of P-256 certificates is below 5 KiB; more is an attack or a mistake."""

KEY_NAME_SIZE_BYTES: Final = 20
"""A root's or issuer's key is named by its serial number, in so many bytes."""

SITES_UNIT: Final = "sites"
"""The organisational unit of an issuer whose certificates are for clients alone."""

_URI: Final = re.compile(r"kumiai://([^/]+)/([^/]+)/([^/]+)")
_SHOWN_CHARACTERS: Final = 120


class Role(StrEnum):
    """What the owner of a certificate is in its federation."""

    COORDINATOR = "coordinator"
    CLIENT = "client"
    OPERATOR = "operator"
    DATA_SCIENTIST = "data-scientist"
    AUDITOR = "auditor"
    RECOVERY_OPERATOR = "recovery-operator"


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a certificate speaks for.

    Attributes:
        federation: the federation's name.
        role: what the owner is in it.
        name: the owner's name, unique within federation and role.
        serial: the certificate's serial number, > 0; what revocation names.
        not_after: the last second of the certificate's life, seconds since 1970-01-01 UTC.
        issuer_serial: the serial number of its issuer's certificate; 0 where it names none.
    """

    federation: str
    role: Role
    name: str
    serial: int
    not_after: float
    issuer_serial: int = 0

    @property
    def uri(self) -> str:
        """The identity as it stands in the certificate."""
        return identity_uri(self.federation, self.role, self.name)


def identity_uri(federation: str, role: Role, name: str) -> str:
    """Return ``kumiai://<federation>/<role>/<name>``.

    Raises:
        ConfigError: federation or name is not a valid name.
    """
    verify_name("federation", federation)
    verify_name("name", name)
    return f"kumiai://{federation}/{role.value}/{name}"


def identity_of(cert: bytes | x509.Certificate) -> Identity:
    """Return the identity that a certificate carries; fast for bytes seen before.

    Args:
        cert: PEM (the first certificate of a chain counts) or DER, at most 64 KiB, or parsed.

    Raises:
        CertificateError: it does not parse, or does not carry exactly one identity.
    """
    if isinstance(cert, x509.Certificate):
        return _identity_in(cert)
    return _identity_in_bytes(cert)


# A thousand clients at a few calls a second would otherwise parse the same bytes all day.
@functools.lru_cache(maxsize=4096)
def _identity_in_bytes(cert: bytes) -> Identity:
    return _identity_in(certificate_of(cert))


def certificate_of(cert: bytes) -> x509.Certificate:
    """Parse PEM (its first certificate) or DER.

    Raises:
        CertificateError: too long, or not a certificate.
    """
    if len(cert) > CERTIFICATE_SIZE_BYTES_MAX:
        raise CertificateError(
            f"certificate must be at most {CERTIFICATE_SIZE_BYTES_MAX} bytes, got {len(cert)}"
        )
    # DER is told by its first byte, a SEQUENCE. Searching for the PEM marker instead would let a
    # DER certificate smuggle in a second one as text inside one of its names.
    is_der = cert.startswith(b"\x30")
    load = x509.load_der_x509_certificate if is_der else x509.load_pem_x509_certificate
    try:
        return load(cert)
    except (ValueError, x509.InvalidVersion) as error:
        raise CertificateError(
            f"certificate must be X.509 version 3 in PEM or DER, got {len(cert)} bytes that do "
            "not parse"
        ) from error


def _identity_in(cert: x509.Certificate) -> Identity:
    # The library parses lazily: a damaged field shows itself only when it is read.
    try:
        uris = _uris_in(cert)
        serial = cert.serial_number
        not_after = cert.not_valid_after_utc.timestamp()
        issuer_serial = _issuer_serial_in(cert)
        for_sites = is_of_sites(cert.issuer)
    except (
        ValueError,
        TypeError,  # of a text in a name that is a string of bits
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ) as error:
        raise CertificateError(
            "certificate must have readable names, serial number and dates, got damaged ones"
        ) from error
    if serial <= 0:
        raise CertificateError(f"certificate's serial number must be > 0, got {serial}")
    if len(uris) != 1:
        raise CertificateError(
            f"certificate must carry exactly one URI name, got {len(uris)}; "
            "use a certificate from this federation's `kumiai ca issue`"
        )
    federation, role, name = _parts_of(uris[0])
    if for_sites and role is not Role.CLIENT:
        raise CertificateError(
            f"certificate of an issuer for sites must be a client's, got {uris[0]}; "
            "have it issued with `kumiai ca issue`, and look into that issuer's key"
        )
    return Identity(federation, role, name, serial, not_after, issuer_serial)


def _issuer_serial_in(cert: x509.Certificate) -> int:
    try:
        identifier = cert.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    except x509.ExtensionNotFound:
        return 0
    return int.from_bytes(identifier.key_identifier or b"", "big")


def is_of_sites(issuer: x509.Name) -> bool:
    """Whether a name is that of an issuer whose certificates are for clients alone."""
    units = issuer.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    return any(unit.value == SITES_UNIT for unit in units)


def _uris_in(cert: x509.Certificate) -> list[str]:
    try:
        names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return names.value.get_values_for_type(x509.UniformResourceIdentifier)


def _parts_of(uri: str) -> tuple[str, Role, str]:
    match = _URI.fullmatch(uri)
    if match is None:
        raise CertificateError(
            "certificate's URI name must be kumiai://<federation>/<role>/<name>, "
            f"got {_shortened(uri)!r}"
        )
    federation, role_text, name = match.groups()
    try:
        role = Role(role_text)
    except ValueError as error:
        raise CertificateError(
            f"certificate's role must be one of {', '.join(Role)}, got {_shortened(role_text)!r}"
        ) from error
    try:
        verify_name("certificate's federation", federation)
        verify_name("certificate's name", name)
    except ConfigError as error:
        raise CertificateError(str(error)) from error
    return federation, role, name


def _shortened(text: str) -> str:
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    return text[: _SHOWN_CHARACTERS - 3] + "..."
