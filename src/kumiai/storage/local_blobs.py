"""Blobs as files in a local directory.

The layout is ``root/<namespace>/<digest>``; an upload is ``root/<namespace>/.<digest>.part``
until it is whole. Rules kept here, in this order:

1. Bytes go to the hidden file, are synced, and only then renamed to the digest; afterwards the
   directory is synced, and every directory above it that is new. So a visible blob is whole and
   durable, whatever kills the process or the machine.
2. One writer a blob. In this process a newer one ends the older; between processes the hidden
   file is locked, and whoever does not get the lock uploads to a file of its own. Otherwise the
   bytes on disk could differ from those that were hashed.
3. Files are touched in threads only: a chunk is hashed and written in one hop.
"""

import asyncio
import contextlib
import errno
import fcntl
import mmap
import os
import secrets
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from kumiai.core.clock import SystemClock
from kumiai.core.digest import Buffer, StreamingDigest, digest_of, verify_digest_text
from kumiai.core.errors import IntegrityError, StorageError
from kumiai.core.failpoints import reach
from kumiai.storage.blob_listing import StoredBlob, files_below, open_gate
from kumiai.storage.blobs import (
    BlobWriter,
    ended_upload,
    missing_blob,
    verify_begin,
    verify_namespace,
    verify_room,
    verify_whole,
)

__all__ = ["LocalBlobStore"]

_Result = TypeVar("_Result")
_Key = tuple[str, str]

_THREADS = 4
_WRITE_BYTES = 1 << 20  # larger single writes are slower on ext4
_SYNC_EVERY_BYTES = 64 << 20
_REMOVALS_MAX = 5
_MENDS = {
    errno.ENOSPC: "free some space on that disk",
    errno.EDQUOT: "raise the quota or free some space",
    errno.EROFS: "mount it writable",
    errno.EACCES: "let this user write there",
    errno.EPERM: "let this user write there",
}


