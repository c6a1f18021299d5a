"""The gate in front of remote calls: a real gRPC server, with and without good certificates."""

import asyncio
import contextlib
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from kumiai.core.clock import SystemClock
from kumiai.identity import LimitRules, Refusal, RefusedCall
from kumiai.identity.rate_limits import CallLimits
from kumiai.node.coordinator.server import CoordinatorServer
from kumiai.node.wire.channel import (
    ATTACH,
    GET,
    PUT,
    STAT,
    TlsFiles,
    open_channel,
    server_credentials,
    server_options,
)
from kumiai.node.wire.peers import REMOTE_CALLS, AuthenticationInterceptor, caller_of
from tests.identity.forge import Forged, forge
from tests.integration.eventually import eventually
from tests.node.wire.gate import MEMBER, OPERATOR, ROOT, Suspensions, new_gate

HOLD_SECONDS = 0.3
DENIED = grpc.StatusCode.PERMISSION_DENIED
COORDINATOR = forge(by=ROOT, uris=(), hosts=["localhost"], serial=3, usages=None)


class ShiftedClock:
    """The machine's clock, put forward by as much as a test likes; it counts who looks at it."""

    def __init__(self) -> None:
        self.shift = 0.0
        self.looks: Counter[float] = Counter()

    def now(self) -> float:
        return SystemClock().now() + self.shift

    def monotonic(self) -> float:
        self.looks[self.shift] += 1
        return SystemClock().monotonic() + self.shift

    def looks_since(self, shift: float) -> int:
        return self.looks[shift]


class Service:
    """Answers with its caller's name; streams never end by themselves."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()

    async def unary(self, _request: bytes, _context: Any) -> bytes:
        return caller_of().name.encode()

    async def take(self, requests: AsyncIterator[bytes], _context: Any) -> bytes:
        async for _ in requests:
            pass
        return caller_of().name.encode()

    async def give(self, _request: bytes, _context: Any) -> AsyncIterator[bytes]:
        yield caller_of().name.encode()
        await self.forever()

    async def talk(self, _requests: AsyncIterator[bytes], context: Any) -> None:
        await context.write(caller_of().name.encode())
        await self.forever()

    async def forever(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()


class Running:
    """A server behind a gate."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.service = Service()
        self.suspensions = Suspensions()
        self.refused: list[RefusedCall] = []
        self.port = 0
        self.clock = ShiftedClock()
        self.gate: AuthenticationInterceptor

    def files(self, member: Forged) -> TlsFiles:
        name = f"{member.certificate.serial_number}"
        paths = [self.folder / f"{name}.{ending}" for ending in ("crt", "key", "ca")]
        for path, content in zip(paths, (member.pem, member.key_pem, ROOT.pem), strict=True):
            path.write_bytes(content)
        return TlsFiles(certificate=paths[0], key=paths[1], ca=paths[2])

    def channel(self, member: Forged = MEMBER) -> grpc.aio.Channel:
        return open_channel(f"localhost:{self.port}", self.files(member))

    def handlers(self) -> Mapping[str, Any]:
        return {
            ATTACH: grpc.stream_stream_rpc_method_handler(self.service.talk),
            PUT: grpc.stream_unary_rpc_method_handler(self.service.take),
            STAT: grpc.unary_unary_rpc_method_handler(self.service.unary),
            GET: grpc.unary_stream_rpc_method_handler(self.service.give),
            "/kumiai.v1.Blob/Forgotten": grpc.unary_unary_rpc_method_handler(self.service.unary),
        }


class Handlers(grpc.GenericRpcHandler):  # type: ignore[misc] # untyped
    def __init__(self, handlers: Mapping[str, Any]) -> None:
        self._handlers = handlers

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return self._handlers.get(details.method)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    running = Running(tmp_path)
    rules = LimitRules(identity_calls_per_second=0.01, identity_calls_max=5, failures_max=3)
    limits = CallLimits(SystemClock(), rules)
    gate = new_gate(denials=running.suspensions, on_refused=running.refused.append, limits=limits)
    interceptor = AuthenticationInterceptor(
        gate, running.clock, watch_seconds=0.05, hold_seconds=HOLD_SECONDS
    )
    running.gate = interceptor
    server = grpc.aio.server(interceptors=[interceptor], options=server_options())
    server.add_generic_rpc_handlers((Handlers(running.handlers()),))
    running.port = server.add_secure_port(
        "localhost:0",
        server_credentials(
            running.files(COORDINATOR), SystemClock(), interceptor.connections.note_accepted
        ),
    )
    await server.start()
    watching = asyncio.create_task(interceptor.watch())
    yield running
    watching.cancel()
    await server.stop(None)


class Gateway:
    """Notes whose connections are good for more than others'."""

    def __init__(self) -> None:
        self.known: list[list[str]] = []

    def let_through(self, strangers: float, known: float, addresses: Iterable[str]) -> None:
        self.known.append([*addresses])

    def let_all_through(self) -> None:
        raise AssertionError


@pytest.mark.parametrize(("member", "known"), [(OPERATOR, 0), (MEMBER, 1)])
async def test_a_connection_is_a_good_one_once_a_call_on_it_was_admitted(
    running: Running, member: Forged, known: int
) -> None:
    gateway = Gateway()
    async with running.channel(member) as wire:
        for _ in range(3):
            with contextlib.suppress(grpc.aio.AioRpcError):
                await wire.unary_unary(STAT)(b"")

    for _ in range(1_000):
        running.gate.connections.note_accepted()
    running.clock.shift += 1.0
    running.gate.pace.look(gateway)

    assert [len(addresses) for addresses in gateway.known] == [known]


