import json
from pathlib import Path

import pytest

from kumiai.core.clock import SystemClock
from kumiai.identity import TrustBundle
from kumiai.identity.audit import Act, Actor, CertifiedKey, EntryProof, NewEntry
from kumiai.node.auditing.evidence import TrustedKeys
from kumiai.node.auditing.export import verify_export
from kumiai.node.auditing.kept import KeptCheckpoint
from kumiai.node.auditing.signer_files import load_signer
from kumiai.node.coordinator.auditing import CheckpointKeeper
from tests.node.http.api import RunningApi, error_of


@pytest.fixture
async def signed(api: RunningApi, tmp_path: Path) -> RunningApi:
    """An API after a run was submitted, described and stopped, signed."""
    run_id = await api.submit()
    described = {"description": "words", "add_tags": [], "remove_tags": []}
    (await api.operator.patch(f"/api/v1/runs/{run_id}", json=described)).raise_for_status()
    (await api.operator.patch(f"/api/v1/models/{run_id}.0", json=described)).raise_for_status()
    (await api.operator.post(f"/api/v1/runs/{run_id}/stop", json={})).raise_for_status()
    await keeper_of(api, tmp_path).sign()
    return api


def keeper_of(api: RunningApi, folder: Path) -> CheckpointKeeper:
    own = api.certificates.coordinator
    signer = load_signer(folder, own.cert, own.key)
    return CheckpointKeeper(api.parts.audit, lambda: signer, SystemClock(), folder)


def trust_of(api: RunningApi) -> TrustBundle:
    return TrustBundle.load(api.certificates.coordinator.ca)


async def test_what_an_operator_does_is_told_with_their_name(signed: RunningApi) -> None:
    page = (await signed.operator.get("/api/v1/audit?order=oldest")).raise_for_status().json()

    assert [entry["act"] for entry in page["entries"]] == [
        "run.created",
        "run.described",
        "model.described",
        "run.stop_requested",
    ]
    first = page["entries"][0]
    assert first["actor"]["role"] == "operator"
    assert first["actor"]["name"] == "olivia"
    assert first["actor"]["address"] == "127.0.0.1"
    assert first["subject"].startswith("run/run-")
    assert first["detail"]["rounds"] == 3
    assert page["next"] is None


async def test_entries_are_filtered_and_paged(signed: RunningApi) -> None:
    async def found(query: str) -> list[int]:
        page = (await signed.operator.get(f"/api/v1/audit?{query}")).raise_for_status().json()
        return [entry["sequence"] for entry in page["entries"]]

    assert await found("limit=2") == [3, 2]
    assert await found("act=run.created&act=model.described") == [2, 0]
    assert await found("actor=olivia") == [3, 2, 1, 0]
    assert await found("actor=operator/olivia&outcome=done") == [3, 2, 1, 0]
    assert await found("actor=client/olivia") == []
    assert await found("subject=run/none") == []
    assert await found("at_before=1") == []


async def test_only_who_may_reads_and_only_auditors_redact(signed: RunningApi) -> None:
    scientist = signed.caller(signed.certificates.scientist)
    body = {"kind": "operator", "name": "olivia"}

    assert (await scientist.get("/api/v1/audit")).status_code == 403
    assert (await signed.operator.post("/api/v1/audit/redact", json=body)).status_code == 403


async def test_a_redacted_person_is_read_no_more_and_the_log_stays_right(
    signed: RunningApi,
) -> None:
    auditor = signed.caller(signed.certificates.auditor)
    body = {"kind": "operator", "name": "olivia", "reason": "left"}

    answer = await auditor.post("/api/v1/audit/redact", json=body)

    person = answer.raise_for_status().json()["person"]
    page = (await auditor.get("/api/v1/audit")).json()["entries"]
    assert page[0]["act"] == "audit.redacted"
    assert page[0]["actor"]["name"] == "aude"
    assert page[0]["subject"] == f"person/{person}"
    assert [each["actor"]["name"] for each in page[1:]] == [None] * 4
    assert {each["actor"]["person"] for each in page[1:]} == {person}
    assert all(each["actor"]["is_redacted"] for each in page[1:])
    text = (await auditor.get("/api/v1/audit/export")).text
    assert "olivia" not in text
    assert verify_export(text.encode().splitlines(keepends=True), trust_of(signed)).size == 6
    again = await auditor.post("/api/v1/audit/redact", json=body)
    assert error_of(again)[:2] == (404, "not_found")
    long = await auditor.post("/api/v1/audit/redact", json={**body, "reason": "\N{SNOWMAN}" * 199})
    assert long.status_code in {400, 404}


