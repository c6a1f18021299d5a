"""What ``examine`` finds in databases that are not well."""

import contextlib
import shutil
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import text

from kumiai.core.clock import SystemClock
from kumiai.storage import DatabaseManager
from kumiai.storage.database_checks import DatabaseFinding, examine
from kumiai.storage.database_health import DatabaseHealth
from kumiai.testing.databases import PostgresServer


class LateClock(SystemClock):
    """A clock that goes a minute behind."""

    def now(self) -> float:
        return super().now() - 60.0


async def found(database: DatabaseManager, check: str) -> DatabaseFinding:
    findings = await database.examine(SystemClock())
    await database.close()
    return next(each for each in findings if each.check == check)


@pytest.fixture
async def server() -> AsyncIterator[PostgresServer]:
    """Lend a server that may be set up badly."""
    server = PostgresServer()
    yield server
    server.remove()


async def test_a_server_that_is_set_up_badly_is_told_with_each_mend(
    server: PostgresServer,
) -> None:
    url = server.new_database()
    name = url.rpartition("/")[2]
    await server.value("CREATE EXTENSION amcheck", name)
    await server.value(f"ALTER DATABASE {name} SET synchronous_commit = off")
    await server.value(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    database = DatabaseManager(url, pool_size=199)

    findings = {each.check: each for each in await database.examine(LateClock())}
    await database.close()

    assert "standby" in findings["writes"].text
    assert findings["writes"].is_wrong
    assert "fsync, synchronous_commit off" in findings["durability"].text
    assert "compared with their rows" in findings["indexes"].text
    assert findings["connections"].state == "warn"
    assert "max_connections" in findings["connections"].mend
    assert findings["clock"].state == "warn"
    assert findings["clock"].text.startswith("the database's clock is +")
    assert "checksums fit" in findings["integrity"].text
    assert findings["time-outs"].state == "ok"


async def test_an_index_that_is_not_valid_is_found(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    database = DatabaseManager(url)
    await database.connect()
    async with database.transaction() as connection:
        await connection.execute(text("CREATE TABLE pairs (n int)"))
        await connection.execute(text("CREATE INDEX pairs_n ON pairs (n)"))
        await connection.execute(
            text("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'pairs_n'::regclass")
        )

    finding = await found(database, "indexes")
    await database.close()
    postgres.give_back(url)

    assert finding.is_wrong
    assert finding.text == "not valid: pairs_n"
    assert "REINDEX" in finding.mend


async def test_a_session_whose_settings_do_not_arrive_is_found(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    # Rounded down to none it looks to the server like a pooler that drops it.
    database = DatabaseManager(url, idle_in_transaction_timeout_seconds=0.0004)

    finding = await found(database, "time-outs")
    await database.close()
    postgres.give_back(url)

    assert finding.state == "warn"
    assert "pooler" in finding.mend


async def test_a_check_that_the_server_refuses_is_a_finding_and_the_others_go_on(
    postgres: PostgresServer,
) -> None:
    url = postgres.new_database()
    database = DatabaseManager(url)
    await database.connect()
    async with database.transaction() as connection:
        await connection.execute(text("CREATE TABLE traps (n int)"))
        await connection.execute(text("CREATE ROLE plain LOGIN"))
        await connection.execute(text("GRANT SELECT ON alembic_version TO plain"))
    await database.close()
    database = DatabaseManager(url.replace("kumiai:kumiai@", "plain@"))

    findings = {each.check: each for each in await database.examine(SystemClock())}
    await database.close()
    await postgres.value("DROP OWNED BY plain", url.rpartition("/")[2])
    await postgres.value("DROP ROLE plain")
    postgres.give_back(url)

    assert findings["integrity"].is_wrong
    assert "permission denied" in findings["integrity"].text
    assert "grant the URL's user" in findings["integrity"].mend
    assert findings["durability"].state == "warn"


async def test_a_row_that_breaks_its_table_s_rule_is_damage(tmp_path: Path) -> None:
    database = DatabaseManager(f"sqlite:///{tmp_path}/a.db")
    await database.connect()
    await database.migrate()
    await database.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db")) as other:
        other.execute("PRAGMA ignore_check_constraints = ON")
        other.execute("CREATE TABLE bounded (n int CHECK (n > 0))")
        other.execute("INSERT INTO bounded VALUES (-1)")
        other.commit()

    finding = await found(database, "integrity")
    await database.close()

    assert finding.is_wrong
    assert "CHECK constraint failed" in finding.text
    assert "restore" in finding.mend


HEALTH = DatabaseHealth(
    dialect="sqlite",
    latency_seconds=1.0,
    server_version="3",
    clock=0.0,
    is_read_only=True,
    schema_revision=None,
    schema_head="1",
    pool_in_use=0,
    pool_size=1,
    address=None,
    journal_mode="delete",
)


async def test_a_file_that_is_slow_and_read_only_and_without_a_log_is_told(
    tmp_path: Path,
) -> None:
    database = DatabaseManager(f"sqlite:///{tmp_path}/a.db")
    await database.connect()

    async with database.reading() as connection:
        findings = {
            each.check: each
            async for each in examine(connection, HEALTH, file=f"{tmp_path}/a.db", now=0.0)
        }
    await database.close()

    assert findings["connection"].state == "warn"
    assert "bring the database nearer" in findings["connection"].mend
    assert findings["writes"].is_wrong
    assert "mounted read-only" in findings["writes"].mend
    assert "network file systems" in findings["journal"].mend


@pytest.mark.parametrize(
    ("free", "state"), [(1 << 20, "wrong"), (500 << 20, "warn"), (5 << 30, "ok")]
)
async def test_room_that_runs_out_is_told_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=free))

    assert (await found(DatabaseManager(f"sqlite:///{tmp_path}/a.db"), "disk")).state == state
