"""A federation some of whose members are processes that die, and are started again.

Whoever is not killed in a test lives in the test's own event loop: a process less to start.
"""

import asyncio
import contextlib
import json
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import pytest

from kumiai.core.clock import SystemClock
from kumiai.core.codec import encode
from kumiai.core.digest import digest_of
from kumiai.core.ids import new_id
from kumiai.identity import CertificateManager, IssuedCertificate, Role, client_context
from kumiai.node.assembly.client import new_client
from kumiai.node.client.agent import ClientAgent
from kumiai.node.settings import Settings
from kumiai.node.study import initial_model
from kumiai.storage import DatabaseManager, RunRecord, RunRepository
from kumiai.testing.crash import KILL_AT, POINTS
from tests.system import study
from tests.zygote import Child, Zygote

SITES = ("site-1", "site-2", "site-3")
_ENDED = {"finished", "failed", "stopped"}
_FIRST_PORT, _PORT_COUNT = 20_000, 12_000  # below those that systems give to connections


@dataclass(frozen=True, slots=True)
class Life:
    """One life of a process that may be killed."""

    started_at: float
    points_file: Path
    kill_at: str | None

    def points(self) -> list[tuple[float, str]]:
        """Return the time and the name of each point that was reached."""
        if not self.points_file.exists():
            return []
        lines = self.points_file.read_text().splitlines()
        return [(float(line.split()[0]), line.split()[1]) for line in lines]

    def names(self) -> list[str]:
        return [name for _, name in self.points()]


