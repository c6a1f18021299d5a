"""Private runs over real mutual TLS whose noise the coordinator adds, paid for on both sides."""

from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from kumiai.core.codec import decode
from kumiai.node import contributions
from kumiai.node.central_rounds import CLIP_METRIC, UNCLIPPED_METRIC
from kumiai.node.client import tasks
from kumiai.node.client.transfer import PutReport
from kumiai.node.coordinator.namespaces import state_namespace, sum_namespace, update_namespace
from kumiai.node.coordinator.rounds import RunDriver
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.node.wire.channel import GET, TlsFiles, open_channel
from kumiai.privacy import Adjacency, PrivacyUnit
from kumiai.privacy.budget import BudgetLimit
from kumiai.privacy.ledger import BudgetScope, Charge, ChargeKey, Guarantee, ScopeKind
from kumiai.storage import BudgetRepository, DatabaseManager
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
CLIENT = Guarantee(PrivacyUnit.CLIENT, Adjacency.ZERO_OUT)


def central_job(**tables: Any) -> dict[str, Any]:
    privacy = {
        "unit": "client",
        "noise": "central",
        "clip": 2.0,
        "delta": 1e-5,
        "noise_multiplier": 0.5,
        **tables.pop("privacy", {}),
    }
    return job(
        run={"rounds": ROUNDS, "name": "counted", **tables.pop("run", {})},
        cohort={"size": 4, "min_reports": 3, "grace_seconds": 2.0, "max_attempts": 1},
        evaluation={"every": 0},
        train={"size": SIZE},
        privacy=privacy,
    )


async def test_a_run_is_noised_once_a_round_and_both_sides_have_paid_for_each(
    federation: Federation,
) -> None:
    await federation.start_clients(4)

    run_id = await federation.submit(central_job(), study.app)
    await federation.wait_for(run_id, seconds=90)

    model = await federation.model(run_id)
    # Each of four moves by its clip, three times, over four.
    assert model["w"].mean() == pytest.approx(ROUNDS * 2 / np.sqrt(SIZE), abs=0.1)
    assert model["w"].std() == pytest.approx(ROUNDS**0.5 * 0.5 * 2 / 4, rel=0.2)
    assert await releases_of(federation) == {
        "model/counted": ROUNDS,
        **{f"client/site-{number}": ROUNDS for number in range(1, 5)},
        **{f"dataset/site-{number}/counting": ROUNDS for number in range(1, 5)},
    }
    for site in ("site-1", "site-4"):
        charges = copy_of(federation, site).charges
        assert [each.key for each in charges] == [
            ChargeKey(run_id, number, 1) for number in range(1, ROUNDS + 1)
        ]
        assert all(each.charge.guarantee == CLIENT for each in charges)
    async with federation.http() as http:
        told = (await http.get("/api/v1/runs/" + run_id + "/rounds")).json()
    assert "loss" not in str(told)


async def test_both_ledgers_call_a_release_by_the_same_name(federation: Federation) -> None:
    await federation.start_clients(4)
    run_id = await federation.submit(central_job(run={"rounds": 1}), study.app)
    await federation.wait_for(run_id, seconds=90)

    database = DatabaseManager(federation.database_url)
    await database.connect()
    (paid, *_) = await BudgetRepository(database).entries()
    await database.close()

    (charge,) = copy_of(federation, "site-1").charges
    (event,) = charge.charge.spends[0].events
    ours = Charge.from_content(paid.content).events_of()
    assert ours[BudgetScope(ScopeKind.CLIENT, "site-1")] == {event: 1}


async def test_a_clip_that_follows_the_updates_is_told_and_kept_over_a_restart(
    federation: Federation,
) -> None:
    await federation.start_clients(4)
    asked = central_job(privacy={"adaptive": {"quantile": 0.9, "learning_rate": 0.5}})

    run_id = await federation.submit(asked, study.app)
    await federation.until_round(run_id, 2)
    await federation.stop()
    await federation.start()
    await federation.start_clients(4)
    await federation.wait_for(run_id, seconds=90)

    async with federation.http() as http:
        rounds = (await http.get(f"/api/v1/runs/{run_id}/rounds")).json()["rounds"]
    told = [each["metrics"] for each in rounds if each["round"] > 0]
    clips = [each[CLIP_METRIC] for each in told]
    assert clips[0] == 2.0
    for before, after in zip(told, clips[1:], strict=False):
        step = np.exp(-0.5 * (before[UNCLIPPED_METRIC] - 0.9))
        assert after == pytest.approx(before[CLIP_METRIC] * step, rel=1e-12)
    assert (await releases_of(federation))["model/counted"] == ROUNDS


