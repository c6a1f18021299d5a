import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from kumiai.core.errors import IntegrityError, NotFoundError, StorageError, UnavailableError
from kumiai.storage.cache.entries import MISSING, FrameKind, frame_of, marker_bytes, packed
from kumiai.storage.cache.invalidation import CacheInvalidation
from kumiai.storage.cache.keyspace import Keyspace
from kumiai.storage.cache.keyvalue import KeyValueStore
from kumiai.storage.cache.memory import MemoryKeyValue
from kumiai.storage.cache.patterns import CachePattern, CacheSettings
from kumiai.storage.cache.redis import RedisManager
from kumiai.storage.cache.serialisation import JSONSerializer
from tests.storage.cache.stores import STORES, HandClock, lend_store

FAST = CacheSettings(lease_seconds=0.3, wait_seconds=5.0, poll_seconds_max=0.01)
NAME = "kumiai:v:"


class Loader:
    """Counts its calls; waits at a gate when it has one."""

    def __init__(self, value: Any = "new", gate: asyncio.Event | None = None) -> None:
        self.value = value
        self.gate = gate
        self.calls = 0
        self.called = asyncio.Event()

    async def __call__(self) -> Any:
        self.calls += 1
        value = self.value
        self.called.set()
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(value, Exception):
            raise value
        return value


class Away(MemoryKeyValue):
    """A store that fails at the calls that are named."""

    def __init__(self, *failing: str) -> None:
        super().__init__()
        self.failing = set(failing)

    def _fail(self, name: str) -> None:
        if name in self.failing:
            raise UnavailableError(f"store must answer {name}, got nothing")

    async def get(self, key: str) -> bytes | None:
        self._fail("get")
        return await super().get(key)

    async def get_many(self, keys: Any) -> list[bytes | None]:
        self._fail("get_many")
        return [await MemoryKeyValue.get(self, key) for key in keys]

    async def set(self, key: str, value: bytes, **options: Any) -> bool:
        self._fail("set")
        return await super().set(key, value, **options)

    async def delete(self, *keys: str) -> int:
        self._fail("delete")
        return await super().delete(*keys)

    async def compare_and_set(self, *args: Any, **options: Any) -> bool:
        self._fail("compare_and_set")
        return await super().compare_and_set(*args, **options)


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[KeyValueStore]:
    async for store in lend_store(request):
        yield store


@pytest.fixture
async def new_cache(store: KeyValueStore) -> AsyncIterator[Callable[..., CachePattern]]:
    made: list[CachePattern] = []

    def new(**options: Any) -> CachePattern:
        made.append(CachePattern(store, **{"settings": FAST, **options}))
        return made[-1]

    yield new
    for cache in made:
        await cache.close()


@pytest.fixture
def cache(new_cache: Callable[..., CachePattern]) -> CachePattern:
    return new_cache()


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    for _ in range(1000):
        found = condition()
        if found if isinstance(found, bool) else await found:
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come true")


# ---------------------------------------------------------------------------- set and get


@pytest.mark.parametrize("value", [None, 0, "text", [1, 2.5, None], {"a": {"b": [True]}}])
async def test_what_was_set_is_got(cache: CachePattern, value: Any) -> None:
    await cache.set_cache("key", value, expire=300)

    assert await cache.get_cache("key", default="none") == value


async def test_what_was_not_set_is_the_default(cache: CachePattern) -> None:
    assert await cache.get_cache("key") is None
    assert await cache.get_cache("key", default=5) == 5
    assert await cache.find_entry("key") is None


async def test_a_deleted_entry_is_gone(cache: CachePattern) -> None:
    await cache.set_cache("key", 1)

    assert await cache.delete_cache("key") is True
    assert await cache.delete_cache("key") is False
    assert await cache.get_cache("key") is None


async def test_an_entry_tells_what_is_known_about_it(
    new_cache: Callable[..., CachePattern],
) -> None:
    clock = HandClock()
    cache = new_cache(clock=clock)
    await cache.set_cache("key", {"a": 1}, expire=60, tags=["x", "y", "x"])

    entry = await cache.find_entry("key")

    assert entry is not None
    assert (entry.value, entry.tags, entry.load_seconds) == ({"a": 1}, ("x", "y"), 0.0)
    assert (entry.created, entry.expires) == (clock.seconds, clock.seconds + 60)
    assert entry.version > 0


