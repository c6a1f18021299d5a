import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import CodecError, ConfigError, ConflictError, StorageError
from kumiai.storage import DatabaseManager
from kumiai.storage.cache.draining import DrainSettings, OutboxDrain
from kumiai.storage.cache.entries import MISSING, marker_bytes
from kumiai.storage.cache.invalidation import INVALIDATION_TOPIC, CacheInvalidation, Target
from kumiai.storage.cache.keyvalue import KeyValueStore
from kumiai.storage.cache.memory import MemoryKeyValue
from kumiai.storage.cache.outbox import CacheOutbox
from kumiai.storage.cache.patterns import CachePattern
from tests.storage.cache.stores import STORES, HandClock, lend_store

QUICK = DrainSettings(retry_seconds=0.001, poll_seconds=0.01, attempts_max=2)


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[KeyValueStore]:
    async for store in lend_store(request):
        yield store


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def cache(store: KeyValueStore, clock: HandClock) -> CachePattern:
    return CachePattern(store, clock=clock)


@pytest.fixture
def invalidation(cache: CachePattern, clock: HandClock) -> CacheInvalidation:
    return CacheInvalidation(cache, clock=clock)


async def found(cache: CachePattern, *keys: str) -> list[str]:
    return [key for key in keys if await cache.get_cache(key) is not None]


async def test_a_key_takes_its_entry_alone(
    cache: CachePattern, invalidation: CacheInvalidation
) -> None:
    for key in ("a", "b", "c"):
        await cache.set_cache(key, 1)

    assert await invalidation.invalidate_keys("a", "c", "x") == 3

    assert await found(cache, "a", "b", "c") == ["b"]
    assert cache.metrics.counts.invalidations == 3


async def test_a_tag_takes_all_that_carry_it(
    cache: CachePattern, invalidation: CacheInvalidation
) -> None:
    await cache.set_cache("a", 1, tags=["x", "y"])
    await cache.set_cache("b", 1, tags=["y"])
    await cache.set_cache("c", 1)

    await invalidation.invalidate_tags("x")

    assert await found(cache, "a", "b", "c") == ["b", "c"]
    await cache.set_cache("a", 2, tags=["x", "y"])
    assert await cache.get_cache("a") == 2


async def test_a_tag_costs_one_step_however_many_entries_carry_it() -> None:
    steps: list[str] = []

    class Counting(MemoryKeyValue):
        async def increment(self, key: str, by: int = 1, **options: Any) -> int:
            steps.append(key)
            return await super().increment(key, by, **options)

        async def delete(self, *keys: str) -> int:
            steps.extend(keys)
            return await super().delete(*keys)

    cache = CachePattern(Counting())
    for index in range(100):
        await cache.set_cache(f"k{index}", 1, tags=["t"])

    await CacheInvalidation(cache).invalidate_tags("t")

    assert steps == ["kumiai:t:t"]


async def test_a_pattern_takes_what_fits(
    cache: CachePattern, invalidation: CacheInvalidation
) -> None:
    for index in range(1203):
        await cache.set_cache(f"user:{index}", 1)
    await cache.set_cache("users", 1)
    await cache.set_cache("run:user:1", 1)

    await invalidation.invalidate_pattern("user:*")

    assert await found(cache, "user:0", "user:1202", "users", "run:user:1") == [
        "users",
        "run:user:1",
    ]
    await invalidation.invalidate_pattern("user[^x]")
    assert await found(cache, "users", "run:user:1") == ["run:user:1"]


async def test_time_ends_an_entry_earlier_and_never_later(
    cache: CachePattern, invalidation: CacheInvalidation, clock: HandClock
) -> None:
    await cache.set_cache("a", {"v": 1}, expire=100, tags=["t"])
    before = await cache.find_entry("a")

    assert await invalidation.expire_at("a", clock.seconds + 50)
    assert await invalidation.expire_at("a", clock.seconds + 500)
    assert not await invalidation.expire_at("b", clock.seconds + 50)

    entry = await cache.find_entry("a")
    assert entry is not None
    assert before is not None
    assert (entry.value, entry.tags, entry.expires) == ({"v": 1}, ("t",), clock.seconds + 50)
    assert entry.version != before.version
    clock.seconds += 50
    assert await cache.get_cache("a") is None


