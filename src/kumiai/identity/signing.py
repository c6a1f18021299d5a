"""The certificates and lists that an authority signs, as pure functions of what goes into them.

Keys, serial numbers and times are arguments; who calls draws them and keeps the files.

Profile (RFC 5280, sections 4 and 5): ECDSA on P-256 with SHA-256 throughout, which every TLS
library accepts (the one inside gRPC refuses Ed25519 certificates). A root (path length 1) signs
issuers, an issuer (path length 0) signs members, and each carries its federation as organisation.
A member carries one URI name, a coordinator its hosts besides; an issuer for sites may name no
host (name constraints), nor sign what a server can show. The key of a root or an issuer is
named by its certificate's serial number, so that a member's certificate tells by itself which
issuer's revocation ends it.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kumiai.core.errors import CertificateError
from kumiai.identity.index import IssuedRecord, Revocation, RevocationReason
from kumiai.identity.keys import MemberKey
from kumiai.identity.names import (
    KEY_NAME_SIZE_BYTES,
    SITES_UNIT,
    Role,
    identity_uri,
    is_of_sites,
)

__all__ = [
    "federation_of",
    "new_issuer_certificate",
    "new_member_certificate",
    "new_revocation_list",
    "new_root_certificate",
    "new_succession_certificate",
]

_ROOT_NAME: Final = "Kumiai federation root"
_ISSUER_NAME: Final = "Kumiai federation issuer"

_ALL_HOSTS: Final = (
    x509.DNSName(""),
    x509.IPAddress(ip_network("0.0.0.0/0")),
    x509.IPAddress(ip_network("::/0")),
)

_REASONS: Final = {
    RevocationReason.KEY_COMPROMISE: x509.ReasonFlags.key_compromise,
    RevocationReason.AFFILIATION_CHANGED: x509.ReasonFlags.affiliation_changed,
    RevocationReason.SUPERSEDED: x509.ReasonFlags.superseded,
    RevocationReason.CESSATION_OF_OPERATION: x509.ReasonFlags.cessation_of_operation,
    RevocationReason.PRIVILEGE_WITHDRAWN: x509.ReasonFlags.privilege_withdrawn,
}


def new_root_certificate(
    federation: str,
    key: ec.EllipticCurvePrivateKey,
    *,
    serial: int,
    not_before: float,
    not_after: float,
) -> x509.Certificate:
    """Return a self-signed certificate for a federation's root.

    Args:
        federation: its valid name.
        key: on P-256.
        serial: > 0; its key is named by it, too.
        not_before: seconds since 1970-01-01 UTC; a fraction is cut off.
        not_after: same.
    """
    name = _subject(federation, _ROOT_NAME)
    return (
        _authority_builder(name, name, key.public_key(), serial, not_before, not_after)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(_named_by(serial), critical=False)
        .sign(key, hashes.SHA256())
    )


def new_succession_certificate(
    root: x509.Certificate,
    *,
    serial: int,
    not_before: float,
    before: x509.Certificate,
    key_before: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    """Return the certificate by which a root names the one that follows it.

    Args:
        root: the new one's, on P-256.
        serial: > 0.
        not_before: seconds since 1970-01-01 UTC; a fraction is cut off.
        before: the old root's; the succession ends with it.
        key_before: the old root's key.
    """
    public_key = root.public_key()
    if not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise TypeError(f"root's key must be an elliptic curve's, got {type(public_key).__name__}")
    end = min(before.not_valid_after_utc, root.not_valid_after_utc).timestamp()
    return (
        _authority_builder(root.subject, before.subject, public_key, serial, not_before, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(_signed_by(before), critical=False)
        .sign(key_before, hashes.SHA256())
    )


def new_issuer_certificate(
    public_key: ec.EllipticCurvePublicKey,
    *,
    only_sites: bool,
    serial: int,
    not_before: float,
    not_after: float,
    root: x509.Certificate,
    root_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    """Return the certificate of an issuer of members.

    Args:
        public_key: the issuer's, on P-256.
        only_sites: whether it may issue certificates of sites' clients alone, and none that a
            server can show.
        serial: > 0; its key is named by it, too.
        not_before: seconds since 1970-01-01 UTC; a fraction is cut off.
        not_after: same; not later than the root's.
        root: who signs.
        root_key: the root's key.
    """
    federation = federation_of(root)
    # Several issuers of one federation must have names of their own: a list is found by its name.
    name = _subject(federation, f"{_ISSUER_NAME} {serial:x}", only_sites=only_sites)
    builder = (
        _authority_builder(name, root.subject, public_key, serial, not_before, not_after)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_signed_by(root), critical=False)
    )
    if only_sites:
        # On an authority's certificate it limits what is below: TLS libraries refuse a server's
        # certificate from this one, whatever the server's own says.
        builder = builder.add_extension(_extended_key_usage(Role.CLIENT), critical=False)
        # Nor may it name a host. The role stands in the path of a URI, of which RFC 5280 (section
        # 4.2.1.10) lets us limit the host alone: `identity_of` judges that.
        builder = builder.add_extension(x509.NameConstraints(None, _ALL_HOSTS), critical=True)
    return builder.sign(root_key, hashes.SHA256())


def new_member_certificate(
    record: IssuedRecord,
    hosts: Sequence[x509.DNSName | x509.IPAddress],
    public_key: MemberKey,
    *,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    """Return a member's certificate.

    Args:
        record: who it is for, its serial number and dates.
        hosts: what a coordinator answers for.
        public_key: the member's.
        issuer: who signs.
        issuer_key: the issuer's key.
    """
    federation = federation_of(issuer)
    uri = x509.UniformResourceIdentifier(identity_uri(federation, record.role, record.name))
    return (
        x509.CertificateBuilder(
            issuer_name=issuer.subject, subject_name=_member_subject(federation, record, issuer)
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
        .add_extension(_signed_by(issuer), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def new_revocation_list(
    revoked: Iterable[Revocation],
    *,
    number: int,
    updated_at: float,
    not_after: float,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> x509.CertificateRevocationList:
    """Return the list of what an issuer, or a root, has revoked.

    Args:
        revoked: those of its certificates that are.
        number: higher than that of any list before.
        updated_at: when it was made, seconds since 1970-01-01 UTC.
        not_after: when it must have been replaced, same.
        issuer: who signs.
        issuer_key: the issuer's key.
    """
    builder = (
        x509.CertificateRevocationListBuilder(issuer_name=issuer.subject)
        .last_update(_moment(updated_at))
        .next_update(_moment(not_after))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(_signed_by(issuer), critical=False)
    )
    for each in revoked:
        builder = builder.add_revoked_certificate(_entry_of(each))
    return builder.sign(issuer_key, hashes.SHA256())


def federation_of(authority: x509.Certificate) -> str:
    """Return the name of the federation that a root's or issuer's certificate is for.

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