async def test_an_entry_ends_with_its_time(new_cache: Callable[..., CachePattern]) -> None:
    clock = HandClock()
    cache = new_cache(clock=clock)
    await cache.set_cache("key", 1, expire=60)

    clock.seconds += 59.9
    assert await cache.get_cache("key") == 1
    clock.seconds += 0.1
    assert await cache.get_cache("key") is None


async def test_caches_with_another_namespace_are_strangers(
    new_cache: Callable[..., CachePattern],
) -> None:
    one, other = new_cache(namespace="one"), new_cache(namespace="other")
    await one.set_cache("key", 1, tags=["t"])

    await CacheInvalidation(other).invalidate_tags("t")

    assert await other.get_cache("key") is None
    assert await one.get_cache("key") == 1


async def test_a_known_absence_is_not_a_cached_none(cache: CachePattern) -> None:
    await cache.set_cache("nothing", MISSING)
    await cache.set_cache("none", None)

    assert await cache.get_cache("nothing", default=5) == 5
    assert await cache.get_cache("none", default=5) is None
    entry = await cache.find_entry("nothing")
    assert entry is not None
    assert entry.value is MISSING
    assert not MISSING
    assert repr(MISSING) == "MISSING"


@pytest.mark.parametrize(
    "call",
    [
        lambda cache: cache.set_cache("", 1),
        lambda cache: cache.set_cache("k" * 513, 1),
        lambda cache: cache.set_cache("key", 1, expire=0),
        lambda cache: cache.set_cache("key", 1, expire=float("nan")),
        lambda cache: cache.set_cache("key", 1, expire=1e9),
        lambda cache: cache.set_cache("key", float("nan")),
        lambda cache: cache.set_cache("key", {1: 2}),
        lambda cache: cache.set_cache("key", "x" * 101),
        lambda cache: cache.set_cache("key", 1, tags="text"),
        lambda cache: cache.set_cache("key", 1, tags=[""]),
        lambda cache: cache.set_cache("key", 1, tags=[str(i) for i in range(33)]),
        lambda cache: cache.get_or_load("key", Loader(), early_refresh=-1),
        lambda cache: cache.get_or_load("key", Loader(), early_refresh=float("inf")),
        lambda cache: cache.get_or_load("key", Loader(), negative_expire=-1),
    ],
)
async def test_what_makes_no_sense_is_refused(
    call: Callable[[CachePattern], Awaitable[object]],
) -> None:
    cache = CachePattern(MemoryKeyValue(), settings=CacheSettings(value_bytes_max=100))

    with pytest.raises(ValueError, match="must"):
        await call(cache)


@pytest.mark.parametrize(
    "options",
    [{"jitter": 1.0}, {"lease_seconds": 0}, {"expire_seconds": 1e9}, {"wait_seconds": -1}],
)
def test_settings_out_of_their_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        CacheSettings(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data",
    [b"", b"x" * 10, b"\xff" * 60, packed(FrameKind.VALUE, b"{no json", created=0, expires=1e12)],
    ids=["nothing", "too short", "no kind", "no JSON"],  # each packing draws a version of its own
)
async def test_bytes_of_somebody_else_are_a_miss_and_are_replaced(
    cache: CachePattern, store: KeyValueStore, data: bytes
) -> None:
    await store.set(NAME + "key", data)

    assert await cache.get_cache("key") is None
    assert await cache.get_or_load("key", Loader("good")) == "good"
    assert await cache.get_cache("key") == "good"
    assert cache.metrics.counts.damaged > 0


def test_tags_that_are_no_pairs_are_damage() -> None:
    data = bytearray(
        packed(FrameKind.VALUE, b"1", created=0, expires=1, tag_versions=(("a", "b"),))
    )
    start = data.index(b'[["a"')
    data[start : start + 9] = b"[1234567]"

    with pytest.raises(IntegrityError):
        frame_of(bytes(data))


