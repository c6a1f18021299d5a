"""What a client with a good certificate and bad intentions can do: nothing to the others."""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from kumiai.identity import Role
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.node.wire.channel import ATTACH, CHUNK_BYTES, GET, PROTOCOL_VERSION, PUT
from tests.integration import study
from tests.integration.eventually import eventually
from tests.integration.federation import Federation, job
from tests.integration.test_refusals import channel, put, spooled, update


@pytest.fixture
async def any_federation(tmp_path: Path, database_url: str) -> AsyncIterator[Federation]:
    """Lend a started coordinator on each database."""
    federation = Federation(tmp_path, database_url)
    await federation.start()
    yield federation
    await federation.stop()


async def held_pair(federation: Federation) -> str:
    """Return a run of one round in which site-1 and site-2 train until the test lets them go."""
    study.hold.update({"site-1": threading.Event(), "site-2": threading.Event()})
    await federation.start_clients(2)
    cohort = {"size": 2, "min_reports": 2}
    run_id = await federation.submit(job(run={"rounds": 1}, cohort=cohort), study.app)
    await federation.until_round(run_id, 1)
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
    await eventually(
        lambda: [(path.suffix, path.stat().st_size) for path in spooled(federation)],
        lambda files: (suffix, size_bytes) in files,
    )


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


# --- nobody fills the disk or the memory ---


async def test_a_client_leaves_only_a_few_unfinished_updates_on_the_disk(
    federation: Federation,
) -> None:
    run_id = await held_pair(federation)
    issued = federation.certificates["site-1"]

    results = []
    for number in range(10):
        body, fields = update(float(number))
        header = pb.PutHeader(run_id=run_id, round=1, **fields)
        results.append(await put(federation, issued, header, body[:-1]))

    assert [each.outcome for each in results[4:]] == [pb.PUT_OUTCOME_REFUSED] * 6
    assert "at most 4" in results[-1].reason
    assert len(spooled(federation)) == 4


async def test_an_upload_that_was_begun_can_be_ended_though_no_other_may_begin(
    federation: Federation,
) -> None:
    run_id = await held_pair(federation)
    issued = federation.certificates["site-1"]
    bodies = [update(float(number)) for number in range(5)]
    for body, fields in bodies:
        await put(federation, issued, pb.PutHeader(run_id=run_id, round=1, **fields), body[:50])

    body, fields = bodies[2]
    header = pb.PutHeader(run_id=run_id, round=1, offset=50, **fields)
    result = await put(federation, issued, header, body[50:])

    assert result.outcome == pb.PUT_OUTCOME_ACCEPTED


async def test_a_client_reads_only_a_few_models_at_a_time(federation: Federation) -> None:
    study.hold["site-1"] = threading.Event()
    await federation.start_clients(1)
    # Larger than what the connection takes ahead of a reader that does not read.
    run_id = await federation.submit(job(cohort={"size": 1}, train={"size": 4_000_000}), study.app)
    issued = federation.certificates["site-1"]
    run = await federation.until_round(run_id, 1)
    request = pb.GetRequest(run_id=run_id, digest=run["model_digest"]).SerializeToString()

    async with channel(federation, issued) as wire:
        calls = [wire.unary_stream(GET)(request) for _ in range(12)]
        told = await asyncio.gather(*(call.read() for call in calls), return_exceptions=True)

    refused = [each for each in told if isinstance(each, grpc.aio.AioRpcError)]
    assert len(refused) >= 4
    assert {each.code() for each in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}


# --- what is forged is answered, and is no failure of the coordinator ---


FORGED = [("run-\x00", 1), ("run-a", 2**32 - 1), ("", 0)]


