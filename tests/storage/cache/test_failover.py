import asyncio
from collections.abc import AsyncIterator

import pytest

from kumiai.core.errors import ConfigError, StorageError, UnavailableError
from kumiai.storage import DatabaseManager
from kumiai.storage.cache.coalescing import Coalesced
from kumiai.storage.cache.epoch import EpochKeeper
from kumiai.storage.cache.failover import ResilientKeyValue, ServedBy
from kumiai.storage.cache.keyvalue import KeyValueStore
from kumiai.storage.cache.memory import MemoryKeyValue
from kumiai.storage.cache.redis import RedisManager
from kumiai.testing.keyvalue_contract import Elapse, KeyValueContract
from kumiai.testing.redis_server import RedisServer
from tests.storage.cache.stores import Nobody

LEASE_SECONDS = 0.3


class Process:
    """What one process has: a connection of its own and a store on it."""

    def __init__(
        self, server: RedisServer | Nobody, database: DatabaseManager, **settings: object
    ) -> None:
        self.manager = RedisManager(
            "127.0.0.1", server.port, command_timeout_seconds=0.3, connect_timeout_seconds=0.3
        )
        settings.setdefault("lease_seconds", LEASE_SECONDS)
        self.store = ResilientKeyValue(self.manager, database, **settings)  # type: ignore[arg-type]

    async def __aenter__(self) -> ResilientKeyValue:
        await self.store.start()
        return self.store

    async def __aexit__(self, *_: object) -> None:
        await self.store.close()
        await self.manager.close()


async def until_served_by(store: ResilientKeyValue, who: ServedBy) -> None:
    async with asyncio.timeout(30):
        while store.served_by is not who:
            await store.get("anything")
            await asyncio.sleep(0.01)


class TestOnRedis(KeyValueContract):
    @pytest.fixture
    async def store(
        self, redis_manager: RedisManager, database: DatabaseManager
    ) -> AsyncIterator[KeyValueStore]:
        store = ResilientKeyValue(redis_manager, database)
        await store.start()
        assert store.served_by is ServedBy.REDIS
        yield store
        await store.close()

    @pytest.fixture
    def elapse(self) -> Elapse:
        return asyncio.sleep


class TestOnTheTwin(KeyValueContract):
    @pytest.fixture
    async def store(self, database: DatabaseManager) -> AsyncIterator[KeyValueStore]:
        async with Process(Nobody(), database, twin=MemoryKeyValue()) as store:
            assert store.served_by is ServedBy.TWIN
            yield store

    @pytest.fixture
    def elapse(self) -> Elapse:
        return asyncio.sleep

    async def test_it_tells_its_size_and_that_it_answers(self, store: KeyValueStore) -> None:
        await store.set("a", b"1")

        assert (await store.size()).keys == 1
        with pytest.raises(UnavailableError):
            await store.check()


async def test_while_redis_is_away_everything_is_forgotten_at_once_and_nothing_fails(
    own_redis: RedisServer, database: DatabaseManager
) -> None:
    async with Process(own_redis, database) as store:
        await store.set_many({"a": b"1", "n": b"5"})
        own_redis.kill()

        assert await store.get("a") is None
        assert store.served_by is ServedBy.NOBODY
        assert await store.get_many(["a", "n"]) == [None, None]
        assert await store.generation() == -1
        assert await store.set("b", b"1", generation=-1) is False
        assert await store.set("b", b"1", only_if_absent=True) is True
        assert await store.compare_and_delete("a", b"1") is False
        assert await store.compare_and_set("a", b"1", b"2") is False
        assert await store.seconds_left("a") is None
        assert (await store.size()).keys == 0
        outcomes = await asyncio.gather(
            store.set("a", b"2"),
            store.set_many({"a": b"3"}),
            store.delete("a"),
            store.increment("n", 3),
        )
        assert outcomes == [True, None, 0, 3]
        assert [key async for key in store.scan("*")] == []
        assert await store.get("a") is None
        assert store.outages == 1


