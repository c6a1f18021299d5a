"""Many at once, by chance: nobody reads what was invalidated before he asked."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from kumiai.storage.cache.invalidation import CacheInvalidation
from kumiai.storage.cache.keyvalue import KeyValueStore
from kumiai.storage.cache.patterns import CachePattern, CacheSettings
from kumiai.testing.redis_server import RedisServer
from tests.meta.repository import ROOT
from tests.storage.cache.stores import STORES, lend_store

SETTINGS = CacheSettings(lease_seconds=0.2, wait_seconds=1.0, poll_seconds_max=0.005)


class History:
    """A truth that only grows, and what each reader was told."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.chance = generator
        self.truth = 0
        self.acknowledged = 0
        self.reads = 0
        self.stale: list[tuple[int, int]] = []

    async def pause(self) -> None:
        await asyncio.sleep(float(self.chance.exponential(0.002)))

    async def load(self) -> int:
        await self.pause()
        value = self.truth
        await self.pause()
        return value

    async def read(self, cache: CachePattern, *, early: bool) -> None:
        floor = self.acknowledged
        value = await cache.get_or_load(
            "key", self.load, tags=["tag"], expire=0.05, early_refresh=10.0 if early else 0.0
        )
        self.reads += 1
        if value < floor:
            self.stale.append((value, floor))

    async def change(self, cache: CachePattern, way: int) -> None:
        self.truth += 1
        version = self.truth
        invalidation = CacheInvalidation(cache)
        match way:
            case 0:
                await invalidation.invalidate_keys("key")
            case 1:
                await invalidation.invalidate_tags("tag")
            case _:
                await invalidation.invalidate_pattern("k*")
        self.acknowledged = max(self.acknowledged, version)

    async def write(self, cache: CachePattern) -> None:
        async def write(value: int) -> None:
            await self.pause()
            self.truth = max(self.truth, value)
            await self.pause()

        # Writers of one key follow one another, as versions of a row do.
        version = self.truth + 1
        await cache.write_through("key", version, write, expire=0.05, tags=["tag"])
        self.acknowledged = max(self.acknowledged, version)


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[KeyValueStore]:
    async for store in lend_store(request):
        yield store


@pytest.mark.parametrize("run", range(3))
async def test_nobody_reads_what_was_invalidated_before_he_asked(
    store: KeyValueStore, run: int
) -> None:
    seed = int(np.random.default_rng().integers(2**31))
    print(f"seed {seed}")
    chance = np.random.default_rng(seed)
    history = History(chance)
    caches = [CachePattern(store, settings=SETTINGS) for _ in range(3)]
    ended = asyncio.Event()

    async def reader(cache: CachePattern, early: bool) -> None:
        while not ended.is_set():
            await history.read(cache, early=early)
            await history.pause()

    async def changer() -> None:
        for _ in range(120):
            cache = caches[chance.integers(3)]
            way = int(chance.integers(4))
            if way == 3:
                await history.write(cache)
            else:
                await history.change(cache, way)
            await history.pause()
        ended.set()

    await asyncio.gather(
        changer(), *(reader(cache, index % 2 == 0) for cache in caches for index in range(4))
    )
    for cache in caches:
        await cache.close()

    assert history.stale == []
    assert history.reads > 50


async def test_a_cache_that_is_not_told_would_be_found_out(store: KeyValueStore) -> None:
    history = History(np.random.default_rng(1))
    cache = CachePattern(store, settings=SETTINGS)
    await history.read(cache, early=False)

    history.truth = history.acknowledged = 5
    await history.read(cache, early=False)

    assert history.stale == [(0, 5)]


@pytest.mark.integration
async def test_200_tasks_of_two_processes_load_once(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    redis_server.command("FLUSHALL")
    loads = tmp_path / "loads"
    arguments = [str(redis_server.port), str(loads), "100"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.storage.cache.programs.stampede", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=30)[0] for process in processes]

    assert answers == ["100\n", "100\n"]
    assert loads.read_text() == "load\n"
