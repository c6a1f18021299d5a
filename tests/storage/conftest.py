"""A run, its leader, an inbox, and a list of the crash points that were passed."""

from collections.abc import AsyncIterator, Iterator

import pytest

from kumiai.core import failpoints
from kumiai.storage import DatabaseManager, RunRecord, RunRepository, UpdateInbox
from tests.storage.leading import TTL_SECONDS, Leading, new_run


@pytest.fixture
def runs(database: DatabaseManager) -> RunRepository:
    return RunRepository(database)


@pytest.fixture
async def run(runs: RunRepository) -> RunRecord:
    record, _ = await runs.create(new_run())
    return record


@pytest.fixture
async def leading(runs: RunRepository, run: RunRecord) -> Leading:
    lease = await runs.acquire_lease(run.run_id, "leader-1", TTL_SECONDS)
    assert lease is not None
    await runs.start(lease)
    return Leading(runs, lease)


@pytest.fixture
async def inbox(database: DatabaseManager) -> AsyncIterator[UpdateInbox]:
    inbox = UpdateInbox(database)
    await inbox.start()
    yield inbox
    await inbox.close()


@pytest.fixture
def reached() -> Iterator[list[str]]:
    """Write down every crash point that is passed."""
    names: list[str] = []
    failpoints.install(names.append)
    yield names
    failpoints.install(None)
