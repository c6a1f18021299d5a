import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import func, select

from kumiai.core.errors import FencedError, StorageError, UnavailableError
from kumiai.storage import DatabaseManager
from kumiai.storage.cache.lock_failover import FailoverLocks
from kumiai.storage.cache.locks import Busy, DistributedLock, Grant, LockBackend, MemoryLocks
from kumiai.storage.cache.redis import RedisManager
from kumiai.storage.cache.redis_locks import RedisLocks
from kumiai.storage.cache.sql_locks import LockWaiter, SQLLocks, verify_fence
from kumiai.testing.lock_contract import LockContract
from kumiai.testing.redis_server import RedisServer
from tests.storage.cache.stores import HandClock, Nobody


class TestMemoryLocks(LockContract):
    @pytest.fixture
    def backend(self) -> LockBackend:
        return MemoryLocks()


class TestSQLLocks(LockContract):
    @pytest.fixture
    def backend(self, database: DatabaseManager) -> LockBackend:
        return SQLLocks(database)


@pytest.mark.integration
class TestRedisLocks(LockContract):
    @pytest.fixture
    def backend(self, redis_manager: RedisManager) -> LockBackend:
        return RedisLocks(redis_manager)


@pytest.mark.integration
class TestFailoverLocksOnRedis(LockContract):
    @pytest.fixture
    async def backend(
        self, redis_manager: RedisManager, database: DatabaseManager
    ) -> AsyncIterator[LockBackend]:
        locks = FailoverLocks(redis_manager, database)
        yield locks
        await locks.close()


class TestFailoverLocksInSQL(LockContract):
    @pytest.fixture
    async def backend(self, database: DatabaseManager) -> AsyncIterator[LockBackend]:
        manager = RedisManager("127.0.0.1", Nobody().port)
        locks = FailoverLocks(manager, database)
        yield locks
        await locks.close()
        await manager.close()


async def test_locks_that_nobody_holds_take_no_memory() -> None:
    clock = HandClock(0.0)
    locks = MemoryLocks(clock=clock)
    for number in range(100):
        async with DistributedLock(locks, clock=clock).acquire_context(f"lock {number}") as held:
            assert held

    assert locks._locks == {}
    assert locks._granted == {}


async def test_a_holder_trusts_its_lease_for_less_than_it_lasts() -> None:
    clock = HandClock(0.0)
    lock = DistributedLock(MemoryLocks(clock=clock), ttl_seconds=10, clock=clock)

    async with lock.acquire_context("a") as held:
        clock.seconds = 8.9
        assert held.is_held
        clock.seconds = 9.1
        assert not held.is_held
        with pytest.raises(FencedError):
            await held.verify()


class Failing:
    """A back-end that is away."""

    def __init__(self, inner: LockBackend) -> None:
        self.inner = inner
        self.is_away = False

    async def acquire(
        self, name: str, owner: str, ttl_seconds: float, *, waits: bool
    ) -> Grant | Busy:
        self._verify()
        return await self.inner.acquire(name, owner, ttl_seconds, waits=waits)

    async def extend(self, name: str, owner: str, ttl_seconds: float) -> bool:
        self._verify()
        return await self.inner.extend(name, owner, ttl_seconds)

    async def release(self, name: str, owner: str) -> bool:
        self._verify()
        return await self.inner.release(name, owner)

    def _verify(self) -> None:
        if self.is_away:
            raise UnavailableError("away")


async def test_nobody_to_ask_is_told_when_the_time_is_out() -> None:
    backend = Failing(MemoryLocks())
    backend.is_away = True
    lock = DistributedLock(backend, timeout_seconds=0.1)

    with pytest.raises(UnavailableError, match="away"):
        async with lock.acquire_context("a"):
            pass


async def test_a_holder_that_cannot_ask_holds_until_its_lease_ends() -> None:
    backend = Failing(MemoryLocks())
    lock = DistributedLock(backend, ttl_seconds=0.3)

    async with lock.acquire_context("a") as held:
        backend.is_away = True
        with pytest.raises(StorageError):
            await held.verify()
        assert held.is_held
        async with asyncio.timeout(30):
            await held.lost.wait()
        assert not held.is_held


async def test_a_short_absence_loses_no_lock() -> None:
    backend = Failing(MemoryLocks())
    lock = DistributedLock(backend, ttl_seconds=0.6)

    async with lock.acquire_context("a") as held:
        backend.is_away = True
        await asyncio.sleep(0.3)
        backend.is_away = False
        await asyncio.sleep(0.6)

        assert held.is_held


def test_a_lease_of_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match="ttl_seconds must be above 0"):
        DistributedLock(MemoryLocks(), ttl_seconds=0)


class TestFence:
    async def test_a_smaller_token_is_refused(self, database: DatabaseManager) -> None:
        for token in (5, 5, 7):
            async with database.transaction() as connection:
                await verify_fence(connection, "model", token)

        with pytest.raises(FencedError, match="must be the largest"):
            async with database.transaction() as connection:
                await verify_fence(connection, "model", 6)
        async with database.transaction() as connection:
            await verify_fence(connection, "other", 1)

    async def test_a_token_of_64_bits_has_room(self, database: DatabaseManager) -> None:
        async with database.transaction() as connection:
            await verify_fence(connection, "model", (2**22 << 40) + 5)


