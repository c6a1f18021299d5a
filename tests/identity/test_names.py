from collections.abc import Callable, Sequence
from dataclasses import FrozenInstanceError

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kumiai.core.errors import CertificateError, ConfigError
from kumiai.identity import (
    CertificateManager,
    Identity,
    IssuedCertificate,
    Role,
    identity_of,
    identity_uri,
)
from kumiai.identity.names import CERTIFICATE_SIZE_BYTES_MAX

NAMES = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_-]|\.(?!\.)){0,62}", fullmatch=True)
FIXTURES_ARE_FUNCTIONS = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None
)


def uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


def test_a_certificate_in_pem_in_der_and_parsed_carries_the_same_identity(
    client: IssuedCertificate, issuer_cert: x509.Certificate
) -> None:
    pem = client.cert.read_bytes()
    parsed = x509.load_pem_x509_certificate(pem)
    der = parsed.public_bytes(serialization.Encoding.DER)

    identities = {identity_of(pem), identity_of(der), identity_of(parsed)}

    assert identities == {client.identity}
    assert client.identity == Identity(
        "hospitals",
        Role.CLIENT,
        "site-1",
        parsed.serial_number,
        parsed.not_valid_after_utc.timestamp(),
        issuer_cert.serial_number,
    )


def test_the_words_that_stand_in_certificates_stay() -> None:
    assert [*Role] == [
        *("coordinator", "client", "operator", "data-scientist", "auditor", "recovery-operator")
    ]


def test_an_issuer_is_named_by_its_serial_number_in_twenty_bytes(
    client: IssuedCertificate, issuer_cert: x509.Certificate
) -> None:
    parsed = x509.load_pem_x509_certificate(client.cert.read_bytes())

    named = parsed.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value

    assert named.key_identifier == issuer_cert.serial_number.to_bytes(20, "big")


@pytest.mark.parametrize(
    "extensions",
    [(), (x509.AuthorityKeyIdentifier(None, [x509.DNSName("issuer")], 7),)],
    ids=["no word of an issuer", "an issuer without a key's name"],
)
def test_a_certificate_that_names_no_issuers_key_says_zero(
    new_certificate: Callable[..., x509.Certificate], extensions: Sequence[x509.ExtensionType]
) -> None:
    certificate = new_certificate([uri("kumiai://f/client/a")], extensions=extensions)

    identity = identity_of(certificate)

    assert identity.issuer_serial == 0
    assert identity == Identity("f", Role.CLIENT, "a", 7, identity.not_after)


def test_an_issuer_for_sites_makes_clients_and_nobody_else(
    new_certificate: Callable[..., x509.Certificate],
) -> None:
    def issued(unit: str, role: Role) -> x509.Certificate:
        issuer = x509.Name([x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit)])
        return new_certificate([uri(identity_uri("f", role, "a"))], issuer=issuer)

    assert identity_of(issued("sites", Role.CLIENT)).role is Role.CLIENT
    assert identity_of(issued("others", Role.OPERATOR)).role is Role.OPERATOR
    with pytest.raises(CertificateError, match=r"must be a client's, got kumiai://f/operator/a"):
        identity_of(issued("sites", Role.OPERATOR))


def test_the_same_bytes_are_parsed_once(client: IssuedCertificate) -> None:
    pem = client.cert.read_bytes()

    first = identity_of(pem)

    assert identity_of(bytes(bytearray(pem))) is first


def test_an_identity_cannot_be_changed(client: IssuedCertificate) -> None:
    with pytest.raises(FrozenInstanceError):
        client.identity.role = Role.OPERATOR


def test_the_first_certificate_of_a_chain_counts(
    client: IssuedCertificate, authority: CertificateManager
) -> None:
    chain = client.cert.read_bytes() + authority.certificate_path.read_bytes()

    assert identity_of(chain) == client.identity


