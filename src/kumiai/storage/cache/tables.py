"""The tables beside the cache: late writes that wait, and who applies them."""

from sqlalchemy import BigInteger, Index, Integer, LargeBinary, text
from sqlalchemy.orm import Mapped, mapped_column

from kumiai.storage.tables import Base

__all__ = ["CacheDrain", "OutboxEntry"]


class OutboxEntry(Base):
    """Something that was promised in a transaction and is done after it."""

    __tablename__ = "cache_outbox"
    # AUTOINCREMENT: a number that came back would make a new write look older than an old one.
    __table_args__ = (
        Index(None, "topic", "key", "seq"),
        Index(None, "topic", "parked_at", "seq"),
        {"sqlite_autoincrement": True},
    )

    seq: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    topic: Mapped[str]
    key: Mapped[str]
    value: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[float]
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    retry_at: Mapped[float] = mapped_column(server_default=text("0"))
    parked_at: Mapped[float | None]
    reason: Mapped[str | None]


class CacheDrain(Base):
    """Who applies a topic's rows just now, and how often that has changed."""

    __tablename__ = "cache_drains"

    topic: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str]
    epoch: Mapped[int] = mapped_column(BigInteger)
    lease_until: Mapped[float]
