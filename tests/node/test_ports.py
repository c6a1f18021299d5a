"""Telling a coordinator's two ports apart by what they choose in the handshake."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest

from kumiai.core.clock import SystemClock
from kumiai.core.errors import ConfigError, TransportError
from kumiai.identity import CertificateManager, IssuedCertificate, Role, server_context
from kumiai.node.ports import diagnose_port

Wanted = Literal["clients", "operators"]


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[Role, IssuedCertificate]:
    folder = tmp_path_factory.mktemp("members")
    authority = CertificateManager(folder / "ca", clock=SystemClock())
    authority.create("hospitals")
    return {
        Role.CLIENT: authority.issue(Role.CLIENT, "site-1", out_dir=folder / "client"),
        Role.COORDINATOR: authority.issue(
            Role.COORDINATOR, "c", hosts=["127.0.0.1"], out_dir=folder / "c"
        ),
    }


@pytest.fixture
def serve(members: dict[Role, IssuedCertificate]) -> Iterator[Callable[[list[str]], int]]:
    """Start servers that shake hands, choose one of these protocols, and listen."""
    listeners, threads, opened = [], [], []
    own = members[Role.COORDINATOR]

    def greet(listener: socket.socket, context: ssl.SSLContext) -> None:
        while True:
            try:
                plain, _ = listener.accept()
                opened.append(context.wrap_socket(plain, server_side=True))
            except OSError:
                return

    def start(protocols: list[str]) -> int:
        context = server_context(own.cert, own.key, own.ca, client_certificate="required")
        if protocols:
            context.set_alpn_protocols(protocols)
        listener = socket.create_server(("127.0.0.1", 0))
        thread = threading.Thread(target=greet, args=(listener, context), daemon=True)
        thread.start()
        listeners.append(listener)
        threads.append(thread)
        return int(listener.getsockname()[1])

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for thread in threads:
        thread.join()
    for each in opened:
        each.close()


def files(members: dict[Role, IssuedCertificate]) -> tuple[Path, Path, Path]:
    own = members[Role.CLIENT]
    return own.cert, own.key, own.ca


@pytest.mark.parametrize(
    ("wanted", "protocols"),
    [("clients", ["h2"]), ("operators", []), ("operators", ["http/1.1"])],
)
def test_the_port_that_is_wanted_is_no_hindrance(
    serve: Callable[[list[str]], int],
    members: dict[Role, IssuedCertificate],
    wanted: Wanted,
    protocols: list[str],
) -> None:
    port = serve(protocols)

    assert diagnose_port(wanted, "127.0.0.1", port, *files(members), 5.0) is None


@pytest.mark.parametrize(
    ("wanted", "protocols", "mend"),
    [
        ("clients", [], "take its coordinator.listen"),
        ("clients", ["http/1.1"], "take its coordinator.listen"),
        ("operators", ["h2"], "take its coordinator.http_listen"),
    ],
)
def test_the_other_port_is_told_with_the_setting_to_take(
    serve: Callable[[list[str]], int],
    members: dict[Role, IssuedCertificate],
    wanted: Wanted,
    protocols: list[str],
    mend: str,
) -> None:
    port = serve(protocols)

    error = diagnose_port(wanted, "127.0.0.1", port, *files(members), 5.0)

    assert isinstance(error, ConfigError)
    assert f"got 127.0.0.1:{port}" in str(error)
    assert mend in str(error)


def test_a_port_where_nothing_listens_is_told_as_such(
    members: dict[Role, IssuedCertificate],
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

        error = diagnose_port("clients", "127.0.0.1", port, *files(members), 5.0)

    assert isinstance(error, TransportError)
    assert "nothing listens" in str(error)
