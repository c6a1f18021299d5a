"""The tables of secure aggregation: the attempts of a round, and every step of each."""

from sqlalchemy import ForeignKey, LargeBinary
from sqlalchemy.orm import Mapped, mapped_column

from kumiai.storage.tables import Base

__all__ = ["SecureRecordRow", "SecureRoundRow"]


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
    opening: Mapped[bytes] = mapped_column(LargeBinary)
    opened_at: Mapped[float]
    ended_at: Mapped[float | None]


class SecureRecordRow(Base):
    """A step of the coordinator in an attempt."""

    __tablename__ = "secure_records"

    run_id: Mapped[str] = mapped_column(
        ForeignKey("runs.run_id", ondelete="CASCADE"), primary_key=True
    )
    round: Mapped[int] = mapped_column(primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[bytes] = mapped_column(LargeBinary)
