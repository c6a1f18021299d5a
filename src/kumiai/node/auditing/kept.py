"""The newest checkpoint that somebody has seen, in a file of their own.

Whoever keeps one notices when the log no longer continues it, whatever was done to the database:
each client does, and so does the coordinator. The file holds the signed note and the key that
signed it, so that it proves what it says to anybody who trusts the federation's authority.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from kumiai.core.errors import IntegrityError, NotFoundError
from kumiai.identity import files
from kumiai.identity.audit import CertifiedKey, Checkpoint, open_note

__all__ = ["KEPT_FILE", "KeptCheckpoint"]

KEPT_FILE: Final = "audit-checkpoint.json"
_BYTES_MAX: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class KeptCheckpoint:
    """A checkpoint with its proof.

    Attributes:
        checkpoint: what the note says.
        key: who has signed it.
        note: as it was signed.
    """

    checkpoint: Checkpoint
    key: CertifiedKey
    note: str

    @classmethod
    def of(cls, note: str, key: CertifiedKey) -> "KeptCheckpoint":
        """Return the checkpoint of a note that the key has signed.

        Raises:
            IntegrityError: it has not.
        """
        checkpoint, _ = open_note(note, [key])
        return cls(checkpoint, key, note)

    @classmethod
    def from_json(cls, text: bytes) -> "KeptCheckpoint":
        """Read what `to_json` wrote; whether the key was certified is the caller's to check.

        Raises:
            IntegrityError: it is something else.
        """
        try:
            match orjson.loads(text) if len(text) <= _BYTES_MAX else None:
                case {"checkpoint": str(note), "key": dict(key)}:
                    return cls.of(note, CertifiedKey.from_json(orjson.dumps(key)))
        except ValueError:
            pass
        raise IntegrityError(
            f"checkpoint's file must be one of `kumiai audit checkpoint` or of a client's "
            f"{KEPT_FILE}, got {len(text)} bytes of something else"
        )

    def to_json(self) -> bytes:
        """Return the file's content."""
        told = {"checkpoint": self.note, "key": orjson.Fragment(self.key.to_json())}
        return orjson.dumps(told)

    @classmethod
    def find(cls, folder: Path) -> "KeptCheckpoint | None":
        """Return what is kept in a folder.

        Raises:
            IntegrityError: the file is damaged; the message says what to do.
            StorageError: it cannot be read.
        """
        path = folder / KEPT_FILE
        try:
            return cls.from_json(files.read_file(path, "kept checkpoint"))
        except NotFoundError:
            return None
        except IntegrityError as error:
            raise IntegrityError(
                f"{path} must hold the newest checkpoint of the audit log that was seen, got a "
                "damaged file; restore it from a backup, or delete it if you know that this "
                "machine's disk was at fault"
            ) from error

    def save(self, folder: Path) -> None:
        """Keep it in a folder, durably, in place of an older one.

        Raises:
            StorageError: it cannot be written.
        """
        files.new_private_directory(folder)
        files.write_atomic(folder / KEPT_FILE, self.to_json(), mode=0o600)
