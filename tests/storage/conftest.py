"""A run, its leader, an inbox, and a list of the crash points that were passed."""

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kumiai.core import failpoints
from kumiai.storage import DatabaseManager, RunRecord, RunRepository, UpdateInbox
from kumiai.storage.s3_blobs import S3BlobStore
from kumiai.testing.databases import in_own_loop
from kumiai.testing.s3_server import S3Server
from tests.storage.catalogue import Catalogue
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


@pytest.fixture
def catalogue(database: DatabaseManager) -> Catalogue:
    return Catalogue(database)


@pytest.fixture
def new_s3_store(s3_server: S3Server, tmp_path: Path) -> Iterator[Callable[..., S3BlobStore]]:
    """Lend a maker of stores below one fresh prefix; each has a folder of its own by its name."""
    prefix = f"test-{secrets.token_hex(8)}"
    stores: list[S3BlobStore] = []

    def new(folder: str = "replica", **options: Any) -> S3BlobStore:
        place = replace(s3_server.place(prefix), **options.pop("place", {}))
        store = S3BlobStore(place, tmp_path / folder, **options)
        stores.append(store)
        return store

    yield new
    for store in stores:
        in_own_loop(store.close())
