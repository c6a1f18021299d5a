"""``kumiai run``, ``model`` and ``storage`` beside the API of a coordinator without clients.

The runs are led by the test itself. Whole runs are in ``test_run_commands.py``.
"""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from kumiai.core.codec import decode
from tests.node.cli.program import STUDY, Outcome, invoke
from tests.node.http.api import RunningApi


class Operator:
    """Runs commands beside the event loop in which the API lives."""

    def __init__(self, api: RunningApi) -> None:
        own = api.certificates.operator
        settings = {
            "operator.url": api.url,
            "identity.certificate": own.cert,
            "identity.key": own.key,
            "identity.ca": own.ca,
        }
        self._options = [
            part for key, value in settings.items() for part in ("--set", f"{key}={value}")
        ]

    async def __call__(self, *arguments: object) -> Outcome:
        return await asyncio.to_thread(invoke, *self._options, *arguments)

    async def data(self, *arguments: object) -> Any:
        outcome = await self(*arguments, "-o", "json")
        assert outcome.code == 0, outcome.err
        return outcome.data


@pytest.fixture
def operator(api: RunningApi) -> Operator:
    return Operator(api)


@pytest.fixture
async def published(api: RunningApi) -> str:
    """A run that is led, and has published its first round."""
    run_id = await api.submit()
    lease = await api.lead(run_id)
    await api.open_round(lease, 1, ["hospital-a"])
    await api.publish_round(lease, 1)
    return run_id


async def test_a_job_and_a_study_become_a_run(api: RunningApi, operator: Operator) -> None:
    Path("job.toml").write_text('[run]\napp = "counting"\nrounds = 2\nname = "small"\n')

    run = await operator.data("run", "submit", "job.toml", "--app", STUDY, "--set", "run.rounds=4")
    table = await operator("run", "submit", "job.toml", "--app", STUDY)

    assert (run["rounds_total"], run["submitted_by"]) == (4, "olivia")
    assert (await api.runs.get(run["run_id"])).name == "small"
    assert "kumiai run watch run-" in table.err


async def test_runs_are_listed_page_by_page_and_found_by_tag(
    api: RunningApi, operator: Operator, published: str
) -> None:
    waiting = await api.submit()
    told = await operator("run", "describe", published, "--tag", "first", "-d", "of Zürich")
    untouched = await operator("run", "describe", published, "--tag", "x", "--dry-run")

    page = await operator("run", "list", "--limit", 1, "-o", "json")
    cursor = page.err.split("--cursor ")[1].split()[0]
    rest = await operator("run", "list", "--cursor", cursor)
    tagged = await operator.data("run", "list", "--tag", "first", "--search", "zurich")
    none = await operator("run", "list", "--state", "failed")

    assert told.code == 0, told.err
    assert "nothing was changed" in untouched.err
    assert [run["run_id"] for run in page.data] == [waiting]
    assert published in rest.out
    assert [run["run_id"] for run in tagged] == [published]
    assert "no such runs" in none.out


async def test_a_run_is_shown_with_its_rounds_and_what_happened(
    operator: Operator, published: str
) -> None:
    table = await operator("run", "show", published[:12])
    data = await operator.data("run", "show", published)
    logged = await operator("run", "logs", published)
    rows = await operator.data("run", "logs", published)
    of_nobody = await operator("run", "logs", published, "--client", "nobody")
    explained = await operator("run", "explain", published)

    assert "running" in table.out
    assert [each["round"] for each in data["rounds"]] == [0, 1]
    assert "round 1 published" in logged.out
    assert rows[0]["kind"] == "run_submitted"
    assert of_nobody.out == ""
    assert published in explained.out