async def test_waiters_in_sql_leave_no_row_behind(database: DatabaseManager) -> None:
    lock = DistributedLock(SQLLocks(database), timeout_seconds=60)

    async def work() -> None:
        async with lock.acquire_context("a"):
            pass

    await asyncio.gather(*(work() for _ in range(5)))

    async with database.reading() as connection:
        count = await connection.scalar(select(func.count()).select_from(LockWaiter))
    assert count == 0


@pytest.mark.integration
async def test_the_manager_of_redis_has_locks(redis_manager: RedisManager) -> None:
    lock = DistributedLock(redis_manager)

    async with lock.acquire_context("resource_lock") as acquired:
        assert acquired
        assert acquired.token > 10**15


@pytest.mark.integration
async def test_tokens_grow_though_redis_forgets_all(
    own_redis: RedisServer,
) -> None:
    manager = RedisManager("127.0.0.1", own_redis.port)
    lock = DistributedLock(manager)
    async with lock.acquire_context("a") as first:
        pass
    own_redis.restart()

    async with lock.acquire_context("a") as second:
        assert second.token > first.token
    await manager.close()


@pytest.mark.integration
class TestFailover:
    TTL_SECONDS = 0.5

    def _locks(self, manager: RedisManager, database: DatabaseManager) -> FailoverLocks:
        return FailoverLocks(
            manager, database, ttl_seconds_max=self.TTL_SECONDS, return_seconds=0.0
        )

    async def test_tokens_grow_over_death_and_return_of_redis(
        self, own_redis: RedisServer, database: DatabaseManager
    ) -> None:
        manager = RedisManager("127.0.0.1", own_redis.port)
        locks = self._locks(manager, database)
        lock = DistributedLock(locks, ttl_seconds=self.TTL_SECONDS, timeout_seconds=30)
        tokens: list[int] = []

        async def take() -> None:
            async with lock.acquire_context("a") as held:
                assert held
                tokens.append(held.token)

        await take()
        await take()
        own_redis.kill()
        await take()
        await take()
        own_redis.start()
        await take()
        await take()
        own_redis.restart()
        await take()

        assert tokens == sorted(set(tokens))
        assert tokens[-1] >> 40 >= 4
        assert (await locks._epochs.read()).server not in {"", "sql"}
        await locks.close()
        await manager.close()

    async def test_the_holder_of_before_is_told_and_nobody_gets_it_too_early(
        self, own_redis: RedisServer, database: DatabaseManager
    ) -> None:
        manager = RedisManager("127.0.0.1", own_redis.port)
        locks = self._locks(manager, database)
        lock = DistributedLock(locks, ttl_seconds=self.TTL_SECONDS, timeout_seconds=30)

        async with lock.acquire_context("a") as first:
            own_redis.kill()
            async with lock.acquire_context("a") as second:
                assert second
                assert not first.is_held
                assert second.token > first.token
                with pytest.raises(FencedError):
                    await first.verify()
        await locks.close()
        await manager.close()

    async def test_two_who_see_redis_differently_exclude_each_other(
        self, own_redis: RedisServer, database: DatabaseManager
    ) -> None:
        seeing = RedisManager("127.0.0.1", own_redis.port)
        blind = RedisManager("127.0.0.1", Nobody().port)
        near = FailoverLocks(
            seeing, database, ttl_seconds_max=self.TTL_SECONDS, return_seconds=60.0
        )
        far = FailoverLocks(blind, database, ttl_seconds_max=self.TTL_SECONDS, return_seconds=60.0)
        inside = 0
        tokens: list[int] = []

        async def work(locks: FailoverLocks) -> None:
            nonlocal inside
            lock = DistributedLock(locks, ttl_seconds=self.TTL_SECONDS, timeout_seconds=30)
            for _ in range(3):
                async with lock.acquire_context("a") as held:
                    assert held
                    inside += 1
                    assert inside == 1
                    tokens.append(held.token)
                    await asyncio.sleep(0.01)
                    inside -= 1

        await asyncio.gather(work(near), work(far))

        assert tokens == sorted(set(tokens))
        for each in (near, far):
            await each.close()
        for manager in (seeing, blind):
            await manager.close()

    async def test_a_lease_longer_than_agreed_is_refused(
        self, redis_manager: RedisManager, database: DatabaseManager
    ) -> None:
        lock = DistributedLock(self._locks(redis_manager, database), ttl_seconds=5)

        with pytest.raises(ValueError, match="ttl_seconds must be at most"):
            async with lock.acquire_context("a"):
                pass

    async def test_without_sql_no_lock_is_granted(
        self, redis_manager: RedisManager, database: DatabaseManager
    ) -> None:
        locks = self._locks(redis_manager, database)
        lock = DistributedLock(locks, ttl_seconds=self.TTL_SECONDS, timeout_seconds=0)
        async with lock.acquire_context("a") as held:
            assert held
            await database.close()
            with pytest.raises(StorageError):
                async with lock.acquire_context("b"):
                    pass
            async with asyncio.timeout(30):
                await held.lost.wait()
        await database.connect()


def test_locks_without_a_longest_lease_are_refused(database: DatabaseManager) -> None:
    with pytest.raises(ValueError, match="ttl_seconds_max must be above 0"):
        FailoverLocks(RedisManager(), database, ttl_seconds_max=0)
