"""The certificates and lists that an authority signs, as pure functions of what goes into them.

Keys, serial numbers and times are arguments; ``authority.py`` draws them and keeps the files.

Profile (RFC 5280, sections 4 and 5): ECDSA on P-256 with SHA-256 throughout, which every TLS
library accepts (the one inside gRPC refuses Ed25519 certificates). The authority signs members
directly (path length 0) and carries its federation as organisation. A member carries one URI
name, a coordinator its hosts besides.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kumiai.core.errors import CertificateError
from kumiai.identity.index import IssuedIndex, IssuedRecord, RevocationReason
from kumiai.identity.names import Role, identity_uri

__all__ = [
    "federation_of",
    "new_authority_certificate",
    "new_member_certificate",
    "new_revocation_list",
]

_AUTHORITY_NAME: Final = "Kumiai federation authority"

_REASONS: Final = {
    RevocationReason.KEY_COMPROMISE: x509.ReasonFlags.key_compromise,
    RevocationReason.AFFILIATION_CHANGED: x509.ReasonFlags.affiliation_changed,
    RevocationReason.SUPERSEDED: x509.ReasonFlags.superseded,
    RevocationReason.CESSATION_OF_OPERATION: x509.ReasonFlags.cessation_of_operation,
    RevocationReason.PRIVILEGE_WITHDRAWN: x509.ReasonFlags.privilege_withdrawn,
}


def new_authority_certificate(
    federation: str,
    key: ec.EllipticCurvePrivateKey,
    *,
    serial: int,
    not_before: float,
    not_after: float,
) -> x509.Certificate:
    """Return a self-signed certificate for a federation's authority.

    Args:
        federation: its valid name.
        key: on P-256.
        serial: > 0.
        not_before: seconds since 1970-01-01 UTC; a fraction is cut off.
        not_after: same.
    """
    name = _subject(federation, _AUTHORITY_NAME)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder(issuer_name=name, subject_name=name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(_moment(not_before))
        .not_valid_after(_moment(not_after))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(is_authority=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )


def new_member_certificate(
    record: IssuedRecord,
    hosts: Sequence[x509.DNSName | x509.IPAddress],
    public_key: ec.EllipticCurvePublicKey,
    *,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    """Return a member's certificate.

    Args:
        record: who it is for, its serial number and dates.
        hosts: what a coordinator answers for.
        public_key: the member's, on P-256.
        authority: who signs.
        authority_key: the authority's key.
    """
    federation = federation_of(authority)
    uri = x509.UniformResourceIdentifier(identity_uri(federation, record.role, record.name))
    issuer_identifier = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return (
        x509.CertificateBuilder(
            issuer_name=authority.subject, subject_name=_subject(federation, record.name)
        )
        .public_key(public_key)
        .serial_number(record.serial)
        .not_valid_before(_moment(record.not_before))
        .not_valid_after(_moment(record.not_after))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(is_authority=False), critical=True)
        .add_extension(_extended_key_usage(record.role), critical=False)
        .add_extension(x509.SubjectAlternativeName([uri, *hosts]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_identifier.value),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )


def new_revocation_list(
    index: IssuedIndex,
    *,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    not_after: float,
) -> x509.CertificateRevocationList:
    """Return the list of the index's revoked certificates, with the index's number and date.

    Args:
        index: what was issued and revoked.
        authority: who signs.
        authority_key: the authority's key.
        not_after: when the list must have been replaced, seconds since 1970-01-01 UTC.
    """
    issuer_identifier = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    builder = (
        x509.CertificateRevocationListBuilder(issuer_name=authority.subject)
        .last_update(_moment(index.list_updated_at))
        .next_update(_moment(not_after))
        .add_extension(x509.CRLNumber(index.list_number), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_identifier.value),
            critical=False,
        )
    )
    for entry in _revoked_entries(index.records):
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(authority_key, hashes.SHA256())


def federation_of(authority: x509.Certificate) -> str:
    """Return the name of the federation that the authority's certificate is for.

    Raises:
        CertificateError: the certificate names none, or several.
    """
    try:
        names = authority.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    except ValueError as error:
        raise CertificateError("authority's certificate must have a readable subject") from error
    if len(names) != 1 or not isinstance(names[0].value, str):
        raise CertificateError(
            "authority's certificate must name its federation as its one organisation, "
            f"got {len(names)}; use the ca.crt that `kumiai ca init` made"
        )
    return names[0].value


def _subject(federation: str, name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, federation),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )


def _extended_key_usage(role: Role) -> x509.ExtendedKeyUsage:
    # A coordinator is also a client: of the other replicas, and of its own health check.
    if role is Role.COORDINATOR:
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    else:
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    return x509.ExtendedKeyUsage(usages)


def _revoked_entries(records: Iterable[IssuedRecord]) -> Iterable[x509.RevokedCertificate]:
    for record in records:
        if record.revoked_at is None:
            continue
        builder = x509.RevokedCertificateBuilder(
            serial_number=record.serial, revocation_date=_moment(record.revoked_at)
        )
        # RFC 5280 section 5.3.1: "unspecified" is said by leaving the reason out.
        if record.reason in _REASONS:
            reason = x509.CRLReason(_REASONS[record.reason])
            builder = builder.add_extension(reason, critical=False)
        yield builder.build()


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(seconds), tz=UTC)
