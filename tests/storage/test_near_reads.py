"""Reads that are kept near: what they save, and that no change is overlooked."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from kumiai.core.errors import NotFoundError
from kumiai.storage import (
    CacheNotes,
    CachePattern,
    Changes,
    ClientRegistryRepository,
    DatabaseManager,
    MemoryKeyValue,
    ModelRepository,
    NearReads,
    RunRepository,
    TrainingHistoryRepository,
)
from tests.storage.leading import TTL_SECONDS, Leading, new_run


class Near:
    """A database with everything that stands around the reads."""

    def __init__(self, database: DatabaseManager) -> None:
        self.cache = CachePattern(MemoryKeyValue())
        self.notes = CacheNotes(database, self.cache)
        self.runs = RunRepository(database)
        self.history = TrainingHistoryRepository(database, notes=self.notes)
        self.models = ModelRepository(database, notes=self.notes)
        self.clients = ClientRegistryRepository(database, notes=self.notes)
        self.reads = NearReads(runs=self.runs, clients=self.clients, cache=self.cache)
        self.straight = NearReads(runs=self.runs, clients=self.clients)

    @property
    def hits(self) -> int:
        return self.cache.metrics.counts.hits


@pytest.fixture
async def near(database: DatabaseManager) -> AsyncIterator[Near]:
    near = Near(database)
    await near.notes.start()
    yield near
    await near.notes.close()
    await near.cache.close()


@pytest.fixture
async def run_id(near: Near) -> str:
    """A run of one round that has ended."""
    run, _ = await near.runs.create(new_run(rounds_total=1))
    lease = await near.runs.acquire_lease(run.run_id, "me", TTL_SECONDS)
    assert lease is not None
    await near.runs.start(lease)
    await Leading(near.runs, lease).play()
    await near.runs.finish(lease, "finished", "all 1 rounds are done")
    return run.run_id


async def test_what_has_ended_is_asked_of_the_database_once(near: Near, run_id: str) -> None:
    for _ in range(3):
        run = await near.reads.run(run_id)
        assert run == await near.straight.run(run_id)
        assert await near.reads.rounds(run) == await near.straight.rounds(run)
        assert await near.reads.models(run) == await near.straight.models(run)

    assert near.hits == 6


async def test_a_beginning_of_a_name_is_resolved_by_the_database(near: Near, run_id: str) -> None:
    await near.reads.run(run_id)

    assert (await near.reads.run(run_id[:4])).run_id == run_id
    with pytest.raises(NotFoundError):
        await near.reads.run("run-nobody")
    with pytest.raises(NotFoundError):
        await near.reads.run("")


async def test_a_run_that_lives_is_never_kept(near: Near) -> None:
    run, _ = await near.runs.create(new_run())

    for _ in range(2):
        assert (await near.reads.run(run.run_id)).state == "submitted"
        assert len(await near.reads.rounds(run)) == 1

    assert near.hits == 0


async def test_whoever_changes_a_run_reads_the_change(near: Near, run_id: str) -> None:
    run = await near.reads.run(run_id)
    await near.reads.models(run)

    await near.history.update(run_id, Changes(description="the good one", add_tags=["gold"]))
    await near.models.update(f"{run_id}.1", Changes(description="best"))

    assert (await near.reads.run(run_id)).tags == ("gold",)
    assert (await near.reads.models(run))[1].description == "best"
    await near.history.delete(run_id)
    with pytest.raises(NotFoundError):
        await near.reads.run(run_id)


async def test_a_change_of_another_process_that_died_right_after_is_heard_at_the_next_start(
    near: Near, database: DatabaseManager, run_id: str
) -> None:
    await near.reads.run(run_id)
    await near.notes.close()  # nobody applies what follows
    async with database.transaction() as connection:
        await near.notes.note(connection, f"run:{run_id}")
        await connection.exec_driver_sql("UPDATE runs SET description = 'new'")
    assert (await near.reads.run(run_id)).description == ""

    await near.notes.start()

    async with asyncio.timeout(30):
        while (await near.reads.run(run_id)).description != "new":
            await asyncio.sleep(0.01)


async def test_the_list_of_clients_is_kept_until_one_comes_or_goes(near: Near) -> None:
    assert await near.reads.clients() == []
    hello = {"instance_id": "i", "software_version": "1", "apps": ["digits"], "address": "here"}

    await near.clients.attach(client_id="site-1", **hello)
    await until(near, [("site-1", "attached")])
    await near.clients.detach("site-1", "i")
    await until(near, [("site-1", "detached")])
    await near.clients.delete("site-1")

    assert await near.reads.clients() == []
    assert near.hits > 0


async def test_a_change_stands_when_the_cache_can_not_hear_it(near: Near, run_id: str) -> None:
    await near.notes.close()
    near.notes._heard_seconds = 0.01

    await near.history.update(run_id, Changes(description="stands"))

    assert (await near.history.get(run_id)).description == "stands"


async def until(near: Near, expected: list[tuple[str, str]]) -> None:
    async with asyncio.timeout(30):
        while [(each.client_id, each.state) for each in await near.reads.clients()] != expected:
            await asyncio.sleep(0.01)
