"""Blobs as objects of an S3-compatible server.

A blob is the object ``<prefix>/<namespace>/<digest>``. Beside it each replica has a local folder:

- ``spool``: uploads on their way, one file each. What came stays there when the sender or this
  process dies, and the upload goes on from there; only the whole, verified file goes to the
  server. Another replica has not got the file: there the upload begins anew.
- ``cache``: copies of blobs that were published or read here (`blob_cache`).

Rules kept here:

1. An object appears whole or not at all, and only after its bytes matched the digest. Small ones
   are created if there is none, large ones go in parts and may be put twice: with the same bytes.
2. Bytes are compared with the digest when they come from the server, before anybody maps them.
   Only a part that is read by `read` and is not in the cache can not be compared; whoever puts
   the parts together does that.
3. A blob that exists and is put again counts as new: an old object is put again, so that a
   sweeper finds it young. After each put the sweeps that are under way are waited for: a sweeper
   marks the beginning of a sweep by an object and looks at each blob's age after that, so it sees
   the new age, or the one who puts sees the mark and waits, or the sweep has ended. Whoever puts
   then looks whether the blob is there, and puts it again if it has gone.
"""

import contextlib
import os
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from kumiai.core.clock import SystemClock
from kumiai.core.digest import Buffer, digest_of, verify_digest_text
from kumiai.core.errors import IntegrityError, KumiaiError, NotFoundError, StorageError
from kumiai.core.failpoints import reach
from kumiai.storage.blob_cache import BlobCache
from kumiai.storage.blob_listing import StoredBlob
from kumiai.storage.blobs import BlobWriter, missing_blob, verify_namespace
from kumiai.storage.local_blobs import LocalBlobStore, lent_view, map_file
from kumiai.storage.s3_bucket import PART_BYTES, S3Bucket, S3Object, S3Place
from kumiai.storage.s3_uploads import S3Upload, S3Uploads

__all__ = ["S3BlobStore"]

_Result = TypeVar("_Result")

_THREADS = 16
_GETS_AT_ONCE = 4
_SWEEPS = "sweeps"
_SWEEP_BLOBS = 100
_SWEEP_SECONDS = 60.0
_SWEEP_SECONDS_MAX = 600.0
_SWEEP_POLL_SECONDS = 0.2
_MULTIPART = "multipart "


