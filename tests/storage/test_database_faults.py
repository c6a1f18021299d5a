"""PostgreSQL that is cut off, silent, restarted, killed or failed over: the next call goes on.

Between database and server stands a proxy that fails where the test says. A row that was
acknowledged is never lost; what was not acknowledged stands or does not, but never half.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy import text

from kumiai.core.errors import StorageError
from kumiai.storage import DatabaseManager, postgres_connections
from kumiai.testing.databases import PostgresServer
from kumiai.testing.tcp_proxy import Direction, TcpProxy

pytestmark = pytest.mark.integration

CREATE = text("CREATE TABLE IF NOT EXISTS ledger (n int PRIMARY KEY, twin int NOT NULL)")
INSERT = text("INSERT INTO ledger VALUES (:n, 0)")
TWIN = text("UPDATE ledger SET twin = n WHERE n = :n")
ROWS = text("SELECT n, twin FROM ledger ORDER BY n")


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    url = postgres.new_database(migrated=False)
    yield url
    postgres.give_back(url)


@pytest.fixture
async def proxy(postgres: PostgresServer) -> AsyncIterator[TcpProxy]:
    async with TcpProxy("127.0.0.1", postgres.port) as proxy:
        yield proxy


def through(proxy: TcpProxy, url: str) -> str:
    return f"postgresql://kumiai@127.0.0.1:{proxy.port}/{url.rpartition('/')[2]}"


@contextlib.asynccontextmanager
async def connected(url: str, **options: float) -> AsyncIterator[DatabaseManager]:
    database = DatabaseManager(url, **options)  # type: ignore[arg-type]
    await database.connect()
    yield database
    await database.close()


async def new_ledger(database: DatabaseManager) -> None:
    async with database.transaction() as connection:
        await connection.execute(CREATE)


async def write(database: DatabaseManager, n: int) -> None:
    async with database.transaction() as connection:
        await connection.execute(INSERT, {"n": n})
        await connection.execute(TWIN, {"n": n})


async def rows(database: DatabaseManager) -> list[tuple[int, int]]:
    async with database.reading() as connection:
        return [(row.n, row.twin) for row in await connection.execute(ROWS)]


async def written_at_last(database: DatabaseManager, n: int) -> None:
    """Write a row as a caller does: again after an error, unless it stands already."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(StorageError):
                if (n, n) not in await rows(database):
                    await write(database, n)
                return
            await asyncio.sleep(0.01)


# --- connections that are cut ---


async def messages_of_one_write(proxy: TcpProxy, database: DatabaseManager) -> list[Direction]:
    seen: list[Direction] = []

    def note(direction: Direction, _chunk: bytes) -> bool:
        seen.append(direction)
        return True

    proxy.on_chunk = note
    await write(database, 0)
    proxy.on_chunk = None
    return seen


async def test_a_connection_that_is_cut_at_any_message_loses_nothing_acknowledged(
    url: str, proxy: TcpProxy
) -> None:
    async with connected(through(proxy, url), pool_size=1) as database:
        await new_ledger(database)
        await write(database, -1)  # prepares the statements
        steps = len(await messages_of_one_write(proxy, database))
        acknowledged = [-1, 0]

        for step in range(1, steps + 1):
            left = step

            def cut_at_step(_direction: Direction, _chunk: bytes) -> bool:
                nonlocal left
                left -= 1
                return left != 0

            proxy.on_chunk = cut_at_step
            with contextlib.suppress(StorageError):
                await write(database, step)
                acknowledged.append(step)
            proxy.on_chunk = None
            await write(database, 100 + step)  # the very next call works
            acknowledged.append(100 + step)

        found = await rows(database)

    assert steps >= 8
    assert {n for n, _ in found} >= set(acknowledged)
    assert all(n == twin for n, twin in found)


async def test_reading_that_is_cut_at_any_message_gives_its_rows_or_our_error(
    url: str, proxy: TcpProxy
) -> None:
    async with connected(through(proxy, url), pool_size=1) as database:
        await new_ledger(database)
        await write(database, 1)
        assert await rows(database) == [(1, 1)]
        answers = []

        for step in range(1, 9):
            left = step

            def cut_at_step(_direction: Direction, _chunk: bytes) -> bool:
                nonlocal left
                left -= 1
                return left != 0

            proxy.on_chunk = cut_at_step
            with contextlib.suppress(StorageError):
                answers.append(await rows(database))
            proxy.on_chunk = None
            assert await rows(database) == [(1, 1)]  # the very next call works

    # The last messages are those of the rollback, by then the rows are there.
    assert len(answers) >= 2
    assert all(answer == [(1, 1)] for answer in answers)


