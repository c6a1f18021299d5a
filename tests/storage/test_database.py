import asyncio
import gc
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select, text

from kumiai.core.errors import ConfigError, SchemaError, StorageError
from kumiai.storage import DatabaseManager
from kumiai.storage.tables import clock_sql
from kumiai.testing.databases import PostgresServer

INSERT = text(
    "INSERT INTO clients (client_id, instance_id, software_version, apps_json, first_seen_at, "
    "last_seen_at, state, address) "
    "VALUES ('a', 'i', 'v', '[]', 0.0, 0.0, 'attached', '127.0.0.1')"
)
COUNT = text("SELECT count(*) FROM clients")


async def count(database: DatabaseManager) -> int:
    async with database.reading() as connection:
        return (await connection.execute(COUNT)).scalar_one()


async def test_a_trivial_query_is_timed(database: DatabaseManager) -> None:
    assert 0.0 < await database.check() < 10.0


async def test_the_dialect_is_told(database: DatabaseManager, database_url: str) -> None:
    assert database_url.startswith(database.dialect)


async def test_a_transaction_commits_at_its_end(database: DatabaseManager) -> None:
    async with database.transaction() as connection:
        await connection.execute(INSERT)

    assert await count(database) == 1


async def test_a_transaction_rolls_back_when_its_body_raises(database: DatabaseManager) -> None:
    async def write_and_stumble() -> None:
        async with database.transaction() as connection:
            await connection.execute(INSERT)
            raise LookupError("stray")

    with pytest.raises(LookupError, match="stray"):
        await write_and_stumble()

    assert await count(database) == 0


async def test_closing_waits_for_the_connection_of_who_was_just_cancelled(
    database_url: str,
) -> None:
    manager = DatabaseManager(database_url)
    await manager.connect()
    is_held = asyncio.Event()

    async def hold(manager: DatabaseManager) -> None:
        async with manager.transaction() as connection:
            await connection.execute(text("SELECT 1"))
            is_held.set()
            await asyncio.Event().wait()

    holding = asyncio.create_task(hold(manager))
    await is_held.wait()
    holding.cancel()
    await manager.close()
    await asyncio.wait({holding})

    del manager, holding
    gc.collect()  # a connection that is still open would warn


async def test_a_cancelled_transaction_rolls_back_and_frees_its_connection(
    database: DatabaseManager,
) -> None:
    inserted = asyncio.Event()

    async def write_and_hang() -> None:
        async with database.transaction() as connection:
            await connection.execute(INSERT)
            inserted.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(write_and_hang())
    await inserted.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    async with database.transaction() as connection:
        await connection.execute(INSERT)
    assert await count(database) == 1


async def test_an_error_of_the_database_is_a_storage_error_without_the_statement(
    database: DatabaseManager,
) -> None:
    with pytest.raises(StorageError) as caught:
        async with database.transaction() as connection:
            await connection.execute(text("SELECT secret FROM nowhere"))

    assert "nowhere" in str(caught.value)
    assert "SELECT" not in str(caught.value)


async def test_an_error_about_a_file_of_the_body_stays_what_it_is(
    database: DatabaseManager,
) -> None:
    with pytest.raises(PermissionError):
        async with database.transaction():
            raise PermissionError("not the database's")


async def test_reading_cannot_write(database: DatabaseManager) -> None:
    with pytest.raises(StorageError):
        async with database.reading() as connection:
            await connection.execute(INSERT)

    assert await count(database) == 0


async def test_reading_sees_one_snapshot_and_waits_for_no_writer(
    database: DatabaseManager,
) -> None:
    async with database.reading() as connection:
        before = (await connection.execute(COUNT)).scalar_one()
        async with database.transaction() as writer:
            await writer.execute(INSERT)
        after = (await connection.execute(COUNT)).scalar_one()

    assert (before, after) == (0, 0)


