"""The same kill with nothing warmed up: programs as a service manager starts them."""

import asyncio
import time
from pathlib import Path

import pytest

from kumiai.core.digest import digest_of
from kumiai.node.job import parse_job
from kumiai.node.local.federation import LocalFederation, ProcessOptions
from kumiai.node.study import initial_model
from kumiai.testing.crash import KILL_AT
from tests.system import study
from tests.system.conftest import JOB, Undisturbed
from tests.system.federation import SITES


async def test_a_cold_coordinator_goes_on_with_its_round(
    tmp_path: Path,
    database_url: str,
    undisturbed: Undisturbed,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mortal = ProcessOptions(
        module="kumiai.testing.crash",
        environment={KILL_AT: "coordinator.round.opened:2>coordinator.update.before_ack"},
    )
    data = {name: {"number": number} for number, name in enumerate(SITES, start=1)}
    async with LocalFederation(
        tmp_path,
        client_names=SITES,
        apps=[study.APP],
        client_data=data,
        database_url=database_url,
        coordinator=mortal,
    ) as federation:
        run_id = await federation.api.submit(
            parse_job(JOB), initial_model(study.app, {}, seed=JOB["run"]["seed"])
        )
        await federation.coordinator.wait()
        began = time.monotonic()
        await federation.start_coordinator(ProcessOptions())
        async with asyncio.timeout(60):
            while (await federation.api.run(run_id))["state"] != "finished":
                await asyncio.sleep(0.02)
        seconds = time.monotonic() - began
        model = await federation.api.model(run_id)

    with capsys.disabled():
        print(f"\n  a cold start, and the rest of the run: {seconds:.2f} s")
    assert digest_of([model]) == undisturbed.trace.model_digest
