"""Copies of remote blobs in local files, so that they can be mapped and read again and again.

Nothing here is the only copy of anything: the folder may be lost or deleted at any time. A file
has its name only once its bytes matched their digest; files of an earlier process are compared
again at their first use, for they were not synced. What was used longest ago is deleted when
there is too much; who has it open keeps it.
"""

import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kumiai.core.digest import StreamingDigest
from kumiai.storage.blob_listing import files_below

__all__ = ["BlobCache"]

_Key = tuple[str, str]

_READ_BYTES = 1 << 20


class BlobCache:
    """A bounded folder of blobs; for many threads of one process.

    Args:
        root: the folder, of this process alone.
        limit_bytes: how much it may hold; the newest blob may be larger than that.
    """

    def __init__(self, root: Path, *, limit_bytes: int) -> None:
        self._root = root
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._sizes: OrderedDict[_Key, int] | None = None
        self._unverified: set[_Key] = set()
        self._size_bytes = 0
        self._fetching: dict[_Key, tuple[threading.Lock, list[None]]] = {}

    @property
    def size_bytes(self) -> int:
        """What it holds now."""
        return self._size_bytes

    def open(self, namespace: str, digest: str) -> int | None:
        """Return a descriptor of the blob's file, to be closed by the caller; ``None``: no copy."""
        key = (namespace, digest)
        with self._lock:
            sizes = self._known()
            if key not in sizes:
                return None
            sizes.move_to_end(key)
            try:
                descriptor = os.open(self._path(key), os.O_RDONLY)
            except FileNotFoundError:  # somebody deleted it by hand
                self._forget(key)
                return None
            must_verify = key in self._unverified
        if must_verify and not self._verify(key, descriptor):
            os.close(descriptor)
            return None
        return descriptor

    def adopt(self, path: Path, namespace: str, digest: str) -> None:
        """Move a file whose bytes match the digest in here; it must be on the same disk."""
        key = (namespace, digest)
        target = self._path(key)
        with self._lock:
            sizes = self._known()
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.replace(target)
            self._forget(key)
            sizes[key] = target.stat().st_size
            self._size_bytes += sizes[key]
            self._evict(keeping=key)

    def new_file(self, namespace: str, digest: str) -> Path:
        """Return a path for a file that is to be adopted; nobody else uses it."""
        folder = self._path((namespace, digest)).parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder / f".{digest}.{secrets.token_hex(4)}.part"

    def remove(self, is_meant: Callable[[_Key], bool]) -> None:
        """Delete the copies of blobs that are no more."""
        with self._lock:
            for key in [key for key in self._known() if is_meant(key)]:
                self._drop(key)

    @contextmanager
    def fetching(self, namespace: str, digest: str) -> Iterator[None]:
        """Let one thread at a time fetch a blob; the others find it here afterwards."""
        key = (namespace, digest)
        with self._lock:
            lock, waiting = self._fetching.setdefault(key, (threading.Lock(), []))
            waiting.append(None)
        try:
            with lock:
                yield
        finally:
            with self._lock:
                waiting.pop()
                if not waiting:
                    self._fetching.pop(key, None)

    def _known(self) -> OrderedDict[_Key, int]:
        """Return the blobs, the one used longest ago first; looks into the folder once."""
        if self._sizes is None:
            found = [each for page in files_below(self._root, ".") for each in page]
            for left in (each for each in found if each.kind == "upload"):
                (self._root / left.namespace / left.handle).unlink(missing_ok=True)
            blobs = sorted(
                (each for each in found if each.kind == "blob"), key=lambda each: -each.age_seconds
            )
            self._sizes = OrderedDict(
                ((each.namespace, each.digest), each.size_bytes) for each in blobs
            )
            self._unverified = set(self._sizes)
            self._size_bytes = sum(self._sizes.values())
        return self._sizes

    def _verify(self, key: _Key, descriptor: int) -> bool:
        digest = StreamingDigest()
        while chunk := os.pread(descriptor, _READ_BYTES, digest.size_bytes):
            digest.update(chunk)
        is_right = digest.hexdigest() == key[1]
        with self._lock:
            # Another thread may have looked, too, and a good copy may be there by now.
            if key in self._unverified:
                self._unverified.discard(key)
                if not is_right:
                    self._drop(key)
        return is_right

    def _evict(self, *, keeping: _Key) -> None:
        for key in list(self._known()):
            if self._size_bytes <= self._limit_bytes:
                return
            if key != keeping:
                self._drop(key)

    def _drop(self, key: _Key) -> None:
        self._path(key).unlink(missing_ok=True)
        self._forget(key)

    def _forget(self, key: _Key) -> None:
        self._unverified.discard(key)
        self._size_bytes -= self._known().pop(key, 0)

    def _path(self, key: _Key) -> Path:
        return self._root / key[0] / key[1]
