from collections.abc import Callable
from pathlib import Path

import pytest

from kumiai.core.errors import ConfigError, ConflictError, StorageError
from kumiai.identity.members import MemberFiles, member_files
from tests.identity.killing import Killed


@pytest.fixture
def target(tmp_path: Path) -> MemberFiles:
    return member_files(tmp_path, "site-1")


def save(target: MemberFiles, key: bytes | None = b"key") -> None:
    target.save(chain=b"chain", key=key, trust_bundle=b"roots")


def test_a_member_gets_three_files_of_which_the_key_is_its_own(
    target: MemberFiles, tmp_path: Path
) -> None:
    save(target)

    found = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert found == {"site-1.crt": b"chain", "site-1.key": b"key", "ca.crt": b"roots"}
    assert target.key.stat().st_mode & 0o777 == 0o600
    assert target.cert.stat().st_mode & 0o777 == 0o644
    assert target.ca.stat().st_mode & 0o777 == 0o644


def test_a_key_that_lies_elsewhere_is_not_written(target: MemberFiles) -> None:
    save(target, None)

    assert not target.key.exists()


def test_who_finds_the_certificate_finds_the_rest(
    target: MemberFiles, killed_at: Callable[[str], None]
) -> None:
    killed_at("identity.member.before")

    with pytest.raises(Killed):
        save(target)

    assert (target.key.exists(), target.ca.exists(), target.cert.exists()) == (True, True, False)


@pytest.mark.parametrize("name", ["cert", "key"])
def test_nothing_of_another_member_is_overwritten(target: MemberFiles, name: str) -> None:
    path = getattr(target, name)
    path.touch()

    with pytest.raises(ConflictError, match=f"^{path} must not exist yet"):
        target.verify_vacant(b"roots")


def test_the_roots_may_be_there_already_if_they_are_the_same(target: MemberFiles) -> None:
    target.verify_vacant(b"roots")
    target.ca.write_bytes(b"roots")

    target.verify_vacant(b"roots")

    with pytest.raises(ConflictError, match="must be this authority's certificate"):
        target.verify_vacant(b"others")


def test_roots_that_cannot_be_read_are_named(target: MemberFiles) -> None:
    target.ca.mkdir()

    with pytest.raises(StorageError, match=r"cannot read ca\.crt"):
        target.verify_vacant(b"roots")


@pytest.mark.parametrize("name", ["a/b", "", "..", "ca", "CA"])
def test_a_name_that_breaks_the_rule_or_is_taken_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"^name must"):
        member_files(tmp_path, name)
