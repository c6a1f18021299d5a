"""What every key-value store promises, as tests: subclass `KeyValueContract`, lend a store.

class TestMemoryKeyValue(KeyValueContract):
    @pytest.fixture
    async def store(self): ...

    @pytest.fixture
    def elapse(self): ...
"""

# ruff: noqa: D102, S101 - the name of a test is its sentence, and a test asserts

import asyncio
import math
from collections.abc import Awaitable, Callable

import pytest

from kumiai.core.errors import StorageError
from kumiai.storage.cache.keyvalue import KeyValueStore, key_value_of

__all__ = ["Elapse", "KeyValueContract"]

Elapse = Callable[[float], Awaitable[None]]
"""Lets so many seconds of the store's clock go by."""


class KeyValueContract:
    """The tests; a subclass has fixtures ``store`` (empty) and ``elapse``."""

    async def test_what_is_set_can_be_read(self, store: KeyValueStore) -> None:
        assert await store.set("a", b"1") is True
        assert await store.set("empty", b"") is True
        assert await store.set("bytes", bytes(range(256)) * 300) is True

        assert await store.get("a") == b"1"
        assert await store.get("empty") == b""
        assert await store.get("bytes") == bytes(range(256)) * 300
        assert await store.get("b") is None

    async def test_a_key_is_any_text(self, store: KeyValueStore) -> None:
        keys = ["", " ", "ключ:🔑", "a\nb", "x" * 1000, "{a}*?[b]\\"]

        await store.set_many({key: key.encode() for key in keys})

        assert await store.get_many(keys) == [key.encode() for key in keys]

    async def test_many_are_read_in_the_order_of_their_keys(self, store: KeyValueStore) -> None:
        await store.set_many({str(number): b"%d" % number for number in range(1200)})

        found = await store.get_many(["7", "none", "1199", "7"])

        assert found == [b"7", None, b"1199", b"7"]
        assert None not in await store.get_many([str(number) for number in range(1200)])
        assert await store.get_many([]) == []
        await store.set_many({})

    async def test_only_the_first_sets_what_is_absent(self, store: KeyValueStore) -> None:
        outcomes = await asyncio.gather(
            *(store.set("a", b"%d" % number, only_if_absent=True) for number in range(20))
        )

        assert outcomes.count(True) == 1
        assert await store.get("a") == b"%d" % outcomes.index(True)

    async def test_deleting_tells_how_many_were_there(self, store: KeyValueStore) -> None:
        await store.set_many({"a": b"1", "b": b"2"})

        assert await store.delete("a", "b", "c") == 2
        assert await store.delete("a") == 0
        assert await store.delete() == 0
        assert await store.get_many(["a", "b"]) == [None, None]

    async def test_a_counter_begins_at_zero_and_misses_no_call(self, store: KeyValueStore) -> None:
        counts = await asyncio.gather(*(store.increment("n") for _ in range(50)))

        assert sorted(counts) == list(range(1, 51))
        assert await store.increment("n", -60) == -10
        assert await store.get("n") == b"-10"

    async def test_what_is_no_number_cannot_be_counted(self, store: KeyValueStore) -> None:
        await store.set("a", b"1_0")
        await store.set("big", b"%d" % (2**63 - 1))

        with pytest.raises(StorageError):
            await store.increment("a")
        with pytest.raises(StorageError):
            await store.increment("big")
        assert await store.get("big") == b"%d" % (2**63 - 1)

    async def test_only_the_same_value_is_deleted(self, store: KeyValueStore) -> None:
        await store.set("a", b"mine")

        assert await store.compare_and_delete("a", b"other") is False
        assert await store.get("a") == b"mine"
        assert await store.compare_and_delete("a", b"mine") is True
        assert await store.compare_and_delete("a", b"mine") is False

    async def test_only_the_same_value_is_replaced(self, store: KeyValueStore) -> None:
        await store.set("a", b"old")

        assert await store.compare_and_set("a", b"other", b"new") is False
        assert await store.compare_and_set("none", b"", b"new") is False
        assert await store.compare_and_set("a", b"old", b"new", expire_seconds=60) is True
        assert await store.get_many(["a", "none"]) == [b"new", None]
        assert 0 < (await store.seconds_left("a") or 0) <= 60
        assert await store.compare_and_set("a", b"new", b"newer") is True
        assert await store.seconds_left("a") == math.inf

    async def test_a_value_expires(self, store: KeyValueStore, elapse: Elapse) -> None:
        await store.set("short", b"1", expire_seconds=0.05)
        await store.set_many({"short too": b"1"}, expire_seconds=0.05)
        await store.set("long", b"1", expire_seconds=60)
        await store.set("for ever", b"1")

        await elapse(0.06)

        assert await store.get_many(["short", "short too"]) == [None, None]
        assert await store.seconds_left("short") is None
        assert await store.delete("short") == 0
        assert 50 < (await store.seconds_left("long") or 0) <= 60
        assert await store.seconds_left("for ever") == math.inf
        assert await store.set("short", b"2", only_if_absent=True) is True

    async def test_a_new_value_has_no_old_expiry(
        self, store: KeyValueStore, elapse: Elapse
    ) -> None:
        await store.set("a", b"1", expire_seconds=0.05)
        await store.set("a", b"2")

        await elapse(0.06)

        assert await store.get("a") == b"2"

    async def test_a_counter_keeps_its_expiry_or_begins_it_anew(
        self, store: KeyValueStore, elapse: Elapse
    ) -> None:
        await store.increment("kept", expire_seconds=0.05)
        await store.increment("kept")
        await store.increment("renewed", expire_seconds=0.05)
        await store.increment("renewed", expire_seconds=60)

        await elapse(0.06)

        assert await store.get_many(["kept", "renewed"]) == [None, b"2"]
        assert await store.increment("kept") == 1

    @pytest.mark.parametrize("seconds", [0, -1, math.inf, math.nan])
    async def test_a_time_to_live_is_above_zero(self, store: KeyValueStore, seconds: float) -> None:
        with pytest.raises(ValueError, match="expire_seconds must be"):
            await store.set("a", b"1", expire_seconds=seconds)
        with pytest.raises(ValueError, match="expire_seconds must be"):
            await store.set_many({"a": b"1"}, expire_seconds=seconds)
        with pytest.raises(ValueError, match="expire_seconds must be"):
            await store.increment("a", expire_seconds=seconds)
        with pytest.raises(ValueError, match="expire_seconds must be"):
            await store.compare_and_set("a", b"1", b"2", expire_seconds=seconds)
        assert await store.get("a") is None

    async def test_a_value_of_an_earlier_generation_is_not_stored(
        self, store: KeyValueStore
    ) -> None:
        generation = await store.generation()

        assert await store.set("a", b"1", generation=generation) is True
        assert await store.set("a", b"2", generation=generation - 1) is False
        assert await store.get("a") == b"1"

    @pytest.mark.parametrize(
        ("pattern", "fitting"),
        [
            ("*", {"user:1", "user:2", "user:10", "run[1]", "run*", "other\nline"}),
            ("user:?", {"user:1", "user:2"}),
            ("user:[12]", {"user:1", "user:2"}),
            ("user:[^1]", {"user:2"}),
            ("user:[0-1]*", {"user:1", "user:10"}),
            ("*1*", {"user:1", "user:10", "run[1]"}),
            (r"run\[1\]", {"run[1]"}),
            (r"run\*", {"run*"}),
            ("other*e", {"other\nline"}),
            ("User:*", set()),
            ("user:1", {"user:1"}),
        ],
    )
    async def test_a_pattern_finds_what_fits(
        self, store: KeyValueStore, pattern: str, fitting: set[str]
    ) -> None:
        keys = ["user:1", "user:2", "user:10", "run[1]", "run*", "other\nline"]
        await store.set_many(dict.fromkeys(keys, b""))

        assert {key async for key in store.scan(pattern)} == fitting

    async def test_a_scan_gives_what_stays_while_others_come_and_go(
        self, store: KeyValueStore
    ) -> None:
        await store.set_many({f"stays:{number}": b"" for number in range(2000)})
        seen = set()

        async for key in store.scan("stays:*"):
            seen.add(key)
            await store.set(f"comes:{len(seen)}", b"")

        assert seen == {f"stays:{number}" for number in range(2000)}

    async def test_it_tells_its_size_and_that_it_answers(self, store: KeyValueStore) -> None:
        await store.set_many({"a": b"1" * 100, "b": b"2" * 100})

        size = await store.size()

        assert size.keys >= 2
        assert size.bytes >= 200
        assert 0 <= await store.check() < 10

    async def test_it_is_its_own_source(self, store: KeyValueStore) -> None:
        assert key_value_of(store) is store

    async def test_closing_twice_does_nothing(self, store: KeyValueStore) -> None:
        await store.close()
        await store.close()
