"""Each way of not getting in has a kind of its own; a good peer gets in."""

from collections.abc import Sequence
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import CertificateError
from kumiai.identity import (
    Denial,
    Identity,
    NoDenials,
    PeerRefusedError,
    PeerRules,
    Refusal,
    Role,
    TrustBundle,
    read_peer,
    verify_peer,
)
from kumiai.identity.check import _verify_strong
from tests.identity.forge import CLIENT, Forged, forge, forge_authority, rsa_key

NOW = 1.7e9

ROOT = forge_authority()
ISSUER = forge_authority(by=ROOT, serial=2, path_length=0, name="issuer")
MEMBER = forge(by=ISSUER)
TRUST = TrustBundle((ROOT.certificate,))


class Revoked:
    """A revocation list with these serial numbers."""

    def __init__(self, *serials: int) -> None:
        self.serials = serials

    def is_revoked(self, serial: int) -> bool:
        return serial in self.serials


class Denied:
    """Denies the one site, for one reason."""

    def __init__(self, denial: Denial) -> None:
        self.denial = denial

    def is_denied(self, identity: Identity) -> Denial | None:
        return self.denial if identity.name == "site-1" else None


def admitted(
    *chain: bytes,
    now: float = NOW,
    federation: str = "hospitals",
    revoked: Any = None,
    denials: Any = None,
    trust: TrustBundle = TRUST,
) -> Identity:
    rules = PeerRules(federation, revoked, denials or NoDenials(), clock_skew_seconds=60.0)
    return verify_peer(read_peer(chain, trust), rules, now)


def refusal(*chain: bytes, **changes: Any) -> Refusal:
    with pytest.raises(PeerRefusedError) as caught:
        admitted(*chain, **changes)
    return caught.value.refusal


def test_a_good_peer_is_told_by_its_identity() -> None:
    identity = admitted(MEMBER.pem, ISSUER.pem)

    assert (identity.role, identity.name, identity.serial) == (Role.CLIENT, "site-1", 7)
    assert admitted(MEMBER.der, ISSUER.der) == identity
    assert admitted(MEMBER.pem, ISSUER.pem, ROOT.pem) == identity
    assert admitted(MEMBER.pem, ISSUER.pem, revoked=Revoked(99)) == identity


@pytest.mark.parametrize("chain", [(MEMBER, ISSUER), (MEMBER, ISSUER, ROOT)])
def test_revocation_is_asked_of_all_but_the_root(chain: Sequence[Forged]) -> None:
    assert read_peer([each.pem for each in chain], TRUST).serials == (7, 2)


def test_the_kinds_keep_their_words_which_stand_in_logs_and_in_the_audit() -> None:
    words = {
        *("no-certificate", "oversized-chain", "unreadable", "self-signed", "wrong-authority"),
        *("weak-key", "wrong-usage", "wrong-identity", "wrong-federation", "not-yet-valid"),
        *("expired", "revoked", "suspended", "removed", "bad-token", "missing-permission"),
        *("bad-enrolment", "already-attached", "rate-limited", "locked-out", "old-tls"),
        *("bad-handshake", "no-call"),
    }

    assert words <= set(Refusal)


def test_a_refusal_tells_people_what_and_programs_when_to_try_again() -> None:
    error = PeerRefusedError(
        Refusal.BAD_TOKEN, "token must be ours", retry_seconds=3.0, token_id="abc"
    )

    assert (str(error), error.retry_seconds, error.token_id) == ("token must be ours", 3.0, "abc")
    assert PeerRefusedError(Refusal.EXPIRED, "no").token_id == ""


def test_a_peer_may_be_signed_by_the_root_itself() -> None:
    assert admitted(forge(by=ROOT).pem).name == "site-1"


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP384R1()), rsa_key(3072)], ids=["P-384", "RSA-3072"]
)
def test_other_strong_keys_are_welcome(key: Any) -> None:
    assert admitted(forge(by=ROOT, key=key).pem)


def test_no_certificate_is_refused() -> None:
    assert refusal() is Refusal.NO_CERTIFICATE


def test_a_certificate_that_does_not_parse_is_refused() -> None:
    assert refusal(b"junk") is Refusal.UNREADABLE
    assert refusal(MEMBER.pem, b"junk") is Refusal.UNREADABLE


@pytest.mark.parametrize("chain", [[MEMBER.pem] * 5, [MEMBER.pem, b"x" * 33_000]])
def test_an_oversized_chain_is_refused_before_it_is_parsed(chain: list[bytes]) -> None:
    assert refusal(*chain) is Refusal.OVERSIZED_CHAIN


