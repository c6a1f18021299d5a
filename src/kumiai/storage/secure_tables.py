"""The tables of secure aggregation: the attempts of a round, and every message of each."""

from sqlalchemy import BigInteger, ForeignKey, Integer, LargeBinary, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from kumiai.storage.tables import Base

__all__ = ["SecureMessageRow", "SecureRoundRow"]


class SecureRoundRow(Base):
    """One attempt to sum a round's updates without seeing them."""

    __tablename__ = "secure_rounds"

    run_id: Mapped[str] = mapped_column(
        ForeignKey("runs.run_id", ondelete="CASCADE"), primary_key=True
    )
    round: Mapped[int] = mapped_column(primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str]
    reason: Mapped[str | None]
    opened_at: Mapped[float]
    ended_at: Mapped[float | None]


class SecureMessageRow(Base):
    """A message as it was sent, of a client or (no sender) of the coordinator; one of a kind."""

    __tablename__ = "secure_messages"
    __table_args__ = (
        UniqueConstraint("run_id", "round", "attempt", "sender", "kind"),
        {"sqlite_autoincrement": True},
    )

    seq: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.run_id", ondelete="CASCADE"))
    round: Mapped[int]
    attempt: Mapped[int]
    sender: Mapped[str]
    kind: Mapped[str]
    body: Mapped[bytes] = mapped_column(LargeBinary)
    taken_at: Mapped[float]
