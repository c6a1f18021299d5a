"""uvicorn inside the coordinator's event loop, with the peer's certificates in the ASGI scope."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any, Final

import structlog
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from kumiai.core.errors import ConfigError
from kumiai.identity import CallGate
from kumiai.node.coordinator.server import HttpServer
from kumiai.node.http.front import TLSFront
from kumiai.node.settings import split_address

__all__ = ["new_http_server"]

_CONNECTIONS_MAX: Final = 1_000
_STOP_SECONDS: Final = 2
_LAST_ANSWER: Final = (b"connection", b"close")


def new_http_server(
    app: FastAPI,
    listen: str,
    ssl_context: ssl.SSLContext,
    gate: CallGate,
    *,
    idle_seconds: int = 30,
) -> HttpServer:
    """Return the server of an API; it runs in the event loop that starts it.

    Args:
        app: made by `create_app`.
        listen: ``host:port``; port 0 takes a free one.
        ssl_context: the server's; clients' certificates are asked for by it.
        gate: paces handshakes, and hears of those that fail.
        idle_seconds: how long a connection may stay without a request.
    """
    service = _HttpService(app, listen, ssl_context, gate, idle_seconds)
    return HttpServer(start=service.start, ended=service.ended, stop=service.stop)


class _HttpService:
    """One listening socket, from start to stop."""

    def __init__(
        self,
        app: FastAPI,
        listen: str,
        ssl_context: ssl.SSLContext,
        gate: CallGate,
        idle_seconds: int,
    ) -> None:
        self._app = app
        self._listen = listen
        self._ssl_context = ssl_context
        self._gate = gate
        self._idle_seconds = idle_seconds
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("kumiai.http")

    async def start(self) -> int:
        """Open the port and return its number.

        Raises:
            ConfigError: it can not be opened.
        """
        listener = self._bind()
        config = uvicorn.Config(
            self._app,
            http=_CertificateProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS_MAX,
            timeout_keep_alive=self._idle_seconds,
            timeout_graceful_shutdown=_STOP_SECONDS,
        )
        server = _Server(
            config,
            lambda new_protocol: TLSFront(listener, self._ssl_context, new_protocol, self._gate),
        )
        self._server = server
        self._serving = asyncio.create_task(server.serve(), name="http-server")
        is_listening = asyncio.create_task(server.is_listening.wait())
        await asyncio.wait({self._serving, is_listening}, return_when=asyncio.FIRST_COMPLETED)
        is_listening.cancel()
        if self._serving.done():
            self._serving.result()
        return int(listener.getsockname()[1])

    async def ended(self) -> None:
        """Return once it no longer serves.

        Raises:
            BaseException: what ended it; ``CancelledError`` if it was cancelled.
        """
        if (serving := self._serving) is not None:
            await asyncio.wait({serving})
            serving.result()

    async def stop(self) -> None:
        """Let requests end, close every connection and the port; stopping twice does nothing."""
        server, serving, self._server, self._serving = self._server, self._serving, None, None
        if server is None or serving is None:
            return
        # Streams have no end of their own.
        self._app.state.closing.set()
        if serving.done():
            # Before its time, and why is for whoever awaits `ended`; its port is still open.
            if server.started:
                await server.shutdown()
            return
        server.should_exit = True
        await serving

    def _bind(self) -> socket.socket:
        host, port = split_address(self._listen)
        try:
            # Bound here: uvicorn would end the process when the port is taken.
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listener = socket.socket(family, kind, protocol)
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)
                listener.settimeout(0)
            except OSError:
                listener.close()
                raise
        except OSError as error:
            raise ConfigError(
                f"coordinator.http_listen must be a free address of this machine, got "
                f"{self._listen}: {error.strerror or error}"
            ) from error
        return listener


class _Server(uvicorn.Server):
    """A uvicorn server behind a front, that leaves signals alone and says when it listens."""

    def __init__(
        self,
        config: uvicorn.Config,
        new_front: Callable[[Callable[[], asyncio.Protocol]], TLSFront],
    ) -> None:
        super().__init__(config)
        self.is_listening = asyncio.Event()
        self._new_front = new_front

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        front = self._new_front(self._new_protocol)
        front.start()
        # uvicorn closes what stands here, and waits for it, as it does with servers of the loop.
        self.servers.append(front)  # type: ignore[arg-type]
        self.is_listening.set()

    def _new_protocol(self) -> asyncio.Protocol:
        return _CertificateProtocol(self.config, self.server_state, self.lifespan.state)


class _CertificateProtocol(H11Protocol):
    """HTTP/1.1 whose requests carry the certificates of the connection's peer.

    uvicorn does not hand it on. A connection has one peer, so the application is wrapped once
    for each connection. And uvicorn waits for ever for a connection's first request; everybody
    may connect, so this does not. Nor may somebody who is not known ask for more on the same
    connection: only new ones have to wait for their turn.
    """

    _first_request: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._first_request = self.loop.call_later(self.timeout_keep_alive, self._close_unused)
        tls = transport.get_extra_info("ssl_object")
        self.app = _with_certificates(self.app, _chain_of(tls))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._first_request is not None:
            self._first_request.cancel()
        super().connection_lost(exc)

    def _close_unused(self) -> None:
        cycle: object = self.cycle  # None until the first request, whatever its type says
        if cycle is None:
            self.transport.close()


def _chain_of(tls: Any) -> tuple[str, ...]:
    """Return the certificates (PEM) that the peer showed, its own first."""
    certificate = tls.getpeercert(binary_form=True) if tls is not None else None
    if certificate is None:
        return ()
    # What the peer sent and not what was verified: that has the root besides. Public in Python
    # 3.13, and the same call below it since 3.10.
    shown = tls._sslobj.get_unverified_chain() or ()  # noqa: SLF001
    return tuple(each.public_bytes() for each in shown)


def _with_certificates(app: Any, chain: tuple[str, ...]) -> ASGIApp:
    tls = {"client_cert_chain": chain}

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        scope = {**scope, "extensions": {**scope.get("extensions", {}), "tls": tls}}
        state = scope.setdefault("state", {})

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start" and "caller" not in state:
                message = {**message, "headers": [*message["headers"], _LAST_ANSWER]}
            await send(message)

        await app(scope, receive, answer)

    return wrapped