async def test_time_that_is_past_ends_an_entry_now(
    cache: CachePattern, invalidation: CacheInvalidation, clock: HandClock, store: KeyValueStore
) -> None:
    await cache.set_cache("a", MISSING, expire=100)

    assert await invalidation.expire_at("a", clock.seconds)
    assert await store.get("kumiai:v:a") is None
    with pytest.raises(ValueError, match="finite"):
        await invalidation.expire_at("a", float("nan"))


async def test_time_leaves_bytes_of_somebody_else_alone(
    invalidation: CacheInvalidation, store: KeyValueStore, clock: HandClock
) -> None:
    await store.set("kumiai:v:a", b"?")

    assert not await invalidation.expire_at("a", clock.seconds + 5)
    await store.set("kumiai:v:a", marker_bytes(0))
    assert await invalidation.expire_at("a", clock.seconds + 5)


async def test_an_entry_that_changes_again_and_again_cannot_be_given_a_time() -> None:
    class Restless(MemoryKeyValue):
        async def compare_and_set(self, *args: Any, **options: Any) -> bool:
            return False

    clock = HandClock()
    cache = CachePattern(Restless(), clock=clock)
    await cache.set_cache("a", 1)

    with pytest.raises(ConflictError):
        await CacheInvalidation(cache, clock=clock).expire_at("a", clock.seconds + 5)


# ---------------------------------------------------------------------------------- cascade


async def test_what_depends_on_something_goes_with_it(
    cache: CachePattern, invalidation: CacheInvalidation
) -> None:
    run, runs, page = Target("tag", "run"), Target("tag", "runs"), Target("key", "page")
    invalidation.declare(runs, on=run)
    invalidation.declare(page, on=runs)
    invalidation.declare(Target("pattern", "list:*"), on=page)
    invalidation.declare(run, on=page)  # a circle
    await cache.set_cache("one", 1, tags=["run"])
    await cache.set_cache("all", 1, tags=["runs"])
    await cache.set_cache("page", 1)
    await cache.set_cache("list:1", 1)
    await cache.set_cache("other", 1)

    assert await invalidation.invalidate_tags("run") == 4

    assert await found(cache, "one", "all", "page", "list:1", "other") == ["other"]


def test_a_pattern_has_no_dependents() -> None:
    invalidation = CacheInvalidation(CachePattern(MemoryKeyValue()))

    with pytest.raises(ValueError, match="pattern"):
        invalidation.declare(Target("key", "a"), on=Target("pattern", "b*"))


def test_a_cascade_has_an_end() -> None:
    invalidation = CacheInvalidation(CachePattern(MemoryKeyValue()))
    for index in range(10_001):
        invalidation.declare(Target("key", str(index)), on=Target("tag", "t"))

    with pytest.raises(ConfigError, match="10000"):
        invalidation.cascade([Target("tag", "t")])


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=20), st.integers(0, 8))
def test_a_cascade_is_all_that_can_be_reached(edges: list[tuple[int, int]], start: int) -> None:
    invalidation = CacheInvalidation(CachePattern(MemoryKeyValue()))
    for dependent, on in edges:
        invalidation.declare(Target("tag", str(dependent)), on=Target("tag", str(on)))
    reached = {start}
    for _ in range(9):
        reached |= {dependent for dependent, on in edges if on in reached}

    cascade = invalidation.cascade([Target("tag", str(start))])

    assert {int(each.name) for each in cascade} == reached
    assert len(cascade) == len(reached)


