"""The coordinator's start and stop when a part of it fails: nothing stays open behind it."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from kumiai.core.clock import SystemClock
from kumiai.core.errors import ConfigError, KumiaiError, StorageError
from kumiai.identity import CertificateManager, Role
from kumiai.node.coordinator.server import CoordinatorServer, HttpServer
from kumiai.node.coordinator.sessions import SessionHub
from kumiai.node.wire.channel import TlsFiles
from kumiai.node.wire.peers import AuthenticationInterceptor


class Parts:
    """The parts around the server, played; they tell what was called."""

    def __init__(self, folder: Path) -> None:
        authority = CertificateManager(folder / "ca", clock=SystemClock())
        authority.create("test")
        issued = authority.issue(
            Role.COORDINATOR, "coordinator", hosts=("localhost", "127.0.0.1"), out_dir=folder / "c"
        )
        self.tls = TlsFiles(certificate=issued.cert, key=issued.key, ca=issued.ca)
        self.calls: list[str] = []
        self.failing: dict[str, Exception] = {}
        self.leading_error: Exception | None = None

    def step(self, name: str, result: Any = None) -> Callable[[], Awaitable[Any]]:
        async def called() -> Any:
            self.calls.append(name)
            if name in self.failing:
                raise self.failing[name]
            return result

        return called

    def server(self) -> CoordinatorServer:
        handlers: Any = Handlers()
        supervisor: Any = self
        gate: Any = None
        return CoordinatorServer(
            listen="127.0.0.1:0",
            tls=self.tls,
            sessions=handlers,
            blobs=handlers,
            hub=SessionHub(SystemClock()),
            supervisor=supervisor,
            gate=AuthenticationInterceptor(gate, SystemClock(), wasted_per_second=5.0),
            clock=SystemClock(),
            http=HttpServer(
                start=self.step("http start", 1), ended=never, stop=self.step("http stop")
            ),
            open_stores=self.step("stores open"),
            stores_ended=never,
            close_stores=self.step("stores close"),
        )

    async def serve(self) -> None:
        if self.leading_error is not None:
            raise self.leading_error
        await never()


async def never() -> None:
    await asyncio.Event().wait()


class Handlers:
    """gRPC handlers that nobody calls."""

    def __getattr__(self, name: str) -> Any:
        return None


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path)


async def test_a_start_that_fails_at_the_last_port_closes_all_before_it(parts: Parts) -> None:
    parts.failing["http start"] = ConfigError("the port is taken")
    server = parts.server()

    with pytest.raises(ConfigError, match="taken"):
        await server.start()

    assert parts.calls[-1] == "stores close"
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port), 1)


async def test_a_leader_that_breaks_does_not_keep_the_rest_from_closing(parts: Parts) -> None:
    parts.leading_error = RuntimeError("leading broke")
    server = parts.server()
    await server.start()
    with pytest.raises(KumiaiError, match=r"leading of runs must go on .* by RuntimeError"):
        await server.serve()

    await server.stop()

    assert parts.calls[-2:] == ["http stop", "stores close"]


async def test_who_stops_serving_leaves_the_parts_running(parts: Parts) -> None:
    server = parts.server()
    await server.start()
    serving = asyncio.create_task(server.serve())
    await asyncio.sleep(0)

    serving.cancel()
    await asyncio.wait({serving})

    assert serving.cancelled()
    with socket.create_connection(("127.0.0.1", server.port), 1):
        pass
    await server.stop()


async def connected(port: int, patience_seconds: float = 0.1) -> bool:
    """Return whether a connection was let in; it says nothing that is a handshake."""
    try:
        async with asyncio.timeout(patience_seconds):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except TimeoutError:
        return False
    writer.write(b"no handshake")
    with contextlib.suppress(OSError):
        await reader.read()
    writer.close()
    return True


async def flooded(server: CoordinatorServer) -> int:
    """Return how many connections of several hundred were let in."""
    let_in = 0
    for _ in range(12):
        let_in += sum(await asyncio.gather(*(connected(server.port) for _ in range(64))))
    return let_in


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can drop them in the kernel")
async def test_connections_that_come_to_nothing_are_thinned_out_before_their_handshakes(
    parts: Parts,
) -> None:
    server = parts.server()
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)

    let_in = await flooded(server)

    assert let_in < 12 * 64 / 2
    # Who is open already does not notice: it still gets its answer, here the end.
    writer.write(b"no handshake")
    with contextlib.suppress(OSError):
        assert await reader.read() == b""
    writer.close()
    async with asyncio.timeout(30):
        while not await connected(server.port, patience_seconds=5):
            pass
    await server.stop()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port), 1)


async def test_a_server_that_was_never_started_has_nothing_to_serve(parts: Parts) -> None:
    await parts.server().serve()


async def test_a_part_that_can_not_be_stopped_does_not_keep_the_rest_open(parts: Parts) -> None:
    parts.failing["http stop"] = StorageError("no")
    server = parts.server()
    await server.start()

    with pytest.raises(StorageError):
        await server.stop()

    assert parts.calls[-1] == "stores close"
