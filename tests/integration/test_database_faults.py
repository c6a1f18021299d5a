"""A real run while its PostgreSQL is killed, started again, failed over, and its lines are cut."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import numpy as np
import pytest

from kumiai.testing.databases import PostgresServer
from kumiai.testing.tcp_proxy import Direction, TcpProxy
from tests.integration import study
from tests.integration.federation import Federation, job

CLIENTS, ROUNDS = 3, 8
# Every client must be in every round: an update that was accepted and then lost is never sent
# again, and its round would wait for it until the test ends.
JOB = job(
    run={"rounds": ROUNDS},
    cohort={"size": CLIENTS, "min_reports": CLIENTS, "min_clients": CLIENTS},
)
_CUTS, _AFTER_CHUNKS = 6, (20, 200)


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """Lend a server that may be killed."""
    server = PostgresServer()
    yield server
    server.remove()


@pytest.fixture
async def proxy(server: PostgresServer) -> AsyncIterator[TcpProxy]:
    async with TcpProxy("127.0.0.1", server.port) as proxy:
        yield proxy


@pytest.fixture
async def federation(
    tmp_path: Path, server: PostgresServer, proxy: TcpProxy
) -> AsyncIterator[Federation]:
    """Lend a started coordinator that reaches its database through the proxy."""
    name = server.new_database().rpartition("/")[2]
    url = f"postgresql://kumiai@127.0.0.1:{proxy.port}/{name}"
    federation = Federation(tmp_path, url)
    await federation.start()
    yield federation
    study.hold.clear()
    await federation.stop()


async def round_of(server: PostgresServer, name: str) -> int:
    with contextlib.suppress(OSError, asyncpg.PostgresError):
        return int(await server.value("SELECT max(round) FROM runs", name))
    return -1


async def until_round(server: PostgresServer, number: int) -> None:
    async with asyncio.timeout(60):
        while await round_of(server, "test_1") < number:
            await asyncio.sleep(0.01)


async def until_finished(server: PostgresServer) -> None:
    """Ask the rows and not the coordinator, whose answers fail while its database is away."""
    async with asyncio.timeout(90):
        while (state := await server.value("SELECT state FROM runs", "test_1")) != "finished":
            assert state != "failed", await server.value("SELECT reason FROM runs", "test_1")
            await asyncio.sleep(0.02)


async def verify_whole(federation: Federation, server: PostgresServer, run_id: str) -> None:
    """Check that each round counts every client once, and that the sum is right."""
    counted = "SELECT array_agg(n ORDER BY round) FROM (SELECT round, {} FROM {} GROUP BY round) t"
    accepted = await server.value(counted.format("count(*)::int AS n", "updates"), "test_1")
    summed = "SELECT array_agg(reports ORDER BY round) FROM rounds WHERE round > 0"
    assert accepted == [CLIENTS] * ROUNDS
    assert await server.value(summed, "test_1") == [CLIENTS] * ROUNDS
    model = await federation.model(run_id)
    np.testing.assert_array_equal(model["w"], np.full(8, 2 * ROUNDS, np.float32))


async def test_a_run_goes_on_when_its_database_is_killed_and_started_again(
    federation: Federation, server: PostgresServer
) -> None:
    await federation.start_clients(CLIENTS)
    run_id = await federation.submit(JOB, study.app)

    for number in (2, 5):
        await until_round(server, number)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
    await until_finished(server)

    await verify_whole(federation, server, run_id)


async def test_a_run_goes_on_when_connections_to_its_database_are_cut_at_random(
    federation: Federation, server: PostgresServer, proxy: TcpProxy
) -> None:
    seed = int(np.random.SeedSequence().entropy) % 2**32  # type: ignore[arg-type]
    print(f"seed {seed}")
    chance = np.random.default_rng(seed)
    await federation.start_clients(CLIENTS)
    run_id = await federation.submit(JOB, study.app)
    left, cuts = int(chance.integers(*_AFTER_CHUNKS)), 0

    def cut_at_random(_direction: Direction, _chunk: bytes) -> bool:
        nonlocal left, cuts
        left -= 1
        if left > 0 or cuts == _CUTS:
            return True
        left, cuts = int(chance.integers(*_AFTER_CHUNKS)), cuts + 1
        return False

    proxy.on_chunk = cut_at_random
    await until_finished(server)
    proxy.on_chunk = None

    assert cuts == _CUTS
    await verify_whole(federation, server, run_id)


async def test_a_run_goes_on_at_the_standby_when_the_primary_is_gone(
    tmp_path: Path, server: PostgresServer
) -> None:
    server.new_database()
    standby = await asyncio.to_thread(PostgresServer, primary=server)
    federation = Federation(
        tmp_path,
        f"postgresql://kumiai@127.0.0.1:{server.port},127.0.0.1:{standby.port}/test_1",
    )
    try:
        await asyncio.to_thread(server.wait_for_standby)
        await federation.start()
        await federation.start_clients(CLIENTS)
        run_id = await federation.submit(JOB, study.app)

        await until_round(server, 3)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(standby.promote)
        await standby.value("ALTER SYSTEM SET synchronous_standby_names = ''")
        await standby.value("SELECT pg_reload_conf()")
        await until_finished(standby)

        await verify_whole(federation, standby, run_id)
    finally:
        await federation.stop()
        standby.remove()
