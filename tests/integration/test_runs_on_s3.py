"""Whole runs whose models and updates lie in a bucket, with a server that is killed on the way."""

import asyncio
import secrets
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest

from kumiai.storage import BlobSweeper, DatabaseManager, S3BlobStore
from kumiai.testing.databases import SQLiteTemplate
from kumiai.testing.s3_server import S3Server
from tests.integration import study
from tests.integration.federation import Federation, job


@pytest.fixture
def server() -> Iterator[S3Server]:
    """Lend an S3 server of this test's own, for it is killed."""
    server = S3Server()
    yield server
    server.remove()


@pytest.fixture
def prefix() -> str:
    return f"federation-{secrets.token_hex(4)}"


@pytest.fixture
async def federation(
    tmp_path: Path, server: S3Server, prefix: str, sqlite_template: SQLiteTemplate
) -> AsyncIterator[Federation]:
    """Lend a started coordinator whose blobs are in the bucket."""
    keys = tmp_path / "keys"
    keys.write_text(
        "[default]\n"
        f"aws_access_key_id = {server.access_key}\n"
        f"aws_secret_access_key = {server.secret_key}\n"
    )
    federation = Federation(
        tmp_path,
        sqlite_template.copy_to(tmp_path / "kumiai.db"),
        storage={
            "blobs": f"s3://{server.bucket}/{prefix}",
            "s3_endpoint": server.endpoint,
            "s3_credentials": keys,
        },
    )
    await federation.start()
    yield federation
    study.hold.clear()
    await federation.stop()


async def test_a_run_on_a_bucket_ends_with_the_right_sum(federation: Federation) -> None:
    await federation.start_clients(3)

    run_id = await federation.submit(job(cohort={"size": 3, "min_reports": 3}), study.app)
    await federation.wait_for(run_id)

    model = await federation.model(run_id)
    np.testing.assert_array_equal(model["w"], np.full(8, 6, np.float32))
    assert not (federation.folder / "data" / "blobs").exists()


async def test_a_run_survives_the_s3_server_being_killed_in_the_middle(
    federation: Federation, server: S3Server, prefix: str, tmp_path: Path
) -> None:
    # Models of 24 MB go in parts; sites wait at their updates, so that all send after the kill.
    study.hold.update({f"site-{number}": threading.Event() for number in (1, 2, 3)})
    await federation.start_clients(3)
    run_id = await federation.submit(
        job(cohort={"size": 3, "min_reports": 3}, train={"size": 6_000_000}), study.app
    )

    async def kill_and_restart() -> None:
        await asyncio.to_thread(server.kill)
        for event in study.hold.values():
            event.set()
        await asyncio.sleep(1.0)  # the updates arrive, and their objects have nowhere to go
        await asyncio.to_thread(server.start)

    await wait_for_round(federation, run_id, 1)
    await kill_and_restart()
    await wait_for_round(federation, run_id, 2)
    await kill_and_restart()
    await federation.wait_for(run_id, seconds=90)

    model = await federation.model(run_id)
    np.testing.assert_array_equal(model["w"], np.full(6_000_000, 6, np.float32))
    async with federation.http() as http:
        rounds = (await http.get(f"/api/v1/runs/{run_id}/rounds")).json()["rounds"]
    assert [each["reports"] for each in rounds[1:]] == [3, 3, 3]
    await verify_store(server, prefix, federation, tmp_path)


async def verify_store(
    server: S3Server, prefix: str, federation: Federation, tmp_path: Path
) -> None:
    """See that all that is needed is whole, and that there is nothing else."""
    store = S3BlobStore(server.place(prefix), tmp_path / "checker")
    database = DatabaseManager(federation.database_url)
    await database.connect()
    sweeper = BlobSweeper(database, store)
    checked = await sweeper.check(reads_data=True)
    garbage = await sweeper.sweep(grace_seconds=-5, is_dry_run=True)
    await database.close()
    await store.close()
    assert (checked.count, checked.problems) == (4, [])
    assert garbage.count == 0, garbage


async def wait_for_round(federation: Federation, run_id: str, number: int) -> None:
    async with federation.http() as http, asyncio.timeout(30):
        while True:
            run = (await http.get(f"/api/v1/runs/{run_id}")).json()
            if run["round"] >= number:
                return
            await asyncio.sleep(0.01)


async def test_a_sweep_beside_a_run_takes_nothing_that_it_needs(
    federation: Federation, server: S3Server, prefix: str, tmp_path: Path
) -> None:
    await federation.start_clients(3)
    store = S3BlobStore(server.place(prefix), tmp_path / "sweeper", fresh_seconds=1)
    database = DatabaseManager(federation.database_url)
    await database.connect()
    sweeper = BlobSweeper(database, store)
    orphan = await store.put("models/run-of-nobody", [b"orphan"])

    run_id = await federation.submit(
        job(cohort={"size": 3, "min_reports": 3}, run={"rounds": 20}), study.app
    )
    running = asyncio.create_task(federation.wait_for(run_id, seconds=60))
    swept = 0
    while not running.done():
        swept += (await sweeper.sweep(grace_seconds=2)).count
        await asyncio.sleep(0.05)
    await running

    model = await federation.model(run_id)
    np.testing.assert_array_equal(model["w"], np.full(8, 40, np.float32))
    assert (await sweeper.check(reads_data=True)).problems == []
    assert await store.find_size("models/run-of-nobody", orphan) is None or swept == 0
    await database.close()
    await store.close()