def test_tags_of_64_kib_are_refused() -> None:
    with pytest.raises(ValueError, match="tags"):
        packed(FrameKind.VALUE, b"", created=0, expires=1, tag_versions=(("a" * 70000, "b"),))


# ------------------------------------------------------------------------------ cache-aside


async def test_a_value_is_loaded_once_and_then_found(cache: CachePattern) -> None:
    loader = Loader({"a": 1})

    values = [await cache.get_or_load("key", loader) for _ in range(3)]

    assert values == [{"a": 1}] * 3
    assert loader.calls == 1
    assert (cache.metrics.counts.hits, cache.metrics.counts.misses) == (2, 1)


async def test_200_tasks_of_two_caches_load_once(new_cache: Callable[..., CachePattern]) -> None:
    caches = [new_cache(), new_cache()]
    gate = asyncio.Event()
    loader = Loader("value", gate)
    tasks = [
        asyncio.create_task(caches[index % 2].get_or_load("key", loader, tags=["t"]))
        for index in range(200)
    ]
    await loader.called.wait()

    gate.set()
    values = await asyncio.gather(*tasks)

    assert values == ["value"] * 200
    assert loader.calls == 1
    assert sum(cache.metrics.counts.stampedes_avoided for cache in caches) >= 198


async def test_an_error_of_the_loader_reaches_all_who_wait_and_is_not_kept(
    cache: CachePattern,
) -> None:
    gate = asyncio.Event()
    loader = Loader(OSError("away"), gate)
    tasks = [asyncio.create_task(cache.get_or_load("key", loader))]
    await loader.called.wait()
    tasks += [asyncio.create_task(cache.get_or_load("key", loader)) for _ in range(4)]
    await asyncio.sleep(0)  # who comes while a load is under way waits for the one after it
    gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(result) for result in results] == [OSError] * 5
    assert (loader.calls, cache.metrics.counts.load_errors) == (2, 2)
    assert await cache.get_or_load("key", Loader("fine")) == "fine"


async def test_a_value_that_cannot_be_said_is_an_error_and_leaves_no_marker(
    cache: CachePattern, store: KeyValueStore
) -> None:
    with pytest.raises(ValueError, match="fit JSON"):
        await cache.get_or_load("key", Loader(object()))

    assert await store.get(NAME + "key") is None


async def test_a_value_that_is_too_large_is_returned_and_not_kept(store: KeyValueStore) -> None:
    cache = CachePattern(store, settings=CacheSettings(value_bytes_max=100))
    loader = Loader("x" * 200)

    assert await cache.get_or_load("key", loader) == await cache.get_or_load("key", loader)
    assert loader.calls == 2
    assert cache.metrics.counts.discarded == 2


async def test_a_loaded_value_lives_shorter_by_chance(store: KeyValueStore) -> None:
    clock = HandClock()
    cache = CachePattern(store, clock=clock, random=lambda: 0.5, settings=CacheSettings(jitter=0.2))

    await cache.get_or_load("key", Loader(), expire=100)

    entry = await cache.find_entry("key")
    assert entry is not None
    assert entry.expires - clock.seconds == pytest.approx(90)


async def test_an_absence_is_remembered_if_asked(cache: CachePattern) -> None:
    loader = Loader(MISSING)

    for _ in range(2):
        assert await cache.get_or_load("key", loader) is MISSING
    for _ in range(3):
        assert await cache.get_or_load("key", loader, negative_expire=60) is MISSING

    assert loader.calls == 3
    assert cache.metrics.counts.negative_hits == 2


async def test_an_absence_told_by_an_error_is_remembered_with_its_words(
    new_cache: Callable[..., CachePattern],
) -> None:
    cache, other = new_cache(), new_cache()
    gate = asyncio.Event()
    loader = Loader(NotFoundError("client must exist, got 'x'"), gate)
    waiting = [
        asyncio.create_task(each.get_or_load("key", loader, negative_expire=60))
        for each in (cache, cache, other)
    ]
    await loader.called.wait()

    gate.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)

    for result in results:
        assert isinstance(result, NotFoundError)
        assert str(result) == "client must exist, got 'x'"
    with pytest.raises(NotFoundError, match="got 'x'"):
        await cache.get_or_load("key", loader, negative_expire=60)
    assert loader.calls == 1


