"""A platform engineer's day: a federation on PostgreSQL, Redis and S3, run by its commands."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from kumiai.core.codec import decode
from kumiai.identity import client_context
from kumiai.storage import S3BlobStore
from tests.node.cli.program import STUDY
from tests.system.platform import PREFIX, SITES, Platform
from tests.zygote import Zygote

JOB = """
[run]
app = "counting"
rounds = 2
name = "nightly"

[cohort]
size = 3
min_reports = 3
grace_seconds = 60.0
"""
ENDLESS = ("--set", "cohort.min_clients=9")
"""Waits for clients that never come."""
LARGE = ("--set", "train.size=1_000_000", "--set", "run.rounds=5")
"""Long enough to meet a fault."""
IMPATIENT = ("--set", "storage.s3_timeout_seconds=1")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> Iterator[Platform]:
    platform = Platform(tmp_path_factory.mktemp("platform"), zygote)
    try:
        platform.start()
        yield platform
    finally:
        platform.close()


@pytest.fixture(scope="module")
def job(platform: Platform) -> Path:
    path = platform.folder / "job.toml"
    path.write_text(JOB)
    return path


@pytest.fixture(scope="module")
def finished(platform: Platform, job: Path) -> str:
    """A run that has ended."""
    run_id = platform.submit(job)
    assert platform.wait_for_end(run_id)["state"] == "finished"
    return run_id


def weights_of(platform: Platform, run_id: str) -> np.ndarray:
    """Return the final model, by the way that a data scientist gets it."""
    path = platform.folder / f"{run_id}.safetensors"
    outcome = platform.kumiai("model", "export", run_id, "--out", path, "-o", "json")
    assert outcome.code == 0, outcome.err
    return decode(path.read_bytes()).arrays["w"]


# --- runs and models ---


def test_a_run_is_submitted_and_watched_to_its_end(platform: Platform, job: Path) -> None:
    watched = platform.kumiai("run", "submit", job, "--app", STUDY, "--watch")

    assert watched.code == 0, watched.err
    lines = watched.out.splitlines()
    assert any("round 2 published" in line and "loss 0.5" in line for line in lines)
    assert lines[-1].endswith("finished: all 2 rounds are done")
    np.testing.assert_array_equal(weights_of(platform, lines[0].split()[1]), np.full(8, 2))


def test_a_run_is_described_and_found_by_words_tags_and_pages(
    platform: Platform, job: Path, finished: str
) -> None:
    words = ("-d", "the first of Zürich", "--tag", "site:zurich", "--tag", "old")
    described = platform.kumiai("run", "describe", finished, *words, "-o", "json")
    platform.kumiai("run", "describe", finished, "--untag", "old")
    late = platform.kumiai("run", "describe", finished, "-d", "late", "--if-version", 1)
    waiting = platform.submit(job, *ENDLESS)
    found = platform.kumiai("run", "list", "--search", "zurich fir", "--tag", "site:zurich")
    page = platform.kumiai("run", "list", "--limit", 1, "-o", "json")
    cursor = page.err.split("--cursor ")[1].split()[0]
    rest = platform.kumiai("run", "list", "--cursor", cursor, "-o", "jsonl")
    platform.kumiai("run", "stop", waiting)

    assert described.data["tags"] == ["old", "site:zurich"]
    assert (late.code, "must be of version 1, got 3" in late.err) == (1, True)
    assert finished in found.out
    assert waiting not in found.out
    assert [run["run_id"] for run in page.data] == [waiting]
    assert finished in {json.loads(line)["run_id"] for line in rest.out.splitlines()}


def test_a_run_tells_its_rounds_and_why_it_waits(
    platform: Platform, job: Path, finished: str
) -> None:
    waiting = platform.submit(job, *ENDLESS)
    shown = platform.kumiai("run", "show", finished, "-o", "json").data
    logged = platform.kumiai("run", "logs", finished)
    explained = platform.kumiai("run", "explain", waiting)
    stopped = platform.kumiai("run", "stop", waiting, "--reason", "enough")
    watched = platform.kumiai("run", "watch", waiting)

    assert [each["reports"] for each in shown["rounds"][1:]] == [3, 3]
    assert "round 1 opened for 3 clients" in logged.out
    assert "site-2: idle" in explained.out
    assert stopped.code == 0
    assert (watched.code, "stopped by operator: enough" in watched.out) == (1, True)


def test_a_run_of_a_study_that_fails_names_the_sites_error(platform: Platform, job: Path) -> None:
    broken = ("train.broken=true", "cohort.max_attempts=1", "cohort.deadline_seconds=3")
    options = [part for each in broken for part in ("--set", each)]

    outcome = platform.kumiai("run", "submit", job, "--app", STUDY, "--watch", *options)

    assert outcome.code == 5
    assert "this site is broken" in outcome.out


def test_models_are_found_by_metric_and_tag_over_all_runs(
    platform: Platform, finished: str
) -> None:
    tagged = platform.kumiai(
        "model", "describe", finished, "-v", "1", "--tag", "baseline", "-d", "half way"
    )
    by_tag = platform.kumiai("model", "list", "--tag", "baseline", "-o", "json").data
    best = platform.kumiai("model", "list", finished, "--metric", "first", "-o", "json").data
    words = platform.kumiai("model", "list", "--search", "half", "-o", "yaml")
    shown = platform.kumiai("model", "show", finished)

    assert tagged.code == 0, tagged.err
    assert [(each["run_id"], each["round"]) for each in by_tag] == [(finished, 1)]
    assert next(each["round"] for each in best) == 2
    assert finished in words.out
    assert "first 2" in shown.out


# --- the servers below ---


def test_the_database_is_well_and_brought_up_by_hand(platform: Platform) -> None:
    empty = ("--set", f"storage.database={platform.postgres.new_database(migrated=False)}")
    before = platform.as_member("coordinator", *empty, "db", "status")
    planned = platform.as_member("coordinator", *empty, "db", "migrate", "--dry-run", "-o", "json")
    migrated = platform.as_member("coordinator", *empty, "db", "migrate", "-o", "json")
    down = platform.as_member("coordinator", *empty, "db", "migrate", "--to", "0001")
    status = platform.as_member("coordinator", "db", "status", "-o", "json")
    check = platform.as_member("coordinator", "db", "check", "-o", "json")

    assert (before.code, "none, this version needs" in before.out) == (1, True)
    assert [each["revision"] for each in planned.data] == [
        each["revision"] for each in migrated.data
    ]
    assert (down.code, "--yes must be given" in down.err) == (2, True)
    assert (status.code, status.data["dialect"]) == (0, "postgresql")
    assert check.code == 0, check.out


def test_the_bucket_is_counted_checked_and_swept(platform: Platform, job: Path) -> None:
    run_id = platform.submit(job)
    platform.wait_for_end(run_id)
    usage = platform.as_member("coordinator", "storage", "usage", "-o", "json").data
    whole = platform.as_member("coordinator", "storage", "check", "--read-data", "-o", "json")
    swept = platform.as_member("coordinator", "storage", "gc", "--grace", "15m", "-o", "json")
    first = platform.kumiai("model", "show", run_id, "-v", "0", "-o", "json").data
    platform.do(lose(platform, f"models/{run_id}", first["digest"]))
    lost = platform.as_member("coordinator", "storage", "check")
    deleted = platform.kumiai("run", "delete", run_id, "--yes")
    again = platform.as_member("coordinator", "storage", "check")

    (of_run,) = [each for each in usage["runs"] if each["run_id"] == run_id]
    assert of_run["counts"] == {"models": 3}
    assert (whole.code, whole.data["problems"]) == (0, [])
    assert swept.data["count"] == 0  # what is young may be needed at once
    assert (lost.code, run_id in lost.err) == (7, True)
    assert (deleted.code, again.code) == (0, 0), deleted.err


async def lose(platform: Platform, namespace: str, digest: str) -> None:
    store = S3BlobStore(platform.s3.place(PREFIX), platform.folder / "thief")
    await store.delete(namespace, digest)
    await store.close()


def test_every_member_is_well(platform: Platform) -> None:
    for path in ("coordinator", "operator", *(f"clients/{name}" for name in SITES)):
        outcome = platform.as_member(path, "doctor", "-o", "json")

        assert outcome.code == 0, outcome.out
        assert {each["state"] for each in outcome.data} <= {"ok", "warn"}


def test_the_doctor_names_what_is_wrong_and_the_mend(platform: Platform) -> None:
    wrong = ("storage.redis=redis://127.0.0.1:9/0", "storage.s3_endpoint=http://127.0.0.1:9")
    options = [part for each in wrong for part in ("--set", each)]
    told = platform.as_member("coordinator", *IMPATIENT, *options, "doctor", "-o", "json")
    table = platform.as_member("operator", "--set", "operator.url=https://127.0.0.1:9", "doctor")

    states = {each["check"]: each["state"] for each in told.data}
    assert told.code == table.code == 1
    assert (states["redis"], states["bucket"]) == ("warn", "WRONG")
    assert "WRONG" in table.out


def test_settings_are_shown_with_their_origin_and_without_their_secrets(
    platform: Platform,
) -> None:
    secret = ("--set", "storage.redis=redis://user:hunter2@127.0.0.1/0")
    shown = platform.as_member("coordinator", *secret, "config", "show", "--origin")
    checked = platform.as_member("coordinator", "config", "check", "-o", "json")
    typo = platform.as_member("coordinator", "--set", "storage.redsi=x", "config", "check")
    schema = platform.kumiai("config", "schema")
    written = platform.folder / "new.toml"
    made = platform.kumiai("config", "init", "client", "--path", written)

    assert "hunter2" not in shown.out + shown.err
    assert "--set" in shown.out
    assert checked.code == 0, checked.err
    assert (typo.code, "storage.redis" in typo.err) == (2, True)
    assert "storage" in schema.data["properties"]
    assert made.code == 0, made.err
    assert "[client]" in written.read_text()


# --- faults ---


def test_redis_killed_in_the_middle_of_a_run_shows_nobody_old_values(
    platform: Platform, job: Path, finished: str
) -> None:
    run_id = platform.submit(job, *LARGE)
    platform.wait_for_round(run_id, 1)
    platform.redis.kill()
    changed = platform.kumiai("run", "describe", finished, "-d", "while redis was away")
    without = platform.kumiai("run", "show", finished, "-o", "json").data
    warned = platform.as_member("coordinator", "doctor", "-o", "json")
    platform.redis.start()
    back = platform.kumiai("run", "show", finished, "-o", "json").data
    ended = platform.wait_for_end(run_id)

    assert changed.code == 0, changed.err
    assert without["description"] == back["description"] == "while redis was away"
    assert {"redis": "warn"}.items() <= {e["check"]: e["state"] for e in warned.data}.items()
    assert ended["state"] == "finished"
    np.testing.assert_array_equal(weights_of(platform, run_id), np.full(1_000_000, 5))
    platform.do(until_redis_serves(platform, finished))


async def until_redis_serves(platform: Platform, run_id: str) -> None:
    before = await cache_hits(platform)
    async with asyncio.timeout(30):
        while await cache_hits(platform) == before:
            await platform.processes.api.rounds(run_id)


async def cache_hits(platform: Platform) -> float:
    return (await metrics(platform))["kumiai_cache_hits_total"]


async def metrics(platform: Platform) -> dict[str, float]:
    """Return what Prometheus would see, by series."""
    folder = platform.processes.folder.path / "operator"
    context = client_context(folder / "operator.crt", folder / "operator.key", folder / "ca.crt")
    async with httpx.AsyncClient(
        base_url=platform.processes.url, verify=context, timeout=60
    ) as http:
        page = (await http.get("/metrics")).raise_for_status().text
    lines = [line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def test_the_s3_server_killed_in_the_middle_of_a_run_costs_time_alone(
    platform: Platform, job: Path
) -> None:
    run_id = platform.submit(job, *LARGE)
    platform.wait_for_round(run_id, 1)
    platform.s3.kill()
    sick = platform.as_member("coordinator", *IMPATIENT, "doctor", "-o", "json")
    platform.s3.start()
    ended = platform.wait_for_end(run_id)
    whole = platform.as_member("coordinator", "storage", "check", "--read-data")

    assert "WRONG" in {each["state"] for each in sick.data if each["check"] == "bucket"}
    assert ended["state"] == "finished"
    np.testing.assert_array_equal(weights_of(platform, run_id), np.full(1_000_000, 5))
    assert whole.code == 0, whole.err


def test_postgresql_killed_in_the_middle_of_a_run_costs_time_alone(
    platform: Platform, job: Path
) -> None:
    run_id = platform.submit(job, *LARGE)
    platform.wait_for_round(run_id, 1)
    platform.postgres.kill()
    away = platform.as_member("coordinator", "db", "status")
    platform.postgres.start()
    platform.do(platform.processes.wait_until_ready())
    ended = platform.wait_for_end(run_id)

    assert away.code == 1
    assert ended["state"] == "finished"
    np.testing.assert_array_equal(weights_of(platform, run_id), np.full(1_000_000, 5))


def test_a_coordinator_is_replaced_while_a_watch_looks_on(platform: Platform, job: Path) -> None:
    run_id = platform.submit(job, *LARGE)
    platform.wait_for_round(run_id, 1)
    platform.do(platform.processes.kill_coordinator())
    platform.do(platform.processes.start_coordinator())
    watched = platform.kumiai("run", "watch", run_id, "-o", "jsonl")
    seen = platform.do(metrics(platform))

    assert watched.code == 0, watched.out
    assert json.loads(watched.out.splitlines()[-1])["kind"] == "end"
    assert seen["kumiai_database_up"] == 1
    assert seen["kumiai_clients_registered"] == len(SITES)
    np.testing.assert_array_equal(weights_of(platform, run_id), np.full(1_000_000, 5))


# --- certificates ---


def test_a_sealed_authority_issues_and_revokes_only_with_its_passphrase(
    platform: Platform,
) -> None:
    folder = platform.folder / "sealed"
    words = {"KUMIAI_CA_PASSPHRASE": "correct horse battery staple"}
    there = ("--dir", folder / "ca")
    made = platform.kumiai("ca", "init", "hospital", *there, environ=words)
    issue = ("ca", "issue", "client", "site-9", "--out", folder / "site-9", *there)
    issued = platform.kumiai(*issue, environ=words)
    denied = platform.kumiai(
        "ca", "revoke", "site-9", *there, environ={"KUMIAI_CA_PASSPHRASE": "wrong"}
    )
    revoked = platform.kumiai(
        *("ca", "revoke", "site-9", "--reason", "superseded"), *there, environ=words
    )
    fresh = platform.kumiai("ca", "crl", *there, "-o", "json", environ=words)
    listed = platform.kumiai("ca", "list", *there)

    assert (made.code, issued.code, revoked.code) == (0, 0, 0), revoked.err
    assert denied.code != 0
    assert "correct horse" not in denied.err + denied.out
    assert fresh.data["revoked"] == 1
    assert "revoked: superseded" in listed.out


def test_a_revoked_site_is_sent_away_and_the_others_go_on(platform: Platform, job: Path) -> None:
    authority = ("--dir", platform.processes.folder.path / "ca")
    away = platform.processes.clients["site-3"]

    revoked = platform.kumiai("ca", "revoke", "site-3", "--reason", "key-compromise", *authority)
    code = platform.do(away.wait())
    run_id = platform.submit(job, "--set", "cohort.size=2", "--set", "cohort.min_reports=2")
    ended = platform.wait_for_end(run_id)

    assert revoked.code == 0, revoked.err
    assert (code, "revoked" in away.last_lines()) == (4, True)
    assert ended["state"] == "finished"
