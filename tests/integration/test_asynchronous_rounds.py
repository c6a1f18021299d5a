"""Asynchronous runs over real mutual TLS: a slow site holds up nobody, and counts less."""

import asyncio
import itertools
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kumiai.core.errors import DeniedError
from kumiai.node.ahead import policy_of
from kumiai.node.client.held import HeldUpdate, HeldUpdates
from kumiai.node.client.transfer import BlobTransfer, PutReport
from kumiai.node.coordinator.secure import driving
from kumiai.node.job import parse_job
from kumiai.secagg import CommittedUpdate
from kumiai.storage import AssignmentRecord, RoundProgress, RunRepository
from kumiai.testing.tcp_proxy import Direction, TcpProxy
from tests.integration import study
from tests.integration.eventually import eventually
from tests.integration.federation import Federation, job
from tests.integration.liars import let_lie

HIDDEN = {"mode": "masking", "value_bits": 5, "clip": 15.0, "phase_seconds": 20}
"""A step of this quantisation is 1, so that whole numbers are summed as they are."""
_SIZE = 1 << 15


def asynchronous_job(**tables: Any) -> dict[str, Any]:
    return job(
        **{
            "run": {"rounds": 6, "keep_versions": 2},
            "cohort": {"min_reports": 3, "grace_seconds": 60},
            "asynchronous": {"group_size": 3},
            "evaluation": {"every": 0},
            "secure_aggregation": HIDDEN,
            **tables,
        }
    )


def hold(*sites: str) -> None:
    for site in sites:
        study.hold[site] = threading.Event()


def held_file(federation: Federation, site: str, run_id: str) -> Path:
    return federation.folder / "clients" / site / "held" / f"{run_id}.update"


async def waiting(runs: RunRepository, run_id: str, version: int) -> set[str]:
    rows = await runs.preparing(run_id, version)
    return {each.client_id for each in rows if each.state == "reported"}


async def until_waiting(runs: RunRepository, run_id: str, *sites: str) -> None:
    async def look() -> set[str]:
        return await waiting(runs, run_id, 0)

    await eventually(look, lambda found: found >= set(sites))


async def events_of(runs: RunRepository, run_id: str, kind: str) -> list[tuple[str | None, str]]:
    events = await runs.events(run_id, limit=1000)
    return [(each.client_id, each.text) for each in events if each.kind == kind]


async def members_of(runs: RunRepository, run_id: str, number: int) -> dict[str, int]:
    """Return who is in a version, by how far behind its update was."""
    bases = await runs.bases(run_id, number, oldest=0)
    updates = await runs.updates(run_id, number)
    return {each.client_id: number - 1 - bases[each.client_id] for each in updates}


async def test_versions_go_on_while_a_slow_site_trains_and_it_counts_less_then(
    federation: Federation, runs: RunRepository
) -> None:
    hold("site-4")
    await federation.start_clients(4)
    submitted = asynchronous_job(run={"rounds": 6, "keep_versions": 10})

    run_id = await federation.submit(submitted, study.app)
    await federation.until_round(run_id, 4)
    study.hold["site-4"].set()
    await federation.wait_for(run_id, seconds=90)

    policy = policy_of(parse_job(submitted))
    assert policy is not None
    slow: list[int] = []
    model = np.zeros(8, np.float32)
    for number in range(1, 7):
        members = await members_of(runs, run_id, number)
        slow += [stale for site, stale in members.items() if site == "site-4"]
        scales = {site: policy.scale(stale) for site, stale in members.items()}
        # Whole numbers all: the site's number, ten examples, the scale. No sum may be off by one.
        total = np.int64(sum(10 * scales[site] * int(site[-1]) for site in members))
        weight = 10 * sum(scales.values())
        mean = (total * np.float64(1.0 / weight)).astype(np.float32)
        damping = sum(scales.values()) / (16 * len(scales))
        model = model + (mean * np.float32(damping) if damping == 1 else np.float32(mean * damping))
        found = await federation.model(run_id, str(number))
        np.testing.assert_array_equal(found["w"], model)
    assert slow
    assert slow[0] >= 3
    # Each site has written down in which round its newest update was summed.
    for site, stale in (await members_of(runs, run_id, 6)).items():
        note = held_file(federation, site, run_id).with_suffix(".used")
        assert json.loads(note.read_text()) == [6 - 1 - stale, 6]
    assert await members_of(runs, run_id, 1) == {"site-1": 0, "site-2": 0, "site-3": 0}


