"""The transfer service's patience, without a network: gRPC's context is played."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NoReturn

import grpc
import pytest

from kumiai.core.clock import SystemClock
from kumiai.identity import CertificateManager, Role
from kumiai.node.coordinator.blob_service import BlobService, TransferMeter
from kumiai.node.coordinator.intake import UpdateIntake
from kumiai.node.coordinator.run_facts import RunFactsCache
from kumiai.node.coordinator.signals import RunSignals
from kumiai.node.wire.peers import PeerAuthenticator
from kumiai.storage import DatabaseManager, MemoryBlobStore, RunRepository, UpdateInbox


class Aborted(Exception):  # noqa: N818 - gRPC's word
    """What gRPC's abort raises."""


class Context:
    """One call as gRPC shows it to a handler."""

    def __init__(self, certificate: bytes) -> None:
        self._certificate = certificate
        self.code: grpc.StatusCode | None = None

    def auth_context(self) -> dict[str, Any]:
        return {"x509_pem_cert": [self._certificate]}

    async def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        self.code = code
        raise Aborted(details)


async def silence() -> AsyncIterator[bytes]:
    """Stand for a client that opens a put and says nothing."""
    await asyncio.Event().wait()
    yield b""


@pytest.fixture
def certificate(tmp_path: Path) -> bytes:
    authority = CertificateManager(tmp_path / "ca", clock=SystemClock())
    authority.create("test")
    issued = authority.issue(Role.CLIENT, "site-1", out_dir=tmp_path / "site-1")
    return issued.cert.read_bytes()


@pytest.fixture
def service() -> BlobService:
    database, blobs = DatabaseManager("sqlite:///never-opened.db"), MemoryBlobStore()
    runs = RunRepository(database)
    return BlobService(
        authenticator=PeerAuthenticator(federation="test", clock=SystemClock(), revocations=None),
        runs=runs,
        blobs=blobs,
        intake=UpdateIntake(
            runs=runs,
            inbox=UpdateInbox(database),
            blobs=blobs,
            signals=RunSignals(),
            facts=RunFactsCache(runs=runs, blobs=blobs),
            executor=None,
        ),
        meter=TransferMeter(),
        stall_seconds=0.05,
    )


async def test_a_put_that_says_nothing_is_ended(service: BlobService, certificate: bytes) -> None:
    context: Any = Context(certificate)

    with pytest.raises(Aborted, match="nothing came for"):
        async with asyncio.timeout(5):
            await service.put(silence(), context)

    assert context.code == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_puts_that_were_ended_leave_room_for_others(
    service: BlobService, certificate: bytes
) -> None:
    async def put() -> str:
        with pytest.raises(Aborted) as caught:
            await service.put(silence(), Context(certificate))  # type: ignore[arg-type]
        return str(caught.value)

    at_once = await asyncio.gather(*(put() for _ in range(6)))
    afterwards = await put()

    assert sum("at a time" in told for told in at_once) == 2
    assert "nothing came for" in afterwards