def _authority_builder(  # noqa: PLR0917 - private, and in the order of the certificate's fields
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    serial: int,
    not_before: float,
    not_after: float,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder(issuer_name=issuer, subject_name=subject)
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(_moment(not_before))
        .not_valid_after(_moment(not_after))
        .add_extension(_key_usage(is_authority=True), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier(serial.to_bytes(KEY_NAME_SIZE_BYTES, "big")), critical=False
        )
    )


def _named_by(serial: int) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier(serial.to_bytes(KEY_NAME_SIZE_BYTES, "big"), None, None)


def _signed_by(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    return _named_by(authority.serial_number)


def _subject(federation: str, name: str, *, only_sites: bool = False) -> x509.Name:
    unit = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, SITES_UNIT)] if only_sites else []
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, federation),
            *unit,
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _member_subject(federation: str, record: IssuedRecord, issuer: x509.Certificate) -> x509.Name:
    # OpenSSL takes a common name with a dot for a host, and an issuer for sites may name none.
    kind = NameOID.USER_ID if is_of_sites(issuer.subject) else NameOID.COMMON_NAME
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, federation),
            x509.NameAttribute(kind, record.name),
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


def _entry_of(revocation: Revocation) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder(
        serial_number=revocation.serial, revocation_date=_moment(revocation.at)
    )
    # RFC 5280 section 5.3.1: "unspecified" is said by leaving the reason out.
    if revocation.reason in _REASONS:
        reason = x509.CRLReason(_REASONS[revocation.reason])
        builder = builder.add_extension(reason, critical=False)
    return builder.build()


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(seconds), tz=UTC)