async def test_an_update_beyond_its_clip_is_refused_with_a_reason_and_the_round_goes_on(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = contributions.clipped_contribution_of

    def too_long(app: Any, base: Any, context: Any, terms: Any) -> Any:
        made = honest(app, base, context, terms)
        if context.site == "site-2":
            made["contribution"] *= 2
        return made

    monkeypatch.setattr("kumiai.node.client.tasks.clipped_contribution_of", too_long)
    await federation.start_clients(4)

    run_id = await federation.submit(central_job(run={"rounds": 1}), study.app)
    await federation.wait_for(run_id, seconds=90)

    refused = await told_of(federation, run_id, "site-2")
    assert refused["state"] == "refused"
    assert "breaks the clip that its round pays for" in refused["reason"]
    assert "client/site-2" not in await releases_of(federation)


async def test_an_update_that_tells_more_than_its_steps_is_refused(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = tasks.PutReport

    def talkative(**told: Any) -> PutReport:
        return honest(**{**told, "metrics": {"loss": 1.0}, "examples": 7})

    await federation.start_clients(4)
    monkeypatch.setattr(tasks, "PutReport", talkative)

    run_id = await federation.submit(central_job(run={"rounds": 1}), study.app)
    await federation.wait_for(run_id, "failed", seconds=90)

    async with federation.http() as http:
        told = (await http.get(f"/api/v1/runs/{run_id}/explain")).json()
    assert "got more, which would be told without noise" in str(told["clients"])
    assert "7 examples" not in str(told["clients"])
    assert await releases_of(federation) == {}


async def test_a_site_whose_budget_is_spent_takes_no_part_and_the_others_go_on(
    federation: Federation,
) -> None:
    await federation.start_clients(4)
    await start_without_budget(federation, "site-4")

    run_id = await federation.submit(central_job(run={"rounds": 1}), study.app)
    await federation.wait_for(run_id, seconds=90)

    refused = await told_of(federation, run_id, "site-4")
    assert refused["state"] == "failed"
    assert "budget of client/site-4 (lifetime) must allow the release" in refused["reason"]
    assert not copy_of(federation, "site-4").charges


async def test_a_study_that_fails_says_why_to_its_own_site_alone(federation: Federation) -> None:
    await federation.start_clients(4)
    asked = central_job(run={"rounds": 1})
    asked["train"]["broken"] = "site-3"

    run_id = await federation.submit(asked, study.app)
    await federation.wait_for(run_id, seconds=90)

    failed = await told_of(federation, run_id, "site-3")
    assert "a private run is not told why" in failed["reason"]


async def test_a_run_that_the_ledger_does_not_allow_ends_before_anybody_trains(
    federation: Federation,
) -> None:
    await federation.start_clients(4)
    limit = BudgetLimit(BudgetScope(ScopeKind.MODEL, "counted"), CLIENT, epsilon=13.0, delta=1e-5)
    await set_budget(federation, limit)

    run_id = await federation.submit(central_job(), study.app)
    run = await federation.wait_for(run_id, "failed", seconds=90)

    assert run["end_kind"] == "budget_exhausted"
    assert "model/counted" in run["reason"]
    # One round could be paid for; for the next nobody was asked for anything.
    assert run["round"] == 1
    assert len(copy_of(federation, "site-1").charges) == 1


async def test_on_a_schedule_sites_rest_pay_for_their_own_rounds_and_a_restart_loses_nothing(
    federation: Federation,
) -> None:
    await federation.start_clients(4)
    asked = central_job(run={"rounds": 4}, privacy={"separation": 2, "noise_multiplier": 1e-3})
    asked["cohort"].update(size=2, min_reports=2, grace_seconds=0.2)

    run_id = await federation.submit(asked, study.app)
    await federation.until_round(run_id, 3)
    await federation.stop()
    await federation.start()
    await federation.start_clients(4)
    await federation.wait_for(run_id, seconds=90)

    rounds = {
        site: [each.key.round for each in copy_of(federation, site).charges]
        for site in ("site-1", "site-2", "site-3", "site-4")
    }
    # Two of four in each round, and never the same in two rounds on end.
    assert sorted(tuple(each) for each in rounds.values()) == [(1, 3), (1, 3), (2, 4), (2, 4)]
    paid = await releases_of(federation)
    assert {paid[f"client/{site}"] for site in rounds} == {2}
    model = await federation.model(run_id)
    assert model["w"].mean() == pytest.approx(4 * 2 / np.sqrt(SIZE), rel=0.02)


async def test_no_noised_sum_is_kept_longer_than_the_updates_that_it_is_of(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned, kept = RunDriver._clean_up, list[tuple[bool, bool]]()

    async def watched(driver: RunDriver, job: Any, number: int) -> None:
        folder = federation.folder / "data/blobs"
        told = [folder / sum_namespace(run_id, number), folder / update_namespace(run_id, number)]
        before = told[0].exists()
        await cleaned(driver, job, number)
        if number == 1:
            kept.append((before, any(each.exists() for each in told)))

    monkeypatch.setattr(RunDriver, "_clean_up", watched)
    await federation.start_clients(4)

    run_id = await federation.submit(central_job(run={"rounds": 2}), study.app)
    await federation.wait_for(run_id, seconds=90)

    assert kept == [(True, False)]


async def test_a_schedules_sums_without_noise_are_given_to_nobody(federation: Federation) -> None:
    await federation.start_clients(2)
    asked = central_job(privacy={"separation": 2})
    asked["cohort"].update(size=2, min_reports=2)
    # One round, then both have to rest.
    run_id = await federation.submit(asked, study.app)
    await federation.until(run_id, lambda run: _is_published(run["current"]))
    assert federation.server is not None
    (kept,) = (federation.folder / "data/blobs" / state_namespace(run_id, 1)).glob("?" * 64)
    assert any(name.endswith("totals") for name in decode(kept.read_bytes()).arrays)
    site = federation.certificates["site-1"]
    refused = []

    tls = TlsFiles(certificate=site.cert, key=site.key, ca=site.ca)
    async with open_channel(f"localhost:{federation.server.port}", tls) as wire:
        for sum_of_round in (0, 1):
            wanted = pb.GetRequest(run_id=run_id, digest=kept.name, sum_of_round=sum_of_round)
            call = wire.unary_stream(GET)(wanted.SerializeToString())
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            refused.append(caught.value.code())
    async with federation.http() as http:
        told = [
            (await http.get(f"/api/v1/runs/{run_id}{path}")).text
            for path in ("", "/models", "/rounds", "/explain", "/events")
        ]

    assert refused == [grpc.StatusCode.NOT_FOUND] * 2
    assert kept.name not in "".join(told)


def _is_published(current: Any) -> bool:
    return current is not None and (current["round"], current["stage"]) == (1, "published")
