"""What ``kumiai db check`` looks at: each finding with what was seen and what mends it.

Nothing here changes the database. Damage is looked for by reading everything once, which may take
as long as the database is large.
"""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import TextClause, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.core.errors import SchemaError
from kumiai.storage import schema
from kumiai.storage.database_errors import mend_of, words_of
from kumiai.storage.database_health import DatabaseHealth
from kumiai.storage.database_url import Dialect

__all__ = ["DatabaseFinding", "examine"]

_FREE_WRONG_BYTES = 64 << 20
_FREE_WARNING_BYTES = 1 << 30
_SKEW_SECONDS = 1.0
_SLOW_SECONDS = 0.25
_RESTORE = "stop the coordinator, keep a copy, and restore the database from its backup"

Check = Callable[[AsyncConnection], Awaitable["DatabaseFinding"]]


@dataclass(frozen=True, slots=True)
class DatabaseFinding:
    """What one check has seen.

    Attributes:
        check: what was looked at.
        state: "ok"; "warn": it works, but something may be lost or slow; "wrong".
        text: what was seen.
        mend: what to do; empty where nothing is to be done.
    """

    check: str
    state: Literal["ok", "warn", "wrong"]
    text: str
    mend: str = ""

    @property
    def is_wrong(self) -> bool:
        """Whether something does not work as it is."""
        return self.state == "wrong"


async def examine(
    connection: AsyncConnection, health: DatabaseHealth, *, file: str | None, now: float
) -> AsyncIterator[DatabaseFinding]:
    """Yield what all checks have found.

    Args:
        connection: in a read-only transaction without time-outs.
        health: measured a moment ago.
        file: of SQLite.
        now: seconds since 1970 by this machine's clock when ``health`` was measured.
    """
    yield _connection(health)
    if health.is_read_only:
        yield _writes(health)
    yield await _guarded(connection, "schema", _schema)
    if health.dialect == "sqlite":
        yield _journal(health)
        yield await _guarded(connection, "integrity", _sqlite_integrity)
        yield await _guarded(connection, "references", _sqlite_references)
        yield _free_space(Path(str(file)))
        return
    for check, function in (
        ("integrity", _postgres_integrity),
        ("indexes", _postgres_indexes),
        ("durability", _postgres_durability),
        ("time-outs", _postgres_timeouts),
    ):
        yield await _guarded(connection, check, function)
    yield await _guarded(
        connection, "connections", lambda each: _postgres_connections(each, health.pool_size)
    )
    yield _clock(health.clock - now)


async def _guarded(connection: AsyncConnection, check: str, function: Check) -> DatabaseFinding:
    # In a savepoint: on PostgreSQL the next check would be refused after one that failed.
    try:
        async with connection.begin_nested():
            return await function(connection)
    except SQLAlchemyError as error:
        dialect: Dialect = "sqlite" if connection.dialect.name == "sqlite" else "postgresql"
        return DatabaseFinding(check, "wrong", words_of(error), mend_of(error, dialect))


def _connection(health: DatabaseHealth) -> DatabaseFinding:
    where = "" if health.address is None else f" at {health.address}"
    told = (
        f"{health.dialect} {health.server_version}{where} answers in "
        f"{1000 * health.latency_seconds:.1f} ms"
    )
    if health.latency_seconds > _SLOW_SECONDS:
        return DatabaseFinding(
            "connection", "warn", told, "bring the database nearer, or look at its load"
        )
    return DatabaseFinding("connection", "ok", told)


def _writes(health: DatabaseHealth) -> DatabaseFinding:
    if health.dialect == "sqlite":
        return DatabaseFinding(
            "writes",
            "wrong",
            "the file can not be written",
            "let this user write the file and its folder, and see that the file system is not "
            "mounted read-only",
        )
    return DatabaseFinding(
        "writes",
        "wrong",
        "the server takes no writes: it is a standby, or set to be read-only",
        "name all hosts in the URL with target_session_attrs=read-write, or promote it",
    )


async def _schema(connection: AsyncConnection) -> DatabaseFinding:
    try:
        await connection.run_sync(schema.verify)
    except SchemaError as error:
        told, _, mend = str(error).rpartition("; ")
        return DatabaseFinding("schema", "wrong", told, mend)
    return DatabaseFinding("schema", "ok", f"revision {schema.head()}, that of this version")


def _journal(health: DatabaseHealth) -> DatabaseFinding:
    if health.journal_mode == "wal":
        return DatabaseFinding("journal", "ok", "write-ahead log")
    return DatabaseFinding(
        "journal",
        "warn",
        f"journal mode {health.journal_mode}: readers and writers wait for each other",
        "keep the file on a local disk: network file systems can not hold the log",
    )


async def _sqlite_integrity(connection: AsyncConnection) -> DatabaseFinding:
    found = await _column(connection, text("PRAGMA integrity_check(10)"))
    if found == ["ok"]:
        return DatabaseFinding("integrity", "ok", "every page and index fits")
    return DatabaseFinding("integrity", "wrong", "; ".join(map(str, found)), _RESTORE)


