"""One statement in one turn: values, booleans, errors, cancellation and cut connections."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import bindparam, delete, event, func, insert, literal, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from kumiai.core import failpoints
from kumiai.core.errors import StorageError
from kumiai.storage import DatabaseManager, RunRepository, single_statements
from kumiai.storage.rows import table_of
from kumiai.storage.single_statements import SingleRead, SingleWrite
from kumiai.storage.tables import ClientRegistration, TrainingSession, clock_sql
from kumiai.testing.databases import PostgresServer
from kumiai.testing.tcp_proxy import TcpProxy
from tests.storage.leading import new_run

_RUNS = table_of(TrainingSession)
RUN = SingleRead(
    select(_RUNS.c.name, _RUNS.c.stop_requested, _RUNS.c.stop_reason, _RUNS.c.created_at).where(
        _RUNS.c.run_id == bindparam("run_id"), _RUNS.c.app == "digits-app"
    )
)
_CLIENTS = table_of(ClientRegistration)
_VALUES = {
    "client_id": bindparam("client_id"),
    "instance_id": "one",
    "software_version": "1",
    "apps_json": "[]",
    "first_seen_at": clock_sql(),
    "last_seen_at": clock_sql(),
    "state": "attached",
    "address": "",
}
ADD = SingleWrite("add", insert(_CLIENTS).values(_VALUES).returning(_CLIENTS.c.client_id))
COUNT = SingleRead(select(func.count().label("count")).select_from(_CLIENTS))


async def clients_in(database: DatabaseManager) -> int:
    [[count]] = await database.fetch(COUNT)
    return int(count)


async def test_rows_are_as_a_transaction_gives_them(database: DatabaseManager) -> None:
    record, _ = await RunRepository(database).create(new_run())

    rows = await database.fetch(RUN, run_id="run-a")

    assert RUN.fields == ("name", "stop_requested", "stop_reason", "created_at")
    assert [tuple(row) for row in rows] == [("digits", False, None, record.created_at)]
    assert rows[0][1] is False
    assert await database.fetch(RUN, run_id="none") == []


async def test_an_unknown_value_is_a_mistake_of_the_caller(database: DatabaseManager) -> None:
    with pytest.raises(KeyError, match=r"values must be \['run_id'\]"):
        await database.fetch(RUN, run_id="a", nam="b")


async def test_a_missing_value_is_one_too(database: DatabaseManager) -> None:
    with pytest.raises(KeyError, match="values must be"):
        await database.write(ADD)

    assert await clients_in(database) == 0


async def test_an_error_of_the_driver_is_a_storage_error_and_the_connection_stays(
    database: DatabaseManager,
) -> None:
    broken = SingleRead(select(text("x")).select_from(text("nowhere")))

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


async def test_cancelled_reads_of_a_file_end_before_their_callers_hear_so(
    tmp_path: Path,
) -> None:
    counting = SingleRead(
        select(text("count(*) AS n FROM (WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 "
                    "FROM t WHERE n < 300000) SELECT n FROM t)"))
    )  # fmt: skip
    database = DatabaseManager(f"sqlite:///{tmp_path}/a.db", pool_size=1)
    await database.connect()
    await database.check()
    opened: list[object] = []
    event.listen(database._reader.sync_engine, "connect", lambda *made: opened.append(made))  # type: ignore[union-attr]

    for _ in range(5):
        task = asyncio.create_task(database.fetch(counting))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()

    assert [tuple(row) for row in await database.fetch(counting)] == [(300_000,)]
    assert not opened  # their connection was free, not given up with a thread at work
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


# --- writing ---


async def test_a_write_stands_and_returns_its_rows(database: DatabaseManager) -> None:
    await RunRepository(database).create(new_run())
    stop = SingleWrite(
        "stop",
        update(_RUNS)
        .where(_RUNS.c.run_id == bindparam("of_run"))
        .values(stop_requested=bindparam("stop"), stop_reason=bindparam("reason"))
        .returning(_RUNS.c.stop_requested, _RUNS.c.stop_reason),
    )

    rows = await database.write(stop, of_run="run-a", stop=True, reason="enough")

    assert [tuple(row) for row in rows] == [(True, "enough")]
    assert rows[0][0] is True
    assert [tuple(row)[:3] for row in await database.fetch(RUN, run_id="run-a")] == [
        ("digits", True, "enough")
    ]
    assert await database.write(stop, of_run="none", stop=True, reason="enough") == []


async def test_a_statement_may_differ_on_sqlite(database: DatabaseManager) -> None:
    def adding(dialect: Any) -> Any:
        adding = dialect.insert(_CLIENTS).values(_VALUES)
        return adding.on_conflict_do_nothing().returning(_CLIENTS.c.client_id)

    add = SingleWrite("add", adding(postgresql), on_sqlite=adding(sqlite))

    assert len(await database.write(add, client_id="a")) == 1
    assert len(await database.write(add, client_id="a")) == 0


async def test_a_write_passes_the_crash_points_of_a_transaction(
    database: DatabaseManager, reached: list[str]
) -> None:
    await database.write(ADD, client_id="a")

    assert reached == ["storage.add.commit.before", "storage.add.commit.after"]


@pytest.mark.parametrize(("moment", "count"), [("before", 0), ("after", 1)])
async def test_who_dies_at_a_crash_point_has_written_or_not(
    database: DatabaseManager, moment: str, count: int
) -> None:
    def die(name: str) -> None:
        if name == f"storage.add.commit.{moment}":
            raise RuntimeError("died")

    failpoints.install(die)
    try:
        with pytest.raises(RuntimeError, match="died"):
            await database.write(ADD, client_id="a")
    finally:
        failpoints.install(None)

    assert await clients_in(database) == count


async def test_a_write_that_is_refused_leaves_nothing_and_no_lock(
    database: DatabaseManager,
) -> None:
    await database.write(ADD, client_id="a")

    for _ in range(12):  # more than there are connections
        with pytest.raises(StorageError, match=r"UNIQUE|unique"):
            await database.write(ADD, client_id="a")

    async with database.transaction() as connection:
        await connection.execute(delete(_CLIENTS))
    assert await clients_in(database) == 0


async def test_a_write_is_seen_by_those_who_read_afterwards(database: DatabaseManager) -> None:
    for count in range(1, 30):
        await database.write(ADD, client_id=f"client-{count}")
        assert await clients_in(database) == count


async def test_writes_at_once_all_stand(database: DatabaseManager) -> None:
    await asyncio.gather(*(database.write(ADD, client_id=f"c{n}") for n in range(50)))

    assert await clients_in(database) == 50


def test_a_write_must_tell_what_became_of_it() -> None:
    with pytest.raises(ValueError, match="statement of add must return columns"):
        SingleWrite("add", insert(_CLIENTS).values(_VALUES))


async def test_a_write_before_connect_says_so(database_url: str) -> None:
    with pytest.raises(StorageError, match="must be connected first"):
        await DatabaseManager(database_url).write(ADD, client_id="a")


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/a.db"


@contextlib.contextmanager
def write_lock(url: str) -> Iterator[sqlite3.Connection]:
    """Hold the lock as another program does."""
    with contextlib.closing(
        sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    ) as other:
        other.execute("BEGIN IMMEDIATE")
        yield other


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_who_is_cancelled_hears_so_when_the_write_has_ended(file_url: str) -> None:
    database = DatabaseManager(file_url)
    await database.connect()
    await database.migrate()

    with write_lock(file_url) as other:
        task = asyncio.create_task(database.write(ADD, client_id="a"))
        await turns()
        task.cancel()
        await turns()
        task.cancel()
        await turns()
        is_over_too_soon = task.done()
        other.execute("ROLLBACK")
    await asyncio.wait({task})

    assert not is_over_too_soon
    assert task.cancelled()
    with write_lock(file_url) as other:  # it holds no lock, and stands whole
        assert other.execute("SELECT count(*) FROM clients").fetchone() == (1,)
        other.execute("ROLLBACK")
    await database.write(ADD, client_id="b")
    await database.close()


async def test_a_write_of_which_a_silent_server_tells_nothing_is_given_up(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(single_statements._SETTLE_SECONDS, "postgresql", 0.05)
    url = postgres.new_database()
    async with TcpProxy("127.0.0.1", postgres.port) as proxy:
        database = DatabaseManager(
            f"postgresql://kumiai@127.0.0.1:{proxy.port}/{url.rpartition('/')[2]}", pool_size=1
        )
        await database.connect()
        await database.write(ADD, client_id="a")
        proxy.stall()

        task = asyncio.create_task(database.write(ADD, client_id="b"))
        await turns()
        task.cancel()
        await asyncio.wait({task}, timeout=4)
        proxy.resume()

        assert task.cancelled()
        await database.write(ADD, client_id="c")
        await database.close()
    postgres.give_back(url)


async def test_a_write_that_is_cancelled_while_it_waits_for_a_row_never_comes(
    postgres: PostgresServer,
) -> None:
    url = postgres.new_database()
    database = DatabaseManager(url, pool_size=2)
    await database.connect()
    await database.write(ADD, client_id="a")
    move = SingleWrite(
        "move", update(_CLIENTS).values(address="moved").returning(_CLIENTS.c.client_id)
    )

    async with database.transaction() as connection:
        await connection.execute(select(_CLIENTS).with_for_update())
        task = asyncio.create_task(database.write(move))
        await asyncio.wait({task}, timeout=0.05)
        task.cancel()
        await asyncio.wait({task})

    address = SingleRead(select(_CLIENTS.c.address))
    assert task.cancelled()
    assert [tuple(row) for row in await database.fetch(address)] == [("",)]
    await database.close()
    postgres.give_back(url)


async def test_a_write_that_a_standby_refuses_empties_the_pool(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    database = DatabaseManager(url, pool_size=2)
    await database.connect()
    read_only = text("SET SESSION default_transaction_read_only = on")
    async with database.transaction() as one, database.transaction() as two:
        await one.execute(read_only)
        await two.execute(read_only)

    with pytest.raises(StorageError, match="target_session_attrs"):
        await database.write(ADD, client_id="a")

    await asyncio.gather(*(database.write(ADD, client_id=f"c{n}") for n in range(3)))
    await database.close()
    postgres.give_back(url)