async def test_without_redis_from_the_start_nothing_fails_and_nothing_is_kept(
    database: DatabaseManager,
) -> None:
    async with Process(Nobody(), database) as store:
        assert store.served_by is ServedBy.NOBODY
        generation = await store.generation()
        assert await store.set("a", b"1", generation=generation) is False
        assert await store.set("a", b"1") is True
        assert await store.get_many(["a"]) == [None]
        assert await store.increment("n", 2) == 2
        assert await store.compare_and_set("a", b"1", b"2") is False
        assert [key async for key in store.scan("*")] == []
        with pytest.raises(UnavailableError):
            await store.check()


async def test_without_redis_and_sql_no_change_is_acknowledged(database: DatabaseManager) -> None:
    async with Process(Nobody(), database, twin=MemoryKeyValue()) as store:
        await store.set("a", b"1")
        await database.close()
        await asyncio.sleep(LEASE_SECONDS)

        assert await store.get("a") is None
        with pytest.raises(StorageError):
            await store.delete("a")
        await database.connect()


async def test_redis_is_taken_up_again_when_it_is_back(
    own_redis: RedisServer, database: DatabaseManager
) -> None:
    async with Process(own_redis, database) as store:
        await store.set("a", b"1")
        own_redis.kill()
        assert await store.get("a") is None
        own_redis.start()

        await until_served_by(store, ServedBy.REDIS)
        await store.set("a", b"2")

        assert await store.get("a") == b"2"


async def test_what_redis_remembers_of_before_its_restart_is_not_read(
    own_redis: RedisServer, database: DatabaseManager
) -> None:
    async with Process(own_redis, database) as one, Process(own_redis, database) as two:
        await one.set("a", b"old")
        own_redis.command("SAVE")
        await one.set("a", b"new")
        assert await two.get("a") == b"new"
        own_redis.restart()
        assert b"old" in own_redis.command("GET", own_redis_key(own_redis))

        found = []
        for _ in range(100):
            found += [await one.get("a"), await two.get("a")]
        await until_served_by(one, ServedBy.REDIS)
        await until_served_by(two, ServedBy.REDIS)
        found += [await one.get("a"), await two.get("a")]

        assert set(found) == {None}


def own_redis_key(server: RedisServer) -> str:
    return server.command("KEYS", "*:a").decode().splitlines()[2]


@pytest.mark.parametrize("act", ["set", "set_many", "delete", "increment", "scan"])
async def test_a_change_while_redis_is_away_for_one_is_seen_by_all(
    own_redis: RedisServer, database: DatabaseManager, act: str
) -> None:
    async with Process(own_redis, database) as near:
        cut = Process(own_redis, database)
        async with cut as far:
            await near.set("a", b"1")
            assert await far.get("a") == b"1"
            # Only this process loses Redis: it is sent to one that is dead.
            far._manager._address = RedisManager("127.0.0.1", Nobody().port)._address
            await far._manager.close()

            match act:
                case "set":
                    await far.set("a", b"2")
                case "set_many":
                    await far.set_many({"a": b"2"})
                case "delete":
                    await far.delete("a")
                case "increment":
                    await far.increment("a")
                case _:
                    assert [key async for key in far.scan("a*")] == []

            assert await near.get("a") is None


async def test_a_change_right_after_a_new_epoch_waits_for_those_who_trust_the_old(
    own_redis: RedisServer, database: DatabaseManager
) -> None:
    async with Process(own_redis, database) as one, Process(own_redis, database) as two:
        await one.set("a", b"old")
        assert await two.get("a") == b"old"
        # The sweep would hide what this is about: it deletes what two still trusts.
        one._begin_to_sweep = lambda _view: None  # type: ignore[method-assign]
        await one._epochs.bump()
        # One notices; two still trusts what it has read.
        await one.set("a", b"new")

        assert await two.get("a") in {None, b"new"}