@given(federation=NAMES, role=st.sampled_from(Role), name=NAMES)
@FIXTURES_ARE_FUNCTIONS
def test_what_is_written_into_a_certificate_is_read_from_it(
    new_certificate: Callable[..., x509.Certificate], federation: str, role: Role, name: str
) -> None:
    certificate = new_certificate([uri(identity_uri(federation, role, name))])

    identity = identity_of(certificate)

    assert (identity.federation, identity.role, identity.name) == (federation, role, name)
    assert identity.uri == identity_uri(federation, role, name)


@given(not_after=st.integers(1, 253_402_300_799))
@FIXTURES_ARE_FUNCTIONS
def test_the_end_of_life_is_read_to_the_second(
    new_certificate: Callable[..., x509.Certificate], not_after: int
) -> None:
    certificate = new_certificate([uri("kumiai://f/client/a")], not_after=not_after)

    assert identity_of(certificate).not_after == not_after


@given(text=st.text(st.characters(max_codepoint=127), max_size=80))
@FIXTURES_ARE_FUNCTIONS
def test_any_other_uri_is_refused(
    new_certificate: Callable[..., x509.Certificate], text: str
) -> None:
    certificate = new_certificate([uri(text)])

    with pytest.raises(CertificateError):
        identity_of(certificate)


@pytest.mark.filterwarnings(
    "ignore:Parsed a serial number:Warning",
    "ignore:The parsed:Warning",
    "ignore:Attribute's length",
)
@given(at=st.integers(0, 400), value=st.integers(0, 255))
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None
)
def test_a_changed_byte_never_escapes_as_another_error(
    new_certificate: Callable[..., x509.Certificate], at: int, value: int
) -> None:
    certificate = new_certificate([uri("kumiai://f/client/a")], not_after=1e9)
    der = bytearray(certificate.public_bytes(serialization.Encoding.DER))
    der[at % len(der)] = value

    try:
        identity = identity_of(bytes(der))
    except CertificateError:
        return

    assert isinstance(identity, Identity)


@pytest.mark.parametrize(
    "text",
    [
        "kumiai://f/client/a/",
        "kumiai://f/client/a/b",
        "kumiai:///client/a",
        "kumiai://f//a",
        "kumiai://f/client/",
        "kumiai:/f/client/a",
        "KUMIAI://f/client/a",
        "https://f/client/a",
        "xkumiai://f/client/a",
        "kumiai://f/client/a?b",
        "kumiai://f/client/a#b",
        "kumiai://f/client/%61",
        "kumiai://f/client/a\n",
        "kumiai://f/client/..",
        "kumiai://f/client/a..b",
        "kumiai://u@f/client/a",
        "kumiai://f:1/client/a",
        "kumiai://f/client/" + "a" * 64,
        "kumiai://" + "f" * 64 + "/client/a",
    ],
)
def test_a_uri_that_is_nearly_right_is_refused(
    new_certificate: Callable[..., x509.Certificate], text: str
) -> None:
    certificate = new_certificate([uri(text)])

    with pytest.raises(CertificateError, match="must be"):
        identity_of(certificate)


@pytest.mark.parametrize("role", ["Client", "admin", " client", "r" * 120, "r" * 1000])
def test_an_unknown_role_is_refused_by_name(
    new_certificate: Callable[..., x509.Certificate], role: Role
) -> None:
    certificate = new_certificate([uri(f"kumiai://f/{role}/a")])

    with pytest.raises(CertificateError, match="must be one of coordinator, client") as caught:
        identity_of(certificate)

    shown = role if len(role) <= 120 else role[:117] + "..."
    assert str(caught.value).endswith(f", got {shown!r}")


def test_a_long_uri_is_shortened_in_the_message(
    new_certificate: Callable[..., x509.Certificate],
) -> None:
    certificate = new_certificate([uri("x" * 5000)])

    with pytest.raises(CertificateError) as caught:
        identity_of(certificate)

    assert str(caught.value).endswith(f"got '{'x' * 117}...'")


