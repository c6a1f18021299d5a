"""What a client with a good certificate and bad intentions can do: nothing to the others."""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest

from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.node.wire.channel import CHUNK_BYTES, PUT
from kumiai.testing.databases import SQLiteTemplate
from tests.integration import study
from tests.integration.federation import Federation, job
from tests.integration.test_refusals import channel, put, spooled, update


@pytest.fixture
async def federation(tmp_path: Path, sqlite_template: SQLiteTemplate) -> AsyncIterator[Federation]:
    """Lend a started coordinator."""
    federation = Federation(tmp_path, sqlite_template.copy_to(tmp_path / "kumiai.db"))
    await federation.start()
    yield federation
    study.hold.clear()
    await federation.stop()


async def held_pair(federation: Federation) -> str:
    """Return a run of one round in which site-1 and site-2 train until the test lets them go."""
    study.hold.update({"site-1": threading.Event(), "site-2": threading.Event()})
    await federation.start_clients(2)
    cohort = {"size": 2, "min_reports": 2}
    run_id = await federation.submit(job(run={"rounds": 1}, cohort=cohort), study.app)
    async with federation.http() as http, asyncio.timeout(10):
        while (await http.get(f"/api/v1/runs/{run_id}")).json()["round"] == 0:
            await asyncio.sleep(0.01)
    return run_id


@contextlib.contextmanager
def locked_database(federation: Federation) -> Iterator[None]:
    """Let nobody else write for as long as the body runs."""
    connection = sqlite3.connect(federation.folder / "kumiai.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


async def until_spooled(federation: Federation, size_bytes: int, suffix: str = "") -> None:
    """Return once an upload has left so many bytes in a file of this kind."""
    async with asyncio.timeout(10):
        while not any(
            path.suffix == suffix and path.stat().st_size == size_bytes
            for path in spooled(federation)
        ):
            await asyncio.sleep(0.01)


# --- an update that stands can not be taken away again ---


async def test_a_broken_upload_does_not_take_an_accepted_update_away(
    federation: Federation,
) -> None:
    run_id = await held_pair(federation)
    body, fields = update()
    header = pb.PutHeader(run_id=run_id, round=1, **fields)
    issued = federation.certificates["site-1"]

    async with channel(federation, issued) as wire:
        older = wire.stream_unary(PUT)()
        await older.write(header.SerializeToString())
        await older.write(body[:10])
        await until_spooled(federation, 10, ".part")
        header.offset = 10
        accepted = await put(federation, issued, header, body[10:])
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await older.write(bytes(CHUNK_BYTES + 1))
            await older
    study.hold["site-2"].set()
    await federation.wait_for(run_id)

    assert accepted.outcome == pb.PUT_OUTCOME_ACCEPTED
    np.testing.assert_array_equal((await federation.model(run_id))["w"], np.full(8, 1.5))


async def test_a_refused_report_does_not_take_the_same_update_away_that_was_accepted(
    federation: Federation,
) -> None:
    run_id = await held_pair(federation)
    body, fields = update()
    good = pb.PutHeader(run_id=run_id, round=1, **fields)
    bad = pb.PutHeader(run_id=run_id, round=1, **{**fields, "examples": 0, "offset": len(body)})
    issued = federation.certificates["site-1"]

    with locked_database(federation):
        accepting = asyncio.create_task(put(federation, issued, good, body))
        await until_spooled(federation, len(body))
        refusing = asyncio.create_task(put(federation, issued, bad))
        await asyncio.wait({accepting, refusing}, timeout=1)
    accepted = await accepting
    await refusing
    study.hold["site-2"].set()
    await federation.wait_for(run_id)

    assert accepted.outcome == pb.PUT_OUTCOME_ACCEPTED
    np.testing.assert_array_equal((await federation.model(run_id))["w"], np.full(8, 1.5))
