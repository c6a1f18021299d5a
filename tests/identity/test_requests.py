import base64
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID, ObjectIdentifier
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from kumiai.core.errors import CertificateError, ConfigError, KumiaiError
from kumiai.identity import (
    CertificateManager,
    IssuedCertificate,
    RevocationList,
    Role,
    TrustBundle,
    identity_of,
    signing,
)
from kumiai.identity.index import IssuedRecord
from kumiai.identity.keys import new_key
from kumiai.identity.requests import CertificateRequest, _one_name, new_request, verify_request
from kumiai.identity.trust import chain_of

KEY = new_key()
ARMOUR = b"-----BEGIN CERTIFICATE REQUEST-----\n%s\n-----END CERTIFICATE REQUEST-----\n"
ROOT = signing.new_root_certificate("f", KEY, serial=9, not_before=0, not_after=4e9)
EVERYTHING = settings(max_examples=300, deadline=None)


def builder(name: str = "site-1") -> x509.CertificateSigningRequestBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return x509.CertificateSigningRequestBuilder(subject_name=subject)


def pem(
    made: x509.CertificateSigningRequestBuilder,
    key: Any = KEY,
    algorithm: hashes.HashAlgorithm | None = hashes.SHA256(),  # noqa: B008 - it has no state
) -> bytes:
    return made.sign(key, algorithm).public_bytes(serialization.Encoding.PEM)


def with_extension(extension: x509.ExtensionType, *, critical: bool = True) -> bytes:
    return pem(builder().add_extension(extension, critical=critical))


def unknown(*, critical: bool) -> bytes:
    oid = ObjectIdentifier("1.2.3.4")
    return with_extension(x509.UnrecognizedExtension(oid, b"\x05\x00"), critical=critical)


# ---------------------------------------------------------------- what is taken


def test_a_request_brings_the_key_and_the_name() -> None:
    request = verify_request(new_request(KEY, "site-1"))

    assert request.public_key == KEY.public_key()
    assert (request.common_name, request.uris) == ("site-1", ())


def test_a_request_may_leave_the_name_to_whoever_signs() -> None:
    request = verify_request(new_request(KEY))

    request.verify_for("anybody", "kumiai://hospitals/client/anybody")
    assert request.common_name is None


def test_a_name_that_breaks_the_rule_is_not_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"^name must be"):
        new_request(KEY, "a/b")


@pytest.mark.parametrize("algorithm", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
def test_a_request_may_be_signed_with_any_of_sha_2(algorithm: hashes.HashAlgorithm) -> None:
    assert verify_request(pem(builder(), algorithm=algorithm)).common_name == "site-1"


def test_the_longest_request_is_read_and_a_longer_one_is_not() -> None:
    longest = new_request(KEY, "site-1").ljust(16 * 1024, b"\n")

    assert verify_request(longest).common_name == "site-1"
    assert verify_request(b"\n" + longest[:-1]).common_name == "site-1"
    with pytest.raises(CertificateError, match="at most 16384 bytes, got 16385"):
        verify_request(longest + b"\n")


def test_p384_and_long_rsa_may_be_asked_for() -> None:
    keys = ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65_537, 3072)

    for key in keys:
        assert verify_request(pem(builder(), key)).public_key == key.public_key()


@pytest.mark.parametrize(
    "extension",
    [
        x509.BasicConstraints(ca=False, path_length=None),
        x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]),
        x509.KeyUsage(*[True] * 7, False, False),
        x509.SubjectAlternativeName([x509.DNSName("example.org")]),
    ],
)
def test_what_a_request_asks_for_beside_the_identity_is_not_granted(
    authority: CertificateManager, extension: x509.ExtensionType
) -> None:
    signed = authority.sign_request(with_extension(extension), Role.CLIENT, "site-1")

    certificate = chain_of(signed.chain)[0]
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [name.value for name in names] == ["kumiai://hospitals/client/site-1"]
    assert list(usage) == [x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]


def test_an_unknown_demand_is_left_out_unless_it_is_critical() -> None:
    assert verify_request(unknown(critical=False))
    with pytest.raises(CertificateError, match=r"critical extension 1\.2\.3\.4"):
        verify_request(unknown(critical=True))


# ---------------------------------------------------------------- what is refused


