"""Which certificates a client knows to be revoked, and what it lets itself be told."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kumiai.core.clock import SystemClock
from kumiai.core.errors import CertificateError, NotFoundError
from kumiai.identity import CertificateManager, IssuedCertificate, Role
from kumiai.node.client.revocations import KEPT_FILE, KnownRevocations
from kumiai.node.wire.channel import REVOCATIONS_BYTES_MAX

LONG_SECONDS = 4_000 * 86_400


class LaterClock(SystemClock):
    """The machine's clock, years later."""

    def now(self) -> float:
        return super().now() + LONG_SECONDS


@pytest.fixture
def authority(tmp_path: Path) -> CertificateManager:
    manager = CertificateManager(tmp_path / "ca", clock=SystemClock())
    manager.create("hospitals")
    return manager


@pytest.fixture
def coordinator(authority: CertificateManager, tmp_path: Path) -> IssuedCertificate:
    return authority.issue(Role.COORDINATOR, "main", hosts=["localhost"], out_dir=tmp_path / "main")


@pytest.fixture
def ca(authority: CertificateManager, tmp_path: Path) -> Path:
    """The client's own copy of the roots."""
    copy = tmp_path / "site.ca.crt"
    copy.write_bytes(authority.certificate_path.read_bytes())
    return copy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


def known_in(folder: Path, ca: Path, brought: Path | None = None) -> KnownRevocations:
    return KnownRevocations(folder, ca, SystemClock(), brought=brought)


def list_of(authority: CertificateManager) -> bytes:
    authority.revocation_list()
    return authority.revocation_list_path.read_bytes()


def serials_in(known: KnownRevocations) -> frozenset[int]:
    found = known.current()
    assert found is not None
    return found.serials


def test_without_a_list_nothing_is_known(folder: Path, ca: Path) -> None:
    assert known_in(folder, ca).current() is None


def test_what_is_handed_over_is_kept_and_only_news_is_news(
    authority: CertificateManager, coordinator: IssuedCertificate, folder: Path, ca: Path
) -> None:
    known = known_in(folder, ca)
    first = list_of(authority)
    told = [known.take(first), known.take(first), known.take(list_of(authority))]
    authority.revoke("main", "key-compromise")
    newest = list_of(authority)
    told += [known.take(newest), known.take(newest)]

    assert told == [False, False, False, True, False]
    assert serials_in(known) == {coordinator.identity.serial}
    assert serials_in(known_in(folder, ca)) == {coordinator.identity.serial}
    with pytest.raises(CertificateError, match="must not be older than number"):
        known.take(first)
    assert serials_in(known) == {coordinator.identity.serial}


def test_a_list_that_is_foreign_expired_or_too_long_is_not_taken(
    authority: CertificateManager, tmp_path: Path, folder: Path, ca: Path
) -> None:
    stranger = CertificateManager(tmp_path / "stranger", clock=SystemClock())
    stranger.create("hospitals")
    good = list_of(authority)
    known = known_in(folder, ca)

    with pytest.raises(CertificateError, match="signed by this federation's authority"):
        known.take(list_of(stranger))
    with pytest.raises(CertificateError, match="must be current"):
        KnownRevocations(folder, ca, LaterClock(), brought=None).take(good)
    longest = good + b"\n" * (REVOCATIONS_BYTES_MAX - len(good))
    with pytest.raises(CertificateError, match=f"at most {REVOCATIONS_BYTES_MAX} bytes"):
        known.take(longest + b"\n")
    assert known.current() is None
    known.take(longest)
    assert serials_in(known) == frozenset()


def test_what_was_revoked_stays_so_when_the_list_has_expired(
    authority: CertificateManager, coordinator: IssuedCertificate, folder: Path, ca: Path
) -> None:
    authority.revoke("main", "key-compromise")
    known_in(folder, ca).take(list_of(authority))

    much_later = KnownRevocations(folder, ca, LaterClock(), brought=None)

    assert serials_in(much_later) == {coordinator.identity.serial}


def test_a_list_that_is_brought_by_hand_counts_beside_the_one_that_was_handed_over(
    authority: CertificateManager,
    coordinator: IssuedCertificate,
    tmp_path: Path,
    folder: Path,
    ca: Path,
) -> None:
    known_in(folder, ca).take(list_of(authority))
    authority.revoke("main", "key-compromise")
    brought = tmp_path / "brought.crl"
    brought.write_bytes(list_of(authority))

    assert serials_in(known_in(folder, ca)) == frozenset()
    assert serials_in(known_in(folder, ca, brought)) == {coordinator.identity.serial}
    with pytest.raises(NotFoundError):
        known_in(folder, ca, tmp_path / "never.crl")


def test_a_kept_list_that_no_trusted_root_signed_is_told_of_and_replaced(
    authority: CertificateManager, folder: Path, ca: Path
) -> None:
    folder.mkdir(mode=0o700)
    (folder / KEPT_FILE).write_bytes(b"junk")

    with capture_logs() as logged:
        known = known_in(folder, ca)
        assert known.current() is None
        known.take(list_of(authority))

    assert logged[0]["event"] == "kept revocation list not used"
    assert serials_in(known) == frozenset()
