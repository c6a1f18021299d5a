"""Real processes, a real Redis that dies: what they saw is checked afterwards."""

import asyncio
import itertools
import json
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text

from kumiai.storage import DatabaseManager
from kumiai.storage.cache.locks import DistributedLock
from kumiai.storage.cache.redis import RedisManager
from kumiai.storage.cache.sql_locks import verify_fence
from kumiai.testing.redis_server import RedisServer
from tests.zygote import Child, Zygote

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("truth")]

SECONDS = 5.0


@pytest.fixture
async def truth(database: DatabaseManager) -> None:
    async with database.transaction() as connection:
        await connection.execute(text("CREATE TABLE truth (k TEXT PRIMARY KEY, v INTEGER)"))
        await connection.execute(text("INSERT INTO truth VALUES ('a', 0), ('b', 0), ('c', 0)"))


class Workers:
    def __init__(self, zygote: Zygote, url: str, port: int, folder: Path) -> None:
        self._zygote = zygote
        self._arguments = (url, str(port), str(SECONDS))
        self._folder = folder
        self._logs: list[Path] = []
        self.processes: list[Child] = []

    async def start(self, mode: str, flag: str = "") -> Child:
        log = self._folder / f"{len(self._logs)}.log"
        log.touch()
        self._logs.append(log)
        process = await self._zygote.fork(
            [mode, *self._arguments, str(log), flag],
            program="tests.storage.cache.fault_worker",
            environment={},
            log=log.with_suffix(".err"),
        )
        self.processes.append(process)
        return process

    def go_on(self) -> None:
        """Let the last one that is halted go on."""
        self._logs[-1].with_suffix(".go-on").touch()

    def log(self) -> list[list[object]]:
        lines = [line for path in self._logs for line in path.read_text().splitlines()]
        return [json.loads(line) for line in lines]

    def wait_for(self, what: str, count: int = 1) -> None:
        deadline = time.monotonic() + 60
        while len(self.of(what)) < count:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def of(self, what: str) -> list[list[object]]:
        return [entry[1:] for entry in self.log() if entry[0] == what]

    async def wait(self) -> None:
        async with asyncio.timeout(60):
            for process in self.processes:
                await process.ended()
                assert process.exit_code == 0, process.last_lines()
        assert len(self.of("done")) == len(self.processes)

    async def stop(self) -> None:
        for process in self.processes:
            await process.kill()


@pytest.fixture
async def workers(
    zygote: Zygote, database_url: str, own_redis: RedisServer, tmp_path: Path
) -> AsyncIterator[Workers]:
    workers = Workers(zygote, database_url, own_redis.port, tmp_path)
    yield workers
    await workers.stop()


def trouble(server: RedisServer, workers: Workers, what: str) -> None:
    """Let Redis come back with an older memory, three times, while the workers work."""
    workers.wait_for(what, 50)
    for _ in range(3):
        server.command("SAVE")
        time.sleep(0.4)
        server.kill()
        time.sleep(0.1)
        server.start()
        time.sleep(0.7)


def stale_reads(workers: Workers) -> list[tuple[object, ...]]:
    """Return each read that began after a newer value's invalidation was acknowledged."""
    acknowledged = sorted((at, key, value) for key, at, value in workers.of("invalidated"))
    reads = sorted((start, key, value, hit) for key, start, value, hit in workers.of("read"))
    newest: dict[object, int] = {}
    stale = []
    done = 0
    for start, key, value, hit in reads:
        while done < len(acknowledged) and acknowledged[done][0] < start:
            _, changed, number = acknowledged[done]
            newest[changed] = max(newest.get(changed, 0), number)
            done += 1
        if value < newest.get(key, 0):
            stale.append((start, key, value, newest[key], hit))
    return stale


async def test_no_old_value_is_read_after_an_acknowledged_invalidation(
    own_redis: RedisServer, workers: Workers
) -> None:
    for _ in range(2):
        await workers.start("cache")
    trouble(own_redis, workers, "read")
    await workers.wait()

    reads = workers.of("read")
    hits = sum(bool(hit) for *_, hit in reads)
    print(f"{len(reads)} reads, {hits} hits, {len(workers.of('invalidated'))} invalidations")
    assert stale_reads(workers) == []
    # Enough to have found something, on a machine however busy.
    assert hits > 50
    assert len(workers.of("invalidated")) > 10


async def test_the_checker_finds_old_values_where_the_epoch_is_left_alone(
    own_redis: RedisServer, workers: Workers
) -> None:
    for _ in range(2):
        await workers.start("cache", "broken")
    trouble(own_redis, workers, "read")
    await workers.wait()

    assert stale_reads(workers) != []


async def test_locks_stay_in_order_and_lose_no_update_while_redis_dies(
    own_redis: RedisServer, workers: Workers, database: DatabaseManager
) -> None:
    for _ in range(2):
        await workers.start("locks")
    workers.wait_for("counted", 20)
    for _ in range(2):
        own_redis.kill()
        time.sleep(0.6)
        own_redis.start()
        time.sleep(0.6)
    await workers.wait()

    holds = sorted(workers.of("held"), key=lambda hold: hold[1])
    tokens = [token for *_, token in holds]
    async with database.reading() as connection:
        value = await connection.scalar(text("SELECT v FROM truth WHERE k = 'a'"))
    print(f"{len(holds)} holds, epochs {sorted({token >> 40 for token in tokens})}")
    # One at a time, tokens in the order of the holds, and each counted update is there.
    assert tokens == sorted(set(tokens))
    assert all(ended <= after[1] for (_, _, ended, _), after in itertools.pairwise(holds))
    assert value == len(workers.of("counted"))
    assert len({token >> 40 for token in tokens}) > 1


@pytest.mark.parametrize(("flag", "lost"), [("fence", 0), ("no fence", 3)])
async def test_a_holder_that_is_halted_past_its_lease_loses_updates_without_the_fence_only(
    own_redis: RedisServer,
    workers: Workers,
    database: DatabaseManager,
    flag: str,
    lost: int,
) -> None:
    manager = RedisManager("127.0.0.1", own_redis.port)
    lock = DistributedLock(manager, ttl_seconds=5, timeout_seconds=20)
    counted = 0
    for turn in range(3):
        process = await workers.start("pause", flag)
        workers.wait_for("read", turn + 1)
        process.send(signal.SIGSTOP)
        async with lock.acquire_context("a") as held:
            assert held
            async with database.transaction() as connection:
                await verify_fence(connection, "truth", held.token)
                await connection.execute(text("UPDATE truth SET v = v + 1 WHERE k = 'a'"))
            counted += 1
        workers.go_on()
        process.send(signal.SIGCONT)
        await workers.wait()

    async with database.reading() as connection:
        value = await connection.scalar(text("SELECT v FROM truth WHERE k = 'a'"))
    assert counted + len(workers.of("counted")) - value == lost
    assert len(workers.of("fenced")) == 3 - lost
    await manager.close()