def test_a_request_for_an_authority_is_refused() -> None:
    with pytest.raises(CertificateError, match="must be for a member, got one for an authority"):
        verify_request(with_extension(x509.BasicConstraints(ca=True, path_length=None)))


def test_a_request_of_another_is_refused(authority: CertificateManager) -> None:
    uri = x509.UniformResourceIdentifier("kumiai://hospitals/operator/site-1")
    request = with_extension(x509.SubjectAlternativeName([uri]))

    with pytest.raises(CertificateError, match="must be for 'site-2' or leave the name out"):
        authority.sign_request(new_request(KEY, "site-1"), Role.CLIENT, "site-2")
    with pytest.raises(CertificateError, match="no other identity than kumiai://hospitals/client"):
        authority.sign_request(request, Role.CLIENT, "site-1")
    authority.sign_request(request, Role.OPERATOR, "site-1")


@pytest.mark.parametrize(
    ("uri", "shown"), [("u" * 80, "u" * 80), ("u" * 81, "u" * 77 + "...")], ids=["80", "81"]
)
def test_a_long_identity_is_cut_in_the_refusal(uri: str, shown: str) -> None:
    request = CertificateRequest(KEY.public_key(), None, (uri,))

    with pytest.raises(CertificateError, match=f"got '{shown}'$"):
        request.verify_for("a", "kumiai://f/client/a")


def test_a_long_name_is_cut_in_the_refusal() -> None:
    request = verify_request(pem(builder("x" * 64)))

    with pytest.raises(CertificateError) as caught:
        request.verify_for("a", "kumiai://f/client/a")

    assert len(str(caught.value)) < 200


def test_two_names_are_refused() -> None:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in "ab"])
    request = pem(x509.CertificateSigningRequestBuilder(subject_name=subject))

    with pytest.raises(CertificateError, match="one name at most, got 2"):
        verify_request(request)


def test_a_name_that_is_no_text_is_refused() -> None:
    bits = x509.NameAttribute(NameOID.X500_UNIQUE_IDENTIFIER, b"x", _ASN1Type.BitString)

    with pytest.raises(CertificateError, match="one name at most"):
        _one_name([bits])


def test_who_does_not_hold_the_key_is_refused() -> None:
    der = bytearray(base64.b64decode(b"".join(new_request(KEY).splitlines()[1:-1])))
    other = new_key().public_key()
    own = KEY.public_key()
    form = (serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    stolen = bytes(der).replace(own.public_bytes(*form), other.public_bytes(*form))

    with pytest.raises(CertificateError, match="must be signed by its own key"):
        verify_request(ARMOUR % base64.b64encode(stolen))


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (rsa.generate_private_key(65_537, 2048), "RSA of 2048 bits"),
        (ec.generate_private_key(ec.SECP521R1()), "curve secp521r1"),
        (ec.generate_private_key(ec.SECP256K1()), "curve secp256k1"),
    ],
)
def test_a_weak_or_unknown_key_is_refused(key: Any, words: str) -> None:
    with pytest.raises(CertificateError, match=words):
        verify_request(pem(builder(), key))


def test_a_key_of_another_kind_is_refused() -> None:
    with pytest.raises(CertificateError, match="got another kind"):
        verify_request(pem(builder(), ed25519.Ed25519PrivateKey.generate(), None))


def test_a_signature_with_another_hash_is_refused() -> None:
    with pytest.raises(CertificateError, match="with SHA-2"):
        verify_request(pem(builder(), algorithm=hashes.SHA3_256()))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "got 0 bytes that do not parse"),
        (b"\x30\x00", "do not parse"),
        (b"x" * (16 * 1024 + 1), "at most 16384 bytes, got 16385"),
        (new_request(KEY) * 2, "must be one PKCS#10 request"),
        (b"for site-1:\n" + new_request(KEY), "must be one PKCS#10 request"),
        (
            b"-----BEGIN CERTIFICATE REQUEST-----\nAA==\n-----END CERTIFICATE REQUEST-----\n",
            "parse",
        ),
    ],
)
def test_something_else_is_no_request(content: bytes, words: str) -> None:
    with pytest.raises(CertificateError, match=words):
        verify_request(content)


def test_a_certificate_and_a_key_are_no_request(client: IssuedCertificate) -> None:
    for path in (client.cert, client.key):
        with pytest.raises(CertificateError, match="do not parse"):
            verify_request(path.read_bytes())


