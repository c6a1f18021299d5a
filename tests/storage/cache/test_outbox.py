import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.core.errors import (
    ConfigError,
    DeadlineError,
    NotFoundError,
    StorageError,
    UnavailableError,
)
from kumiai.storage import DatabaseManager
from kumiai.storage.cache.draining import DrainSettings, OutboxDrain
from kumiai.storage.cache.memory import MemoryKeyValue
from kumiai.storage.cache.metrics import CacheMetrics
from kumiai.storage.cache.outbox import CacheOutbox, OutboxRow, OutboxToken
from kumiai.storage.cache.patterns import CachePattern, CacheSettings
from kumiai.storage.cache.write_behind import WriteBehind

TOPIC = "topic"
QUICK = DrainSettings(retry_seconds=0.001, poll_seconds=0.01, attempts_max=3)


class Sink:
    """Notes what it is given, and keeps the latest of each key; refuses what it is told to."""

    def __init__(self, *, refused: Sequence[bytes] = ()) -> None:
        self.rows: list[OutboxRow] = []
        self.refused = set(refused)
        self.away = False
        self.gate: asyncio.Event | None = None

    async def __call__(self, rows: Sequence[OutboxRow]) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.away:
            raise UnavailableError("sink must answer, got nothing")
        if any(row.value in self.refused for row in rows):
            raise ValueError("value must be nice, got a bad one")
        self.rows += rows

    @property
    def values(self) -> list[bytes]:
        return [row.value for row in self.rows]


@pytest.fixture
def outbox(database: DatabaseManager) -> CacheOutbox:
    return CacheOutbox(database)


@pytest.fixture
def sink() -> Sink:
    return Sink()


def drain_of(outbox: CacheOutbox, sink: Sink, **options: object) -> OutboxDrain:
    return OutboxDrain(outbox, TOPIC, sink, **{"settings": QUICK, **options})  # type: ignore[arg-type]


async def add(outbox: CacheOutbox, *items: tuple[str, bytes], topic: str = TOPIC) -> OutboxToken:
    async with outbox.database.transaction() as connection:
        return await outbox.add(connection, topic, items)


async def drain_all(drain: OutboxDrain, rounds: int = 50) -> None:
    for _ in range(rounds):
        await drain.drain_once()
        await asyncio.sleep(0.001)


# ---------------------------------------------------------------------------------- the rows


async def test_what_is_added_is_applied_once_in_its_order(outbox: CacheOutbox, sink: Sink) -> None:
    token = await add(outbox, ("a", b"1"), ("b", b"2"), ("c", b"3"))

    assert await drain_of(outbox, sink).drain_once() == 3
    assert await drain_of(outbox, sink).drain_once() == 0

    assert sink.values == [b"1", b"2", b"3"]
    assert [row.seq for row in sink.rows] == list(token.seqs) == sorted(token.seqs)
    assert (await outbox.state(TOPIC)).depth == 0


async def test_of_several_writes_of_a_key_the_last_one_is_applied(
    outbox: CacheOutbox, sink: Sink
) -> None:
    for value in (b"1", b"2"):
        await add(outbox, ("a", value), ("b", value))
    await add(outbox, ("a", b"3"))
    drain = drain_of(outbox, sink)

    await drain.drain_once()

    assert sorted((row.key, row.value) for row in sink.rows) == [("a", b"3"), ("b", b"2")]
    assert (drain.counts.applied, drain.counts.superseded) == (2, 3)
    assert (await outbox.state(TOPIC)).depth == 0


async def test_rows_without_a_key_are_applied_all(outbox: CacheOutbox, sink: Sink) -> None:
    await add(outbox, ("", b"1"), ("", b"2"), ("", b"1"))

    await drain_of(outbox, sink).drain_once()

    assert sink.values == [b"1", b"2", b"1"]


async def test_what_is_rolled_back_was_never_there(outbox: CacheOutbox, sink: Sink) -> None:
    with contextlib.suppress(RuntimeError):
        async with outbox.database.transaction() as connection:
            token = await outbox.add(connection, TOPIC, [("a", b"1")])
            raise RuntimeError

    await outbox.applied(token, timeout_seconds=1)
    assert await drain_of(outbox, sink).drain_once() == 0


