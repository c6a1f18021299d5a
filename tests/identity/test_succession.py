"""A root is followed by the next on its own word alone."""

from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from kumiai.core.errors import CertificateError
from kumiai.identity import CertificateManager, TrustBundle
from kumiai.identity.index import IssuedIndex
from kumiai.identity.signing import new_succession_certificate
from kumiai.identity.succession import ROOTS_MAX, follow, successions_of
from tests.identity.forge import forge_authority

DAY_SECONDS = 86_400


@pytest.fixture
def old(authority: CertificateManager) -> TrustBundle:
    return TrustBundle.load(authority.certificate_path)


@pytest.fixture
def both(authority: CertificateManager, old: TrustBundle) -> TrustBundle:
    authority.rotate(ca_days=40)
    return TrustBundle.load(authority.certificate_path)


@pytest.fixture
def named(authority: CertificateManager, both: TrustBundle) -> tuple[x509.Certificate, ...]:
    return successions_of(authority.succession_path.read_bytes())


def test_a_root_that_the_old_one_names_is_trusted_beside_it(
    old: TrustBundle, both: TrustBundle, named: tuple[x509.Certificate, ...], clock: Any
) -> None:
    after = follow(old, both, named, now=clock.now())

    assert after == both
    assert len(after.authorities) == 2
    assert follow(after, both, named, now=clock.now()) == both


def test_a_root_that_was_followed_is_dropped_when_it_is_offered_no_more(
    authority: CertificateManager,
    both: TrustBundle,
    named: tuple[x509.Certificate, ...],
    clock: Any,
) -> None:
    authority.retire()
    new = TrustBundle.load(authority.certificate_path)

    after = follow(both, new, named, now=clock.now())

    assert after == new
    assert len(after.authorities) == 1
    assert successions_of(authority.succession_path.read_bytes()) == named


def test_who_missed_the_time_of_both_roots_can_still_follow(
    authority: CertificateManager,
    old: TrustBundle,
    both: TrustBundle,
    named: tuple[x509.Certificate, ...],
    clock: Any,
) -> None:
    authority.retire()
    new = TrustBundle.load(authority.certificate_path)

    assert follow(old, new, named, now=clock.now()) == new


def test_several_changes_in_a_row_are_followed_in_one(
    authority: CertificateManager, old: TrustBundle, both: TrustBundle, clock: Any
) -> None:
    first = authority.succession_path.read_bytes()
    authority.retire()
    authority.rotate()
    third = TrustBundle.load(authority.certificate_path)
    authority.retire()
    newest = TrustBundle.load(authority.certificate_path)
    successions = successions_of(authority.succession_path.read_bytes() + first)

    assert follow(old, third, successions, now=clock.now()) == third
    with pytest.raises(CertificateError, match="must be one of this federation"):
        follow(old, newest, successions[:1], now=clock.now())


def test_without_the_word_of_a_trusted_root_none_is_added(
    old: TrustBundle,
    both: TrustBundle,
    named: tuple[x509.Certificate, ...],
    tmp_path: Path,
    clock: Any,
) -> None:
    stranger = CertificateManager(tmp_path / "stranger", clock=clock)
    stranger.create("hospitals")
    strange = TrustBundle.load(stranger.certificate_path)
    stranger.rotate()
    strange_word = successions_of(stranger.succession_path.read_bytes())

    for offered, successions in (
        (both, ()),
        (strange, named),
        (strange, strange_word),
        (TrustBundle.load(stranger.certificate_path), (*strange_word, *named)),
        (both, strange_word),
        (both, both.authorities),
    ):
        with pytest.raises(CertificateError, match=r"new root [0-9a-f]+ must be one of this"):
            follow(old, offered, successions, now=clock.now())


