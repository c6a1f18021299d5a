"""The front of the HTTP port: who waits, who is turned away, and what is told of a handshake."""

import asyncio
import errno
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from kumiai.core.clock import SystemClock
from kumiai.identity import CallLimits, LimitRules, Refusal, RefusedCall, server_context
from kumiai.node.http import front as front_module
from kumiai.node.http.front import TLSFront
from tests.integration.eventually import eventually
from tests.node.http.api import Certificates
from tests.node.wire.gate import new_gate

HOST = "127.0.0.1"
LATER = 0.001  # handshakes a second: the next one's turn does not come within a test


class Greeter(asyncio.Protocol):
    """Says one byte to whoever has passed the handshake."""

    def connection_made(self, transport: Any) -> None:
        transport.write(b"!")
        transport.close()


@dataclass
class Door:
    """A front on loopback, and what it told."""

    front: TLSFront
    port: int
    refused: list[RefusedCall] = field(default_factory=list)

    async def greeting(self, context: ssl.SSLContext) -> bytes:
        """Return what the server says after the handshake; nothing if it hangs up."""
        try:
            reader, writer = await asyncio.open_connection(HOST, self.port, ssl=context)
        except OSError:
            return b""
        try:
            return await reader.read()
        except OSError:
            return b""
        finally:
            writer.close()

    async def told(self) -> list[Refusal]:
        """Return the kinds of what was told, once there is something."""

        async def found() -> list[Refusal]:
            return [call.error.refusal for call in self.refused]

        return await eventually(found)


NewDoor = Callable[..., Door]


@pytest.fixture
async def new_door(certificates: Certificates) -> AsyncIterator[NewDoor]:
    doors: list[Door] = []
    own = certificates.coordinator
    tls = server_context(own.cert, own.key, own.ca, client_certificate="optional")

    def make(*, listener: socket.socket | None = None, pending_max: int = 9, **rules: Any) -> Door:
        listener = listener or socket.create_server((HOST, 0))
        listener.settimeout(0)
        refused: list[RefusedCall] = []
        limits = CallLimits(SystemClock(), LimitRules(**rules))
        gate = new_gate(limits=limits, on_refused=refused.append)
        front = TLSFront(listener, tls, Greeter, gate, pending_max=pending_max)
        front.start()
        doors.append(Door(front, listener.getsockname()[1], refused))
        return doors[-1]

    yield make
    for door in doors:
        door.front.close()
        await door.front.wait_closed()


async def pending(door: Door, count: int) -> None:
    """Wait until so many connections wait or shake hands."""

    async def is_so() -> bool:
        return len(door.front._pending) == count

    await eventually(is_so)


async def test_each_of_a_burst_passes_in_its_turn(
    new_door: NewDoor, certificates: Certificates
) -> None:
    door = new_door(handshakes_per_second=20.0, handshakes_max=1)
    nobody = certificates.context(None)
    began = SystemClock().monotonic()

    greetings = await asyncio.gather(*(door.greeting(nobody) for _ in range(5)))

    assert greetings == [b"!"] * 5
    assert SystemClock().monotonic() - began >= 4 / 20
    assert door.refused == []


async def test_too_many_from_one_address_are_turned_away_and_told(
    new_door: NewDoor, certificates: Certificates
) -> None:
    door = new_door(handshakes_per_second=LATER, handshakes_max=1)
    nobody = certificates.context(None)

    assert await door.greeting(nobody) == b"!"
    assert await door.greeting(nobody) == b""

    assert await door.told() == [Refusal.RATE_LIMITED]
    assert door.refused[0].address == HOST


async def test_of_too_many_amid_their_handshake_the_oldest_goes(
    new_door: NewDoor, certificates: Certificates
) -> None:
    door = new_door(pending_max=2)
    silent = [await asyncio.open_connection(HOST, door.port) for _ in range(2)]
    await pending(door, 2)

    greeting = await door.greeting(certificates.context(None))

    assert greeting == b"!"
    async with asyncio.timeout(30):
        assert await silent[0][0].read() == b""
    await pending(door, 1)
    assert not silent[1][0].at_eof()
    for _, writer in silent:
        writer.close()


def tls_1_2(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certificates.coordinator.ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


@pytest.mark.parametrize(
    ("context", "kind"),
    [
        (lambda all_: all_.context(all_.foreigner), Refusal.WRONG_AUTHORITY),
        (tls_1_2, Refusal.OLD_TLS),
    ],
)
async def test_whom_the_tls_library_refuses_is_told_by_kind(
    new_door: NewDoor, certificates: Certificates, context: Any, kind: Refusal
) -> None:
    door = new_door()

    assert await door.greeting(context(certificates)) == b""

    assert await door.told() == [kind]
    assert door.refused[0].act == "TLS handshake"


async def test_who_speaks_no_tls_is_told(new_door: NewDoor) -> None:
    door = new_door()
    reader, writer = await asyncio.open_connection(HOST, door.port)

    writer.write(b"GET / HTTP/1.1\r\n\r\n")

    assert await reader.read() == b""
    assert await door.told() == [Refusal.BAD_HANDSHAKE]
    writer.close()


async def test_nobody_is_told_of_who_goes_away_amid_the_handshake(new_door: NewDoor) -> None:
    door = new_door()
    _, writer = await asyncio.open_connection(HOST, door.port)
    await pending(door, 1)

    writer.close()

    await pending(door, 0)
    assert door.refused == []


async def test_closing_ends_who_waits_and_who_shakes_hands(new_door: NewDoor) -> None:
    door = new_door(handshakes_per_second=0.5, handshakes_max=1)
    opened = [await asyncio.open_connection(HOST, door.port) for _ in range(2)]
    await pending(door, 2)

    door.front.close()
    async with asyncio.timeout(30):
        await door.front.wait_closed()

    for reader, writer in opened:
        async with asyncio.timeout(30):
            assert await reader.read() == b""
        writer.close()
    with socket.create_server((HOST, door.port)):
        pass


class Exhausted(socket.socket):
    """A listener whose process has no file descriptor left, once."""

    is_exhausted = True

    def accept(self) -> Any:
        if self.is_exhausted:
            self.is_exhausted = False
            raise OSError(errno.EMFILE, "too many open files")
        return super().accept()


async def test_a_process_without_file_descriptors_accepts_again_later(
    new_door: NewDoor, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_module, "_PAUSE_SECONDS", 0.05)
    listener = Exhausted(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind((HOST, 0))
    door = new_door(listener=listener)

    greeting = await door.greeting(certificates.context(None))

    assert greeting == b"!"
    assert not listener.is_exhausted


async def test_a_front_that_pauses_can_be_closed(
    new_door: NewDoor, certificates: Certificates
) -> None:
    listener = Exhausted(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind((HOST, 0))
    door = new_door(listener=listener)
    waiting = asyncio.create_task(door.greeting(certificates.context(None)))

    async def is_paused() -> bool:
        return not listener.is_exhausted

    await eventually(is_paused)
    door.front.close()

    async with asyncio.timeout(30):
        assert await waiting == b""
