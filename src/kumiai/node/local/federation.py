"""A whole federation on one machine, each member a process of its own.

For the demo, for development, for tests that kill and for benchmarks. Everything is as in
production: mutual TLS 1.3, a certificate and a ``kumiai.toml`` for each process, nothing shared
but the network. No process outlives the one that started it.
"""

import asyncio
import contextlib
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kumiai.core.clock import Clock, SystemClock
from kumiai.core.errors import ConfigError, DeadlineError, KumiaiError, StorageError
from kumiai.core.ids import verify_name
from kumiai.identity import Role, client_context
from kumiai.node.local.child_process import ChildCommand, ChildProcess
from kumiai.node.local.folder import FederationFolder, Member, Tables
from kumiai.node.operator.async_client import CoordinatorApi

__all__ = ["LocalFederation", "ProcessOptions"]

_HOST = "127.0.0.1"
_COORDINATOR = Member(Role.COORDINATOR, "coordinator")
_OPERATOR = Member(Role.OPERATOR, "operator")
_LOOK_SECONDS = 0.03
# Below the ports that systems give to outgoing connections: one of those could take the port of a
# coordinator that is down, even that of a client which tries to reach it.
_FIRST_PORT, _PORT_COUNT = 20_000, 12_000


@dataclass(frozen=True, slots=True)
class ProcessOptions:
    """How a member is started, where it differs from the usual.

    Attributes:
        module: takes the arguments of ``kumiai.node.cli``.
        environment: wins over this process's own.
        config: tables of ``kumiai.toml``, laid over those that the federation writes.
    """

    module: str = "kumiai.node.cli"
    environment: Mapping[str, str] = field(default_factory=dict)
    config: Tables = field(default_factory=dict)