class LocalBlobStore:
    """Blobs in a directory of this machine, or of a shared disk that knows locks.

    Args:
        root: the directory; it is made when missing.
        durable: ``False`` skips every sync: for simulation only, a loss of power loses blobs.
        threads: how many calls may be at work on files at once.
    """

    def __init__(self, root: Path, *, durable: bool = True, threads: int = _THREADS) -> None:
        self._root = Path(root)
        self._durable = durable
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="kumiai-blobs")
        self._writers: dict[_Key, _LocalBlobWriter] = {}
        # Directories whose own entry is known to be durable, so that it is synced once only.
        self._durable_folders: set[Path] = set()

    async def begin(self, namespace: str, digest: str, size_bytes: int) -> BlobWriter:
        """Start or go on with an upload; see `BlobStore.begin`."""
        key = (verify_namespace(namespace), verify_digest_text(digest))
        verify_begin(await self.find_size(*key), digest, size_bytes)
        # Registered before the first wait, so that of two at once the second ends the first.
        older = self._writers.get(key)
        writer = _LocalBlobWriter(self, key, size_bytes)
        self._writers[key] = writer
        if older is not None:
            await older.end()
        await writer.open()
        return writer

    async def put(self, namespace: str, buffers: Sequence[Buffer]) -> str:
        """Store the buffers as one blob; see `BlobStore.put`."""
        verify_namespace(namespace)
        return await self.in_thread(lambda: self._put(namespace, buffers))

    async def find_size(self, namespace: str, digest: str) -> int | None:
        """Return the blob's size; see `BlobStore.find_size`."""
        path = self.path_of(namespace, digest)
        return await self.in_thread(lambda: _find_size(path))

    async def read(self, namespace: str, digest: str, offset: int, limit: int) -> bytes:
        """Return a part of the blob; see `BlobStore.read`."""
        path = self.path_of(namespace, digest)

        def _read() -> bytes:
            with _opened(path, namespace, digest) as descriptor:
                return os.pread(descriptor, limit, offset)

        return await self.in_thread(_read)

    @contextmanager
    def open_buffer(self, namespace: str, digest: str) -> Iterator[memoryview]:
        """Return the blob, memory-mapped; see `BlobStore.open_buffer`."""
        path = self.path_of(namespace, digest)
        with self.translated(), _opened(path, namespace, digest) as descriptor:
            mapped = map_file(descriptor)
        with lent_view(mapped) as view:
            yield view

    async def delete(self, namespace: str, digest: str) -> None:
        """Delete a blob; see `BlobStore.delete`."""
        path = self.path_of(namespace, digest)
        await self._end_writers(lambda key: key == (namespace, digest))

        def _delete() -> None:
            for each in [path, *path.parent.glob(f".{digest}.*")]:
                each.unlink(missing_ok=True)

        await self.in_thread(_delete)

    async def delete_namespace(self, namespace_prefix: str) -> None:
        """Delete all below; see `BlobStore.delete_namespace`."""
        folder = self._root / verify_namespace(namespace_prefix)
        await self._end_writers(lambda key: f"{key[0]}/".startswith(f"{namespace_prefix}/"))
        self._durable_folders = {
            each for each in self._durable_folders if not each.is_relative_to(folder)
        }
        await self.in_thread(lambda: _remove_tree(folder))

    async def received_bytes(self, namespace: str, digest: str) -> int:
        """Return how much is here; see `BlobStore.received_bytes`."""
        path = self.path_of(namespace, digest)
        return await self.in_thread(lambda: _find_size(path) or _find_size(_part_of(path)) or 0)

    async def check(self) -> None:
        """See that the folder is there, or can be made.

        Raises:
            StorageError: it can not; the message says what to do.
        """
        await self.in_thread(lambda: self._root.mkdir(mode=0o700, parents=True, exist_ok=True))

    async def list_blobs(self, namespace_prefix: str) -> AsyncIterator[list[StoredBlob]]:
        """Give what is stored below a namespace, in pages; see `SweptStore.list_blobs`."""
        pages = files_below(self._root, verify_namespace(namespace_prefix))
        while page := await self.in_thread(lambda: next(pages, None)):
            yield page

    async def sweep(
        self, blobs: Sequence[StoredBlob], *, older_than_seconds: float
    ) -> list[StoredBlob]:
        """Delete those that are still as old; see `SweptStore.sweep`."""
        return await self.in_thread(
            lambda: [blob for blob in blobs if self._sweep(blob, older_than_seconds)]
        )

    async def close(self) -> None:
        """End all uploads and the threads; see `BlobStore.close`."""
        await self._end_writers(lambda _key: True)
        self._threads.shutdown(wait=False)

    def path_of(self, namespace: str, digest: str) -> Path:
        """Return where the blob lies or would lie."""
        return self._root / verify_namespace(namespace) / verify_digest_text(digest)

    async def in_thread(self, work: Callable[[], _Result]) -> _Result:
        """Run ``work`` in a thread of the store; errors of the system become ours."""

        def _work() -> _Result:
            with self.translated():
                return work()

        return await asyncio.get_running_loop().run_in_executor(self._threads, _work)

    def in_background(self, work: Callable[[], None]) -> "Future[None]":
        """Start ``work`` in a thread of the store and go on."""
        return self._threads.submit(work)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn an error of the system into a ``StorageError`` that says what to do."""
        try:
            yield
        except OSError as error:
            mend = _MENDS.get(error.errno or 0)
            raise StorageError(
                f"blob folder {self._root} must be writable, got {error.strerror or error}"
                + (f"; {mend}" if mend else "")
            ) from error

    def make_folder(self, folder: Path) -> None:
        """Make the directory and those above it; the root lets only this user in."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def sync(self, descriptor: int) -> None:
        """Make the file's bytes durable."""
        if self._durable:
            reach("storage.blob.sync.before")
            _sync(descriptor)
            reach("storage.blob.sync.after")

    def publish(self, part: Path, path: Path) -> None:
        """Give a whole and synced file its name, durably."""
        reach("storage.blob.rename.before")
        with open_gate(self._root):
            # Its bytes may have come long ago; it counts as new from now on.
            os.utime(part)
            part.replace(path)
            self.sync_folders(path.parent)
        reach("storage.blob.rename.after")

    def claim(self, path: Path) -> bool:
        """Tell whether the blob is published; then it counts as new, and is durable."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open_gate(self._root):
            try:
                os.utime(path)
            except FileNotFoundError:
                return False
            # Whoever put it there may not have come to the sync of the folder.
            self.sync_folders(path.parent)
        return True

    def own_part(self, path: Path) -> tuple[Path, int, bool]:
        """Return a hidden file for the blob; see `_own_part`."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Else the folder could be swept away, being empty, between its making and its use.
        with open_gate(self._root):
            self.make_folder(path.parent)
            return _own_part(path)

    def sync_folders(self, folder: Path) -> None:
        """Make the entries of ``folder`` durable, and its own with all new ones above."""
        if not self._durable:
            return
        _sync_folder(folder)
        while folder != self._root.parent and folder not in self._durable_folders:
            _sync_folder(folder.parent)
            self._durable_folders.add(folder)
            folder = folder.parent

    def forget(self, key: _Key, writer: "_LocalBlobWriter") -> None:
        """Drop a writer that has ended."""
        if self._writers.get(key) is writer:
            del self._writers[key]

    async def _end_writers(self, is_meant: Callable[[_Key], bool]) -> None:
        for key, writer in list(self._writers.items()):
            if is_meant(key):
                await writer.end()

    def _put(self, namespace: str, buffers: Sequence[Buffer]) -> str:
        digest = digest_of(buffers)
        path = self.path_of(namespace, digest)
        if self.claim(path):
            return digest
        # The same hidden file as before a crash, so that what a killed process left is used up.
        part, descriptor, _ = self.own_part(path)
        ahead = _SyncAhead(self, descriptor)
        try:
            reach("storage.blob.write.before")
            os.ftruncate(descriptor, 0)
            for piece in _pieces(buffers):
                _write_all(descriptor, piece)
                ahead.wrote(len(piece))
            reach("storage.blob.write.after")
            ahead.finish()
            self.sync(descriptor)
            self.publish(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        finally:
            ahead.end()
            os.close(descriptor)
        return digest

    def _sweep(self, blob: StoredBlob, older_than_seconds: float) -> bool:
        path = self.path_of(blob.namespace, blob.digest)
        if blob.kind == "upload":
            path = path.with_name(blob.handle)
        try:
            with open_gate(self._root, closes=True) as is_alone:
                is_swept = is_alone and _remove_old(path, older_than_seconds)
                if is_swept:
                    self._remove_empty_folders(path.parent)
        except FileNotFoundError:
            return False
        return is_swept

    def _remove_empty_folders(self, folder: Path) -> None:
        # The folders of all runs stay: another process may know them to be durable.
        with contextlib.suppress(OSError):
            while folder.parent.parent != self._root.parent:
                folder.rmdir()
                self._durable_folders.discard(folder)
                folder = folder.parent


def map_file(descriptor: int) -> mmap.mmap | bytes:
    """Return the file's bytes, mapped read-only; they outlive the descriptor."""
    if not os.fstat(descriptor).st_size:
        return b""  # nothing cannot be mapped
    return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)