async def _sqlite_references(connection: AsyncConnection) -> DatabaseFinding:
    lost = (await connection.execute(text("PRAGMA foreign_key_check"))).all()
    if not lost:
        return DatabaseFinding("references", "ok", "every row has what it refers to")
    tables = ", ".join(sorted({f"{row[0]} to {row[2]}" for row in lost}))
    return DatabaseFinding(
        "references", "wrong", f"{len(lost)} rows refer to rows that are gone: {tables}", _RESTORE
    )


def _free_space(file: Path) -> DatabaseFinding:
    free = shutil.disk_usage(file.parent).free
    told = (
        f"{file.parent}: {free / 1e9:.1f} GB free, the file has {file.stat().st_size / 1e6:.1f} MB"
    )
    mend = "make room, or move the file to a larger disk while no program uses it"
    if free < _FREE_WRONG_BYTES:
        return DatabaseFinding("disk", "wrong", told, mend)
    if free < _FREE_WARNING_BYTES:
        return DatabaseFinding("disk", "warn", told, mend)
    return DatabaseFinding("disk", "ok", told)


async def _postgres_integrity(connection: AsyncConnection) -> DatabaseFinding:
    # The whole text of every row: a count alone would read neither long values nor, where an
    # index will do, the table. Damaged pages answer with an error if the cluster has checksums.
    statement = text(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables "
        "WHERE schemaname = current_schema() ORDER BY tablename"
    )
    tables = await _column(connection, statement)
    for table in tables:
        await connection.execute(text(f"SELECT sum(length(t::text)) FROM {table} AS t"))  # noqa: S608
    if await _setting(connection, "data_checksums") == "off":
        return DatabaseFinding(
            "integrity",
            "warn",
            f"{len(tables)} tables can be read, but the server keeps no checksums of its pages",
            "stop the server and run pg_checksums --enable, so that damage is seen",
        )
    return DatabaseFinding("integrity", "ok", f"{len(tables)} tables read, their checksums fit")


async def _postgres_indexes(connection: AsyncConnection) -> DatabaseFinding:
    ours = (
        "JOIN pg_class c ON c.oid = i.indexrelid "
        "WHERE c.relnamespace = current_schema()::regnamespace"
    )
    broken = await _column(
        connection,
        text(f"SELECT c.relname FROM pg_index i {ours} AND NOT i.indisvalid ORDER BY 1"),  # noqa: S608
    )
    if broken:
        return DatabaseFinding(
            "indexes", "wrong", f"not valid: {', '.join(broken)}", "rebuild them with REINDEX"
        )
    has_amcheck = await _column(
        connection, text("SELECT 1 FROM pg_extension WHERE extname = 'amcheck'")
    )
    if not has_amcheck:
        return DatabaseFinding(
            "indexes", "ok", "all valid; CREATE EXTENSION amcheck lets them be compared with rows"
        )
    checked = await _column(
        connection,
        text(
            "SELECT bt_index_check(i.indexrelid, true)::text FROM pg_index i "  # noqa: S608
            f"{ours} AND c.relam = (SELECT oid FROM pg_am WHERE amname = 'btree')"
        ),
    )
    return DatabaseFinding("indexes", "ok", f"{len(checked)} compared with their rows")


async def _postgres_durability(connection: AsyncConnection) -> DatabaseFinding:
    names = ("fsync", "full_page_writes", "synchronous_commit")
    off = [name for name in names if await _setting(connection, name) == "off"]
    if off:
        return DatabaseFinding(
            "durability",
            "warn",
            f"{', '.join(off)} off: what was acknowledged may be lost with the power",
            "set it to on in postgresql.conf",
        )
    return DatabaseFinding("durability", "ok", "a commit waits until it is on the disk")


async def _postgres_timeouts(connection: AsyncConnection) -> DatabaseFinding:
    idle = await _setting(connection, "idle_in_transaction_session_timeout")
    if idle == "0":
        return DatabaseFinding(
            "time-outs",
            "warn",
            "session settings do not reach the server: who stands idle is never ended",
            "let the connection pooler pass session settings on, or connect without it",
        )
    return DatabaseFinding(
        "time-outs", "ok", f"a transaction that stands idle is ended after {idle}"
    )


async def _postgres_connections(connection: AsyncConnection, pool_size: int) -> DatabaseFinding:
    statement = text(
        "SELECT current_setting('max_connections')::int, "
        "current_setting('superuser_reserved_connections')::int, "
        "(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')"
    )
    most, reserved, used = (await connection.execute(statement)).one()
    told = f"{used} of {most - reserved} in use, up to {pool_size} for each coordinator"
    if most - reserved - used < pool_size:
        return DatabaseFinding(
            "connections",
            "warn",
            told,
            "raise the server's max_connections or lower storage.pool_size",
        )
    return DatabaseFinding("connections", "ok", told)


def _clock(skew_seconds: float) -> DatabaseFinding:
    told = f"the database's clock is {skew_seconds:+.2f} s from this machine's"
    if abs(skew_seconds) > _SKEW_SECONDS:
        return DatabaseFinding(
            "clock", "warn", told, "let both machines follow the same time servers"
        )
    return DatabaseFinding("clock", "ok", told)


async def _setting(connection: AsyncConnection, name: str) -> str:
    statement = text("SELECT current_setting(:name)")
    value: str = (await connection.execute(statement, {"name": name})).scalar_one()
    return value


async def _column(connection: AsyncConnection, statement: TextClause) -> list[Any]:
    return list((await connection.execute(statement)).scalars())