@pytest.mark.parametrize(
    "call",
    [
        lambda each: each.invalidate_keys(""),
        lambda each: each.invalidate_tags("a", ""),
        lambda each: each.invalidate_pattern(""),
        lambda each: each.invalidate_tags("t" * 513),
    ],
)
async def test_names_out_of_their_range_are_refused_before_anything_is_done(
    call: Callable[[CacheInvalidation], Awaitable[int]],
) -> None:
    cache = CachePattern(MemoryKeyValue())
    await cache.set_cache("key", 1, tags=["a"])

    with pytest.raises(ValueError, match="must"):
        await call(CacheInvalidation(cache))
    assert await cache.get_cache("key") == 1


# ----------------------------------------------------------------------------- after a commit


async def new_parts(
    database: DatabaseManager,
) -> tuple[CachePattern, CacheInvalidation, OutboxDrain, CacheOutbox]:
    cache, outbox = CachePattern(MemoryKeyValue()), CacheOutbox(database)
    invalidation = CacheInvalidation(cache, outbox=outbox)
    drain = OutboxDrain(outbox, INVALIDATION_TOPIC, invalidation.apply_rows, settings=QUICK)
    return cache, invalidation, drain, outbox


async def test_an_invalidation_after_the_commit_comes_after_the_commit(
    database: DatabaseManager,
) -> None:
    cache, invalidation, drain, _ = await new_parts(database)
    await drain.start()
    await cache.set_cache("a", "old")
    await cache.set_cache("b", "old", tags=["t"])

    async with database.transaction() as connection:
        token = await invalidation.after_commit(connection, Target("key", "a"), Target("tag", "t"))
        await asyncio.sleep(0.05)
        assert await cache.get_cache("a") == "old"
    await invalidation.applied(token)

    assert await found(cache, "a", "b") == []
    await drain.close()


async def test_an_invalidation_of_a_transaction_that_fails_never_comes(
    database: DatabaseManager,
) -> None:
    cache, invalidation, drain, _ = await new_parts(database)
    await cache.set_cache("a", "right")

    async def work() -> None:
        async with database.transaction() as connection:
            await invalidation.after_commit(connection, Target("key", "a"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await work()
    await drain.drain_once()

    assert await cache.get_cache("a") == "right"


async def test_an_invalidation_survives_the_death_of_its_process(
    database: DatabaseManager,
) -> None:
    cache, invalidation, _, outbox = await new_parts(database)
    await cache.set_cache("a", "old")
    async with database.transaction() as connection:
        await invalidation.after_commit(connection, Target("key", "a"))

    other = CacheInvalidation(cache, outbox=outbox)
    await OutboxDrain(outbox, INVALIDATION_TOPIC, other.apply_rows).drain_once()

    assert await cache.get_cache("a") is None


async def test_targets_that_make_no_sense_never_enter_the_outbox(
    database: DatabaseManager,
) -> None:
    _, invalidation, _, outbox = await new_parts(database)

    async with database.transaction() as connection:
        for targets in ((), (Target("key", ""),), (Target("other", "a"),)):  # type: ignore[arg-type]
            with pytest.raises(ValueError, match="must"):
                await invalidation.after_commit(connection, *targets)

    assert (await outbox.state(INVALIDATION_TOPIC)).depth == 0


@pytest.mark.parametrize("value", [b"{", b"1", b'[["key"]]', b'[["other","a"]]', b'[["key",""]]'])
async def test_a_row_of_somebody_else_is_parked(database: DatabaseManager, value: bytes) -> None:
    _, invalidation, drain, outbox = await new_parts(database)
    async with database.transaction() as connection:
        token = await outbox.add(connection, INVALIDATION_TOPIC, [("", value)])

    await drain.drain_once()
    await asyncio.sleep(0.005)
    await drain.drain_once()

    with pytest.raises(StorageError, match="CodecError"):
        await invalidation.applied(token)
    with pytest.raises(CodecError):
        await invalidation.apply_rows(await outbox.parked(INVALIDATION_TOPIC))
