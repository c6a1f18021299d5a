import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.x509.oid import NameOID

from kumiai.core.errors import CertificateError, NotFoundError
from kumiai.identity import (
    CertificateManager,
    IssuedCertificate,
    RevocationList,
    RevocationWatcher,
    TrustBundle,
)
from kumiai.identity.revocation import IssuerList, _list_of

DAY_SECONDS = 86_400


@pytest.fixture
def watcher(
    authority: CertificateManager, client: IssuedCertificate, clock: Any
) -> RevocationWatcher:
    return RevocationWatcher(authority.revocation_list_path, authority.certificate_path, clock)


def list_builder(
    issuer: x509.Name, *, number: int | None = 1, begin: float = 1e9, end: float = 4e9
) -> x509.CertificateRevocationListBuilder:
    builder = (
        x509.CertificateRevocationListBuilder(issuer_name=issuer)
        .last_update(datetime.fromtimestamp(begin, tz=UTC))
        .next_update(datetime.fromtimestamp(end, tz=UTC))
    )
    if number is None:
        return builder
    return builder.add_extension(x509.CRLNumber(number), critical=False)


def signed(
    builder: x509.CertificateRevocationListBuilder, key: ec.EllipticCurvePrivateKey
) -> bytes:
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


# ---------------------------------------------------------------- the list


def test_a_list_names_the_revoked(
    authority: CertificateManager,
    client: IssuedCertificate,
    coordinator: IssuedCertificate,
    clock: Any,
) -> None:
    authority.revoke("site-1")

    revocations = RevocationList.load(
        authority.revocation_list_path, authority.certificate_path, now=clock.now()
    )

    assert revocations.is_revoked(client.identity.serial)
    assert not revocations.is_revoked(coordinator.identity.serial)
    assert revocations.number == 2


def test_path_and_bytes_say_the_same(
    authority: CertificateManager,
    authority_cert: x509.Certificate,
    client: IssuedCertificate,
    clock: Any,
) -> None:
    authority.revoke("site-1")
    pem = authority.revocation_list_path.read_bytes()
    authorities = [
        authority.certificate_path,
        authority.certificate_path.read_bytes(),
        authority_cert,
        TrustBundle((authority_cert,)),
    ]

    lists = {
        RevocationList.load(source, trusted, now=clock.now())
        for source in (authority.revocation_list_path, pem)
        for trusted in authorities
    }

    assert len(lists) == 1


def test_a_list_of_another_authority_of_the_same_name_is_refused(
    authority: CertificateManager, stranger: IssuedCertificate, clock: Any
) -> None:
    with pytest.raises(CertificateError, match="must be signed by this federation's authority"):
        RevocationList.load(authority.revocation_list_path, stranger.ca, now=clock.now())


def test_a_list_is_good_if_one_of_several_authorities_signed_it(
    authority: CertificateManager, stranger: IssuedCertificate, clock: Any
) -> None:
    bundle = stranger.ca.read_bytes() + authority.certificate_path.read_bytes()

    assert RevocationList.load(authority.revocation_list_path, bundle, now=clock.now())


def test_a_list_in_the_name_of_another_authority_is_refused(
    authority_cert: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    clock: Any,
) -> None:
    issuer = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "banks")])

    with pytest.raises(CertificateError, match="must be signed by"):
        RevocationList.load(
            signed(list_builder(issuer), authority_key), authority_cert, now=clock.now()
        )


def loaded(content: bytes, root: x509.Certificate, now: float) -> RevocationList | None:
    try:
        return RevocationList.load(content, root, now=now)
    except CertificateError:
        return None


# The library warns of a country of many letters, and of the like.
@pytest.mark.filterwarnings("ignore:Attribute's length")
def test_a_changed_byte_never_makes_another_list(
    authority: CertificateManager, authority_cert: x509.Certificate, clock: Any
) -> None:
    pem = authority.revocation_list_path.read_bytes()
    whole = loaded(pem, authority_cert, clock.now())
    issuer, begin, text = pem.partition(b"-----BEGIN X509 CRL-----\n")
    der = base64.b64decode(text.partition(b"-----END")[0])

    found = []
    for at in range(len(der)):
        changed = base64.b64encode(der[:at] + bytes([der[at] ^ 1]) + der[at + 1 :])
        text = b"%s%s%s\n-----END X509 CRL-----\n" % (issuer, begin, changed)
        found.append(loaded(text, authority_cert, clock.now()))

    # How many bits of the signature's last byte do not count may be said in two ways.
    assert len([each for each in found if each is not None]) <= 1
    assert {each for each in found if each is not None} <= {whole}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "without one"),
        (b"\x30", "without one"),
        (b"junk", "without one"),
        (b"-----BEGIN X509 CRL-----\n", "that do not parse"),
        (b"-----BEGIN X509 CRL-----\nAA==\n-----END X509 CRL-----\n", "that do not parse"),
    ],
)
def test_bytes_that_are_no_list_are_refused(
    authority_cert: x509.Certificate, content: bytes, words: str
) -> None:
    with pytest.raises(CertificateError, match=f"got {len(content)} bytes {words}"):
        RevocationList.load(content, authority_cert, now=0)


