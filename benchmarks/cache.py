"""What the cache layer costs beside bare redis-py and cashews; how often a stampede loads.

Run ``python benchmarks/cache.py``: half a minute. Everything talks to one Redis server of its own
on loopback, in turns, so that a busy moment hits all alike. ``get`` is one call after the other on
one connection, a dict of a few fields as the value, JSON where the library can. CPU is that of
this process: the server's is the same for all.

The goals are against redis-py with a pool that waits and with time-outs, without which a service
fails at the 101st call at once and hangs with a silent server; the bare client stands beside it.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import orjson
import redis.asyncio
from _measuring import Goal, at_most, load_line, print_goals, print_table

from kumiai.storage.cache.memory import MemoryKeyValue
from kumiai.storage.cache.patterns import CachePattern
from kumiai.storage.cache.redis import RedisManager
from kumiai.testing.redis_server import RedisServer

VALUE = {"client_id": "site-1", "state": "attached", "apps": ["digits"], "rounds": [1, 2, 3]}
TASKS = 200
LOAD_SECONDS = 0.05
GET_LIMIT = 1.3
BASE = "redis-py, waiting pool, time-outs"

Get = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Timing:
    """Microseconds of one get, medians over the turns."""

    wall: float
    cpu: float


async def turn(get: Get, count: int) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        await get()
    return (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count


async def measure(gets: dict[str, Get], count: int, turns: int) -> dict[str, Timing]:
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in gets}
    for index in range(turns + 1):
        for name, get in gets.items():
            found = await turn(get, count)
            if index:  # the first warms up
                taken[name].append(found)
    return {
        name: Timing(
            statistics.median(wall for wall, _ in found) * 1e6,
            statistics.median(cpu for _, cpu in found) * 1e6,
        )
        for name, found in taken.items()
    }


async def stampede(ask: Callable[[Callable[[], Awaitable[str]]], Awaitable[object]]) -> int:
    loads = 0

    async def load() -> str:
        nonlocal loads
        loads += 1
        await asyncio.sleep(LOAD_SECONDS)
        return "value"

    await asyncio.gather(*(ask(load) for _ in range(TASKS)))
    return loads


async def new_cashews(url: str) -> object:
    from cashews import Cache

    cache = Cache()
    cache.setup(url, client_side=False, pickle_type="json")
    await cache.set("cashews:key", VALUE, expire=3600)
    return cache


async def run(count: int, turns: int) -> list[Goal]:
    server = RedisServer()
    manager = RedisManager("127.0.0.1", server.port)
    await manager.initialize()
    bare = redis.asyncio.Redis(port=server.port)
    pool = redis.asyncio.BlockingConnectionPool(port=server.port, socket_timeout=5.0)
    pooled = redis.asyncio.Redis(connection_pool=pool)
    cache, other = CachePattern(manager), CachePattern(manager)
    memory = CachePattern(MemoryKeyValue())
    cashews = await new_cashews(server.url)
    try:
        await bare.set("bare", json.dumps(VALUE), ex=3600)
        for each in (cache, memory):
            await each.set_cache("key", VALUE, expire=3600)
            await each.set_cache("tagged", VALUE, expire=3600, tags=["a", "b"])

        async def raw() -> object:
            return await bare.get("bare")

        async def raw_pooled() -> object:
            return await pooled.get("bare")

        async def raw_json() -> object:
            return orjson.loads(await pooled.get("bare"))

        async def load() -> object:
            raise RuntimeError("value must be cached, got a miss")

        gets: dict[str, Get] = {
            "redis-py": raw,
            BASE: raw_pooled,
            "the same, with orjson": raw_json,
            "get_cache": lambda: cache.get_cache("key"),
            "get_or_load": lambda: cache.get_or_load("key", load),
            "get_or_load, 2 tags": lambda: cache.get_or_load("tagged", load, tags=["a", "b"]),
            "cashews get": lambda: cashews.get("cashews:key"),  # type: ignore[attr-defined]
            "get_cache, in-process": lambda: memory.get_cache("key"),
        }
        timings = await measure(gets, count, turns)
        base = timings[BASE]
        print_table(
            f"get, {count} at a time, {turns} turns; us",
            ["way", "wall", "ratio", "CPU", "ratio"],
            [
                [
                    name,
                    f"{timing.wall:.0f}",
                    f"{timing.wall / base.wall:.2f}",
                    f"{timing.cpu:.0f}",
                    f"{timing.cpu / base.cpu:.2f}",
                ]
                for name, timing in timings.items()
            ],
        )

        @cashews.cache(ttl="1m", key="guarded", lock=True)  # type: ignore[attr-defined]
        async def locked() -> str:
            return await guarded_load()

        guarded = 0

        async def guarded_load() -> str:
            nonlocal guarded
            guarded += 1
            await asyncio.sleep(LOAD_SECONDS)
            return "value"

        start = time.perf_counter()
        ours = await stampede(lambda load: cache.get_or_load("one", load))
        one = time.perf_counter() - start
        caches = iter([cache, other] * TASKS)
        start = time.perf_counter()
        both = await stampede(lambda load: next(caches).get_or_load("two", load))
        two = time.perf_counter() - start
        start = time.perf_counter()
        await asyncio.gather(*(locked() for _ in range(TASKS)))
        three = time.perf_counter() - start
        print_table(
            f"stampede, {TASKS} tasks, a load of {LOAD_SECONDS * 1e3:.0f} ms",
            ["way", "loads", "ms"],
            [
                ["get_or_load, one process", str(ours), f"{one * 1e3:.0f}"],
                ["get_or_load, two caches as two processes", str(both), f"{two * 1e3:.0f}"],
                ["cashews, lock", str(guarded), f"{three * 1e3:.0f}"],
            ],
        )
        return [
            at_most(
                "cache get, CPU beside redis-py",
                GET_LIMIT,
                timings["get_cache"].cpu / base.cpu,
                " x",
            ),
            at_most(
                "cache get, time beside redis-py",
                GET_LIMIT,
                timings["get_cache"].wall / base.wall,
                " x",
            ),
            at_most(
                "cache get, CPU beside cashews",
                1.0,
                timings["get_cache"].cpu / timings["cashews get"].cpu,
                " x",
            ),
            at_most(f"loads in a stampede of {TASKS}", 1, ours),
            at_most(f"loads in a stampede of {TASKS} over two caches", 1, both),
        ]
    finally:
        await cache.close()
        await other.close()
        await memory.close()
        await bare.aclose()
        await pooled.aclose()
        await pool.disconnect()
        await cashews.close()  # type: ignore[attr-defined]
        await manager.close()
        server.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="fewer calls")
    arguments = parser.parse_args()
    count, turns = (1000, 5) if arguments.short else (4000, 9)
    goals = asyncio.run(run(count, turns))
    print(f"\n{load_line()}")
    print_goals(goals)


if __name__ == "__main__":
    main()
