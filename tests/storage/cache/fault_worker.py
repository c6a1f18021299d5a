"""A process of the fault tests: works on cache or locks, and writes down what it saw.

Its arguments: MODE URL PORT SECONDS LOG FLAG. Each line of the log is a JSON list that begins with
what was done; times are of the clock that all processes of a machine share.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

from sqlalchemy import text

from kumiai.core.errors import FencedError
from kumiai.storage import DatabaseManager
from kumiai.storage.cache.failover import ResilientKeyValue
from kumiai.storage.cache.lock_failover import FailoverLocks
from kumiai.storage.cache.locks import DistributedLock, LockBackend
from kumiai.storage.cache.redis import RedisManager
from kumiai.storage.cache.redis_locks import RedisLocks
from kumiai.storage.cache.sql_locks import verify_fence

KEYS = ("a", "b", "c")
TTL_SECONDS = 0.4


class Log:
    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)
        self._go_on = path.with_suffix(".go-on")

    @property
    def may_go_on(self) -> bool:
        """Whether the test has said so."""
        return self._go_on.exists()

    def write(self, *entry: object) -> None:
        self._file.write(json.dumps(entry) + "\n")


async def read_truth(database: DatabaseManager, key: str) -> int:
    async with database.reading() as connection:
        return int(
            (
                await connection.execute(text("SELECT v FROM truth WHERE k = :k"), {"k": key})
            ).scalar_one()
        )


async def use_cache(
    database: DatabaseManager, manager: RedisManager, until: float, log: Log, flag: str
) -> None:
    if flag == "broken":
        # As if a restarted Redis were the same as before, and an epoch for nothing.
        async def identify() -> str:
            return "always the same"

        async def pin(_identity: str) -> None:
            pass

        manager.identify = identify  # type: ignore[method-assign]
        manager.pin = pin  # type: ignore[method-assign]
    store = ResilientKeyValue(manager, database, lease_seconds=0.3)
    if flag == "broken":

        async def raise_epoch() -> None:
            pass

        store._raise_epoch = raise_epoch  # type: ignore[method-assign]
    await store.start()

    async def read(key: str) -> None:
        while (start := time.monotonic()) < until:
            generation = await store.generation()
            version = (await store.get(f"version:{key}") or b"0").decode()
            cached = await store.get(f"{key}:{version}")
            if cached is None:
                value = await read_truth(database, key)
                await store.set(f"{key}:{version}", b"%d" % value, generation=generation)
            else:
                value = int(cached)
            log.write("read", key, start, value, cached is not None)
            await asyncio.sleep(0.001)

    async def write(key: str) -> None:
        while time.monotonic() < until:
            async with database.transaction() as connection:
                value = (
                    await connection.execute(
                        text("UPDATE truth SET v = v + 1 WHERE k = :k RETURNING v"), {"k": key}
                    )
                ).scalar_one()
            await store.increment(f"version:{key}")
            log.write("invalidated", key, time.monotonic(), value)
            await asyncio.sleep(0.15)

    await asyncio.gather(*(work(key) for key in KEYS for work in (read, read, write)))
    await store.close()


async def increment_fenced(database: DatabaseManager, value: int, token: int) -> None:
    async with database.transaction() as connection:
        await verify_fence(connection, "truth", token)
        await connection.execute(text("UPDATE truth SET v = :v WHERE k = 'a'"), {"v": value + 1})


async def use_locks(
    database: DatabaseManager, manager: RedisManager, until: float, log: Log, _flag: str
) -> None:
    locks = FailoverLocks(manager, database, ttl_seconds_max=TTL_SECONDS, return_seconds=0.5)
    lock = DistributedLock(locks, ttl_seconds=TTL_SECONDS, timeout_seconds=5)

    async def work() -> None:
        while (asked := time.monotonic()) < until:
            async with lock.acquire_context("a") as held:
                if not held:
                    continue
                granted = time.monotonic()
                value = await read_truth(database, "a")
                try:
                    await increment_fenced(database, value, held.token)
                except FencedError:
                    log.write("fenced", held.token)
                    continue
                if held.is_held:
                    log.write("held", asked, granted, time.monotonic(), held.token)
                log.write("counted", held.token)

    await asyncio.gather(work(), work())
    await locks.close()


async def pause_while_holding(
    database: DatabaseManager, manager: RedisManager, _until: float, log: Log, flag: str
) -> None:
    """Read under the lock, be halted by the test until it says so, write."""
    backend: LockBackend = RedisLocks(manager)
    lock = DistributedLock(backend, ttl_seconds=TTL_SECONDS, timeout_seconds=10)
    async with lock.acquire_context("a") as held:
        value = await read_truth(database, "a")
        log.write("read", value)
        while not log.may_go_on:
            # Not a sleep of the loop: the lease is not extended while the program is halted here.
            time.sleep(0.01)
        try:
            if flag == "fence":
                await increment_fenced(database, value, held.token)
            else:
                async with database.transaction() as connection:
                    await connection.execute(
                        text("UPDATE truth SET v = :v WHERE k = 'a'"), {"v": value + 1}
                    )
            log.write("counted", held.token)
        except FencedError:
            log.write("fenced", held.token)


def main() -> None:
    """Work as the arguments say."""
    asyncio.run(work_as_told())


async def work_as_told() -> None:
    mode, url, port, seconds, path, flag = sys.argv[1:]
    # Patient: these workers are halted on purpose, and a busy machine halts them besides.
    database = DatabaseManager(url, idle_in_transaction_timeout_seconds=30.0)
    await database.connect()
    manager = RedisManager(
        "127.0.0.1", int(port), command_timeout_seconds=0.3, connect_timeout_seconds=0.3
    )
    work = {"cache": use_cache, "locks": use_locks, "pause": pause_while_holding}[mode]
    log = Log(Path(path))
    await work(database, manager, time.monotonic() + float(seconds), log, flag)
    log.write("done")
    await manager.close()
    await database.close()
