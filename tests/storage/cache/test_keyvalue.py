import asyncio
from collections.abc import AsyncIterator

import pytest

from kumiai.storage.cache.keyvalue import KeyValueStore, glob_pattern, key_value_of
from kumiai.storage.cache.memory import MemoryKeyValue
from kumiai.storage.cache.redis import RedisManager
from kumiai.testing.keyvalue_contract import Elapse, KeyValueContract
from tests.storage.cache.stores import HandClock


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


class TestMemoryKeyValue(KeyValueContract):
    @pytest.fixture
    async def store(self, clock: HandClock) -> AsyncIterator[MemoryKeyValue]:
        store = MemoryKeyValue(clock=clock)
        yield store
        await store.close()

    @pytest.fixture
    def elapse(self, clock: HandClock) -> Elapse:
        async def elapse(seconds: float) -> None:
            clock.seconds += seconds

        return elapse


@pytest.mark.integration
class TestRedisKeyValue(KeyValueContract):
    @pytest.fixture
    async def store(self, redis_manager: RedisManager) -> KeyValueStore:
        return redis_manager.key_value

    @pytest.fixture
    def elapse(self) -> Elapse:
        return asyncio.sleep


async def test_a_value_lives_just_as_long_as_it_was_told_to(clock: HandClock) -> None:
    store = MemoryKeyValue(clock=clock)
    await store.set("a", b"1", expire_seconds=1.5)

    clock.seconds += 1.25
    assert await store.seconds_left("a") == 0.25
    clock.seconds += 0.25
    assert await store.get("a") is None


async def test_the_least_recently_used_go_first() -> None:
    store = MemoryKeyValue(max_bytes=3 * 300)
    for key in "abc":
        await store.set(key, b"x" * 90)

    await store.get("a")
    await store.set("d", b"x" * 90)

    assert await store.get_many(["a", "b", "c", "d"]) == [b"x" * 90, None, b"x" * 90, b"x" * 90]
    assert store.evictions == 1


async def test_what_has_expired_goes_before_what_is_used(clock: HandClock) -> None:
    store = MemoryKeyValue(max_bytes=3 * 300, clock=clock)
    await store.set("old", b"x" * 90)
    await store.set("expired", b"x" * 90, expire_seconds=1)
    await store.set("expired too", b"x" * 80, expire_seconds=1)
    clock.seconds += 2

    await store.set("new", b"x" * 90)

    assert await store.get("old") == b"x" * 90
    assert store.evictions == 0


async def test_what_is_larger_than_the_store_is_not_stored_and_no_old_value_stays() -> None:
    store = MemoryKeyValue(max_bytes=1000)
    await store.set("a", b"old")

    assert await store.set("a", b"x" * 1000) is False

    assert await store.get("a") is None
    assert (await store.size()).bytes == 0


async def test_it_never_holds_more_than_allowed(clock: HandClock) -> None:
    store = MemoryKeyValue(max_bytes=10_000, clock=clock)

    for number in range(2000):
        await store.set(f"key {number % 70}", b"x" * (number % 500), expire_seconds=5)
        clock.seconds += 0.01
        assert (await store.size()).bytes <= 10_000
        assert len(store._expiries) <= 2 * len(store._entries) + 64

    clock.seconds += 10
    assert (await store.size()).keys == 0
    assert (await store.size()).bytes == 0


async def test_clearing_begins_a_new_generation() -> None:
    store = MemoryKeyValue()
    before = await store.generation()
    await store.set("a", b"1")

    await store.clear()

    assert await store.generation() > before
    assert await store.get("a") is None
    assert await store.set("a", b"1", generation=before) is False


def test_a_store_of_no_size_is_refused() -> None:
    with pytest.raises(ValueError, match="max_bytes must be above 0, got 0"):
        MemoryKeyValue(max_bytes=0)


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        ("a[", "a", False),
        ("a[]b", "ab", False),
        ("a[^]b", "axb", True),
        ("[z-a]", "m", True),
        ("[a-]", "-", False),
        (r"[\]]", "]", True),
        ("\\", "\\", True),
        ("a**b", "ab", True),
        ("*a*b*a", "xaxbxa", True),
        ("*a*b*a", "xaxbx", False),
        ("*" + "a*" * 30 + "b", "a" * 3000, False),
    ],
)
def test_a_glob_reads_as_in_redis(pattern: str, text: str, fits: bool) -> None:
    assert bool(glob_pattern(pattern).fullmatch(text)) is fits


@pytest.mark.integration
async def test_the_manager_of_redis_is_a_source(redis_manager: RedisManager) -> None:
    assert key_value_of(redis_manager) is redis_manager.key_value
    assert isinstance(redis_manager.key_value, KeyValueStore)
