"""The transfer service's patience, without a network: gRPC's context is played."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, NoReturn

import grpc
import pytest

from kumiai.core.clock import SystemClock
from kumiai.node.coordinator.blob_service import BlobService, TransferMeter
from kumiai.node.coordinator.intake import UpdateIntake
from kumiai.node.coordinator.run_facts import RunFactsCache
from kumiai.node.coordinator.signals import RunSignals
from kumiai.node.wire.channel import PUT
from kumiai.node.wire.peers import AuthenticationInterceptor
from kumiai.storage import DatabaseManager, MemoryBlobStore, RunRepository, UpdateInbox
from tests.node.wire.gate import MEMBER, new_gate


class Aborted(Exception):  # noqa: N818 - gRPC's word
    """What gRPC's abort raises."""


class Context:
    """One call as gRPC shows it to a handler."""

    def __init__(self) -> None:
        self.code: grpc.StatusCode | None = None

    def auth_context(self) -> dict[str, Any]:
        return {"x509_pem_cert": [MEMBER.pem]}

    def peer(self) -> str:
        return "ipv4:127.0.0.1:5000"

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    async def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        self.code = code
        raise Aborted(details)


async def silence() -> AsyncIterator[bytes]:
    """Stand for a client that opens a put and says nothing."""
    await asyncio.Event().wait()
    yield b""


@pytest.fixture
def service() -> BlobService:
    database, blobs = DatabaseManager("sqlite:///never-opened.db"), MemoryBlobStore()
    runs = RunRepository(database)
    return BlobService(
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


async def put(service: BlobService, context: Context) -> None:
    """Make a call of a good client, through the gate."""

    async def continuation(_details: Any) -> Any:
        return grpc.stream_unary_rpc_method_handler(service.put)

    details = SimpleNamespace(method=PUT)
    handler = await AuthenticationInterceptor(new_gate(), SystemClock()).intercept_service(
        continuation, details
    )
    await handler.stream_unary(silence(), context)


async def test_a_put_that_says_nothing_is_ended(service: BlobService) -> None:
    context = Context()

    with pytest.raises(Aborted, match="nothing came for"):
        async with asyncio.timeout(30):
            await put(service, context)

    assert context.code == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_puts_that_were_ended_leave_room_for_others(service: BlobService) -> None:
    async def told() -> str:
        with pytest.raises(Aborted) as caught:
            await put(service, Context())
        return str(caught.value)

    at_once = await asyncio.gather(*(told() for _ in range(6)))
    afterwards = await told()

    assert sum("at a time" in each for each in at_once) == 2
    assert "nothing came for" in afterwards
