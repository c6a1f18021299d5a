import asyncio
import errno
import fcntl
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from kumiai.core import failpoints
from kumiai.core.digest import digest_of
from kumiai.core.errors import ConflictError, IntegrityError, StorageError
from kumiai.storage import BlobWriter, LocalBlobStore, local_blobs
from kumiai.testing.blob_contract import BlobStoreContract
from kumiai.testing.crash import KILL_AT
from tests.storage.programs.blob_writer import content_of
from tests.zygote import Child, Zygote

SPACE = "updates/run-a/1/a"
BLOB = content_of(102_400)
DIGEST = digest_of([BLOB])


class TestLocalBlobStore(BlobStoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[LocalBlobStore]:
        store = LocalBlobStore(tmp_path / "blobs")
        yield store
        await store.close()


class TestLocalBlobStoreForSimulation(BlobStoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[LocalBlobStore]:
        store = LocalBlobStore(tmp_path / "blobs", durable=False)
        yield store
        await store.close()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalBlobStore]:
    store = LocalBlobStore(tmp_path / "blobs")
    yield store
    await store.close()


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


async def test_files_are_for_their_owner_only(store: LocalBlobStore, tmp_path: Path) -> None:
    digest = await store.put("models/run-a", [b"model"])
    writer = await store.begin(SPACE, DIGEST, len(BLOB))
    await writer.write(BLOB)
    await writer.commit()

    modes = {
        stat.S_IMODE(path.stat().st_mode)
        for path in (tmp_path / "blobs").rglob("*")
        if path.is_file()
    }
    assert modes == {0o600}
    assert stat.S_IMODE((tmp_path / "blobs").stat().st_mode) == 0o700
    assert files(tmp_path / "blobs") == [f"models/run-a/{digest}", f"{SPACE}/{DIGEST}"]


async def test_an_upload_survives_its_process(tmp_path: Path) -> None:
    first = LocalBlobStore(tmp_path)
    writer = await first.begin(SPACE, DIGEST, len(BLOB))
    await writer.write(BLOB[:1000])
    await first.close()

    second = LocalBlobStore(tmp_path)
    assert await second.received_bytes(SPACE, DIGEST) == 1000
    resumed = await second.begin(SPACE, DIGEST, len(BLOB))
    await resumed.write(BLOB[resumed.offset :])
    await resumed.commit()

    assert await second.read(SPACE, DIGEST, 0, len(BLOB)) == BLOB
    assert files(tmp_path) == [f"{SPACE}/{DIGEST}"]
    await second.close()


async def test_a_damaged_upload_is_noticed_after_its_resumption(
    store: LocalBlobStore, tmp_path: Path
) -> None:
    writer = await store.begin(SPACE, DIGEST, len(BLOB))
    await writer.write(BLOB[:1000])
    await writer.suspend()
    part = tmp_path / "blobs" / SPACE / f".{DIGEST}.part"
    part.write_bytes(b"\0" * 1000)

    resumed = await store.begin(SPACE, DIGEST, len(BLOB))
    await resumed.write(BLOB[1000:])
    with pytest.raises(IntegrityError):
        await resumed.commit()

    assert files(tmp_path) == []


async def test_two_processes_that_upload_the_same_blob_do_not_mix(tmp_path: Path) -> None:
    here, there = LocalBlobStore(tmp_path), LocalBlobStore(tmp_path)
    first = await here.begin(SPACE, DIGEST, len(BLOB))
    await first.write(BLOB[:1000])

    second = await there.begin(SPACE, DIGEST, len(BLOB))
    assert second.offset == 0
    await second.write(b"x" * len(BLOB))
    await first.write(BLOB[1000:])
    await first.commit()
    with pytest.raises(IntegrityError):
        await second.commit()

    assert await there.read(SPACE, DIGEST, 0, len(BLOB)) == BLOB
    assert files(tmp_path) == [f"{SPACE}/{DIGEST}"]
    await here.close()
    await there.close()


async def test_an_upload_beside_that_of_another_process_leaves_nothing_when_suspended(
    tmp_path: Path,
) -> None:
    here, there = LocalBlobStore(tmp_path), LocalBlobStore(tmp_path)
    first = await here.begin(SPACE, DIGEST, len(BLOB))
    second = await there.begin(SPACE, DIGEST, len(BLOB))
    await second.write(BLOB[:10])

    await second.suspend()

    assert files(tmp_path) == [f"{SPACE}/.{DIGEST}.part"]
    await first.suspend()
    await here.close()
    await there.close()


def test_a_file_that_was_committed_while_it_was_opened_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, blob = tmp_path / ".part", tmp_path / "blob"
    part.write_bytes(b"whole")
    lock = fcntl.flock
    moves: list[Callable[[], object]] = [
        lambda: part.rename(blob),
        lambda: part.rename(tmp_path / "gone") and part.write_bytes(b"new"),
    ]

    def flock(descriptor: int, operation: int) -> None:
        if moves:
            moves.pop(0)()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)

    descriptor = local_blobs._lock_part(part)

    assert os.path.samestat(os.fstat(descriptor), part.stat())
    assert blob.read_bytes() == b"whole"
    os.close(descriptor)


