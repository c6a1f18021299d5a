"""The coordinator holds no client's plain update: neither on disk, nor in its log or memory."""

import asyncio
import contextlib
import re
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kumiai.node.job import JobSpec, parse_job
from kumiai.node.local.federation import LocalFederation, ProcessOptions
from kumiai.node.study import initial_model
from tests.system import canary

SITES = ("site-1", "site-2", "site-3")
ROUNDS = 4
SEARCHES_MAX = 4
_BLOCK_BYTES, _OVERLAP_BYTES = 1 << 20, 1 << 10
_WRITABLE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw")
_RUN = slice(100, 116)
"""Sixteen numbers in a row: what this finds is no accident."""


def job(mode: str, rounds: int) -> JobSpec:
    secure: dict[str, Any] = {"mode": mode, "clip": 32_767 / canary.LEVELS_PER_UNIT}
    secure |= {"key_bits": 2048} if mode == "paillier" else {}
    return parse_job(
        {
            "run": {"app": "canary", "rounds": rounds},
            "cohort": {"size": 3, "min_reports": 3},
            "evaluation": {"every": 0},
            "secure_aggregation": secure,
        }
    )


def traces_of(number: int) -> dict[str, bytes]:
    """Return each form in which a site's update could lie about."""
    update = canary.update_of(number)[_RUN]
    steps = np.rint(update * canary.LEVELS_PER_UNIT).astype(np.int64)
    return {
        "float32": update.tobytes(),
        "float64": update.astype(np.float64).tobytes(),
        "quantised, 64 bits": steps.tobytes(),
        "quantised, 32 bits": steps.astype(np.int32).tobytes(),
        "text": ", ".join(map(str, update[:4].tolist())).encode(),
    }


def found_in(content: bytes) -> set[str]:
    return {
        f"site-{number}: {form}"
        for number in (1, 2, 3)
        for form, trace in traces_of(number).items()
        if trace in content
    }


def memory_of(pid: int) -> Iterator[bytes]:
    """Yield the writable memory of a process that is halted."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            if (match := _WRITABLE.match(line)) is None:
                continue
            start, end = (int(each, 16) for each in match.groups())
            for at in range(start, end, _BLOCK_BYTES):
                with contextlib.suppress(OSError, ValueError):  # what only the kernel may read
                    memory.seek(at)
                    block = memory.read(min(_BLOCK_BYTES + _OVERLAP_BYTES, end - at))
                    if block.strip(b"\0"):
                        yield block


def found_in_memory(pid: int) -> set[str]:
    return set().union(*(found_in(content) for content in memory_of(pid)))


def found_on_disk(folder: Path) -> set[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return set().union(*(found_in(path.read_bytes()) for path in files))


@contextlib.asynccontextmanager
async def running(folder: Path, mode: str, rounds: int) -> AsyncIterator[tuple[Any, str]]:
    """Run a job of three sites; yields the federation and the run."""
    federation = LocalFederation(
        folder,
        client_names=list(SITES),
        apps=[canary.APP],
        client=ProcessOptions(config={"client": {"accepts_paillier": True}}),
    )
    async with federation:
        weights = initial_model(canary.app, {}, seed=0)
        yield federation, await federation.api.submit(job(mode, rounds), weights)


async def search(federation: Any, folder: Path) -> set[str]:
    """Return what is found at the coordinator, which is halted meanwhile."""
    coordinator = federation.coordinator
    coordinator.send(signal.SIGSTOP)
    try:
        in_memory = await asyncio.to_thread(found_in_memory, coordinator.pid)
        return in_memory | await asyncio.to_thread(found_on_disk, folder / "coordinator")
    finally:
        coordinator.send(signal.SIGCONT)


@pytest.mark.timeout(300)
@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="memory is read through /proc")
@pytest.mark.parametrize("mode", ["masking", "paillier"])
async def test_a_hidden_update_is_nowhere_at_the_coordinator(tmp_path: Path, mode: str) -> None:
    folder = tmp_path / "federation"
    found: set[str] = set()
    async with running(folder, mode, ROUNDS) as (federation, run_id):
        searches = 0
        while (run := await federation.api.run(run_id))["state"] in {"submitted", "running"}:
            if searches < SEARCHES_MAX:
                found |= await search(federation, folder)
                searches += 1
            await asyncio.sleep(0.05)
        assert run["state"] == "finished", run["reason"]
        found |= await search(federation, folder)

    assert searches > 1
    assert found | found_on_disk(folder / "coordinator") | found_on_disk(folder / "logs") == set()


@pytest.mark.timeout(300)
@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="memory is read through /proc")
async def test_the_search_finds_an_update_that_is_not_hidden(tmp_path: Path) -> None:
    folder = tmp_path / "federation"
    found: set[str] = set()
    async with running(folder, "none", 1_000) as (federation, run_id):
        while not found >= {f"{site}: float32" for site in SITES}:
            found |= await search(federation, folder)
            assert (await federation.api.run(run_id))["state"] in {"submitted", "running"}
