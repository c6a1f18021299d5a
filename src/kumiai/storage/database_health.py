"""How a database is: one record, for a health page or an operator's eyes."""

import os
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.storage import schema
from kumiai.storage.database_url import Dialect

__all__ = ["DatabaseHealth", "measured_health"]

_POSTGRES = text(
    "SELECT current_setting('server_version'), "
    "pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean, "
    "host(inet_server_addr()) || ':' || inet_server_port(), "
    "extract(epoch FROM clock_timestamp())::double precision"
)
_SQLITE = text("SELECT sqlite_version(), (julianday('now') - 2440587.5) * 86400.0")


@dataclass(frozen=True, slots=True)
class DatabaseHealth:
    """What was found.

    Attributes:
        dialect: "sqlite" or "postgresql".
        latency_seconds: of a trivial query, the wait for a connection included.
        server_version: as the database tells it.
        clock: seconds since 1970 by the database's clock.
        is_read_only: it is a standby, or its file can not be written.
        schema_revision: ``None``: it has no tables of ours yet.
        schema_head: the revision that this version of Kumiai works with.
        pool_in_use: connections lent at this moment.
        pool_size: connections at most.
        address: ``host:port`` of the server that answers; ``None`` for SQLite and Unix sockets.
        journal_mode: of SQLite, which should be "wal"; ``None`` for PostgreSQL.
    """

    dialect: Dialect
    latency_seconds: float
    server_version: str
    clock: float
    is_read_only: bool
    schema_revision: str | None
    schema_head: str
    pool_in_use: int
    pool_size: int
    address: str | None
    journal_mode: str | None

    @property
    def is_schema_current(self) -> bool:
        """Whether the schema is that of this version."""
        return self.schema_revision == self.schema_head


async def measured_health(
    connection: AsyncConnection,
    *,
    latency_seconds: float,
    pool_in_use: int,
    pool_size: int,
    file: str | None,
) -> DatabaseHealth:
    """Ask the database for the rest.

    Args:
        connection: in a read-only transaction.
        latency_seconds: measured by the caller.
        pool_in_use: likewise.
        pool_size: likewise.
        file: of SQLite.
    """
    revision = await connection.run_sync(schema.revision_of)
    if connection.dialect.name == "sqlite":
        version, clock = (await connection.execute(_SQLITE)).one()
        journal = (await connection.execute(text("PRAGMA journal_mode"))).scalar_one()
        # Of root, too, the kernel says that a file system is mounted read-only.
        is_read_only, address = not os.access(str(file), os.W_OK), None
    else:
        version, is_read_only, address, clock = (await connection.execute(_POSTGRES)).one()
        journal = None
    return DatabaseHealth(
        dialect="sqlite" if connection.dialect.name == "sqlite" else "postgresql",
        latency_seconds=latency_seconds,
        server_version=version,
        clock=clock,
        is_read_only=is_read_only,
        schema_revision=revision,
        schema_head=schema.head(),
        pool_in_use=pool_in_use,
        pool_size=pool_size,
        address=address,
        journal_mode=journal,
    )
