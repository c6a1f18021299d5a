"""Groups that train ahead survive kills: nobody trains twice for one round, and no update is lost.

Each group is all three sites, so that versions are those of a synchronous run, whoever dies.
"""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kumiai.testing.databases import SQLiteTemplate
from tests.system import study
from tests.system.deaths import (
    SECONDS,
    died_at,
    with_a_killed_client,
    with_a_killed_coordinator,
)
from tests.system.federation import SITES, Federation, attempts_of, trace_of
from tests.system.test_hidden_kills import JOB as SYNCHRONOUS
from tests.system.test_hidden_kills import ROUNDS, STEP, chaotic, expected, model_of
from tests.zygote import Zygote

# Others cover what it repeats, and to be watched would double its time.
pytestmark = pytest.mark.no_cover

HIDDEN: dict[str, Any] = {
    **SYNCHRONOUS,
    "cohort": {"min_reports": 3, "grace_seconds": 60.0},
    "asynchronous": {"group_size": 3},
}
OPEN: dict[str, Any] = {**HIDDEN, "secure_aggregation": {"mode": "none"}}

SECOND = "coordinator.round.opened:2"
COORDINATOR_DEATHS = [
    # Who has trained for too long is given up.
    "storage.fail_overdue.commit.before",
    "storage.fail_overdue.commit.after",
    # Who is free is asked, and told.
    "storage.prepare.commit.before",
    "storage.prepare.commit.after:2",
    "coordinator.training.asked",
    "coordinator.round.published>coordinator.training.asked",
    # Who has trained waits.
    "storage.report_prepared.commit.before:2",
    "storage.report_prepared.commit.after:2",
    "coordinator.round.published>storage.report_prepared.commit.after:3",
    # As many wait as make a group.
    "storage.open_round.commit.after:2",
    f"{SECOND}>storage.append_secure_records.commit.after:3",
    "storage.publish_round.commit.after",
    # The run has its last version.
    "storage.withdraw_prepared.commit.before",
    "storage.withdraw_prepared.commit.after",
]
CLIENT_DEATHS = [
    "client.update.held",
    "client.update.held:2",
    "client.update.held:2>client.task.begun",
    "client.update.held:2>client.secure.recorded:3",
    # Its update is hidden, and on its way.
    "client.update.held:2>client.update.header_sent",
]
MORE_COORDINATOR_DEATHS = [
    "storage.open_round.commit.before:2",
    f"{SECOND}>coordinator.secure.opened",
    "coordinator.round.aggregated:2",
]
MORE_CLIENT_DEATHS = [
    "client.task.begun:2",
    "client.update.held:2>client.secure.before_send:4",
    "client.update.held:2>client.update.sent",
]
"""The same at other steps; `make chaos` dies there too."""
POINTS = {
    re.sub(r":\d+$", "", death.rpartition(">")[2])
    for death in (*COORDINATOR_DEATHS, *CLIENT_DEATHS)
}


@pytest.fixture
async def federation(
    tmp_path: Path, sqlite_template: SQLiteTemplate, zygote: Zygote
) -> AsyncIterator[Federation]:
    federation = Federation(tmp_path, sqlite_template.copy_to(tmp_path / "kumiai.db"), zygote)
    yield federation
    study.release_all()
    await federation.stop()


async def verify_run(federation: Federation, run_id: str) -> None:
    model = await model_of(federation, run_id)
    np.testing.assert_allclose(model["w"], expected(), atol=2 * ROUNDS * STEP)
    assert model["steps"] == ROUNDS
    assert set(await attempts_of(federation, run_id)) == {1}
    for version in range(ROUNDS):
        rows = await federation.runs.preparing(run_id, version)
        joined = [each for each in rows if each.kind == "prepare" and each.state == "joined"]
        found = sorted((each.client_id, each.attempt) for each in joined)
        assert found == [(site, 1) for site in SITES]


@pytest.mark.parametrize(
    "death", [*COORDINATOR_DEATHS, *(chaotic(each) for each in MORE_COORDINATOR_DEATHS)]
)
async def test_a_killed_coordinator_goes_on_with_the_same_groups(
    federation: Federation, death: str
) -> None:
    run_id = await with_a_killed_coordinator(federation, HIDDEN, death)

    await verify_run(federation, run_id)


@pytest.mark.parametrize("death", [*CLIENT_DEATHS, *(chaotic(each) for each in MORE_CLIENT_DEATHS)])
async def test_a_killed_client_brings_the_update_that_it_holds(
    federation: Federation, death: str
) -> None:
    run_id = await with_a_killed_client(federation, HIDDEN, death)

    await verify_run(federation, run_id)


@pytest.mark.parametrize(
    "death", ["coordinator.training.asked:2", f"{SECOND}>storage.inbox.commit.after"]
)
async def test_a_killed_coordinator_gives_the_same_bits_where_updates_are_open(
    federation: Federation, death: str
) -> None:
    await federation.start_coordinator(death)
    federation.start_living_clients(*SITES)
    async with federation.within(SECONDS):
        run_id = await federation.submit(OPEN)
        await federation.wait_for_end(run_id)
        again = await federation.submit(OPEN)
        await federation.wait_for_end(again)

    died_at(federation.coordinator, death)
    await verify_run(federation, run_id)
    assert await trace_of(federation, run_id) == await trace_of(federation, again)
