import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import text

from kumiai.core.errors import ConflictError, NotFoundError
from kumiai.storage import (
    DatabaseManager,
    EventRecord,
    RunRecord,
    RunRepository,
    UpdateInbox,
    run_reports,
)
from kumiai.storage.rows import add_event_row
from tests.storage.leading import TTL_SECONDS, Leading, new_run


async def kinds_of_events(runs: RunRepository, run_id: str = "run-a") -> list[str]:
    return [event.kind for event in await runs.events(run_id)]


async def test_a_new_run_is_submitted_with_its_job(runs: RunRepository) -> None:
    run, created = await runs.create(new_run(job={"b": [1, {"c": None}], "a": 0.5}))

    assert created
    assert (run.state, run.round, run.epoch, run.leader) == ("submitted", 0, 0, None)
    assert run.job == {"a": 0.5, "b": [1, {"c": None}]}
    assert (run.model_digest, run.state_digest) == ("d0", None)
    assert 1.7e9 < run.created_at <= run.updated_at
    assert await runs.find("run-a") == run


async def test_a_new_run_has_its_initial_model_as_round_zero(
    runs: RunRepository, run: RunRecord
) -> None:
    (round_zero,) = await runs.rounds(run.run_id)
    (model,) = await runs.models(run.run_id)

    assert (round_zero.round, round_zero.stage) == (0, "published")
    assert round_zero.model_digest == model.digest == "d0"
    assert (model.round, model.size_bytes, model.metrics) == (0, 10, None)
    assert await kinds_of_events(runs) == ["run_submitted"]


async def test_the_same_submission_again_finds_the_first_run(runs: RunRepository) -> None:
    first, _ = await runs.create(new_run(submit_token="token", job={"x": 1, "y": 2}))

    again, created = await runs.create(new_run("run-b", submit_token="token", job={"y": 2, "x": 1}))

    assert (again, created) == (first, False)
    assert await runs.find("run-b") is None


async def test_a_token_stands_for_one_job_only(runs: RunRepository) -> None:
    await runs.create(new_run(submit_token="token"))

    with pytest.raises(ConflictError, match="use a new token"):
        await runs.create(new_run("run-b", submit_token="token", job={"other": True}))

    assert await runs.find("run-b") is None


@pytest.mark.parametrize("token", [None, "token"])
async def test_an_identifier_is_used_once(
    runs: RunRepository, run: RunRecord, token: str | None
) -> None:
    with pytest.raises(ConflictError, match="identifier must be new"):
        await runs.create(new_run(submit_token=token))


async def test_submissions_without_a_token_are_different_runs(runs: RunRepository) -> None:
    await runs.create(new_run("run-a"))
    _, created = await runs.create(new_run("run-b"))

    assert created


async def test_one_token_submitted_many_times_at_once_makes_one_run(runs: RunRepository) -> None:
    made = await asyncio.gather(
        *(runs.create(new_run(f"run-{n}", submit_token="token")) for n in range(8))
    )

    assert sum(created for _, created in made) == 1
    assert len({run.run_id for run, _ in made}) == 1


async def test_a_job_with_numbers_that_json_lacks_is_refused(runs: RunRepository) -> None:
    with pytest.raises(ValueError, match="JSON"):
        await runs.create(new_run(job={"rate": float("nan")}))

    assert await runs.list_runs() == []


async def test_a_run_is_found_by_a_prefix_that_is_its_alone(runs: RunRepository) -> None:
    for run_id in ("run-abc", "run-abd", "run-a"):
        await runs.create(new_run(run_id))

    assert (await runs.get("run-abc")).run_id == "run-abc"
    assert (await runs.get("run-a")).run_id == "run-a"
    assert (await runs.resolve("run-abd")).run_id == "run-abd"
    with pytest.raises(ConflictError, match="run-abc, run-abd"):
        await runs.get("run-ab")


@pytest.mark.parametrize("prefix", ["", "none", "run_a", "%", "run-ab\x7f"])
async def test_a_prefix_of_no_run_finds_none(
    runs: RunRepository, run: RunRecord, prefix: str
) -> None:
    with pytest.raises(NotFoundError, match="run must exist"):
        await runs.resolve(prefix)


