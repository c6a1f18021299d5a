"""Leading a run again after trouble, on each database."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from structlog.testing import capture_logs

from kumiai.core import failpoints
from kumiai.core.clock import SystemClock
from kumiai.core.errors import (
    ConfigError,
    FencedError,
    IntegrityError,
    QuorumLostError,
    StorageError,
)
from kumiai.node.coordinator.aggregation import Aggregator
from kumiai.node.coordinator.engine import RoundEngine
from kumiai.node.coordinator.leadership import RunSupervisor
from kumiai.node.coordinator.sessions import SessionHub
from kumiai.node.coordinator.signals import RunSignals
from kumiai.node.coordinator.tasks import TaskWriter
from kumiai.node.job import parse_job
from kumiai.storage import DatabaseManager, Lease, MemoryBlobStore, NewRun, RunRepository
from tests.integration.eventually import eventually
from tests.node.coordinator.test_sessions import session

LED = "leader_changed"


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

    fail_with(StorageError("the disk is full"))
    blobs, hub = MemoryBlobStore(), SessionHub(SystemClock())
    hub.attach(session("a"))
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


def fail_with(error: Exception) -> None:
    """Let every opening of a round end in this."""

    def fail(name: str) -> None:
        if name == "storage.open_round.commit.before":
            raise error

    failpoints.install(fail)


@contextlib.asynccontextmanager
async def leading(
    engine: RoundEngine, leader: str, *, poll_seconds: float = 0.01
) -> AsyncIterator[None]:
    """Lead runs under this name; a lease that is not given back outlives every test."""
    supervisor = RunSupervisor(engine, leader=leader, lease_seconds=600, poll_seconds=poll_seconds)
    serving = asyncio.create_task(supervisor.serve())
    yield
    serving.cancel()
    await asyncio.wait({serving})


async def test_trouble_that_lasts_is_met_ever_more_rarely(
    engine: RoundEngine, runs: RunRepository
) -> None:
    def paused() -> list[float]:
        return [each["pause_seconds"] for each in logs if "pause_seconds" in each]

    with capture_logs() as logs:
        async with leading(engine, "replica-1"):
            await eventually(lambda: len(paused()) > 3)

    assert paused()[:4] == [0.01, 0.02, 0.04, 0.08]
    run = await runs.get("run-a")
    assert run.state == "running"
    assert len(paused()) <= run.epoch <= len(paused()) + 1


async def test_while_one_replica_pauses_another_may_try(
    engine: RoundEngine, runs: RunRepository
) -> None:
    async def leaders() -> list[str]:
        told = [event.data for event in await runs.events("run-a") if event.kind == LED]
        return [data["leader"] for data in told if data is not None]

    async with leading(engine, "replica-1", poll_seconds=600):
        await eventually(leaders, is_so=["replica-1"].__eq__)
        async with leading(engine, "replica-2"):
            await eventually(leaders, is_so=lambda names: "replica-2" in names)


@pytest.mark.parametrize(
    ("error", "end_kind", "reason"),
    [
        (QuorumLostError("nobody came"), "quorum_lost", "nobody came"),
        (ConfigError("no such strategy"), "config", "no such strategy"),
        (IntegrityError("other bytes"), "integrity", "other bytes"),
        (TypeError("x"), "internal", "internal error: TypeError: x"),
    ],
)
async def test_a_run_that_fails_says_with_what_kind_of_error(
    engine: RoundEngine, runs: RunRepository, error: Exception, end_kind: str, reason: str
) -> None:
    fail_with(error)

    supervisor = asyncio.create_task(RunSupervisor(engine, leader="replica-1").serve())
    async with asyncio.timeout(30):
        while (run := await runs.get("run-a")).state != "failed":
            await asyncio.sleep(0.01)
    supervisor.cancel()
    await asyncio.wait({supervisor})

    assert (run.end_kind, run.reason) == (end_kind, reason)


class RenewedAtTheEnd(RunRepository):
    """A database in which a lease is to be renewed just after its run has ended."""

    def __init__(self, database: DatabaseManager) -> None:
        super().__init__(database)
        self._refused = asyncio.Event()

    async def renew_lease(self, lease: Lease, seconds: float) -> None:
        """Renew, and note when there is no lease left to renew."""
        try:
            await super().renew_lease(lease, seconds)
        except FencedError:
            self._refused.set()
            raise

    async def finish(self, *args: Any, **options: Any) -> None:
        """End the run, and come back when a renewal has found it ended."""
        await super().finish(*args, **options)
        await self._refused.wait()


async def test_a_driver_that_has_just_ended_its_run_may_tidy_up(
    engine: RoundEngine, database: DatabaseManager
) -> None:
    ended = asyncio.Event()

    def watch(name: str) -> None:
        if name == "coordinator.run.finished":
            ended.set()
        if name == "storage.open_round.commit.before":
            raise QuorumLostError("nobody came")

    failpoints.install(watch)
    hasty = dataclasses.replace(engine, runs=RenewedAtTheEnd(database))

    supervisor = asyncio.create_task(
        RunSupervisor(hasty, leader="replica-1", lease_seconds=0.3).serve()
    )
    async with asyncio.timeout(30):
        await ended.wait()
    supervisor.cancel()
    await asyncio.wait({supervisor})
