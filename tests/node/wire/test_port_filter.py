"""What the kernel drops of requests for new connections, and what it never drops."""

import contextlib
import socket
import sys
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from kumiai.node.wire import port_filter
from kumiai.node.wire.port_filter import ADDRESSES_MAX, PortFilter

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux filters")
HERE, NEIGHBOUR = "127.0.0.1", "127.0.0.2"
SECONDS = 0.1


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server((HERE, 0), backlog=1000) as listener:
        yield listener


@pytest.fixture
def gateway(listener: socket.socket) -> Iterator[PortFilter]:
    gateway = PortFilter(listener.getsockname()[1])
    yield gateway
    gateway.close()


def is_let_in(listener: socket.socket, source: str, seconds: float = SECONDS) -> bool:
    port = listener.getsockname()[1]
    family, target = (socket.AF_INET6, "::1") if ":" in source else (socket.AF_INET, HERE)
    with socket.socket(family) as caller:
        caller.settimeout(seconds)
        caller.bind((source, 0))
        try:
            caller.connect((target, port))
        except TimeoutError:
            return False
        return True


def test_strangers_are_dropped_and_known_addresses_are_not(
    listener: socket.socket, gateway: PortFilter
) -> None:
    gateway.let_through(0.0, 1.0, [NEIGHBOUR, "2001:db8::1"])

    found = [is_let_in(listener, source) for source in (HERE, NEIGHBOUR, "127.0.0.3")]

    assert found == [False, True, False]
    gateway.let_all_through()
    assert is_let_in(listener, HERE)


def test_as_many_are_let_in_by_chance_as_were_said(
    listener: socket.socket, gateway: PortFilter
) -> None:
    gateway.let_through(0.1, 0.9, [NEIGHBOUR])

    strangers = sum(is_let_in(listener, HERE, 0.01) for _ in range(200))
    known = sum(is_let_in(listener, NEIGHBOUR, 0.01) for _ in range(200))

    # Each of these is wrong once in more than a million runs.
    assert 1 <= strangers <= 60
    assert 140 <= known <= 199


def test_open_connections_go_on_when_all_new_ones_are_dropped(
    listener: socket.socket, gateway: PortFilter
) -> None:
    gateway.let_through(1.0, 1.0, [])
    caller = socket.create_connection(listener.getsockname(), 1)
    answerer, _ = listener.accept()

    gateway.let_through(0.0, 0.0, [])

    with caller, answerer:
        for sender, receiver in ((caller, answerer), (answerer, caller)):
            sender.sendall(b"still here")
            assert receiver.recv(64) == b"still here"


def test_as_many_addresses_as_may_be_fit(listener: socket.socket, gateway: PortFilter) -> None:
    others = [f"2001:db8:0:{number:x}::1" for number in range(ADDRESSES_MAX - 2)]

    gateway.let_through(0.0, 1.0, ["10.1.2.3", *others, NEIGHBOUR])

    assert is_let_in(listener, NEIGHBOUR)
    assert not is_let_in(listener, HERE)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_a_port_for_both_kinds_of_addresses_tells_them_apart() -> None:
    with (
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener,
        contextlib.closing(PortFilter(listener.getsockname()[1])) as gateway,
    ):
        gateway.let_through(0.0, 1.0, ["::ffff:127.0.0.2", "fe80::1"])
        found = [is_let_in(listener, source) for source in (HERE, NEIGHBOUR, "::1")]
        # Of IPv6 the network counts.
        gateway.let_through(0.0, 1.0, ["::5"])
        found += [is_let_in(listener, source) for source in (HERE, "::1")]

    assert found == [False, True, False, False, True]


def test_other_ports_are_left_alone(listener: socket.socket, gateway: PortFilter) -> None:
    with socket.create_server((HERE, 0)) as other:
        gateway.let_through(0.0, 0.0, [])

        assert is_let_in(other, HERE)
        assert not is_let_in(listener, HERE)


def test_the_port_is_free_once_the_gateway_and_its_owner_have_closed_it() -> None:
    listener = socket.create_server((HERE, 0))
    gateway = PortFilter(listener.getsockname()[1])
    gateway.let_through(1.0, 1.0, [])

    gateway.close()
    gateway.let_all_through()

    port = listener.getsockname()[1]
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HERE, port), 1)


def test_where_the_system_has_no_such_programs_all_are_let_in(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port_filter, "_SO_ATTACH_FILTER", 9999)
    gateway = PortFilter(listener.getsockname()[1])

    with capture_logs() as logged:
        for _ in range(2):
            gateway.let_through(0.0, 0.0, [])

    assert is_let_in(listener, HERE)
    assert [line["event"] for line in logged] == ["new connections can not be limited"]
    monkeypatch.setattr(sys, "platform", "darwin")
    elsewhere = PortFilter(listener.getsockname()[1])
    elsewhere.let_through(0.0, 0.0, [])
    assert is_let_in(listener, HERE)
