"""A small log in memory, and who signs it, for the tests of this room."""

from dataclasses import dataclass, field

from kumiai.identity.audit import (
    Act,
    Actor,
    AuditScribe,
    NewEntry,
    PersonKey,
    WrittenEntry,
)

__all__ = ["MemoryLog", "Row"]

Row = tuple[int, bytes, bytes]
"""Sequence, body, chain: what a verifier reads."""


@dataclass
class MemoryLog:
    """Entries as a storage would keep them."""

    rows: list[WrittenEntry] = field(default_factory=list)
    key: PersonKey = field(default_factory=PersonKey.new)

    def add(self, act: Act = Act.RUN_CREATED, *, actor: Actor | None = None) -> WrittenEntry:
        scribe = AuditScribe()
        new = NewEntry(act, actor or Actor("operator", "ann", 7, "10.0.0.1"), "run/r")
        last = self.rows[-1] if self.rows else None
        row = scribe.write(
            new,
            size=last.size if last else 0,
            chain=last.chain if last else scribe.start,
            frontier=last.frontier if last else b"",
            at_us=1_000_000 * len(self.rows),
            secret=self.key.secret if scribe.person_of(new) else None,
        )
        self.rows.append(row)
        return row

    def filled(self, count: int) -> "MemoryLog":
        for _ in range(count):
            self.add()
        return self

    def read(self) -> list[Row]:
        return [(row.sequence, row.body.encode(), row.chain) for row in self.rows]
