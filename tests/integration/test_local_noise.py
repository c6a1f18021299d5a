"""Whole runs whose sites add the noise themselves, over real mutual TLS: paid for on both sides."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from kumiai.node.client import tasks
from kumiai.node.client.transfer import PutReport
from kumiai.node.job import parse_job
from kumiai.node.local_noise import training_terms_of
from kumiai.privacy import Adjacency, PrivacyUnit, event_to_json
from kumiai.privacy.budget import BudgetLimit
from kumiai.privacy.ledger import BudgetScope, ChargeKey, Guarantee, ScopeKind
from tests.integration import study
from tests.integration.federation import Federation, job
from tests.integration.private_runs import (
    copy_of,
    releases_of,
    set_budget,
    start_without_budget,
    told_of,
)

ROUNDS, STEPS, SIZE = 2, 5, 500
RECORD = Guarantee(PrivacyUnit.RECORD, Adjacency.ZERO_OUT)


def private_job(mode: str, **tables: Any) -> dict[str, Any]:
    privacy = {
        "noise": "local",
        "unit": "record",
        "clip": 2.0,
        "delta": 1e-5,
        "epsilon": 8.0,
        "records": 40,
        "records_per_site": 10,
        "steps": STEPS,
        "sampling_rate": 1.0,
        "learning_rate": 1 / STEPS,
    }
    return job(
        run={"rounds": ROUNDS, "name": "counted", **tables.pop("run", {})},
        cohort={"size": 4, "min_reports": 3, "grace_seconds": 2.0, **tables.pop("cohort", {})},
        secure_aggregation={"mode": mode},
        evaluation={"every": 0},
        train={"size": SIZE},
        privacy=privacy,
        **tables,
    )


def charges_of(federation: Federation, site: str) -> list[tuple[ChargeKey, dict[str, int]]]:
    charges = copy_of(federation, site).charges
    assert all(each.charge.guarantee == RECORD for each in charges)
    return [(each.key, dict(each.charge.spends[0].events)) for each in charges]


@pytest.mark.parametrize("mode", ["none", "masking"])
async def test_a_run_is_noised_at_its_sites_and_both_sides_have_paid_for_each_step(
    federation: Federation, mode: str
) -> None:
    await federation.start_clients(4)
    asked = private_job(mode)
    terms = training_terms_of(parse_job(asked))
    assert terms is not None

    run_id = await federation.submit(asked, study.app)
    await federation.wait_for(run_id, seconds=90)

    model = await federation.model(run_id)
    # Downhill is upwards here: each record moves by its clip in each round.
    assert model["w"].mean() == pytest.approx(ROUNDS * 2 / np.sqrt(SIZE), abs=0.2)
    noise = terms.noise_multiplier * 2 / 10 / STEPS * (ROUNDS * STEPS / 4) ** 0.5
    assert model["w"].std() == pytest.approx(noise, rel=0.25)

    async with federation.http() as http:
        scopes = (await http.get("/api/v1/budgets")).json()["scopes"]
        rounds = (await http.get(f"/api/v1/runs/{run_id}/rounds")).json()
    paid = {each["scope"]: each["spent"][0]["releases"] for each in scopes}
    assert paid == {
        "model/counted": ROUNDS * STEPS,
        f"model/counted/{run_id}": ROUNDS * STEPS,
        **{f"client/site-{number}": ROUNDS * STEPS for number in range(1, 5)},
        **{f"dataset/site-{number}/counting": ROUNDS * STEPS for number in range(1, 5)},
    }
    assert all(each["spent"][0]["sampling"] == ["poisson"] for each in scopes)
    assert "loss" not in str(rounds)
    for site in ("site-1", "site-4"):
        assert charges_of(federation, site) == [
            (ChargeKey(run_id, number, 1), {event_to_json(terms.event): STEPS})
            for number in range(1, ROUNDS + 1)
        ]


@pytest.mark.parametrize("mode", ["none", "masking"])
async def test_a_site_whose_budget_is_spent_trains_not_and_the_others_go_on(
    federation: Federation, mode: str
) -> None:
    await federation.start_clients(4)
    await start_without_budget(federation, "site-4")

    run_id = await federation.submit(private_job(mode, run={"rounds": 1}), study.app)
    await federation.wait_for(run_id, seconds=90)

    refused = await told_of(federation, run_id, "site-4")
    assert refused["state"] == "failed"
    assert "budget of client/site-4 (lifetime) must allow the release" in refused["reason"]
    assert not charges_of(federation, "site-4")
    assert len(charges_of(federation, "site-1")) == 1


async def test_a_run_that_the_ledger_does_not_allow_ends_before_anybody_trains(
    federation: Federation,
) -> None:
    await federation.start_clients(4)
    limit = BudgetLimit(BudgetScope(ScopeKind.MODEL, "counted"), RECORD, epsilon=6.0, delta=1e-5)
    await set_budget(federation, limit)

    run_id = await federation.submit(private_job("none"), study.app)
    run = await federation.wait_for(run_id, "failed", seconds=90)

    assert run["end_kind"] == "budget_exhausted"
    assert "model/counted" in run["reason"]
    # One round could be paid for; for the next nobody was asked for anything.
    assert len(charges_of(federation, "site-1")) == 1


async def test_an_update_that_tells_more_than_its_weights_is_refused(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = tasks.PutReport

    def talkative(**told: Any) -> PutReport:
        return honest(**{**told, "metrics": {"loss": 1.0}})

    await federation.start_clients(4)
    monkeypatch.setattr(tasks, "PutReport", talkative)
    cohort = {"max_attempts": 1}

    run_id = await federation.submit(private_job("none", cohort=cohort), study.app)
    await federation.wait_for(run_id, "failed", seconds=90)

    async with federation.http() as http:
        told = (await http.get(f"/api/v1/runs/{run_id}/explain")).json()
    assert "got more, which would be told without noise" in str(told["clients"])


@pytest.mark.parametrize("mode", ["none", "masking"])
async def test_who_is_asked_again_sends_the_same_noise_and_nobody_pays_twice(
    federation: Federation, mode: str
) -> None:
    study.hold["site-4"] = threading.Event()
    await federation.start_clients(4)
    cohort = {"min_reports": 4, "deadline_seconds": 2.0, "max_attempts": 50}

    run_id = await federation.submit(private_job(mode, run={"rounds": 1}, cohort=cohort), study.app)
    await federation.until(run_id, lambda run: run["current"] and run["current"]["attempt"] >= 2)
    study.hold.pop("site-4").set()
    await federation.wait_for(run_id, seconds=90)

    # All of the run's epsilon, and no more.
    assert set((await releases_of(federation)).values()) == {STEPS}
    for number in range(1, 5):
        assert len(charges_of(federation, f"site-{number}")) == 1


@pytest.mark.parametrize("mode", ["none", "masking"])
async def test_a_site_that_is_asked_late_pays_once_on_both_sides_over_a_restart(
    federation: Federation, mode: str
) -> None:
    study.hold.update({"site-4": threading.Event(), "site-5": threading.Event()})
    await federation.start_clients(4)
    cohort = {"min_reports": 4, "deadline_seconds": 2.0, "max_attempts": 50}

    run_id = await federation.submit(private_job(mode, run={"rounds": 1}, cohort=cohort), study.app)
    await federation.until(run_id, lambda run: run["current"])
    federation.start_client("site-5", data={"number": 5})
    await federation.until(run_id, lambda run: run["current"] and run["current"]["attempt"] >= 2)
    assert federation.server is not None
    await federation.server.stop()
    await federation.start()
    study.hold.pop("site-5").set()
    await federation.wait_for(run_id, seconds=90)

    assert set((await releases_of(federation)).values()) == {STEPS}
    assert charges_of(federation, "site-4") == []
    assert [key for key, _ in charges_of(federation, "site-5")] == [ChargeKey(run_id, 1, 1)]


@pytest.fixture(autouse=True)
def nobody_is_held() -> Iterator[None]:
    """Let go whom a test has held, however it ended."""
    yield
    study.hold.clear()
