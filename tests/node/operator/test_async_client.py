"""The asynchronous side of the HTTP API: what is sent, and what becomes of each kind of answer."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import numpy as np
import pytest

from kumiai.core.codec import decode
from kumiai.core.digest import digest_of
from kumiai.core.errors import (
    ConfigError,
    IntegrityError,
    KumiaiError,
    NotFoundError,
    TransportError,
)
from kumiai.node.job import parse_job
from kumiai.node.operator.async_client import CoordinatorApi

Answer = tuple[int, Mapping[str, str], bytes]
Serve = Callable[[Answer], AbstractAsyncContextManager[tuple[CoordinatorApi, list[bytes]]]]


@pytest.fixture
def serve() -> Serve:
    """Return a server on loopback that gives one answer to everything and keeps what it is sent."""

    @asynccontextmanager
    async def run(answer: Answer) -> AsyncIterator[tuple[CoordinatorApi, list[bytes]]]:
        requests: list[bytes] = []

        async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
            body = await reader.readexactly(int(fields.get(b"Content-Length", b"0")))
            requests.append(head + body)
            status, headers, content = answer
            lines = [f"HTTP/1.1 {status} .", *(f"{k}: {v}" for k, v in headers.items())]
            writer.write("\r\n".join([*lines, "connection: close", "", ""]).encode() + content)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        async with server, CoordinatorApi(f"http://{host}:{port}", context) as api:
            yield api, requests

    return run


def as_json(value: object, status: int = 200) -> Answer:
    return status, {}, json.dumps(value).encode()


async def test_a_run_is_its_model_and_its_job(serve: Serve) -> None:
    job = parse_job({"run": {"app": "digits"}})
    model = {"weight": np.arange(3, dtype=np.float32)}

    async with serve(as_json({})) as (api, requests):
        run_id = await api.submit(job, model)

    upload, submission = requests
    head, _, content = upload.partition(b"\r\n\r\n")
    assert head.startswith(f"PUT /api/v1/runs/{run_id}/model ".encode())
    assert f"x-kumiai-digest: {digest_of([content])}".encode() in head.lower()
    assert decode(content).arrays["weight"].tolist() == [0, 1, 2]
    body = json.loads(submission.partition(b"\r\n\r\n")[2])
    assert body["model_digest"] == digest_of([content])
    assert parse_job(body["job"]) == job


async def test_lists_come_without_their_wrapping(serve: Serve) -> None:
    async with serve(as_json({"clients": [1], "rounds": [2]})) as (api, _):
        assert await api.clients() == [1]
        assert await api.rounds("run-1") == [2]


async def test_single_things_come_as_they_are(serve: Serve) -> None:
    async with serve(as_json({"state": "running"})) as (api, requests):
        assert await api.run("run-1") == {"state": "running"}
        assert await api.explain("run-1") == {"state": "running"}

    assert requests[1].startswith(b"GET /api/v1/runs/run-1/explain ")


@pytest.mark.parametrize(
    ("kind", "expected"), [("not_found", NotFoundError), ("config", ConfigError)]
)
async def test_an_error_is_what_it_was_at_the_coordinator(
    serve: Serve, kind: str, expected: type[KumiaiError]
) -> None:
    answer = as_json({"error": {"kind": kind, "message": "words"}}, 404)

    async with serve(answer) as (api, _):
        with pytest.raises(expected, match="words"):
            await api.run("run-1")
        with pytest.raises(expected, match="words"):
            _ = [event async for event in api.stream("run-1")]


@pytest.mark.parametrize("content", [b"<html>", b"[]", b'{"error": {"kind": "odd"}}'])
async def test_an_error_of_somebody_else_is_told_by_its_number(
    serve: Serve, content: bytes
) -> None:
    async with serve((502, {}, content)) as (api, _):
        with pytest.raises(KumiaiError, match="502"):
            await api.run("run-1")


async def test_a_model_is_checked_against_its_digest(serve: Serve) -> None:
    async with serve((200, {"X-Kumiai-Digest": digest_of([b"bytes"])}, b"bytes")) as (api, _):
        assert await api.model("run-1") == b"bytes"
    async with serve((200, {"X-Kumiai-Digest": digest_of([b"bytes"])}, b"bytez")) as (api, _):
        with pytest.raises(IntegrityError, match="must match its digest"):
            await api.model("run-1", 3)


async def test_a_stream_ends_with_its_end(serve: Serve) -> None:
    text = (
        b'retry: 1000\n\nid: 1\nevent: event\ndata: {"n": 1}\n\n: still here\n\n'
        b'event: end\ndata: {"state": "finished"}\n\nevent: event\ndata: {"n": 2}\n\n'
    )

    async with serve((200, {}, text)) as (api, _):
        events = [event async for event in api.stream("run-1")]

    assert [(event.kind, event.data) for event in events] == [
        ("event", {"n": 1}),
        ("end", {"state": "finished"}),
    ]


async def test_a_stream_without_end_was_cut_off(serve: Serve) -> None:
    async with serve((200, {}, b'event: event\ndata: {"n": 1}\n\n')) as (api, _):
        with pytest.raises(TransportError, match="cut off"):
            _ = [event async for event in api.stream("run-1")]


async def test_a_broken_stream_is_a_matter_of_transport(serve: Serve) -> None:
    async with serve((200, {"Content-Length": "1000"}, b"event: event\n")) as (api, _):
        with pytest.raises(TransportError, match="can not be reached"):
            _ = [event async for event in api.stream("run-1")]


async def test_readiness_is_the_status_and_nothing_else(serve: Serve) -> None:
    async with serve(as_json({"ready": True})) as (api, _):
        assert await api.is_ready()
    async with serve(as_json({"ready": False}, 503)) as (api, _):
        assert not await api.is_ready()


async def test_nobody_there_is_not_ready_and_can_not_be_reached() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    async with CoordinatorApi("https://127.0.0.1:1", context) as api:
        assert not await api.is_ready()
        with pytest.raises(TransportError, match="can not be reached"):
            await api.clients()
