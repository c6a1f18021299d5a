"""Which of a coordinator's two ports answers: the one for clients or the one for operators.

Both speak TLS with the same certificate, so the handshake succeeds at either, and what is said
after it fails with words that help nobody. The clients' port chooses HTTP/2 when it is offered,
the operators' never. For people, like `diagnose_handshake`; blocks on the network.
"""

from pathlib import Path
from typing import Final, Literal

from kumiai.core.errors import ConfigError, KumiaiError
from kumiai.identity import client_context, connect, diagnose_handshake

__all__ = ["diagnose_port"]

_HTTP2: Final = "h2"
_MISTAKES: Final = {
    "clients": (
        "client.coordinator must be the coordinator's port for clients, got {at}, which speaks no "
        "gRPC; take its coordinator.listen (8421 if nobody changed it), not its http_listen"
    ),
    "operators": (
        "operator.url must be the coordinator's port for operators, got {at}, which speaks gRPC; "
        "take its coordinator.http_listen (8420 if nobody changed it), not its listen"
    ),
}


def diagnose_port(  # noqa: PLR0917 - the order of every tool that connects
    wanted: Literal["clients", "operators"],
    host: str,
    port: int,
    cert: Path,
    key: Path,
    ca: Path,
    timeout_seconds: float,
) -> KumiaiError | None:
    """Return why this port is of no use for what is wanted, or ``None`` if that can not be seen.

    Args:
        wanted: for whom the port must be.
        host: the server's DNS name or IP address.
        port: its TCP port.
        cert: one's own certificate, PEM.
        key: its private key, PEM.
        ca: the authority's certificate, PEM.
        timeout_seconds: the limit of each step, > 0.

    Returns:
        What `diagnose_handshake` finds; ``ConfigError`` where it is the other port.
    """
    error = diagnose_handshake(host, port, cert, key, ca, timeout_seconds)
    if error is not None:
        return error
    chosen = _chosen_protocol(host, port, cert, key, ca, timeout_seconds)
    if chosen is None or (chosen == _HTTP2) == (wanted == "clients"):
        return None
    return ConfigError(_MISTAKES[wanted].format(at=f"{host}:{port}"))


def _chosen_protocol(  # noqa: PLR0917 - as above
    host: str, port: int, cert: Path, key: Path, ca: Path, timeout_seconds: float
) -> str | None:
    """Return the protocol the server chooses, empty for none; ``None``: no handshake this time."""
    context = client_context(cert, key, ca)
    context.set_alpn_protocols([_HTTP2, "http/1.1"])
    try:
        with connect(context, host, port, timeout_seconds) as secure:
            secure.do_handshake()
            return secure.selected_alpn_protocol() or ""
    except OSError:
        return None
