"""What is signed has every field that the profile asks for, and no other."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kumiai.core.errors import CertificateError, ConfigError
from kumiai.identity import signing
from kumiai.identity.index import IssuedRecord, Revocation, RevocationReason
from kumiai.identity.keys import new_key
from kumiai.identity.names import Role
from kumiai.identity.signing import federation_of

ROOT_KEY, ISSUER_KEY, KEY = new_key(), new_key(), new_key()
BEGIN, END = 1_700_000_000.75, 1_800_000_000.75
ROOT = signing.new_root_certificate("f", ROOT_KEY, serial=9, not_before=BEGIN, not_after=END)
RECORD = IssuedRecord(7, Role.CLIENT, "a", (), BEGIN, END)
AUTHORITYS = {"key_cert_sign", "crl_sign"}
MEMBERS = {"digital_signature"}
USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
    *("key_agreement", "key_cert_sign", "crl_sign"),
)


def issuer(*, only_sites: bool = False) -> x509.Certificate:
    return signing.new_issuer_certificate(
        ISSUER_KEY.public_key(),
        only_sites=only_sites,
        serial=0xABC,
        not_before=BEGIN,
        not_after=END,
        root=ROOT,
        root_key=ROOT_KEY,
    )


ISSUER = issuer()


def member(record: IssuedRecord = RECORD, *hosts: Any) -> x509.Certificate:
    return signing.new_member_certificate(
        record, hosts, KEY.public_key(), issuer=ISSUER, issuer_key=ISSUER_KEY
    )


def names(name: x509.Name) -> list[tuple[str, Any]]:
    return [(each.rfc4514_attribute_name, each.value) for each in name]


def extensions(signed: Any) -> dict[str, Any]:
    """Return each extension by its name: whether it is critical, and what it says."""
    return {each.oid._name: (each.critical, said(each.value)) for each in signed.extensions}


def said(value: Any) -> Any:
    match value:
        case x509.BasicConstraints():
            return value.ca, value.path_length
        case x509.KeyUsage():
            return {usage for usage in USAGES if getattr(value, usage)}
        case x509.AuthorityKeyIdentifier():
            return value.key_identifier, value.authority_cert_issuer
        case x509.SubjectKeyIdentifier():
            return value.digest
        case x509.SubjectAlternativeName():
            return [str(name.value) for name in value]
        case x509.CRLNumber():
            return value.crl_number
        case x509.ExtendedKeyUsage():
            return list(value)
        case _:
            return value


def named(serial: int) -> bytes:
    return serial.to_bytes(20, "big")


def moments(certificate: x509.Certificate) -> tuple[float, float]:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begin.timestamp(), end.timestamp()


def test_dates_do_not_depend_on_where_the_machine_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        root = signing.new_root_certificate(
            "f", ROOT_KEY, serial=9, not_before=BEGIN, not_after=END
        )
    finally:
        monkeypatch.undo()
        time.tzset()

    assert moments(root) == (1_700_000_000.0, 1_800_000_000.0)


def test_a_root_signs_itself_and_issuers() -> None:
    assert names(ROOT.subject) == [("O", "f"), ("CN", "Kumiai federation root")]
    assert (ROOT.issuer, ROOT.serial_number) == (ROOT.subject, 9)
    assert moments(ROOT) == (1_700_000_000.0, 1_800_000_000.0)
    assert extensions(ROOT) == {
        "keyUsage": (True, AUTHORITYS),
        "subjectKeyIdentifier": (False, named(9)),
        "basicConstraints": (True, (True, 1)),
        "authorityKeyIdentifier": (False, (named(9), None)),
    }
    ROOT.verify_directly_issued_by(ROOT)


def test_an_issuer_signs_members_and_no_issuers() -> None:
    assert names(ISSUER.subject) == [("O", "f"), ("CN", "Kumiai federation issuer abc")]
    assert ISSUER.serial_number == 0xABC
    assert moments(ISSUER) == (1_700_000_000.0, 1_800_000_000.0)
    assert extensions(ISSUER) == {
        "keyUsage": (True, AUTHORITYS),
        "subjectKeyIdentifier": (False, named(0xABC)),
        "basicConstraints": (True, (True, 0)),
        "authorityKeyIdentifier": (False, (named(9), None)),
    }
    assert ISSUER.public_key() == ISSUER_KEY.public_key()
    ISSUER.verify_directly_issued_by(ROOT)


def test_an_issuer_for_sites_is_for_clients_alone() -> None:
    sites = issuer(only_sites=True)

    assert ("OU", "sites") in names(sites.subject)
    limits = extensions(sites)
    assert limits["extendedKeyUsage"] == (False, [ExtendedKeyUsageOID.CLIENT_AUTH])
    excluded = [
        x509.DNSName(""),
        x509.IPAddress(ip_network("0.0.0.0/0")),
        x509.IPAddress(ip_network("::/0")),
    ]
    assert limits["nameConstraints"] == (True, x509.NameConstraints(None, excluded))


def test_a_client_of_an_issuer_for_sites_has_no_common_name() -> None:
    signed = signing.new_member_certificate(
        RECORD, (), KEY.public_key(), issuer=issuer(only_sites=True), issuer_key=ISSUER_KEY
    )

    assert names(signed.subject) == [("O", "f"), ("UID", "a")]


def test_a_root_with_another_kind_of_key_follows_nobody() -> None:
    class WithRSA:
        @staticmethod
        def public_key() -> object:
            return rsa.generate_private_key(65_537, 2048).public_key()

    with pytest.raises(TypeError, match="must be an elliptic curve's, got RSAPublicKey"):
        signing.new_succession_certificate(
            WithRSA(),  # type: ignore[arg-type]
            serial=11,
            not_before=BEGIN,
            before=ROOT,
            key_before=ROOT_KEY,
        )


def test_a_member_may_show_itself_and_sign_nothing() -> None:
    signed = member()

    assert names(signed.subject) == [("O", "f"), ("CN", "a")]
    assert signed.serial_number == 7
    assert moments(signed) == (1_700_000_000.0, 1_800_000_000.0)
    digest = x509.SubjectKeyIdentifier.from_public_key(KEY.public_key()).digest
    assert extensions(signed) == {
        "basicConstraints": (True, (False, None)),
        "keyUsage": (True, MEMBERS),
        "extendedKeyUsage": (False, [ExtendedKeyUsageOID.CLIENT_AUTH]),
        "subjectAltName": (False, ["kumiai://f/client/a"]),
        "subjectKeyIdentifier": (False, digest),
        "authorityKeyIdentifier": (False, (named(0xABC), None)),
    }
    signed.verify_directly_issued_by(ISSUER)


def test_a_coordinator_is_a_server_and_a_client() -> None:
    record = IssuedRecord(8, Role.COORDINATOR, "c", ("localhost",), BEGIN, END)

    signed = extensions(member(record, x509.DNSName("localhost")))

    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    assert signed["extendedKeyUsage"] == (False, usages)
    assert signed["subjectAltName"] == (False, ["kumiai://f/coordinator/c", "localhost"])


@pytest.mark.parametrize(("ends", "end"), [(END - 10.0, END - 10.0), (END + 10.0, END)])
def test_a_root_names_the_next_one_until_one_of_them_ends(ends: float, end: float) -> None:
    following = signing.new_root_certificate("f", KEY, serial=10, not_before=BEGIN, not_after=ends)

    signed = signing.new_succession_certificate(
        following, serial=11, not_before=BEGIN, before=ROOT, key_before=ROOT_KEY
    )

    assert (signed.subject, signed.issuer) == (following.subject, ROOT.subject)
    assert signed.public_key() == KEY.public_key()
    assert moments(signed) == (1_700_000_000.0, float(int(end)))
    assert extensions(signed) == {
        "keyUsage": (True, AUTHORITYS),
        "subjectKeyIdentifier": (False, named(11)),
        "basicConstraints": (True, (True, 1)),
        "authorityKeyIdentifier": (False, (named(9), None)),
    }
    signed.verify_directly_issued_by(ROOT)


@pytest.mark.parametrize(
    ("reason", "flag"),
    [
        (RevocationReason.UNSPECIFIED, None),
        (RevocationReason.KEY_COMPROMISE, x509.ReasonFlags.key_compromise),
        (RevocationReason.AFFILIATION_CHANGED, x509.ReasonFlags.affiliation_changed),
        (RevocationReason.SUPERSEDED, x509.ReasonFlags.superseded),
        (RevocationReason.CESSATION_OF_OPERATION, x509.ReasonFlags.cessation_of_operation),
        (RevocationReason.PRIVILEGE_WITHDRAWN, x509.ReasonFlags.privilege_withdrawn),
    ],
)
def test_a_list_says_what_is_revoked_since_when_and_why(
    reason: RevocationReason, flag: x509.ReasonFlags | None
) -> None:
    signed = signing.new_revocation_list(
        [Revocation(7, BEGIN, reason)],
        number=5,
        updated_at=BEGIN,
        not_after=END,
        issuer=ISSUER,
        issuer_key=ISSUER_KEY,
    )

    (entry,) = signed
    assert entry.serial_number == 7
    assert entry.revocation_date_utc == datetime.fromtimestamp(1_700_000_000, tz=UTC)
    found = [(each.critical, each.value.reason) for each in entry.extensions]
    assert found == ([] if flag is None else [(False, flag)])
    assert extensions(signed) == {
        "cRLNumber": (False, 5),
        "authorityKeyIdentifier": (False, (named(0xABC), None)),
    }
    assert signed.issuer == ISSUER.subject
    assert signed.last_update_utc.timestamp() == 1_700_000_000.0
    assert signed.next_update_utc is not None
    assert signed.next_update_utc.timestamp() == 1_800_000_000.0
    assert signed.is_signature_valid(ISSUER_KEY.public_key())


def test_a_member_of_an_invalid_name_is_not_signed() -> None:
    with pytest.raises(ConfigError):
        member(IssuedRecord(7, Role.CLIENT, "a/b", (), BEGIN, END))


def test_an_authoritys_certificate_names_its_federation(authority_cert: x509.Certificate) -> None:
    assert federation_of(authority_cert) == "hospitals"


@pytest.mark.parametrize("organisations", [[], ["a", "b"]])
def test_none_or_two_federations_are_refused(
    new_certificate: Callable[..., x509.Certificate], organisations: list[str]
) -> None:
    certificate = new_certificate(None, organisations=organisations)

    with pytest.raises(CertificateError, match=f"one organisation, got {len(organisations)}"):
        federation_of(certificate)


def test_an_unreadable_subject_is_refused(new_certificate: Callable[..., x509.Certificate]) -> None:
    der = new_certificate(None).public_bytes(serialization.Encoding.DER)
    damaged = x509.load_der_x509_certificate(
        der.replace(b"\x0c\x09hosp", b"\x0c\x09\xff\xff\xff\xff")
    )

    with pytest.raises(CertificateError, match="readable subject"):
        federation_of(damaged)


def test_a_federation_that_is_no_text_is_none() -> None:
    class WithBytes:
        class subject:  # noqa: N801 - it stands for an attribute
            @staticmethod
            def get_attributes_for_oid(oid: x509.ObjectIdentifier) -> list[Any]:
                assert oid == NameOID.ORGANIZATION_NAME
                bits = _ASN1Type.BitString
                return [x509.NameAttribute(NameOID.X500_UNIQUE_IDENTIFIER, b"f", bits)]

    with pytest.raises(CertificateError, match="as its one organisation"):
        federation_of(WithBytes())  # type: ignore[arg-type]