async def test_an_entry_without_a_tag_that_is_asked_for_is_not_used(cache: CachePattern) -> None:
    await cache.set_cache("key", "untagged")

    assert await cache.get_or_load("key", Loader("tagged"), tags=["t"]) == "tagged"
    assert await cache.get_or_load("key", Loader("again"), tags=["t"]) == "tagged"


# -------------------------------------------------------------------- loads and invalidations


@pytest.mark.parametrize(
    "invalidate",
    [
        lambda cache: cache.delete_cache("key"),
        lambda cache: CacheInvalidation(cache).invalidate_tags("t"),
        lambda cache: CacheInvalidation(cache).invalidate_pattern("k*"),
        lambda cache: CacheInvalidation(cache).expire_at("key", 1e12),
    ],
    ids=["key", "tag", "pattern", "time"],
)
async def test_a_load_that_began_before_an_invalidation_puts_nothing_back(
    new_cache: Callable[..., CachePattern],
    invalidate: Callable[[CachePattern], Awaitable[object]],
) -> None:
    cache, other = new_cache(), new_cache()
    gate = asyncio.Event()
    loader = Loader("old", gate)
    load = asyncio.create_task(cache.get_or_load("key", loader, tags=["t"]))
    await loader.called.wait()

    await invalidate(other)
    gate.set()

    assert await load == "old"
    assert await cache.get_cache("key") is None
    assert await other.get_or_load("key", Loader("new"), tags=["t"]) == "new"


async def test_who_asks_after_an_invalidation_is_not_given_an_earlier_load(
    cache: CachePattern,
) -> None:
    gate = asyncio.Event()
    loader = Loader("old", gate)
    first = asyncio.create_task(cache.get_or_load("key", loader))
    await loader.called.wait()
    await cache.delete_cache("key")
    loader.value = "new"

    second = asyncio.create_task(cache.get_or_load("key", loader))
    await asyncio.sleep(0)
    gate.set()

    assert await first == "old"
    assert await second == "new"
    assert await cache.get_cache("key") == "new"


async def test_a_forgotten_version_of_a_tag_brings_nothing_back(
    cache: CachePattern, store: KeyValueStore
) -> None:
    invalidation = CacheInvalidation(cache)
    await cache.set_cache("key", "old", tags=["t"])

    await store.delete("kumiai:t:t")
    assert await cache.get_cache("key") is None
    for _ in range(3):
        await invalidation.invalidate_tags("t")
        await store.delete("kumiai:t:t")
        assert await cache.get_cache("key") is None
        await invalidation.invalidate_tags("t")
        assert await cache.get_cache("key") is None


async def test_a_version_that_begins_anew_is_one_that_no_entry_carries(
    cache: CachePattern, store: KeyValueStore
) -> None:
    invalidation = CacheInvalidation(cache)
    await invalidation.invalidate_tags("t")
    await cache.set_cache("key", "old", tags=["t"])

    await store.delete("kumiai:t:t")
    await invalidation.invalidate_tags("t")

    assert await cache.get_cache("key") is None


async def test_a_marker_that_was_forgotten_keeps_the_value_out(
    cache: CachePattern, store: KeyValueStore
) -> None:
    gate = asyncio.Event()
    loader = Loader("value", gate)
    load = asyncio.create_task(cache.get_or_load("key", loader))
    await loader.called.wait()
    await store.delete(NAME + "key")

    gate.set()
    await load

    assert await cache.get_cache("key") is None
    assert cache.metrics.counts.discarded == 1


# ----------------------------------------------------------------------- leases and deadlines


async def test_the_marker_of_a_dead_process_goes_by_its_lease(
    cache: CachePattern, store: KeyValueStore
) -> None:
    await store.set(NAME + "key", marker_bytes(0.0), expire_seconds=FAST.lease_seconds)

    assert await cache.get_or_load("key", Loader("value")) == "value"
    assert await cache.get_cache("key") == "value"