@contextmanager
def lent_view(mapped: mmap.mmap | bytes) -> Iterator[memoryview]:
    """Lend a view of mapped bytes and unmap them, unless arrays live on over the view."""
    view = memoryview(mapped)
    try:
        yield view
    finally:
        # Then they unmap it when they go.
        with contextlib.suppress(BufferError):
            view.release()
            if isinstance(mapped, mmap.mmap):
                mapped.close()


class _SyncAhead:
    """Syncs a file in the background while it grows, so that the last sync finds little to do."""

    def __init__(self, store: LocalBlobStore, descriptor: int) -> None:
        self._store = store
        self._descriptor = descriptor
        self._unsynced_bytes = 0
        self._syncing: Future[None] | None = None

    def wrote(self, count: int) -> None:
        """Note that the file has grown.

        Raises:
            OSError: an earlier sync failed.
        """
        self._unsynced_bytes += count
        is_syncing = self._syncing is not None and not self._syncing.done()
        if self._unsynced_bytes >= _SYNC_EVERY_BYTES and not is_syncing:
            self.finish()
            self._unsynced_bytes = 0
            self._syncing = self._store.in_background(lambda: self._store.sync(self._descriptor))

    def finish(self) -> None:
        """Wait until no sync runs.

        Raises:
            OSError: one failed.
        """
        syncing, self._syncing = self._syncing, None
        # One that has not begun is not waited for: this thread may be the one that it needs.
        if syncing is not None and not syncing.cancel():
            syncing.result()

    def end(self) -> None:
        """Wait as `finish` does; whether it failed is of no interest any more."""
        with contextlib.suppress(OSError):
            self.finish()


