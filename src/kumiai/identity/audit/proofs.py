"""A proof that one entry stands in the log, small enough for a letter.

It holds the entry, a hash for each level of the tree and the signed checkpoint that they lead
to. Whoever trusts the key of the checkpoint needs nothing else: not the log, not the coordinator.
"""

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import orjson

from kumiai.core.errors import IntegrityError
from kumiai.identity.audit.checkpoints import CertifiedKey, Checkpoint, open_note
from kumiai.identity.audit.entries import AuditEntry, decode_entry
from kumiai.identity.audit.merkle import HASH_BYTES, leaf_hash, verify_inclusion

__all__ = ["EntryProof"]

_PROOF_BYTES_MAX: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class EntryProof:
    """One entry, its path to the root, the signed root.

    Attributes:
        body: the entry's bytes.
        path: hashes from the leaf up.
        note: the signed checkpoint.
    """

    body: bytes
    path: tuple[bytes, ...]
    note: str

    def to_json(self) -> bytes:
        """Return the file's content."""
        told = {
            "entry": orjson.Fragment(self.body),
            "path": base64.b64encode(b"".join(self.path)).decode(),
            "checkpoint": self.note,
        }
        return orjson.dumps(told)

    @classmethod
    def from_json(cls, text: bytes) -> "EntryProof":
        """Read what `to_json` wrote; nothing is verified yet.

        Raises:
            IntegrityError: it is something else.
        """
        try:
            told = orjson.loads(text) if len(text) <= _PROOF_BYTES_MAX else None
            return cls._of(told)
        except (ValueError, binascii.Error):
            raise IntegrityError(
                f"proof must be a file of `kumiai audit prove`, got {len(text)} bytes of "
                "something else"
            ) from None

    @classmethod
    def _of(cls, told: Any) -> "EntryProof":
        match told:
            case {"entry": dict(entry), "path": str(path), "checkpoint": str(note)}:
                hashes = base64.b64decode(path, validate=True)
                # Cut where it does not fit: then the last one is too short and is refused.
                pieces = [hashes[at : at + 32] for at in range(0, len(hashes), HASH_BYTES)]
                body = orjson.dumps(entry, option=orjson.OPT_SORT_KEYS)
                return cls(body, tuple(pieces), note)
        raise ValueError("proof must hold an entry, a path and a checkpoint")

    def verify(self, keys: Iterable[CertifiedKey]) -> tuple[AuditEntry, Checkpoint, CertifiedKey]:
        """Check the proof.

        Args:
            keys: whose signatures count; that they are certified is the caller's to check.

        Returns:
            The entry, the checkpoint that it is proved against, and whose that is.

        Raises:
            IntegrityError: the entry does not stand in a log that one of the keys has signed.
        """
        checkpoint, key = open_note(self.note, keys)
        entry = decode_entry(self.body)
        verify_inclusion(
            leaf_hash(self.body), entry.sequence, checkpoint.size, self.path, checkpoint.root
        )
        return entry, checkpoint, key
