"""Changes of issuer and root, and keys that lie elsewhere."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from kumiai.core import failpoints
from kumiai.core.errors import (
    CertificateError,
    ConfigError,
    ConflictError,
    IntegrityError,
    NotFoundError,
)
from kumiai.identity import (
    CertificateManager,
    IssuedCertificate,
    RevocationList,
    RevocationWatcher,
    Role,
    TrustBundle,
    sealing,
    verify_own_certificate,
)
from kumiai.identity.trust import chain_of
from tests.identity.killing import Killed

DAY_SECONDS = 86_400
PASSPHRASE = b"correct horse battery"


@pytest.fixture
def directory(authority: CertificateManager) -> Path:
    return authority.certificate_path.parent


def take_root_key_away(directory: Path) -> Path:
    (key,) = directory.glob("root-*.key*")
    return key.rename(directory.parent / key.name)


def is_good(issued: IssuedCertificate, clock: Any, ca: Path) -> bool:
    try:
        verify_own_certificate(issued.cert, issued.key, ca, clock, role=issued.identity.role)
    except CertificateError:
        return False
    return True


# ---------------------------------------------------------------- an offline root


def test_members_are_issued_and_revoked_while_the_roots_key_is_away(
    authority: CertificateManager, directory: Path, tmp_path: Path, clock: Any
) -> None:
    take_root_key_away(directory)

    issued = authority.issue(Role.CLIENT, "a", out_dir=tmp_path / "a")
    authority.revoke("a")

    lists = RevocationList.load(
        authority.revocation_list_path, authority.certificate_path, now=clock.now()
    )
    assert lists.serials == {issued.identity.serial}


def test_a_new_issuer_needs_the_roots_key_and_says_so(
    authority: CertificateManager, directory: Path
) -> None:
    key = take_root_key_away(directory)

    with pytest.raises(NotFoundError, match=rf"root's key must be here, got neither {key.name}"):
        authority.renew_intermediate()
    key.rename(directory / key.name)

    assert authority.renew_intermediate() == authority.list_authorities()[0].serial


# ---------------------------------------------------------------- a new issuer


def test_what_the_old_issuer_signed_stays_good_and_revocable(
    authority: CertificateManager, client: IssuedCertificate, tmp_path: Path, clock: Any
) -> None:
    authority.renew_intermediate()
    second = authority.issue(Role.CLIENT, "b", out_dir=tmp_path / "b")

    authority.revoke("site-1")
    authority.revoke("b")

    lists = RevocationList.load(
        authority.revocation_list_path, authority.certificate_path, now=clock.now()
    )
    assert second.identity.issuer_serial != client.identity.issuer_serial
    assert lists.serials == {client.identity.serial, second.identity.serial}
    assert len(lists.lists) == 2
    assert is_good(client, clock, authority.certificate_path)
    assert is_good(second, clock, authority.certificate_path)


def test_the_list_of_an_issuer_whose_life_is_over_is_left_out(
    authority: CertificateManager, clock: Any, tmp_path: Path
) -> None:
    authority.renew_intermediate(days=10)
    authority.renew_intermediate()
    watcher = RevocationWatcher(authority.revocation_list_path, authority.certificate_path, clock)
    clock.advance(11 * DAY_SECONDS)

    authority.revocation_list()

    assert len(watcher.current().lists) == 2
    assert watcher.error is None


def test_revoking_an_issuer_ends_what_it_signed(
    authority: CertificateManager, client: IssuedCertificate, clock: Any, tmp_path: Path
) -> None:
    old = client.identity.issuer_serial
    watcher = RevocationWatcher(authority.revocation_list_path, authority.certificate_path, clock)

    authority.revoke(old, "key-compromise")
    with pytest.raises(CertificateError, match="not be revoked, got one that is; make a new one"):
        authority.issue(Role.CLIENT, "b", out_dir=tmp_path / "b")
    authority.renew_intermediate()

    assert watcher.current().is_revoked(old)
    assert watcher.error is None
    assert authority.issue(Role.CLIENT, "b", out_dir=tmp_path / "b").identity.issuer_serial != old


def test_an_issuer_is_not_revoked_without_the_roots_key(
    authority: CertificateManager, client: IssuedCertificate, directory: Path
) -> None:
    take_root_key_away(directory)

    with pytest.raises(NotFoundError, match="root's key must be here"):
        authority.revoke(client.identity.issuer_serial)

    assert authority.list_authorities()[0].revoked_at is None


def test_a_root_is_not_revoked_but_rotated(authority: CertificateManager) -> None:
    root = authority.list_authorities()[-1]

    with pytest.raises(NotFoundError):
        authority.revoke(root.serial)


def test_a_list_without_that_of_an_issuer_is_refused(
    authority: CertificateManager, client: IssuedCertificate, clock: Any
) -> None:
    before = authority.revocation_list_path.read_bytes()
    authority.renew_intermediate()
    authority.revoke("site-1")
    watcher = RevocationWatcher(authority.revocation_list_path, authority.certificate_path, clock)
    lists = authority.revocation_list_path.read_bytes()
    second = lists.index(b"-----BEGIN CERTIFICATE-----", 10)

    authority.revocation_list_path.write_bytes(lists[:second])
    watcher.current()

    assert "must not be older than number 3, got none" in str(watcher.error)
    assert watcher.current().is_revoked(client.identity.serial)
    authority.revocation_list_path.write_bytes(before)
    watcher.current()
    assert "must not be older than" in str(watcher.error)


# ---------------------------------------------------------------- a new root


def test_after_a_rotation_old_and_new_members_trust_each_other(
    authority: CertificateManager, client: IssuedCertificate, tmp_path: Path, clock: Any
) -> None:
    path = authority.rotate()
    new = authority.issue(Role.CLIENT, "b", out_dir=tmp_path / "b")

    assert path == authority.certificate_path
    assert len(TrustBundle.load(path).authorities) == 2
    assert new.ca.read_bytes() == path.read_bytes()
    assert is_good(client, clock, path)
    assert is_good(new, clock, path)
    assert not is_good(new, clock, client.ca)


def test_a_rotation_is_finished_by_trusting_the_new_root_alone(
    authority: CertificateManager, client: IssuedCertificate, tmp_path: Path, clock: Any
) -> None:
    watcher = RevocationWatcher(authority.revocation_list_path, authority.certificate_path, clock)
    authority.rotate()
    new = authority.issue(Role.CLIENT, "site-1", out_dir=tmp_path / "b")

    with pytest.raises(ConflictError, match="got certificates in force of client site-1; issue"):
        authority.retire()
    authority.revoke(client.identity.serial, "superseded")
    assert watcher.current().is_revoked(client.identity.serial)
    path = authority.retire()

    assert not is_good(client, clock, path)
    assert is_good(new, clock, path)
    assert [record.serial for record in authority.list_issued()] == [new.identity.serial]
    assert len(watcher.current().lists) == 1
    assert watcher.error is None


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("abcde", "client d, client e; "),
        ("abcdef", "client e and 1 more; "),
        ("abcdefg", "client d, client e and 2 more; "),
    ],
)
def test_a_root_that_is_used_is_retired_by_force(
    authority: CertificateManager, tmp_path: Path, names: str, told: str
) -> None:
    for name in names:
        authority.issue(Role.CLIENT, name, out_dir=tmp_path / name)
    authority.rotate()

    with pytest.raises(ConflictError, match=rf"{told}.*--force"):
        authority.retire()

    assert len(TrustBundle.load(authority.retire(even_if_used=True)).authorities) == 1


def test_a_root_is_used_until_the_last_second_of_what_it_vouches_for(
    authority: CertificateManager, tmp_path: Path, clock: Any
) -> None:
    issued = authority.issue(Role.CLIENT, "a", days=1, out_dir=tmp_path / "a")
    authority.rotate()

    clock.wall = issued.identity.not_after
    with pytest.raises(ConflictError, match="got certificates in force of client a"):
        authority.retire()
    clock.advance(1)

    assert authority.retire()


def test_one_rotation_is_finished_before_the_next(authority: CertificateManager) -> None:
    with pytest.raises(ConflictError, match="older root must be trusted, got none"):
        authority.retire()
    authority.rotate()

    with pytest.raises(ConflictError, match="must be finished before the next"):
        authority.rotate()

    authority.retire()
    assert authority.rotate()


@pytest.mark.parametrize("days", [0, 36_501])
def test_absurd_days_of_a_new_authority_are_refused(
    authority: CertificateManager, days: int
) -> None:
    with pytest.raises(ConfigError, match=r"^ca_days must be"):
        authority.rotate(ca_days=days)
    with pytest.raises(ConfigError, match=r"^days must be 1 to 36500"):
        authority.renew_intermediate(days=days)

    assert len(authority.list_authorities()) == 2


def test_a_root_whose_life_is_over_signs_no_issuer(
    authority: CertificateManager, clock: Any
) -> None:
    clock.advance(3651 * DAY_SECONDS)

    with pytest.raises(CertificateError, match=r"root's certificate must be valid now.*ca rotate"):
        authority.renew_intermediate()


KILLS = ("identity.index.before", "identity.index.after", "identity.list.after")


@pytest.mark.parametrize("point", KILLS)
@pytest.mark.parametrize("act", ["rotate", "retire"])
def test_a_change_of_root_that_is_killed_can_be_gone_on_with(  # noqa: PLR0917 - fixtures
    authority: CertificateManager,
    client: IssuedCertificate,
    tmp_path: Path,
    clock: Any,
    killed_at: Callable[[str], None],
    act: str,
    point: str,
) -> None:
    acts = {"rotate": authority.rotate, "retire": lambda: authority.retire(even_if_used=True)}
    if act == "retire":
        authority.rotate()
    killed_at(point)
    with pytest.raises(Killed):
        acts[act]()
    failpoints.install(None)

    issued = authority.issue(Role.CLIENT, "b", out_dir=tmp_path / "b")

    trusted = len([each for each in authority.list_authorities() if each.kind == "root"])
    assert len(TrustBundle.load(authority.certificate_path).authorities) == trusted
    assert is_good(issued, clock, authority.certificate_path)
    authority.revocation_list()
    assert RevocationList.load(
        authority.revocation_list_path, authority.certificate_path, now=clock.now()
    )


# ---------------------------------------------------------------- an issuer for a coordinator


def test_an_issuer_for_sites_is_made_for_a_coordinator(
    authority: CertificateManager, authority_cert: x509.Certificate, tmp_path: Path
) -> None:
    issuer = authority.delegate(out_dir=tmp_path / "sites", passphrase=PASSPHRASE)

    certificate = x509.load_pem_x509_certificate(issuer.cert.read_bytes())
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert (issuer.cert, issuer.key) == (
        tmp_path / "sites" / "issuer.crt",
        tmp_path / "sites" / "issuer.key",
    )
    assert certificate.serial_number == issuer.serial
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert b"PRIVATE" in sealing.unseal(issuer.key.read_bytes(), PASSPHRASE, label="sites key")
    certificate.verify_directly_issued_by(authority_cert)


@pytest.mark.parametrize("name", ["issuer.crt", "issuer.key"])
def test_an_issuers_files_are_not_overwritten(
    authority: CertificateManager, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(b"precious")

    with pytest.raises(ConflictError, match=f"{name} must not exist yet; choose another"):
        authority.delegate(out_dir=tmp_path)

    assert (tmp_path / name).read_bytes() == b"precious"
    assert len(authority.list_authorities()) == 2


@pytest.mark.parametrize("days", [0, 3651])
def test_absurd_days_of_an_issuer_for_sites_are_refused(
    authority: CertificateManager, tmp_path: Path, days: int
) -> None:
    with pytest.raises(ConfigError, match=f"^days must be 1 to 3650, got {days}"):
        authority.delegate(out_dir=tmp_path / "sites", days=days)

    assert not (tmp_path / "sites").exists()


def test_a_weak_passphrase_of_an_issuer_is_refused(
    authority: CertificateManager, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="passphrase must be"):
        authority.delegate(out_dir=tmp_path / "sites", passphrase=b"weak")

    assert not (tmp_path / "sites").exists()


def test_an_issuer_for_sites_can_be_revoked(
    authority: CertificateManager, tmp_path: Path, clock: Any
) -> None:
    issuer = authority.delegate(out_dir=tmp_path / "sites")

    with pytest.raises(NotFoundError):
        authority.revoke(issuer.serial, role=Role.CLIENT)
    authority.revoke(issuer.serial, "key-compromise")

    lists = RevocationList.load(
        authority.revocation_list_path, authority.certificate_path, now=clock.now()
    )
    assert lists.is_revoked(issuer.serial)


# ---------------------------------------------------------------- damaged files


def test_an_index_without_an_issuer_is_refused(
    authority: CertificateManager, directory: Path
) -> None:
    path = directory / "issued.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "authorities": []}))

    with pytest.raises(IntegrityError, match="must name a root and an issuer"):
        authority.list_issued()


def test_an_authority_of_the_first_version_is_told_apart(
    authority: CertificateManager, directory: Path
) -> None:
    path = directory / "issued.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "kumiai_issued": 1}))

    with pytest.raises(IntegrityError, match=r"older version of Kumiai.*`kumiai ca init`"):
        authority.list_issued()


def test_the_chain_in_a_members_file_ends_below_the_root(client: IssuedCertificate) -> None:
    leaf, issuer = chain_of(client.cert.read_bytes())

    assert leaf.serial_number == client.identity.serial
    assert issuer.serial_number == client.identity.issuer_serial
