"""Whole runs in which the coordinator sees the sum and no update, over real mutual TLS."""

import json
import sqlite3
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kumiai.core.digest import digest_of
from kumiai.crypto.signatures import Ed25519Verifier
from kumiai.identity import Role
from kumiai.node.ahead import scales_of
from kumiai.node.client.secure.known_peers import PEERS_FILE, KnownPeers, clients_of
from kumiai.node.client.secure.site import MaskedUpload
from kumiai.node.coordinator.secure import driving
from kumiai.node.job import JobSpec
from kumiai.secagg import CommittedUpdate, verify_receipt
from kumiai.storage import RunRepository
from tests.integration import study
from tests.integration.eventually import eventually
from tests.integration.federation import Federation, job
from tests.integration.liars import let_lie


def hidden_job(**tables: Any) -> dict[str, Any]:
    secure = {"mode": "masking", "value_bits": 20, **tables.pop("secure_aggregation", {})}
    return job(secure_aggregation=secure, **tables)


def one_liar_job(size: int, *, grace_seconds: int = 0) -> dict[str, Any]:
    """Return a round whose sum goes again in parts where one of its clients makes it wrong."""
    return hidden_job(
        run={"rounds": 1},
        cohort={"size": size, "grace_seconds": grace_seconds},
        secure_aggregation={"colluders": 1, "clip": 16.0},
    )


async def test_the_sum_of_hidden_updates_trains_the_model(federation: Federation) -> None:
    await federation.start_clients(4)

    run_id = await federation.submit(hidden_job(cohort={"size": 4, "min_reports": 4}), study.app)
    await federation.wait_for(run_id, seconds=90)

    model = await federation.model(run_id)
    # Each update is off by less than a step of the quantisation, 4 / 2**19.
    np.testing.assert_allclose(model["w"], np.full(8, 7.5), atol=3e-5)
    assert model["steps"] == 3


