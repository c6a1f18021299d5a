"""The tables, as typed ORM classes; hot paths use Core statements on their ``__table__``.

Rules kept here: times are float seconds since 1970-01-01 UTC by the database's clock; JSON is
TEXT; every table of a run goes with the run; states are short lower-case words, checked by the
code that writes them and not by the database, so that a later version can add one.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

__all__ = [
    "APIToken",
    "AcceptedUpdate",
    "Assignment",
    "Base",
    "ClientRegistration",
    "EvaluationReport",
    "Event",
    "FLModel",
    "Round",
    "TrainingSession",
    "clock_sql",
]


class _DatabaseClock(FunctionElement[float]):
    type = Double()
    inherit_cache = True


@compiles(_DatabaseClock, "postgresql")
def _clock_of_postgresql(_element: _DatabaseClock, _compiler: SQLCompiler, **_kw: Any) -> str:
    # Not now(): that stands still within a transaction, and a wait for a lock may be long.
    return "CAST(extract(epoch from clock_timestamp()) AS DOUBLE PRECISION)"


@compiles(_DatabaseClock, "sqlite")
def _clock_of_sqlite(_element: _DatabaseClock, _compiler: SQLCompiler, **_kw: Any) -> str:
    # Not unixepoch('subsec'): it is NULL before SQLite 3.42.
    return "((julianday('now') - 2440587.5) * 86400.0)"


def clock_sql() -> FunctionElement[float]:
    """Return the SQL expression for the database's own clock, float seconds since 1970 UTC."""
    return _DatabaseClock()


class Base(DeclarativeBase):
    """The metadata of all tables; constraint names are fixed so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {str: Text(), float: Double(), int: Integer()}  # noqa: RUF012


def _described(table: str) -> Index:
    """Return PostgreSQL's index over what the rows are found by; SQLite has tables of its own."""
    terms = text("CAST(search_terms AS tsvector)")
    index = Index(
        f"ix_{table}_search",
        terms,
        postgresql_using="gin",
        postgresql_with={"fastupdate": "off"},
    )
    return index.ddl_if(dialect="postgresql")


class _Described:
    """What people write about a row, and the terms by which it is found.

    ``row_version`` counts the changes that people made, not those of the machinery: whoever
    describes a run must not lose against the renewal of its lease. ``search_terms`` follows from
    the other columns (`kumiai.storage.search.search_terms`); whoever writes them writes it.
    """

    description: Mapped[str] = mapped_column(server_default=text("''"))
    tags_json: Mapped[str] = mapped_column(server_default=text("'[]'"))
    row_version: Mapped[int] = mapped_column(server_default=text("1"))
    search_terms: Mapped[str] = mapped_column(server_default=text("''"))


def _run_key(*, primary_key: bool = True) -> Mapped[str]:
    return mapped_column(ForeignKey("runs.run_id", ondelete="CASCADE"), primary_key=primary_key)


class TrainingSession(_Described, Base):
    """A run: what was asked, how far it is, who leads it."""

    __tablename__ = "runs"
    __table_args__ = (
        UniqueConstraint("submit_token"),
        Index(None, "created_at", "run_id"),
        Index(None, "state"),
        _described("runs"),
    )

    run_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    app: Mapped[str]
    state: Mapped[str]
    reason: Mapped[str | None]
    end_kind: Mapped[str | None]
    job_json: Mapped[str]
    submit_token: Mapped[str | None]
    submitted_by: Mapped[str]
    rounds_total: Mapped[int]
    round: Mapped[int]
    model_digest: Mapped[str]
    state_digest: Mapped[str | None]
    epoch: Mapped[int] = mapped_column(server_default=text("0"))
    leader: Mapped[str | None]
    lease_until: Mapped[float] = mapped_column(server_default=text("0"))
    stop_requested: Mapped[bool] = mapped_column(server_default=false())
    stop_reason: Mapped[str | None]
    created_at: Mapped[float]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    updated_at: Mapped[float]


