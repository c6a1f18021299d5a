"""What a store holds, page by page, and the gate between those who publish and those who sweep.

Listing is for sweeping and for accounting, not for reading: it may miss what appears meanwhile.
"""

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kumiai.core.clock import SystemClock

__all__ = ["PAGE_BLOBS", "StoredBlob", "files_below", "open_gate", "part_digest"]

PAGE_BLOBS = 1000

_NAME = re.compile(r"(?P<hidden>\.)?(?P<digest>[0-9a-f]{64})(?(hidden)(\.[0-9a-f]+)?\.part)")
_CLOSING_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob, or what came of an upload, as a store lists it.

    Attributes:
        namespace: where it is.
        digest: its address.
        size_bytes: what it takes.
        age_seconds: how long ago it was put, put again or written to; a little off where the
            store's clock is not ours.
        kind: a whole blob, or an upload that is not.
        handle: which upload of the blob it is, in the store's own words; of a blob empty.
    """

    namespace: str
    digest: str
    size_bytes: int
    age_seconds: float
    kind: Literal["blob", "upload"] = "blob"
    handle: str = ""


def files_below(root: Path, namespace_prefix: str) -> Iterator[list[StoredBlob]]:
    """Give the blobs and uploads in the files below a namespace, in pages, by namespace.

    Files of other names are none of ours, and left out.
    """
    clock = SystemClock()
    page: list[StoredBlob] = []
    for folder, folders, names in os.walk(root / namespace_prefix):
        folders.sort()
        namespace = Path(folder).relative_to(root).as_posix()
        for name in sorted(names):
            if (digest := part_digest(name) or _blob_digest(name)) is None:
                continue
            try:
                status = (Path(folder) / name).stat()
            except FileNotFoundError:
                continue  # gone since the folder was read
            page.append(
                StoredBlob(
                    namespace=namespace,
                    digest=digest,
                    size_bytes=status.st_size,
                    age_seconds=clock.now() - status.st_mtime,
                    kind="blob" if name == digest else "upload",
                    handle="" if name == digest else name,
                )
            )
            if len(page) == PAGE_BLOBS:
                yield page
                page = []
    if page:
        yield page


def part_digest(name: str) -> str | None:
    """Return the digest in the name of an upload's file, or ``None`` if it is no such name."""
    found = _NAME.fullmatch(name)
    return found["digest"] if found is not None and found["hidden"] else None


def _blob_digest(name: str) -> str | None:
    return name if (found := _NAME.fullmatch(name)) and not found["hidden"] else None


@contextmanager
def open_gate(folder: Path, *, closes: bool = False) -> Iterator[bool]:
    """Hold the gate of a folder: many may publish at once, whoever sweeps is alone.

    Under the gate a blob becomes visible, or its age is set back because somebody relies on it;
    and under the gate the sweeper looks at the age and deletes. So of the two one comes first,
    and the second sees it. The lock is the system's: it goes with the process that held it.

    Args:
        folder: exists.
        closes: ``True`` for the sweeper, which waits for a second at most.

    Yields:
        Whether the gate is held; to those who publish always.

    Raises:
        OSError: the disk knows no such locks.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if closes:
            yield _close_gate(descriptor)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield True
    finally:
        os.close(descriptor)


def _close_gate(descriptor: int) -> bool:
    # Not a plain wait: while others go through all the time, it would never end.
    deadline = time.monotonic() + _CLOSING_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        else:
            return True
