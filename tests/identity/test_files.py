import os
import re
import stat
import threading
from pathlib import Path

import pytest

from kumiai.core.errors import CertificateError, IntegrityError, NotFoundError, StorageError
from kumiai.identity import files


def test_a_file_is_written_with_exactly_its_mode(tmp_path: Path) -> None:
    old = os.umask(0o777)
    try:
        files.write_atomic(tmp_path / "a", b"content", mode=0o640)
    finally:
        os.umask(old)

    assert (tmp_path / "a").read_bytes() == b"content"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_writing_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    files.write_atomic(tmp_path / "a", b"old", mode=0o600)

    files.write_atomic(tmp_path / "a", b"new", mode=0o600)

    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"new"


def test_a_reader_of_the_old_file_keeps_it(tmp_path: Path) -> None:
    files.write_atomic(tmp_path / "a", b"old", mode=0o600)

    with (tmp_path / "a").open("rb") as old:
        files.write_atomic(tmp_path / "a", b"new", mode=0o600)

        assert old.read() == b"old"


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()

    with pytest.raises(StorageError, match="cannot write"):
        files.write_atomic(tmp_path / "a", b"content", mode=0o600)

    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_write_into_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        files.write_atomic(tmp_path / "missing" / "a", b"", mode=0o600)


def test_what_lies_in_the_way_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The name of the temporary file cannot be guessed; here it is.
    monkeypatch.setattr(files.secrets, "token_hex", lambda count: "0" * count * 2)
    (tmp_path / "victim").write_bytes(b"theirs")
    (tmp_path / f".a.{'0' * 16}").symlink_to("victim")

    with pytest.raises(StorageError, match="File exists"):
        files.write_atomic(tmp_path / "a", b"ours", mode=0o600)

    assert (tmp_path / "victim").read_bytes() == b"theirs"


def next_descriptor() -> int:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    os.close(descriptor)
    return descriptor


def test_nothing_is_left_open(tmp_path: Path) -> None:
    before = next_descriptor()

    files.write_atomic(tmp_path / "a", b"content", mode=0o600)
    files.new_private_directory(tmp_path / "b")
    with files.locked(tmp_path):
        pass

    assert next_descriptor() == before


def test_a_new_directory_is_private_and_an_old_one_left_alone(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir(mode=0o755)

    files.new_private_directory(tmp_path / "new" / "deep")
    files.new_private_directory(tmp_path / "old")

    assert stat.S_IMODE((tmp_path / "new" / "deep").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "old").stat().st_mode) == 0o755


def test_a_directory_under_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StorageError, match="cannot create directory"):
        files.new_private_directory(tmp_path / "file" / "a")


def test_reading_stops_at_the_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1234")

    assert files.read_file(tmp_path / "a", "thing", size_bytes_max=4) == b"1234"
    with pytest.raises(StorageError, match="thing must be at most 3 bytes, got more"):
        files.read_file(tmp_path / "a", "thing", size_bytes_max=3)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=f"thing must exist, got no file at {tmp_path}/a"):
        files.read_file(tmp_path / "a", "thing")


def test_what_is_no_file_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot read thing"):
        files.read_file(tmp_path, "thing")


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_file_of_its_owner_alone_is_private(tmp_path: Path, mode: int) -> None:
    (tmp_path / "key").touch()
    (tmp_path / "key").chmod(mode)

    files.verify_private(tmp_path / "key", "key")


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o644])
def test_a_file_that_others_can_use_is_refused_with_the_mend(tmp_path: Path, mode: int) -> None:
    (tmp_path / "key").touch()
    (tmp_path / "key").chmod(mode)

    with pytest.raises(CertificateError, match=f"got mode {mode:04o}; run `chmod 600 {tmp_path}"):
        files.verify_private(tmp_path / "key", "key")


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="key must exist"):
        files.verify_private(tmp_path / "key", "key")


def test_a_key_under_a_file_cannot_be_examined(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StorageError, match="cannot examine key"):
        files.verify_private(tmp_path / "file" / "key", "key")


