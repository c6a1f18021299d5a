import asyncio
import signal
import socket
import ssl
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from kumiai.core import errors
from kumiai.core.error_kinds import ERRORS_BY_KIND, kind_of
from kumiai.identity import server_context
from kumiai.node.http import new_http_server
from kumiai.node.http.errors import STATUSES, answer_http_error, answer_invalid_request
from kumiai.node.http.server import _HttpService
from kumiai.storage import DatabaseManager
from kumiai.testing.databases import SQLiteTemplate
from tests.node.http.api import Certificates, RunningApi, running_api
from tests.node.wire.gate import new_gate


@pytest.fixture
def database_url(sqlite_template: SQLiteTemplate, tmp_path: Path) -> str:
    return sqlite_template.copy_to(tmp_path / "kumiai.db")


def context_of(certificates: Certificates) -> object:
    own = certificates.coordinator
    return server_context(own.cert, own.key, own.ca, client_certificate="optional")


async def test_signals_stay_with_the_program(
    certificates: Certificates, database: DatabaseManager, tmp_path: Path
) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]

    async with running_api(certificates, database, tmp_path) as api:
        await api.caller(None).get("/healthz")
        during = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]

    assert during == before


async def test_a_port_that_is_taken_is_a_setting_to_correct(certificates: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        server = new_http_server(FastAPI(), listen, context_of(certificates), new_gate())  # type: ignore[arg-type]

        with pytest.raises(errors.ConfigError, match=f"http_listen .* {listen}"):
            await server.start()


async def test_a_host_that_does_not_exist_is_a_setting_to_correct(
    certificates: Certificates,
) -> None:
    server = new_http_server(
        FastAPI(), "no-such-host.invalid:0", context_of(certificates), new_gate()
    )  # type: ignore[arg-type]

    with pytest.raises(errors.ConfigError, match="http_listen"):
        await server.start()


async def test_a_server_that_never_started_stops_at_once(certificates: Certificates) -> None:
    server = new_http_server(FastAPI(), "127.0.0.1:0", context_of(certificates), new_gate())  # type: ignore[arg-type]

    await server.stop()


async def test_a_server_that_has_ended_says_so_and_still_frees_the_port(
    certificates: Certificates,
) -> None:
    app = FastAPI()
    app.state.closing = asyncio.Event()
    service = _HttpService(app, "127.0.0.1:0", context_of(certificates), new_gate(), 30)  # type: ignore[arg-type]
    await service.ended()
    port = await service.start()
    ended = asyncio.create_task(service.ended())
    assert service._serving is not None

    service._serving.cancel()
    await asyncio.wait({ended})
    await service.stop()

    assert ended.cancelled()
    with socket.create_server(("127.0.0.1", port)):
        pass


async def test_stopping_ends_open_streams_without_an_end_and_frees_the_port(
    certificates: Certificates, database: DatabaseManager, tmp_path: Path
) -> None:
    lines: list[str] = []
    async with running_api(certificates, database, tmp_path) as api:
        run_id = await api.submit()
        has_begun = asyncio.Event()

        async def follow() -> None:
            async with api.operator.stream("GET", f"/api/v1/runs/{run_id}/stream") as answer:
                async for line in answer.aiter_lines():
                    lines.append(line)
                    has_begun.set()

        following = asyncio.create_task(follow())
        await has_begun.wait()
        port = int(api.url.rpartition(":")[2])
        async with asyncio.timeout(30):
            await api.stop()
        async with asyncio.timeout(30):
            await following

    assert "event: end" not in lines
    with socket.create_server(("127.0.0.1", port)):
        pass


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"])
async def test_a_connection_without_a_whole_request_is_closed(
    certificates: Certificates, sent: bytes
) -> None:
    app = FastAPI()
    app.state.closing = asyncio.Event()
    server = new_http_server(
        app, "127.0.0.1:0", context_of(certificates), new_gate(), idle_seconds=1
    )  # type: ignore[arg-type]
    port = await server.start()
    try:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=certificates.context(None)
        )
        writer.write(sent)

        async with asyncio.timeout(30):
            assert await reader.read() == b""
        writer.close()
    finally:
        await server.stop()


async def answers_on_one_connection(
    api: RunningApi, context: ssl.SSLContext, path: str, *, token: str = ""
) -> tuple[int, bytes]:
    """Return how many of three requests on one connection are answered, and the last answer."""
    port = int(api.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    sign = f"Authorization: Bearer {token}\r\n" if token else ""
    last = "Connection: close\r\n"
    writer.writelines(
        f"GET {path} HTTP/1.1\r\nHost: x\r\n{sign}{end}\r\n".encode() for end in ("", "", last)
    )
    async with asyncio.timeout(30):
        said = await reader.read()
    writer.close()
    return said.count(b"HTTP/1.1 "), said


@pytest.mark.parametrize(
    ("path", "status"),
    [("/healthz", 200), ("/api/v1/runs", 403), ("/api/v1/info", 403), ("/no-such-page", 404)],
)
async def test_who_is_not_known_has_to_connect_again_for_each_request(
    certificates: Certificates, database: DatabaseManager, tmp_path: Path, path: str, status: int
) -> None:
    async with running_api(certificates, database, tmp_path) as api:
        count, said = await answers_on_one_connection(api, certificates.context(None), path)

    assert count == 1
    assert said.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"connection: close\r\n" in said.lower()


async def test_who_is_known_stays_connected(
    certificates: Certificates, database: DatabaseManager, tmp_path: Path
) -> None:
    async with running_api(certificates, database, tmp_path) as api:
        wanted = {"name": "nightly", "permissions": ["runs.read"]}
        token = (await api.operator.post("/api/v1/tokens", json=wanted)).json()["token"]
        nobody, operator = (certificates.context(each) for each in (None, certificates.operator))

        by_certificate, _ = await answers_on_one_connection(api, operator, "/api/v1/info")
        by_token, _ = await answers_on_one_connection(api, nobody, "/api/v1/runs", token=token)

    assert (by_certificate, by_token) == (3, 3)


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (errors.ConfigError, 422, "config"),
        (errors.NotFoundError, 404, "not_found"),
        (errors.DeniedError, 403, "denied"),
        (errors.CertificateError, 403, "denied"),
        (errors.DivergedError, 500, "diverged"),
        (errors.DeadlineError, 504, "deadline"),
        (errors.QuorumLostError, 504, "quorum_lost"),
        (errors.IntegrityError, 400, "integrity"),
        (errors.CodecError, 400, "integrity"),
        (errors.ConflictError, 409, "conflict"),
        (errors.FencedError, 409, "conflict"),
        (errors.StorageError, 503, "storage"),
        (errors.SchemaError, 503, "storage"),
        (errors.TransportError, 500, "internal"),
        (errors.KumiaiError, 500, "internal"),
    ],
)
def test_each_error_has_its_answer(error: type[errors.KumiaiError], status: int, kind: str) -> None:
    found = kind_of(error("x"))

    assert (STATUSES[found], found) == (status, kind)


def test_every_kind_of_error_has_a_status() -> None:
    assert STATUSES.keys() == ERRORS_BY_KIND.keys()


async def test_an_answer_for_one_error_is_not_given_for_another() -> None:
    with pytest.raises(TypeError, match="HTTPException"):
        await answer_http_error(None, ValueError())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="RequestValidationError"):
        await answer_invalid_request(None, HTTPException(400))  # type: ignore[arg-type]
    assert issubclass(RequestValidationError, Exception)
