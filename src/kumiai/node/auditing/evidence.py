"""Proofs out of the stored log, and the check of all of it.

What is read for a proof is a few hundred rows at most, however long the log is: the storage
keeps the nodes of the tree over 256 entries and their multiples.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from kumiai.core.errors import CertificateError, IntegrityError, NotFoundError
from kumiai.identity import TrustBundle
from kumiai.identity.audit import (
    KEPT_LEVELS,
    AuditEntry,
    CertifiedKey,
    Checkpoint,
    EntryProof,
    Frontier,
    LogVerifier,
    Node,
    consistency_ranges,
    folded,
    inclusion_ranges,
    leaf_hash,
    open_note,
    subtrees,
)
from kumiai.storage import AuditLog, AuditRecord

__all__ = ["AuditEvidence", "CheckedLog", "TrustedKeys", "VerifiedLog"]


_NODES_AT_ONCE: Final = 256


class TrustedKeys:
    """The keys that coordinators of the federation have certified."""

    def __init__(self, documents: Iterable[str], trust: TrustBundle) -> None:
        """Read certified keys; each is verified when it is first used.

        Args:
            documents: of `CertifiedKey.to_json`.
            trust: the federation's authorities.

        Raises:
            IntegrityError: one is no such document.
        """
        self._keys = [CertifiedKey.from_json(document) for document in documents]
        self._trust = trust

    def open(self, note: str) -> Checkpoint:
        """Return the checkpoint of a note that one of the keys has signed.

        Raises:
            IntegrityError: none has, or the key was not certified.
            CertificateError: whoever certified it was no coordinator of the federation then.
        """
        checkpoint, key = open_note(note, self._keys)
        self._verify_certified(checkpoint, key)
        return checkpoint

    def prove(self, proof: EntryProof) -> tuple[AuditEntry, Checkpoint]:
        """Return what a proof proves.

        Raises:
            IntegrityError, CertificateError: nothing.
        """
        entry, checkpoint, key = proof.verify(self._keys)
        self._verify_certified(checkpoint, key)
        return entry, checkpoint

    def _verify_certified(self, checkpoint: Checkpoint, key: CertifiedKey) -> None:
        try:
            key.verify(self._trust, at=checkpoint.at_us / 1e6)
        except CertificateError as error:
            raise CertificateError(f"checkpoint of {checkpoint.size} entries: {error}") from error


@dataclass(frozen=True, slots=True)
class VerifiedLog:
    """What was found right.

    Attributes:
        size: how many entries there are.
        signed_size: how many of them a signature vouches for.
        checkpoint_count: how many signed checkpoints were compared.
    """

    size: int
    signed_size: int
    checkpoint_count: int


class CheckedLog:
    """All of a log as it is read, from wherever: entries and signed notes in their order."""

    def __init__(self, keys: TrustedKeys, trusted: Checkpoint | None = None) -> None:
        """Begin before the first entry.

        Args:
            keys: whose signatures count.
            trusted: how the log stood when somebody looked who kept it; it must still begin so.
        """
        self._keys = keys
        self._trusted = trusted
        self._verifier = LogVerifier()
        self._signed_size = 0
        self._checkpoint_count = 0

    @property
    def size(self) -> int:
        """How many entries were read and are right."""
        return self._verifier.size

    @property
    def chain(self) -> bytes:
        """The chain's value behind them."""
        return self._verifier.head.chain

    def add(self, sequence: int, body: bytes, chain: bytes) -> tuple[AuditEntry, list[Node]]:
        """Check the next entry; see `LogVerifier.add`."""
        found = self._verifier.add(sequence, body, chain)
        if self._trusted is not None and self._trusted.size == self.size:
            self._verifier.check(self._trusted)
        return found

    def see(self, note: str, *, size: int | None = None) -> None:
        """Check a signed note; it stands behind the last entry that it is about.

        Args:
            note: the note.
            size: how many entries it is said to be about.

        Raises:
            IntegrityError: it says otherwise than the entries.
            CertificateError: it was signed by nobody of the federation.
        """
        checkpoint = self._keys.open(note)
        if size not in {None, checkpoint.size}:
            raise IntegrityError(
                f"checkpoint of {size} entries must be signed for them, got a note for "
                f"{checkpoint.size}"
            )
        self._verifier.end(checkpoint.size, "a signed checkpoint")
        if checkpoint.size < self.size:
            raise IntegrityError(
                f"checkpoint of {checkpoint.size} entries must stand behind them, got it behind "
                f"{self.size}"
            )
        self._verifier.check(checkpoint)
        self._signed_size = checkpoint.size
        self._checkpoint_count += 1

    def end(self, size: int) -> VerifiedLog:
        """Check that nothing is missing; return what was found right.

        Args:
            size: of the log, by its own count.

        Raises:
            IntegrityError: entries are missing.
        """
        self._verifier.end(size, "the log's own count")
        if self._trusted is not None:
            self._verifier.end(self._trusted.size, "the trusted checkpoint")
        return VerifiedLog(self.size, self._signed_size, self._checkpoint_count)


