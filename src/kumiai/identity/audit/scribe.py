"""Makes entries out of acts: what the storage of the log does not know, and only that.

The storage hands in where the log ends and takes the row and the new end; it holds the lock.
"""

from dataclasses import dataclass

from kumiai.identity.audit.chain import CHAIN_START, LogHead
from kumiai.identity.audit.entries import (
    Actor,
    AuditEntry,
    NewEntry,
    Sealed,
    encode_entry,
)
from kumiai.identity.audit.merkle import Node
from kumiai.identity.audit.persons import PersonKey, seal_actor

__all__ = ["AuditScribe", "WrittenEntry"]


@dataclass(frozen=True, slots=True)
class WrittenEntry:
    """An entry as a row, and the log's end behind it.

    Attributes:
        sequence, at_us, act, outcome, subject, person: as in `AuditEntry`.
        body: the entry's text.
        size, chain, frontier: of the log from now on.
        nodes: of the tree, to be kept.
    """

    sequence: int
    at_us: int
    act: str
    outcome: str
    subject: str
    person: str | None
    body: str
    size: int
    chain: bytes
    frontier: bytes
    nodes: list[Node]


class AuditScribe:
    """Writes `NewEntry` objects."""

    start = CHAIN_START
    """The chain's value of a log without entries."""

    def person_of(self, new: NewEntry) -> tuple[str, str] | None:
        """Return whose key the entry needs: kind and name."""
        return new.actor.person

    def new_person(self) -> tuple[str, bytes]:
        """Return a new key, after its pseudonym."""
        key = PersonKey.new()
        return key.person, key.secret

    def write(
        self,
        new: NewEntry,
        *,
        size: int,
        chain: bytes,
        frontier: bytes,
        at_us: int,
        secret: bytes | None,
    ) -> WrittenEntry:
        """Return the entry behind the present end.

        Args:
            new: the act.
            size: of the log until now.
            chain: likewise.
            frontier: likewise.
            at_us: the time, microseconds since 1970-01-01 UTC.
            secret: the key to its person, if it has one.

        Raises:
            ValueError: the entry is too large.
            IntegrityError: the end of the log is damaged.
        """
        entry = AuditEntry(
            sequence=size,
            at_us=at_us,
            act=new.act.value,
            outcome=new.outcome.value,
            role=new.actor.role,
            actor=_shown(new.actor, secret, size),
            subject=new.subject,
            detail=new.detail,
        )
        body = encode_entry(entry)
        head, nodes = LogHead(size, chain, frontier).appended(body)
        return WrittenEntry(
            sequence=size,
            at_us=at_us,
            act=entry.act,
            outcome=entry.outcome,
            subject=entry.subject,
            person=entry.person,
            body=body.decode(),
            size=head.size,
            chain=head.chain,
            frontier=head.frontier,
            nodes=nodes,
        )


def _shown(actor: Actor, secret: bytes | None, sequence: int) -> str | Sealed | None:
    if secret is not None:
        return seal_actor(actor, PersonKey(secret), sequence)
    return actor.name or None
