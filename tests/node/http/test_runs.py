from kumiai.core.digest import digest_of
from kumiai.core.ids import new_id
from tests.node.http.api import (
    RunningApi,
    error_of,
    job_with,
    model_bytes,
)

DIGEST = digest_of([model_bytes()])


async def test_a_submitted_run_is_created_once_and_found_by_its_prefix(api: RunningApi) -> None:
    run_id = new_id("run")
    await api.upload(run_id, model_bytes())
    body = {"job": job_with(train={"lr": 0.1}), "model_digest": DIGEST}

    first = await api.operator.put(f"/api/v1/runs/{run_id}", json=body)
    again = await api.operator.put(f"/api/v1/runs/{run_id}", json=body)
    found = await api.operator.get(f"/api/v1/runs/{run_id[:9]}")

    assert (first.status_code, again.status_code, found.status_code) == (201, 200, 200)
    assert first.json()["run_id"] == again.json()["run_id"] == found.json()["run_id"] == run_id
    run = found.json()
    assert run["state"] == "submitted"
    assert run["submitted_by"] == "olivia"
    assert run["rounds_total"] == 3
    assert run["name"] == "study"
    assert run["model_digest"] == DIGEST
    assert run["job"]["train"] == {"lr": 0.1}
    assert run["job"]["cohort"]["deadline_seconds"] == 600.0
    assert run["current"]["stage"] == "published"
    assert run["counts"] == {"assigned": 0, "reported": 0, "failed": 0, "refused": 0, "late": 0}
    assert len((await api.operator.get("/api/v1/runs")).json()["runs"]) == 1


async def test_submitting_wakes_who_leads_runs(api: RunningApi) -> None:
    await api.submit()

    assert api.parts.supervisor._has_news.is_set()


async def test_the_same_id_with_another_job_is_a_conflict(api: RunningApi) -> None:
    run_id = await api.submit()

    answer = await api.operator.put(
        f"/api/v1/runs/{run_id}",
        json={"job": job_with(run={"rounds": 4}), "model_digest": DIGEST},
    )

    status, kind, message = error_of(answer)
    assert (status, kind) == (409, "conflict")
    assert run_id in message
    assert (await api.runs.get(run_id)).rounds_total == 3


async def test_the_same_id_with_another_model_is_a_conflict(api: RunningApi) -> None:
    run_id = await api.submit()
    other = await api.parts.blobs.put(f"models/{run_id}", [model_bytes(1.0)])

    answer = await api.operator.put(
        f"/api/v1/runs/{run_id}", json={"job": job_with(), "model_digest": other}
    )

    assert error_of(answer)[:2] == (409, "conflict")
    assert (await api.runs.get(run_id)).model_digest == DIGEST


async def test_a_run_without_its_model_is_a_conflict_that_says_what_is_missing(
    api: RunningApi,
) -> None:
    run_id = new_id("run")

    answer = await api.operator.put(
        f"/api/v1/runs/{run_id}", json={"job": job_with(), "model_digest": DIGEST}
    )

    status, kind, message = error_of(answer)
    assert (status, kind) == (409, "conflict")
    assert "uploaded" in message
    assert await api.runs.find(run_id) is None


async def test_runs_are_listed_newest_first_page_by_page(api: RunningApi) -> None:
    created = [await api.submit() for _ in range(5)]

    seen: list[str] = []
    query: dict[str, object] = {"limit": 2}
    while query.get("cursor", "") is not None:
        page = (await api.operator.get("/api/v1/runs", params=query)).json()  # type: ignore[arg-type]
        seen += [run["run_id"] for run in page["runs"]]
        query["cursor"] = page["next"]

    assert seen == created[::-1]


async def test_runs_are_listed_by_state(api: RunningApi) -> None:
    waiting, led = await api.submit(), await api.submit()
    await api.lead(led)

    both = await api.operator.get("/api/v1/runs?state=running&state=submitted")
    running = await api.operator.get("/api/v1/runs?state=running")
    unknown = await api.operator.get("/api/v1/runs?state=resting")

    assert {run["run_id"] for run in both.json()["runs"]} == {waiting, led}
    assert [run["run_id"] for run in running.json()["runs"]] == [led]
    assert error_of(unknown)[:2] == (422, "config")
    assert "state" in error_of(unknown)[2]


async def test_runs_are_found_by_study_tag_words_and_metric(api: RunningApi) -> None:
    plain = await api.submit()
    heart = await api.submit(job=job_with(run={"app": "heart"}))
    body = {"description": "rare diseases in Zürich", "add_tags": ["site:berlin"]}
    await api.operator.patch(f"/api/v1/runs/{heart}", json=body)
    await api.runs.record_evaluation(await api.lead(plain), 0, {"accuracy": 0.5}, 1)

    for query, expected in (
        ("app=heart", [heart]),
        ("tag=site:berlin", [heart]),
        ("tag=site:berlin&tag=other", []),
        ("search=zurich%20rare", [heart]),
        ("search=stud", [heart, plain]),
        ("name=study&order=oldest", [plain, heart]),
        ("metric=accuracy&metric_min=0.5", [plain]),
        ("metric=accuracy&metric_min=0.6", []),
        ("created_before=1", []),
    ):
        page = (await api.operator.get(f"/api/v1/runs?{query}")).json()
        assert [run["run_id"] for run in page["runs"]] == expected, query


