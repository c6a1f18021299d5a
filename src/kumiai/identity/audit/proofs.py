"""A proof that one entry stands in the log, small enough for a letter.

It holds the entry, a hash for each level of the tree, and of a signed checkpoint what the two do
not tell: the root is where the path leads to, and the log's name is in the key that has signed.
Whoever trusts that key needs nothing else: not the log, not the coordinator. Two kilobytes are
enough for every entry among a million; that rests on the limits in `entries`.
"""

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import orjson

from kumiai.core.errors import IntegrityError
from kumiai.identity.audit.checkpoints import CertifiedKey, Checkpoint, is_signed, read_note
from kumiai.identity.audit.entries import AuditEntry, decode_entry
from kumiai.identity.audit.merkle import HASH_BYTES, included_root, leaf_hash

__all__ = ["EntryProof"]

_PROOF_BYTES_MAX: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class EntryProof:
    """One entry, its path to the root, who signed the root.

    Attributes:
        body: the entry's bytes.
        path: hashes from the leaf up.
        size: how many entries the checkpoint is about.
        chain: the last value of their hash chain.
        at_us: when the checkpoint was signed, microseconds since 1970-01-01 UTC.
        signature: of `read_note`.
    """

    body: bytes
    path: tuple[bytes, ...]
    size: int
    chain: bytes
    at_us: int
    signature: bytes

    @classmethod
    def against(cls, note: str, body: bytes, path: tuple[bytes, ...]) -> "EntryProof":
        """Return the proof that an entry stands in the log of a checkpoint.

        Args:
            note: the signed checkpoint.
            body: the entry's bytes.
            path: hashes from the leaf up.

        Raises:
            IntegrityError: the note is none.
        """
        point, signature = read_note(note)
        return cls(body, path, point.size, point.chain, point.at_us, signature)

    def to_json(self) -> bytes:
        """Return the file's content."""
        told = {
            "entry": orjson.Fragment(self.body),
            # In base 85: a million entries are 20 hashes, and in base 64 they take 56 bytes more.
            "path": base64.b85encode(b"".join(self.path)).decode(),
            "checkpoint": {
                "size": self.size,
                "chain": base64.b64encode(self.chain).decode(),
                "at": self.at_us,
                "signature": base64.b64encode(self.signature).decode(),
            },
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
            case {
                "entry": dict(entry),
                "path": str(path),
                "checkpoint": {
                    "size": int(size),
                    "chain": str(chain),
                    "at": int(at_us),
                    "signature": str(signature),
                },
            }:
                hashes = base64.b85decode(path)
                return cls(
                    body=orjson.dumps(entry, option=orjson.OPT_SORT_KEYS),
                    # Cut where it does not fit: then the last one is too short and is refused.
                    path=tuple(
                        hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)
                    ),
                    size=size,
                    chain=base64.b64decode(chain, validate=True),
                    at_us=at_us,
                    signature=base64.b64decode(signature, validate=True),
                )
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
        entry = decode_entry(self.body)
        root = included_root(leaf_hash(self.body), entry.sequence, self.size, self.path)
        for key in keys:
            point = Checkpoint(key.origin, self.size, root, self.chain, self.at_us)
            if is_signed(point, self.signature, key):
                return entry, point, key
        raise IntegrityError(
            f"proof must lead from entry {entry.sequence} to the root of {self.size} entries that "
            "a known key has signed, got another root, or another's signature"
        )