def test_an_authority_whose_key_cannot_sign_is_refused(
    authority: CertificateManager, authority_key: ec.EllipticCurvePrivateKey, clock: Any
) -> None:
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "a")])
    mute = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name)
        .public_key(x25519.X25519PrivateKey.generate().public_key())
        .serial_number(1)
        .not_valid_before(datetime.fromtimestamp(0, tz=UTC))
        .not_valid_after(datetime.fromtimestamp(4e9, tz=UTC))
        .sign(authority_key, hashes.SHA256())
    )

    with pytest.raises(CertificateError):
        RevocationList.load(signed(list_builder(name), authority_key), mute, now=clock.now())


def test_a_list_is_good_until_its_last_second(
    authority_cert: x509.Certificate, authority_key: ec.EllipticCurvePrivateKey
) -> None:
    content = signed(list_builder(authority_cert.subject, end=2e9), authority_key)

    assert RevocationList.load(content, authority_cert, now=2e9)
    with pytest.raises(CertificateError, match=r"expired 1 s ago; .*`kumiai ca crl`"):
        RevocationList.load(content, authority_cert, now=2e9 + 1)


def test_a_list_may_be_five_minutes_from_the_future_for_clocks_differ(
    authority_cert: x509.Certificate, authority_key: ec.EllipticCurvePrivateKey
) -> None:
    content = signed(list_builder(authority_cert.subject, begin=2e9), authority_key)

    assert RevocationList.load(content, authority_cert, now=2e9 - 300)
    with pytest.raises(CertificateError, match="made 301 s from now; check this machine's clock"):
        RevocationList.load(content, authority_cert, now=2e9 - 301)


@pytest.mark.parametrize(
    "condition",
    [
        x509.DeltaCRLIndicator(1),
        x509.IssuingDistributionPoint(
            full_name=None,
            relative_name=None,
            only_contains_user_certs=True,
            only_contains_ca_certs=False,
            only_some_reasons=None,
            indirect_crl=False,
            only_contains_attribute_certs=False,
        ),
    ],
)
def test_a_partial_list_is_refused(
    authority_cert: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    clock: Any,
    condition: x509.ExtensionType,
) -> None:
    builder = list_builder(authority_cert.subject).add_extension(condition, critical=True)

    with pytest.raises(CertificateError, match="must be a whole one"):
        RevocationList.load(signed(builder, authority_key), authority_cert, now=clock.now())


def test_a_list_without_a_number_is_refused(
    authority_cert: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    clock: Any,
) -> None:
    content = signed(list_builder(authority_cert.subject, number=None), authority_key)

    with pytest.raises(CertificateError, match="must have a number and an end"):
        RevocationList.load(content, authority_cert, now=clock.now())


def test_a_list_without_an_end_is_refused(authority_cert: x509.Certificate) -> None:
    class Endless:
        """What the library can read and will not make."""

        issuer = authority_cert.subject
        extensions = (x509.Extension(x509.CRLNumber.oid, critical=False, value=x509.CRLNumber(1)),)
        next_update_utc = None

        def is_signature_valid(self, key: object) -> bool:
            return True

    bundle = TrustBundle((authority_cert,))

    with pytest.raises(CertificateError, match="must have a number and an end"):
        _list_of(Endless(), [authority_cert], bundle)  # type: ignore[arg-type]


def test_a_missing_list_is_named(tmp_path: Path, authority_cert: x509.Certificate) -> None:
    with pytest.raises(NotFoundError, match="revocation list must exist"):
        RevocationList.load(tmp_path / "ca.crl", authority_cert, now=0)


def issuers_list(
    issuer: int = 2, *, number: int = 5, begin: float = 10.0, end: float = 90.0
) -> IssuerList:
    return IssuerList(
        issuer=issuer,
        root=1,
        not_after=100.0,
        serials=frozenset(),
        number=number,
        this_update=begin,
        next_update=end,
    )


def test_several_lists_are_as_new_as_the_newest_and_end_with_the_first() -> None:
    lists = (
        issuers_list(2, number=5, begin=10.0, end=90.0),
        issuers_list(3, number=7, begin=20.0, end=80.0),
        issuers_list(4, number=6, begin=15.0, end=85.0),
    )

    revocations = RevocationList(lists, frozenset())

    assert (revocations.number, revocations.this_update, revocations.next_update) == (7, 20.0, 80.0)


@pytest.mark.parametrize(
    ("lists", "number", "got"),
    [
        ((issuers_list(number=4),), 5, "4"),
        ((issuers_list(number=0),), 5, "0"),
        ((), 5, "none"),
        ((), 1, "none"),
        ((issuers_list(3, number=9),), 5, "none"),
    ],
)
def test_a_list_that_is_older_or_missing_is_refused(
    lists: tuple[IssuerList, ...], number: int, got: str
) -> None:
    old = RevocationList((issuers_list(number=number),), frozenset())
    fresh = RevocationList(lists, frozenset({3}))

    with pytest.raises(CertificateError, match=f"older than number {number}, got {got};"):
        fresh.verify_not_older(old, roots={1}, now=100.0)


