"""Whole runs over real mutual TLS, on both databases: who is in the sum, and who is not."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from kumiai.testing.databases import SQLiteTemplate
from tests.integration import study
from tests.integration.federation import STUDY, Federation, job


@pytest.fixture
async def federation(tmp_path: Path, database_url: str) -> AsyncIterator[Federation]:
    """Lend a started coordinator on each database."""
    federation = Federation(tmp_path, database_url)
    await federation.start()
    yield federation
    study.hold.clear()
    await federation.stop()


async def test_three_clients_train_one_model_and_the_sum_is_right(federation: Federation) -> None:
    await federation.start_clients(3)

    run_id = await federation.submit(job(cohort={"size": 3, "min_reports": 3}), study.app)
    await federation.wait_for(run_id)

    model = await federation.model(run_id)
    np.testing.assert_array_equal(model["w"], np.full(8, 6, np.float32))  # 3 rounds of mean 2
    assert model["steps"] == 3


async def test_every_round_is_evaluated_by_the_clients(federation: Federation) -> None:
    await federation.start_clients(2)

    run_id = await federation.submit(job(cohort={"size": 2, "min_reports": 2}), study.app)
    await federation.wait_for(run_id)

    async with federation.http() as http:
        rounds = (await http.get(f"/api/v1/runs/{run_id}/rounds")).json()["rounds"]
    assert [each["evaluation"]["first"] for each in rounds] == [0.0, 1.5, 3.0, 4.5]
    assert [each["reports"] for each in rounds[1:]] == [2, 2, 2]


async def test_a_client_whose_training_fails_is_left_out_and_the_round_goes_on(
    federation: Federation,
) -> None:
    await federation.start_clients(3)

    run_id = await federation.submit(
        job(cohort={"size": 3, "min_reports": 2}, train={"broken": "site-3"}), study.app
    )
    await federation.wait_for(run_id)

    np.testing.assert_array_equal((await federation.model(run_id))["w"], np.full(8, 4.5))


async def test_an_update_with_nan_is_refused_with_a_reason_and_the_round_goes_on(
    federation: Federation,
) -> None:
    await federation.start_clients(3)

    run_id = await federation.submit(
        job(cohort={"size": 3, "min_reports": 2}, train={"diverges": "site-1"}), study.app
    )
    await federation.wait_for(run_id)

    np.testing.assert_array_equal((await federation.model(run_id))["w"], np.full(8, 7.5))
    async with federation.http() as http:
        events = (await http.get(f"/api/v1/runs/{run_id}/events")).json()["events"]
    assert any("NaN" in event["text"] and event["client_id"] == "site-1" for event in events)


async def test_a_silent_client_costs_the_grace_and_not_the_run(federation: Federation) -> None:
    study.hold["site-2"] = threading.Event()
    await federation.start_clients(2)

    run_id = await federation.submit(
        job(
            run={"rounds": 1},
            cohort={"size": 2, "min_reports": 1, "grace_seconds": 0.2},
            evaluation={"every": 0},
        ),
        study.app,
    )
    await federation.wait_for(run_id)

    np.testing.assert_array_equal((await federation.model(run_id))["w"], np.ones(8))


async def test_a_client_that_comes_back_within_the_round_takes_part_in_it(
    federation: Federation,
) -> None:
    study.hold["site-2"] = threading.Event()
    await federation.start_clients(2)
    run_id = await federation.submit(
        job(run={"rounds": 1}, cohort={"size": 2, "min_reports": 2}), study.app
    )
    await _until_reported(federation, run_id, 1)

    await federation.stop_client("site-2")
    study.hold["site-2"].set()
    federation.start_client("site-2", data={"number": 2})
    await federation.wait_for(run_id)

    np.testing.assert_array_equal((await federation.model(run_id))["w"], np.full(8, 1.5))


async def test_a_restarted_coordinator_goes_on_with_the_same_round(federation: Federation) -> None:
    study.hold["site-2"] = threading.Event()
    await federation.start_clients(2)
    run_id = await federation.submit(
        job(run={"rounds": 2}, cohort={"size": 2, "min_reports": 2}), study.app
    )
    await _until_reported(federation, run_id, 1)

    assert federation.server is not None
    await federation.server.stop()
    await federation.start()
    study.hold["site-2"].set()
    await federation.wait_for(run_id)

    np.testing.assert_array_equal((await federation.model(run_id))["w"], np.full(8, 3))


async def test_a_quorum_that_can_not_be_reached_fails_the_run_with_its_reason(
    federation: Federation,
) -> None:
    await federation.start_clients(1)

    run_id = await federation.submit(
        job(cohort={"size": 1, "max_attempts": 2}, train={"broken": "site-1"}), study.app
    )
    run = await federation.wait_for(run_id, "failed")

    assert "0 of 1 needed reports" in run["reason"]


async def test_two_runs_go_side_by_side(federation: Federation) -> None:
    await federation.start_clients(2)

    runs = [
        await federation.submit(job(cohort={"size": 2, "min_reports": 2}), study.app)
        for _ in range(2)
    ]
    await asyncio.gather(*(federation.wait_for(run_id) for run_id in runs))

    for run_id in runs:
        np.testing.assert_array_equal((await federation.model(run_id))["w"], np.full(8, 4.5))


async def test_a_stopped_run_says_so_and_cancels_its_tasks(federation: Federation) -> None:
    study.hold["site-1"] = threading.Event()
    await federation.start_clients(1)
    run_id = await federation.submit(job(cohort={"size": 1}), study.app)

    async with federation.http() as http:
        await http.post(f"/api/v1/runs/{run_id}/stop", json={"reason": "enough"})
    run = await federation.wait_for(run_id, "stopped")

    assert run["reason"] == "stopped by operator: enough"


async def test_an_update_larger_than_a_chunk_arrives_whole(federation: Federation) -> None:
    await federation.start_clients(2)

    run_id = await federation.submit(
        job(cohort={"size": 2, "min_reports": 2}, train={"size": 1_000_000}), study.app
    )
    await federation.wait_for(run_id)

    np.testing.assert_array_equal(
        (await federation.model(run_id))["w"], np.full(1_000_000, 4.5, np.float32)
    )


async def _until_reported(federation: Federation, run_id: str, count: int) -> None:
    await federation.until(run_id, lambda run: run["counts"] and run["counts"]["reported"] >= count)


async def test_the_coordinator_evaluates_too_when_the_job_asks(
    tmp_path: Path, sqlite_template: SQLiteTemplate
) -> None:
    federation = Federation(
        tmp_path,
        sqlite_template.copy_to(tmp_path / "kumiai.db"),
        settings={"apps": [STUDY], "data": {"number": 9}},
    )
    await federation.start()
    await federation.start_clients(2)

    run_id = await federation.submit(
        job(
            run={"rounds": 2},
            cohort={"size": 2, "min_reports": 2},
            evaluation={"every": 0, "central": True},
        ),
        study.app,
    )
    await federation.wait_for(run_id)

    async with federation.http() as http:
        rounds = (await http.get(f"/api/v1/runs/{run_id}/rounds")).json()["rounds"]
    await federation.stop()
    assert [each["metrics"]["central.first"] for each in rounds[1:]] == [1.5, 3.0]


async def test_over_selected_rounds_end_with_the_wanted_reports(federation: Federation) -> None:
    study.hold["site-3"] = threading.Event()
    await federation.start_clients(3)

    run_id = await federation.submit(
        job(
            run={"rounds": 1},
            cohort={"size": 2, "over_selection": 0.5, "min_clients": 3},
            evaluation={"every": 0},
        ),
        study.app,
    )
    await federation.wait_for(run_id)

    np.testing.assert_array_equal((await federation.model(run_id))["w"], np.full(8, 1.5))


async def test_a_round_without_a_quorum_at_its_deadline_asks_again(
    federation: Federation,
) -> None:
    study.hold["site-2"] = threading.Event()
    await federation.start_clients(2)

    run_id = await federation.submit(
        job(
            run={"rounds": 1},
            cohort={"size": 2, "min_reports": 2, "deadline_seconds": 0.5, "max_attempts": 50},
        ),
        study.app,
    )
    await _until_attempt(federation, run_id, 2)
    study.hold["site-2"].set()
    await federation.wait_for(run_id)

    np.testing.assert_array_equal((await federation.model(run_id))["w"], np.full(8, 1.5))


@pytest.mark.parametrize("strategy", ["fedavgm", "fedadam", "fedyogi", "fedadagrad"])
async def test_a_strategys_state_survives_a_restart(
    tmp_path: Path, sqlite_template: SQLiteTemplate, strategy: str
) -> None:
    federation = Federation(tmp_path, sqlite_template.copy_to(tmp_path / "kumiai.db"))
    await federation.start()
    await federation.start_clients(2)
    tables = {
        "cohort": {"size": 2, "min_reports": 2},
        "strategy": {"name": strategy},
        "evaluation": {"every": 0},
    }
    undisturbed = await federation.submit(job(run={"rounds": 4}, **tables), study.app)
    await federation.wait_for(undisturbed)

    disturbed = await federation.submit(job(run={"rounds": 4}, **tables), study.app)
    await federation.until_round(disturbed, 2)
    assert federation.server is not None
    await federation.server.stop()
    await federation.start()
    await federation.wait_for(disturbed)

    expected = (await federation.model(undisturbed))["w"]
    np.testing.assert_array_equal((await federation.model(disturbed))["w"], expected)
    assert not (tmp_path / "data" / "blobs" / "states").exists() or not list(
        (tmp_path / "data" / "blobs" / "states").rglob("*")
    )
    await federation.stop()


async def test_old_versions_keep_their_row_and_lose_their_bytes(federation: Federation) -> None:
    await federation.start_clients(1)

    run_id = await federation.submit(
        job(run={"rounds": 4, "keep_versions": 2}, cohort={"size": 1}), study.app
    )
    await federation.wait_for(run_id)

    async with federation.http() as http:
        path = f"/api/v1/runs/{run_id}/models"
        kept = [(await http.get(f"{path}/{number}/content")).status_code for number in range(5)]
        assert len((await http.get(path)).json()["models"]) == 5
    assert kept == [200, 404, 404, 200, 200]


async def _until_attempt(federation: Federation, run_id: str, attempt: int) -> None:
    await federation.until(
        run_id, lambda run: run["current"] and run["current"]["attempt"] >= attempt
    )
