"""The coordinator process: opens its ports, leads its runs, closes in order.

What it is made of is decided in `assembly`; here is only when what starts and stops.
"""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import grpc
import grpc.aio
import structlog

from kumiai.core.clock import Clock
from kumiai.core.errors import ConfigError, ConflictError, KumiaiError
from kumiai.core.ids import new_id
from kumiai.node.coordinator.blob_service import BlobService
from kumiai.node.coordinator.leadership import RunSupervisor
from kumiai.node.coordinator.session_service import SessionService
from kumiai.node.coordinator.sessions import SessionHub
from kumiai.node.coordinator.supervision import SupervisedWork
from kumiai.node.settings import split_address
from kumiai.node.wire.channel import (
    BLOB_SERVICE,
    SESSION_SERVICE,
    TlsFiles,
    server_credentials,
    server_options,
    verify_only_tls_1_3,
)
from kumiai.node.wire.peers import AuthenticationInterceptor
from kumiai.node.wire.port_filter import PortFilter

__all__ = ["CoordinatorServer", "DataDirectory", "HttpServer"]

_STOP_GRACE_SECONDS = 2.0


class DataDirectory:
    """A coordinator's own folder: one process at a time, and a name that lasts.

    Whoever holds the folder's lock knows that the process which bore this name before is dead,
    so leases under the name can be taken back at once.
    """

    def __init__(self, path: Path) -> None:
        """Name the folder; `lock` takes it."""
        self.path = path
        self._file: IO[str] | None = None

    def lock(self) -> str:
        """Take the folder and return its coordinator's lasting id.

        Raises:
            ConflictError: another coordinator runs on this folder.
            ConfigError: the folder can not be made or written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = (self.path / "coordinator.lock").open("a+")
        except OSError as error:
            raise ConfigError(
                f"coordinator.data_dir must be a folder that can be written: {error}"
            ) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise ConflictError(
                f"another coordinator runs on {self.path}; stop it, or set coordinator.data_dir"
            ) from None
        self._file = file
        file.seek(0)
        coordinator_id = file.read().strip()
        if not coordinator_id:
            coordinator_id = new_id("coordinator")
            file.write(coordinator_id)
            file.flush()
            os.fsync(file.fileno())
        return coordinator_id

    def release(self) -> None:
        """Let the folder go."""
        if self._file is not None:
            self._file.close()
            self._file = None


@dataclass(frozen=True, slots=True)
class HttpServer:
    """The HTTP side, as three calls, so that this module needs no web framework."""

    start: Callable[[], Awaitable[int]]
    """Opens the port and returns its number."""
    ended: Callable[[], Coroutine[Any, Any, None]]
    """Returns, or raises why, once it no longer serves."""
    stop: Callable[[], Awaitable[None]]


class CoordinatorServer:
    """Serves clients and operators, and leads runs, until it is stopped."""

    def __init__(
        self,
        *,
        listen: str,
        tls: TlsFiles,
        sessions: SessionService,
        blobs: BlobService,
        hub: SessionHub,
        supervisor: RunSupervisor,
        gate: AuthenticationInterceptor,
        clock: Clock,
        http: HttpServer | None,
        open_stores: Callable[[], Awaitable[None]],
        stores_ended: Callable[[], Coroutine[Any, Any, None]],
        close_stores: Callable[[], Awaitable[None]],
    ) -> None:
        """Take the parts; nothing runs before `start`.

        Args:
            listen: ``host:port`` for clients.
            tls: the coordinator's own certificate.
            sessions: answers what clients say.
            blobs: takes and gives their bytes.
            hub: the sessions that are open.
            supervisor: leads runs.
            gate: lets in who may call, and ends the calls of those who may no longer.
            clock: paces looks at the certificate's files.
            http: serves operators; ``None``: nobody does.
            open_stores: makes the stores ready.
            stores_ended: returns, or raises why, once the stores no longer take reports.
            close_stores: undoes ``open_stores``, also one that failed half-way.
        """
        self._listen = listen
        self._tls = tls
        self._sessions = sessions
        self._blobs = blobs
        self._hub = hub
        self._supervisor = supervisor
        self._gate = gate
        self._clock = clock
        self._http = http
        self._open_stores = open_stores
        self._stores_ended = stores_ended
        self._close_stores = close_stores
        self._server: grpc.aio.Server | None = None
        self._terminated: asyncio.Task[Any] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._gateway: PortFilter | None = None
        self._pacing: SupervisedWork | None = None
        self._leading: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("kumiai.coordinator")
        self.port = 0
        self.http_port = 0

    async def start(self) -> None:
        """Open the stores, both ports, and begin to lead.

        Raises:
            ConfigError: a port is taken, or a certificate file can not be used.
            StorageError: the database or the blob folder can not be used.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        await self._open_stores()
        self._server = grpc.aio.server(interceptors=[self._gate], options=server_options())
        self._server.add_generic_rpc_handlers(self._handlers())
        try:
            self.port = self._server.add_secure_port(
                self._listen,
                server_credentials(self._tls, self._clock, self._gate.connections.note_accepted),
            )
        except (RuntimeError, OSError) as error:
            raise ConfigError(
                f"coordinator.listen {self._listen} can not be opened: {error}"
            ) from None
        await self._server.start()
        self._terminated = asyncio.create_task(self._server.wait_for_termination())
        self._watching = asyncio.create_task(self._gate.watch(), name="open-calls")
        await asyncio.to_thread(verify_only_tls_1_3, _reachable(self._listen), self.port, self._tls)
        self._gate.connections.note_call("our own look at the port")
        self._pace(PortFilter(self.port))
        if self._http is not None:
            self.http_port = await self._http.start()
        self._leading = asyncio.create_task(self._supervisor.serve(), name="run-supervisor")
        self._log.info("coordinator started", port=self.port, http_port=self.http_port)

    async def serve(self) -> None:
        """Serve until cancelled, or until a part ends that must not.

        Raises:
            KumiaiError: one has ended. A coordinator without it only looks alive: it should end,
                so that whoever looks after the process starts it again.
        """
        watchers = {asyncio.create_task(end): name for name, end in self._ends().items()}
        if not watchers:
            return
        try:
            await asyncio.wait(watchers, return_when=asyncio.FIRST_COMPLETED)
            for watcher, name in watchers.items():
                if watcher.done():
                    raise self._error_of(name, watcher)
        finally:
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)

    def _ends(self) -> dict[str, Coroutine[Any, Any, None]]:
        """Return what waits for the end of each part that runs in the background."""
        if self._leading is None or self._terminated is None or self._watching is None:
            return {}
        ends = {
            "the leading of runs": _end_of(self._leading),
            "the watch over open calls": _end_of(self._watching),
            "the clients' port": _end_of(self._terminated),
            "the inbox of updates": self._stores_ended(),
        }
        if self._http is not None:
            ends["the operators' HTTP server"] = self._http.ended()
        return ends

    def _error_of(self, name: str, ended: "asyncio.Task[None]") -> KumiaiError:
        cause = asyncio.CancelledError() if ended.cancelled() else ended.exception()
        self._log.critical("a part has ended", part=name, exc_info=cause)
        why = "no error" if cause is None else f"{type(cause).__name__}: {cause}".rstrip(": ")
        error = KumiaiError(f"{name} must go on while the coordinator runs, got its end by {why}")
        error.__cause__ = cause
        return error

    def _pace(self, gateway: PortFilter) -> None:
        self._gateway = gateway
        self._pacing = SupervisedWork(
            "pace of new connections", lambda: self._gate.pace.serve(gateway), self._clock
        )
        self._pacing.start()

    async def stop(self) -> None:
        """Stop leading, end the sessions, close the ports and the stores.

        A part that can not be stopped does not keep the others open.
        """
        async with contextlib.AsyncExitStack() as parts:
            parts.push_async_callback(self._close_stores)
            if self._server is not None:
                parts.push_async_callback(self._end_termination)
                parts.push_async_callback(self._server.stop, _STOP_GRACE_SECONDS)
            if self._gateway is not None:
                parts.callback(self._gateway.close)
            if self._pacing is not None:
                parts.push_async_callback(self._pacing.stop)
            if self._http is not None:
                parts.push_async_callback(self._http.stop)
            parts.callback(self._hub.end_all, "the coordinator is stopping")
            for task in (self._leading, self._watching):
                if task is not None:
                    task.cancel()
                    # Its error, if it ended by one, is for whoever awaits `serve`.
                    await asyncio.wait({task})
        self._log.info("coordinator stopped")

    async def _end_termination(self) -> None:
        if self._terminated is not None:
            # Only once the server is stopped: until then it would take gRPC's own future along.
            self._terminated.cancel()
            await asyncio.wait({self._terminated})

    def _handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        # Without (de)serialisers: handlers see the bytes as they are.
        session = {"Attach": grpc.stream_stream_rpc_method_handler(self._sessions.attach)}
        blob = {
            "Put": grpc.stream_unary_rpc_method_handler(self._blobs.put),
            "Stat": grpc.unary_unary_rpc_method_handler(self._blobs.stat),
            "Get": grpc.unary_stream_rpc_method_handler(self._blobs.get),
        }
        return (
            grpc.method_handlers_generic_handler(SESSION_SERVICE, session),
            grpc.method_handlers_generic_handler(BLOB_SERVICE, blob),
        )


async def _end_of(task: "asyncio.Task[Any]") -> None:
    """Return or raise as the task does; it goes on when the waiting is cancelled."""
    await asyncio.wait({task})
    task.result()


def _reachable(listen: str) -> str:
    """Return a host by which this process reaches its own port."""
    host, _ = split_address(listen)
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared only