async def test_a_marker_lives_as_long_as_its_load(
    new_cache: Callable[..., CachePattern], store: KeyValueStore
) -> None:
    cache, other = new_cache(), new_cache()
    gate = asyncio.Event()
    loader = Loader("value", gate)
    load = asyncio.create_task(cache.get_or_load("key", loader))
    await loader.called.wait()
    second = asyncio.create_task(other.get_or_load("key", Loader("other")))

    await asyncio.sleep(3 * FAST.lease_seconds)
    gate.set()

    assert await load == "value"
    assert await second == "value"


async def test_who_has_waited_long_enough_loads_for_himself_and_stores_nothing(
    new_cache: Callable[..., CachePattern], store: KeyValueStore
) -> None:
    cache = new_cache(settings=CacheSettings(lease_seconds=60, wait_seconds=0.05))
    marker = marker_bytes(0.0)
    await store.set(NAME + "key", marker, expire_seconds=60)

    assert await cache.get_or_load("key", Loader("mine")) == "mine"
    assert await store.get(NAME + "key") == marker
    assert cache.metrics.counts.waits_given_up == 1


async def test_who_waits_for_a_load_of_his_own_process_does_not_wait_for_ever(
    new_cache: Callable[..., CachePattern],
) -> None:
    cache = new_cache(settings=CacheSettings(lease_seconds=60, wait_seconds=0.05))
    stuck = Loader("never", asyncio.Event())
    first = asyncio.create_task(cache.get_or_load("key", stuck))
    await stuck.called.wait()

    assert await cache.get_or_load("key", Loader("mine")) == "mine"
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first


async def test_a_load_that_nobody_waits_for_is_cancelled_and_its_marker_taken_away(
    cache: CachePattern, store: KeyValueStore
) -> None:
    stuck = Loader("never", asyncio.Event())
    task = asyncio.create_task(cache.get_or_load("key", stuck))
    await stuck.called.wait()

    task.cancel()
    await asyncio.wait({task})

    assert task.cancelled()

    async def is_gone() -> bool:
        return await store.get(NAME + "key") is None

    await until(is_gone)
    assert await cache.get_or_load("key", Loader("value")) == "value"


async def test_one_who_gives_up_does_not_end_the_load_of_the_others(cache: CachePattern) -> None:
    gate = asyncio.Event()
    loader = Loader("value", gate)
    tasks = [asyncio.create_task(cache.get_or_load("key", loader)) for _ in range(3)]
    await loader.called.wait()
    await asyncio.sleep(0.01)

    tasks[0].cancel()
    await asyncio.wait({tasks[0]})
    gate.set()

    assert await asyncio.gather(*tasks[1:]) == ["value", "value"]


async def test_closing_ends_what_runs(new_cache: Callable[..., CachePattern]) -> None:
    cache = new_cache()
    stuck = Loader("never", asyncio.Event())
    first = asyncio.create_task(cache.get_or_load("key", stuck))
    await stuck.called.wait()
    second = asyncio.create_task(cache.get_or_load("key", stuck))
    await asyncio.sleep(0)

    await cache.close()
    await asyncio.wait({first, second})

    assert first.cancelled()
    assert second.cancelled()
    with pytest.raises(StorageError, match="close"):
        await cache.get_or_load("key", stuck)


# ---------------------------------------------------------------------------- early refresh


def refreshing(store: KeyValueStore, clock: HandClock) -> CachePattern:
    # The draw of jitter and of the refresh: exp(-1) of them are above it.
    return CachePattern(
        store, clock=clock, random=lambda: 0.6321205588285577, settings=CacheSettings(jitter=0)
    )


async def taking(clock: HandClock, seconds: float, value: str) -> str:
    clock.seconds += seconds
    return value


async def test_a_value_is_loaded_anew_before_its_time_is_up(store: KeyValueStore) -> None:
    clock = HandClock()
    cache = refreshing(store, clock)
    values = itertools.count()

    async def load() -> str:
        return await taking(clock, 4.0, f"value {next(values)}")

    async def look() -> str:
        found: str = await cache.get_or_load("key", load, expire=100, early_refresh=1.0)
        return found

    assert await look() == "value 0"
    clock.seconds += 95.9  # a load takes 4 s, and the draw is 1 of them
    assert await look() == "value 0"
    await asyncio.sleep(0.01)
    assert cache.metrics.counts.stale_refreshes == 0
    clock.seconds += 0.2
    assert await look() == "value 0"
    await until(lambda: cache.metrics.counts.stale_refreshes == 1)
    assert await look() == "value 1"
    await cache.close()


