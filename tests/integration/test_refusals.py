"""Who and what gets nowhere, and what they are told."""

import asyncio
import re
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from structlog.testing import capture_logs

from kumiai.core.clock import SystemClock
from kumiai.core.codec import encode
from kumiai.core.digest import digest_of
from kumiai.core.errors import CertificateError, ConflictError
from kumiai.identity import CertificateManager, IssuedCertificate, Role
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.node.wire.channel import (
    ATTACH,
    GET,
    PROTOCOL_VERSION,
    PUT,
    STAT,
    TlsFiles,
    open_channel,
)
from kumiai.testing.databases import SQLiteTemplate
from tests.integration import study
from tests.integration.eventually import eventually
from tests.integration.federation import Federation, job

DENIED = grpc.StatusCode.PERMISSION_DENIED
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
async def federation(tmp_path: Path, sqlite_template: SQLiteTemplate) -> AsyncIterator[Federation]:
    """Lend a started coordinator."""
    federation = Federation(tmp_path, sqlite_template.copy_to(tmp_path / "kumiai.db"))
    await federation.start()
    yield federation
    study.hold.clear()
    await federation.stop()


def channel(federation: Federation, issued: IssuedCertificate) -> grpc.aio.Channel:
    assert federation.server is not None
    files = TlsFiles(certificate=issued.cert, key=issued.key, ca=issued.ca)
    return open_channel(f"localhost:{federation.server.port}", files)


async def put(
    federation: Federation, issued: IssuedCertificate, header: pb.PutHeader, *chunks: bytes
) -> pb.PutResult:
    """Send a put as a client that obeys no rules."""

    def messages() -> Iterator[bytes]:
        yield header.SerializeToString()
        yield from chunks

    async with channel(federation, issued) as wire:
        call = wire.stream_unary(PUT)(messages())
        async with asyncio.timeout(10):
            return pb.PutResult.FromString(await call)


async def held_run(federation: Federation, **tables: Any) -> str:
    """Return a run whose first round waits for site-1."""
    study.hold["site-1"] = threading.Event()
    await federation.start_clients(1)
    run_id = await federation.submit(job(cohort={"size": 1}, **tables), study.app)
    await federation.until_round(run_id, 1)
    return run_id


def update(values: float = 1.0, **changes: Any) -> tuple[bytes, dict[str, Any]]:
    """Return a good update for the counting study, and its header's fields."""
    arrays: dict[str, Any] = {"w": np.full(8, values, np.float32), "steps": np.ones((), np.int64)}
    arrays.update(changes)
    body = b"".join(encode(arrays))
    told = {"digest": digest_of([body]), "size_bytes": len(body), "examples": 10}
    return body, {"attempt": 1, **told}


# --- identities ---


async def test_a_certificate_of_another_federation_is_refused(
    federation: Federation, tmp_path: Path
) -> None:
    foreign = CertificateManager(tmp_path / "foreign-ca", clock=SystemClock())
    foreign.create("test")
    issued = foreign.issue(Role.CLIENT, "site-1", out_dir=tmp_path / "foreign")

    with pytest.raises(CertificateError, match="another authority"):
        async with asyncio.timeout(20):
            await federation.start_client("site-1", certificate=issued)


async def test_a_certificate_of_the_wrong_role_is_refused(federation: Federation) -> None:
    async with channel(federation, federation.certificates["operator"]) as wire:
        call = wire.stream_stream(ATTACH)()
        with pytest.raises(grpc.aio.AioRpcError, match=r"permission rounds\.join") as caught:
            async with asyncio.timeout(10):
                await call.read()

    assert caught.value.code() == DENIED


