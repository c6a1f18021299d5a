"""Blobs: models and updates, addressed by namespace and digest; the interface, and one in memory.

A blob is immutable and visible only whole: it appears under its digest when its last byte is
durable and all of them match the digest. Namespaces are paths such as ``models/run-3k5x`` or
``updates/run-3k5x/7/hospital-a``; deleting ``updates/run-3k5x/7`` deletes all below it.

`kumiai.testing.blob_contract` is the contract as tests; every store passes it.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from kumiai.core.digest import Buffer, StreamingDigest, digest_of, verify_digest_text
from kumiai.core.errors import ConflictError, IntegrityError, NotFoundError

__all__ = ["BlobStore", "BlobWriter", "MemoryBlobStore", "verify_namespace"]

# 63 characters: shorter than a digest, so that no part of a namespace is named like a blob.
_PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){0,62}")
_PARTS_MAX = 8


class BlobWriter(Protocol):
    """One upload of one blob; a newer one of the same blob takes over from it."""

    @property
    def offset(self) -> int:
        """How many bytes the store holds; the next chunk begins here."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether all bytes are here, so that `commit` can be called."""
        ...

    async def write(self, chunk: bytes) -> None:
        """Append a chunk.

        Raises:
            IntegrityError: the blob would be larger than announced.
            ConflictError: a newer writer has taken over, or the namespace is deleted.
            StorageError: the store failed.
        """
        ...

    async def commit(self) -> None:
        """Make the blob visible and durable; committing a blob that exists does nothing.

        Raises:
            IntegrityError: bytes are missing or do not match the digest; they are thrown away.
            ConflictError: a newer writer has taken over, or the namespace is deleted.
            StorageError: the store failed.
        """
        ...

    async def suspend(self) -> None:
        """End the upload and keep what came, so that a later writer can go on from there."""
        ...

    async def discard(self) -> None:
        """End the upload and throw away what came.

        Nothing else goes with it: not the blob if it is committed, not what a newer writer holds.
        """
        ...


class BlobStore(Protocol):
    """Where blobs are kept.

    Every method raises ``StorageError`` when the store fails, ``ValueError`` when the namespace
    is no namespace, and ``IntegrityError`` when the digest is no digest.
    """

    async def begin(self, namespace: str, digest: str, size_bytes: int) -> BlobWriter:
        """Start an upload, or go on with one that was cut off; ends any other of the same blob.

        Raises:
            IntegrityError: the blob exists with another size.
            ValueError: the size is negative.
        """
        ...

    async def put(self, namespace: str, buffers: Sequence[Buffer]) -> str:
        """Store the concatenation of the buffers as one blob; return its digest when durable."""
        ...

    async def find_size(self, namespace: str, digest: str) -> int | None:
        """Return the blob's size in bytes, or ``None`` when there is no such blob."""
        ...

    async def read(self, namespace: str, digest: str, offset: int, limit: int) -> bytes:
        """Return ``limit`` bytes from ``offset``; fewer only at the end of the blob.

        Raises:
            NotFoundError: there is no such blob.
        """
        ...

    def open_buffer(self, namespace: str, digest: str) -> AbstractContextManager[memoryview]:
        """Return the whole blob as a read-only view, memory-mapped where the store can.

        The one call that is not a coroutine: those who add up or check blobs do it in worker
        threads, and a trip through the event loop for each blob would cost more than opening it.

        Arrays made over the view stay valid after the context has ended, and hold its memory.

        Raises:
            NotFoundError: there is no such blob.
        """
        ...

    async def delete(self, namespace: str, digest: str) -> None:
        """Delete a blob and any upload of it; deleting none is no error."""
        ...

    async def delete_namespace(self, namespace_prefix: str) -> None:
        """Delete a namespace with all below it, uploads included; deleting none is no error."""
        ...

    async def received_bytes(self, namespace: str, digest: str) -> int:
        """Return how many bytes of the blob are here: 0, part of them, or all."""
        ...

    async def close(self) -> None:
        """End all uploads, keeping what came, and release threads and files."""
        ...


def verify_namespace(namespace: str) -> str:
    """Return ``namespace`` if it is one: 1 to 8 names joined by ``/``.

    Raises:
        ValueError: it is not.
    """
    parts = namespace.split("/")
    if len(parts) > _PARTS_MAX or not all(_PART.fullmatch(part) for part in parts):
        raise ValueError(
            f"namespace must be 1 to {_PARTS_MAX} names of letters, digits, '-', '_' or '.' "
            f"joined by '/', got {namespace[:80]!r}"
        )
    return namespace


def verify_begin(existing_bytes: int | None, digest: str, size_bytes: int) -> None:
    """Check that an upload of ``size_bytes`` may begin beside what the store has.

    Raises:
        ValueError: the size is negative.
        IntegrityError: the blob exists with another size.
    """
    if size_bytes < 0:
        raise ValueError(f"size_bytes must not be negative, got {size_bytes}")
    if existing_bytes not in {None, size_bytes}:
        raise IntegrityError(
            f"blob {digest[:12]} must be {existing_bytes} bytes, got an upload of {size_bytes}"
        )


def verify_room(offset: int, chunk: Buffer, size_bytes: int) -> None:
    """Check that a chunk fits into what was announced.

    Raises:
        IntegrityError: it does not.
    """
    if offset + len(chunk) > size_bytes:
        raise IntegrityError(
            f"blob must be {size_bytes} bytes as announced, got {offset + len(chunk)}"
        )


