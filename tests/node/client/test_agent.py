"""What the agent makes of a stream that ends while it says something."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from structlog.testing import capture_logs

from kumiai.core.clock import SystemClock
from kumiai.core.errors import (
    CertificateError,
    ConfigError,
    ConflictError,
    KumiaiError,
    TransportError,
)
from kumiai.node.client.agent import ClientAgent
from kumiai.node.study import Site
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.node.wire.channel import PROTOCOL_VERSION, TlsFiles


class EndedCall:
    """A stream whose connection was lost: what is written to it gRPC refuses in its own way."""

    def __init__(
        self,
        *said_before: pb.ServerMessage,
        code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE,
        ends: bool = False,
        refusal: str = "",
    ) -> None:
        self._code, self._ends, self._refusal = code, ends, refusal
        self.written: list[pb.ClientMessage] = []
        self.cancelled = False
        self._said = [message.SerializeToString() for message in said_before]
        self._hello_passes = bool(said_before)

    async def initial_metadata(self) -> Any:
        return None

    def done(self) -> bool:
        return False

    async def trailing_metadata(self) -> Any:
        return (("kumiai-refusal", self._refusal),) if self._refusal else None

    async def write(self, message: bytes) -> None:
        if not self._hello_passes:
            raise asyncio.InvalidStateError("RPC already finished.")
        self._hello_passes = self._ends
        self.written.append(pb.ClientMessage.FromString(message))

    async def read(self) -> Any:
        if self._said:
            return self._said.pop(0)
        if self._ends:
            return grpc.aio.EOF
        await asyncio.Event().wait()
        raise AssertionError

    async def code(self) -> grpc.StatusCode:
        return self._code

    async def details(self) -> str:
        return "Socket closed"

    def cancel(self) -> None:
        self.cancelled = True


class EndedChannel:
    def __init__(self, call: EndedCall) -> None:
        self._call = call

    def stream_stream(self, method: str) -> Any:
        return lambda **_: self._call


class Explanation:
    """Why the coordinator can not be reached, as a test likes it."""

    cause: KumiaiError | None = None

    async def __call__(self) -> KumiaiError | None:
        return self.cause


@pytest.fixture
def explain() -> Explanation:
    return Explanation()


@pytest.fixture
def agent(tmp_path: Path, explain: Explanation) -> ClientAgent:
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


def welcome(*, heartbeat_seconds: float = 100.0, clock_ahead: float = 0.0) -> pb.ServerMessage:
    now = SystemClock().now() - clock_ahead
    return pb.ServerMessage(
        welcome=pb.Welcome(
            protocol_version=PROTOCOL_VERSION, heartbeat_seconds=heartbeat_seconds, wall_time=now
        )
    )


class Heard:
    """A runner that notes what the session hands it."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def take(self, task: pb.Task) -> None:
        self.told.append(task.app)

    def cancel(self, cancel: pb.Cancel) -> None:
        self.told.append(cancel.key.run_id)


async def test_a_stream_that_ends_before_the_hello_tells_why(agent: ClientAgent) -> None:
    channel: Any = EndedChannel(EndedCall())
    no_runner: Any = None

    assert await agent._session(channel, no_runner) == "Socket closed"


@pytest.mark.parametrize("other", [0, PROTOCOL_VERSION - 1, PROTOCOL_VERSION + 1])
async def test_a_coordinator_of_another_protocol_version_gives_no_tasks(
    agent: ClientAgent, other: int
) -> None:
    welcoming = welcome()
    welcoming.welcome.protocol_version = other
    call = EndedCall(welcoming, pb.ServerMessage(task=pb.Task(app="heart")))
    channel: Any = EndedChannel(call)
    heard: Any = Heard()

    async with asyncio.timeout(30):
        with pytest.raises(ConfigError, match=f"must be {PROTOCOL_VERSION}, got {other}"):
            await agent._session(channel, heard)

    assert heard.told == []
    assert call.cancelled