class Leaving:
    """Lets a site leave just before its round begins with those who were asked."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation
        self.beginnings = 0

    async def attached(self) -> set[str]:
        async with self._federation.http() as http:
            clients = (await http.get("/api/v1/clients")).json()["clients"]
        return {each["client_id"] for each in clients if each["state"] == "attached"}

    async def leave(self, name: str) -> None:
        await self._federation.stop_client(name)
        await eventually(self.attached, lambda names: name not in names)


@pytest.mark.parametrize(("count", "threshold"), [(3, None), (4, 4)])
async def test_a_site_that_leaves_as_its_round_begins_costs_no_more_than_an_attempt(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, count: int, threshold: int | None
) -> None:
    async def asked_as_one_leaves(*asked: Any) -> dict[str, int]:
        leaving.beginnings += 1
        if leaving.beginnings == 1:
            await leaving.leave("site-3")
        return await scales_of(*asked)

    leaving = Leaving(federation)
    monkeypatch.setattr(driving, "scales_of", asked_as_one_leaves)
    await federation.start_clients(count)

    run_id = await federation.submit(
        hidden_job(
            run={"rounds": 1},
            cohort={"size": count, "min_reports": 3},
            secure_aggregation={"threshold": threshold},
        ),
        study.app,
    )
    await eventually(lambda: "site-3" not in federation.agents)
    federation.start_client("site-3", data={"number": 3})
    await federation.wait_for(run_id, seconds=90)

    async with federation.http() as http:
        (_, published) = (await http.get(f"/api/v1/runs/{run_id}/rounds")).json()["rounds"]
    assert (published["attempt"], published["reports"]) == (2, count)


async def test_a_group_that_loses_a_site_as_it_begins_is_left_out_whole(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def asked_as_one_leaves(
        runs: RunRepository, job: JobSpec, run_id: str, number: int
    ) -> dict[str, int]:
        leaving.beginnings += 1
        assigned = await runs.assignments(run_id, number, state="assigned")
        group = {each.client_id for each in assigned if each.kind == "train"}
        if leaving.beginnings > 1 and "site-5" in group and not lost:
            lost.update(group)
            await leaving.leave(min(group - {"site-5"}))
        return await scales_of(runs, job, run_id, number)

    leaving, lost = Leaving(federation), set[str]()
    monkeypatch.setattr(driving, "scales_of", asked_as_one_leaves)
    await federation.start_clients(8)
    let_lie(federation, "site-5", one_off)

    run_id = await federation.submit(one_liar_job(8), study.app)
    await federation.wait_for(run_id, seconds=120)

    async with federation.http() as http:
        (_, published) = (await http.get(f"/api/v1/runs/{run_id}/rounds")).json()["rounds"]
    counted = {number for number in range(1, 9) if f"site-{number}" not in lost}
    # All, one half, the other: the one that had lost a site was not asked again, or summed without.
    assert (leaving.beginnings, len(lost), published["reports"]) == (3, 4, 4)
    mean = sum(counted) / len(counted)
    np.testing.assert_allclose((await federation.model(run_id))["w"], mean, atol=1e-4)


async def test_a_site_that_lies_is_left_out_and_stands_in_the_audit_log(
    federation: Federation,
) -> None:
    def unasked_proof(values: Any, commit: Any) -> CommittedUpdate:
        return replace(commit(values), proof=b"unasked")

    await federation.start_clients(5)
    let_lie(federation, "site-5", unasked_proof)

    run_id = await federation.submit(
        hidden_job(run={"rounds": 1}, cohort={"size": 5, "min_reports": 4, "grace_seconds": 0}),
        study.app,
    )
    await federation.wait_for(run_id, seconds=90)

    model = await federation.model(run_id)
    np.testing.assert_allclose(model["w"], np.full(8, 2.5), atol=3e-5)
    reason = "did not prove its update: proof must be empty in this round, got 7 bytes"
    async with federation.http() as http:
        entries = (await http.get("/api/v1/audit?act=client.excluded")).json()["entries"]
        events = (await http.get(f"/api/v1/runs/{run_id}/events")).json()["events"]
        told = (await http.get(f"/api/v1/runs/{run_id}/explain")).json()
    (entry,) = entries
    assert (entry["actor"]["name"], entry["outcome"]) == ("site-5", "refused")
    assert entry["subject"] == f"run/{run_id}"
    assert (entry["detail"]["round"], entry["detail"]["reason"]) == (1, reason)
    assert len(entry["detail"]["evidence"]) == 64
    excluded = [each for each in events if each["kind"] == "client_excluded"]
    assert [(each["client_id"], each["round"]) for each in excluded] == [("site-5", 1)]
    assert told["hidden"]["excluded"] == {"site-5": reason}
    assert f"left out of the sum: site-5: {reason}" in told["lines"]


async def test_a_site_whose_upload_is_no_masked_vector_is_left_out(federation: Federation) -> None:
    await federation.start_clients(5)
    site: Any = federation.agents["site-5"]._secure
    mask = site.mask

    async def another(*arguments: Any, **keywords: Any) -> MaskedUpload:
        upload = await mask(*arguments, **keywords)
        vector = memoryview(bytes(upload.vector[:-1]) + b"\x00")
        return MaskedUpload(digest_of([vector]), vector.nbytes, vector)

    site.mask = another

    run_id = await federation.submit(
        hidden_job(run={"rounds": 1}, cohort={"size": 5, "min_reports": 4, "grace_seconds": 0}),
        study.app,
    )
    await federation.wait_for(run_id, seconds=90)

    np.testing.assert_allclose((await federation.model(run_id))["w"], np.full(8, 2.5), atol=3e-5)
    async with federation.http() as http:
        (entry,) = (await http.get("/api/v1/audit?act=client.excluded")).json()["entries"]
    assert entry["detail"]["reason"].startswith("uploaded what it must not: vector must be ")


async def test_a_site_that_was_away_gets_its_receipt_at_its_next_session(
    federation: Federation,
) -> None:
    study.hold["site-1"] = threading.Event()
    await federation.start_clients(4)
    run_id = await federation.submit(
        hidden_job(
            run={"rounds": 1},
            cohort={"size": 4, "min_reports": 4},
            secure_aggregation={"phase_seconds": 3},
        ),
        study.app,
    )
    await federation.until(run_id, lambda run: run["counts"]["reported"] == 3)
    await federation.stop_client("site-4")
    study.hold["site-1"].set()
    await federation.wait_for(run_id, seconds=90)
    folder = federation.folder / "clients" / "site-4" / "secure"
    kept = folder / "receipts" / f"{run_id}.1.receipt"
    assert not kept.exists()
    for name in ("site-1", "site-2", "site-3"):
        await federation.stop_client(name)
    assert federation.server is not None
    await federation.server.stop()
    await federation.start()

    federation.start_client("site-4", data={"number": 4})

    await eventually(kept.exists)
    roster = clients_of(KnownPeers(folder / PEERS_FILE).load())
    facts = verify_receipt(kept.read_bytes(), roster, verifier=Ed25519Verifier())
    assert (facts.client, facts.weight) == ("site-4", 10)
    assert facts.survivors == ("site-1", "site-2", "site-3", "site-4")
    await eventually(lambda: not list(kept.parent.glob("*.awaited")))


async def test_a_site_that_is_in_no_sum_asks_once_for_its_receipt(federation: Federation) -> None:
    await federation.start_clients(1)
    folder = federation.folder / "clients" / "site-1" / "secure" / "receipts"
    notes = [folder / f"{name}.1.awaited" for name in ("run-gone", "run-a.b")]
    await federation.stop_client("site-1")
    for note in notes:
        note.touch()

    federation.start_client("site-1", data={"number": 1})

    await eventually(lambda: not any(note.exists() for note in notes))
    assert not list(folder.glob("*.receipt"))


async def test_a_run_that_hid_updates_gets_none_in_the_open(federation: Federation) -> None:
    await federation.start_clients(3)
    cohort = {"size": 3, "min_reports": 3, "max_attempts": 1}
    run_id = await federation.submit(hidden_job(run={"rounds": 1}, cohort=cohort), study.app)
    await federation.wait_for(run_id, seconds=60)
    for name in list(federation.clients):
        await federation.stop_client(name)
    assert federation.server is not None
    await federation.server.stop()
    # What a coordinator can do that wants to see: another job in the run's row.
    rows = sqlite3.connect(federation.folder / "kumiai.db")
    (text,) = rows.execute("SELECT job_json FROM runs").fetchone()
    open_job = {**json.loads(text), "secure_aggregation": {"mode": "none"}}
    rows.execute(
        "UPDATE runs SET state = 'running', finished_at = NULL, rounds_total = 2, job_json = ?",
        (json.dumps(open_job),),
    )
    rows.commit()
    rows.close()
    await federation.start()

    await federation.start_clients(3)

    await federation.wait_for(run_id, state="failed", seconds=60)
    async with federation.http() as http:
        events = (await http.get(f"/api/v1/runs/{run_id}/events")).json()["events"]
        rounds = (await http.get(f"/api/v1/runs/{run_id}/rounds")).json()["rounds"]
    # The first refusal ends the run; whether the others are heard before is a matter of time.
    told = [each["text"] for each in events if each["kind"] == "train_failed"]
    assert told
    assert all("must hide this site's update, as it did before" in text for text in told)
    assert rounds[-1]["reports"] is None


def one_off(values: Any, commit: Any) -> CommittedUpdate:
    """Commit to another update than the one that is uploaded."""
    other = values.copy()
    other[0] += 1
    made: CommittedUpdate = commit(other)
    return made


async def test_a_site_that_uploads_something_else_costs_the_round_its_group_alone(
    federation: Federation,
) -> None:
    await federation.start_clients(12)
    let_lie(federation, "site-5", one_off)

    run_id = await federation.submit(one_liar_job(12), study.app)
    run = await federation.wait_for(run_id, seconds=120)

    async with federation.http() as http:
        events = (await http.get(f"/api/v1/runs/{run_id}/events")).json()["events"]
        entries = (await http.get("/api/v1/audit?act=sum.refused")).json()["entries"]
        (_, published) = (await http.get(f"/api/v1/runs/{run_id}/rounds")).json()["rounds"]
    (refused,) = [each for each in events if each["kind"] == "sum_refused"]
    left_out = refused["data"]["clients"]
    assert "site-5" in left_out
    assert len(left_out) == 3
    assert (entries[0]["subject"], entries[0]["detail"]["clients"]) == (f"run/{run_id}", 3)
    # Twelve, the half with the liar, its two quarters, the other half.
    assert (run["state"], published["attempt"], published["reports"]) == ("finished", 5, 9)
    counted = {number for number in range(1, 13) if f"site-{number}" not in left_out}
    mean = sum(counted) / len(counted)
    np.testing.assert_allclose((await federation.model(run_id))["w"], mean, atol=1e-4)
    folder = federation.folder / "clients"

    def receipts() -> set[str]:
        return {path.parents[2].name for path in folder.glob("*/secure/receipts/*.receipt")}

    await eventually(lambda: receipts() == {f"site-{number}" for number in counted})


async def test_a_coordinator_that_starts_again_goes_on_with_the_parts(
    federation: Federation,
) -> None:
    await federation.start_clients(8)
    let_lie(federation, "site-5", one_off)
    run_id = await federation.submit(one_liar_job(8, grace_seconds=30), study.app)
    async with federation.http() as http:

        async def restarts() -> list[Any]:
            events = (await http.get(f"/api/v1/runs/{run_id}/events")).json()["events"]
            return [each for each in events if each["kind"] == "round_restarted"]

        await eventually(restarts, lambda found: len(found) >= 1, seconds=60)
    assert federation.server is not None
    await federation.server.stop()
    await federation.start()

    await federation.wait_for(run_id, seconds=120)

    async with federation.http() as http:
        events = (await http.get(f"/api/v1/runs/{run_id}/events")).json()["events"]
    (refused,) = [each["data"]["clients"] for each in events if each["kind"] == "sum_refused"]
    counted = [number for number in range(1, 9) if f"site-{number}" not in refused]
    assert "site-5" in refused
    assert len(counted) == 4
    mean = sum(counted) / len(counted)
    np.testing.assert_allclose((await federation.model(run_id))["w"], mean, atol=1e-4)


async def test_a_coordinator_with_another_key_begins_the_round_anew(federation: Federation) -> None:
    study.hold["site-2"] = threading.Event()
    await federation.start_clients(4)
    run_id = await federation.submit(
        hidden_job(run={"rounds": 2}, cohort={"size": 4, "min_reports": 4}), study.app
    )
    async with federation.http() as http:

        async def reported() -> int:
            told = (await http.get(f"/api/v1/runs/{run_id}/explain")).json()
            return int((told["counts"] or {"reported": 0})["reported"])

        await eventually(reported, lambda count: count == 3, seconds=60)
    assert federation.server is not None
    await federation.server.stop()
    (key,) = (federation.folder / "data").rglob("signing.key")
    key.unlink()
    federation.certificates["coordinator"] = federation.issue(Role.COORDINATOR, "coordinator-2")
    await federation.start()
    study.hold["site-2"].set()

    await federation.wait_for(run_id, seconds=120)

    async with federation.http() as http:
        events = (await http.get(f"/api/v1/runs/{run_id}/events")).json()["events"]
    restarted = [each for each in events if each["kind"] == "round_restarted"]
    assert [each["round"] for each in restarted] == [1]
    assert "must be led on with the key that began it" in str(restarted[0])
    np.testing.assert_allclose((await federation.model(run_id))["w"], np.full(8, 5.0), atol=3e-5)


async def test_a_site_that_lies_in_round_after_round_is_named_and_left_out_of_the_run(
    federation: Federation,
) -> None:
    await federation.start_clients(6)
    let_lie(federation, "site-5", one_off)
    run_id = await federation.submit(
        hidden_job(
            run={"rounds": 30},
            cohort={"size": 6, "grace_seconds": 60},
            secure_aggregation={"colluders": 1, "clip": 16.0},
        ),
        study.app,
    )

    async def told(path: str) -> Any:
        async with federation.http() as http:
            return (await http.get(f"/api/v1/{path}")).json()

    async def named() -> list[Any]:
        events = (await told(f"runs/{run_id}/events?limit=1000"))["events"]
        return [each for each in events if each["kind"] == "client_suspected"]

    (suspected,) = await eventually(named, seconds=120)
    before, after = suspected["round"], suspected["round"] + 1
    assert federation.server is not None
    await federation.server.stop()
    await federation.start()
    await federation.until_round(run_id, after + 4)
    async with federation.http() as http:
        await http.post(f"/api/v1/runs/{run_id}/stop", json={})
    await federation.wait_for(run_id, "stopped")

    assert await named() == [suspected]
    assert suspected["client_id"] == "site-5"
    rounds = (await told(f"runs/{run_id}/rounds"))["rounds"]
    # The whole, the half with the liar, the other half; then nobody lies any more.
    assert {(each["attempt"], each["reports"]) for each in rounds[1:before]} == {(3, 3)}
    assert [each["reports"] for each in rounds[after + 1 : after + 4]] == [5, 5, 5]
    (entry,) = (await told("audit?act=client.excluded"))["entries"]
    assert (entry["actor"]["name"], entry["subject"]) == ("site-5", f"run/{run_id}")
    explained = await told(f"runs/{run_id}/explain")
    assert explained["hidden"]["suspects"] == ["site-5"]
    assert any(line.startswith("left out of the run: site-5: ") for line in explained["lines"])


async def test_a_wrong_sum_of_few_ends_the_run_without_a_model(federation: Federation) -> None:
    await federation.start_clients(4)
    let_lie(federation, "site-2", one_off)

    run_id = await federation.submit(hidden_job(cohort={"size": 4, "min_reports": 4}), study.app)
    run = await federation.wait_for(run_id, state="failed", seconds=60)

    assert "not that of what its clients had committed to" in run["reason"]
    async with federation.http() as http:
        told = (await http.get(f"/api/v1/runs/{run_id}/explain")).json()
    assert told["hidden"]["reason"].startswith("the sum is not that of what its clients")
