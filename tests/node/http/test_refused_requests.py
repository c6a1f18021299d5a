import json
from pathlib import Path

import pytest

from kumiai.core.digest import digest_of
from kumiai.core.ids import new_id
from kumiai.storage import DatabaseManager
from kumiai.testing.databases import SQLiteTemplate
from tests.node.http.api import (
    Certificates,
    RunningApi,
    error_of,
    job_with,
    model_bytes,
    running_api,
)

DIGEST = digest_of([model_bytes()])


@pytest.fixture
def database_url(sqlite_template: SQLiteTemplate, tmp_path: Path) -> str:
    return sqlite_template.copy_to(tmp_path / "kumiai.db")


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (job_with(strategy={"name": "fedmagic"}), ["strategy", "fedmagic"]),
        (job_with(strategy={"name": "fedprox", "mu": -1}), ["strategy", "mu"]),
        (job_with(cohort={"min_reports": -2}), ["cohort.min_reports", "-2"]),
        (job_with(run={"rounds": 0}), ["run.rounds"]),
        (job_with(run={"apps": "x"}), ["run.apps", "no such key"]),
        (job_with(run={"rounds": 0}, cohort={"size": -1}), ["run.rounds", "cohort.size"]),
        (job_with(evaluation={"central": True}), ["evaluation.central", "coordinator.apps"]),
        ({}, ["run must be given"]),
    ],
)
async def test_a_job_that_can_not_run_is_refused_with_every_problem_named(
    api: RunningApi, job: dict[str, object], words: list[str]
) -> None:
    run_id = new_id("run")
    await api.upload(run_id, model_bytes())

    answer = await api.operator.put(
        f"/api/v1/runs/{run_id}", json={"job": job, "model_digest": DIGEST}
    )

    status, kind, message = error_of(answer)
    assert (status, kind) == (422, "config")
    assert [word for word in words if word not in message] == []
    assert await api.runs.find(run_id) is None


async def test_central_evaluation_is_welcome_where_a_study_is_installed(
    certificates: Certificates, database: DatabaseManager, tmp_path: Path
) -> None:
    async with running_api(certificates, database, tmp_path, can_evaluate=True) as api:
        run_id = await api.submit(job=job_with(evaluation={"central": True}))

        assert (await api.runs.get(run_id)).job["evaluation"]["central"] is True


@pytest.mark.parametrize("run_id", ["model", "run-" + "x" * 80, "run-a..b", "run-%00"])
async def test_an_odd_run_id_is_refused(api: RunningApi, run_id: str) -> None:
    answer = await api.operator.put(
        f"/api/v1/runs/{run_id}", json={"job": job_with(), "model_digest": DIGEST}
    )

    status, kind, message = error_of(answer)
    assert (status, kind) == (422, "config")
    assert message.startswith("run id must ")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"{", "config"),
        (b"[" * 100_000, "config"),
        (b"null", "config"),
        (json.dumps({"job": job_with()}).encode(), "config"),
        (json.dumps({"job": job_with(), "model_digest": "x", "force": True}).encode(), "config"),
        (json.dumps({"job": job_with(), "model_digest": "x"}).encode(), "integrity"),
        (
            json.dumps({"job": {"run": {"app": "\ud800"}}, "model_digest": DIGEST}).encode(),
            "config",
        ),
    ],
)
async def test_a_body_that_is_no_submission_is_refused(
    api: RunningApi, content: bytes, kind: str
) -> None:
    answer = await api.operator.put(
        f"/api/v1/runs/{new_id('run')}",
        content=content,
        headers={"Content-Type": "application/json"},
    )

    assert answer.status_code in {400, 422}
    assert answer.json()["error"]["kind"] == kind


@pytest.mark.parametrize(
    "query",
    [
        "cursor=bm8",
        "cursor=%C3%A9",
        "limit=0",
        "limit=100000",
        "order=sideways",
        "tag=No%20Tag",
        "app=%00",
        "metric=accuracy",
        "metric=accuracy&metric_min=nan",
        "created_from=inf",
        f"search={'x' * 501}",
    ],
)
async def test_a_list_that_can_not_be_is_refused(api: RunningApi, query: str) -> None:
    answer = await api.operator.get(f"/api/v1/runs?{query}")

    assert error_of(answer)[:2] == (422, "config")


@pytest.mark.parametrize(
    "query", ["cursor=bm8", "order=highest", "order=sideways", "tag=%00", "metric_min=1"]
)
async def test_a_list_of_models_that_can_not_be_is_refused(api: RunningApi, query: str) -> None:
    answer = await api.operator.get(f"/api/v1/models?{query}")

    assert error_of(answer)[:2] == (422, "config")


@pytest.mark.parametrize("reference", ["run-nothere", "%2E%2E", "%00", "run-%2525", "x" * 100])
async def test_a_run_that_does_not_exist_is_not_found(api: RunningApi, reference: str) -> None:
    for path in ("", "/rounds", "/events", "/stream", "/explain", "/models"):
        answer = await api.operator.get(f"/api/v1/runs/{reference}{path}")

        assert error_of(answer)[:2] == (404, "not_found")