class _LocalBlobWriter:
    """One upload.

    All that touches the file runs in a thread and under ``_guard``: a caller that is cancelled
    does not stop the thread, and its file must not be closed or handed on while it writes.
    """

    def __init__(self, store: LocalBlobStore, key: _Key, size_bytes: int) -> None:
        self._store = store
        self._key = key
        self._path = store.path_of(*key)
        self._part = _part_of(self._path)
        self._size_bytes = size_bytes
        self._guard = threading.Lock()
        self._descriptor = -1
        self._digest = StreamingDigest()
        self._is_resumable = True
        self._exists = False
        self._ended = False
        self._ahead: _SyncAhead | None = None

    @property
    def offset(self) -> int:
        return self._size_bytes if self._exists else self._digest.size_bytes

    @property
    def is_complete(self) -> bool:
        return self.offset == self._size_bytes

    async def open(self) -> None:
        await self._guarded(self._open)

    async def write(self, chunk: bytes) -> None:
        await self._guarded(lambda: self._write(chunk))

    async def commit(self) -> None:
        await self._guarded(self._commit)
        self._store.forget(self._key, self)

    async def suspend(self) -> None:
        await self.end()

    async def discard(self) -> None:
        self._ended = True
        await self._store.in_thread(self._throw_away)
        self._store.forget(self._key, self)

    async def end(self) -> None:
        """End this writer, keeping what came; ending twice does nothing."""
        if self._ended and self._descriptor < 0:
            return
        self._ended = True
        await self._store.in_thread(self._end)
        # Not before: a newer writer that did not find this one would not get the file's lock.
        self._store.forget(self._key, self)

    async def _guarded(self, work: Callable[[], None]) -> None:
        def _work() -> None:
            with self._guard:
                self._verify_open()
                work()

        self._verify_open()
        try:
            await self._store.in_thread(_work)
        finally:
            if self._ended:
                self._store.forget(self._key, self)

    def _verify_open(self) -> None:
        if self._ended:
            raise ended_upload(*self._key)

    def _open(self) -> None:
        if self._store.claim(self._path):
            self._exists = True
            return
        self._part, self._descriptor, self._is_resumable = self._store.own_part(self._path)
        self._ahead = _SyncAhead(self._store, self._descriptor)
        if os.fstat(self._descriptor).st_size > self._size_bytes:
            os.ftruncate(self._descriptor, 0)
        while chunk := os.read(self._descriptor, _WRITE_BYTES):
            self._digest.update(chunk)

    def _write(self, chunk: bytes) -> None:
        verify_room(self.offset, chunk, self._size_bytes)
        reach("storage.blob.write.before")
        try:
            _write_all(self._descriptor, chunk)
        except OSError:
            # A full disk is not helped by half a blob; and what part of the chunk arrived is
            # not known.
            self._discard()
            raise
        self._digest.update(chunk)
        reach("storage.blob.write.after")
        if self._ahead is not None:
            self._ahead.wrote(len(chunk))

    def _commit(self) -> None:
        if self._exists:
            return
        try:
            verify_whole(self._digest, self._key[1], self._size_bytes)
            self._wait_for_sync()
            self._store.sync(self._descriptor)
        except (IntegrityError, OSError):
            # After a failed sync the system may forget the bytes it could not write, and let
            # the next sync succeed: nothing of this file can be trusted any more.
            self._discard()
            raise
        self._store.publish(self._part, self._path)
        self._exists = True
        self._close()

    def _discard(self) -> None:
        self._ended = True
        self._part.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._wait_for_sync()
        self._close()

    def _throw_away(self) -> None:
        with self._guard:
            # Without a descriptor there is only the committed blob, or a newer writer's file.
            if self._descriptor >= 0:
                self._discard()

    def _end(self) -> None:
        with self._guard:
            if self._descriptor >= 0 and not self._is_resumable:
                self._part.unlink(missing_ok=True)
            try:
                self._wait_for_sync()
            finally:
                self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _wait_for_sync(self) -> None:
        if self._ahead is not None:
            self._ahead.finish()


def _part_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _own_part(path: Path) -> tuple[Path, int, bool]:
    """Return a hidden file for the blob, locked, at offset 0, and whether it is the usual one.

    When another writes the usual one, it is a file that nobody else will find.
    """
    part = _part_of(path)
    if (descriptor := _lock_part(part)) >= 0:
        return part, descriptor, True
    part = part.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    return part, _lock_part(part), False


def _lock_part(part: Path) -> int:
    """Return a descriptor of the hidden file, locked, at offset 0; -1 when another has it."""
    while True:
        descriptor = os.open(part, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between our opening and our locking it may have been committed: the file we then
            # hold is the blob, and must not be touched.
            if os.path.samestat(os.fstat(descriptor), part.stat()):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return -1
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


@contextmanager
def _opened(path: Path, namespace: str, digest: str) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise missing_blob(namespace, digest) from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _remove_old(path: Path, older_than_seconds: float) -> bool:
    descriptor = os.open(path, os.O_RDWR)
    try:
        # A blob is locked by nobody, an upload by its writer, however slow.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        status = os.fstat(descriptor)
        if SystemClock().now() - status.st_mtime <= older_than_seconds:
            return False
        path.unlink()
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _find_size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _pieces(buffers: Sequence[Buffer]) -> Iterator[memoryview]:
    for buffer in buffers:
        view = memoryview(buffer)
        if view.nbytes:  # an empty one of several dimensions cannot be cast
            flat = view.cast("B")
            for start in range(0, len(flat), _SYNC_EVERY_BYTES):
                yield flat[start : start + _SYNC_EVERY_BYTES]


def _write_all(descriptor: int, view: Buffer) -> None:
    view = memoryview(view)
    while view:
        view = view[os.write(descriptor, view[:_WRITE_BYTES]) :]


def _sync(descriptor: int) -> None:
    # On macOS fsync leaves the bytes in the drive's cache; this does not.
    if hasattr(fcntl, "F_FULLFSYNC"):
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_tree(folder: Path) -> None:
    for _ in range(_REMOVALS_MAX):
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            # Someone else removes it, too, and may be ahead of us in one folder only.
            if not folder.exists():
                return
        except OSError as error:
            # An upload that another process begins meanwhile fills what is being emptied.
            if error.errno != errno.ENOTEMPTY:
                raise
        else:
            return
    raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(folder))