async def test_a_stream_that_ends_before_a_heartbeat_tells_why(agent: ClientAgent) -> None:
    channel: Any = EndedChannel(EndedCall(welcome(heartbeat_seconds=0.01)))
    no_runner: Any = None

    async with asyncio.timeout(60):
        assert await agent._session(channel, no_runner) == "Socket closed"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, CertificateError),
        (grpc.StatusCode.UNAUTHENTICATED, CertificateError),
        (grpc.StatusCode.FAILED_PRECONDITION, ConfigError),
        (grpc.StatusCode.INVALID_ARGUMENT, ConfigError),
    ],
)
async def test_a_refusal_for_good_ends_the_client_with_the_coordinators_words(
    agent: ClientAgent, code: grpc.StatusCode, error: type[KumiaiError]
) -> None:
    channel: Any = EndedChannel(EndedCall(code=code))
    no_runner: Any = None

    with pytest.raises(error, match="Socket closed"):
        await agent._session(channel, no_runner)


async def test_a_suspended_site_is_no_reason_to_end(agent: ClientAgent) -> None:
    denied = grpc.StatusCode.PERMISSION_DENIED
    no_runner: Any = None
    suspended: Any = EndedChannel(EndedCall(code=denied, refusal="suspended"))
    removed: Any = EndedChannel(EndedCall(code=denied, refusal="removed"))

    assert await agent._session(suspended, no_runner) == "Socket closed"
    with pytest.raises(CertificateError, match="Socket closed"):
        await agent._session(removed, no_runner)


async def test_a_twin_is_given_the_time_to_go_away_and_no_more(agent: ClientAgent) -> None:
    no_runner: Any = None

    async def attempt() -> str:
        channel: Any = EndedChannel(EndedCall(code=grpc.StatusCode.ALREADY_EXISTS))
        return await agent._session(channel, no_runner)

    assert [await attempt() for _ in range(3)] == ["Socket closed"] * 3
    with pytest.raises(ConflictError, match="Socket closed"):
        await attempt()


async def test_what_hinders_a_first_connection_is_told_in_the_words_of_the_diagnosis(
    agent: ClientAgent, explain: Explanation
) -> None:
    no_runner: Any = None
    channel: Any = EndedChannel(EndedCall())

    explain.cause = TransportError("nothing listens there")
    assert await agent._session(channel, no_runner) == "nothing listens there"
    explain.cause = CertificateError("the certificate is of another authority")
    with pytest.raises(CertificateError, match="another authority"):
        await agent._session(channel, no_runner)


async def test_a_certificate_that_was_good_once_does_not_end_the_client(
    agent: ClientAgent, explain: Explanation
) -> None:
    heard: Any = Heard()
    first: Any = EndedChannel(EndedCall(welcome(), ends=True))
    await agent._session(first, heard)
    agent.attached.clear()

    explain.cause = CertificateError("the coordinator's certificate has expired")
    later: Any = EndedChannel(EndedCall())

    assert await agent._session(later, heard) == "the coordinator's certificate has expired"


async def test_a_session_hands_on_what_is_asked_and_says_what_it_refuses(
    agent: ClientAgent,
) -> None:
    heard: Any = Heard()
    call = EndedCall(
        welcome(clock_ahead=100),
        pb.ServerMessage(task=pb.Task(app="heart")),
        pb.ServerMessage(cancel=pb.Cancel(key=pb.TaskKey(run_id="run-a"))),
        pb.ServerMessage(receipt=pb.Receipt(reason="too late")),
        ends=True,
    )
    channel: Any = EndedChannel(call)

    with capture_logs() as logged:
        await agent._session(channel, heard)

    assert heard.told == ["heart", "run-a"]
    assert [each["event"] for each in logged] == [
        "attached",
        "this machine's clock differs",
        "report refused",
    ]
    assert logged[1]["skew_seconds"] == 100
    assert call.written[0].hello.wall_time > 0


async def test_a_coordinator_that_says_nothing_is_left(agent: ClientAgent) -> None:
    class SilentCall(EndedCall):
        async def write(self, message: bytes) -> None:
            self.written.append(pb.ClientMessage.FromString(message))

    call = SilentCall(welcome(heartbeat_seconds=0.01))
    channel: Any = EndedChannel(call)
    no_runner: Any = None

    async with asyncio.timeout(60):
        reason = await agent._session(channel, no_runner)

    assert reason.startswith("no word from the coordinator for ")
    assert any(each.HasField("heartbeat") for each in call.written)