@pytest.mark.parametrize(("run_id", "number"), FORGED)
async def test_a_forged_task_is_refused_by_every_call(
    any_federation: Federation, run_id: str, number: int
) -> None:
    issued = any_federation.issue(Role.CLIENT, "site-1")
    body, fields = update()
    calls = {
        "put": pb.PutHeader(run_id=run_id, round=number, **fields),
        "get": pb.GetRequest(run_id=run_id, digest=fields["digest"]),
    }

    with pytest.raises(grpc.aio.AioRpcError) as put_refused:
        await put(any_federation, issued, calls["put"], body)
    async with channel(any_federation, issued) as wire:
        with pytest.raises(grpc.aio.AioRpcError) as get_refused:
            await wire.unary_stream(GET)(calls["get"].SerializeToString()).read()

    assert put_refused.value.code() == grpc.StatusCode.NOT_FOUND
    assert get_refused.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(("run_id", "number"), FORGED)
async def test_a_forged_report_does_not_end_the_session(
    any_federation: Federation, run_id: str, number: int
) -> None:
    key = pb.TaskKey(run_id=run_id, round=number, kind=pb.TASK_KIND_EVALUATE)
    hello = pb.Hello(protocol_version=PROTOCOL_VERSION, instance_id="one", apps=["counting"])
    messages = [
        pb.ClientMessage(hello=hello),
        pb.ClientMessage(evaluation=pb.EvaluationReport(key=key, examples=1)),
        pb.ClientMessage(failure=pb.TaskFailure(key=key, reason="no reason")),
    ]

    async with channel(any_federation, any_federation.issue(Role.CLIENT, "site-1")) as wire:
        call = wire.stream_stream(ATTACH)()
        for message in messages:
            await call.write(message.SerializeToString())
        read = [pb.ServerMessage.FromString(await call.read()) for _ in messages]

    assert read[0].HasField("welcome")
    assert not read[1].receipt.accepted
    assert not read[2].receipt.accepted


@pytest.mark.parametrize(
    "lie",
    [
        {"wall_time": float("nan")},
        {"wall_time": float("inf")},
        {"apps": ["x" * 64]},
        {"apps": ["\x1b[2J"]},
        {"instance_id": "\x00"},
    ],
)
async def test_a_hello_that_operators_could_not_be_shown_is_refused(
    federation: Federation, lie: dict[str, Any]
) -> None:
    hello = pb.Hello(**{"protocol_version": PROTOCOL_VERSION, "instance_id": "one", **lie})

    async with channel(federation, federation.issue(Role.CLIENT, "site-1")) as wire:
        call = wire.stream_stream(ATTACH)()
        await call.write(pb.ClientMessage(hello=hello).SerializeToString())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()

    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_client_is_not_told_where_the_database_is(federation: Federation) -> None:
    hello = pb.ClientMessage(hello=pb.Hello(protocol_version=PROTOCOL_VERSION, instance_id="one"))
    issued = federation.issue(Role.CLIENT, "site-1")

    with contextlib.closing(sqlite3.connect(federation.folder / "kumiai.db")) as database:
        database.execute("ALTER TABLE clients RENAME TO lost")
        database.commit()
    async with channel(federation, issued) as wire:
        call = wire.stream_stream(ATTACH)()
        await call.write(hello.SerializeToString())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()

    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "clients" not in str(caught.value.details())


async def test_a_report_under_the_coordinators_own_name_is_refused_and_not_waited_for(
    federation: Federation,
) -> None:
    await federation.start_clients(2)

    run_id = await federation.submit(
        job(
            run={"rounds": 1},
            cohort={"size": 2, "min_reports": 2},
            evaluation={"deadline_seconds": 3600},
            train={"poses": "site-1"},
        ),
        study.app,
    )
    await federation.wait_for(run_id)

    async with federation.http() as http:
        rounds = (await http.get(f"/api/v1/runs/{run_id}/rounds")).json()["rounds"]
        events = (await http.get(f"/api/v1/runs/{run_id}/events")).json()["events"]
    assert rounds[-1]["evaluation"] == {"first": 1.5}
    refused = [each for each in events if each["kind"] == "evaluate_refused"]
    assert {each["client_id"] for each in refused} == {"site-1"}
    assert all("must not begin with 'central.'" in each["text"] for each in refused)