class AuditEvidence:
    """What the stored log can prove."""

    def __init__(self, log: AuditLog) -> None:
        """Read this log."""
        self._log = log

    async def inclusion(self, sequence: int, size: int) -> tuple[bytes, ...]:
        """Return the path from an entry to the root over ``size`` entries.

        Raises:
            ValueError: there is no such entry.
        """
        return await self._hashes(inclusion_ranges(sequence, size))

    async def consistency(self, first: int, second: int) -> tuple[bytes, ...]:
        """Return the proof that the tree of ``second`` entries begins with ``first`` of them.

        Raises:
            ValueError: not 0 < first <= second.
        """
        return await self._hashes(consistency_ranges(first, second))

    async def prove(self, sequence: int) -> EntryProof:
        """Return the proof that an entry stands in the log, against the newest checkpoint.

        Raises:
            NotFoundError: there is no such entry, or none of the checkpoints covers it yet.
        """
        record = await self._log.get(sequence)
        newest = await self._log.find_newest_checkpoint()
        if newest is None or newest.size <= sequence:
            raise NotFoundError(
                f"entry {sequence} of the audit log must be in a signed checkpoint, got none of "
                "more than "
                f"{0 if newest is None else newest.size} entries; the coordinator signs every "
                "minute: try again"
            )
        path = await self.inclusion(sequence, newest.size)
        return EntryProof.against(newest.note, record.body.encode(), path)

    async def verify(self, keys: TrustedKeys, trusted: Checkpoint | None = None) -> VerifiedLog:
        """Read everything and compare it with every signature, in bounded memory.

        Args:
            keys: whose signatures count.
            trusted: how the log stood when somebody looked who kept it.

        Raises:
            IntegrityError: an entry was changed, deleted, moved, put in or cut off; the message
                names the first.
            CertificateError: a checkpoint was signed by nobody of the federation.
        """
        checked, coming = CheckedLog(keys, trusted), self._log.checkpoints()
        kept = _KeptNodes(self._log)
        point = await anext(coming, None)
        end = await self._log.end()
        size = 0 if end is None else end.size
        async for record in self._log.read(0, size):
            entry, nodes = checked.add(record.sequence, record.body.encode(), record.chain)
            _verify_columns(record, entry)
            for node in nodes:
                await kept.verify(*node)
            while point is not None and point.size == checked.size:
                checked.see(point.note, size=point.size)
                point = await anext(coming, None)
        if end is not None and checked.size == size and checked.chain != end.chain:
            raise IntegrityError(
                f"end of the audit log must be that of entry {size - 1}, got another hash in "
                "audit_head"
            )
        found = checked.end(size)
        if point is not None:
            # Signed since the reading began, or the end of the log was cut off.
            last = await self._log.end()
            if last is None or last.size < point.size:
                checked.see(point.note)
        return found

    async def _hashes(self, ranges: list[tuple[int, int]]) -> tuple[bytes, ...]:
        return tuple(
            [
                folded([await self._subtree(*each) for each in subtrees(start, end)])
                for start, end in ranges
            ]
        )

    async def _subtree(self, level: int, position: int) -> bytes:
        kept = level - level % KEPT_LEVELS
        first, count = position << (level - kept), 1 << (level - kept)
        if kept:
            hashes = await self._log.nodes(kept, first, first + count)
        else:
            hashes = [
                leaf_hash(record.body.encode())
                async for record in self._log.read(first, first + count)
            ]
        if len(hashes) != count:
            raise IntegrityError(
                f"audit log must have all entries from {first << kept} to "
                f"{((first + count) << kept) - 1}, got {len(hashes)} of {count} of their hashes; "
                "see `kumiai audit verify`"
            )
        # Hashes of one level make up a tree as leaves do.
        edge = Frontier()
        for each in hashes:
            edge.append(each)
        return edge.root()


class _KeptNodes:
    """The kept nodes of the tree as the verification comes to them, read many at a time."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log
        self._read: dict[int, tuple[int, list[bytes]]] = {}

    async def verify(self, level: int, position: int, found: bytes) -> None:
        first, hashes = self._read.get(level, (0, []))
        if not first <= position < first + len(hashes):
            first = position
            hashes = await self._log.nodes(level, position, position + _NODES_AT_ONCE)
            self._read[level] = first, hashes
        if hashes[position - first : position - first + 1] != [found]:
            raise IntegrityError(
                f"audit_nodes must hold the hash over the entries {position << level} to "
                f"{((position + 1) << level) - 1}, got another or none: it was changed"
            )


def _verify_columns(record: AuditRecord, entry: AuditEntry) -> None:
    told = (entry.at, entry.act, entry.outcome, entry.subject, entry.person)
    if told != (record.at, record.act, record.outcome, record.subject, record.person):
        raise IntegrityError(
            f"entry {record.sequence} of the audit log must be found by what it says, got other "
            "columns: they were changed"
        )