async def test_writers_of_one_process_follow_one_another(database: DatabaseManager) -> None:
    async with database.transaction() as connection:
        await connection.execute(INSERT)
    statement = text("UPDATE clients SET first_seen_at = first_seen_at + 1")

    async def add_one() -> None:
        async with database.transaction() as connection:
            await connection.execute(statement)

    await asyncio.gather(*(add_one() for _ in range(30)))

    async with database.reading() as connection:
        found = await connection.execute(text("SELECT first_seen_at FROM clients"))
    assert found.scalar_one() == 30.0


async def test_the_clock_of_the_database_tells_seconds_since_1970(
    database: DatabaseManager,
) -> None:
    async with database.reading() as connection:
        now = (await connection.execute(select(clock_sql()))).scalar_one()
        later = (await connection.execute(select(clock_sql()))).scalar_one()

    assert 1.7e9 < now <= later < now + 60.0
    assert isinstance(now, float)


async def test_what_is_not_connected_says_so(database_url: str) -> None:
    database = DatabaseManager(database_url)

    with pytest.raises(StorageError, match="must be connected first"):
        await database.check()


async def test_connecting_and_closing_twice_does_nothing(database: DatabaseManager) -> None:
    await database.connect()
    await database.close()
    await database.close()

    with pytest.raises(StorageError, match="must be connected first"):
        await database.check()


@pytest.mark.parametrize(
    "url",
    [
        "mysql://user:hunter2@host/name",
        "user:hunter2@host",
        "sqlite://",
        "sqlite:///:memory:",
        "postgresql+psycopg://user:hunter2@host/name",
    ],
)
def test_a_foreign_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match=r"database\.url must") as caught:
        DatabaseManager(url)

    assert "hunter2" not in str(caught.value)


def test_the_password_is_not_in_the_repr() -> None:
    database = DatabaseManager("postgresql://user:hunter2@host:5432/name")

    assert "hunter2" not in repr(database)
    assert "host" in repr(database)


def test_a_missing_driver_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)

    with pytest.raises(ConfigError, match=r"kumiai\[postgres\]"):
        DatabaseManager("postgresql://host/name")


def test_an_empty_pool_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pool_size must be at least 1"):
        DatabaseManager(f"sqlite:///{tmp_path}/a.db", pool_size=0)


async def test_a_server_that_is_not_there_is_a_storage_error_without_the_password() -> None:
    database = DatabaseManager("postgresql://user:hunter2@127.0.0.1:1/name")

    with pytest.raises(StorageError, match="see that the server runs") as caught:
        await database.connect()

    assert "hunter2" not in str(caught.value)


async def test_a_wrong_database_name_is_a_storage_error(postgres: PostgresServer) -> None:
    database = DatabaseManager(postgres.url("nowhere"))

    with pytest.raises(StorageError, match="nowhere"):
        await database.connect()


async def test_a_missing_folder_is_a_storage_error(tmp_path: Path) -> None:
    database = DatabaseManager(f"sqlite:///{tmp_path}/none/kumiai.db")

    with pytest.raises(StorageError, match="see that the folder exists"):
        await database.connect()


async def test_a_file_that_is_no_database_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "kumiai.db").write_bytes(b"not a database, but long enough to be read" * 100)
    database = DatabaseManager(f"sqlite:///{tmp_path}/kumiai.db", lock_timeout_seconds=0.05)

    with pytest.raises(StorageError, match="not a database"):
        await database.connect()


async def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    database = DatabaseManager(f"sqlite:///{tmp_path}/kumiai.db")

    await database.connect()
    await database.close()

    assert stat.S_IMODE((tmp_path / "kumiai.db").stat().st_mode) == 0o600


async def test_sqlite_is_in_wal_mode_with_foreign_keys_and_full_sync(tmp_path: Path) -> None:
    database = DatabaseManager(f"sqlite:///{tmp_path}/kumiai.db")
    await database.connect()

    async with database.transaction() as connection:
        found = [
            (await connection.execute(text(f"PRAGMA {name}"))).scalar_one()
            for name in ("journal_mode", "foreign_keys", "synchronous")
        ]
    await database.close()

    assert found == ["wal", 1, 2]


