"""Whole private runs over real mutual TLS: noised, paid for on both sides, refused when spent."""

from typing import Any

import numpy as np
import pytest

from kumiai.node.job import parse_job
from kumiai.node.noised_rounds import plan_of
from kumiai.privacy import Adjacency, PrivacyUnit
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

ROUNDS, SIZE = 3, 500
RECORD = Guarantee(PrivacyUnit.RECORD, Adjacency.ZERO_OUT)


def private_job(**tables: Any) -> dict[str, Any]:
    privacy = {
        "unit": "record",
        "clip": 2.0,
        "delta": 1e-5,
        "epsilon": 8.0,
        "records": 40,
        "records_per_site": 10,
        **tables.pop("privacy", {}),
    }
    return job(
        run={"rounds": ROUNDS, "name": "counted", **tables.pop("run", {})},
        cohort={"size": 4, "min_reports": 3, "grace_seconds": 2.0, **tables.pop("cohort", {})},
        secure_aggregation={"mode": "masking"},
        evaluation={"every": 0},
        train={"size": SIZE},
        privacy=privacy,
        **tables,
    )


async def test_a_private_run_is_noised_and_both_sides_have_paid_for_each_round(
    federation: Federation,
) -> None:
    await federation.start_clients(4)
    asked = private_job()

    run_id = await federation.submit(asked, study.app)
    await federation.wait_for(run_id, seconds=90)

    model = await federation.model(run_id)
    spec = parse_job(asked)
    assert spec.privacy is not None
    plan = plan_of(spec, spec.privacy, SIZE + 1)
    # Downhill is upwards here: each of 40 records moves by its clip, three times, over 40.
    assert model["w"].mean() == pytest.approx(ROUNDS * 2 / np.sqrt(SIZE), abs=0.2)
    noise = ROUNDS**0.5 * plan.noise_multiplier * 2 / 40 * (4 / 2) ** 0.5
    assert model["w"].std() == pytest.approx(noise, rel=0.25)

    assert await releases_of(federation) == {
        "model/counted": ROUNDS,
        f"model/counted/{run_id}": ROUNDS,
        **{f"client/site-{number}": ROUNDS for number in range(1, 5)},
        **{f"dataset/site-{number}/counting": ROUNDS for number in range(1, 5)},
    }
    for site in ("site-1", "site-4"):
        charges = copy_of(federation, site).charges
        assert [each.key for each in charges] == [
            ChargeKey(run_id, number, 1) for number in range(1, ROUNDS + 1)
        ]
        assert all(each.charge.guarantee == RECORD for each in charges)


async def test_a_site_whose_budget_is_spent_takes_no_part_and_the_others_go_on(
    federation: Federation,
) -> None:
    await federation.start_clients(4)
    await start_without_budget(federation, "site-4")

    run_id = await federation.submit(private_job(run={"rounds": 1}), study.app)
    await federation.wait_for(run_id, seconds=90)

    refused = await told_of(federation, run_id, "site-4")
    assert refused["state"] == "failed"
    assert "budget of client/site-4 (lifetime) must allow the release" in refused["reason"]
    assert not copy_of(federation, "site-4").charges
    assert len(copy_of(federation, "site-1").charges) == 1


async def test_a_run_that_the_ledger_does_not_allow_ends_before_anybody_trains(
    federation: Federation,
) -> None:
    await federation.start_clients(4)
    limit = BudgetLimit(BudgetScope(ScopeKind.MODEL, "counted"), RECORD, epsilon=5.0, delta=1e-5)
    await set_budget(federation, limit)

    run_id = await federation.submit(private_job(), study.app)
    run = await federation.wait_for(run_id, "failed", seconds=90)

    assert run["end_kind"] == "budget_exhausted"
    assert "model/counted" in run["reason"]
    # One round could be paid for; in the next nobody was asked for anything.
    assert run["round"] == 2
    assert len(copy_of(federation, "site-1").charges) == 1
