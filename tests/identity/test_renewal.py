from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from kumiai.core import failpoints
from kumiai.core.errors import (
    CertificateError,
    ConfigError,
    IntegrityError,
    NotFoundError,
    StorageError,
)
from kumiai.identity import (
    CertificateManager,
    Identity,
    IssuedCertificate,
    Role,
    verify_own_certificate,
)
from kumiai.identity.issuer import SiteIssuer
from kumiai.identity.keys import new_key, private_pem_of
from kumiai.identity.renewal import RenewableFiles
from tests.identity.killing import Killed

DAY_SECONDS = 86_400
POINTS = ("identity.renewal.decided", "identity.renewal.key", "identity.renewal.cert")


@pytest.fixture
def issuer(authority: CertificateManager, tmp_path: Path, clock: Any) -> SiteIssuer:
    made = authority.delegate(out_dir=tmp_path / "sites")
    return SiteIssuer.load(made.cert, made.key, authority.certificate_path, clock, None)


@pytest.fixture
def own(client: IssuedCertificate) -> RenewableFiles:
    return RenewableFiles(client.cert, client.key, client.ca)


def signed(
    issuer: SiteIssuer, name: str = "site-1", *, seconds: float = DAY_SECONDS
) -> tuple[bytes, ec.EllipticCurvePrivateKey]:
    key = new_key()
    return issuer.sign(key.public_key(), name, lifetime_seconds=seconds).chain, key


def checked(files: RenewableFiles, clock: Any) -> Identity:
    return verify_own_certificate(files.cert, files.key, files.ca, clock, role=Role.CLIENT)


def test_certificate_and_key_are_replaced(
    own: RenewableFiles, issuer: SiteIssuer, clock: Any
) -> None:
    before = checked(own, clock)

    own.install(*signed(issuer))

    after = checked(own, clock)
    assert (after.uri, after.issuer_serial) == (before.uri, issuer.serial)
    assert after.serial != before.serial
    assert own.key.stat().st_mode & 0o777 == 0o600
    assert own.cert.stat().st_mode & 0o777 == 0o644
    assert not own.key.with_name("site-1.key.next").exists()


def test_a_sites_certificate_is_due_at_half_of_its_life(
    own: RenewableFiles, issuer: SiteIssuer, clock: Any
) -> None:
    by_hand = own.due_at()

    own.install(*signed(issuer))

    due_at = own.due_at()
    assert by_hand is None
    assert due_at is not None
    assert due_at == pytest.approx(clock.now() + DAY_SECONDS / 2, abs=1)


def test_who_has_nothing_to_finish_writes_nothing(own: RenewableFiles) -> None:
    before = sorted(own.key.parent.iterdir())

    assert not own.recover()

    assert sorted(own.key.parent.iterdir()) == before


def test_a_certificate_that_is_missing_or_too_large_is_named(own: RenewableFiles) -> None:
    own.cert.write_bytes(own.cert.read_bytes().ljust(64 * 1024 + 1, b"\n"))
    with pytest.raises(StorageError, match="certificate must be at most 65536 bytes"):
        own.due_at()
    own.cert.unlink()
    with pytest.raises(NotFoundError, match=r"^certificate must exist"):
        own.due_at()


@pytest.mark.parametrize("point", POINTS)
def test_who_is_killed_while_renewing_has_a_whole_pair_again(
    own: RenewableFiles,
    issuer: SiteIssuer,
    clock: Any,
    killed_at: Callable[[str], None],
    point: str,
) -> None:
    before = checked(own, clock)
    killed_at(point)
    with pytest.raises(Killed):
        own.install(*signed(issuer))
    failpoints.install(None)

    assert own.recover()

    assert checked(own, clock).serial != before.serial
    assert not own.recover()


