"""Private rounds survive kills: each is paid for, sealed and released once, whoever dies where.

A site pays for itself, too, before its vector leaves, and once however often it starts again. In
each case one process is killed at a named point of the second round, and started again.
"""

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kumiai.core.clock import SystemClock
from kumiai.node.client.budget import SiteLedger, read_copy
from kumiai.privacy.ledger import EntryKind
from kumiai.storage import BudgetRepository, DatabaseManager
from kumiai.testing.databases import SQLiteTemplate
from tests.system import study
from tests.system.deaths import with_a_killed_client, with_a_killed_coordinator
from tests.system.federation import SITES, Federation, attempts_of
from tests.system.test_hidden_kills import JOB as HIDDEN_JOB
from tests.system.test_hidden_kills import ROUNDS
from tests.zygote import Zygote

# Others cover what it repeats, and to be watched would double its time.
pytestmark = pytest.mark.no_cover

JOB: dict[str, Any] = {
    **HIDDEN_JOB,
    "secure_aggregation": {"mode": "masking", "phase_seconds": 80, "colluders": 0},
    "privacy": {"unit": "client", "clip": 1.0, "delta": 1e-5, "noise_multiplier": 1.0},
}
CENTRAL_JOB: dict[str, Any] = {
    **{table: keys for table, keys in HIDDEN_JOB.items() if table != "secure_aggregation"},
    "privacy": {**JOB["privacy"], "noise": "central", "adaptive": {}},
}
LOCAL_JOB: dict[str, Any] = {
    **{table: keys for table, keys in HIDDEN_JOB.items() if table != "secure_aggregation"},
    "privacy": {
        "noise": "local",
        "unit": "record",
        "clip": 1.0,
        "delta": 1e-5,
        "noise_multiplier": 1.0,
        "records": 6,
        "records_per_site": 2,
        "steps": 2,
        "sampling_rate": 0.5,
    },
}
COORDINATOR_DEATHS = [
    "storage.charge_budget.commit.before:2",
    "storage.charge_budget.commit.after:2",
    "storage.seal_budget.commit.before:2",
    "storage.seal_budget.commit.after:2",
    "coordinator.round.aggregated:2",
    "storage.publish_round.commit.before:2",
    "storage.publish_round.commit.after:2",
]
CENTRAL_DEATHS = [*COORDINATOR_DEATHS, "coordinator.central.noised:2"]
LOCAL_CLIENT_DEATHS = [
    "client.private.kept:2",
    "client.private.charged:2",
    "client.train.done:2",
    "client.update.acknowledged:2",
]
CENTRAL_CLIENT_DEATHS = ["client.train.done:2", "client.central.paid:2"]
CLIENT_DEATHS = ["client.train.done:2", "client.secure.recorded:8", "client.secure.before_send:6"]
POINTS = {
    death.partition(":")[0]
    for deaths in (
        *(COORDINATOR_DEATHS, CENTRAL_DEATHS),
        *(CLIENT_DEATHS, LOCAL_CLIENT_DEATHS, CENTRAL_CLIENT_DEATHS),
    )
    for death in deaths
}


@pytest.fixture
async def federation(
    tmp_path: Path, sqlite_template: SQLiteTemplate, zygote: Zygote
) -> AsyncIterator[Federation]:
    federation = Federation(tmp_path, sqlite_template.copy_to(tmp_path / "kumiai.db"), zygote)
    yield federation
    study.release_all()
    await federation.stop()


async def verify_paid_once(federation: Federation, run_id: str) -> None:
    database = DatabaseManager(federation.database_url)
    await database.connect()
    budgets = BudgetRepository(database)
    entries, checked = await budgets.entries(), await budgets.check()
    await database.close()

    assert list(checked.mended) == []
    assert Counter((entry.key, entry.kind) for entry in entries) == {
        (f"{run_id}/{number}/1", kind): 1
        for number in range(1, ROUNDS + 1)
        for kind in (EntryKind.CHARGED, EntryKind.SEALED, EntryKind.RELEASED)
    }
    for site in SITES:
        ledger = SiteLedger(federation.folder / "clients" / site, site, SystemClock())
        assert [str(each.key) for each in read_copy(ledger.export()).charges] == [
            f"{run_id}/{number}/1" for number in range(1, ROUNDS + 1)
        ]


@pytest.mark.parametrize("death", COORDINATOR_DEATHS)
async def test_a_killed_coordinator_pays_for_each_round_once(
    federation: Federation, death: str
) -> None:
    run_id = await with_a_killed_coordinator(federation, JOB, death)

    assert set(await attempts_of(federation, run_id)) == {1}
    await verify_paid_once(federation, run_id)


@pytest.mark.parametrize("death", CLIENT_DEATHS)
async def test_a_killed_client_pays_for_each_round_once(federation: Federation, death: str) -> None:
    run_id = await with_a_killed_client(federation, JOB, death)

    await verify_paid_once(federation, run_id)


@pytest.mark.parametrize("death", CENTRAL_DEATHS)
async def test_a_killed_coordinator_draws_the_noise_of_a_round_once(
    federation: Federation, death: str
) -> None:
    run_id = await with_a_killed_coordinator(federation, CENTRAL_JOB, death)

    await verify_paid_once(federation, run_id)


@pytest.mark.parametrize("death", CENTRAL_CLIENT_DEATHS)
async def test_a_killed_client_pays_once_for_an_update_that_it_sends_open(
    federation: Federation, death: str
) -> None:
    run_id = await with_a_killed_client(federation, CENTRAL_JOB, death)

    await verify_paid_once(federation, run_id)


@pytest.mark.parametrize("death", COORDINATOR_DEATHS)
async def test_a_killed_coordinator_lets_sites_with_noise_of_their_own_pay_once(
    federation: Federation, death: str
) -> None:
    run_id = await with_a_killed_coordinator(federation, LOCAL_JOB, death)

    await verify_paid_once(federation, run_id)


@pytest.mark.parametrize("table", [{}, {"secure_aggregation": JOB["secure_aggregation"]}])
@pytest.mark.parametrize("death", LOCAL_CLIENT_DEATHS)
async def test_a_killed_client_pays_once_for_noise_of_its_own_and_sends_it_again(
    federation: Federation, death: str, table: dict[str, Any]
) -> None:
    run_id = await with_a_killed_client(federation, {**LOCAL_JOB, **table}, death)

    await verify_paid_once(federation, run_id)