@pytest.mark.parametrize(
    ("mode", "owner", "user", "is_private"),
    [
        (0o640, 0, 1000, True),  # a mounted secret: root's, readable by the process's group
        (0o660, 0, 1000, False),
        (0o644, 0, 1000, False),
        (0o640, 0, 0, False),
        (0o640, 1000, 1000, False),
        (0o600, 1000, 1000, True),
    ],
)
def test_only_a_mounted_secret_of_root_may_be_read_by_the_group(
    mode: int, owner: int, user: int, is_private: bool
) -> None:
    assert files._is_private(mode, owner=owner, user=user) is is_private


def test_a_lock_keeps_others_out_until_it_is_let_go(tmp_path: Path) -> None:
    entered, order = threading.Event(), []

    def wait_for_the_lock() -> None:
        entered.set()
        with files.locked(tmp_path):
            order.append("second")

    with files.locked(tmp_path):
        thread = threading.Thread(target=wait_for_the_lock)
        thread.start()
        entered.wait()
        thread.join(0.05)
        order.append("first")
    thread.join()

    assert order == ["first", "second"]
    assert stat.S_IMODE((tmp_path / ".lock").stat().st_mode) == 0o600


def test_a_missing_directory_cannot_be_locked(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot open"), files.locked(tmp_path / "missing"):
        pytest.fail("entered")


@pytest.fixture
def synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str], bytes]]:
    """Note what is synced: its kind, the names in the directory then, and what the file holds."""
    # A crash of the machine cannot be had in a test: the calls that defend against it can.
    noted: list[tuple[str, list[str], bytes]] = []
    sync = os.fsync

    def noting_sync(descriptor: int) -> None:
        kind = "directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        names = sorted(path.name for path in tmp_path.iterdir())
        content = (tmp_path / "a").read_bytes() if (tmp_path / "a").is_file() else b""
        noted.append((kind, names, content))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noting_sync)
    return noted


def test_content_is_synced_before_it_takes_the_name_and_the_directory_after(
    tmp_path: Path, synced: list[tuple[str, list[str], bytes]]
) -> None:
    files.write_atomic(tmp_path / "a", b"old", mode=0o600)
    synced.clear()

    files.write_atomic(tmp_path / "a", b"new", mode=0o600)

    (file, names, content), directory = synced
    assert (file, content) == ("file", b"old")
    assert directory == ("directory", ["a"], b"new")
    # Until it is whole it is hidden, and has a name that nobody can guess.
    assert re.fullmatch(r"\.a\.[0-9a-f]{16}", names[0])


def test_a_new_directorys_name_is_synced(
    tmp_path: Path, synced: list[tuple[str, list[str], bytes]]
) -> None:
    files.new_private_directory(tmp_path / "new")

    assert synced == [("directory", ["new"], b"")]


def test_a_secret_is_drawn_once_and_kept_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "secret"

    drawn, other = (
        files.new_or_kept_secret(each, "secret", size_bytes=48, mend="restore it")
        for each in (path, tmp_path / "other")
    )

    assert len(drawn) == 48
    assert drawn != other
    assert path.read_bytes() == drawn
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    kept = files.new_or_kept_secret(path, "secret", size_bytes=48, mend="restore it")
    assert kept == drawn


def test_a_secret_that_is_damaged_or_open_to_others_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(bytes(31))
    path.chmod(0o600)

    with pytest.raises(IntegrityError, match=r"^seed must be 32 bytes, got 31 in .*; restore it$"):
        files.new_or_kept_secret(path, "seed", size_bytes=32, mend="restore it")
    path.write_bytes(bytes(33))
    with pytest.raises(StorageError, match=r"^seed must be at most 32 bytes"):
        files.new_or_kept_secret(path, "seed", size_bytes=32, mend="restore it")
    path.chmod(0o640)
    with pytest.raises(CertificateError, match=r"^seed must be readable by its owner alone"):
        files.new_or_kept_secret(path, "seed", size_bytes=32, mend="restore it")

    assert path.read_bytes() == bytes(33)


def test_half_a_million_entries_of_an_index_can_be_read() -> None:
    assert files.FILE_SIZE_BYTES_MAX == 67_108_864
