"""Runs that meet trouble: numbers that overflow, studies that raise, restarts at bad moments."""

import asyncio
import contextlib
import json
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kumiai.core import failpoints
from kumiai.core.errors import StorageError
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.testing.databases import SQLiteTemplate
from tests.integration import study
from tests.integration.eventually import eventually
from tests.integration.federation import Federation, job
from tests.integration.test_refusals import held_run, put, spooled, update

LARGEST = float(np.finfo(np.float32).max)


@pytest.fixture
async def federation(tmp_path: Path, sqlite_template: SQLiteTemplate) -> AsyncIterator[Federation]:
    """Lend a coordinator that is not started yet."""
    federation = Federation(tmp_path, sqlite_template.copy_to(tmp_path / "kumiai.db"))
    yield federation
    study.hold.clear()
    await federation.stop()


class Trouble:
    """Fails at one point of the program, each time but the first few, until it is over."""

    def __init__(self, name: str, passes: int) -> None:
        self._name = name
        self._passes = passes
        self.met = asyncio.Event()

    def __call__(self, name: str) -> None:
        if name != self._name:
            return
        self._passes -= 1
        if self._passes < 0:
            self.met.set()
            raise StorageError("the disk is full")


@contextlib.contextmanager
def trouble(name: str, *, passes: int = 0) -> Iterator[Trouble]:
    """Let the program fail at this point while the body runs."""
    hook = Trouble(name, passes)
    failpoints.install(hook)
    try:
        yield hook
    finally:
        failpoints.install(None)


async def events(federation: Federation, run_id: str) -> list[dict[str, Any]]:
    async with federation.http() as http:
        found = (await http.get(f"/api/v1/runs/{run_id}/events")).json()["events"]
    return list(found)


async def rounds(federation: Federation, run_id: str) -> list[dict[str, Any]]:
    async with federation.http() as http:
        return list((await http.get(f"/api/v1/runs/{run_id}/rounds")).json()["rounds"])


async def stop_everything(federation: Federation) -> None:
    for name in list(federation.clients):
        await federation.stop_client(name)
    assert federation.server is not None
    await federation.server.stop()


async def restart(federation: Federation) -> None:
    """Start the coordinator again, and return once it waits for the run's clients."""
    seen = len(events_on_disk(federation))
    await federation.start()
    await eventually(lambda: events_on_disk(federation)[seen:], lambda kinds: "waiting" in kinds)


def events_on_disk(federation: Federation) -> list[str]:
    with contextlib.closing(sqlite3.connect(federation.folder / "kumiai.db")) as database:
        return [kind for (kind,) in database.execute("SELECT kind FROM events ORDER BY seq")]


# --- numbers ---


async def test_a_sum_that_overflows_never_becomes_a_model(federation: Federation) -> None:
    await federation.start()
    run_id = await held_run(federation, run={"rounds": 3})
    issued = federation.certificates["site-1"]

    body, fields = update(LARGEST * 0.75)
    for number in (1, 2):
        header = pb.PutHeader(run_id=run_id, round=number, **fields)
        await federation.until_round(run_id, number)
        await put(federation, issued, header, body)
    run = await federation.wait_for(run_id, "failed")

    assert "model of round 2 must be finite" in run["reason"]
    assert run["end_kind"] == "diverged"
    assert run["round"] == 2
    assert np.isfinite((await federation.model(run_id))["w"]).all()


async def test_a_central_evaluation_that_fails_costs_its_numbers_and_not_the_run(
    federation: Federation,
) -> None:
    federation.settings = {"apps": ["tests.integration.study:app"], "data": {"number": 0}}
    await federation.start()
    await federation.start_clients(1)

    run_id = await federation.submit(
        job(
            run={"rounds": 2},
            cohort={"size": 1},
            evaluation={"central": True},
            train={"blind": "coordinator"},
        ),
        study.app,
    )
    await federation.wait_for(run_id)

    told = [each["text"] for each in await events(federation, run_id)]
    assert sum("blind" in text for text in told) == 2


async def test_a_job_that_this_version_can_not_read_fails_its_run_with_the_reason(
    federation: Federation,
) -> None:
    await federation.start()
    run_id = await federation.submit(job(cohort={"size": 1}), study.app)
    await stop_everything(federation)
    with contextlib.closing(sqlite3.connect(federation.folder / "kumiai.db")) as database:
        old = {"run": {"app": "counting"}, "removed_option": 1}
        database.execute("UPDATE runs SET job_json = ?", [json.dumps(old)])
        database.commit()

    await federation.start()
    run = await federation.wait_for(run_id, "failed")

    assert run["reason"] == "removed_option must be removed: no such key"


# --- what a run leaves behind ---


async def test_a_run_that_is_stopped_leaves_no_update_behind(federation: Federation) -> None:
    await federation.start()
    study.hold["site-2"] = threading.Event()
    await federation.start_clients(2)
    cohort = {"size": 2, "min_reports": 2}
    run_id = await federation.submit(job(cohort=cohort), study.app)
    await eventually(lambda: spooled(federation))

    async with federation.http() as http:
        await http.post(f"/api/v1/runs/{run_id}/stop", json={})
    await federation.wait_for(run_id, "stopped")

    await eventually(lambda: not spooled(federation))


# --- restarts ---


async def test_a_restart_between_rounds_does_not_leave_the_others_out(
    federation: Federation,
) -> None:
    await federation.start()
    await federation.start_clients(2)
    with trouble("storage.open_round.commit.before", passes=1) as hook:
        run_id = await federation.submit(job(run={"rounds": 2}), study.app)
        async with asyncio.timeout(30):
            await hook.met.wait()
        await stop_everything(federation)

    await restart(federation)
    federation.start_client("site-1", data={"number": 1})
    await federation.agents["site-1"].attached.wait()
    federation.start_client("site-2", data={"number": 2})
    await federation.wait_for(run_id)

    assert [each["reports"] for each in (await rounds(federation, run_id))[1:]] == [2, 2]


async def test_a_restart_before_the_last_evaluation_does_not_lose_it(
    federation: Federation,
) -> None:
    await federation.start()
    await federation.start_clients(2)
    with trouble("storage.open_evaluation.commit.before") as hook:
        run_id = await federation.submit(job(run={"rounds": 1}, cohort={"size": 2}), study.app)
        async with asyncio.timeout(30):
            await hook.met.wait()
        await stop_everything(federation)

    await federation.start()
    await federation.start_clients(2)
    await federation.wait_for(run_id)

    assert (await rounds(federation, run_id))[-1]["evaluation"] == {"first": 1.5}


async def test_a_restart_before_a_round_is_extended_does_not_spend_its_attempts_on_nobody(
    federation: Federation,
) -> None:
    await federation.start()
    await federation.start_clients(1)
    with trouble("storage.extend_round.commit.before") as hook:
        run_id = await federation.submit(
            job(cohort={"size": 1, "max_attempts": 2}, train={"broken": "site-1"}), study.app
        )
        async with asyncio.timeout(30):
            await hook.met.wait()
        await stop_everything(federation)

    await restart(federation)
    await federation.start_clients(1)
    await federation.wait_for(run_id, "failed")

    extended = [
        each["data"]["clients"]
        for each in await events(federation, run_id)
        if each["kind"] == "round_extended"
    ]
    assert extended == [1]