class S3BlobStore:
    """Blobs in a bucket, with a local folder for what is on its way and what is read often.

    Args:
        place: the bucket and how to get there.
        folder: of this replica alone; it is made when missing.
        cache_folder: of this process alone, on the same disk as uploads are on their way; ``None``:
            in ``folder``.
        cache_bytes: how much may be kept of what was read; the newest blob may be larger.
        deadline_seconds: how long a call is tried again.
        fresh_seconds: a blob put again within this time is not put again; no sweep deletes
            what is younger, > 0.

    Raises:
        ConfigError: the place can not be used.
    """

    def __init__(
        self,
        place: S3Place,
        folder: Path,
        *,
        cache_folder: Path | None = None,
        cache_bytes: int = 4 << 30,
        deadline_seconds: float = 60.0,
        fresh_seconds: float = 600.0,
    ) -> None:
        self._bucket = S3Bucket(place, deadline_seconds=deadline_seconds)
        self._uploads = S3Uploads(place, timeout_seconds=deadline_seconds)
        self._cache = BlobCache(cache_folder or folder / "cache", limit_bytes=cache_bytes)
        self._fresh_seconds = fresh_seconds
        self._spool = _Spool(folder / "spool", self)
        self._getters = ThreadPoolExecutor(_GETS_AT_ONCE, thread_name_prefix="kumiai-s3-get")
        self._ahead: set[tuple[str, str]] = set()
        self._ahead_lock = threading.Lock()

    @property
    def place(self) -> S3Place:
        """Where the blobs are."""
        return self._bucket.place

    async def check(self) -> None:
        """See that the bucket is there and may be listed.

        Raises:
            StorageError: it is not; the message says what to do.
        """
        await self._in_thread(lambda: next(self._bucket.pages("probes"), None))

    async def begin(self, namespace: str, digest: str, size_bytes: int) -> BlobWriter:
        """Start or go on with an upload; see `BlobStore.begin`."""
        return await self._spool.begin(namespace, digest, size_bytes)

    async def put(self, namespace: str, buffers: Sequence[Buffer]) -> str:
        """Store the buffers as one blob; see `BlobStore.put`."""
        return await self._spool.put(namespace, buffers)

    async def find_size(self, namespace: str, digest: str) -> int | None:
        """Return the blob's size; see `BlobStore.find_size`."""
        key = _key(namespace, digest)
        found = await self._in_thread(lambda: self._bucket.find(key))
        return None if found is None else found.size_bytes

    async def read(self, namespace: str, digest: str, offset: int, limit: int) -> bytes:
        """Return a part of the blob; see `BlobStore.read`.

        From the cache if it is there. Who reads on gets it fetched as a whole in the background:
        a model that one client reads the others read, too.
        """
        _key(namespace, digest)
        return await self._in_thread(lambda: self._read(namespace, digest, offset, limit))

    @contextmanager
    def open_buffer(self, namespace: str, digest: str) -> Iterator[memoryview]:
        """Return the blob, mapped from a verified local copy; see `BlobStore.open_buffer`.

        Raises:
            IntegrityError: the server gave other bytes.
        """
        _key(namespace, digest)
        with self._spool.translated():
            descriptor = self._local_copy(namespace, digest)
            try:
                mapped = map_file(descriptor)
            finally:
                os.close(descriptor)
        with lent_view(mapped) as view:
            yield view

    async def delete(self, namespace: str, digest: str) -> None:
        """Delete a blob; see `BlobStore.delete`."""
        key = _key(namespace, digest)
        await self._spool.delete(namespace, digest)
        await self._in_thread(lambda: self._bucket.delete([key]))
        await self._in_thread(lambda: self._cache.remove(lambda each: each == (namespace, digest)))

    async def delete_namespace(self, namespace_prefix: str) -> None:
        """Delete all below; see `BlobStore.delete_namespace`."""
        below = verify_namespace(namespace_prefix) + "/"
        await self._spool.delete_namespace(namespace_prefix)

        def _delete() -> None:
            # The pages go on behind the last key, so one that is deleted is not missed.
            for page in self._bucket.pages(namespace_prefix):
                self._bucket.delete([each.key for each in page])
            self._cache.remove(lambda each: f"{each[0]}/".startswith(below))

        await self._in_thread(_delete)

    async def received_bytes(self, namespace: str, digest: str) -> int:
        """Return how much is here, at the server or in this replica's spool."""
        found = await self.find_size(namespace, digest)
        return await self._spool.received_bytes(namespace, digest) if found is None else found

    async def close(self) -> None:
        """End all uploads, keeping what came; see `BlobStore.close`."""
        self._bucket.close()
        await self._spool.close()
        self._getters.shutdown(wait=False, cancel_futures=True)

    # -------------------------------------------------------------------------------- sweeping

    async def list_blobs(self, namespace_prefix: str) -> AsyncIterator[list[StoredBlob]]:
        """Give what is stored below a namespace, in pages; see `SweptStore.list_blobs`.

        Blobs come first, then this replica's spool, then uploads in parts that nobody finished.
        """
        verify_namespace(namespace_prefix)
        clock = SystemClock()
        pages = self._bucket.pages(namespace_prefix)
        while page := await self._in_thread(lambda: next(pages, None)):
            yield [blob for each in page if (blob := _stored(each, clock.now())) is not None]
        async for spooled in self._spool.list_blobs(namespace_prefix):
            yield spooled
        unfinished = await self._in_thread(lambda: self._uploads.list(namespace_prefix))
        told = [_unfinished(each, clock.now()) for each in unfinished]
        if known := [each for each in told if each is not None]:
            yield known

    async def sweep(
        self, blobs: Sequence[StoredBlob], *, older_than_seconds: float
    ) -> list[StoredBlob]:
        """Delete those that are still as old; see `SweptStore.sweep`.

        Raises:
            ValueError: it asks for blobs that are younger than may be swept.
        """
        if older_than_seconds < self._fresh_seconds:
            raise ValueError(
                f"older_than_seconds must be at least {self._fresh_seconds:g}, got "
                f"{older_than_seconds:g}"
            )
        objects = [each for each in blobs if each.kind == "blob"]
        spooled = [each for each in blobs if not _is_multipart(each) and each.kind == "upload"]
        swept = await self._spool.sweep(spooled, older_than_seconds=older_than_seconds)
        for start in range(0, len(objects), _SWEEP_BLOBS):
            batch = objects[start : start + _SWEEP_BLOBS]
            swept += await self._in_thread(partial(self._sweep, batch, older_than_seconds))
        for each in filter(_is_multipart, blobs):
            if each.age_seconds > older_than_seconds:
                upload_id = each.handle.removeprefix(_MULTIPART)
                key = _key(each.namespace, each.digest)
                await self._in_thread(partial(self._uploads.abort, key, upload_id))
                swept.append(each)
        return swept

    def _sweep(self, blobs: Sequence[StoredBlob], older_than_seconds: float) -> list[StoredBlob]:
        swept: list[StoredBlob] = []
        mark = f"{_SWEEPS}/{secrets.token_hex(16)}"
        end = time.monotonic() + _SWEEP_SECONDS
        self._bucket.replace(mark, b"sweeping")
        try:
            marked = self._bucket.find(mark)
            if marked is None:
                raise StorageError(f"mark of a sweep must stay at {self.place}, got none")
            self._forget_dead_sweeps(marked)
            for blob in blobs:
                if time.monotonic() > end:
                    break  # those who wait for this sweep think it dead after ten times as long
                key = _key(blob.namespace, blob.digest)
                found = self._bucket.find(key)
                if found and marked.modified_at - found.modified_at > older_than_seconds:
                    self._bucket.delete([key])
                    swept.append(blob)
        finally:
            self._bucket.delete([mark])
        self._cache.remove({(each.namespace, each.digest) for each in swept}.__contains__)
        return swept

    def _forget_dead_sweeps(self, marked: S3Object) -> None:
        for page in self._bucket.pages(_SWEEPS):
            ages = {each.key: marked.modified_at - each.modified_at for each in page}
            dead = [key for key, age in ages.items() if age > _SWEEP_SECONDS_MAX]
            self._bucket.delete([key for key in dead if key != marked.key])

    def _outlast_sweeps(self, key: str, put: Callable[[], None]) -> S3Object:
        """Return what is there once no sweep that began before the last put can delete it."""
        while True:
            if marks := self._marks():
                self._wait_for_sweeps(key, marks)
            # Also without a mark: a sweep may have deleted it and ended since it was put.
            if (found := self._bucket.find(key)) is not None:
                return found
            put()

    def _marks(self) -> set[str]:
        return {each.key for page in self._bucket.pages(_SWEEPS) for each in page}

    def _wait_for_sweeps(self, key: str, marks: set[str]) -> None:
        while True:
            going = {
                each for page in self._bucket.pages(_SWEEPS) for each in page if each.key in marks
            }
            now = self._bucket.find(key)
            alive = now and [
                each for each in going if now.modified_at - each.modified_at < _SWEEP_SECONDS_MAX
            ]
            if not alive:
                return
            time.sleep(_SWEEP_POLL_SECONDS)

    # ------------------------------------------------------------------- for the spool, in threads

    def publish(self, part: Path, namespace: str, digest: str) -> None:
        """Make a whole and verified file an object, and then a copy in the cache."""
        reach("storage.blob.upload.before")
        descriptor = os.open(part, os.O_RDONLY)
        try:
            with lent_view(map_file(descriptor)) as content:
                self._upload(_key(namespace, digest), content)
        finally:
            os.close(descriptor)
        reach("storage.blob.upload.after")
        self._cache.adopt(part, namespace, digest)
        reach("storage.blob.cached.after")

    def claim(self, namespace: str, digest: str) -> bool:
        """Tell whether the blob is published; then it counts as new."""
        key = _key(namespace, digest)
        found = self._bucket.find(key)
        if found is None or self._is_fresh(found):
            return found is not None
        try:
            descriptor = self._local_copy(namespace, digest, found=found)
        except (IntegrityError, NotFoundError):
            return False  # the upload that is to come puts it right
        try:
            with lent_view(map_file(descriptor)) as content:
                self._put_anew(key, content)
        finally:
            os.close(descriptor)
        return True

    def _upload(self, key: str, content: memoryview) -> None:
        if len(content) <= PART_BYTES and self._bucket.create(key, content):
            self._outlast_sweeps(key, lambda: self._bucket.replace(key, content))
            return
        found = self._bucket.find(key)
        if found is not None and found.size_bytes != len(content):
            raise IntegrityError(
                f"object {key} must be {len(content)} bytes, got {found.size_bytes} at "
                f"{self.place}; somebody else has put it there"
            )
        if found is None or not self._is_fresh(found):
            self._put_anew(key, content)

    def _put_anew(self, key: str, content: memoryview) -> None:
        def put() -> None:
            self._bucket.replace(key, content)

        put()
        found = self._outlast_sweeps(key, put)
        if found.size_bytes != len(content):
            raise StorageError(
                f"object {key} must be {len(content)} bytes at {self.place} after it was put, got "
                f"{found.size_bytes}"
            )

    def _is_fresh(self, found: S3Object) -> bool:
        # Half of it, for our clock is not the server's.
        return SystemClock().now() - found.modified_at < self._fresh_seconds / 2

    # --------------------------------------------------------------------------------- reading

    def _read(self, namespace: str, digest: str, offset: int, limit: int) -> bytes:
        descriptor = self._cache.open(namespace, digest)
        if descriptor is not None:
            try:
                return os.pread(descriptor, limit, offset)
            finally:
                os.close(descriptor)
        found = self._bucket.get(_key(namespace, digest), offset, limit) if limit > 0 else b""
        if found is None:
            raise missing_blob(namespace, digest)
        if offset > 0 and len(found) == limit:
            self._fetch_ahead(namespace, digest)
        return bytes(found)

    def _fetch_ahead(self, namespace: str, digest: str) -> None:
        key = (namespace, digest)
        with self._ahead_lock:
            if key in self._ahead:
                return
            self._ahead.add(key)

        def fetch() -> None:
            try:
                # Nobody waits for it: who needs the blob is told what is wrong when he asks.
                with contextlib.suppress(KumiaiError, OSError):
                    os.close(self._local_copy(namespace, digest))
            finally:
                with self._ahead_lock:
                    self._ahead.discard(key)

        with contextlib.suppress(RuntimeError):  # closed meanwhile
            self._spool.in_background(fetch)

    def _local_copy(self, namespace: str, digest: str, *, found: S3Object | None = None) -> int:
        """Return a descriptor of a verified local copy; fetches it if there is none."""
        if (descriptor := self._cache.open(namespace, digest)) is not None:
            return descriptor
        with self._cache.fetching(namespace, digest):
            if (descriptor := self._cache.open(namespace, digest)) is not None:
                return descriptor
            found = found or self._bucket.find(_key(namespace, digest))
            if found is None:
                raise missing_blob(namespace, digest)
            part = self._cache.new_file(namespace, digest)
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                self._fetch(found, descriptor, digest)
                self._cache.adopt(part, namespace, digest)
            except BaseException:
                part.unlink(missing_ok=True)
                os.close(descriptor)
                raise
            return descriptor

    def _fetch(self, found: S3Object, descriptor: int, digest: str) -> None:
        size_bytes = sum(self._ranges(found, descriptor))
        with lent_view(map_file(descriptor)) as view:
            received = digest_of([view])
        if size_bytes != found.size_bytes or received != digest:
            raise IntegrityError(
                f"object {found.key} must have the digest {digest}, got {size_bytes} of "
                f"{found.size_bytes} bytes with {received} from {self.place}"
            )

    def _ranges(self, found: S3Object, descriptor: int) -> Iterator[int]:
        """Bring the object's ranges into the file, some at once; give how many bytes came."""
        going: list[Future[int | None]] = []
        try:
            for offset in range(0, found.size_bytes, PART_BYTES):
                fetch = partial(self._bucket.fetch, found.key, offset, PART_BYTES, descriptor)
                going.append(self._getters.submit(fetch))
            for each in going:
                count = each.result()
                if count is None:
                    raise NotFoundError(f"object {found.key} must stay while it is read, got none")
                yield count
        except (CancelledError, RuntimeError):
            raise StorageError(f"store {self.place} must be open, got one that is closed") from None
        finally:
            # None may write to the descriptor any more: its number may be another file's then.
            wait([each for each in going if not each.cancel()])

    async def _in_thread(self, work: Callable[[], _Result]) -> _Result:
        return await self._spool.in_thread(work)