class Mortal:
    """A program that is started again whenever it dies, as a service manager does.

    Args:
        zygote: forks it.
        name: for its files.
        folder: its own.
        arguments: of the command line.
        deaths: where it dies, life by life; after these it lives on.
    """

    def __init__(
        self,
        zygote: Zygote,
        name: str,
        folder: Path,
        arguments: Sequence[str],
        deaths: Sequence[str] = (),
    ) -> None:
        self.lives: list[Life] = []
        self.child: Child | None = None
        self.on_death: Callable[[], None] = lambda: None
        self.died = asyncio.Event()
        """Set once the last of the deaths that were asked for has happened."""
        self.pause_seconds = 0.0
        """How long it stays dead."""
        self.returns = True
        self._zygote = zygote
        self.name = name
        self._folder = folder
        self._arguments = arguments
        self._deaths = list(deaths)
        if not deaths:
            self.died.set()
        self._watcher: asyncio.Task[None] | None = None
        self._forking: asyncio.Task[Child] | None = None

    async def start(self) -> None:
        """Begin the first life; the others follow by themselves."""
        await self._begin_life()
        self._watcher = asyncio.create_task(self._live_on())

    async def kill(self) -> None:
        """Kill it for good."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
            self._watcher = None
        if self._forking is not None:
            self.child = await self._forking
            await self.child.kill()

    def report(self) -> str:
        """Return what is known of its lives, for a failing test."""
        told = [f"{self.name}: {len(self.lives)} lives"]
        told += [f"  to die at {life.kill_at}: {life.names()[-60:]}" for life in self.lives]
        return "\n".join([*told, self.child.last_lines(60) if self.child else ""])

    async def _live_on(self) -> None:
        while True:
            assert self.child is not None
            await self.child.ended()
            if self.returns and not self.lives[-1].names():
                self.lives.pop()  # it never began: somebody held its port for a moment
                await self._begin_life()
                continue
            self.on_death()
            if len(self.lives) >= len(self._deaths):
                self.died.set()
            if not self.returns:
                return
            if self.pause_seconds:
                await asyncio.sleep(self.pause_seconds)
            await self._begin_life()

    async def _begin_life(self) -> None:
        number = len(self.lives)
        kill_at = self._deaths[number] if number < len(self._deaths) else None
        life = Life(time.monotonic(), self._folder / f"{self.name}-{number}.points", kill_at)
        self.lives.append(life)
        forking = self._zygote.fork(
            self._arguments,
            environment={POINTS: str(life.points_file), KILL_AT: kill_at or ""},
            log=self._folder / f"{self.name}.log",
        )
        # A child that is on its way when this is cancelled must still be known, to be killed.
        self._forking = asyncio.create_task(forking)
        self.child = await asyncio.shield(self._forking)


class Federation:
    """One coordinator that is a process of its own, and clients here or in processes of theirs.

    Args:
        folder: of this federation.
        database_url: migrated.
        zygote: forks the processes.
    """

    def __init__(self, folder: Path, database_url: str, zygote: Zygote) -> None:
        self.folder = folder
        self.database_url = database_url
        self.agents: dict[str, ClientAgent] = {}
        self.mortal_clients: dict[str, Mortal] = {}
        self._database = DatabaseManager(database_url)
        self.runs = RunRepository(self._database)
        self._zygote = zygote
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._authority = CertificateManager(folder / "ca", clock=SystemClock())
        self._authority.create("test")
        self._certificates: dict[str, IssuedCertificate] = {}
        self._port, self._http_port = free_ports(2)
        operator = self._identity(Role.OPERATOR, "operator")
        self._operator_context = client_context(
            operator["certificate"], operator["key"], operator["ca"]
        )
        self.coordinator = self._new_mortal("coordinator", ())

    async def start_coordinator(self, *deaths: str, **settings: Any) -> None:
        """Start a coordinator that dies at these points, one life after the other."""
        self._write(
            "coordinator",
            identity=self._identity(Role.COORDINATOR, "coordinator"),
            storage={"database": self.database_url},
            coordinator={
                "listen": f"127.0.0.1:{self._port}",
                "http_listen": f"127.0.0.1:{self._http_port}",
                "data_dir": self.folder / "data",
                "heartbeat_seconds": 0.5,
                **settings,
            },
        )
        self.coordinator = self._new_mortal("coordinator", deaths)
        await self._database.connect()
        await self.coordinator.start()
        await self._until_it_listens()

    async def start_mortal_client(self, name: str, *deaths: str) -> Mortal:
        """Start a client as a process that dies at these points."""
        self._write(name, identity=self._identity(Role.CLIENT, name), client=self._client(name))
        self.mortal_clients[name] = self._new_mortal(name, deaths)
        await self.mortal_clients[name].start()
        return self.mortal_clients[name]

    def start_living_clients(self, *names: str) -> None:
        """Start clients in this process; they attach by themselves."""
        for name in names:
            settings = Settings.model_validate(
                {"identity": self._identity(Role.CLIENT, name), "client": self._client(name)}
            )
            self.agents[name] = new_client(settings)
            self._tasks[name] = asyncio.create_task(self.agents[name].run())

    async def stop_living_client(self, name: str) -> None:
        """End a client without a word."""
        task = self._tasks.pop(name)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        del self.agents[name]

    async def stop(self) -> None:
        """End everything, by force."""
        for name in list(self._tasks):
            await self.stop_living_client(name)
        mortals = [self.coordinator, *self.mortal_clients.values()]
        await asyncio.gather(*(mortal.kill() for mortal in mortals))
        await self._database.close()

    async def submit(self, job: Mapping[str, Any]) -> str:
        """Submit a job, as often as it takes, and return the run's id."""
        run_id = new_id("run")
        buffers = encode(initial_model(study.app, job.get("train", {}), seed=0))
        body, digest = b"".join(buffers), digest_of(buffers)
        upload = {"content": body, "headers": {"X-Kumiai-Digest": digest}}
        async with self.http() as http:
            await _put(http, f"/api/v1/runs/{run_id}/model", upload)
            await _put(
                http, f"/api/v1/runs/{run_id}", {"json": {"job": job, "model_digest": digest}}
            )
        return run_id

    async def wait_for_end(self, run_id: str) -> None:
        """Return once the run has finished, and the deaths that were asked for have happened."""
        for mortal in (self.coordinator, *self.mortal_clients.values()):
            await mortal.died.wait()
        run = await self.wait_until(run_id, lambda run: run.state in _ENDED)
        assert run.state == "finished", run.reason

    async def wait_until(self, run_id: str, is_so: Callable[[RunRecord], bool]) -> RunRecord:
        """Return the run's row once it is so.

        Read from the database: it is there while the coordinator is not, and asking costs less.
        """
        while not is_so(run := await self.runs.get(run_id)):
            await asyncio.sleep(0.02)
        return run

    def http(self) -> httpx.AsyncClient:
        """Return an HTTP client with the operator's certificate."""
        return httpx.AsyncClient(
            base_url=f"https://localhost:{self._http_port}",
            verify=self._operator_context,
            timeout=30,
        )

    @contextlib.asynccontextmanager
    async def within(self, seconds: float) -> AsyncIterator[None]:
        """Fail with all that is known if the body takes longer."""
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            pytest.fail(f"not done within {seconds:g} s\n{self.report()}")

    def report(self) -> str:
        """Return what is known of all processes, for a failing test."""
        mortals = [self.coordinator, *self.mortal_clients.values()]
        told = [mortal.report() for mortal in mortals]
        for name, task in self._tasks.items():
            is_attached = self.agents[name].attached.is_set()
            told.append(f"{name}: attached {is_attached}, {task!r}")
        return "\n".join([*told, _stacks()])

    async def _until_it_listens(self) -> None:
        # A client whose first attempt fails waits longer before the next.
        async with self.within(60):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self._http_port)
                    writer.close()
                    return
                await asyncio.sleep(0.02)

    def _new_mortal(self, name: str, deaths: Sequence[str]) -> Mortal:
        role = "coordinator" if name == "coordinator" else "client"
        arguments = (role, "start", "--config", str(self.folder / f"{name}.toml"))
        return Mortal(self._zygote, name, self.folder, arguments, deaths)

    def _client(self, name: str) -> dict[str, Any]:
        return {
            "coordinator": f"localhost:{self._port}",
            "state_dir": self.folder / "clients" / name,
            "apps": [study.APP],
            "data": {"number": int(name.rpartition("-")[2])},
            "accepts_paillier": True,
        }

    def _identity(self, role: Role, name: str) -> dict[str, Any]:
        if name not in self._certificates:
            hosts = ("localhost", "127.0.0.1") if role is Role.COORDINATOR else ()
            self._certificates[name] = self._authority.issue(
                role, name, hosts=hosts, out_dir=self.folder / "identities" / name
            )
        issued = self._certificates[name]
        return {"certificate": issued.cert, "key": issued.key, "ca": issued.ca}

    def _write(self, name: str, **tables: Mapping[str, Any]) -> None:
        text = "".join(_table_text(table, tables[table]) for table in tables)
        (self.folder / f"{name}.toml").write_text(text)


