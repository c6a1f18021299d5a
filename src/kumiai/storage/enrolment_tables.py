"""The tables of a federation's sites: invitations, what came of them, and who is denied."""

from sqlalchemy import Index, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column

from kumiai.storage.tables import Base

__all__ = ["EnrolmentRow", "SiteCertificateRow", "SiteRow"]


class EnrolmentRow(Base):
    """An invitation, good once; of its secret only the hash."""

    __tablename__ = "enrolments"
    __table_args__ = (Index(None, "name"),)

    token_hash: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    role: Mapped[str]
    state: Mapped[str]
    created_at: Mapped[float]
    created_by: Mapped[str]
    expires_at: Mapped[float]
    used_at: Mapped[float | None]
    key_digest: Mapped[str | None]
    request_pem: Mapped[str | None]


class SiteRow(Base):
    """A site that was invited, suspended or removed; others need no row."""

    __tablename__ = "sites"

    name: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]
    only_enrolled: Mapped[bool] = mapped_column(server_default=false())
    reason: Mapped[str]
    changed_at: Mapped[float]
    changed_by: Mapped[str]


class SiteCertificateRow(Base):
    """A certificate that a coordinator signed; no two of different sites share a key."""

    __tablename__ = "site_certificates"
    __table_args__ = (UniqueConstraint("key_digest"), Index(None, "name"))

    serial: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    role: Mapped[str]
    issuer: Mapped[str]
    key_digest: Mapped[str]
    chain: Mapped[str]
    not_before: Mapped[float]
    not_after: Mapped[float]
    created_at: Mapped[float]
    revoked_at: Mapped[float | None]
    reason: Mapped[str | None]
