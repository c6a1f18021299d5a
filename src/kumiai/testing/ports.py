"""Ports on loopback for servers that a test starts."""

import contextlib
import secrets
import socket

__all__ = ["PAIR_OFFSET", "free_pairs", "free_port"]

PAIR_OFFSET = 10_000
"""How far the second port of a pair lies above the first; some servers take it unasked."""

_FIRST_PORT = 20_000
_PORT_COUNT = 30_000


def free_port() -> int:
    """Return a port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def free_pairs(count: int) -> list[int]:
    """Return the lower ports of so many pairs of which nobody listens on either."""
    found: list[int] = []
    with contextlib.ExitStack() as sockets:
        while len(found) < count:
            port = _FIRST_PORT + secrets.randbelow(_PORT_COUNT)
            with contextlib.suppress(OSError):
                for each in (port, port + PAIR_OFFSET):
                    sockets.enter_context(socket.socket()).bind(("127.0.0.1", each))
                found.append(port)
    return found
