"""The tables of the audit log: entries that only come, and the keys to who is in them.

The database itself refuses to change or delete an entry, a node, a checkpoint or a signer: the
triggers stand in the migration. Whoever owns the database can take triggers away; that the
history was not rewritten is proved by hashes and signatures (`kumiai.identity.audit`), not here.
"""

from sqlalchemy import BigInteger, Index, LargeBinary, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from kumiai.storage.tables import Base

__all__ = [
    "AuditCheckpointRow",
    "AuditEntryRow",
    "AuditHeadRow",
    "AuditNodeRow",
    "AuditPersonRow",
    "AuditSignerRow",
]


class AuditEntryRow(Base):
    """One recorded act; ``body`` is what was hashed, the other columns are what it is found by."""

    __tablename__ = "audit_entries"
    __table_args__ = (
        Index(None, "act", "sequence"),
        Index(None, "subject", "sequence"),
        Index(None, "person", "sequence"),
        Index(None, "at"),
    )

    sequence: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[float]
    act: Mapped[str]
    outcome: Mapped[str]
    subject: Mapped[str]
    person: Mapped[str | None]
    body: Mapped[str]
    chain: Mapped[bytes] = mapped_column(LargeBinary)


class AuditHeadRow(Base):
    """Where the log ends; whoever appends locks this row, so that the chain never forks."""

    __tablename__ = "audit_head"

    name: Mapped[str] = mapped_column(primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    chain: Mapped[bytes] = mapped_column(LargeBinary)
    frontier: Mapped[bytes] = mapped_column(LargeBinary)


class AuditNodeRow(Base):
    """A node of the tree over 256 or more entries, so that no proof reads them all again."""

    __tablename__ = "audit_nodes"

    level: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    position: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    hash: Mapped[bytes] = mapped_column(LargeBinary)


class AuditPersonRow(Base):
    """The key to one person in the entries; deleting the row makes them unreadable for ever."""

    __tablename__ = "audit_persons"
    __table_args__ = (UniqueConstraint("kind", "name"),)

    person: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str]
    secret: Mapped[bytes] = mapped_column(LargeBinary)


class AuditCheckpointRow(Base):
    """A signed statement of how the log stood."""

    __tablename__ = "audit_checkpoints"

    size: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    key_id: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[float]
    note: Mapped[str]


class AuditSignerRow(Base):
    """A key that has signed checkpoints, certified by the coordinator whose it is."""

    __tablename__ = "audit_signers"

    key_id: Mapped[str] = mapped_column(primary_key=True)
    document: Mapped[str]
    created_at: Mapped[float]
