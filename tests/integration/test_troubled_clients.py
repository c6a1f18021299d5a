"""Clients that meet trouble on their own machine, and go on."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from kumiai.core.clock import SystemClock
from kumiai.identity import Role
from kumiai.node.client.agent import AgentTimes, ClientAgent
from kumiai.node.study import Site
from kumiai.node.wire.channel import TlsFiles
from kumiai.testing.databases import SQLiteTemplate
from tests.integration import study
from tests.integration.eventually import eventually
from tests.integration.federation import Federation, job


@pytest.fixture
async def federation(tmp_path: Path, sqlite_template: SQLiteTemplate) -> AsyncIterator[Federation]:
    """Lend a started coordinator."""
    federation = Federation(tmp_path, sqlite_template.copy_to(tmp_path / "kumiai.db"))
    await federation.start()
    yield federation
    study.hold.clear()
    await federation.stop()


def models_of(federation: Federation, name: str) -> Path:
    folder = federation.folder / "clients" / name / "models"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.parametrize("rest", [b"", b"\x00" * 168, b"\x00" * 10_000])
@pytest.mark.parametrize("name", ["{}.safetensors", ".{}.part"])
async def test_a_cached_model_that_a_crash_damaged_is_fetched_again(
    federation: Federation, name: str, rest: bytes
) -> None:
    run_id = await federation.submit(job(run={"rounds": 1}, cohort={"size": 1}), study.app)
    async with federation.http() as http:
        digest = (await http.get(f"/api/v1/runs/{run_id}")).json()["model_digest"]
    (models_of(federation, "site-1") / name.format(digest)).write_bytes(rest)

    await federation.start_clients(1)
    await federation.wait_for(run_id)

    np.testing.assert_array_equal((await federation.model(run_id))["w"], np.ones(8))


async def test_a_cache_that_can_not_be_tidied_stops_nothing(federation: Federation) -> None:
    for number in range(4):
        (models_of(federation, "site-1") / f"{number}.safetensors").mkdir()

    await federation.start_clients(1)
    run_id = await federation.submit(job(cohort={"size": 1}), study.app)

    await federation.wait_for(run_id)


async def test_models_that_came_only_in_part_do_not_pile_up(federation: Federation) -> None:
    left_over = models_of(federation, "site-1") / ".0123.part"
    left_over.write_bytes(b"part of a model of long ago")

    await federation.start_clients(1)
    run_id = await federation.submit(job(cohort={"size": 1}), study.app)
    await federation.wait_for(run_id)

    assert not left_over.exists()


async def test_a_client_comes_back_as_soon_after_the_second_outage_as_after_the_first(
    federation: Federation,
) -> None:
    issued = federation.issue(Role.CLIENT, "site-1")
    assert federation.server is not None

    async def explain() -> None:
        return None

    agent = ClientAgent(
        address=f"localhost:{federation.server.port}",
        tls=TlsFiles(certificate=issued.cert, key=issued.key, ca=issued.ca),
        apps={"counting": study.app},
        site=Site("site-1", {"number": 1}),
        state_dir=federation.folder / "state",
        clock=SystemClock(),
        explain=explain,
        times=AgentTimes(first_retry_seconds=0.01, longest_retry_seconds=0.3),
    )
    federation.clients["site-1"] = task = asyncio.create_task(agent.run())
    federation.agents["site-1"] = agent

    firsts = []
    for _ in range(2):
        async with asyncio.timeout(30):
            await agent.attached.wait()
        await asyncio.wait({task}, timeout=0.4)  # long enough to call it a good session
        with capture_logs() as logs:
            await federation.server.stop()
            await eventually(lambda: pauses(logs), lambda seen: len(seen) >= 7)
        firsts.append(pauses(logs)[0])
        await federation.start()

    assert max(firsts) <= 0.01


def pauses(logs: Sequence[Mapping[str, Any]]) -> list[float]:
    return [each["retry_seconds"] for each in logs if each["event"] == "not connected"]


async def test_a_number_that_the_wire_can_not_carry_fails_the_task_and_not_the_client(
    federation: Federation,
) -> None:
    await federation.start_clients(2)

    run_id = await federation.submit(
        job(
            cohort={"size": 2, "min_reports": 1, "max_attempts": 1},
            train={"boasts": "site-1"},
        ),
        study.app,
    )
    await federation.wait_for(run_id)

    assert not federation.clients["site-1"].done()
    np.testing.assert_array_equal((await federation.model(run_id))["w"], np.full(8, 6))
    async with federation.http() as http, asyncio.timeout(30):
        told = (await http.get(f"/api/v1/runs/{run_id}/events")).json()["events"]
    assert any("ValueError" in each["text"] for each in told if each["client_id"] == "site-1")
