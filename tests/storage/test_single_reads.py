"""One statement in one turn: values, booleans, errors, cancellation and cut connections."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import bindparam, func, literal, select, text

from kumiai.core.errors import StorageError
from kumiai.storage import DatabaseManager, RunRepository
from kumiai.storage.rows import table_of
from kumiai.storage.single_reads import SingleRead
from kumiai.storage.tables import TrainingSession
from kumiai.testing.databases import PostgresServer
from kumiai.testing.tcp_proxy import TcpProxy
from tests.storage.leading import new_run

_RUNS = table_of(TrainingSession)
RUN = SingleRead(
    select(_RUNS.c.name, _RUNS.c.stop_requested, _RUNS.c.stop_reason, _RUNS.c.created_at).where(
        _RUNS.c.run_id == bindparam("run_id"), _RUNS.c.app == "digits-app"
    )
)


async def test_rows_are_as_a_transaction_gives_them(database: DatabaseManager) -> None:
    record, _ = await RunRepository(database).create(new_run())

    rows = await database.fetch(RUN, run_id="run-a")

    assert RUN.fields == ("name", "stop_requested", "stop_reason", "created_at")
    assert [tuple(row) for row in rows] == [("digits", False, None, record.created_at)]
    assert rows[0][1] is False
    assert await database.fetch(RUN, run_id="none") == []


async def test_an_unknown_value_is_a_mistake_of_the_caller(database: DatabaseManager) -> None:
    with pytest.raises(KeyError, match="must be of the statement"):
        await database.fetch(RUN, run_id="a", nam="b")


async def test_an_error_of_the_driver_is_a_storage_error_and_the_connection_stays(
    database: DatabaseManager,
) -> None:
    broken = SingleRead(select(text("x")).select_from(text("nowhere")))  # type: ignore[arg-type]

    for _ in range(30):  # more than there are connections
        with pytest.raises(StorageError, match="nowhere"):
            await database.fetch(broken)

    assert await database.check() > 0


async def test_what_is_not_connected_says_so(database_url: str) -> None:
    with pytest.raises(StorageError, match="must be connected first"):
        await DatabaseManager(database_url).fetch(RUN, run_id="a")


async def test_a_cancelled_read_leaves_its_answer_to_nobody(postgres: PostgresServer) -> None:
    slow = SingleRead(select(func.pg_sleep(bindparam("seconds")), literal("late").label("word")))
    soon = SingleRead(select(literal("soon").label("word")))
    database = DatabaseManager(postgres.url("postgres"), pool_size=1)
    await database.connect()

    for _ in range(3):
        task = asyncio.create_task(database.fetch(slow, seconds=5.0))
        done, _pending = await asyncio.wait({task}, timeout=0.05)
        assert not done
        task.cancel()
        await asyncio.wait({task})
        assert [tuple(row) for row in await database.fetch(soon)] == [("soon",)]
    await database.close()


async def test_cancelled_reads_of_a_file_free_their_connections(
    tmp_path: Path,
) -> None:
    counting = SingleRead(
        select(text("count(*) AS n FROM (WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 "
                    "FROM t WHERE n < 300000) SELECT n FROM t)"))  # type: ignore[arg-type]
    )  # fmt: skip
    database = DatabaseManager(f"sqlite:///{tmp_path}/a.db", pool_size=2)
    await database.connect()

    for _ in range(5):
        task = asyncio.create_task(database.fetch(counting))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})

    assert [tuple(row) for row in await database.fetch(counting)] == [(300_000,)]
    await database.close()


async def test_a_connection_that_is_cut_meanwhile_is_replaced(postgres: PostgresServer) -> None:
    soon = SingleRead(select(literal("soon").label("word")))
    async with TcpProxy("127.0.0.1", postgres.port) as proxy:
        database = DatabaseManager(f"postgresql://kumiai@127.0.0.1:{proxy.port}/postgres")
        await database.connect()
        await database.fetch(soon)
        proxy.on_chunk = lambda direction, _chunk: direction == "to_server"

        with pytest.raises(StorageError, match="see that the server runs"):
            await database.fetch(soon)
        proxy.on_chunk = None

        assert len(await database.fetch(soon)) == 1
        await database.close()