@pytest.mark.parametrize("content", [b"", b"junk", b"half"])
def test_a_damaged_new_pair_is_thrown_away_and_the_old_one_stays(
    own: RenewableFiles, issuer: SiteIssuer, clock: Any, content: bytes
) -> None:
    before = checked(own, clock)
    chain, key = signed(issuer)
    whole = private_pem_of(key) + chain
    waiting = own.key.with_name("site-1.key.next")
    waiting.write_bytes(whole[: len(whole) // 2] if content == b"half" else content)

    assert not own.recover()

    assert checked(own, clock) == before
    assert not waiting.exists()


def test_another_process_may_have_been_first(
    own: RenewableFiles, issuer: SiteIssuer, clock: Any, killed_at: Callable[[str], None]
) -> None:
    killed_at("identity.renewal.decided")
    with pytest.raises(Killed):
        own.install(*signed(issuer))
    first: list[bool] = []

    def overtake(point: str) -> None:
        if point == "identity.renewal.found":
            failpoints.install(None)
            first.append(own.recover())

    failpoints.install(overtake)
    second = own.recover()

    assert (first, second) == ([True], False)
    assert checked(own, clock).issuer_serial == issuer.serial


def test_a_certificate_for_another_key_is_refused(
    own: RenewableFiles, issuer: SiteIssuer, clock: Any
) -> None:
    before = checked(own, clock)
    chain, _ = signed(issuer)

    with pytest.raises(IntegrityError, match="must be for the key that was made here"):
        own.install(chain, new_key())

    assert checked(own, clock) == before


def test_a_certificate_for_another_owner_is_refused(
    own: RenewableFiles, issuer: SiteIssuer, clock: Any
) -> None:
    with pytest.raises(CertificateError, match=r"be for kumiai://hospitals/client/site-1, got"):
        own.install(*signed(issuer, "site-2"))

    assert checked(own, clock).name == "site-1"


def test_a_certificate_of_another_root_is_refused(
    own: RenewableFiles, tmp_path: Path, clock: Any
) -> None:
    other = CertificateManager(tmp_path / "other", clock=clock)
    other.create("hospitals")
    made = other.delegate(out_dir=tmp_path / "other-sites")
    rogue = SiteIssuer.load(made.cert, made.key, other.certificate_path, clock, None)

    with pytest.raises(CertificateError, match="must be signed by the authority"):
        own.install(*signed(rogue))

    assert checked(own, clock).name == "site-1"


# ---------------------------------------------------------------- by the authority


def test_the_authority_renews_a_members_files_in_place(
    authority: CertificateManager, coordinator: IssuedCertificate, clock: Any
) -> None:
    clock.advance(100 * DAY_SECONDS)

    renewed = authority.renew(coordinator.cert, days=30)

    own = verify_own_certificate(
        coordinator.cert, coordinator.key, coordinator.ca, clock, role=Role.COORDINATOR
    )
    assert own == renewed.identity
    assert own.serial != coordinator.identity.serial
    assert own.not_after == int(clock.now() + 30 * DAY_SECONDS)
    assert (renewed.cert, renewed.key, renewed.ca) == (
        coordinator.cert,
        coordinator.key,
        coordinator.ca,
    )
    record = authority.list_issued()[-1]
    assert (record.serial, record.hosts) == (own.serial, ("localhost", "127.0.0.1"))


@pytest.mark.parametrize("days", [0, 3651])
def test_absurd_days_of_a_renewal_are_refused(
    authority: CertificateManager, client: IssuedCertificate, days: int
) -> None:
    before = client.cert.read_bytes()

    with pytest.raises(ConfigError, match=f"^days must be 1 to 3650, got {days}"):
        authority.renew(client.cert, days=days)

    assert client.cert.read_bytes() == before


def test_a_certificate_that_is_not_there_is_not_renewed(
    authority: CertificateManager, tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError, match=r"^certificate must exist"):
        authority.renew(tmp_path / "none.crt")


def test_a_renewal_after_a_change_of_root_brings_the_new_roots(
    authority: CertificateManager, client: IssuedCertificate, clock: Any
) -> None:
    authority.rotate()

    authority.renew(client.cert)

    assert client.ca.read_bytes() == authority.certificate_path.read_bytes()
    assert checked(RenewableFiles(client.cert, client.key, client.ca), clock).name == "site-1"


def test_what_is_revoked_or_foreign_is_not_renewed(
    authority: CertificateManager, client: IssuedCertificate, stranger: IssuedCertificate
) -> None:
    authority.revoke("site-1")

    with pytest.raises(CertificateError, match=r"must not be revoked, got .*`kumiai ca issue"):
        authority.renew(client.cert)
    with pytest.raises(NotFoundError, match="must have been issued by this authority"):
        authority.renew(stranger.cert)
