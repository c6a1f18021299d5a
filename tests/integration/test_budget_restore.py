"""A coordinator from an old backup is frozen, and told by the sites what it has forgotten."""

import shutil
from pathlib import Path
from typing import Any

from tests.integration import study
from tests.integration.federation import Federation, job
from tests.integration.private_runs import copy_of, releases_of

SITES = [f"site-{number}" for number in range(1, 5)]


def one_round() -> dict[str, Any]:
    return job(
        run={"rounds": 1, "name": "counted"},
        cohort={"size": 4, "min_reports": 4, "grace_seconds": 2.0},
        secure_aggregation={"mode": "masking"},
        evaluation={"every": 0},
        train={"size": 20},
        privacy={
            "unit": "record",
            "clip": 2.0,
            "delta": 1e-5,
            "noise_multiplier": 4.0,
            "records": 40,
            "records_per_site": 10,
        },
    )


async def run_once(federation: Federation, state: str = "finished") -> dict[str, Any]:
    run_id = await federation.submit(one_round(), study.app)
    return await federation.wait_for(run_id, state, seconds=90)


async def budgets(federation: Federation, method: str = "GET", path: str = "", **body: Any) -> Any:
    async with federation.http() as http:
        answer = await http.request(method, f"/api/v1/budgets{path}", **body)
    return answer.json()


def copy_body(federation: Federation, site: str) -> dict[str, Any]:
    charges = copy_of(federation, site).charges
    return {
        "site": site,
        "charges": [[str(each.key), each.charge.to_content()] for each in charges],
    }


async def restart_on(federation: Federation, backup: Path) -> None:
    """Let the coordinator start on the database as it was, in the midst of its clients' lives."""
    assert federation.server is not None
    await federation.server.stop()
    for path in federation.folder.glob("kumiai.db*"):
        path.unlink()
    shutil.copyfile(backup, federation.folder / "kumiai.db")
    await federation.start()


async def test_a_restored_coordinator_spends_nothing_twice(
    federation: Federation, tmp_path: Path
) -> None:
    await federation.start_clients(4)
    await run_once(federation)
    assert federation.server is not None
    await federation.server.stop()  # so that the file is the whole database
    backup = tmp_path / "backup.db"
    shutil.copyfile(tmp_path / "kumiai.db", backup)
    await federation.start()
    await run_once(federation)
    await run_once(federation)
    await restart_on(federation, backup)

    frozen = await budgets(federation)
    refused = await run_once(federation, "failed")
    await budgets(
        federation,
        "POST",
        "/reconcile",
        json={"copies": [copy_body(federation, site) for site in SITES]},
    )
    told = await releases_of(federation)
    await run_once(federation)

    assert "put back to an older state" in frozen["frozen"]
    assert "budget ledger must not be frozen" in refused["reason"]
    scopes = ["model/counted", *(f"client/{site}" for site in SITES)]
    scopes += [f"dataset/{site}/counting" for site in SITES]
    assert told == dict.fromkeys(scopes, 3)
    assert await releases_of(federation) == dict.fromkeys(scopes, 4)


async def test_a_coordinator_that_starts_again_on_its_own_ledger_goes_on(
    federation: Federation,
) -> None:
    await federation.start_clients(4)
    await run_once(federation)
    assert federation.server is not None
    await federation.server.stop()
    await federation.start()

    await run_once(federation)

    assert (await budgets(federation))["frozen"] is None
    assert set((await releases_of(federation)).values()) == {2}
