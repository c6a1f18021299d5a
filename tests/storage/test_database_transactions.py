"""Isolation, savepoints, and work that is done again after it gave way."""

import asyncio
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.core.errors import StorageError
from kumiai.storage import DatabaseManager
from kumiai.storage.database_engines import Isolation
from kumiai.testing.databases import PostgresServer

INSERT = text(
    "INSERT INTO clients (client_id, instance_id, software_version, apps_json, first_seen_at, "
    "last_seen_at, state, address) VALUES (:name, 'i', 'v', '[]', 0.0, 0.0, 'attached', 'a')"
)
ADD_ONE = text("UPDATE clients SET first_seen_at = :value WHERE client_id = 'a'")
SEEN = text("SELECT first_seen_at FROM clients WHERE client_id = 'a'")


async def insert(connection: AsyncConnection, name: str = "a") -> None:
    await connection.execute(INSERT, {"name": name})


async def names(database: DatabaseManager) -> list[str]:
    async with database.reading() as connection:
        found = await connection.execute(text("SELECT client_id FROM clients ORDER BY client_id"))
        return list(found.scalars())


# --- isolation ---


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_a_transaction_has_the_isolation_that_is_asked_for(
    postgres: PostgresServer, isolation: Isolation
) -> None:
    database = DatabaseManager(postgres.url("postgres"))
    await database.connect()

    async with database.transaction(isolation=isolation) as connection:
        found = await connection.execute(text("SHOW transaction_isolation"))
        assert found.scalar_one() == isolation
    async with database.transaction() as connection:
        found = await connection.execute(text("SHOW transaction_isolation"))
        assert found.scalar_one() == "read committed"
    await database.close()


async def test_an_unknown_isolation_is_refused(database: DatabaseManager) -> None:
    with pytest.raises(ValueError, match="isolation must be one of"):
        async with database.transaction(isolation="chaos"):  # type: ignore[arg-type]
            pass


# --- savepoints ---


async def insert_and_stumble(
    database: DatabaseManager, connection: AsyncConnection, *names: str
) -> None:
    async with database.savepoint(connection):
        for name in names:
            await insert(connection, name)
        raise LookupError("stray")


async def test_a_savepoint_undoes_its_own_writes_alone(database: DatabaseManager) -> None:
    async with database.transaction() as connection:
        await insert(connection, "a")
        with pytest.raises(LookupError, match="stray"):
            await insert_and_stumble(database, connection, "b")
        async with database.savepoint(connection):
            await insert(connection, "c")

    assert await names(database) == ["a", "c"]


async def test_a_transaction_goes_on_after_a_statement_that_failed_in_a_savepoint(
    database: DatabaseManager,
) -> None:
    async with database.transaction() as connection:
        await insert(connection, "a")
        with pytest.raises(StorageError, match="clients"):
            await insert_and_stumble(database, connection, "b", "a")
        await insert(connection, "c")

    assert await names(database) == ["a", "c"]


async def test_savepoints_nest(database: DatabaseManager) -> None:
    async with database.transaction() as connection, database.savepoint(connection):
        await insert(connection, "a")
        with pytest.raises(LookupError, match="stray"):
            await insert_and_stumble(database, connection, "b")

    assert await names(database) == ["a"]


# --- again ---


async def test_work_is_done_once_when_nothing_is_in_its_way(database: DatabaseManager) -> None:
    calls = []

    async def work(connection: AsyncConnection) -> str:
        calls.append(1)
        await insert(connection)
        return "done"

    assert await database.run_transaction(work) == "done"
    assert calls == [1]
    assert await names(database) == ["a"]


async def test_no_increment_is_lost_by_serialisation_failures(database: DatabaseManager) -> None:
    async with database.transaction() as connection:
        await insert(connection)
    attempts = []

    async def add_one(connection: AsyncConnection) -> None:
        attempts.append(1)
        seen = (await connection.execute(SEEN)).scalar_one()
        await connection.execute(ADD_ONE, {"value": seen + 1})

    await asyncio.gather(*(database.run_transaction(add_one, attempts=50) for _ in range(8)))

    async with database.reading() as connection:
        assert (await connection.execute(SEEN)).scalar_one() == 8.0
    assert len(attempts) >= 8


