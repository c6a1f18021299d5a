"""What becomes of an update whose round has begun another attempt since it was sent."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from kumiai.core.codec import encode
from kumiai.node.coordinator.intake import FinishedUpdate, UpdateIntake
from kumiai.node.coordinator.namespaces import model_namespace, update_namespace
from kumiai.node.coordinator.run_facts import RunFactsCache
from kumiai.node.coordinator.signals import RunSignals
from kumiai.storage import (
    AcceptOutcome,
    DatabaseManager,
    MemoryBlobStore,
    RunRepository,
    UpdateInbox,
)
from kumiai.testing.databases import SQLiteTemplate
from tests.storage.leading import TTL_SECONDS, new_run

MODEL = {"w": np.zeros(4, np.float32)}
NAMESPACE = update_namespace("run-a", 1, "site-1")


@dataclass
class Taken:
    """A run whose first round has begun its second attempt, and who takes its updates in."""

    runs: RunRepository
    blobs: MemoryBlobStore
    intake: UpdateIntake

    async def update(self, values: float = 1.0) -> FinishedUpdate:
        """Return an update that was sent for the first attempt, whole."""
        content = encode({"w": np.full(4, values, np.float32)})
        digest = await self.blobs.put(NAMESPACE, content)
        size_bytes = sum(each.nbytes for each in content)
        return FinishedUpdate("run-a", 1, 1, "site-1", digest, size_bytes, 3, {})

    async def state(self) -> str:
        (row,) = await self.runs.assignments("run-a", 1)
        return row.state


@pytest.fixture(params=["none", "masking"])
async def taken(
    request: pytest.FixtureRequest, sqlite_template: SQLiteTemplate, tmp_path: Path
) -> AsyncIterator[Taken]:
    database, blobs = DatabaseManager(sqlite_template.copy_to(tmp_path / "k.db")), MemoryBlobStore()
    await database.connect()
    runs, inbox = RunRepository(database), UpdateInbox(database)
    await inbox.start()
    model = encode(MODEL)
    digest = await blobs.put(model_namespace("run-a"), model)
    job = {"run": {"app": "a", "rounds": 1}, "secure_aggregation": {"mode": request.param}}
    size_bytes = sum(each.nbytes for each in model)
    await runs.create(new_run(model_digest=digest, model_size_bytes=size_bytes, job=job))
    lease = await runs.acquire_lease("run-a", "leader-1", TTL_SECONDS)
    assert lease is not None
    await runs.start(lease)
    await runs.open_round(
        lease,
        round=1,
        base_digest=digest,
        target_reports=1,
        min_reports=1,
        deadline_seconds=60.0,
        clients=[("site-1", 1)],
    )
    await runs.extend_round(lease, round=1, deadline_seconds=60.0, clients=[("site-1", 1)])
    facts = RunFactsCache(runs=runs, blobs=blobs)
    intake = UpdateIntake(
        runs=runs, inbox=inbox, blobs=blobs, signals=RunSignals(), facts=facts, executor=None
    )
    yield Taken(runs, blobs, intake)
    await inbox.close()
    await database.close()


@pytest.mark.parametrize(
    ("taken", "is_kept"), [("none", True), ("masking", False)], indirect=["taken"]
)
async def test_the_bytes_of_an_overtaken_update_are_kept_if_they_may_come_again(
    taken: Taken, is_kept: bool
) -> None:
    update = await taken.update()

    result = await taken.intake.finish(update)

    assert result.outcome is AcceptOutcome.OVERTAKEN
    assert not result.is_accepted
    size = await taken.blobs.find_size(NAMESPACE, update.digest)
    assert (size is not None) is is_kept
    assert await taken.state() == "assigned"


async def test_the_same_update_counts_once_it_comes_for_the_attempt_that_is_asked_for(
    taken: Taken,
) -> None:
    update = await taken.update()
    await taken.intake.finish(update)
    await taken.update()

    result = await taken.intake.finish(replace(update, attempt=2))

    assert result.outcome is AcceptOutcome.ACCEPTED
    assert await taken.state() == "reported"


async def test_an_overtaken_update_that_is_none_costs_its_site_nothing(taken: Taken) -> None:
    update = replace(await taken.update(), examples=0)

    result = await taken.intake.finish(update)

    assert not result.is_accepted
    assert "examples" in result.reason
    assert await taken.state() == "assigned"
    await taken.intake.finish(replace(update, attempt=2))
    assert await taken.state() == "refused"
