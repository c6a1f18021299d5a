"""What the agent makes of a stream that ends while it says something."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from kumiai.core.clock import SystemClock
from kumiai.node.client.agent import ClientAgent
from kumiai.node.study import Site
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.node.wire.channel import TlsFiles


class EndedCall:
    """A stream whose connection was lost: what is written to it gRPC refuses in its own way."""

    def __init__(self, *said_before: pb.ServerMessage) -> None:
        self._said = [message.SerializeToString() for message in said_before]
        self._hello_passes = bool(said_before)

    async def write(self, _: bytes) -> None:
        if not self._hello_passes:
            raise asyncio.InvalidStateError("RPC already finished.")
        self._hello_passes = False

    async def read(self) -> bytes:
        if self._said:
            return self._said.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    async def details(self) -> str:
        return "Socket closed"


class EndedChannel:
    def __init__(self, call: EndedCall) -> None:
        self._call = call

    def stream_stream(self, method: str) -> Any:
        return lambda: self._call


@pytest.fixture
def agent(tmp_path: Path) -> ClientAgent:
    async def explain() -> None:
        return None

    files = TlsFiles(certificate=tmp_path, key=tmp_path, ca=tmp_path)
    return ClientAgent(
        address="localhost:1",
        tls=files,
        apps={},
        site=Site("site-1", {}),
        state_dir=tmp_path,
        clock=SystemClock(),
        explain=explain,
    )


async def test_a_stream_that_ends_before_the_hello_tells_why(agent: ClientAgent) -> None:
    channel: Any = EndedChannel(EndedCall())
    no_runner: Any = None

    assert await agent._session(channel, no_runner) == "Socket closed"


async def test_a_stream_that_ends_before_a_heartbeat_tells_why(agent: ClientAgent) -> None:
    welcome = pb.Welcome(heartbeat_seconds=0.01, wall_time=SystemClock().now())
    channel: Any = EndedChannel(EndedCall(pb.ServerMessage(welcome=welcome)))
    no_runner: Any = None

    async with asyncio.timeout(5):
        assert await agent._session(channel, no_runner) == "Socket closed"