class LocalFederation:
    """One coordinator and some clients as child processes; ``async with`` starts and stops it."""

    def __init__(
        self,
        directory: Path,
        *,
        client_names: Sequence[str],
        apps: Sequence[str],
        client_data: Mapping[str, Mapping[str, Any]] | None = None,
        database_url: str | None = None,
        log_level: str = "info",
        ports: tuple[int, int] = (0, 0),
        coordinator: ProcessOptions = ProcessOptions(),
        client: ProcessOptions = ProcessOptions(),
        start_seconds: float = 60.0,
        clock: Clock | None = None,
    ) -> None:
        """Describe the federation; nothing is written or started yet.

        Args:
            directory: the federation's own; made if missing, may be kept and used again.
            client_names: one each, all different.
            apps: the studies that every client has installed, as ``/path/to/file.py[:name]`` or
                ``package.module[:name]``.
            client_data: client to the ``data`` table of its settings.
            database_url: the coordinator's; ``None``: an SQLite file in its folder.
            log_level: of every process.
            ports: on loopback, where clients and where operators connect; 0 takes a free one.
            coordinator: how the coordinator is started.
            client: how each client is started.
            start_seconds: how long a process may take until it is ready.
            clock: dates certificates; ``None``: the machine's.

        Raises:
            ConfigError: a client's name is no valid name.
        """
        self.folder = FederationFolder(directory, clock=clock or SystemClock())
        self.client_names = tuple(verify_name("client", name) for name in client_names)
        self._apps = tuple(apps)
        self._client_data = client_data or {}
        self._database_url = database_url
        self._log_level = log_level
        self._wanted_ports = ports
        self._options = {Role.COORDINATOR: coordinator, Role.CLIENT: client}
        self._start_seconds = start_seconds
        self._coordinator: ChildProcess | None = None
        self._clients: dict[str, ChildProcess] = {}
        self._former: dict[str, str] = {}
        self._watchers: set[asyncio.Task[None]] = set()
        self._ended: asyncio.Queue[ChildProcess] = asyncio.Queue()
        self._api: CoordinatorApi | None = None
        self.port, self.http_port = ports

    async def __aenter__(self) -> Self:
        """Start everything."""
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop everything."""
        await self.stop()

    @property
    def address(self) -> str:
        """Where clients connect, ``host:port``."""
        return f"{_HOST}:{self.port}"

    @property
    def url(self) -> str:
        """Where operators connect."""
        return f"https://{_HOST}:{self.http_port}"

    @property
    def operator_config(self) -> Path:
        """The settings with which the command line reaches the coordinator."""
        return self.folder.config(_OPERATOR)

    @property
    def api(self) -> CoordinatorApi:
        """The coordinator's HTTP side, as its operator sees it.

        Raises:
            RuntimeError: the federation has not been prepared, or is stopped.
        """
        if self._api is None:
            raise RuntimeError("the federation must be prepared before it is asked")
        return self._api

    @property
    def coordinator(self) -> ChildProcess:
        """The coordinator's process; while it is down, the last one.

        Raises:
            RuntimeError: it was never started.
        """
        if self._coordinator is None:
            raise RuntimeError("the coordinator must be started first")
        return self._coordinator

    @property
    def clients(self) -> Mapping[str, ChildProcess]:
        """The clients' processes by name; of one that is down, the last."""
        return self._clients

    async def start(self, *, on_step: Callable[[str], None] = lambda _: None) -> None:
        """Start everything and return once every client is attached.

        Args:
            on_step: told in words what is done so far.

        Raises:
            KumiaiError: a process ended; the message holds its last lines.
            DeadlineError: a process was not ready in time.
        """
        try:
            await self._start_all(on_step)
        except KumiaiError:
            # Somebody may have taken a port since it was found free.
            if 0 not in self._wanted_ports or _are_free(self.port, self.http_port):
                raise
            await self._start_all(on_step)

    async def prepare(self) -> None:
        """Make the authority, certificates and settings, and choose the ports; starts nothing.

        Raises:
            ConfigError: a port that was asked for is taken.
            StorageError: the folder can not be written, or there is no free port.
        """
        for wanted in self._wanted_ports:
            if wanted and not _are_free(wanted):
                raise ConfigError(
                    f"port must be free, got {wanted} which is taken; choose another, or 0 for any"
                )
        free = _free_ports(2)
        self.port, self.http_port = (
            wanted or chosen for wanted, chosen in zip(self._wanted_ports, free, strict=True)
        )
        await asyncio.to_thread(self._prepare_folder)
        await self._close_api()
        self._api = CoordinatorApi(self.url, client_context(*self.folder.identity(_OPERATOR)))

    async def start_coordinator(
        self, options: ProcessOptions | None = None, *, wait: bool = True
    ) -> ChildProcess:
        """Start the coordinator.

        Args:
            options: for this start, instead of the federation's.
            wait: whether to return only once it is ready.

        Raises:
            KumiaiError: it ended instead; the message holds its last lines.
            DeadlineError: it was not ready in time.
        """
        self._coordinator = await self._start(_COORDINATOR, options)
        if wait:
            await self.wait_until_ready()
        return self._coordinator

    async def start_client(self, name: str, options: ProcessOptions | None = None) -> ChildProcess:
        """Start a client; it attaches by itself.

        Args:
            name: one of the federation's clients.
            options: for this start, instead of the federation's.
        """
        if name in self._clients:
            await self._remember_instance(name)
        self._clients[name] = await self._start(Member(Role.CLIENT, name), options)
        return self._clients[name]

    async def kill_coordinator(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal that ends the coordinator; return its exit code."""
        return await self.coordinator.kill(number)

    async def kill_client(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal that ends a client; return its exit code."""
        return await self._clients[name].kill(number)

    async def wait_until_ready(self) -> None:
        """Return once the coordinator can do its work.

        Raises:
            KumiaiError: it ended instead; the message holds its last lines.
            DeadlineError: it was not ready in time.
        """
        await self._wait_for(self.api.is_ready, [self.coordinator])

    async def wait_until_attached(self, names: Sequence[str] | None = None) -> None:
        """Return once these clients have a session with the coordinator.

        Args:
            names: which; ``None``: all of the federation.

        Raises:
            KumiaiError: a process ended instead; the message holds its last lines.
            DeadlineError: they were not attached in time.
        """
        wanted = self.client_names if names is None else names

        async def are_attached() -> bool:
            return set(wanted) <= await self.attached()

        await self._wait_for(
            are_attached, [self.coordinator, *(self._clients[name] for name in wanted)]
        )

    async def attached(self) -> set[str]:
        """Return the clients whose present process has a session with the coordinator."""
        return {
            each["client_id"]
            for each in await self.api.clients()
            if each["attached"] and each["instance_id"] != self._former.get(each["client_id"])
        }

    async def wait_for_unwanted_end(self) -> ChildProcess:
        """Return the next process that ended though nobody asked it to."""
        return await self._ended.get()

    async def stop(self, *, patience_seconds: float = 5.0) -> None:
        """End every process, by force those that take longer; safe to repeat."""
        # First: a coordinator that stops waits a while for its connections to close.
        await self._close_api()
        processes = list(self._clients.values())
        if self._coordinator is not None:
            processes.append(self._coordinator)
        await asyncio.gather(*(process.stop(patience_seconds) for process in processes))
        await asyncio.gather(*self._watchers)

    async def _start_all(self, on_step: Callable[[str], None]) -> None:
        await self.prepare()
        on_step(f"an authority, and a certificate for each of {len(self.client_names) + 2} members")
        try:
            await self.start_coordinator(wait=False)
            for name in self.client_names:
                await self.start_client(name)
            await self.wait_until_ready()
            on_step(f"coordinator ready: clients at {self.address}, operators at {self.url}")
            await self.wait_until_attached()
            on_step(f"{len(self.client_names)} clients attached over mutual TLS 1.3")
        except BaseException:
            await self.stop()
            raise

    def _prepare_folder(self) -> None:
        self.folder.ensure_authority()
        members = [Member(Role.CLIENT, name) for name in self.client_names]
        for member in (_COORDINATOR, _OPERATOR, *members):
            self.folder.ensure_identity(member)
            self._write_config(member, {})

    def _write_config(self, member: Member, config: Tables) -> Path:
        own = self._options[member.role].config if member.role in self._options else {}
        return self.folder.write_config(member, self._tables(member), own, config)

    def _tables(self, member: Member) -> Tables:
        log = {"level": self._log_level}
        match member.role:
            case Role.COORDINATOR:
                storage = {"database": self._database_url} if self._database_url else {}
                coordinator = {
                    "listen": self.address,
                    "http_listen": f"{_HOST}:{self.http_port}",
                    "data_dir": "data",
                }
                sites = self.folder.sites_table()
                return {
                    "coordinator": coordinator,
                    "sites": sites,
                    "storage": storage,
                    "log": log,
                }
            case Role.CLIENT:
                client = {
                    "coordinator": self.address,
                    "state_dir": "state",
                    "apps": self._apps,
                    "data": self._client_data.get(member.name, {}),
                }
                return {"client": client, "log": log}
            case _:
                return {"operator": {"url": self.url}}

    async def _start(self, member: Member, options: ProcessOptions | None) -> ChildProcess:
        chosen = options or self._options[member.role]
        config = self._write_config(member, chosen.config)
        command = ChildCommand(
            name=member.name,
            module=chosen.module,
            arguments=(member.role.value, "start", "--config", str(config)),
            log=self.folder.log(member),
            environment=chosen.environment,
        )
        try:
            process = await ChildProcess.start(command)
        except OSError as error:
            raise StorageError(f"{member.name} can not be started: {error}") from error
        watcher = asyncio.create_task(self._watch(process))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        return process

    async def _remember_instance(self, name: str) -> None:
        """Note which process had the session: the coordinator may hold it for dead only later."""
        with contextlib.suppress(KumiaiError):  # a coordinator that is down holds no session
            for each in await self.api.clients():
                if each["client_id"] == name:
                    self._former[name] = each["instance_id"]

    async def _watch(self, process: ChildProcess) -> None:
        await process.wait()
        if not process.is_unwanted:
            self._ended.put_nowait(process)

    async def _wait_for(
        self, is_so: Callable[[], Awaitable[bool]], processes: Sequence[ChildProcess]
    ) -> None:
        """Ask until it is so; whoever is waited for stands last in ``processes``."""
        try:
            async with asyncio.timeout(self._start_seconds):
                while not await is_so():
                    for process in processes:
                        process.verify_running()
                    await asyncio.sleep(_LOOK_SECONDS)
        except TimeoutError:
            raise DeadlineError(
                f"{processes[-1].name} must be ready within {self._start_seconds:g} s, got none; "
                f"its last lines:\n{processes[-1].last_lines()}"
            ) from None

    async def _close_api(self) -> None:
        if self._api is not None:
            await self._api.aclose()
            self._api = None


def _free_ports(count: int) -> list[int]:
    ports: list[int] = []
    for _ in range(200):
        port = _FIRST_PORT + secrets.randbelow(_PORT_COUNT)
        if port not in ports and _are_free(port):
            ports.append(port)
        if len(ports) == count:
            return ports
    raise StorageError(
        f"{count} ports of {_FIRST_PORT} to {_FIRST_PORT + _PORT_COUNT} must be free, got none"
    )


def _are_free(*ports: int) -> bool:
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_HOST, port))
            except OSError:
                return False
    return True