@pytest.mark.parametrize(
    ("names", "count"),
    [
        (None, 0),
        ([x509.DNSName("kumiai://f/client/a")], 0),
        ([uri("kumiai://f/client/a"), uri("kumiai://f/operator/a")], 2),
        ([uri("kumiai://f/client/a"), uri("https://example.org")], 2),
    ],
)
def test_none_or_several_uris_are_refused(
    new_certificate: Callable[..., x509.Certificate],
    names: list[x509.GeneralName] | None,
    count: int,
) -> None:
    certificate = new_certificate(names)

    with pytest.raises(CertificateError, match=f"exactly one URI name, got {count}"):
        identity_of(certificate)


def test_other_kinds_of_names_may_stand_beside_the_uri(
    new_certificate: Callable[..., x509.Certificate],
) -> None:
    certificate = new_certificate([x509.DNSName("localhost"), uri("kumiai://f/coordinator/a")])

    assert identity_of(certificate).role is Role.COORDINATOR


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x30",
        b"\x30\x82",
        b"not a certificate",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n!\n",
    ],
)
def test_bytes_that_are_no_certificate_are_refused(content: bytes) -> None:
    with pytest.raises(CertificateError, match=f"got {len(content)} bytes that do not parse"):
        identity_of(content)


def test_the_longest_certificate_is_parsed_and_a_longer_one_is_not(
    client: IssuedCertificate,
) -> None:
    longest = client.cert.read_bytes().ljust(CERTIFICATE_SIZE_BYTES_MAX, b"\n")

    assert identity_of(longest) == client.identity
    with pytest.raises(CertificateError, match="must be at most 65536 bytes, got 65537"):
        identity_of(longest + b"\n")


def test_a_certificate_hidden_in_another_ones_names_is_not_found(
    new_certificate: Callable[..., x509.Certificate], pem_of: Callable[[x509.Certificate], bytes]
) -> None:
    hidden = pem_of(new_certificate([uri("kumiai://f/operator/a")])).decode()
    outer = new_certificate([uri("kumiai://f/client/a"), x509.DNSName(hidden)])

    identity = identity_of(outer.public_bytes(serialization.Encoding.DER))

    assert identity.role is Role.CLIENT


def test_a_private_key_is_not_taken_for_a_certificate_nor_shown(client: IssuedCertificate) -> None:
    with pytest.raises(CertificateError) as caught:
        identity_of(client.key.read_bytes())

    assert "PRIVATE" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Parsed a serial number:Warning")
def test_a_serial_number_below_one_is_refused(
    new_certificate: Callable[..., x509.Certificate],
) -> None:
    der = bytearray(
        new_certificate([uri("kumiai://f/client/a")]).public_bytes(serialization.Encoding.DER)
    )
    der[der.index(b"\x02\x01\x07") + 2] = 0

    with pytest.raises(CertificateError, match="serial number must be > 0, got 0"):
        identity_of(bytes(der))
    der[der.index(b"\x02\x01\x00") + 2] = 1
    assert identity_of(bytes(der)).serial == 1


def test_damaged_names_are_refused(new_certificate: Callable[..., x509.Certificate]) -> None:
    der = new_certificate([uri("kumiai://f/client/a")]).public_bytes(serialization.Encoding.DER)
    damaged = der.replace(b"\x86\x13kumiai", b"\x86\x12kumiai")

    assert damaged != der
    with pytest.raises(CertificateError, match="must have readable names"):
        identity_of(damaged)


@pytest.mark.parametrize(
    ("federation", "name", "wrong"),
    [
        ("a/b", "c", "federation"),
        ("a", "b/c", "name"),
        ("", "a", "federation"),
        ("a", "", "name"),
    ],
)
def test_no_uri_is_made_of_an_invalid_name(federation: str, name: str, wrong: str) -> None:
    with pytest.raises(ConfigError, match=f"^{wrong} must"):
        identity_uri(federation, Role.CLIENT, name)