async def test_a_value_of_an_earlier_epoch_is_not_stored(
    own_redis: RedisServer, database: DatabaseManager
) -> None:
    async with Process(own_redis, database) as store:
        generation = await store.generation()
        await store._epochs.bump()
        await store.delete("anything")

        assert await store.set("a", b"1", generation=generation) is False
        assert await store.set("a", b"1", generation=await store.generation()) is True


async def test_without_sql_nothing_is_read_and_no_change_is_acknowledged(
    own_redis: RedisServer, database: DatabaseManager
) -> None:
    async with Process(own_redis, database) as store:
        await store.set("a", b"1")
        await database.close()
        await asyncio.sleep(LEASE_SECONDS)

        assert await store.get("a") is None
        with pytest.raises(StorageError):
            await store.delete("a")
        await database.connect()
        assert await store.get("a") == b"1"


async def test_the_twin_serves_one_who_is_alone_and_forgets_when_redis_is_back(
    own_redis: RedisServer, database: DatabaseManager
) -> None:
    async with Process(own_redis, database, twin=MemoryKeyValue()) as store:
        await store.set("a", b"1")
        own_redis.kill()
        await until_served_by(store, ServedBy.TWIN)

        assert await store.get("a") is None
        await store.set("a", b"2")
        assert await store.get("a") == b"2"
        own_redis.start()
        await until_served_by(store, ServedBy.REDIS)

        assert await store.get("a") is None


async def test_two_who_believe_to_be_alone_read_no_old_value(database: DatabaseManager) -> None:
    nobody = Nobody()
    one = Process(nobody, database, twin=MemoryKeyValue())
    two = Process(nobody, database, twin=MemoryKeyValue())
    async with one as first, two as second:
        for number in range(3):
            await first.set("a", b"%d" % number)
            assert await second.get("a") in {None, b"%d" % number}
            await second.set("a", b"second %d" % number)
            assert await first.get("a") in {None, b"second %d" % number}


async def test_a_full_redis_still_forgets_what_is_invalidated(
    own_redis: RedisServer, database: DatabaseManager
) -> None:
    async with Process(own_redis, database) as store:
        await store.set("a", b"1")
        own_redis.command("CONFIG", "SET", "maxmemory", "1")

        assert await store.set("b", b"1", only_if_absent=True) is True
        assert await store.increment("tag") == 1

        assert await store.get("a") is None
        assert store.served_by is ServedBy.REDIS


async def test_a_halted_redis_is_away_and_its_late_answers_are_not_read(
    own_redis: RedisServer, database: DatabaseManager
) -> None:
    async with Process(own_redis, database) as store:
        await store.set("a", b"old")
        own_redis.pause()

        await store.set("a", b"new")
        assert await store.get("a") is None
        own_redis.resume()
        await until_served_by(store, ServedBy.REDIS)

        assert await store.get("a") in {None, b"new"}


async def test_what_earlier_epochs_left_is_swept_away(
    own_redis: RedisServer, database: DatabaseManager
) -> None:
    async with (
        Process(own_redis, database) as store,
        Process(own_redis, database, name="other") as other,
    ):
        await other.set("kept", b"1")
        await store.set_many({f"k{number}": b"1" for number in range(1200)})
        await store._epochs.bump()
        await store.set("now", b"1")

        async with asyncio.timeout(30):
            while (await store.size()).keys > 5:
                await asyncio.sleep(0.01)
        assert await store.get("now") == b"1"
        assert await other.get("kept") == b"1"


async def test_another_users_pinning_is_noticed(
    own_redis: RedisServer, database: DatabaseManager
) -> None:
    process = Process(own_redis, database)
    async with process as store:
        await store.set("a", b"1")
        await process.manager.pin(await process.manager.identify())

        assert await store.get("a") is None
        await until_served_by(store, ServedBy.REDIS)
        assert await store.get("a") == b"1"


@pytest.mark.integration
async def test_a_wrong_password_is_told_at_the_start(database: DatabaseManager) -> None:
    server = RedisServer({"requirepass": "right"})
    manager = RedisManager("127.0.0.1", server.port, password="wrong")
    store = ResilientKeyValue(manager, database)

    with pytest.raises(ConfigError, match="password"):
        await store.start()

    await store.close()
    await manager.close()
    server.remove()