async def test_a_stopped_run_is_watched_to_its_end_and_deleted(
    api: RunningApi, operator: Operator
) -> None:
    run_id = await api.submit()
    dry = await operator("run", "stop", run_id, "--dry-run")
    stopped = await operator("run", "stop", run_id, "--reason", "enough")
    lease = await api.lead(run_id)
    await api.runs.finish(lease, "stopped", "stopped by olivia: enough")

    watched = await operator("run", "watch", run_id)
    lines = await operator("run", "watch", run_id, "-o", "jsonl")
    whole = await operator("run", "watch", run_id, "-o", "json")
    followed = await operator("run", "logs", run_id, "--follow")
    unasked = await operator("run", "delete", run_id)
    planned = await operator("run", "delete", run_id, "--dry-run")
    deleted = await operator("run", "delete", run_id, "--yes")
    gone = await operator("run", "show", run_id)

    assert "nothing was stopped" in dry.err
    assert stopped.code == 0, stopped.err
    assert (watched.code, "stopped by olivia: enough" in watched.out) == (1, True)
    assert json.loads(lines.out.splitlines()[-1])["kind"] == "end"
    assert whole.data["state"] == "stopped"
    assert "enough" in followed.out
    assert (unasked.code, "--yes must be given" in unasked.err) == (2, True)
    assert "nothing was deleted" in planned.err
    assert (deleted.code, gone.code) == (0, 3), deleted.err


async def test_models_are_listed_described_and_shown(operator: Operator, published: str) -> None:
    of_run = await operator("model", "list", published)
    described = await operator("model", "describe", published, "-v", "1", "--tag", "baseline")
    dry = await operator("model", "describe", published, "--tag", "other", "--dry-run")
    found = await operator.data("model", "list", "--tag", "baseline")
    table = await operator("model", "list")
    by_metric = await operator("model", "list", "--metric", "unknown", "--lowest")
    wrong = await operator("model", "list", "--lowest")
    shown = await operator.data("model", "show", published, "-v", "0")
    missing = await operator("model", "show", published, "-v", "9")

    assert of_run.out.splitlines()[0].startswith("ROUND")
    assert "baseline" in described.out
    assert "nothing was changed" in dry.err
    assert [(each["run_id"], each["round"]) for each in found] == [(published, 1)]
    assert table.out.splitlines()[0].startswith("RUN")
    assert "no such models" in by_metric.out
    assert wrong.code == 2
    assert shown["round"] == 0
    assert missing.code == 3


async def test_a_model_is_exported_whole_and_never_over_another_file(
    operator: Operator, published: str
) -> None:
    told = await operator.data("model", "export", published)
    again = await operator("model", "export", published)
    dry = await operator("model", "export", published, "--force", "--dry-run")
    forced = await operator("model", "export", published, "--force")
    nowhere = await operator("model", "export", published, "--out", "none/m.safetensors")

    assert told["path"] == f"{published}-round1.safetensors"
    assert decode(Path(told["path"]).read_bytes()).arrays["weights"].tolist() == [1.0] * 3
    assert (again.code, "--force" in again.err) == (1, True)
    assert dry.out.startswith("would write")
    assert forced.code == 0
    assert "cannot write none/m.safetensors" in nowhere.err


async def test_the_folder_of_models_is_counted_swept_and_checked(
    api: RunningApi, published: str, tmp_path: Path
) -> None:
    async def storage(*arguments: object) -> Outcome:
        settings = (
            *("--set", f"coordinator.data_dir={tmp_path}"),
            *("--set", f"storage.database=sqlite:///{tmp_path / 'kumiai.db'}"),
        )
        return await asyncio.to_thread(invoke, *settings, "storage", *arguments)

    await api.parts.blobs.put(f"updates/{published}/9/site-1", [b"left by a kill"])
    for path in (tmp_path / "blobs").rglob("*"):
        os.utime(path, (0, 0))
    usage = await storage("usage", "-o", "json")
    table = await storage("usage")
    planned = await storage("gc", "--dry-run")
    swept = await storage("gc", "--grace", "1d", "-o", "json")
    whole = await storage("check", "--read-data", "-o", "json")
    lost = min((tmp_path / "blobs" / "models" / published).iterdir())
    lost.unlink()
    broken = await storage("check")
    soon = await storage("gc", "--grace", "1m")

    assert usage.data["reclaimable_bytes"] == 14
    assert "reclaimable by `kumiai storage gc`" in table.out
    assert "would delete 1 of 3" in planned.out
    assert swept.data["count"] == 1
    assert (whole.code, whole.data["count"]) == (0, 2)
    assert (broken.code, lost.name in broken.err) == (7, True)
    assert (soon.code, "--grace must be at least 15m" in soon.err) == (2, True)