async def test_an_entry_is_proved_to_somebody_without_the_log(signed: RunningApi) -> None:
    content = (await signed.operator.get("/api/v1/audit/2/proof")).raise_for_status().content
    kept = KeptCheckpoint.from_json(
        (await signed.operator.get("/api/v1/audit/checkpoint")).raise_for_status().content
    )

    keys = TrustedKeys([kept.key.to_json()], trust_of(signed))
    entry, point = keys.prove(EntryProof.from_json(content))

    assert (entry.act, point.size) == ("model.described", 4)
    assert len(content) < 2000
    missing = await signed.operator.get("/api/v1/audit/4/proof")
    assert error_of(missing)[0] == 404


async def test_without_a_checkpoint_there_is_none_to_keep(api: RunningApi) -> None:
    answer = await api.operator.get("/api/v1/audit/checkpoint")

    assert error_of(answer)[0] == 404
    assert "try again" in error_of(answer)[2]


async def test_a_checkpoint_of_a_key_that_is_gone_is_not_given(api: RunningApi) -> None:
    await api.parts.audit.add_checkpoint(size=1, key_id="x", at=1.0, note="note")

    answer = await api.operator.get("/api/v1/audit/checkpoint")

    assert "must be known" in error_of(answer)[2]


async def test_a_coordinator_and_a_stranger_are_shown_as_what_is_known(api: RunningApi) -> None:
    await api.parts.audit.record(
        [
            NewEntry(Act.COORDINATOR_STARTED, Actor("coordinator", "coordinator-1")),
            NewEntry(Act.AUTHENTICATION_REFUSED, Actor("nobody", address="10.9.9.9")),
            NewEntry(Act.AUTHENTICATION_REFUSED, Actor("nobody")),
        ]
    )

    page = (await api.operator.get("/api/v1/audit?order=oldest")).json()["entries"]

    assert [(each["actor"]["name"], each["actor"]["address"]) for each in page] == [
        ("coordinator-1", None),
        (None, "10.9.9.9"),
        (None, None),
    ]
    found = (await api.operator.get("/api/v1/audit?actor=10.9.9.9")).json()["entries"]
    assert [each["sequence"] for each in found] == [1]


async def test_a_long_log_is_exported_in_pieces(api: RunningApi, tmp_path: Path) -> None:
    actor = Actor("coordinator", "coordinator-1")
    await api.parts.audit.record([NewEntry(Act.RUN_CREATED, actor, f"run/{n}") for n in range(600)])

    answer = await api.operator.get("/api/v1/audit/export")

    lines = answer.content.splitlines(keepends=True)
    assert verify_export(lines, trust_of(api)).size == 601
    assert json.loads(lines[-1]) == {"end": 601}


async def test_a_deleted_run_leaves_its_entries(signed: RunningApi) -> None:
    page = (await signed.operator.get("/api/v1/audit?act=run.created")).json()["entries"]
    run_id = page[0]["subject"].removeprefix("run/")
    lease = await signed.lead(run_id)
    await signed.runs.finish(lease, "stopped", "stopped")

    (await signed.operator.delete(f"/api/v1/runs/{run_id}")).raise_for_status()

    newest = (await signed.operator.get("/api/v1/audit?limit=1")).json()["entries"][0]
    assert (newest["act"], newest["subject"]) == ("run.deleted", f"run/{run_id}")
    assert newest["detail"] == {"models": 1}
    missing = await signed.operator.delete("/api/v1/runs/run%20none")
    assert missing.status_code in {400, 404}


def test_a_certified_key_reads_back() -> None:
    key = CertifiedKey("kumiai/x/audit", b"k" * 32, b"pem", b"s")

    assert CertifiedKey.from_json(key.to_json()) == key
