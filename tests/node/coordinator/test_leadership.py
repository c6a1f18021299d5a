"""Leading a run again after trouble, on each database."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from kumiai.core import failpoints
from kumiai.core.clock import SystemClock
from kumiai.core.errors import StorageError
from kumiai.node.coordinator.aggregation import Aggregator
from kumiai.node.coordinator.leadership import RunSupervisor
from kumiai.node.coordinator.rounds import RoundEngine
from kumiai.node.coordinator.sessions import SessionHub
from kumiai.node.coordinator.signals import RunSignals
from kumiai.node.coordinator.tasks import TaskWriter
from kumiai.node.job import parse_job
from kumiai.storage import DatabaseManager, MemoryBlobStore, NewRun, RunRepository
from tests.node.coordinator.test_sessions import session


@pytest.fixture
async def runs(database: DatabaseManager) -> RunRepository:
    """Lend a repository with one submitted run."""
    runs = RunRepository(database)
    job = parse_job({"run": {"app": "heart", "rounds": 1}})
    await runs.create(
        NewRun(
            run_id="run-a",
            name="",
            app="heart",
            job=job.model_dump(mode="json"),
            submit_token=None,
            submitted_by="tester",
            rounds_total=1,
            model_digest="0" * 64,
            model_size_bytes=1,
        )
    )
    return runs


@pytest.fixture
async def engine(runs: RunRepository) -> AsyncIterator[RoundEngine]:
    """Lend an engine with one attached client, whose disk is full."""

    def fail(name: str) -> None:
        if name == "storage.open_round.commit.before":
            raise StorageError("the disk is full")

    blobs, hub = MemoryBlobStore(), SessionHub(SystemClock())
    hub.attach(session("a"))
    failpoints.install(fail)
    with ThreadPoolExecutor(1) as worker:
        yield RoundEngine(
            runs=runs,
            blobs=blobs,
            directory=hub,
            tasks=TaskWriter(runs),
            aggregator=Aggregator(blobs=blobs, worker=worker),
            signals=RunSignals(),
            clock=SystemClock(),
        )
    failpoints.install(None)


async def lead_for_a_second(engine: RoundEngine, *leaders: str) -> None:
    supervisors = [
        asyncio.create_task(
            RunSupervisor(engine, leader=leader, lease_seconds=60, poll_seconds=0.01).serve()
        )
        for leader in leaders
    ]
    await asyncio.wait(supervisors, timeout=1)
    for supervisor in supervisors:
        supervisor.cancel()
    await asyncio.wait(supervisors)


async def test_trouble_that_lasts_is_met_ever_more_rarely(
    engine: RoundEngine, runs: RunRepository
) -> None:
    await lead_for_a_second(engine, "replica-1")

    run = await runs.get("run-a")
    assert run.state == "running"
    assert 2 <= run.epoch <= 8


async def test_while_one_replica_pauses_another_may_try(
    engine: RoundEngine, runs: RunRepository
) -> None:
    await lead_for_a_second(engine, "replica-1", "replica-2")

    tried = {
        event.data["leader"]
        for event in await runs.events("run-a")
        if event.kind == "leader_changed" and event.data is not None
    }
    assert tried == {"replica-1", "replica-2"}