async def attempt(running: Running, tls: ssl.SSLContext) -> None:
    """Connect, and wait until the server hangs up."""
    try:
        reader, writer = await asyncio.open_connection("localhost", running.port, ssl=tls)
        await reader.read()
        writer.close()
    except OSError:
        return


async def test_connections_that_came_to_no_call_are_told_by_their_number(running: Running) -> None:
    stranger = running.files(forge(serial=99))
    foreign = ssl.create_default_context(cafile=stranger.ca)
    foreign.load_cert_chain(stranger.certificate, stranger.key)
    too_old = ssl.create_default_context(cafile=stranger.ca)
    too_old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with running.channel() as wire:
        await wire.unary_unary(STAT)(b"")
        for tls in (foreign, foreign, too_old):
            await attempt(running, tls)
        await wire.unary_unary(STAT)(b"")

        running.clock.shift += 600.0
        await eventually(lambda: running.clock.looks_since(600.0) > 1)
        assert running.refused == []
        running.clock.shift += 600.0
        await eventually(lambda: running.refused)

    (call,) = running.refused
    assert (call.error.refusal, call.address, call.claimed) == (Refusal.NO_CALL, "", None)
    assert call.act == "3 connections to the clients' port in 600 s"
    assert "got 3 that made none" in str(call.error)


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(30):
            await call
    return caught.value.code(), caught.value.details() or ""


def test_every_remote_call_of_the_coordinator_is_in_the_table() -> None:
    class Anything:
        def __getattr__(self, name: str) -> Any:
            return None

    registered = set()
    for handler in CoordinatorServer._handlers(_server_with(Anything())):
        registered |= set(handler._method_handlers)  # type: ignore[attr-defined]

    assert registered == set(REMOTE_CALLS)


def _server_with(services: Any) -> Any:
    server: Any = CoordinatorServer.__new__(CoordinatorServer)
    server._sessions = server._blobs = services
    return server


async def test_each_kind_of_handler_is_told_who_calls(running: Running) -> None:
    async with running.channel() as channel:
        told = [
            await channel.unary_unary(STAT)(b""),
            await channel.stream_unary(PUT)(iter([b"one", b"two"])),
            await channel.unary_stream(GET)(b"").read(),
            await channel.stream_stream(ATTACH)().read(),
        ]

    assert told == [b"site-1"] * 4
    assert running.refused == []


@pytest.mark.parametrize("method", [ATTACH, PUT, STAT, GET])
async def test_who_lacks_the_permission_is_refused_and_told(running: Running, method: str) -> None:
    async with running.channel(OPERATOR) as channel:
        code, told = await refused(channel.unary_unary(method)(b""))

    assert code == DENIED
    assert f"must have the permission {REMOTE_CALLS[method]}, which the role client has" in told
    (call,) = running.refused
    assert call.act == method
    assert call.address in {"127.0.0.1", "::1"}
    assert call.claimed is not None
    assert call.claimed.name == "olivia"


async def test_a_call_that_nobody_has_listed_is_denied_to_everybody(running: Running) -> None:
    async with running.channel() as channel:
        listed, _ = await refused(channel.unary_unary("/kumiai.v1.Blob/Forgotten")(b""))
        unknown, _ = await refused(channel.unary_unary("/kumiai.v1.Blob/Unknown")(b""))

    assert listed == unknown == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("method", [ATTACH, GET])
async def test_an_open_call_ends_when_its_caller_is_suspended(
    running: Running, method: str
) -> None:
    async with running.channel() as channel:
        call = (
            channel.stream_stream(method)()
            if method == ATTACH
            else channel.unary_stream(method)(b"")
        )
        await call.read()

        running.suspensions.names.add("site-1")

        code, told = await refused(call.read())

    assert (code, running.service.cancelled.is_set()) == (DENIED, True)
    assert "is suspended" in told


async def test_a_call_that_its_caller_gives_up_is_no_refusal(running: Running) -> None:
    async with running.channel() as channel:
        call = channel.unary_stream(GET)(b"")
        await call.read()
        call.cancel()

        async with asyncio.timeout(30):
            await running.service.cancelled.wait()

    assert running.refused == []


async def test_who_calls_too_often_is_asked_to_wait(running: Running) -> None:
    async with running.channel() as channel:
        stat = channel.unary_unary(STAT)
        for _ in range(5):
            await stat(b"")

        began = SystemClock().monotonic()
        code, told = await refused(stat(b""))

    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "at most" in told
    assert SystemClock().monotonic() - began >= HOLD_SECONDS


async def test_who_was_refused_too_often_waits_for_each_further_answer(running: Running) -> None:
    running.suspensions.names.add("site-1")
    async with running.channel() as channel:
        stat = channel.unary_unary(STAT)
        for _ in range(3):
            await refused(stat(b""))

        began = SystemClock().monotonic()
        code, told = await refused(stat(b""))

    assert code == DENIED
    assert "must wait after so many refusals" in told
    assert SystemClock().monotonic() - began >= HOLD_SECONDS


async def test_no_handler_runs_without_a_gate() -> None:
    with pytest.raises(LookupError):
        caller_of()