@pytest.mark.parametrize(
    ("roots", "now", "revoked"),
    [({9}, 50.0, frozenset()), ({1}, 100.5, frozenset()), ({1}, 50.0, frozenset({2}))],
    ids=["its root is not trusted", "its issuer has ended", "its issuer is revoked"],
)
def test_a_list_may_be_missing_once_its_issuer_vouches_for_nobody(
    roots: set[int], now: float, revoked: frozenset[int]
) -> None:
    old = RevocationList((issuers_list(),), frozenset())

    RevocationList((), revoked).verify_not_older(old, roots=roots, now=now)


# ---------------------------------------------------------------- the watcher


def test_a_watcher_gives_the_same_list_while_the_file_stays(watcher: RevocationWatcher) -> None:
    assert watcher.current() is watcher.current()
    assert watcher.error is None


def test_a_watcher_sees_a_revocation_at_once(
    watcher: RevocationWatcher, authority: CertificateManager, client: IssuedCertificate
) -> None:
    assert not watcher.current().is_revoked(client.identity.serial)

    authority.revoke("site-1")

    assert watcher.current().is_revoked(client.identity.serial)
    assert watcher.error is None


def test_a_watcher_does_not_begin_without_a_good_list(
    authority: CertificateManager,
    stranger: IssuedCertificate,
    tmp_path: Path,
    clock: Any,
) -> None:
    with pytest.raises(NotFoundError):
        RevocationWatcher(tmp_path / "no.crl", authority.certificate_path, clock)
    with pytest.raises(CertificateError):
        RevocationWatcher(authority.revocation_list_path, stranger.ca, clock)


@pytest.mark.parametrize("content", [b"", b"half a li"])
def test_a_broken_file_leaves_the_last_good_list_in_force(
    watcher: RevocationWatcher,
    authority: CertificateManager,
    client: IssuedCertificate,
    content: bytes,
) -> None:
    authority.revoke("site-1")
    good = watcher.current()

    authority.revocation_list_path.write_bytes(content)

    assert watcher.current() is good
    assert isinstance(watcher.error, CertificateError)


def test_a_removed_file_leaves_the_last_good_list_in_force(
    watcher: RevocationWatcher, authority: CertificateManager
) -> None:
    good = watcher.current()

    authority.revocation_list_path.unlink()

    assert watcher.current() is good
    assert isinstance(watcher.error, NotFoundError)


def test_a_good_file_after_a_broken_one_clears_the_error(
    watcher: RevocationWatcher, authority: CertificateManager
) -> None:
    authority.revocation_list_path.write_bytes(b"broken")
    watcher.current()

    authority.revocation_list()

    assert watcher.current().number == 2
    assert watcher.error is None


def test_an_older_list_cannot_bring_the_revoked_back(
    watcher: RevocationWatcher, authority: CertificateManager, client: IssuedCertificate
) -> None:
    old = authority.revocation_list_path.read_bytes()
    authority.revoke("site-1")
    watcher.current()

    authority.revocation_list_path.write_bytes(old)

    assert watcher.current().is_revoked(client.identity.serial)
    assert "must not be older than number 2, got 1" in str(watcher.error)


def test_the_same_list_written_again_is_no_error(
    watcher: RevocationWatcher, authority: CertificateManager
) -> None:
    content = authority.revocation_list_path.read_bytes()

    authority.revocation_list_path.unlink()
    authority.revocation_list_path.write_bytes(content)

    assert watcher.current().number == 1
    assert watcher.error is None


def test_a_bad_file_is_tried_again_after_a_while(
    authority: CertificateManager,
    authority_cert: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    watcher: RevocationWatcher,
    clock: Any,
) -> None:
    early = clock.now() + 302
    content = signed(
        list_builder(authority_cert.subject, number=9, begin=int(early)), authority_key
    )
    before = authority.revocation_list_path.read_bytes()
    authority.revocation_list_path.write_bytes(before + content)
    watcher.current()
    error = watcher.error

    clock.advance(4.5)
    early_number = watcher.current().number
    same = watcher.error
    clock.advance(0.5)
    late_number = watcher.current().number

    assert (early_number, late_number) == (1, 9)
    assert error is same
    assert watcher.error is None


def test_a_list_that_expires_stays_in_force_and_is_reported(
    watcher: RevocationWatcher, clock: Any
) -> None:
    good = watcher.current()
    clock.advance(366 * DAY_SECONDS)

    assert watcher.current() is good
    assert "expired" in str(watcher.error)


def test_a_list_signed_with_another_key_is_refused(
    authority: CertificateManager, authority_cert: x509.Certificate, clock: Any
) -> None:
    forged = signed(list_builder(authority_cert.subject), ec.generate_private_key(ec.SECP256R1()))

    with pytest.raises(CertificateError, match="must be signed by"):
        RevocationList.load(forged, authority_cert, now=clock.now())
