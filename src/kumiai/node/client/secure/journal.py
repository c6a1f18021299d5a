"""The records of one round on this site's disk: sealed, appended, durable before anything leaves.

A record holds the site's secrets of the round, so the file is sealed with a key of the site's own.
The counter is a file of its own, in a folder that can lie on another disk: a copy of the records
that is put back is then older than the counter, and the round goes on without this site.

A crash within an append leaves a part of a record at the end. Nothing had left for it yet, so it
is cut off. Damage anywhere else is not mended.
"""

import os
import struct
from pathlib import Path
from typing import Final

from kumiai.core import failpoints
from kumiai.core.errors import CryptoError, IntegrityError, NotFoundError, StorageError
from kumiai.crypto.keys import open_sealed, seal
from kumiai.identity import files

__all__ = ["JournalFolder", "RoundJournal"]

_KEY_FILE: Final = "journal.key"
_KEY_SIZE_BYTES: Final = 32
_LENGTH: Final = struct.Struct(">I")
_RECORD_SIZE_BYTES_MAX: Final = 1 << 28
_JOURNAL_SIZE_BYTES_MAX: Final = 1 << 30
_ROUNDS_KEPT: Final = 64


class RoundJournal:
    """What this site did in one round."""

    def __init__(self, path: Path, counter: Path, key: bytes) -> None:
        """Use the files of a round; `JournalFolder.journal` makes one."""
        self._path = path
        self._counter = counter
        self._key = key

    def __repr__(self) -> str:
        """Leave the key out."""
        return f"RoundJournal({self._path})"

    def read(self) -> list[bytes]:
        """Return the records; cuts off what a crash left unfinished.

        Raises:
            IntegrityError: a record was changed, or is not of this round or this site.
            StorageError: the file cannot be read or cut.
        """
        try:
            content = files.read_file(self._path, "journal", size_bytes_max=_JOURNAL_SIZE_BYTES_MAX)
        except NotFoundError:
            return []
        records: list[bytes] = []
        at = 0
        while at < len(content):
            end = at + _LENGTH.size
            size = _LENGTH.unpack_from(content, at)[0] if end <= len(content) else None
            if size is None or end + size > len(content):
                self._cut(at)
                break
            records.append(self._opened(content[end : end + size], len(records)))
            at = end + size
        return records

    def append(self, record: bytes, number: int) -> None:
        """Write a record, durably.

        Args:
            record: its content.
            number: how many are there already.

        Raises:
            StorageError: it is not known to be written.
        """
        if len(record) > _RECORD_SIZE_BYTES_MAX:
            raise StorageError(
                f"record must be at most {_RECORD_SIZE_BYTES_MAX} bytes, got {len(record)}"
            )
        sealed = seal(self._key, record, self._label(number))
        is_new = not self._path.exists()
        try:
            descriptor = os.open(
                self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
            )
            with os.fdopen(descriptor, "wb") as file:
                file.write(_LENGTH.pack(len(sealed)) + sealed)
                file.flush()
                os.fsync(file.fileno())
            if is_new:
                files.sync_directory(self._path.parent)
        except OSError as error:
            raise StorageError(f"cannot write {self._path}: {error.strerror}") from error
        failpoints.reach("client.secure.recorded")

    @property
    def counter(self) -> int:
        """How many steps were taken, as the counter's own file says; 0 before the first.

        Raises:
            IntegrityError: the file is damaged.
        """
        try:
            text = files.read_file(self._counter, "counter", size_bytes_max=20)
            return int(text)
        except NotFoundError:
            return 0
        except ValueError as error:
            raise IntegrityError(
                f"counter must be a number, got junk in {self._counter}"
            ) from error

    def advance(self, counter: int) -> None:
        """Set the counter, which must be one less.

        Raises:
            IntegrityError: it is not: another process works, or an old copy was restored.
        """
        if (standing := self.counter) != counter - 1:
            raise IntegrityError(
                f"counter of the round must be {counter - 1}, got {standing} in {self._counter}; "
                "an old copy of this client's state came back, or two processes use it"
            )
        if standing == 0:
            files.write_atomic(self._counter, _counted(counter), mode=0o600)
        else:
            self._overwrite(_counted(counter))
        failpoints.reach("client.secure.counted")

    def _overwrite(self, content: bytes) -> None:
        """Write the counter in its place: so few bytes are in one sector, which is not torn."""
        try:
            with self._counter.open("r+b", buffering=0) as file:
                file.write(content)
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(f"cannot write {self._counter}: {error.strerror}") from error

    def _opened(self, sealed: bytes, number: int) -> bytes:
        try:
            return open_sealed(self._key, sealed, self._label(number))
        except CryptoError as error:
            raise IntegrityError(
                f"record {number} of {self._path} must open with this site's key, got one that "
                "does not; the round goes on without this site"
            ) from error

    def _label(self, number: int) -> bytes:
        return f"kumiai/secure-journal/v1/{self._path.stem}/{number}".encode()

    def _cut(self, size_bytes: int) -> None:
        try:
            with self._path.open("r+b") as file:
                file.truncate(size_bytes)
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(f"cannot cut {self._path}: {error.strerror}") from error


class JournalFolder:
    """The journals of all rounds of a site."""

    def __init__(self, folder: Path, counters: Path) -> None:
        """Use two folders, made where they do not exist.

        Args:
            folder: for the records and their key, private.
            counters: for the counters, which no backup of ``folder`` should hold.

        Raises:
            IntegrityError: the key's file is damaged.
            CertificateError: others may read it.
            StorageError: a folder or file cannot be used.
        """
        for each in (folder, counters):
            files.new_private_directory(each)
        self._folder = folder
        self._counters = counters
        self._key = files.new_or_kept_secret(
            folder / _KEY_FILE,
            "journal key",
            size_bytes=_KEY_SIZE_BYTES,
            mend="move the folder away: open rounds go on without this site",
        )

    def __repr__(self) -> str:
        """Leave the key out."""
        return f"JournalFolder({self._folder})"

    def journal(self, round_id: bytes) -> RoundJournal:
        """Return the journal of a round, empty at first; forgets the oldest rounds."""
        path = self._folder / f"{round_id.hex()}.journal"
        if not path.exists():
            self._forget()
        return RoundJournal(path, self._counters / f"{round_id.hex()}.counter", self._key)

    def _forget(self) -> None:
        """Delete the records of rounds long over.

        Their counters stay: a record that comes back must not find its counter gone.
        """
        journals = sorted(self._folder.glob("*.journal"), key=lambda path: path.stat().st_mtime_ns)
        for path in journals[: max(0, len(journals) - _ROUNDS_KEPT + 1)]:
            path.unlink(missing_ok=True)


def _counted(counter: int) -> bytes:
    return f"{counter:020d}".encode()
