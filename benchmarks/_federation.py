"""A coordinator process with whatever clients a benchmark wants, over mutual TLS on loopback."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from kumiai.core.errors import KumiaiError
from kumiai.identity import Role
from kumiai.node.job import JobSpec, parse_job
from kumiai.node.local.child_process import ChildCommand, ChildProcess
from kumiai.node.local.federation import LocalFederation, ProcessOptions
from kumiai.node.local.folder import Member

__all__ = [
    "Driven",
    "bare_clients",
    "client_processes",
    "config_of",
    "ended",
    "federation_in",
    "gathered",
    "job_for",
    "new_model",
]

HERE = Path(__file__).resolve().parent
STUDY = HERE / "_constant_study.py"
APP = "constant"
_ANSWER_BYTES_MAX = 64 << 20
_LOOK_SECONDS = 0.1
_RUN_LOOK_SECONDS = 1.0  # each look costs the coordinator some milliseconds
_ENDED = {"finished", "failed", "stopped"}


class Driven:
    """A program of ours that does what it is told, line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """Take over what ``started`` has started."""
        self._process = process

    @classmethod
    @asynccontextmanager
    async def started(
        cls, program: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> AsyncIterator[Self]:
        """Start a program of this folder; end it when the block ends."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(HERE / program),
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_ANSWER_BYTES_MAX,
            env={**os.environ, **(environment or {})},
        )
        try:
            yield cls(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    async def answer(self) -> dict[str, Any]:
        """Return the next line that the program prints."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a program of the benchmark ended: {await self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    async def ask(self, **order: Any) -> dict[str, Any]:
        """Let the program do something and return what it says."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        await self._process.stdin.drain()
        return await self.answer()


@asynccontextmanager
async def federation_in(
    folder: Path, clients: int, *, heartbeat_seconds: float = 5.0
) -> AsyncIterator[LocalFederation]:
    """Start a coordinator; certificates and settings for so many clients stand, none is started."""
    names = [f"client-{number:03}" for number in range(clients)]
    federation = LocalFederation(
        folder, client_names=names, apps=[str(STUDY)], log_level="warning", start_seconds=120
    )
    options = ProcessOptions(config={"coordinator": {"heartbeat_seconds": heartbeat_seconds}})
    try:
        await federation.prepare()
        await federation.start_coordinator(options)
        yield federation
    finally:
        await federation.stop()


@asynccontextmanager
async def bare_clients(
    federation: LocalFederation,
    names: Sequence[str],
    *,
    processes: int,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[list[Driven]]:
    """Start clients without a study, evenly in so many processes; see ``_bare_clients.py``."""
    configs = [config_of(federation, name) for name in names]
    shares = [share for index in range(processes) if (share := configs[index::processes])]
    async with AsyncExitStack() as stack:
        groups = [
            await stack.enter_async_context(
                Driven.started("_bare_clients.py", *share, environment=environment)
            )
            for share in shares
        ]
        for group in groups:
            await group.answer()
        yield groups


@asynccontextmanager
async def client_processes(
    federation: LocalFederation, *, processes: int
) -> AsyncIterator[list[ChildProcess]]:
    """Start every client of the federation, as ``kumiai client start`` or sharing processes."""
    names = federation.client_names
    started: list[ChildProcess] = []
    try:
        if processes >= len(names):
            for name in names:
                started.append(await federation.start_client(name))  # noqa: PERF401 - all that began are ended
        else:
            for index in range(processes):
                configs = [config_of(federation, name) for name in names[index::processes]]
                command = ChildCommand(
                    name=f"clients-{index}",
                    module="_agents",
                    arguments=configs,
                    log=federation.folder.path / "logs" / f"clients-{index}.log",
                    environment={"PYTHONPATH": str(HERE)},
                )
                started.append(await ChildProcess.start(command))
        while set(names) > await federation.attached():
            for process in started:
                process.verify_running()
            await asyncio.sleep(_LOOK_SECONDS)
        yield started
    finally:
        await asyncio.gather(*(process.stop(5.0) for process in started))


async def gathered(
    questions: Iterable[Coroutine[Any, Any, dict[str, Any]]],
) -> list[dict[str, Any]]:
    """Return all answers, asked for at once."""
    return list(await asyncio.gather(*questions))


async def ended(federation: LocalFederation, run_id: str) -> None:
    """Return once the run is finished; ends the program if it ended otherwise."""
    while True:
        run = await federation.api.run(run_id)
        if run["state"] == "finished":
            return
        if run["state"] in _ENDED:
            raise KumiaiError(f"run {run['state']}: {run['reason']}")
        await asyncio.sleep(_RUN_LOOK_SECONDS)


def config_of(federation: LocalFederation, name: str) -> str:
    """Return the path of a client's settings."""
    return str(federation.folder.config(Member(Role.CLIENT, name)))


def new_model(numbers: int, arrays: int = 10) -> dict[str, NDArray[Any]]:
    """Return a model of so many float32, in arrays of one size."""
    generator = np.random.default_rng(1)
    flat = generator.standard_normal(numbers, dtype=np.float32)
    return {f"layer-{i:02}": part for i, part in enumerate(np.array_split(flat, arrays))}


def job_for(clients: int, rounds: int, *, quorum: int | None = None) -> JobSpec:
    """Return a job whose rounds wait for all clients, and evaluate nothing."""
    return parse_job(
        {
            "run": {"app": APP, "rounds": rounds, "keep_versions": 1},
            "cohort": {
                "size": clients,
                "min_clients": clients,
                "min_reports": quorum,
                "grace_seconds": 3600,
            },
            "evaluation": {"every": 0},
        }
    )