async def test_one_refresh_runs_over_all_processes_and_an_invalidation_ends_it(
    store: KeyValueStore,
) -> None:
    clock = HandClock()
    caches = [refreshing(store, clock), refreshing(store, clock)]
    await caches[0].get_or_load("key", lambda: taking(clock, 50.0, "old"), expire=40)
    gate = asyncio.Event()
    loader = Loader("older", gate)

    for cache in (*caches, caches[0]):
        assert await cache.get_or_load("key", loader, expire=40, early_refresh=1.0) == "old"
    await loader.called.wait()
    await asyncio.sleep(0.02)
    await caches[1].delete_cache("key")
    gate.set()
    await until(lambda: sum(cache.metrics.counts.stale_refreshes for cache in caches) == 1)

    assert loader.calls == 1
    assert await caches[0].get_cache("key") is None
    assert sum(cache.metrics.counts.discarded for cache in caches) == 1


async def test_a_refresh_that_fails_is_no_error_for_anybody(store: KeyValueStore) -> None:
    clock = HandClock()
    cache = refreshing(store, clock)
    await cache.get_or_load("key", lambda: taking(clock, 50.0, "old"), expire=40)
    broken = Loader(OSError("away"))

    assert await cache.get_or_load("key", broken, early_refresh=1.0) == "old"
    await until(lambda: cache.metrics.counts.load_errors == 1)
    await asyncio.sleep(0.01)

    assert await cache.get_cache("key") == "old"
    assert await store.get("kumiai:r:key") is None


async def test_closing_ends_a_refresh(store: KeyValueStore) -> None:
    clock = HandClock()
    cache = refreshing(store, clock)
    await cache.get_or_load("key", lambda: taking(clock, 50.0, "old"), expire=40)
    stuck = Loader("never", asyncio.Event())
    await cache.get_or_load("key", stuck, early_refresh=1.0)
    await stuck.called.wait()

    await cache.close()

    assert await store.get("kumiai:r:key") is None


# ---------------------------------------------------------------------------- write-through


async def test_what_is_written_is_in_both_places(cache: CachePattern) -> None:
    written: list[Any] = []

    async def write(value: Any) -> None:
        written.append(value)

    await cache.write_through("key", {"a": 1}, write, expire=60, tags=["t"])

    assert written == [{"a": 1}]
    assert await cache.get_cache("key") == {"a": 1}


async def test_while_something_is_written_the_earlier_value_is_not_found(
    new_cache: Callable[..., CachePattern],
) -> None:
    cache, other = new_cache(), new_cache()
    await cache.set_cache("key", "old")
    writing, gate = asyncio.Event(), asyncio.Event()

    async def write(_value: Any) -> None:
        writing.set()
        await gate.wait()

    task = asyncio.create_task(cache.write_through("key", "new", write))
    await writing.wait()
    assert await other.get_cache("key") is None
    reader = asyncio.create_task(other.get_or_load("key", Loader("wrong")))
    await asyncio.sleep(2 * FAST.lease_seconds)
    gate.set()
    await task

    assert await reader == "new"


async def test_two_who_write_at_once_leave_nothing_that_could_be_wrong(
    new_cache: Callable[..., CachePattern],
) -> None:
    cache, other = new_cache(), new_cache()
    truth = ""
    gate = asyncio.Event()

    async def write_slowly(value: str) -> None:
        nonlocal truth
        truth = value
        await gate.wait()

    async def write(value: str) -> None:
        nonlocal truth
        truth = value

    first = asyncio.create_task(cache.write_through("key", "first", write_slowly))
    await until(lambda: truth == "first")
    await other.write_through("key", "second", write)
    gate.set()
    await first

    assert await cache.get_cache("key") in {None, truth}


async def test_a_write_that_fails_leaves_nothing_in_the_cache(cache: CachePattern) -> None:
    await cache.set_cache("key", "old")

    async def write(_value: Any) -> None:
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        await cache.write_through("key", "new", write)

    assert await cache.get_cache("key") is None


