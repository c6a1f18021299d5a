"""Who answers: asked of a real gRPC server behind its gate, which proves it, or does not."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from kumiai.core.clock import SystemClock
from kumiai.core.errors import CertificateError
from kumiai.identity import RevocationList
from kumiai.node.client.coordinator_check import CoordinatorCheck, Question
from kumiai.node.wire.channel import PUT, STAT, TlsFiles, open_channel, server_credentials
from kumiai.node.wire.peers import AuthenticationInterceptor
from kumiai.node.wire.proving import CHALLENGE_KEY, CoordinatorProver
from tests.identity.forge import FEDERATION, Forged, forge
from tests.node.wire.gate import MEMBER, ROOT, Suspensions, new_gate

URI = f"kumiai://{FEDERATION}/coordinator/main"
USAGES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


def coordinator(serial: int) -> Forged:
    return forge(by=ROOT, uris=[URI], hosts=["localhost"], serial=serial, usages=USAGES)


class Known:
    """What a client knows to be revoked."""

    serials: frozenset[int] | None = None

    def current(self) -> RevocationList | None:
        return None if self.serials is None else RevocationList((), self.serials)


class Place:
    """A server, a client, and their files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.taken: list[bytes] = []
        self.suspensions = Suspensions()
        self.server_files = self.write("server", coordinator(5))
        self.files = self.write("client", MEMBER)
        self.known = Known()
        known: Any = self.known
        self.check = CoordinatorCheck(known, self.files, SystemClock())
        self.server: grpc.aio.Server | None = None
        self.port = 0

    def write(self, name: str, member: Forged) -> TlsFiles:
        paths = [self.folder / f"{name}.{ending}" for ending in ("crt", "key", "ca")]
        for path, content in zip(paths, (member.pem, member.key_pem, ROOT.pem), strict=True):
            path.write_bytes(content)
        return TlsFiles(certificate=paths[0], key=paths[1], ca=paths[2])

    async def start(self, *, proves: bool = True) -> None:
        prover = CoordinatorProver(self.server_files, SystemClock()) if proves else None
        gate = AuthenticationInterceptor(
            new_gate(denials=self.suspensions), SystemClock(), prover=prover
        )
        self.server = grpc.aio.server(interceptors=[gate])
        handlers = {
            "Put": grpc.stream_unary_rpc_method_handler(self.put),
            "Stat": grpc.unary_unary_rpc_method_handler(self.stat),
        }
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("kumiai.v1.Blob", handlers),)
        )
        credentials = server_credentials(self.server_files, SystemClock())
        self.port = self.server.add_secure_port("localhost:0", credentials)
        await self.server.start()

    async def put(self, messages: AsyncIterator[bytes], _context: Any) -> bytes:
        self.taken += [message async for message in messages]
        return b"taken"

    async def stat(self, request: bytes, _context: Any) -> bytes:
        return request

    def channel(self) -> grpc.aio.Channel:
        return open_channel(f"localhost:{self.port}", self.files)

    async def asked(self) -> str:
        """Return the serial number of the coordinator's certificate, as it was proved."""
        async with self.channel() as channel:
            question = Question()
            call = channel.unary_unary(STAT)(b"x", metadata=question.metadata)
            peer = await self.check.verify(call, question)
            assert await call == b"x"
        return "none" if peer is None else str(peer.serials[0])


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(tmp_path)
    yield place
    if place.server is not None:
        await place.server.stop(None)


async def test_who_asks_is_told_which_certificate_answers(place: Place) -> None:
    await place.start()

    assert await place.asked() == "5"
    assert not await place.check.insists()
    place.known.serials = frozenset({6})
    assert await place.check.insists()
    assert await place.asked() == "5"


async def test_a_renewed_certificate_is_proved_and_one_without_its_key_is_not_taken_up(
    place: Place,
) -> None:
    await place.start()
    old_key = place.server_files.key.read_bytes()

    place.write("server", coordinator(8))
    assert await place.asked() == "8"
    place.write("server", coordinator(9))
    place.server_files.key.write_bytes(old_key)
    assert await place.asked() == "8"


async def test_a_revoked_coordinator_is_refused_then_and_afterwards(place: Place) -> None:
    await place.start()
    async with place.channel() as channel:
        question = Question()
        call = channel.unary_unary(STAT)(b"x", metadata=question.metadata)
        peer = await place.check.verify(call, question)
    await place.check.verify_again(peer)
    await place.check.verify_again(None)
    place.known.serials = frozenset({5})

    with pytest.raises(CertificateError, match="must not be revoked, got serial 5"):
        await place.asked()
    with pytest.raises(CertificateError, match="must not be revoked, got serial 5"):
        await place.check.verify_again(peer)


async def test_without_a_proof_a_client_insists_only_if_it_knows_a_list(place: Place) -> None:
    await place.start(proves=False)

    assert await place.asked() == "none"
    place.known.serials = frozenset()
    with pytest.raises(CertificateError, match="must prove which certificate it holds"):
        await place.asked()


async def test_nothing_of_a_stream_is_sent_before_the_proof_has_come(place: Place) -> None:
    await place.start()
    is_trusted = asyncio.Event()

    async def messages() -> AsyncIterator[bytes]:
        await is_trusted.wait()
        yield b"update"

    async with place.channel() as channel:
        question = Question()
        call = channel.stream_unary(PUT)(messages(), metadata=question.metadata)
        async with asyncio.timeout(30):
            await place.check.verify(call, question)
        assert place.taken == []
        is_trusted.set()
        assert await call == b"taken"

    assert place.taken == [b"update"]


async def test_a_call_that_is_refused_tells_so_itself(place: Place) -> None:
    await place.start()
    place.known.serials = frozenset()
    place.suspensions.names.add("site-1")

    async with place.channel() as channel:
        question = Question()
        call = channel.unary_unary(STAT)(b"x", metadata=question.metadata)
        assert await place.check.verify(call, question) is None
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call

    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_challenge_of_another_length_is_refused(place: Place) -> None:
    await place.start()

    async with place.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(STAT)(b"x", metadata=((CHALLENGE_KEY, b"short"),))

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "challenge must be 32 bytes, got 5" in (caught.value.details() or "")