async def test_the_same_falls_out_where_updates_are_not_hidden(
    federation: Federation, runs: RunRepository
) -> None:
    hold("site-4")
    await federation.start_clients(4)
    submitted = asynchronous_job(
        run={"rounds": 6, "keep_versions": 10}, secure_aggregation={"mode": "none"}
    )

    run_id = await federation.submit(submitted, study.app)
    await federation.until_round(run_id, 4)
    study.hold["site-4"].set()
    await federation.wait_for(run_id, seconds=60)

    model, slow = 0.0, 0
    for number in range(1, 7):
        members = await members_of(runs, run_id, number)
        slow += "site-4" in members
        # FedBuff: the sum of the scaled updates, by how many they are.
        scales = {site: round(16 / (1 + stale) ** 0.5) / 16 for site, stale in members.items()}
        model += sum(int(site[-1]) * scale for site, scale in scales.items()) / len(scales)
        found = await federation.model(run_id, str(number))
        np.testing.assert_allclose(found["w"], model, rtol=1e-5)
    assert slow


async def test_a_site_too_far_behind_begins_anew_from_the_newest_version(
    federation: Federation, runs: RunRepository
) -> None:
    hold("site-4")
    await federation.start_clients(4)

    run_id = await federation.submit(
        asynchronous_job(asynchronous={"group_size": 3, "staleness_max": 1}), study.app
    )
    await federation.until_round(run_id, 4)
    study.hold["site-4"].set()
    await federation.wait_for(run_id, seconds=60)

    late = await events_of(runs, run_id, "prepare_late")
    assert late[0] == ("site-4", "its update is more than 1 versions behind; it begins anew")
    for number in range(1, 7):
        assert set((await members_of(runs, run_id, number)).values()) <= {0, 1}
    # The bytes of old versions go, as the job says, once nobody can be behind so far.
    models = {each.round: each.digest for each in await runs.models(run_id)}
    blobs = federation.folder / "data" / "blobs" / "models" / run_id
    kept = {number for number, digest in models.items() if (blobs / digest).exists()}
    assert kept == {0, 5, 6}


async def test_a_site_that_starts_again_brings_the_update_that_it_held(
    federation: Federation, runs: RunRepository
) -> None:
    hold("site-3")
    await federation.start_clients(3)
    run_id = await federation.submit(asynchronous_job(run={"rounds": 1}), study.app)
    await until_waiting(runs, run_id, "site-1", "site-2")
    file = held_file(federation, "site-1", run_id)

    await federation.stop_client("site-1")
    federation.start_client("site-1", data={"number": 100})
    study.hold["site-3"].set()
    await federation.wait_for(run_id, seconds=60)

    # What it had made then, not what it would make now.
    np.testing.assert_array_equal((await federation.model(run_id))["w"], np.full(8, 2.0))
    await eventually(lambda: not file.exists())  # the run is over


async def test_a_site_that_lost_its_update_trains_again_and_the_round_begins_anew(
    federation: Federation, runs: RunRepository
) -> None:
    hold("site-3")
    await federation.start_clients(3)
    run_id = await federation.submit(asynchronous_job(run={"rounds": 2}), study.app)
    await until_waiting(runs, run_id, "site-1", "site-2")
    held_file(federation, "site-1", run_id).unlink()

    study.hold["site-3"].set()
    await federation.wait_for(run_id, seconds=60)

    first, *_ = await events_of(runs, run_id, "train_failed")
    assert first == ("site-1", "no update from version 0 waits at this site")
    assert (await runs.round(run_id, 1)).attempt == 2
    np.testing.assert_array_equal((await federation.model(run_id))["w"], np.full(8, 4.0))


async def test_an_open_group_that_lost_an_update_goes_on_with_who_is_ready(
    federation: Federation, runs: RunRepository
) -> None:
    hold("site-3")
    await federation.start_clients(3)
    run_id = await federation.submit(
        asynchronous_job(run={"rounds": 2}, secure_aggregation={"mode": "none"}), study.app
    )
    await until_waiting(runs, run_id, "site-1", "site-2")
    held_file(federation, "site-1", run_id).unlink()

    study.hold["site-3"].set()
    await federation.wait_for(run_id, seconds=60)

    assert (await runs.round(run_id, 1)).attempt == 2
    np.testing.assert_array_equal((await federation.model(run_id))["w"], np.full(8, 4.0))