# --------------------------------------------------------------------- a store that fails


async def test_a_store_that_fails_costs_a_load_and_no_error() -> None:
    store = Away("get", "get_many", "set", "compare_and_set", "delete")
    cache = CachePattern(store, settings=FAST)
    gate = asyncio.Event()
    loader = Loader("value", gate)
    tasks = [asyncio.create_task(cache.get_or_load("key", loader)) for _ in range(100)]
    await loader.called.wait()
    await asyncio.sleep(0.01)
    gate.set()

    assert await asyncio.gather(*tasks) == ["value"] * 100
    assert loader.calls <= 2
    assert await cache.get_cache("key", default=1) == 1
    assert cache.metrics.counts.errors > 0
    with pytest.raises(StorageError):
        await cache.set_cache("key", 1)
    with pytest.raises(StorageError):
        await cache.find_entry("key")


@pytest.mark.parametrize("call", ["set", "compare_and_set"])
async def test_a_store_that_fails_in_the_middle_of_a_load_costs_no_error(call: str) -> None:
    store = Away(call)
    cache = CachePattern(store, settings=FAST)

    assert await cache.get_or_load("key", Loader("value"), tags=["t"]) == "value"
    store.failing.clear()
    assert await cache.get_cache("key") is None


async def test_a_store_that_loses_its_tags_in_the_middle_of_a_load_costs_no_error() -> None:
    class Forgetful(Away):
        async def set(self, key: str, value: bytes, **options: Any) -> bool:
            if ":t:" in key:
                raise UnavailableError("store must answer, got nothing")
            return await super().set(key, value, **options)

    cache = CachePattern(Forgetful(), settings=FAST)

    assert await cache.get_or_load("key", Loader("value"), tags=["t"]) == "value"
    assert await cache.get_or_load("other", Loader("value")) == "value"


async def test_a_store_that_takes_nothing_costs_a_load_and_no_long_wait() -> None:
    cache = CachePattern(MemoryKeyValue(max_bytes=1))
    loader = Loader("value")

    async with asyncio.timeout(10):
        assert await cache.get_or_load("key", loader) == "value"


async def test_nothing_is_written_when_the_cache_cannot_be_told_before() -> None:
    cache = CachePattern(Away("set"), settings=FAST)
    written: list[Any] = []

    async def write(value: Any) -> None:
        written.append(value)

    with pytest.raises(StorageError):
        await cache.write_through("key", "new", write)

    assert written == []


async def test_a_cache_that_is_lost_after_the_write_holds_no_earlier_value() -> None:
    store = Away()
    cache = CachePattern(store, settings=FAST)
    await cache.set_cache("key", "old")

    async def write(_value: Any) -> None:
        store.failing.add("compare_and_set")

    with pytest.raises(StorageError):
        await cache.write_through("key", "new", write)

    store.failing.clear()
    assert await cache.get_cache("key") is None


# ----------------------------------------------------------------------------------- parts


@pytest.mark.integration
async def test_a_cache_takes_a_redis_manager(redis_manager: RedisManager) -> None:
    cache = CachePattern(redis_manager)

    await cache.set_cache("key", {"a": 1}, expire=300)

    assert await cache.get_cache("key") == {"a": 1}
    await cache.measure_size()
    assert cache.metrics.dashboard_data()["size"]["keys"] == 1


def test_a_pattern_touches_the_entries_of_its_cache_alone() -> None:
    assert Keyspace("a*[b]").pattern("user:*") == r"a\*\[b\]:v:user:*"
    with pytest.raises(ValueError, match="namespace"):
        Keyspace("")


def test_what_is_no_json_is_told_so() -> None:
    serializer = JSONSerializer()

    assert serializer.loads(serializer.dumps({"a": [None, 1.5, (1, 2)]})) == {
        "a": [None, 1.5, [1, 2]]
    }
    with pytest.raises(IntegrityError):
        serializer.loads(b"{")
    with pytest.raises(ValueError, match="finite"):
        serializer.dumps({"a": [None, {"b": float("inf")}]})