async def test_find_takes_no_prefix(runs: RunRepository, run: RunRecord) -> None:
    assert await runs.find("run-") is None


async def test_runs_are_listed_newest_first_page_by_page(runs: RunRepository) -> None:
    for n in range(5):
        await runs.create(new_run(f"run-{n}"))

    first = await runs.list_runs(limit=2)
    last = first[-1]
    rest = await runs.list_runs(before=(last.created_at, last.run_id))

    found = [run.run_id for run in first + rest]
    assert sorted(found) == [f"run-{n}" for n in range(5)]
    assert [run.created_at for run in first + rest] == sorted(
        (run.created_at for run in first + rest), reverse=True
    )


async def test_runs_are_listed_by_state(leading: Leading) -> None:
    await leading.runs.create(new_run("run-b"))

    running = await leading.runs.list_runs(states={"running"})
    ended = await leading.runs.list_runs(states=["finished", "failed"])
    none = await leading.runs.list_runs(states=[])

    assert [run.run_id for run in running] == ["run-a"]
    assert ended == none == []


async def test_a_stop_is_asked_for_once_with_its_first_reason(
    runs: RunRepository, run: RunRecord
) -> None:
    asked = await runs.request_stop(run.run_id, "too slow")
    again = await runs.request_stop(run.run_id, "changed my mind")

    assert (asked.stop_requested, asked.stop_reason) == (True, "too slow")
    assert again.stop_reason == "too slow"
    assert (await kinds_of_events(runs)).count("stop_requested") == 1


async def test_a_run_that_has_ended_cannot_be_stopped(leading: Leading) -> None:
    await leading.runs.finish(leading.lease, "finished", "done")

    with pytest.raises(ConflictError, match="must be running, got finished"):
        await leading.runs.request_stop("run-a", "late")


async def test_what_does_not_exist_is_not_found(runs: RunRepository, run: RunRecord) -> None:
    with pytest.raises(NotFoundError):
        await runs.request_stop("run-x", "why")
    with pytest.raises(NotFoundError):
        await runs.round("run-a", 7)
    with pytest.raises(NotFoundError):
        await runs.progress("run-a", 7)
    with pytest.raises(NotFoundError):
        await runs.add_event("run-x", kind="note", text="hello")
    assert await runs.find_model("run-x", None) is None
    assert await runs.find_train_task("run-a", 1, "a") is None
    assert await runs.events("run-x") == []


async def test_an_event_keeps_what_it_is_told(runs: RunRepository, run: RunRecord) -> None:
    await runs.add_event(
        "run-a",
        kind="note",
        text="hello",
        level="warning",
        round=3,
        client_id="a",
        data={"x": [1]},
    )

    event = (await runs.events("run-a"))[-1]

    assert event == EventRecord(
        seq=event.seq,
        run_id="run-a",
        round=3,
        at=event.at,
        level="warning",
        kind="note",
        client_id="a",
        text="hello",
        data={"x": [1]},
    )


async def test_events_are_read_on_from_the_last_one_seen(
    runs: RunRepository, run: RunRecord
) -> None:
    for n in range(5):
        await runs.add_event("run-a", kind="note", text=str(n))

    first = await runs.events("run-a", limit=3)
    rest = await runs.events("run-a", after_seq=first[-1].seq)

    assert [event.text for event in first + rest][1:] == ["0", "1", "2", "3", "4"]


async def test_no_event_is_missed_by_a_reader_that_follows(
    runs: RunRepository, run: RunRecord
) -> None:
    seen: list[str] = []
    done = asyncio.Event()

    async def follow() -> None:
        after = 0
        while len(seen) < 41:
            for event in await runs.events("run-a", after_seq=after):
                seen.append(event.text)
                after = event.seq
        done.set()

    reader = asyncio.create_task(follow())
    await asyncio.gather(*(runs.add_event("run-a", kind="note", text=str(n)) for n in range(40)))
    async with asyncio.timeout(30):
        await done.wait()
    await reader

    assert sorted(seen[1:], key=int) == [str(n) for n in range(40)]