@pytest.mark.slow
@pytest.mark.parametrize("is_over", [False, True])
async def test_a_site_whose_wire_is_cut_amid_its_upload_brings_the_update_when_it_is_back(
    federation: Federation,
    runs: RunRepository,
    is_over: bool,
) -> None:
    assert federation.server is not None
    submitted = asynchronous_job(
        run={"rounds": 1},
        cohort={"min_reports": 3, "deadline_seconds": 20.0},
        train={"size": _SIZE},
    )
    sent, cut = 0, asyncio.Event()

    def cut_amid_the_upload(direction: Direction, chunk: bytes) -> bool:
        nonlocal sent
        sent += len(chunk) if direction == "to_server" else 0
        if sent < _SIZE:  # a quarter of what is uploaded, much more than all that is said
            return True
        cut.set()
        return False

    async with TcpProxy("127.0.0.1", federation.server.port) as wire:
        await federation.start_clients(2)
        federation.client_settings = {"coordinator": f"localhost:{wire.port}"}
        federation.start_client("site-3", data={"number": 3})
        await federation.agents["site-3"].attached.wait()
        wire.on_chunk = cut_amid_the_upload
        run_id = await federation.submit(submitted, study.app)
        async with asyncio.timeout(30):
            await cut.wait()
        await wire.refuse()
        await eventually(lambda: runs.progress(run_id, 1), lambda now: not is_over or _is_late(now))
        wire.on_chunk = None
        await wire.reopen()
        await federation.wait_for(run_id, seconds=90)
        await federation.stop_client("site-3")

    assert (await runs.round(run_id, 1)).attempt == 1 + is_over
    assert await members_of(runs, run_id, 1) == {"site-1": 0, "site-2": 0, "site-3": 0}
    rows = await runs.preparing(run_id, 0)
    assert [each.attempt for each in rows if each.kind == "prepare"] == [1, 1, 1]
    np.testing.assert_array_equal((await federation.model(run_id))["w"], np.full(_SIZE, 2.0))