def test_a_chain_of_the_largest_size_is_still_read() -> None:
    largest = b"x" * (32 * 1024 - len(MEMBER.pem))

    assert refusal(MEMBER.pem, largest) is Refusal.UNREADABLE
    assert refusal(MEMBER.pem, largest + b"x") is Refusal.OVERSIZED_CHAIN
    assert refusal(b"", b"", b"", b"") is Refusal.UNREADABLE


def test_a_self_signed_certificate_is_refused() -> None:
    assert refusal(forge().pem) is Refusal.SELF_SIGNED
    assert refusal(forge().pem, ISSUER.pem) is Refusal.WRONG_AUTHORITY


def test_a_certificate_of_another_authority_of_the_same_name_is_refused() -> None:
    other = forge_authority()

    assert refusal(forge(by=other).pem) is Refusal.WRONG_AUTHORITY
    assert refusal(forge(by=other).pem, other.pem) is Refusal.WRONG_AUTHORITY


def test_a_chain_with_a_missing_link_is_refused() -> None:
    assert refusal(MEMBER.pem) is Refusal.WRONG_AUTHORITY
    assert refusal(MEMBER.pem, ROOT.pem) is Refusal.WRONG_AUTHORITY


@pytest.mark.parametrize(
    "issuer",
    [
        forge(by=ROOT, name="member", serial=3),
        forge(by=ROOT, name="member", serial=3, may_sign=True),
        forge_authority(by=ROOT, may_sign=False, serial=3),
        forge(by=ROOT, name="member", serial=3, with_constraints=False, may_sign=True),
        forge_authority(by=ISSUER, name="second", serial=3, path_length=None),
    ],
    ids=["a member", "a member with usage", "no usage", "no constraints", "too deep"],
)
def test_who_may_not_sign_makes_no_members(issuer: Forged) -> None:
    assert refusal(forge(by=issuer).pem, issuer.pem, ISSUER.pem) is Refusal.WRONG_AUTHORITY


def test_a_root_that_is_no_longer_trusted_vouches_for_nobody() -> None:
    assert refusal(MEMBER.pem, ISSUER.pem, trust=TrustBundle((forge_authority().certificate,))) is (
        Refusal.WRONG_AUTHORITY
    )