async def test_topics_are_strangers(outbox: CacheOutbox, sink: Sink) -> None:
    await add(outbox, ("a", b"1"), topic="other")

    assert await drain_of(outbox, sink).drain_once() == 0
    assert (await outbox.state("other")).depth == 1


async def test_writers_of_one_key_commit_in_the_order_of_their_numbers(
    outbox: CacheOutbox, sink: Sink
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def write_slowly() -> None:
        async with outbox.database.transaction() as connection:
            await outbox.add(connection, TOPIC, [("a", b"slow")])
            begun.set()
            await go_on.wait()

    slow = asyncio.create_task(write_slowly())
    await begun.wait()
    quick = asyncio.create_task(add(outbox, ("a", b"quick")))
    await asyncio.sleep(0.05)
    drain = drain_of(outbox, sink)
    await drain.drain_once()
    go_on.set()
    await asyncio.gather(slow, quick)
    await drain.drain_once()

    assert sink.values == [b"quick"]
    assert drain.counts.superseded == 1


@pytest.mark.parametrize(
    ("topic", "items"),
    [("", [("a", b"")]), (TOPIC, []), (TOPIC, [("a\x00", b"")]), ("t" * 513, [("a", b"")])],
)
async def test_rows_that_make_no_sense_are_refused(
    outbox: CacheOutbox, topic: str, items: list[tuple[str, bytes]]
) -> None:
    with pytest.raises(ValueError, match="must"):
        await add(outbox, *items, topic=topic)


def test_a_capacity_below_1_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity"):
        CacheOutbox(None, capacity=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch_limit"):
        DrainSettings(batch_limit=0)


async def test_a_full_outbox_takes_no_more_until_it_is_drained(
    database: DatabaseManager, sink: Sink
) -> None:
    outbox = CacheOutbox(database, capacity=3)
    await add(outbox, ("a", b"1"), ("b", b"2"))

    with pytest.raises(StorageError, match="at most 3"):
        await add(outbox, ("c", b"3"), ("d", b"4"))
    assert await outbox.has_room(1)
    assert not await outbox.has_room(2)

    await drain_of(outbox, sink).drain_once()
    await add(CacheOutbox(database, capacity=3), ("c", b"3"), ("d", b"4"))


# ------------------------------------------------------------------------------ the waiting


async def test_applied_returns_once_it_is(outbox: CacheOutbox, sink: Sink) -> None:
    drain = drain_of(outbox, sink, settings=DrainSettings(poll_seconds=30))
    await drain.start()
    await drain.start()
    await asyncio.sleep(0.05)

    token = await add(outbox, ("a", b"1"))
    await outbox.applied(token)

    assert sink.values == [b"1"]
    await drain.close()
    await drain.close()


async def test_applied_ends_at_its_deadline(outbox: CacheOutbox) -> None:
    token = await add(outbox, ("a", b"1"))

    with pytest.raises(DeadlineError):
        await outbox.applied(token, timeout_seconds=0.05)


async def test_applied_before_the_commit_is_a_mistake(outbox: CacheOutbox) -> None:
    async with outbox.database.transaction() as connection:
        token = await outbox.add(connection, TOPIC, [("a", b"1")])
        with pytest.raises(ValueError, match="over"):
            await outbox.applied(token)


# ---------------------------------------------------------------------------------- failures


async def test_a_row_that_fails_is_parked_with_the_reason_and_holds_nobody_up(
    outbox: CacheOutbox,
) -> None:
    sink = Sink(refused=[b"bad"])
    token = await add(outbox, ("a", b"bad"), ("b", b"2"), ("c", b"3"))
    drain = drain_of(outbox, sink)

    await drain.drain_once()
    assert sink.values == [b"2", b"3"]
    await drain_all(drain)

    state = await outbox.state(TOPIC)
    (parked,) = await outbox.parked(TOPIC)
    assert (state.depth, state.age_seconds, state.parked) == (0, 0.0, 1)
    assert (parked.key, parked.value, parked.attempts, parked.is_parked) == ("a", b"bad", 3, True)
    assert parked.reason == "ValueError: value must be nice, got a bad one"
    assert (drain.counts.failed, drain.counts.parked) == (3, 1)
    with pytest.raises(StorageError, match="ValueError"):
        await outbox.applied(token)


async def test_a_parked_row_can_be_tried_again_or_thrown_away(outbox: CacheOutbox) -> None:
    sink = Sink(refused=[b"bad", b"worse"])
    await add(outbox, ("a", b"bad"), ("b", b"worse"))
    drain = drain_of(outbox, sink)
    await drain_all(drain)
    first, second = await outbox.parked(TOPIC)

    sink.refused.clear()
    await outbox.retry_parked(first.seq)
    await outbox.discard_parked(second.seq)
    await drain.drain_once()

    assert sink.values == [b"bad"]
    assert await outbox.parked(TOPIC) == []
    for change in (outbox.retry_parked, outbox.discard_parked):
        with pytest.raises(NotFoundError):
            await change(first.seq)


async def test_a_later_write_of_a_key_ends_the_trouble_with_the_earlier(
    outbox: CacheOutbox,
) -> None:
    sink = Sink(refused=[b"bad"])
    await add(outbox, ("a", b"bad"))
    drain = drain_of(outbox, sink)
    await drain_all(drain)

    await add(outbox, ("a", b"good"))
    await drain.drain_once()

    assert sink.values == [b"good"]
    assert await outbox.parked(TOPIC) == []


async def test_a_sink_that_is_away_says_nothing_against_the_rows(
    outbox: CacheOutbox, sink: Sink
) -> None:
    sink.away = True
    await add(outbox, ("a", b"1"))
    drain = drain_of(outbox, sink)
    for _ in range(5):
        with pytest.raises(UnavailableError):
            await drain.drain_once()
    await drain.start()

    sink.away = False
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        while not sink.rows:
            await asyncio.sleep(0.01)

    assert (sink.rows[0].attempts, drain.counts.failed) == (0, 0)
    await drain.close()


# --------------------------------------------------------------------------- several drains


async def test_one_drain_leads_and_another_takes_over(outbox: CacheOutbox, sink: Sink) -> None:
    settings = DrainSettings(lease_seconds=0.2, poll_seconds=0.01)
    first = drain_of(outbox, sink, settings=settings)
    second = drain_of(outbox, sink, settings=settings)
    await add(outbox, ("a", b"1"))
    assert await first.drain_once() == 1
    await add(outbox, ("a", b"2"))

    assert await second.drain_once() == 0
    await asyncio.sleep(0.25)
    assert await second.drain_once() == 1
    await add(outbox, ("a", b"3"))
    assert await first.drain_once() == 0


async def test_a_drain_that_closes_hands_over_at_once(outbox: CacheOutbox, sink: Sink) -> None:
    first, second = drain_of(outbox, sink), drain_of(outbox, sink)
    await first.start()
    await outbox.applied(await add(outbox, ("a", b"1")))
    await first.close()
    await add(outbox, ("a", b"2"))

    assert await second.drain_once() == 1


async def test_a_drain_that_was_paused_past_its_lease_settles_nothing(
    outbox: CacheOutbox, sink: Sink
) -> None:
    settings = DrainSettings(lease_seconds=10)
    gate = asyncio.Event()
    paused_sink = Sink()
    paused_sink.gate = gate
    paused = drain_of(outbox, paused_sink, settings=settings)
    await add(outbox, ("a", b"1"))
    task = asyncio.create_task(paused.drain_once())
    await asyncio.sleep(0.1)
    async with outbox.database.transaction() as connection:
        await connection.execute(text("UPDATE cache_drains SET lease_until = 0"))
    assert await drain_of(outbox, sink).drain_once() == 1
    await add(outbox, ("a", b"2"))

    gate.set()

    assert await task == 0
    assert paused.counts.fenced == 1
    row = await outbox.find_pending(TOPIC, "a")
    assert row is not None
    assert row.value == b"2"


async def test_a_slow_handler_keeps_the_lease(outbox: CacheOutbox) -> None:
    settings = DrainSettings(lease_seconds=0.2, poll_seconds=0.01)
    slow, other = Sink(), Sink()
    slow.gate = asyncio.Event()
    await add(outbox, ("a", b"1"))
    task = asyncio.create_task(drain_of(outbox, slow, settings=settings).drain_once())
    await asyncio.sleep(0.5)

    assert await drain_of(outbox, other, settings=settings).drain_once() == 0
    slow.gate.set()
    assert await task == 1


async def test_many_drains_at_once_apply_each_row_in_order(database: DatabaseManager) -> None:
    sink = Sink()
    boxes = [CacheOutbox(database) for _ in range(3)]
    settings = DrainSettings(lease_seconds=0.3, poll_seconds=0.005, batch_limit=7)
    drains = [drain_of(box, sink, settings=settings) for box in boxes]
    for drain in drains:
        await drain.start()
    for index in range(30):
        await add(boxes[index % 3], *((f"k{key}", b"%d" % index) for key in range(3)))
    async with asyncio.timeout(30):
        while (await boxes[0].state(TOPIC)).depth:
            await asyncio.sleep(0.02)
    for drain in drains:
        await drain.close()

    for key in range(3):
        seqs = [row.seq for row in sink.rows if row.key == f"k{key}"]
        assert seqs == sorted(seqs)
        assert [row.value for row in sink.rows if row.key == f"k{key}"][-1] == b"29"


# ------------------------------------------------------------------------------ transactional


async def test_a_transactional_handler_writes_in_the_transaction_that_deletes(
    outbox: CacheOutbox,
) -> None:
    async def apply(connection: AsyncConnection, rows: Sequence[OutboxRow]) -> None:
        for row in rows:
            await outbox.add(connection, "done", [(row.key, row.value)])
            if row.value == b"bad":
                raise ValueError("bad")

    await add(outbox, ("a", b"1"), ("b", b"bad"), ("c", b"3"))
    drain = OutboxDrain(outbox, TOPIC, apply, transactional=True, settings=QUICK)
    await drain_all(drain, rounds=20)

    assert (await outbox.state("done")).depth == 2
    assert await outbox.find_pending("done", "b") is None
    assert (await outbox.state(TOPIC)).parked == 1


async def test_a_transactional_handler_that_lost_its_lease_writes_nothing(
    outbox: CacheOutbox,
) -> None:
    async def apply(connection: AsyncConnection, rows: Sequence[OutboxRow]) -> None:
        await outbox.add(connection, "done", [(row.key, row.value) for row in rows])

    drain = OutboxDrain(outbox, TOPIC, apply, transactional=True)
    await add(outbox, ("a", b"1"))
    await drain.drain_once()
    await add(outbox, ("a", b"2"))
    async with outbox.database.transaction() as connection:
        await connection.execute(text("UPDATE cache_drains SET owner = 'other', epoch = 9"))

    assert await drain.drain_once() == 0
    assert drain.counts.fenced == 1
    assert (await outbox.state("done")).depth == 1


# ------------------------------------------------------------------------------- write-behind


class Written:
    """What lies where late writes arrive."""

    def __init__(self) -> None:
        self.values: dict[str, object] = {}
        self.seqs: dict[str, int] = {}

    async def write(self, key: str, value: object, seq: int) -> None:
        self.values[key] = value
        self.seqs[key] = seq

    async def load(self, key: str) -> object:
        return self.values.get(key)


async def test_a_late_write_is_seen_at_once_and_arrives_later(outbox: CacheOutbox) -> None:
    cache = CachePattern(MemoryKeyValue())
    behind, written = WriteBehind(cache, outbox, topic=TOPIC), Written()
    metrics = CacheMetrics()
    drain = OutboxDrain(outbox, TOPIC, behind.handler(written.write), metrics=metrics)
    await behind.start()
    await behind.start()

    seq = await behind.put("key", {"a": 1}, expire=60)
    assert await behind.get("key", lambda: written.load("key")) == {"a": 1}
    await cache.delete_cache("key")
    assert await behind.get("key", lambda: written.load("key")) == {"a": 1}
    assert written.values == {}
    await drain.start()
    async with asyncio.timeout(30):
        while not written.values:
            await asyncio.sleep(0.01)

    assert written.values == {"key": {"a": 1}}
    assert written.seqs == {"key": seq}
    await drain.close()
    await cache.delete_cache("key")
    assert await behind.get("key", lambda: written.load("key")) == {"a": 1}
    assert metrics.measure("outbox_depth") in {0.0, 1.0}
    await behind.close()
    await behind.close()


async def test_many_late_writes_share_commits(outbox: CacheOutbox) -> None:
    behind = WriteBehind(CachePattern(MemoryKeyValue()), outbox, topic=TOPIC, batch_limit=50)
    await behind.start()

    seqs = await asyncio.gather(*(behind.put(f"key {i}", i) for i in range(120)))
    await behind.close()

    assert len(set(seqs)) == 120
    assert (await outbox.state(TOPIC)).depth == 120


async def test_a_late_write_after_the_close_is_an_error(outbox: CacheOutbox) -> None:
    behind = WriteBehind(CachePattern(MemoryKeyValue()), outbox, topic=TOPIC)

    with pytest.raises(StorageError, match="open"):
        await behind.put("key", 1)
    with pytest.raises(ValueError, match="NUL"):
        await behind.put("a\x00", 1)
    with pytest.raises(ValueError, match="batch_limit"):
        WriteBehind(CachePattern(MemoryKeyValue()), outbox, topic=TOPIC, batch_limit=0)


async def test_a_late_write_waits_for_room_and_then_gives_up(database: DatabaseManager) -> None:
    outbox = CacheOutbox(database, capacity=2)
    behind = WriteBehind(
        CachePattern(MemoryKeyValue()), outbox, topic=TOPIC, room_seconds=0.5, batch_limit=1
    )
    sink = Sink()
    await behind.start()
    await asyncio.gather(behind.put("a", 1), behind.put("b", 2))

    waiting = asyncio.create_task(behind.put("c", 3))
    await asyncio.sleep(0.1)
    await drain_of(outbox, sink).drain_once()
    await waiting
    await behind.put("d", 4)

    with pytest.raises(DeadlineError):
        await behind.put("e", 5)
    await behind.close()


async def test_a_caller_who_gives_up_leaves_no_earlier_value_in_the_cache(
    database: DatabaseManager,
) -> None:
    begun, gate = asyncio.Event(), asyncio.Event()

    class Slow(CacheOutbox):
        async def add(self, *args: Any) -> OutboxToken:
            begun.set()
            await gate.wait()
            return await super().add(*args)

    cache = CachePattern(MemoryKeyValue(), settings=CacheSettings(wait_seconds=0.05))
    behind, written = WriteBehind(cache, Slow(database), topic=TOPIC), Written()
    written.values["key"] = "old"
    await behind.start()
    put = asyncio.create_task(behind.put("key", "new"))
    await begun.wait()

    put.cancel()
    await asyncio.sleep(0.01)
    assert await behind.get("key", lambda: written.load("key")) == "old"
    gate.set()
    await asyncio.wait({put})

    assert put.cancelled()
    assert await behind.get("key", lambda: written.load("key")) == "new"
    await behind.close()


async def test_two_who_write_late_at_once_agree_with_the_outbox(outbox: CacheOutbox) -> None:
    store = MemoryKeyValue()
    one, other = (
        WriteBehind(CachePattern(store, settings=CacheSettings()), outbox, topic=TOPIC)
        for _ in range(2)
    )
    await one.start()
    await other.start()

    for index in range(20):
        await asyncio.gather(one.put("key", index), other.put("key", -index))
        row = await outbox.find_pending(TOPIC, "key")
        assert row is not None
        assert await one.get("key", asyncio.Event().wait) == int(row.value)
    await one.close()
    await other.close()


async def test_a_writer_task_that_is_ended_tells_those_who_wait(outbox: CacheOutbox) -> None:
    behind = WriteBehind(CachePattern(MemoryKeyValue()), outbox, topic=TOPIC)
    await behind.start()
    puts = [asyncio.create_task(behind.put(f"k{i}", 1)) for i in range(3)]
    await asyncio.sleep(0)
    close = asyncio.create_task(behind.close())
    await asyncio.sleep(0)

    close.cancel()
    await asyncio.wait({close, *puts})

    assert all(put.done() for put in puts)


async def test_invalidation_needs_an_outbox() -> None:
    from kumiai.storage.cache.invalidation import CacheInvalidation, Target

    invalidation = CacheInvalidation(CachePattern(MemoryKeyValue()))

    with pytest.raises(ConfigError, match="outbox"):
        await invalidation.after_commit(None, Target("key", "a"))  # type: ignore[arg-type]
