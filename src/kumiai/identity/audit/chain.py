"""The log's growth, entry by entry, and the check of all of it that names what is wrong.

`LogHead` is what an append begins with and leaves behind; `LogVerifier` reads entries in their
order with a few hashes in memory. Beside the tree, each entry carries a value of a hash chain
over all entries up to it: the tree proves against signatures, the chain says which entry it is.
"""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from kumiai.core.errors import IntegrityError
from kumiai.identity.audit.checkpoints import Checkpoint
from kumiai.identity.audit.entries import AuditEntry, decode_entry
from kumiai.identity.audit.merkle import Frontier, Node, leaf_hash

__all__ = ["CHAIN_START", "LogHead", "LogVerifier", "chained"]

_LABEL: Final = b"kumiai audit chain v1\0"
CHAIN_START: Final = hashlib.sha256(_LABEL).digest()
"""The chain's value before the first entry."""


def chained(chain: bytes, leaf: bytes) -> bytes:
    """Return the chain's value after one more entry."""
    return hashlib.sha256(_LABEL + chain + leaf).digest()


@dataclass(frozen=True, slots=True)
class LogHead:
    """Where a log ends.

    Attributes:
        size: how many entries it has.
        chain: the chain's value after the last one.
        frontier: of `Frontier.to_bytes`.
    """

    size: int = 0
    chain: bytes = CHAIN_START
    frontier: bytes = b""

    def appended(self, body: bytes) -> "tuple[LogHead, list[Node]]":
        """Return the head after one more entry, and the nodes to be kept that it completes.

        Raises:
            IntegrityError: the head is damaged.
        """
        edge, leaf = Frontier(self.size, self.frontier), leaf_hash(body)
        nodes = edge.append(leaf)
        return LogHead(edge.size, chained(self.chain, leaf), edge.to_bytes()), nodes

    def checkpoint(self, origin: str, at_us: int) -> Checkpoint:
        """Return the statement of how the log stands, to be signed.

        Raises:
            IntegrityError: the head is damaged.
        """
        root = Frontier(self.size, self.frontier).root()
        return Checkpoint(origin, self.size, root, self.chain, at_us)


class LogVerifier:
    """Checks entries one after the other; every error names the first that is wrong."""

    def __init__(self) -> None:
        """Begin before the first entry."""
        self._edge = Frontier()
        self._chain = CHAIN_START
        self._vouched = 0

    @property
    def size(self) -> int:
        """How many entries were read and are right."""
        return self._edge.size

    @property
    def head(self) -> LogHead:
        """Where the log ends by what was read."""
        return LogHead(self._edge.size, self._chain, self._edge.to_bytes())

    def add(self, sequence: int, body: bytes, chain: bytes) -> tuple[AuditEntry, list[Node]]:
        """Check the next entry.

        Args:
            sequence: the place that it was found at.
            body: its bytes.
            chain: the chain's value that was recorded with it.

        Returns:
            The entry, and the nodes of the tree that should be kept since.

        Raises:
            IntegrityError: it, or one before it, was changed, deleted, moved or put in.
        """
        expected = self.size
        if sequence > expected:
            raise IntegrityError(
                f"entry {expected} of the audit log must exist, got {sequence} as the next one: "
                f"{_span(expected, sequence - 1)} was deleted"
            )
        if sequence < expected:
            raise IntegrityError(
                f"entry {sequence} of the audit log must stand once, got it again after entry "
                f"{expected - 1}: it was put in"
            )
        entry = self._decoded(sequence, body)
        leaf = leaf_hash(body)
        found = chained(self._chain, leaf)
        if not hmac.compare_digest(found, chain):
            raise IntegrityError(
                f"entry {sequence} of the audit log must have the hash that was recorded with "
                "it, got another: it was changed, or what stands before it was put in or changed "
                "together with its own hash"
            )
        self._chain = found
        return entry, self._edge.append(leaf)

    def _decoded(self, sequence: int, body: bytes) -> AuditEntry:
        try:
            entry = decode_entry(body)
        except IntegrityError as error:
            raise IntegrityError(
                f"entry {sequence} of the audit log was changed: {error}"
            ) from None
        if entry.sequence != sequence:
            raise IntegrityError(
                f"entry {sequence} of the audit log must be the one that was written there, got "
                f"the one of place {entry.sequence}: it was moved"
            )
        return entry

    def check(self, checkpoint: Checkpoint) -> None:
        """Check a signed statement about exactly the entries read so far.

        Raises:
            IntegrityError: another history was signed.
            ValueError: it is about another number of entries.
        """
        if checkpoint.size != self.size:
            raise ValueError(f"checkpoint must be about {self.size} entries, got {checkpoint.size}")
        is_same = hmac.compare_digest(self._edge.root(), checkpoint.root)
        if not is_same or not hmac.compare_digest(self._chain, checkpoint.chain):
            raise IntegrityError(
                f"{_span(self._vouched, self.size - 1)} of the audit log must be what was signed "
                f"in the checkpoint of {checkpoint.size} entries, got another history: it was "
                "rewritten with all hashes"
            )
        self._vouched = self.size

    def end(self, size: int, what: str) -> None:
        """Check that nothing is missing at the end.

        Args:
            size: how many entries there must be at least.
            what: who says so.

        Raises:
            IntegrityError: there are fewer.
        """
        if self.size < size:
            raise IntegrityError(
                f"entry {self.size} of the audit log must exist, got none: "
                f"{_span(self.size, size - 1)} was cut off, by {what}"
            )


def _span(first: int, last: int) -> str:
    return f"entry {first}" if first == last else f"one of the entries {first} to {last}"