async def test_connections_that_are_cut_in_the_pool_are_replaced(url: str, proxy: TcpProxy) -> None:
    async with connected(through(proxy, url), pool_size=4) as database:
        await new_ledger(database)
        await asyncio.gather(*(write(database, n) for n in range(8)))

        await proxy.cut()
        await asyncio.gather(*(written_at_last(database, n) for n in range(8, 16)))

        assert [n for n, _ in await rows(database)] == list(range(16))


async def test_a_server_that_refuses_and_comes_back_is_found_again(
    url: str, proxy: TcpProxy
) -> None:
    async with connected(through(proxy, url)) as database:
        await new_ledger(database)
        await proxy.refuse()
        await proxy.cut()

        with pytest.raises(StorageError, match="see that the server runs"):
            await write(database, 1)
        await proxy.reopen()

        await written_at_last(database, 1)


async def test_a_silent_server_is_given_up_in_time_and_its_connection_never_lent_again(
    url: str, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_connections, "_SILENCE_SECONDS", 0.1)
    async with connected(through(proxy, url), statement_timeout_seconds=0.2) as database:
        await new_ledger(database)
        proxy.stall()

        async with asyncio.timeout(30):
            with pytest.raises(StorageError, match="no answer in time"):
                await write(database, 1)
        proxy.resume()

        await written_at_last(database, 2)
        assert (1, 0) not in await rows(database)


async def test_a_timeout_of_the_bodys_own_stays_what_it_is(url: str) -> None:
    async with connected(url) as database:
        with pytest.raises(TimeoutError):
            async with database.transaction():
                raise TimeoutError

        assert await database.check() > 0


# --- servers that end ---


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_server_that_ends_and_starts_again_is_found_again(how: str) -> None:
    server = PostgresServer()
    try:
        async with connected(server.new_database(migrated=False)) as database:
            await new_ledger(database)
            acknowledged = []
            writing = asyncio.create_task(_write_on(database, acknowledged))
            while len(acknowledged) < 20:
                await asyncio.sleep(0)
            await asyncio.to_thread(getattr(server, how))
            await asyncio.to_thread(server.start)
            count = len(acknowledged)
            async with asyncio.timeout(30):
                while len(acknowledged) < count + 20:
                    await asyncio.sleep(0.01)
            writing.cancel()
            await asyncio.wait({writing})

            found = await rows(database)
    finally:
        server.remove()

    assert {n for n, _ in found} >= set(acknowledged)
    assert all(n == twin for n, twin in found)


async def _write_on(database: DatabaseManager, acknowledged: list[int]) -> None:
    n = 0
    while True:
        n += 1
        try:
            await write(database, n)
        except StorageError:
            await asyncio.sleep(0.01)
            continue
        acknowledged.append(n)


# --- several hosts ---


@pytest.fixture
def pair() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """Lend a primary and a standby that has every commit before it is acknowledged."""
    primary = PostgresServer()
    try:
        primary.new_database(migrated=False)
        standby = PostgresServer(primary=primary)
        try:
            primary.wait_for_standby()
            yield primary, standby
        finally:
            standby.remove()
    finally:
        primary.remove()


def both(first: PostgresServer, second: PostgresServer, options: str = "") -> str:
    return (
        f"postgresql://kumiai@127.0.0.1:{first.port},127.0.0.1:{second.port}/test_1"
        f"?connect_timeout=2{options}"
    )