async def test_a_cancelled_write_does_not_lose_its_file_to_the_end_of_the_upload(
    store: LocalBlobStore,
) -> None:
    writer = await store.begin(SPACE, DIGEST, len(BLOB))
    inside, go_on = threading.Event(), threading.Event()

    def hold(name: str) -> None:
        if name == "storage.blob.write.before":
            inside.set()
            assert go_on.wait(20)

    failpoints.install(hold)
    try:
        writing = asyncio.create_task(writer.write(BLOB[:1000]))
        await asyncio.get_running_loop().run_in_executor(None, inside.wait, 20)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        suspending = asyncio.create_task(writer.suspend())
        await asyncio.sleep(0)
        go_on.set()
        await suspending
    finally:
        failpoints.install(None)

    resumed = await store.begin(SPACE, DIGEST, len(BLOB))
    assert resumed.offset == 1000
    await resumed.write(BLOB[1000:])
    await resumed.commit()


async def test_bytes_are_synced_before_the_name_and_the_name_before_the_end(
    store: LocalBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    sync, sync_folder = local_blobs._sync, local_blobs._sync_folder

    def note_sync(descriptor: int) -> None:
        sync(descriptor)
        order.append(f"bytes:{os.fstat(descriptor).st_size}")

    def note_folder(folder: Path) -> None:
        sync_folder(folder)
        order.append(f"folder:{folder.name}:{(folder / DIGEST).exists()}")

    monkeypatch.setattr(local_blobs, "_sync", note_sync)
    monkeypatch.setattr(local_blobs, "_sync_folder", note_folder)
    failpoints.install(order.append)
    try:
        writer = await store.begin(SPACE, DIGEST, len(BLOB))
        await writer.write(BLOB)
        await writer.commit()
    finally:
        failpoints.install(None)

    assert order == [
        "storage.blob.write.before",
        "storage.blob.write.after",
        "storage.blob.sync.before",
        f"bytes:{len(BLOB)}",
        "storage.blob.sync.after",
        "storage.blob.rename.before",
        "folder:a:True",
        "folder:1:False",
        "folder:run-a:False",
        "folder:updates:False",
        "folder:blobs:False",
        f"folder:{store.path_of(SPACE, DIGEST).parents[5].name}:False",
        "storage.blob.rename.after",
    ]


async def test_a_known_folder_is_synced_no_more_until_it_is_deleted(
    store: LocalBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    await store.put(SPACE, [b"one"])
    monkeypatch.setattr(local_blobs, "_sync_folder", lambda folder: synced.append(folder.name))

    await store.put(SPACE, [b"two"])
    await store.put("updates/run-a/1/b", [b"one"])
    again = list(synced)
    synced.clear()
    await store.delete_namespace("updates/run-a/1")
    await store.put(SPACE, [b"one"])

    assert again == ["a", "b", "1"]
    assert synced == ["a", "1", "run-a"]


async def test_nothing_is_synced_for_simulation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_what: object) -> None:
        raise OSError(errno.EIO, "must not sync")

    monkeypatch.setattr(local_blobs, "_sync", refuse)
    monkeypatch.setattr(local_blobs, "_sync_folder", refuse)
    store = LocalBlobStore(tmp_path, durable=False)
    writer = await store.begin(SPACE, DIGEST, len(BLOB))
    await writer.write(BLOB)

    await writer.commit()
    await store.put(SPACE, [b"one"])
    await store.close()


async def test_a_big_upload_is_synced_while_it_comes(
    store: LocalBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(local_blobs, "_SYNC_EVERY_BYTES", 20_000)
    monkeypatch.setattr(
        local_blobs, "_sync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size)
    )

    writer = await store.begin(SPACE, DIGEST, len(BLOB))
    for start in range(0, len(BLOB), 10_000):
        await writer.write(BLOB[start : start + 10_000])
    await writer.commit()

    assert len(sizes) > 1
    assert sizes[-1] == len(BLOB)


async def finish(writer: BlobWriter, rest: bytes) -> None:
    await writer.write(rest)
    await writer.commit()


async def test_a_sync_that_fails_on_the_way_fails_the_upload(
    store: LocalBlobStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(local_blobs, "_SYNC_EVERY_BYTES", 20_000)
    monkeypatch.setattr(local_blobs, "_sync", fail)
    writer = await store.begin(SPACE, DIGEST, len(BLOB))
    await writer.write(BLOB[:30_000])
    await writer.write(BLOB[30_000:35_000])

    monkeypatch.setattr(local_blobs, "_sync", lambda _descriptor: None)
    with pytest.raises(StorageError):
        await finish(writer, BLOB[35_000:])

    assert await store.find_size(SPACE, DIGEST) is None


@pytest.mark.parametrize(
    ("code", "mend"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EROFS, "mount it writable"),
        (errno.EACCES, "let this user write"),
        (errno.EIO, "Input/output error"),
    ],
)
@pytest.mark.parametrize("failing", ["_write_all", "_sync"])
async def test_a_disk_that_fails_is_told_with_the_mend_and_leaves_nothing(
    store: LocalBlobStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    code: int,
    mend: str,
    failing: str,
) -> None:
    def fail(*_arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    async def upload() -> None:
        writer = await store.begin(SPACE, DIGEST, len(BLOB))
        await writer.write(BLOB)
        await writer.commit()

    with monkeypatch.context() as patch:
        patch.setattr(local_blobs, failing, fail)
        with pytest.raises(StorageError, match=mend) as uploaded:
            await upload()
        with pytest.raises(StorageError, match=mend):
            await store.put(SPACE, [BLOB])

    assert str(tmp_path / "blobs") in str(uploaded.value)
    assert files(tmp_path) == []
    await upload()


async def test_a_failed_writer_must_be_begun_again(
    store: LocalBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = await store.begin(SPACE, DIGEST, len(BLOB))
    with monkeypatch.context() as patch:
        patch.setattr(local_blobs, "_write_all", fail)
        with pytest.raises(StorageError):
            await writer.write(BLOB)

    with pytest.raises(ConflictError, match="begin again"):
        await writer.write(BLOB)
    await writer.suspend()


async def test_a_full_disk_is_a_storage_error_and_leaves_nothing(tmp_path: Path) -> None:
    import resource

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FULL, str(tmp_path), DIGEST],
        check=False,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )

    assert done.returncode == 0, done.stderr
    assert files(tmp_path) == []


FULL = """
import asyncio, signal, sys
from pathlib import Path
from kumiai.core.errors import StorageError
from kumiai.storage import LocalBlobStore

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
BLOB = bytes(range(256)) * 400

async def main():
    store = LocalBlobStore(Path(sys.argv[1]))
    writer = await store.begin("updates/run-a", sys.argv[2], len(BLOB))
    for attempt in (lambda: writer.write(BLOB), lambda: store.put("models/run-a", [BLOB])):
        try:
            await attempt()
        except StorageError:
            continue
        sys.exit("it must be refused")
    await store.close()

asyncio.run(main())
"""


async def test_a_folder_in_the_way_of_the_root_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("a file")
    store = LocalBlobStore(tmp_path / "blobs")

    with pytest.raises(StorageError, match="blob folder"):
        await store.put(SPACE, [b"x"])
    with pytest.raises(StorageError, match="blob folder"):
        await store.begin(SPACE, DIGEST, len(BLOB))
    await store.close()


async def test_a_namespace_that_fills_while_it_is_deleted_is_deleted_again(
    store: LocalBlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put(SPACE, [b"one"])
    remove = local_blobs.shutil.rmtree
    failures = [OSError(errno.ENOTEMPTY, "Directory not empty")]

    def rmtree(folder: Path) -> None:
        if failures:
            raise failures.pop()
        remove(folder)

    monkeypatch.setattr(local_blobs.shutil, "rmtree", rmtree)

    await store.delete_namespace("updates/run-a")

    assert files(tmp_path) == []


@pytest.mark.parametrize("error", [FileNotFoundError, OSError(errno.ENOTEMPTY, "not empty")])
async def test_a_namespace_that_others_fill_or_empty_all_the_time_is_given_up(
    store: LocalBlobStore, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    await store.put(SPACE, [b"one"])
    attempts: list[Path] = []

    def rmtree(folder: Path) -> None:
        attempts.append(folder)
        raise error

    monkeypatch.setattr(local_blobs.shutil, "rmtree", rmtree)

    with pytest.raises(StorageError, match="blob folder"):
        await store.delete_namespace("updates/run-a")

    assert len(attempts) == 5


async def test_a_disk_without_locks_is_a_storage_error(
    store: LocalBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)

    with pytest.raises(StorageError, match="No locks available"):
        await store.begin(SPACE, DIGEST, len(BLOB))


def test_on_macos_the_cache_of_the_drive_is_flushed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda _descriptor, command: asked.append(command))

    with (tmp_path / "file").open("wb") as file:
        local_blobs._sync(file.fileno())

    assert asked == [51]


async def test_deleting_one_blob_leaves_the_uploads_of_others_alone(
    store: LocalBlobStore,
) -> None:
    other = await store.put(SPACE, [b"other"])
    writer = await store.begin(SPACE, DIGEST, len(BLOB))
    await writer.write(BLOB)

    await store.delete(SPACE, other)
    await writer.commit()

    assert await store.find_size(SPACE, DIGEST) == len(BLOB)


async def test_a_namespace_that_cannot_be_deleted_is_a_storage_error(
    store: LocalBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put(SPACE, [b"one"])

    def rmtree(folder: Path) -> None:
        raise OSError(errno.EACCES, "Permission denied", str(folder))

    monkeypatch.setattr(local_blobs.shutil, "rmtree", rmtree)

    with pytest.raises(StorageError, match="let this user write"):
        await store.delete_namespace("updates/run-a")


async def killed_writer(zygote: Zygote, folder: Path, point: str, way: str) -> Child:
    """Let a process write the blob and die at the point."""
    child = await zygote.fork(
        [json.dumps({"folder": str(folder / "blobs")}), str(len(BLOB)), way],
        program="tests.storage.programs.blob_writer",
        environment={KILL_AT: point},
        log=folder / "log",
    )
    await child.ended()
    return child


@pytest.mark.parametrize("way", ["upload", "put"])
@pytest.mark.parametrize(
    ("point", "is_visible"),
    [
        ("storage.blob.write.before", False),
        ("storage.blob.write.after", False),
        ("storage.blob.sync.before", False),
        ("storage.blob.sync.after", False),
        ("storage.blob.rename.before", False),
        ("storage.blob.rename.after", True),
    ],
)
async def test_a_killed_process_leaves_a_whole_blob_or_none(
    store: LocalBlobStore,
    zygote: Zygote,
    tmp_path: Path,
    *,
    point: str,
    is_visible: bool,
    way: str,
) -> None:
    killed = await killed_writer(zygote, tmp_path, point, way)

    found = await store.find_size(SPACE, DIGEST)
    writer = await store.begin(SPACE, DIGEST, len(BLOB))
    await writer.write(BLOB[writer.offset :])
    await writer.commit()

    assert killed.was_killed, killed.last_lines()
    assert (found is not None) == is_visible
    assert await store.read(SPACE, DIGEST, 0, len(BLOB)) == BLOB
    await store.delete(SPACE, DIGEST)
    assert files(tmp_path / "blobs") == []


@pytest.mark.parametrize("point", ["storage.blob.write.after", "storage.blob.rename.before"])
async def test_a_blob_put_again_after_a_kill_uses_up_what_was_left(
    store: LocalBlobStore, zygote: Zygote, tmp_path: Path, point: str
) -> None:
    await killed_writer(zygote, tmp_path, point, "put")
    left = files(tmp_path / "blobs")

    await store.put(SPACE, [BLOB])

    assert len(left) == 1
    assert files(tmp_path / "blobs") == [f"{SPACE}/{DIGEST}"]
    assert await store.read(SPACE, DIGEST, 0, len(BLOB)) == BLOB


async def test_a_blob_put_while_another_process_uploads_it_goes_its_own_way(
    tmp_path: Path,
) -> None:
    mine, others = LocalBlobStore(tmp_path), LocalBlobStore(tmp_path)
    writer = await others.begin("updates/run-a", DIGEST, len(BLOB))
    await writer.write(BLOB[:5000])

    await mine.put("updates/run-a", [BLOB])
    await writer.write(BLOB[5000:])
    await writer.commit()

    assert files(tmp_path) == [f"updates/run-a/{DIGEST}"]
    assert await mine.read("updates/run-a", DIGEST, 0, len(BLOB)) == BLOB
    await mine.close()
    await others.close()