async def test_a_lock_of_another_program_ends_in_a_storage_error(tmp_path: Path) -> None:
    database = DatabaseManager(f"sqlite:///{tmp_path}/kumiai.db", lock_timeout_seconds=0.05)
    await database.connect()
    other = sqlite3.connect(tmp_path / "kumiai.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(StorageError, match="locked"):
        async with database.transaction():
            pass

    other.execute("ROLLBACK")
    other.close()
    async with database.transaction():
        pass
    await database.close()


async def test_a_writer_that_is_cancelled_while_it_waits_for_the_lock_holds_nothing(
    tmp_path: Path,
) -> None:
    database = DatabaseManager(f"sqlite:///{tmp_path}/kumiai.db", lock_timeout_seconds=20.0)
    await database.connect()
    other = sqlite3.connect(tmp_path / "kumiai.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    async def write() -> None:
        async with database.transaction():
            raise AssertionError("must not begin")

    task = asyncio.create_task(write())
    while database._writers["read committed"].pool.checkedout() == 0:  # type: ignore[attr-defined]
        await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    task.cancel()
    other.execute("ROLLBACK")
    other.close()
    await asyncio.wait([task])

    assert task.cancelled()
    async with database.transaction() as connection:
        await connection.execute(text("SELECT 1"))
    await database.close()


async def test_a_transaction_that_is_cancelled_in_a_statement_leaves_no_lock_behind(
    tmp_path: Path,
) -> None:
    slow = text(
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 300000) "
        "SELECT name, (SELECT count(*) FROM t) FROM rows"
    )
    other = sqlite3.connect(tmp_path / "kumiai.db", isolation_level=None, timeout=0.0)
    other.execute("CREATE TABLE rows (name)")
    other.execute("INSERT INTO rows VALUES ('a'), ('b')")
    database = DatabaseManager(f"sqlite:///{tmp_path}/kumiai.db")
    await database.connect()
    executing = asyncio.Event()

    async def read_and_hang() -> None:
        async with database.transaction() as connection:
            asyncio.get_running_loop().call_later(0.001, executing.set)
            await connection.execute(slow)
            raise AssertionError("must be cancelled before")

    task = asyncio.create_task(read_and_hang())
    await executing.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()  # its traceback, and so the driver's cursor, is still alive

    other.execute("INSERT INTO rows VALUES ('c')")
    is_busy, *_ = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert not is_busy  # nor does a snapshot keep the log from being emptied
    other.close()
    await database.close()


async def test_a_connection_that_comes_back_in_a_transaction_is_rolled_back(
    tmp_path: Path,
) -> None:
    database = DatabaseManager(f"sqlite:///{tmp_path}/kumiai.db")
    await database.connect()
    connection = await database._writers["read committed"].connect()
    driver = (await connection.get_raw_connection()).driver_connection
    await driver.execute("BEGIN IMMEDIATE")
    await connection.close()

    async with database.transaction() as again:
        await again.execute(text("SELECT 1"))
    await database.close()


async def test_a_connection_that_was_cut_while_it_lay_idle_is_replaced(
    postgres: PostgresServer,
) -> None:
    database = DatabaseManager(postgres.url("postgres"), pool_size=1)
    other = DatabaseManager(postgres.url("postgres"), pool_size=1)
    await database.connect()
    await other.connect()
    cut = asyncio.Event()
    async with database.transaction() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        driver.add_termination_listener(lambda _connection: cut.set())
        pid = driver.get_server_pid()

    async with other.transaction() as connection:
        await connection.execute(text(f"SELECT pg_terminate_backend({pid})"))
    await cut.wait()

    assert await database.check() > 0
    await database.close()
    await other.close()


async def test_wal_mode_waits_for_another_program_that_starts(tmp_path: Path) -> None:
    path = tmp_path / "kumiai.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    database = DatabaseManager(f"sqlite:///{path}", lock_timeout_seconds=0.05)

    with pytest.raises(StorageError, match="locked"):
        await database.connect()
    other.execute("COMMIT")
    other.close()
    await database.connect()
    await database.close()


async def test_a_pool_that_stays_empty_ends_in_a_storage_error(postgres: PostgresServer) -> None:
    database = DatabaseManager(
        postgres.url("postgres"), pool_size=1, statement_timeout_seconds=0.05
    )
    await database.connect()

    async with database.reading():
        with pytest.raises(StorageError):
            await database.check()
    await database.close()


async def test_a_transaction_that_stands_idle_is_ended(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    database = DatabaseManager(url, idle_in_transaction_timeout_seconds=0.1)
    await database.connect()

    async def write_and_stand_still() -> None:
        async with database.transaction() as connection:
            await connection.execute(INSERT)
            driver = (await connection.get_raw_connection()).driver_connection
            gone = asyncio.Event()
            driver.add_termination_listener(lambda _connection: gone.set())
            await gone.wait()
            await connection.execute(INSERT)

    with pytest.raises(StorageError):
        await write_and_stand_still()

    assert await count(database) == 0
    await database.close()


async def test_the_pool_comes_back_after_a_crash_of_the_server() -> None:
    server = PostgresServer()
    try:
        database = DatabaseManager(server.new_database(migrated=False))
        await database.connect()
        await database.check()
        server.kill()
        with pytest.raises(StorageError):
            await database.check()

        server.start()

        assert await database.check() > 0
        await database.close()
    finally:
        server.remove()


async def test_the_schema_is_that_of_this_version(database: DatabaseManager) -> None:
    await database.verify_schema()


async def test_migrating_again_changes_nothing(database: DatabaseManager) -> None:
    async with database.transaction() as connection:
        await connection.execute(INSERT)

    await database.migrate()

    assert await count(database) == 1


async def test_an_empty_database_is_refused_until_it_is_migrated(tmp_path: Path) -> None:
    database = DatabaseManager(f"sqlite:///{tmp_path}/kumiai.db")
    await database.connect()

    with pytest.raises(SchemaError, match="migrate it first"):
        await database.verify_schema()
    await database.migrate()
    await database.verify_schema()
    await database.close()


async def test_a_newer_schema_is_refused(database: DatabaseManager) -> None:
    async with database.transaction() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(SchemaError, match="upgrade this one"):
        await database.verify_schema()
    with pytest.raises(SchemaError, match="upgrade this one"):
        await database.migrate()


async def test_a_migration_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "kumiai.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE rounds (x)")
    other.close()
    database = DatabaseManager(f"sqlite:///{path}")
    await database.connect()

    with pytest.raises(StorageError, match="already exists"):
        await database.migrate()

    async with database.reading() as connection:
        found = await connection.execute(text("SELECT name FROM sqlite_master"))
    assert found.scalars().all() == ["rounds"]
    await database.close()


MIGRATE = """
import asyncio, sys
from kumiai.storage import DatabaseManager

async def main():
    database = DatabaseManager(sys.argv[1])
    sys.stdout.write("ready\\n"); sys.stdout.flush(); sys.stdin.readline()
    await database.connect()
    await database.migrate()
    await database.close()

asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_replicas_that_start_together_migrate_once(
    kind: str, tmp_path: Path, postgres: PostgresServer
) -> None:
    url = {
        "sqlite": f"sqlite:///{tmp_path}/kumiai.db",
        "postgresql": postgres.new_database(migrated=False),
    }[kind]
    replicas = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", MIGRATE, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for replica in replicas:
        assert replica.stdout is not None
        replica.stdout.readline()

    for replica in replicas:
        assert replica.stdin is not None
        replica.stdin.write("go\n")
        replica.stdin.flush()

    told = [replica.communicate()[1] for replica in replicas]

    assert [replica.returncode for replica in replicas] == [0, 0, 0], told
    database = DatabaseManager(url)
    await database.connect()
    await database.verify_schema()
    await database.close()
