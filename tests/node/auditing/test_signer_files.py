"""Where the coordinator's key for checkpoints lies, open or sealed."""

from pathlib import Path

import pytest

from kumiai.core.clock import SystemClock
from kumiai.core.errors import CertificateError, ConfigError
from kumiai.identity import CertificateManager, IssuedCertificate, Role
from kumiai.node.auditing.signer_files import load_signer

PASSPHRASE = b"correct horse battery"


@pytest.fixture
def own(tmp_path: Path) -> IssuedCertificate:
    authority = CertificateManager(tmp_path / "ca", clock=SystemClock())
    authority.create("hospitals")
    return authority.issue(
        Role.COORDINATOR, "coordinator", hosts=["localhost"], out_dir=tmp_path / "own"
    )


def key_id(folder: Path, own: IssuedCertificate, passphrase: bytes | None = None) -> str:
    return load_signer(folder, own.cert, own.key, passphrase).certified.key_id


def test_a_key_stays_the_same_and_its_owners_alone(tmp_path: Path, own: IssuedCertificate) -> None:
    folder = tmp_path / "data"

    assert key_id(folder, own) == key_id(folder, own)

    (folder / "audit.key").chmod(0o644)
    with pytest.raises(CertificateError, match="signing key of the audit log"):
        key_id(folder, own)


def test_a_sealed_key_is_opened_by_its_passphrase_alone(
    tmp_path: Path, own: IssuedCertificate
) -> None:
    folder = tmp_path / "data"
    first = key_id(folder, own, PASSPHRASE)

    again = key_id(folder, own, PASSPHRASE)

    assert first == again
    assert b"PRIVATE KEY" not in b"".join(path.read_bytes() for path in folder.iterdir())
    with pytest.raises(ConfigError, match="must be the one that sealed the signing key"):
        key_id(folder, own, b"another passphrase")
    with pytest.raises(ConfigError, match=r"audit_passphrase must be given, .* is sealed"):
        key_id(folder, own)


def test_a_key_that_lay_open_is_replaced_by_a_sealed_one(
    tmp_path: Path, own: IssuedCertificate
) -> None:
    folder = tmp_path / "data"
    opened = key_id(folder, own)

    sealed = key_id(folder, own, PASSPHRASE)

    assert sealed != opened
    assert not (folder / "audit.key").exists()
    assert (folder / "audit.key.sealed").stat().st_mode & 0o777 == 0o600


def test_a_passphrase_that_is_too_short_seals_nothing(
    tmp_path: Path, own: IssuedCertificate
) -> None:
    with pytest.raises(ConfigError, match="12 to 1024 bytes, got 5"):
        key_id(tmp_path / "data", own, b"short")

    assert not (tmp_path / "data" / "audit.key.sealed").exists()


def test_a_damaged_key_is_replaced(tmp_path: Path, own: IssuedCertificate) -> None:
    folder = tmp_path / "data"
    first = key_id(folder, own, PASSPHRASE)
    (folder / "audit.key.sealed").write_text("{}")

    assert key_id(folder, own, PASSPHRASE) != first