def verify_whole(received: StreamingDigest, digest: str, size_bytes: int) -> None:
    """Check that what came is what was announced.

    Raises:
        IntegrityError: bytes are missing, or they have another digest.
    """
    if received.size_bytes != size_bytes:
        raise IntegrityError(
            f"blob {digest[:12]} must be {size_bytes} bytes, got {received.size_bytes}"
        )
    if received.hexdigest() != digest:
        raise IntegrityError(
            f"blob must have the digest {digest}, got bytes of {received.hexdigest()}"
        )


def missing_blob(namespace: str, digest: str) -> NotFoundError:
    """Return the error that says that there is no such blob."""
    return NotFoundError(f"blob must exist, got {namespace}/{digest}")


def ended_upload(namespace: str, digest: str) -> ConflictError:
    """Return the error of a writer that may write no more."""
    return ConflictError(
        f"upload of {namespace}/{digest[:12]} must be the newest and not ended, got one that was "
        "replaced, suspended or deleted; begin again"
    )


class MemoryBlobStore:
    """Blobs in this process's memory, for simulation and tests; nothing outlives the process."""

    def __init__(self) -> None:
        self._blobs: dict[tuple[str, str], bytes] = {}
        self._partial: dict[tuple[str, str], bytearray] = {}
        self._writers: dict[tuple[str, str], _MemoryBlobWriter] = {}

    async def begin(self, namespace: str, digest: str, size_bytes: int) -> BlobWriter:
        """Start or go on with an upload; see `BlobStore.begin`."""
        key = _key(namespace, digest)
        existing = self._blobs.get(key)
        verify_begin(None if existing is None else len(existing), digest, size_bytes)
        if key in self._writers:
            self._writers[key].end()
        if len(self._partial.get(key, b"")) > size_bytes:
            del self._partial[key]
        writer = _MemoryBlobWriter(self._blobs, self._partial, key, size_bytes)
        self._writers[key] = writer
        return writer

    async def put(self, namespace: str, buffers: Sequence[Buffer]) -> str:
        """Store the buffers as one blob; see `BlobStore.put`."""
        digest = digest_of(buffers)
        self._blobs[_key(namespace, digest)] = b"".join(buffers)
        return digest

    async def find_size(self, namespace: str, digest: str) -> int | None:
        """Return the blob's size; see `BlobStore.find_size`."""
        blob = self._blobs.get(_key(namespace, digest))
        return None if blob is None else len(blob)

    async def read(self, namespace: str, digest: str, offset: int, limit: int) -> bytes:
        """Return a part of the blob; see `BlobStore.read`."""
        return self._blob(namespace, digest)[offset : offset + limit]

    @contextmanager
    def open_buffer(self, namespace: str, digest: str) -> Iterator[memoryview]:
        """Return the blob as a view; see `BlobStore.open_buffer`."""
        yield memoryview(self._blob(namespace, digest))

    async def delete(self, namespace: str, digest: str) -> None:
        """Delete a blob; see `BlobStore.delete`."""
        self._forget([_key(namespace, digest)])

    async def delete_namespace(self, namespace_prefix: str) -> None:
        """Delete all below; see `BlobStore.delete_namespace`."""
        below = verify_namespace(namespace_prefix) + "/"
        keys = {*self._blobs, *self._partial, *self._writers}
        self._forget([key for key in keys if f"{key[0]}/".startswith(below)])

    async def received_bytes(self, namespace: str, digest: str) -> int:
        """Return how much is here; see `BlobStore.received_bytes`."""
        key = _key(namespace, digest)
        return len(self._blobs.get(key, self._partial.get(key, b"")))

    async def close(self) -> None:
        """End all uploads; see `BlobStore.close`."""
        for writer in self._writers.values():
            writer.end()
        self._writers.clear()

    def _blob(self, namespace: str, digest: str) -> bytes:
        blob = self._blobs.get(_key(namespace, digest))
        if blob is None:
            raise missing_blob(namespace, digest)
        return blob

    def _forget(self, keys: Sequence[tuple[str, str]]) -> None:
        for key in keys:
            self._blobs.pop(key, None)
            self._partial.pop(key, None)
            if (writer := self._writers.pop(key, None)) is not None:
                writer.end()


class _MemoryBlobWriter:
    def __init__(
        self,
        blobs: dict[tuple[str, str], bytes],
        partial: dict[tuple[str, str], bytearray],
        key: tuple[str, str],
        size_bytes: int,
    ) -> None:
        self._blobs = blobs
        self._partial = partial
        self._key = key
        self._size_bytes = size_bytes
        self._ended = False

    @property
    def offset(self) -> int:
        return len(self._blobs.get(self._key, self._partial.get(self._key, b"")))

    @property
    def is_complete(self) -> bool:
        return self.offset == self._size_bytes

    async def write(self, chunk: bytes) -> None:
        self._verify_open()
        verify_room(self.offset, chunk, self._size_bytes)
        self._partial.setdefault(self._key, bytearray()).extend(chunk)

    async def commit(self) -> None:
        self._verify_open()
        if self._key in self._blobs:
            return
        received = self._partial.pop(self._key, bytearray())
        digest = StreamingDigest()
        digest.update(received)
        verify_whole(digest, self._key[1], self._size_bytes)
        self._blobs[self._key] = bytes(received)

    async def suspend(self) -> None:
        self.end()

    async def discard(self) -> None:
        if not self._ended:
            self._partial.pop(self._key, None)
        self.end()

    def end(self) -> None:
        self._ended = True

    def _verify_open(self) -> None:
        if self._ended:
            raise ended_upload(*self._key)


def _key(namespace: str, digest: str) -> tuple[str, str]:
    return verify_namespace(namespace), verify_digest_text(digest)