class Round(Base):
    """A round of a run; round 0 is the initial model."""

    __tablename__ = "rounds"

    run_id: Mapped[str] = _run_key()
    round: Mapped[int] = mapped_column(primary_key=True)
    stage: Mapped[str]
    base_digest: Mapped[str]
    target_reports: Mapped[int]
    min_reports: Mapped[int]
    attempt: Mapped[int]
    opened_at: Mapped[float]
    deadline_at: Mapped[float]
    quorum_at: Mapped[float | None]
    closed_at: Mapped[float | None]
    published_at: Mapped[float | None]
    model_digest: Mapped[str | None]
    reports: Mapped[int | None]
    examples: Mapped[int | None] = mapped_column(BigInteger)
    metrics_json: Mapped[str | None]
    evaluation_json: Mapped[str | None]
    evaluation_reports: Mapped[int | None]
    close_reason: Mapped[str | None]


class Assignment(Base):
    """One client's duty in a round."""

    __tablename__ = "assignments"
    __table_args__ = (Index(None, "client_id", "state"),)

    run_id: Mapped[str] = _run_key()
    round: Mapped[int] = mapped_column(primary_key=True)
    client_id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]
    reason: Mapped[str | None]
    attempt: Mapped[int]
    seed: Mapped[int] = mapped_column(BigInteger)
    assigned_at: Mapped[float]
    ended_at: Mapped[float | None]


class AcceptedUpdate(Base):
    """An update that counts; its blob was durable before the row."""

    __tablename__ = "updates"

    run_id: Mapped[str] = _run_key()
    round: Mapped[int] = mapped_column(primary_key=True)
    client_id: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    examples: Mapped[int] = mapped_column(BigInteger)
    metrics_json: Mapped[str]
    accepted_at: Mapped[float]


class EvaluationReport(Base):
    """One client's judgement of the model that a round published."""

    __tablename__ = "evaluations"

    run_id: Mapped[str] = _run_key()
    round: Mapped[int] = mapped_column(primary_key=True)
    client_id: Mapped[str] = mapped_column(primary_key=True)
    examples: Mapped[int] = mapped_column(BigInteger)
    metrics_json: Mapped[str]
    reported_at: Mapped[float]


class FLModel(_Described, Base):
    """A published model; its arrays are the blob ``digest``."""

    __tablename__ = "models"
    __table_args__ = (
        UniqueConstraint("model_id"),
        Index(None, "digest"),
        Index(None, "created_at", "model_id"),
        _described("models"),
    )

    run_id: Mapped[str] = _run_key()
    round: Mapped[int] = mapped_column(primary_key=True)
    model_id: Mapped[str]
    digest: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    name: Mapped[str]
    metrics_json: Mapped[str | None]
    created_at: Mapped[float]


class ClientRegistration(_Described, Base):
    """A client as last seen, or as announced before it ever came."""

    __tablename__ = "clients"
    __table_args__ = (_described("clients"),)

    client_id: Mapped[str] = mapped_column(primary_key=True)
    instance_id: Mapped[str]
    software_version: Mapped[str]
    apps_json: Mapped[str]
    first_seen_at: Mapped[float]
    last_seen_at: Mapped[float]
    state: Mapped[str]
    address: Mapped[str]
    display_name: Mapped[str] = mapped_column(server_default=text("''"))


class Event(Base):
    """Something worth telling about a run."""

    __tablename__ = "events"
    # AUTOINCREMENT: without it SQLite gives the number of a deleted last row again.
    __table_args__ = (Index(None, "run_id", "seq"), {"sqlite_autoincrement": True})

    seq: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    run_id: Mapped[str] = _run_key(primary_key=False)
    round: Mapped[int | None]
    at: Mapped[float]
    level: Mapped[str]
    kind: Mapped[str]
    client_id: Mapped[str | None]
    text: Mapped[str]
    data_json: Mapped[str | None]


class APIToken(Base):
    """A token for the HTTP API: what it may do and until when; of its secret only the hash."""

    __tablename__ = "api_tokens"

    token_id: Mapped[str] = mapped_column(primary_key=True)
    secret_hash: Mapped[str]
    name: Mapped[str]
    role: Mapped[str]
    created_by: Mapped[str]
    permissions_json: Mapped[str]
    created_at: Mapped[float]
    expires_at: Mapped[float]
    last_used_at: Mapped[float | None]
    revoked_at: Mapped[float | None]
    revoked_by: Mapped[str | None]