async def test_a_run_is_described_and_says_by_whom(api: RunningApi) -> None:
    run_id = await api.submit()
    path = f"/api/v1/runs/{run_id}"

    told = (await api.operator.patch(path, json={"description": "d", "tags": ["b", "a"]})).json()
    found = (await api.operator.get(path)).json()
    events = (await api.operator.get(f"{path}/events")).json()["events"]

    assert (told["description"], told["tags"], told["row_version"]) == ("d", ["a", "b"], 2)
    assert (found["description"], found["tags"], found["row_version"]) == ("d", ["a", "b"], 2)
    assert events[-1]["text"] == "described by olivia"


async def test_a_description_of_an_older_version_is_a_conflict(api: RunningApi) -> None:
    path = f"/api/v1/runs/{await api.submit()}"
    await api.operator.patch(path, json={"description": "mine"})

    answer = await api.operator.patch(path, json={"description": "yours", "expected_version": 1})

    status, kind, message = error_of(answer)
    assert (status, kind) == (409, "conflict")
    assert "must be of version 1, got 2" in message
    assert (await api.operator.get(path)).json()["description"] == "mine"


async def test_a_description_that_can_not_be_is_refused(api: RunningApi) -> None:
    path = f"/api/v1/runs/{await api.submit()}"

    for body in ({"add_tags": ["No Tag"]}, {"description": "x" * 2001}, {"colour": "red"}):
        assert error_of(await api.operator.patch(path, json=body))[:2] == (422, "config")
    assert (await api.operator.get(path)).json()["row_version"] == 1


async def test_a_prefix_of_two_runs_is_a_conflict_that_names_them(api: RunningApi) -> None:
    first, second = await api.submit(), await api.submit()

    status, kind, message = error_of(await api.operator.get("/api/v1/runs/run-"))

    assert (status, kind) == (409, "conflict")
    assert first in message
    assert second in message


async def test_rounds_tell_their_metrics_and_their_evaluation(api: RunningApi) -> None:
    run_id = await api.submit()
    lease = await api.lead(run_id)
    await api.open_round(lease, 1, ["a", "b"])
    digest = await api.publish_round(lease, 1)
    await api.runs.record_evaluation(lease, 1, {"accuracy": 0.75}, 2)

    rounds = (await api.operator.get(f"/api/v1/runs/{run_id}/rounds")).json()["rounds"]

    assert [each["round"] for each in rounds] == [0, 1]
    assert rounds[1]["metrics"] == {"loss": 0.5}
    assert rounds[1]["evaluation"] == {"accuracy": 0.75}
    assert rounds[1]["model_digest"] == digest
    assert "run_id" not in rounds[1]


async def test_events_are_told_from_any_place_on(api: RunningApi) -> None:
    run_id = await api.submit()
    await api.lead(run_id)

    all_events = (await api.operator.get(f"/api/v1/runs/{run_id}/events")).json()
    first = (await api.operator.get(f"/api/v1/runs/{run_id}/events?limit=1")).json()
    rest = (await api.operator.get(f"/api/v1/runs/{run_id}/events?after={first['after']}")).json()
    none = (await api.operator.get(f"/api/v1/runs/{run_id}/events?after={rest['after']}")).json()

    kinds = [event["kind"] for event in all_events["events"]]
    assert kinds == ["run_submitted", "leader_changed", "run_started"]
    assert first["events"] + rest["events"] == all_events["events"]
    assert none == {"events": [], "after": rest["after"]}


async def test_a_stop_reaches_the_row_with_who_asked_and_why(api: RunningApi) -> None:
    run_id = await api.submit()

    answer = await api.operator.post(f"/api/v1/runs/{run_id}/stop", json={"reason": "wrong data"})

    assert answer.status_code == 200
    assert answer.json()["stop_requested"] is True
    assert (await api.runs.get(run_id)).stop_reason == "stopped by olivia: wrong data"


async def test_a_stop_without_words_names_who_asked(api: RunningApi) -> None:
    run_id = await api.submit()

    await api.operator.post(f"/api/v1/runs/{run_id}/stop", json={})

    assert (await api.runs.get(run_id)).stop_reason == "stopped by olivia"


async def test_a_run_that_has_ended_can_not_be_stopped(api: RunningApi) -> None:
    run_id = await api.submit()
    await api.runs.finish(await api.lead(run_id), "finished", "all rounds are done")

    answer = await api.operator.post(f"/api/v1/runs/{run_id}/stop", json={})

    assert error_of(answer)[:2] == (409, "conflict")