async def test_what_gives_way_every_time_ends_after_the_last_attempt(
    postgres: PostgresServer,
) -> None:
    database = DatabaseManager(postgres.url("postgres"))
    await database.connect()
    calls = []

    async def fail(connection: AsyncConnection) -> None:
        calls.append(1)
        await connection.execute(
            text("DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '40001'; END $$")
        )

    with pytest.raises(StorageError, match="'no'"):
        await database.run_transaction(fail, attempts=3)

    assert len(calls) == 3
    await database.close()


async def test_a_deadlock_is_resolved_by_doing_the_loser_again(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    database = DatabaseManager(url)
    await database.connect()
    async with database.transaction() as connection:
        await insert(connection, "a")
        await insert(connection, "b")
    both_hold = asyncio.Barrier(2)
    touch = text("UPDATE clients SET first_seen_at = first_seen_at + 1 WHERE client_id = :name")
    tries = []

    async def touch_both(connection: AsyncConnection, first: str, second: str) -> None:
        tries.append(first)
        await connection.execute(touch, {"name": first})
        if len(tries) <= 2:
            await both_hold.wait()
        await connection.execute(touch, {"name": second})

    await asyncio.gather(
        *(
            database.run_transaction(
                lambda connection, pair=pair: touch_both(connection, *pair),  # type: ignore[misc]
                isolation="read committed",
            )
            for pair in (("a", "b"), ("b", "a"))
        )
    )

    assert len(tries) == 3
    async with database.reading() as connection:
        found = await connection.execute(text("SELECT sum(first_seen_at) FROM clients"))
        assert found.scalar_one() == 4.0
    await database.close()
    postgres.give_back(url)


async def test_a_lock_of_another_program_is_waited_for_again(tmp_path: Path) -> None:
    database = DatabaseManager(f"sqlite:///{tmp_path}/a.db", lock_timeout_seconds=0.01)
    await database.connect()
    other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    refused = []
    begin = database._begin

    async def count_refusals(connection: AsyncConnection) -> None:
        try:
            await begin(connection)
        except Exception:
            refused.append(1)
            if len(refused) == 2:
                other.execute("ROLLBACK")
            raise

    database._begin = count_refusals  # type: ignore[method-assign]

    async def work(connection: AsyncConnection) -> int:
        return int((await connection.execute(text("SELECT 7"))).scalar_one())

    assert await database.run_transaction(work) == 7
    assert len(refused) == 2
    other.close()
    await database.close()


async def test_an_error_of_another_kind_is_not_tried_again(database: DatabaseManager) -> None:
    calls = []

    async def work(connection: AsyncConnection) -> None:
        calls.append(1)
        await connection.execute(text("SELECT x FROM nowhere"))

    with pytest.raises(StorageError, match="nowhere"):
        await database.run_transaction(work)

    assert calls == [1]


async def test_no_attempts_are_refused(database: DatabaseManager) -> None:
    async def work(connection: AsyncConnection) -> None:
        raise AssertionError

    with pytest.raises(ValueError, match="attempts must be at least 1"):
        await database.run_transaction(work, attempts=0)


@pytest.mark.parametrize(
    "name", ["statement_timeout", "lock_timeout", "idle_in_transaction_timeout"]
)
def test_a_timeout_of_nothing_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}_seconds must be above 0"):
        DatabaseManager(f"sqlite:///{tmp_path}/a.db", **{f"{name}_seconds": 0.0})  # type: ignore[arg-type]


# --- health ---


async def test_health_tells_how_the_database_is(database: DatabaseManager) -> None:
    async with database.transaction():
        health = await database.health()

    assert health.dialect == database.dialect
    assert health.latency_seconds > 0
    assert health.server_version[0].isdigit()
    assert health.is_schema_current
    assert not health.is_read_only
    assert health.pool_in_use == 1
    assert health.pool_size >= 2
    assert (health.journal_mode == "wal") == (database.dialect == "sqlite")
    assert (health.address is None) == (database.dialect == "sqlite")


async def test_a_full_pool_is_an_error_that_says_so_in_time(postgres: PostgresServer) -> None:
    database = DatabaseManager(
        postgres.url("postgres"), pool_size=1, statement_timeout_seconds=0.05
    )
    await database.connect()

    async with database.transaction():
        with pytest.raises(StorageError, match=r"within 0\.05 s, got all 1 in use; raise"):
            await database.check()

    assert await database.check() > 0
    await database.close()