async def test_a_revoked_client_is_refused_at_the_door(federation: Federation) -> None:
    issued = federation.issue(Role.CLIENT, "site-1")
    federation.authority.revoke("site-1", "key-compromise")
    federation.authority.revocation_list()

    with (
        capture_logs() as logged,
        pytest.raises(CertificateError, match="revoked"),
    ):
        async with asyncio.timeout(20):
            await federation.start_client("site-1", certificate=issued)

    refused = [each for each in logged if each["event"] == "caller refused"]
    assert "kumiai://test/client/site-1" in refused[0]["reason"]


async def test_a_client_that_is_revoked_while_attached_is_sent_away(
    federation: Federation,
) -> None:
    await federation.start_clients(1)

    federation.authority.revoke("site-1", "key-compromise")
    federation.authority.revocation_list()

    with pytest.raises(CertificateError, match="revoked"):
        async with asyncio.timeout(10):
            await federation.clients["site-1"]


async def test_an_expired_certificate_is_refused_before_it_connects(
    federation: Federation, tmp_path: Path
) -> None:
    forty_days_ago = SystemClock().now() - 40 * 86_400
    old = CertificateManager(tmp_path / "old-ca", clock=FixedClock(forty_days_ago))
    old.create("test")
    issued = old.issue(Role.CLIENT, "site-9", days=1, out_dir=tmp_path / "old")

    with pytest.raises(CertificateError, match="expired"):
        federation.start_client("site-9", certificate=issued)


async def test_a_second_process_with_the_same_identity_is_refused(federation: Federation) -> None:
    await federation.start_clients(1)
    first = federation.clients["site-1"]

    with pytest.raises(ConflictError, match="already attached"):
        async with asyncio.timeout(30):
            await federation.start_client("site-1", data={"number": 1})

    assert not first.done()
    federation.clients["site-1"] = first


async def test_a_successor_takes_the_place_of_a_dead_twin(federation: Federation) -> None:
    issued = federation.issue(Role.CLIENT, "site-1")
    async with channel(federation, issued) as wire:
        dead = wire.stream_stream(ATTACH)()
        hello = pb.Hello(protocol_version=PROTOCOL_VERSION, instance_id="dead", apps=["counting"])
        await dead.write(pb.ClientMessage(hello=hello).SerializeToString())
        await dead.read()

        federation.start_client("site-1", certificate=issued, data={"number": 1})

        async with asyncio.timeout(15):
            await federation.agents["site-1"].attached.wait()


@pytest.mark.parametrize("other", [PROTOCOL_VERSION - 1, PROTOCOL_VERSION + 1])
async def test_a_client_of_another_protocol_version_is_told_so(
    federation: Federation, other: int
) -> None:
    async with channel(federation, federation.issue(Role.CLIENT, "site-1")) as wire:
        call = wire.stream_stream(ATTACH)()
        hello = pb.Hello(protocol_version=other, instance_id="new")
        await call.write(pb.ClientMessage(hello=hello).SerializeToString())
        with pytest.raises(
            grpc.aio.AioRpcError, match=f"must be {PROTOCOL_VERSION}, got {other}"
        ) as caught:
            await call.read()

    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize("junk", [b"", b"\xff\xff\xff", b"\x12\x00", b"x" * 300_000])
async def test_junk_instead_of_a_hello_ends_the_session(
    federation: Federation, junk: bytes
) -> None:
    async with channel(federation, federation.issue(Role.CLIENT, "site-1")) as wire:
        call = wire.stream_stream(ATTACH)()
        await call.write(junk)
        with pytest.raises(grpc.aio.AioRpcError, match="must be a hello") as caught:
            await call.read()

    assert caught.value.code() == INVALID