@pytest.mark.parametrize(
    "key",
    [
        rsa_key(2048),
        ec.generate_private_key(ec.SECP256K1()),
        ec.generate_private_key(ec.SECP521R1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["RSA-2048", "secp256k1", "P-521", "Ed25519"],
)
def test_a_weak_or_unusual_key_is_refused(key: Any) -> None:
    assert refusal(forge(by=ROOT, key=key).pem) is Refusal.WEAK_KEY


@pytest.mark.parametrize("broken", [hashes.MD5(), hashes.SHA1()])
def test_a_signature_with_a_broken_hash_is_refused(broken: hashes.HashAlgorithm) -> None:
    class SignedWithIt:
        signature_hash_algorithm = broken

        def public_key(self) -> Any:
            return MEMBER.certificate.public_key()

    with pytest.raises(PeerRefusedError, match=f"got {broken.name}") as caught:
        _verify_strong(SignedWithIt())  # type: ignore[arg-type]

    assert caught.value.refusal is Refusal.WEAK_KEY


def test_an_issuers_weak_key_is_refused_like_a_members() -> None:
    weak = forge_authority(by=ROOT, key=rsa_key(2048), serial=2, path_length=0)

    assert refusal(forge(by=weak).pem, weak.pem) is Refusal.WEAK_KEY


@pytest.mark.parametrize(
    ("forged", "got"),
    [
        (forge(by=ROOT, usages=(ExtendedKeyUsageOID.SERVER_AUTH,)), "one that is not for a client"),
        (forge(by=ROOT, usages=None), "one that is not for a client"),
        (forge(by=ROOT, with_usage=False), "one whose key may not sign"),
        (forge(by=ROOT, may_authenticate=False), "one whose key may not sign"),
        (forge_authority(by=ROOT), "an authority's"),
    ],
    ids=["for a server", "for nothing", "without key usage", "no signature", "an authority's"],
)
def test_a_certificate_for_another_use_is_refused(forged: Forged, got: str) -> None:
    with pytest.raises(PeerRefusedError, match=f"got {got}") as caught:
        admitted(forged.pem)

    assert caught.value.refusal is Refusal.WRONG_USAGE


def test_a_member_without_constraints_is_no_authority() -> None:
    assert admitted(forge(by=ROOT, with_constraints=False).pem)


@pytest.mark.parametrize(
    "uris",
    [
        (),
        (CLIENT, CLIENT.replace("site-1", "site-2")),
        ("https://hospitals/client/site-1",),
        ("kumiai://hospitals/king/site-1",),
        ("kumiai://hospitals/client/site-1/",),
    ],
)
def test_a_certificate_without_exactly_one_name_is_refused(uris: Sequence[str]) -> None:
    assert refusal(forge(by=ROOT, uris=uris).pem) is Refusal.WRONG_IDENTITY


@pytest.mark.parametrize("federation", ["banks", "hospital", "Hospitals", ""])
def test_another_federation_is_refused(federation: str) -> None:
    assert refusal(MEMBER.pem, ISSUER.pem, federation=federation) is Refusal.WRONG_FEDERATION


def test_a_peer_may_enter_within_the_skew_of_its_issuers_clock() -> None:
    early = forge(by=ROOT, begins=NOW + 60)

    assert admitted(early.pem)
    with pytest.raises(PeerRefusedError, match="begins in 62 s") as caught:
        admitted(early.pem, now=NOW - 2)
    assert caught.value.refusal is Refusal.NOT_YET_VALID
    assert caught.value.retry_seconds == 62.0


def test_the_skew_is_a_minute_unless_told_otherwise() -> None:
    peer = read_peer([forge(by=ROOT, begins=NOW + 60).pem], TRUST)
    rules = PeerRules("hospitals", None, NoDenials())

    assert verify_peer(peer, rules, NOW)
    with pytest.raises(PeerRefusedError):
        verify_peer(peer, rules, NOW - 0.5)


def test_a_peer_may_enter_until_its_certificates_last_second() -> None:
    late = forge(by=ROOT, ends=NOW)

    assert admitted(late.pem)
    assert refusal(late.pem, now=NOW + 1) is Refusal.EXPIRED


def test_a_member_does_not_outlive_its_issuer() -> None:
    issuer = forge_authority(by=ROOT, serial=2, path_length=0, ends=NOW)

    assert refusal(forge(by=issuer).pem, issuer.pem, now=NOW + 1) is Refusal.EXPIRED


@pytest.mark.parametrize("serial", [7, 2], ids=["its own", "its issuer's"])
def test_a_revoked_serial_number_is_refused(serial: int) -> None:
    assert refusal(MEMBER.pem, ISSUER.pem, revoked=Revoked(serial)) is Refusal.REVOKED


@pytest.mark.parametrize(
    ("denial", "kind"),
    [
        (Denial.SUSPENDED, Refusal.SUSPENDED),
        (Denial.REMOVED, Refusal.REMOVED),
        (Denial.REVOKED, Refusal.REVOKED),
    ],
)
def test_who_is_denied_is_refused_and_told_why(denial: Denial, kind: Refusal) -> None:
    assert refusal(MEMBER.pem, ISSUER.pem, denials=Denied(denial)) is kind


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_no_bytes_get_in_or_raise_another_error(chain: list[bytes]) -> None:
    with pytest.raises(CertificateError):
        admitted(*chain)


# The library warns of a country of six letters, and of the like.
@pytest.mark.filterwarnings("ignore:Attribute's length")
@given(st.integers(0, len(MEMBER.der) - 1), st.integers(1, 255))
def test_a_changed_byte_of_a_good_certificate_never_makes_another_identity(
    index: int, mask: int
) -> None:
    changed = bytearray(MEMBER.der)
    changed[index] ^= mask

    with pytest.raises(PeerRefusedError):
        admitted(bytes(changed), ISSUER.der)


# A name is a SET of SEQUENCEs; of the text within, the tag says that it is UTF-8.
@pytest.mark.parametrize(
    ("whole", "broken"),
    [
        (CLIENT.encode(), b"\xff" * len(CLIENT)),
        (b"\x0c\x06site-1", b"\x0d\x06site-1"),
        (b"\x0c\x06site-1", b"\x03\x06\x00ite-1"),
        (b"\x0c\x06issuer", b"\x0d\x06issuer"),
        (b"\x0c\x06issuer", b"\x03\x06\x00ssuer"),
        (b"\x18\x0f20961002070640Z", b"\x18\x0f00000101000000Z"),
        (b"\x18\x0f20610101000000Z", b"\x18\x0f00000101000000Z"),
    ],
    ids=[
        "a name",
        "the subject",
        "bits for the subject",
        "the issuer",
        "bits for the issuer",
        "the end in year 0",
        "the begin in year 0",
    ],
)
def test_a_damaged_field_is_told_as_unreadable(whole: bytes, broken: bytes) -> None:
    # From 2050 on a date is written with all digits of its year.
    begins = 2_871_763_200.0 if whole.endswith(b"20610101000000Z") else 0.0
    good = forge(by=ISSUER, begins=begins)
    damaged = good.der.replace(whole, broken)
    x509.load_der_x509_certificate(damaged)

    assert damaged != good.der
    assert refusal(damaged, ISSUER.der) is Refusal.UNREADABLE