def test_a_root_is_not_dropped_because_somebody_leaves_it_out(
    old: TrustBundle, both: TrustBundle, named: tuple[x509.Certificate, ...], clock: Any
) -> None:
    (new,) = [root for root in both.authorities if root not in old.authorities]

    kept = follow(both, TrustBundle((new,)), (), now=clock.now())
    older = follow(both, old, named, now=clock.now())

    assert set(kept.authorities) == set(both.authorities)
    assert set(older.authorities) == set(both.authorities)


def test_a_word_counts_for_as_long_as_who_gave_it(
    old: TrustBundle, both: TrustBundle, named: tuple[x509.Certificate, ...], clock: Any
) -> None:
    for days in (-1, 41):
        with pytest.raises(CertificateError, match="must be one of this federation"):
            follow(old, both, named, now=clock.now() + days * DAY_SECONDS)


def test_a_root_of_another_federation_is_not_followed(
    old: TrustBundle, authority_key: Any, tmp_path: Path, clock: Any
) -> None:
    other = CertificateManager(tmp_path / "banks", clock=clock)
    other.create("banks")
    offered = TrustBundle.load(other.certificate_path)
    word = new_succession_certificate(
        offered.authorities[0],
        serial=5,
        not_before=clock.now() - 10,
        before=old.authorities[0],
        key_before=authority_key,
    )

    with pytest.raises(CertificateError, match="must be one of this federation"):
        follow(old, offered, [word], now=clock.now())


def test_too_many_roots_are_refused(old: TrustBundle, clock: Any) -> None:
    many = TrustBundle(old.authorities * (ROOTS_MAX + 1))

    with pytest.raises(CertificateError, match="at most 4, got 5"):
        follow(old, many, (), now=clock.now())


@pytest.mark.parametrize(
    ("pem", "problem"), [(b"x" * 33_000, "at most 32768 bytes"), (b"junk", "must be PEM")]
)
def test_what_is_no_text_of_successions_is_refused(pem: bytes, problem: str) -> None:
    with pytest.raises(CertificateError, match=problem):
        successions_of(pem)


def test_a_key_of_no_known_kind_is_refused_and_breaks_nothing(
    old: TrustBundle, both: TrustBundle, named: tuple[x509.Certificate, ...], clock: Any
) -> None:
    der = named[0].public_bytes(serialization.Encoding.DER)
    p256 = bytes.fromhex("06082a8648ce3d030107")
    odd = x509.load_der_x509_certificate(der.replace(p256, p256[:-1] + b"\x7f"))

    with pytest.raises(CertificateError, match="key that can be read"):
        follow(old, both, [odd], now=clock.now())


def test_an_empty_text_holds_none() -> None:
    assert successions_of(b"\n") == ()


def test_a_root_whose_key_is_away_is_followed_without_its_word(
    authority: CertificateManager, tmp_path: Path
) -> None:
    (key,) = authority.certificate_path.parent.glob("root-*.key")
    key.rename(tmp_path / key.name)

    authority.rotate()

    assert not authority.succession_path.exists()
    assert len(TrustBundle.load(authority.certificate_path).authorities) == 2


def test_a_root_whose_time_is_over_gives_no_word(authority: CertificateManager, clock: Any) -> None:
    clock.advance(3_651 * DAY_SECONDS)

    authority.rotate()

    assert not authority.succession_path.exists()


def test_an_index_of_before_there_were_successions_is_read(authority: CertificateManager) -> None:
    path = authority.certificate_path.with_name("issued.json")
    text = path.read_bytes().replace(b',\n   "succession": ""', b"")

    assert b"succession" not in text
    assert IssuedIndex.from_bytes(text).successions == b""


def test_only_a_root_on_an_elliptic_curve_is_named(old: TrustBundle, authority_key: Any) -> None:
    other = forge_authority(key=rsa.generate_private_key(65537, 2048)).certificate

    with pytest.raises(TypeError, match="must be an elliptic curve's"):
        new_succession_certificate(
            other, serial=5, not_before=0.0, before=old.authorities[0], key_before=authority_key
        )