@pytest.mark.slow
async def test_a_site_that_says_that_it_waits_and_brings_nothing_is_soon_left_out(
    federation: Federation, runs: RunRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = BlobTransfer.send_update

    async def kept(self: BlobTransfer, upload: Any, report: PutReport, **rest: Any) -> Any:
        if report.metrics["loss"] == 3.0:
            raise DeniedError("update: the site keeps it")
        return await send(self, upload, report, **rest)

    monkeypatch.setattr(BlobTransfer, "send_update", kept)
    await federation.start_clients(5)
    run_id = await federation.submit(
        asynchronous_job(
            run={"rounds": 12},
            cohort={"min_reports": 2, "grace_seconds": 0.5, "max_attempts": 2},
            secure_aggregation={"mode": "none"},
        ),
        study.app,
    )
    await federation.wait_for(run_id, seconds=120)

    asked = [
        each.round for each in await runs.turns(run_id, 12, oldest=1) if each.client_id == "site-3"
    ]
    assert 1 <= len(asked) <= 5
    gaps = [later - sooner for later, sooner in itertools.pairwise(asked)]
    assert gaps == sorted(gaps, reverse=True)


async def test_a_site_whose_upload_was_refused_brings_the_same_update_again(
    federation: Federation, runs: RunRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, keep = BlobTransfer.send_update, HeldUpdates.keep
    refused, made = list[float](), list[int]()

    async def refused_once(self: BlobTransfer, upload: Any, report: PutReport, **rest: Any) -> Any:
        if report.metrics["loss"] == 3.0 and not refused:
            refused.append(report.metrics["loss"])
            raise DeniedError("update of round 1: not now")
        return await send(self, upload, report, **rest)

    def counted(self: HeldUpdates, run_id: str, held: HeldUpdate) -> None:
        made.append(held.ahead.version)
        keep(self, run_id, held)

    monkeypatch.setattr(BlobTransfer, "send_update", refused_once)
    monkeypatch.setattr(HeldUpdates, "keep", counted)
    await federation.start_clients(3)
    run_id = await federation.submit(asynchronous_job(run={"rounds": 1}), study.app)
    await federation.wait_for(run_id, seconds=90)

    assert await members_of(runs, run_id, 1) == {"site-1": 0, "site-2": 0, "site-3": 0}
    assert (refused, made) == ([3.0], [0, 0, 0])


def _is_late(progress: RoundProgress) -> bool:
    return progress.now > progress.deadline_at + 1


async def test_a_site_refuses_a_round_that_counts_it_otherwise_than_its_age(
    federation: Federation, runs: RunRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lying(*_arguments: Any) -> dict[str, int]:
        return {"site-1": 15, "site-2": 16, "site-3": 16}

    monkeypatch.setattr(driving, "scales_of", lying)
    await federation.start_clients(3)

    run_id = await federation.submit(
        asynchronous_job(
            run={"rounds": 1},
            cohort={"min_reports": 3, "max_attempts": 1},
            secure_aggregation={**HIDDEN, "phase_seconds": 3},
        ),
        study.app,
    )
    await federation.wait_for(run_id, state="failed", seconds=60)

    failed = await events_of(runs, run_id, "train_failed")
    assert [site for site, _ in failed] == ["site-1"]
    assert "scale of 'site-1' must be 16 for an update from version 0 in round 1" in failed[0][1]


async def test_a_group_whose_sum_is_wrong_goes_again_in_parts_with_the_same_updates(
    federation: Federation, runs: RunRepository
) -> None:
    def another(values: Any, commit: Any) -> CommittedUpdate:
        made: CommittedUpdate = commit(values + 1)
        return made

    await federation.start_clients(6)
    let_lie(federation, "site-5", another)

    run_id = await federation.submit(
        asynchronous_job(
            run={"rounds": 1},
            asynchronous={"group_size": 6},
            cohort={"grace_seconds": 30},
            secure_aggregation={**HIDDEN, "colluders": 1},
        ),
        study.app,
    )
    await federation.wait_for(run_id, seconds=90)

    ((_, refused),) = await events_of(runs, run_id, "sum_refused")
    counted = {number for number in range(1, 7) if f"site-{number}" not in refused}
    assert len(counted) == 3
    assert 5 not in counted
    mean = np.float32(sum(10 * 16 * each for each in counted) / (3 * 10 * 16))
    np.testing.assert_array_equal((await federation.model(run_id))["w"], np.full(8, mean))


async def test_a_run_ends_whose_clients_cannot_train(
    federation: Federation, runs: RunRepository
) -> None:
    await federation.start_clients(3)

    run_id = await federation.submit(
        asynchronous_job(train={"broken": "site-2"}, cohort={"min_reports": 3, "max_attempts": 2}),
        study.app,
    )
    run = await federation.wait_for(run_id, state="failed", seconds=60)

    assert "only 2 of 3 clients that a group needs can train; the others failed" in run["reason"]
    assert len(await events_of(runs, run_id, "prepare_failed")) == 2


@pytest.mark.parametrize("mode", [HIDDEN, {"mode": "none"}])
async def test_a_run_ends_whose_training_does_not(
    federation: Federation, runs: RunRepository, mode: dict[str, Any]
) -> None:
    hold("site-2")
    await federation.start_clients(3)

    run_id = await federation.submit(
        asynchronous_job(
            asynchronous={"group_size": 3, "deadline_seconds": 1.0},
            cohort={"min_reports": 3, "max_attempts": 2},
            secure_aggregation=mode,
        ),
        study.app,
    )
    run = await federation.wait_for(run_id, state="failed", seconds=60)

    assert "only 2 of 3 clients that a group needs can train; the others failed" in run["reason"]
    assert "its training did not end within 1 s" in run["reason"]
    failed = await events_of(runs, run_id, "prepare_failed")
    assert [site for site, _ in failed] == ["site-2", "site-2"]


async def test_a_site_whose_training_took_too_long_is_asked_anew(
    federation: Federation, runs: RunRepository
) -> None:
    hold("site-2")
    await federation.start_clients(3)
    submitted = asynchronous_job(
        run={"rounds": 1}, asynchronous={"group_size": 3, "deadline_seconds": 3.0}
    )

    run_id = await federation.submit(submitted, study.app)
    await eventually(lambda: events_of(runs, run_id, "prepare_failed"))
    study.hold["site-2"].set()
    await federation.wait_for(run_id, seconds=60)

    assert await members_of(runs, run_id, 1) == {"site-1": 0, "site-2": 0, "site-3": 0}


async def test_a_run_ends_for_whose_group_too_few_come(
    federation: Federation, runs: RunRepository
) -> None:
    await federation.start_clients(2)

    run_id = await federation.submit(
        asynchronous_job(cohort={"min_reports": 3, "patience_seconds": 1.0}), study.app
    )
    run = await federation.wait_for(run_id, state="failed", seconds=60)

    assert run["reason"] == "only 2 of 3 clients that a group needs were there within 1 s"
    ((_, told),) = await events_of(runs, run_id, "waiting")
    assert told == "waiting for clients: 2 of the 3 of a group with app 'counting' attached"


async def test_a_run_stops_while_its_clients_train(
    federation: Federation, runs: RunRepository
) -> None:
    hold("site-1", "site-2", "site-3")
    await federation.start_clients(3)
    run_id = await federation.submit(asynchronous_job(), study.app)

    async def training() -> list[AssignmentRecord]:
        return await runs.preparing(run_id, 0)

    await eventually(training, lambda rows: len(rows) == 3)
    await runs.request_stop(run_id, "enough")
    await federation.wait_for(run_id, state="stopped")

    assert {each.state for each in await runs.assignments(run_id, 0)} == {"cancelled"}


async def test_who_begins_from_a_version_measures_it(
    federation: Federation, runs: RunRepository
) -> None:
    await federation.start_clients(3)

    run_id = await federation.submit(
        asynchronous_job(run={"rounds": 2}, evaluation={"every": 1}), study.app
    )
    await federation.wait_for(run_id, seconds=60)

    found = [(each.evaluation, each.evaluation_reports) for each in await runs.rounds(run_id)]
    assert found == [({"first": 0.0}, 3), ({"first": 2.0}, 3), ({"first": 4.0}, 3)]