async def test_a_standby_that_is_promoted_is_found_by_itself_with_every_acknowledged_row(
    pair: tuple[PostgresServer, PostgresServer],
) -> None:
    primary, standby = pair
    async with connected(both(primary, standby), pool_size=3) as database:
        await new_ledger(database)
        acknowledged: list[int] = []
        writing = asyncio.create_task(_write_on(database, acknowledged))
        while len(acknowledged) < 50:
            await asyncio.sleep(0)

        await asyncio.to_thread(primary.kill)
        await asyncio.to_thread(standby.promote)
        # Nobody follows it yet, and it inherited that a commit waits for someone.
        await standby.value("ALTER SYSTEM SET synchronous_standby_names = ''")
        await standby.value("SELECT pg_reload_conf()")
        count = len(acknowledged)
        async with asyncio.timeout(30):
            while len(acknowledged) < count + 20:
                await asyncio.sleep(0.01)
        writing.cancel()
        await asyncio.wait({writing})

        found = await rows(database)
        health = await database.health()

    assert {n for n, _ in found} >= set(acknowledged)
    assert all(n == twin for n, twin in found)
    assert health.address == f"127.0.0.1:{standby.port}"


async def test_the_standby_is_not_taken_even_where_it_is_named_first(
    pair: tuple[PostgresServer, PostgresServer],
) -> None:
    primary, standby = pair
    async with connected(both(standby, primary)) as database:
        health = await database.health()

    assert health.address == f"127.0.0.1:{primary.port}"
    assert not health.is_read_only


async def test_where_no_host_takes_writes_the_error_names_each(
    pair: tuple[PostgresServer, PostgresServer],
) -> None:
    primary, standby = pair
    await asyncio.to_thread(primary.kill)

    database = DatabaseManager(both(primary, standby))
    with pytest.raises(StorageError, match="must answer") as caught:
        await database.connect()

    assert f"127.0.0.1:{primary.port}: " in str(caught.value)
    assert f"127.0.0.1:{standby.port}: " in str(caught.value)


async def test_a_server_that_has_become_read_only_empties_the_pool(url: str) -> None:
    read_only = text("SET SESSION default_transaction_read_only = on")
    async with connected(url, pool_size=2) as database:
        await new_ledger(database)
        async with database.transaction() as one, database.transaction() as two:
            await one.execute(read_only)
            await two.execute(read_only)

        with pytest.raises(StorageError, match="target_session_attrs"):
            await write(database, 1)

        await asyncio.gather(*(write(database, n) for n in (2, 3, 4)))


async def test_a_body_that_writes_while_reading_costs_the_pool_nothing(
    url: str, proxy: TcpProxy
) -> None:
    async with connected(through(proxy, url), pool_size=1) as database:
        await new_ledger(database)
        before = proxy.connections

        with pytest.raises(StorageError, match="read-only transaction"):
            async with database.reading() as connection:
                await connection.execute(INSERT, {"n": 1})
        await write(database, 1)

    assert proxy.connections == before


async def test_a_host_that_swallows_packets_uses_up_its_own_time_alone(
    url: str, postgres: PostgresServer, proxy: TcpProxy
) -> None:
    name = url.rpartition("/")[2]
    hosts = f"127.0.0.1:{proxy.port},127.0.0.1:{postgres.port}"
    proxy.stall()

    async with asyncio.timeout(8):
        async with connected(
            f"postgresql://kumiai@{hosts}/{name}?connect_timeout=1", pool_size=3
        ) as database:
            asked = proxy.connections
            async with database.transaction(), database.transaction():
                pass  # further connections go to the host that served last

    assert asked == 1
    assert proxy.connections == asked


# --- passwords ---


async def test_a_wrong_password_says_so_without_it() -> None:
    server = PostgresServer()
    try:
        await server.value("CREATE ROLE olga LOGIN PASSWORD 'right'")
        hba = server.folder / "data" / "pg_hba.conf"
        hba.write_text("host all olga 127.0.0.1/32 scram-sha-256\n" + hba.read_text())
        await server.value("SELECT pg_reload_conf()")
        url = f"postgresql://olga:{{}}@127.0.0.1:{server.port}/postgres"

        with pytest.raises(StorageError, match="see that the URL's user and password") as caught:
            await DatabaseManager(url.format("hunter2")).connect()
        async with connected(url.format("right")) as database:
            assert await database.check() > 0
    finally:
        server.remove()

    assert "hunter2" not in str(caught.value)


async def test_an_option_that_the_driver_can_not_use_is_an_error_of_the_settings() -> None:
    database = DatabaseManager(
        "postgresql://kumiai@127.0.0.1:1/db?sslmode=require&ssl_min_protocol_version=TLSv9"
    )

    with pytest.raises(Exception, match=r"database\.url must have options") as caught:
        await database.connect()

    assert type(caught.value).__name__ == "ConfigError"