# ---------------------------------------------------------------- laws


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=64))
@example("\x00")
@example("kumiai://hospitals/operator/eve")
@example("a" * 64)
@EVERYTHING
def test_any_name_in_a_request_is_our_name_or_refused(name: str) -> None:
    assume(len(name.encode()) <= 64)

    request = verify_request(pem(builder(name)))

    assert request.common_name == name
    with pytest.raises(CertificateError):
        request.verify_for(name + "x", "kumiai://f/client/x")


@given(
    name=st.from_regex(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){0,62}", fullmatch=True),
    days=st.integers(1, 3650),
    begin=st.sampled_from([0.0, 1.0, 2_524_607_999.0, 2_524_608_000.0, 4_102_444_800.0]),
)
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_is_signed_says_what_was_ordered_at_any_time(
    tmp_path: Path, clock: Any, name: str, days: int, begin: float
) -> None:
    # From 2050 on, dates are written otherwise (RFC 5280 section 4.1.2.5).
    clock.wall = begin + 1000.0
    manager = CertificateManager(tmp_path / f"ca-{len(list(tmp_path.iterdir()))}", clock=clock)
    manager.create("f", ca_days=3650)
    assume(name.lower() != "ca")

    signed = manager.sign_request(new_request(KEY, name), Role.CLIENT, name, days=days)

    certificate = chain_of(signed.chain)[0]
    assert identity_of(certificate) == signed.identity
    assert (signed.identity.name, signed.identity.role) == (name, Role.CLIENT)
    assert signed.identity.not_after == int(clock.now() + days * 86_400)
    assert TrustBundle.load(signed.trust_bundle).root_of(chain_of(signed.chain))
    assert certificate.public_key() == KEY.public_key()


# ---------------------------------------------------------------- anything at all


@given(st.binary(max_size=400))
@EVERYTHING
def test_no_bytes_break_the_parsers(content: bytes) -> None:
    wrapped = b"-----BEGIN %s-----\n" + base64.b64encode(content) + b"\n-----END %s-----\n"
    for parse, kind in _PARSERS:
        for text in (content, wrapped % (kind, kind)):
            _survives(parse, text)


@given(st.data())
@EVERYTHING
def test_no_mutation_of_a_real_one_breaks_the_parsers(data: st.DataObject) -> None:
    parse, kind = data.draw(st.sampled_from(_PARSERS))
    der = bytearray(_REAL[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(der) - 1))
        match data.draw(st.sampled_from(["set", "cut", "insert"])):
            case "set":
                der[at] = data.draw(st.integers(0, 255))
            case "cut":
                del der[at : at + data.draw(st.integers(1, 8))]
                assume(der)
            case _:
                der[at:at] = data.draw(st.binary(max_size=8))
    text = b"-----BEGIN %s-----\n%s\n-----END %s-----\n" % (
        kind,
        base64.b64encode(bytes(der)),
        kind,
    )

    _survives(parse, text)


def _survives(parse: Callable[[bytes], object], text: bytes) -> None:
    with contextlib.suppress(KumiaiError):
        parse(text)


def _real() -> dict[bytes, bytes]:
    record = IssuedRecord(7, Role.CLIENT, "a", (), 0.0, 4e9)
    member = signing.new_member_certificate(
        record, (), KEY.public_key(), issuer=ROOT, issuer_key=KEY
    )
    revoked = signing.new_revocation_list(
        (), number=1, updated_at=1, not_after=4e9, issuer=ROOT, issuer_key=KEY
    )
    form = serialization.Encoding.DER
    return {
        b"CERTIFICATE REQUEST": base64.b64decode(b"".join(new_request(KEY).splitlines()[1:-1])),
        b"CERTIFICATE": member.public_bytes(form),
        b"X509 CRL": revoked.public_bytes(form),
    }


_REAL = _real()
_PARSERS: list[tuple[Callable[[bytes], object], bytes]] = [
    (verify_request, b"CERTIFICATE REQUEST"),
    (identity_of, b"CERTIFICATE"),
    (lambda text: TrustBundle((ROOT,)).root_of(chain_of(text)), b"CERTIFICATE"),
    (TrustBundle.load, b"CERTIFICATE"),
    (lambda text: RevocationList.load(text, ROOT, now=2.0), b"X509 CRL"),
]