class _Spool(LocalBlobStore):
    """Uploads in local files that become objects instead of getting their name."""

    def __init__(self, root: Path, store: S3BlobStore) -> None:
        # Unsynced: a file that a loss of power damaged does not match its digest at the end.
        super().__init__(root, durable=False, threads=_THREADS)
        self._store = store

    async def find_size(self, namespace: str, digest: str) -> int | None:
        return await self._store.find_size(namespace, digest)

    def publish(self, part: Path, path: Path) -> None:
        self._store.publish(part, *self._address_of(path))

    def claim(self, path: Path) -> bool:
        return self._store.claim(*self._address_of(path))

    def _address_of(self, path: Path) -> tuple[str, str]:
        return path.parent.relative_to(self._root).as_posix(), path.name


def _key(namespace: str, digest: str) -> str:
    return f"{verify_namespace(namespace)}/{verify_digest_text(digest)}"


def _stored(found: S3Object, now: float) -> StoredBlob | None:
    namespace, _, digest = found.key.rpartition("/")
    try:
        _key(namespace, digest)
    except (ValueError, IntegrityError):
        return None  # none of ours
    return StoredBlob(namespace, digest, found.size_bytes, now - found.modified_at)


def _unfinished(found: S3Upload, now: float) -> StoredBlob | None:
    blob = _stored(S3Object(found.key, 0, found.begun_at), now)
    if blob is None:
        return None
    return replace(blob, kind="upload", handle=f"{_MULTIPART}{found.upload_id}")


def _is_multipart(blob: StoredBlob) -> bool:
    return blob.handle.startswith(_MULTIPART)