async def test_tls_1_2_is_refused(federation: Federation) -> None:
    assert federation.server is not None
    issued = federation.issue(Role.CLIENT, "site-1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(issued.ca)
    context.load_cert_chain(issued.cert, issued.key)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    port = federation.server.port

    def handshake() -> None:
        with (
            socket.create_connection(("localhost", port), 5) as plain,
            context.wrap_socket(plain, server_hostname="localhost"),
        ):
            pass

    with pytest.raises(ssl.SSLError):
        await asyncio.to_thread(handshake)


# --- jobs ---


async def test_a_job_for_an_app_that_nobody_has_waits_and_says_so(federation: Federation) -> None:
    await federation.start_clients(1)
    run_id = await federation.submit({"run": {"app": "other", "rounds": 1}}, study.app)

    async with federation.http() as http:
        await eventually(
            lambda: http.get(f"/api/v1/runs/{run_id}/explain"),
            lambda answer: "'other'" in answer.text,
        )


# --- updates ---


async def test_an_update_for_a_round_that_was_not_given_is_refused(federation: Federation) -> None:
    run_id = await held_run(federation)
    body, fields = update()
    stranger = federation.issue(Role.CLIENT, "stranger")

    with pytest.raises(grpc.aio.AioRpcError, match="was not asked") as caught:
        await put(federation, stranger, pb.PutHeader(run_id=run_id, round=1, **fields), body)

    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_a_truncated_update_is_kept_to_be_resumed(federation: Federation) -> None:
    run_id = await held_run(federation)
    body, fields = update()
    issued = federation.certificates["site-1"]
    header = pb.PutHeader(run_id=run_id, round=1, **fields)

    first = await put(federation, issued, header, body[:50])
    header.offset = first.received_bytes
    second = await put(federation, issued, header, body[50:])

    assert (first.outcome, first.received_bytes) == (pb.PUT_OUTCOME_RESUME, 50)
    assert second.outcome == pb.PUT_OUTCOME_ACCEPTED


async def test_an_update_sent_twice_counts_once(federation: Federation) -> None:
    run_id = await held_run(federation, run={"rounds": 1})
    body, fields = update()
    header = pb.PutHeader(run_id=run_id, round=1, **fields)

    results = [
        await put(federation, federation.certificates["site-1"], header, body) for _ in range(2)
    ]
    await federation.wait_for(run_id)

    assert [each.outcome for each in results] == [pb.PUT_OUTCOME_ACCEPTED] * 2
    np.testing.assert_array_equal((await federation.model(run_id))["w"], np.ones(8))


async def test_an_update_longer_than_announced_is_refused(federation: Federation) -> None:
    run_id = await held_run(federation)
    body, fields = update()
    header = pb.PutHeader(run_id=run_id, round=1, **fields)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await put(federation, federation.certificates["site-1"], header, body + b"more")

    assert caught.value.code() == INVALID
    assert spooled(federation) == []


async def test_an_update_larger_than_the_model_is_refused_before_its_bytes(
    federation: Federation,
) -> None:
    run_id = await held_run(federation)
    _, fields = update()
    header = pb.PutHeader(run_id=run_id, round=1, **{**fields, "size_bytes": 1 << 40})

    with pytest.raises(grpc.aio.AioRpcError, match="update must be 1 to"):
        await put(federation, federation.certificates["site-1"], header)


async def test_an_update_with_another_digest_than_announced_is_refused(
    federation: Federation,
) -> None:
    run_id = await held_run(federation)
    body, fields = update()
    header = pb.PutHeader(run_id=run_id, round=1, **fields)

    with pytest.raises(grpc.aio.AioRpcError, match="digest"):
        await put(federation, federation.certificates["site-1"], header, body[:-1] + b"\x00")

    assert spooled(federation) == []


@pytest.mark.parametrize(
    ("changes", "fields", "reason"),
    [
        ({"w": np.full(8, np.nan, np.float32)}, {}, "NaN"),
        ({"w": np.ones(9, np.float32)}, {}, r"float32\[8\]"),
        ({"w": np.ones(8, np.float64)}, {}, r"float32\[8\]"),
        ({"more": np.ones(1, np.float32)}, {}, "'more'"),
        ({}, {"examples": 0}, "examples must be"),
        ({}, {"examples": 2**60}, "examples must be"),
        ({}, {"metrics": {"loss": float("inf")}}, "metric 'loss' must be a finite number"),
        ({}, {"metrics": {"central.loss": 1.0}}, "must not begin with 'central.'"),
    ],
)
async def test_an_update_that_can_not_enter_the_sum_is_refused_with_its_reason(
    federation: Federation, changes: dict[str, Any], fields: dict[str, Any], reason: str
) -> None:
    run_id = await held_run(federation, run={"rounds": 1})
    body, good = update(**changes)
    header = pb.PutHeader(run_id=run_id, round=1, **{**good, **fields})

    result = await put(federation, federation.certificates["site-1"], header, body)

    assert result.outcome == pb.PUT_OUTCOME_REFUSED
    assert re.search(reason, result.reason)
    assert spooled(federation) == []


async def test_bytes_that_are_no_arrays_are_refused(federation: Federation) -> None:
    run_id = await held_run(federation)
    body = b"no arrays at all"
    header = pb.PutHeader(
        run_id=run_id,
        round=1,
        attempt=1,
        digest=digest_of([body]),
        size_bytes=len(body),
        examples=1,
    )

    result = await put(federation, federation.certificates["site-1"], header, body)

    assert result.outcome == pb.PUT_OUTCOME_REFUSED


@pytest.mark.parametrize("path", ["../../etc/passwd", "a/b", ""])
async def test_a_run_id_can_not_name_a_path(federation: Federation, path: str) -> None:
    issued = federation.issue(Role.CLIENT, "site-1")
    body, fields = update()

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await put(federation, issued, pb.PutHeader(run_id=path, round=1, **fields), body)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND

    async with channel(federation, issued) as wire:
        stat = pb.StatRequest(run_id=path, round=1, digest="0" * 64)
        with pytest.raises(grpc.aio.AioRpcError):
            await wire.unary_unary(STAT)(stat.SerializeToString())


async def test_a_put_without_a_header_is_refused(federation: Federation) -> None:
    async with channel(federation, federation.issue(Role.CLIENT, "site-1")) as wire:
        with pytest.raises(grpc.aio.AioRpcError, match="must begin with its header"):
            await wire.stream_unary(PUT)(iter(()))


# --- models ---


async def test_a_client_reads_no_model_of_a_run_that_is_not_its_own(
    federation: Federation,
) -> None:
    run_id = await held_run(federation)
    async with federation.http() as http:
        digest = (await http.get(f"/api/v1/runs/{run_id}")).json()["model_digest"]
    request = pb.GetRequest(run_id=run_id, digest=digest).SerializeToString()

    async with channel(federation, federation.issue(Role.CLIENT, "stranger")) as wire:
        with pytest.raises(grpc.aio.AioRpcError, match="no model"):
            await wire.unary_stream(GET)(request).read()
    async with channel(federation, federation.certificates["site-1"]) as wire:
        assert len(await wire.unary_stream(GET)(request).read()) > 64


async def test_a_client_can_not_read_another_clients_update(federation: Federation) -> None:
    run_id = await held_run(federation)
    body, fields = update()
    header = pb.PutHeader(run_id=run_id, round=1, **fields)
    await put(federation, federation.certificates["site-1"], header, body[:-4])
    request = pb.GetRequest(run_id=run_id, digest=fields["digest"]).SerializeToString()

    async with channel(federation, federation.certificates["site-1"]) as wire:
        with pytest.raises(grpc.aio.AioRpcError, match="no model"):
            await wire.unary_stream(GET)(request).read()


class FixedClock:
    """A clock that stands."""

    def __init__(self, now: float) -> None:
        self._now = now

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now


def spooled(federation: Federation) -> list[Path]:
    """Return the files that updates have left in the coordinator's blob folder."""
    folder = federation.folder / "data" / "blobs" / "updates"
    return [path for path in folder.rglob("*") if path.is_file() and not _is_lock(path)]


def _is_lock(path: Path) -> bool:
    return path.suffix == ".lock"
