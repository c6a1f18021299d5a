"""Small private files: written whole or not at all, read with a limit, one writer at a time.

A file is written under a temporary name, synced, renamed, and its directory synced: after a
crash there is the old file or the new one. Nothing here knows what the files hold.
"""

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from kumiai.core.errors import CertificateError, IntegrityError, NotFoundError, StorageError

__all__ = [
    "FILE_SIZE_BYTES_MAX",
    "locked",
    "new_or_kept_secret",
    "new_private_directory",
    "read_file",
    "sync_directory",
    "verify_private",
    "write_atomic",
]

FILE_SIZE_BYTES_MAX: Final = 64 * 1024 * 1024
"""Half a million entries of an index, a million revoked certificates."""

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def new_private_directory(path: Path) -> None:
    """Create the directory, mode 0700, and its parents; leave an existing one as it is.

    Raises:
        StorageError: it cannot be created.
    """
    try:
        path.mkdir(parents=True, mode=0o700, exist_ok=True)
        sync_directory(path.parent)
    except OSError as error:
        raise StorageError(f"cannot create directory {path}: {error.strerror}") from error


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the directory's lock: other processes and threads wait; a dead holder lets go.

    Raises:
        StorageError: the lock file cannot be opened.
    """
    path = directory / ".lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StorageError(f"cannot open {path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_atomic(path: Path, content: bytes, *, mode: int) -> None:
    """Replace the file by ``content``, durably, with exactly the permissions ``mode``.

    Raises:
        StorageError: it cannot be written; the old file, if any, is untouched.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        _write_synced(temporary, content, mode)
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise StorageError(f"cannot write {path}: {error.strerror}") from error


def _write_synced(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        # The umask may have taken bits away that the file is meant to have.
        os.fchmod(descriptor, mode)
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable; an ``OSError`` if that cannot be done."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_file(path: Path, what: str, *, size_bytes_max: int = FILE_SIZE_BYTES_MAX) -> bytes:
    """Return the file's content.

    Args:
        path: the file.
        what: what it holds; begins the error message.
        size_bytes_max: refuse anything longer.

    Raises:
        NotFoundError: there is no such file.
        StorageError: it cannot be read, or is too long.
    """
    try:
        with path.open("rb") as file:
            content = file.read(size_bytes_max + 1)
    except FileNotFoundError as error:
        raise NotFoundError(f"{what} must exist, got no file at {path}") from error
    except OSError as error:
        raise StorageError(f"cannot read {what} at {path}: {error.strerror}") from error
    if len(content) > size_bytes_max:
        raise StorageError(f"{what} must be at most {size_bytes_max} bytes, got more at {path}")
    return content


def new_or_kept_secret(path: Path, what: str, *, size_bytes: int, mend: str) -> bytes:
    """Return the secret in a file, drawn and written at the first time.

    Args:
        path: in a private folder, which must exist.
        what: what it is; begins the error message.
        size_bytes: how long it is.
        mend: what to do if the file is damaged; it is not replaced.

    Raises:
        IntegrityError: it has another length.
        CertificateError: others may read it.
        StorageError: it cannot be read or written.
    """
    try:
        verify_private(path, what)
        secret = read_file(path, what, size_bytes_max=size_bytes)
    except NotFoundError:
        secret = secrets.token_bytes(size_bytes)
        write_atomic(path, secret, mode=0o600)
    if len(secret) != size_bytes:
        raise IntegrityError(
            f"{what} must be {size_bytes} bytes, got {len(secret)} in {path}; {mend}"
        )
    return secret


def verify_private(path: Path, what: str) -> None:
    """Check that nobody but the file's owner can read it.

    Raises:
        NotFoundError: there is no such file.
        StorageError: it cannot be examined.
        CertificateError: its group or everybody may read or write it.
    """
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise NotFoundError(f"{what} must exist, got no file at {path}") from error
    except OSError as error:
        raise StorageError(f"cannot examine {what} at {path}: {error.strerror}") from error
    if not _is_private(status.st_mode, owner=status.st_uid, user=os.geteuid()):
        raise CertificateError(
            f"{what} must be readable by its owner alone, got mode "
            f"{stat.S_IMODE(status.st_mode):04o}; run `chmod 600 {path}`"
        )


def _is_private(mode: int, *, owner: int, user: int) -> bool:
    # Orchestrators mount secrets as root's, readable by the process's group: group read is the
    # only way for it to get at the key, so it is allowed there, as PostgreSQL does.
    allowed = stat.S_IRGRP if owner == 0 and user != 0 else 0
    return mode & _OTHERS & ~allowed == 0