async def test_a_password_that_changes_later_is_an_outage_and_no_error(
    own_redis: RedisServer, database: DatabaseManager
) -> None:
    async with Process(own_redis, database) as store:
        own_redis.command("CONFIG", "SET", "requirepass", "new")
        await store._manager.close()

        assert await store.get("a") is None
        assert store.served_by is ServedBy.NOBODY


async def test_after_closing_nothing_is_read(
    own_redis: RedisServer, database: DatabaseManager
) -> None:
    async with Process(own_redis, database) as store:
        await store.set("a", b"1")
        await store.close()

        assert await store.get("a") is None


def test_a_name_that_would_mix_with_others_is_refused(database: DatabaseManager) -> None:
    with pytest.raises(ValueError, match="name must be"):
        ResilientKeyValue(RedisManager(), database, name="cache.1")


def test_a_lease_of_no_time_is_refused(database: DatabaseManager) -> None:
    with pytest.raises(ValueError, match="lease_seconds must be above 0"):
        ResilientKeyValue(RedisManager(), database, lease_seconds=0)


class TestEpochKeeper:
    async def test_it_grows_and_one_claim_of_two_goes_through(
        self, database: DatabaseManager
    ) -> None:
        keeper = EpochKeeper(database, "cache")
        seen = await keeper.register(1.0)

        first = await keeper.claim("one", seen)
        second = await keeper.claim("two", seen)
        bumped = await keeper.bump()

        assert (seen.number, seen.server) == (0, "")
        assert (first.number, first.server) == (1, "one")
        assert second.salt == first.salt
        assert (bumped.number, bumped.server) == (2, "one")
        assert bumped.salt != first.salt
        assert first.age_seconds > 3600
        assert 0 <= bumped.age_seconds < 60

    async def test_the_longest_lease_of_all_is_known(self, database: DatabaseManager) -> None:
        keeper = EpochKeeper(database, "cache")

        assert (await keeper.register(1.0)).lease_seconds == 1.0
        assert (await keeper.register(3.0)).lease_seconds == 3.0
        assert (await keeper.register(2.0)).lease_seconds == 3.0

    async def test_who_has_not_registered_is_told(self, database: DatabaseManager) -> None:
        keeper = EpochKeeper(database, "cache")

        with pytest.raises(StorageError, match="registered"):
            await keeper.read()
        with pytest.raises(StorageError, match="registered"):
            await keeper.bump()


class TestCoalesced:
    async def test_who_asks_meanwhile_gets_the_next_run(self) -> None:
        begun = 0
        go_on = asyncio.Event()

        async def work() -> int:
            nonlocal begun
            begun += 1
            number = begun
            await go_on.wait()
            return number

        runs = Coalesced(work)
        first = [asyncio.create_task(runs.join()) for _ in range(3)]
        while not begun:
            await asyncio.sleep(0)
        later = [asyncio.create_task(runs.join()) for _ in range(3)]
        await asyncio.sleep(0)
        assert runs.is_pending()
        go_on.set()

        assert await asyncio.gather(*first, *later) == [1, 1, 1, 2, 2, 2]
        assert not runs.is_pending()

    async def test_one_who_is_cancelled_takes_nobody_along(self) -> None:
        go_on = asyncio.Event()
        runs = Coalesced(go_on.wait)
        gone, stays = (asyncio.create_task(runs.join()) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        go_on.set()

        assert await stays is True
        with pytest.raises(asyncio.CancelledError):
            await gone

    async def test_who_waits_at_the_end_is_told_and_not_cancelled(self) -> None:
        runs = Coalesced(asyncio.Event().wait)
        waiting = asyncio.create_task(runs.join())
        await asyncio.sleep(0)
        await runs.close()

        with pytest.raises(UnavailableError, match="closed"):
            await waiting