async def test_events_of_a_run_are_numbered_in_the_order_of_their_commits(
    database: DatabaseManager, database_url: str, runs: RunRepository, run: RunRecord
) -> None:
    other = DatabaseManager(database_url)
    await other.connect()
    replica = RunRepository(other)

    async with database.transaction() as connection:
        await run_reports._locked(connection, "run-a")
        await add_event_row(connection, "run-a", kind="note", text="first")
        second = asyncio.create_task(replica.add_event("run-a", kind="note", text="second"))
        done, _ = await asyncio.wait([second], timeout=0.2)
        assert not done
    await second

    assert [event.text for event in await runs.events("run-a")][1:] == ["first", "second"]
    await other.close()


async def test_text_from_outside_is_made_fit_for_a_row(runs: RunRepository, run: RunRecord) -> None:
    await runs.add_event("run-a", kind="note", text="a\x00b" + "c" * 5000)

    event = (await runs.events("run-a"))[-1]

    assert event.text.startswith("a\N{REPLACEMENT CHARACTER}bcc")
    assert len(event.text) == 2000


async def test_an_assignment_fails_once_with_a_reason(leading: Leading) -> None:
    await leading.open()
    runs = leading.runs

    changed = await runs.fail_assignment(
        "run-a", 1, "b", "train", state="refused", reason="no such app\x00"
    )
    again = await runs.fail_assignment("run-a", 1, "b", "train", state="failed", reason="other")

    assert (changed, again) == (True, False)
    refused = (await runs.assignments("run-a", 1))[1]
    assert (refused.client_id, refused.state) == ("b", "refused")
    assert refused.reason == "no such app\N{REPLACEMENT CHARACTER}"
    assert refused.ended_at is not None
    event = (await runs.events("run-a"))[-1]
    assert (event.kind, event.level, event.client_id) == ("train_refused", "warning", "b")


async def test_an_assignment_that_does_not_exist_does_not_fail(leading: Leading) -> None:
    await leading.open()
    before = await kinds_of_events(leading.runs)

    for run_id, client, kind in (("run-a", "x", "train"), ("run-x", "a", "train")):
        assert not await leading.runs.fail_assignment(
            run_id, 1, client, kind, state="failed", reason="why"
        )
    assert not await leading.runs.fail_assignment(
        "run-a", 1, "a", "evaluate", state="failed", reason="why"
    )

    assert await kinds_of_events(leading.runs) == before


async def test_progress_counts_each_state_and_tells_the_time(
    leading: Leading, inbox: UpdateInbox
) -> None:
    runs = leading.runs
    await leading.open(clients=["a", "b", "c", "d"], evaluate=["a", "b"])
    await runs.fail_assignment("run-a", 1, "a", "train", state="failed", reason="oom")
    await runs.fail_assignment("run-a", 1, "b", "train", state="refused", reason="no")
    await inbox.accept_evaluation("run-a", 0, "a", 5, {})

    train = await runs.progress("run-a", 1)
    evaluate = await runs.progress("run-a", 0, "evaluate")
    await runs.close_round(leading.lease, 1, "deadline")
    closed = await runs.progress("run-a", 1)

    assert (train.assigned, train.reported, train.failed, train.refused) == (2, 0, 1, 1)
    assert (train.stage, train.attempt, train.epoch, train.late) == ("collecting", 1, 1, 0)
    assert 50.0 < train.deadline_at - train.now <= 60.0
    assert (train.quorum_at, train.stop_requested) == (None, False)
    assert (evaluate.assigned, evaluate.reported) == (1, 1)
    assert (closed.assigned, closed.late, closed.stage) == (0, 2, "closed")


async def test_progress_of_a_round_without_assignments_counts_none(
    runs: RunRepository, run: RunRecord
) -> None:
    progress = await runs.progress("run-a", 0)

    assert (progress.assigned, progress.reported, progress.stage) == (0, 0, "published")


