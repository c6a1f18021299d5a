from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from kumiai.node.http import metrics as metrics_module
from kumiai.storage import AcceptRequest, DatabaseManager, UpdateInbox
from kumiai.testing.databases import SQLiteTemplate
from tests.node.http.api import (
    COORDINATOR,
    Certificates,
    RunningApi,
    model_bytes,
    running_api,
)


async def scraped(api: RunningApi) -> dict[str, Any]:
    """Return the samples of a scrape by name and labels."""
    answer = await api.operator.get("/metrics")
    answer.raise_for_status()
    return {
        sample.name + "".join(f"|{value}" for _, value in sorted(sample.labels.items())): (
            sample.value
        )
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def accept(api: RunningApi, database: DatabaseManager, run_id: str, client: str) -> None:
    inbox = UpdateInbox(database)
    await inbox.start()
    await inbox.accept(AcceptRequest(run_id, 1, 1, client, "0" * 64, 10, 5, {}))
    await inbox.close()


async def test_a_round_that_this_coordinator_led_is_counted_once(
    api: RunningApi, database: DatabaseManager
) -> None:
    run_id = await api.submit()
    lease = await api.lead(run_id)
    await api.open_round(lease, 1, ["a", "b", "c", "d"])
    await accept(api, database, run_id, "a")
    await api.runs.fail_assignment(run_id, 1, "b", "train", state="failed", reason="no data")
    await api.runs.fail_assignment(run_id, 1, "c", "train", state="refused", reason="NaN")
    await api.runs.extend_round(lease, round=1, deadline_seconds=60.0, clients=[])
    before = await scraped(api)
    await api.publish_round(lease, 1)
    await api.runs.open_evaluation(lease, 1, ["a", "b"])
    await api.runs.fail_assignment(run_id, 1, "a", "evaluate", state="failed", reason="no")
    await api.runs.fail_assignment(run_id, 1, "b", "evaluate", state="refused", reason="no")
    await api.runs.finish(lease, "finished", "done")

    await scraped(api)
    after = await scraped(api)

    assert before["kumiai_rounds_published_total"] == 0
    assert before["kumiai_runs_live|running"] == 1
    assert after["kumiai_rounds_published_total"] == 1
    assert after["kumiai_rounds_extended_total"] == 1
    assert after["kumiai_round_duration_seconds_count"] == 1
    assert 0 < after["kumiai_round_duration_seconds_sum"] < 60
    assert after["kumiai_round_last_published_timestamp_seconds"] > 1.6e9
    assert after["kumiai_updates_accepted_total"] == 1
    assert after["kumiai_updates_rejected_total|failed"] == 1
    assert after["kumiai_updates_rejected_total|invalid"] == 1
    assert after["kumiai_updates_rejected_total|late"] == 1
    assert after["kumiai_evaluations_rejected_total|failed"] == 1
    assert after["kumiai_evaluations_rejected_total|invalid"] == 1
    assert after["kumiai_runs_ended_total|finished"] == 1
    assert after["kumiai_runs_live|running"] == 0


async def test_a_run_that_begins_and_ends_between_two_scrapes_is_counted(api: RunningApi) -> None:
    await scraped(api)
    await api.runs.finish(await api.lead(await api.submit()), "failed", "nobody came")

    after = await scraped(api)

    assert after["kumiai_runs_ended_total|failed"] == 1


async def test_what_another_coordinator_led_is_its_own_to_count(api: RunningApi) -> None:
    lease = await api.lead(await api.submit(), "coordinator-other")
    await api.open_round(lease, 1, ["a"])
    await api.publish_round(lease, 1)
    await api.runs.release_lease(lease)
    taken_over = await api.lead(lease.run_id)
    await api.runs.finish(taken_over, "stopped", "enough")

    after = await scraped(api)

    assert after["kumiai_rounds_published_total"] == 0
    assert after["kumiai_runs_ended_total|stopped"] == 1


async def test_counting_begins_with_the_process(
    certificates: Certificates, database: DatabaseManager, tmp_path: Path
) -> None:
    async with running_api(certificates, database, tmp_path / "first") as api:
        lease = await api.lead(await api.submit())
        await api.open_round(lease, 1, ["a"])
        await api.publish_round(lease, 1)
        ended = await api.lead(await api.submit())
        await api.runs.finish(ended, "failed", "before the restart")

    async with running_api(certificates, database, tmp_path / "second") as api:
        await api.open_round(lease, 2, ["a"])
        after = await scraped(api)

    assert lease.leader == COORDINATOR
    assert after["kumiai_rounds_published_total"] == 0
    assert after["kumiai_runs_ended_total|failed"] == 0
    assert after["kumiai_runs_live|running"] == 1


async def test_many_events_are_read_in_one_scrape(
    certificates: Certificates, sqlite_template: SQLiteTemplate, tmp_path: Path
) -> None:
    database = DatabaseManager(sqlite_template.copy_to(tmp_path / "own.db"))
    await database.connect()
    async with running_api(certificates, database, tmp_path) as api:
        lease = await api.lead(await api.submit())
        for number in range(501):
            await api.runs.add_event(lease.run_id, kind="note", text=str(number))
        await api.runs.finish(lease, "finished", "done")

        after = await scraped(api)
    await database.close()

    assert after["kumiai_runs_ended_total|finished"] == 1


async def test_a_run_that_was_forgotten_as_done_is_not_remembered_for_ever(
    api: RunningApi,
) -> None:
    observer = api.app.state.operations.observer
    for number in range(metrics_module._DONE_REMEMBERED + 5):
        observer._remember_done(f"run-{number}")

    assert len(observer._done) == metrics_module._DONE_REMEMBERED
    assert "run-0" not in observer._done


async def test_clients_sessions_and_bytes_are_told(api: RunningApi) -> None:
    await api.register("a")
    await api.register("b")
    await api.registry.detach("b", "b-1")
    api.attach("a")
    await api.submit()

    after = await scraped(api)

    assert after["kumiai_clients_registered"] == 2
    assert after["kumiai_clients_attached"] == 1
    assert after["kumiai_sessions_open"] == 1
    assert after["kumiai_leases_held"] == 0
    assert after["kumiai_runs_live|submitted"] == 1
    assert after["kumiai_wire_bytes_total|received"] == len(model_bytes())
    assert after["kumiai_database_up"] == 1


async def test_without_a_database_the_page_still_answers_and_says_so(
    api: RunningApi, database: DatabaseManager
) -> None:
    await database.close()

    after = await scraped(api)

    assert after["kumiai_database_up"] == 0
    assert after["process_resident_memory_bytes"] > 0


async def test_requests_are_measured_by_their_route_and_never_by_their_path(
    api: RunningApi,
) -> None:
    await api.operator.get("/api/v1/runs/run-secret")
    await api.operator.get("/etc/passwd")
    await api.operator.request("BREW", "/api/v1/runs")

    text = (await api.operator.get("/metrics")).text

    assert (
        'kumiai_http_request_duration_seconds_count{method="GET",'
        'route="/api/v1/runs/{ref}",status="404"} 1.0'
    ) in text
    assert 'method="GET",route="unmatched",status="404"} 1.0' in text
    assert 'method="other"' in text
    assert "secret" not in text
    assert "passwd" not in text
    assert "BREW" not in text


async def test_names_and_help_follow_the_practice_of_prometheus(api: RunningApi) -> None:
    text = (await api.operator.get("/metrics")).text

    families = [
        family
        for family in text_string_to_metric_families(text)
        if family.name.startswith("kumiai_") and not family.name.endswith("_created")
    ]
    assert len(families) > 15
    for family in families:
        assert family.documentation.endswith(".")
        if family.type == "counter":
            assert all(sample.name.endswith(("_total", "_created")) for sample in family.samples)
        if family.type == "histogram":
            assert family.name.endswith("_seconds")