async def _put(http: httpx.AsyncClient, path: str, request: Mapping[str, Any]) -> None:
    while True:
        with contextlib.suppress(httpx.TransportError):
            answer = await http.put(path, **request)
            assert answer.status_code in {200, 201}, answer.text
            return
        await asyncio.sleep(0.02)


def _stacks() -> str:
    """Return where every task of this process waits."""
    lines = []
    for task in asyncio.all_tasks():
        places = [
            f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}"
            for frame in _frames_of(task.get_coro())
        ]
        lines.append(" > ".join([task.get_name(), *places]))
    return "\n".join(lines)


def _frames_of(coroutine: Any) -> Iterator[FrameType]:
    # From the outermost to what it waits for: a task's own stack ends with the first.
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        yield frame
        coroutine = coroutine.cr_await


def _table_text(name: str, table: Mapping[str, Any]) -> str:
    # What JSON writes for texts, numbers and lists of them is TOML as well.
    inner = {key: value for key, value in table.items() if isinstance(value, dict)}
    lines = [f"{key} = {json.dumps(table[key], default=str)}\n" for key in table.keys() - inner]
    tables = [_table_text(f"{name}.{key}", inner[key]) for key in inner]
    return "".join([f"[{name}]\n", *lines, *tables])


@dataclass(frozen=True, slots=True)
class RoundTrace:
    """What a round leaves behind that no crash may change."""

    round: int
    stage: str
    base_digest: str
    model_digest: str | None
    reports: int | None
    examples: int | None
    metrics: Mapping[str, float] | None
    updates: tuple[tuple[str, str, int], ...]
    """Client, digest and examples of each update that counts."""
    times_opened: int


@dataclass(frozen=True, slots=True)
class Trace:
    """What a run leaves behind that no crash may change; digests stand for the bits."""

    state: str
    rounds: tuple[RoundTrace, ...]
    model_digest: str
    evaluation: Mapping[str, float] | None
    evaluation_reports: int | None
    files_left: tuple[str, ...]
    """What else lies in the blob folder for the run than its models."""


async def trace_of(federation: Federation, run_id: str) -> Trace:
    """Return the trace of a run, read from the rows and from the disk."""
    runs = federation.runs
    run = await runs.get(run_id)
    opened = [
        event.round
        for event in await runs.events(run_id, limit=1000)
        if event.kind == "round_opened"
    ]
    rounds = await runs.rounds(run_id)
    traces = [
        RoundTrace(
            each.round,
            each.stage,
            each.base_digest,
            each.model_digest,
            each.reports,
            each.examples,
            each.metrics,
            tuple(
                (update.client_id, update.digest, update.examples)
                for update in await runs.updates(run_id, each.round)
            ),
            opened.count(each.round),
        )
        for each in rounds
    ]
    models = {f"models/{run_id}/{model.digest}" for model in await runs.models(run_id)}
    blobs = federation.folder / "data" / "blobs"
    files = {
        str(path.relative_to(blobs))
        for path in blobs.rglob("*")
        if path.is_file() and run_id in path.parts
    }
    assert models <= files, f"a published model must be on the disk, got none of {models - files}"
    return Trace(
        run.state,
        tuple(traces),
        run.model_digest,
        rounds[-1].evaluation,
        rounds[-1].evaluation_reports,
        tuple(sorted(file.replace(run_id, "RUN") for file in files - models)),
    )


async def attempts_of(federation: Federation, run_id: str) -> list[int]:
    """Return how many attempts each round took; the initial model took none."""
    return [each.attempt for each in (await federation.runs.rounds(run_id))[1:]]


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    ports: list[int] = []
    while len(ports) < count:
        port = _FIRST_PORT + secrets.randbelow(_PORT_COUNT)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            ports.append(port)
    return ports