async def test_open_assignments_are_what_a_client_still_owes(
    leading: Leading, inbox: UpdateInbox
) -> None:
    runs = leading.runs
    await leading.open(evaluate=["a", "b"])
    other, _ = await runs.create(new_run("run-b"))
    lease = await runs.acquire_lease(other.run_id, "leader-1", TTL_SECONDS)
    assert lease is not None
    await runs.start(lease)
    await Leading(runs, lease).open(clients=["a"])

    owed = await runs.open_assignments("a")
    await inbox.accept_evaluation("run-a", 0, "a", 5, {})
    await runs.close_round(leading.lease, 1, "deadline")
    owed_later = await runs.open_assignments("a")

    assert {(each.run_id, each.round, each.kind) for each in owed} == {
        ("run-a", 1, "train"),
        ("run-a", 0, "evaluate"),
        ("run-b", 1, "train"),
    }
    assert [(each.run_id, each.seed) for each in owed_later] == [("run-b", 1000)]
    assert await runs.open_assignments("nobody") == []


async def test_nothing_is_owed_to_a_run_that_has_ended(leading: Leading) -> None:
    await leading.open(evaluate=["a"])
    await leading.runs.finish(leading.lease, "stopped", "asked")

    assert await leading.runs.open_assignments("a") == []


async def test_an_assignment_entitles_to_its_models_and_to_no_other(leading: Leading) -> None:
    runs = leading.runs
    await leading.play(1)
    await leading.open(2, clients=["b"], evaluate=["e"])

    async def readable(client: str) -> list[str]:
        return [
            digest for digest in ("d0", "d1", "d2") if await runs.may_read_model(client, digest)
        ]

    assert await readable("a") == ["d0"]
    assert await readable("b") == ["d0", "d1"]
    assert await readable("e") == ["d0", "d1"]
    assert await readable("stranger") == []


async def test_find_model_returns_the_latest_or_the_one_of_a_round(leading: Leading) -> None:
    await leading.play(1)

    latest = await leading.runs.find_model("run-a", None)
    initial = await leading.runs.find_model("run-a", 0)

    assert latest is not None
    assert initial is not None
    assert (latest.round, latest.digest, latest.name) == (1, "d1", "digits")
    assert initial.digest == "d0"
    assert latest.model_id != initial.model_id
    assert await leading.runs.find_model("run-a", 2) is None


async def test_an_evaluation_counts_once(leading: Leading, inbox: UpdateInbox) -> None:
    runs = leading.runs
    await leading.open(evaluate=["a"])

    first = await inbox.accept_evaluation("run-a", 0, "a", 5, {"accuracy": 0.5})
    again = await inbox.accept_evaluation("run-a", 0, "a", 6, {"accuracy": 0.9})

    assert (first, again) == (True, True)
    (report,) = await runs.evaluations("run-a", 0)
    assert (report.client_id, report.examples, report.metrics) == ("a", 5, {"accuracy": 0.5})
    assert [each.state for each in await runs.assignments("run-a", 0)] == ["reported"]


async def test_an_evaluation_nobody_asked_for_does_not_count(
    leading: Leading, inbox: UpdateInbox
) -> None:
    await leading.open(evaluate=["a"])

    assert not await inbox.accept_evaluation("run-a", 0, "b", 5, {})
    assert not await inbox.accept_evaluation("run-x", 0, "a", 5, {})
    assert await leading.runs.evaluations("run-a", 0) == []


async def test_a_late_evaluation_does_not_count(leading: Leading, inbox: UpdateInbox) -> None:
    await leading.open(evaluate=["a", "b"])
    await inbox.accept_evaluation("run-a", 0, "a", 5, {})
    await leading.runs.close_evaluation(leading.lease, 0)

    assert not await inbox.accept_evaluation("run-a", 0, "b", 5, {})
    assert await inbox.accept_evaluation("run-a", 0, "a", 5, {})
    states = {each.client_id: each.state for each in await leading.runs.assignments("run-a", 0)}
    assert states == {"a": "reported", "b": "late"}


async def test_records_are_values(run: RunRecord) -> None:
    with pytest.raises(AttributeError):
        run.state = "failed"  # type: ignore[misc]

    assert replace(run, state="failed") != run


async def test_deleting_a_run_deletes_all_of_it(
    database: DatabaseManager, leading: Leading
) -> None:
    await leading.play(1)
    async with database.transaction() as connection:
        await connection.execute(text("DELETE FROM runs"))

    assert await leading.runs.rounds("run-a") == []
    assert await leading.runs.assignments("run-a", 1) == []
    assert await leading.runs.models("run-a") == []
    assert await leading.runs.events("run-a") == []
