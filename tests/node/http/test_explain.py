from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kumiai.node.http.explain import AttachedClient, RunFacts, explain
from kumiai.node.http.hidden_rounds import HiddenRound, hidden_lines
from kumiai.secagg import ServerPhase, Standing
from kumiai.storage import (
    AssignmentRecord,
    ClientRecord,
    RoundProgress,
    RoundRecord,
    RunRecord,
)
from kumiai.testing.databases import SQLiteTemplate
from tests.node.http.api import RunningApi, job_with


@pytest.fixture
def database_url(sqlite_template: SQLiteTemplate, tmp_path: Path) -> str:
    return sqlite_template.copy_to(tmp_path / "kumiai.db")


NOW = 1_000.0

RUN = RunRecord(
    run_id="run-a",
    name="study",
    app="digits",
    state="running",
    reason=None,
    job=job_with(cohort={"size": 3, "min_reports": 2, "grace_seconds": 10}),
    submit_token="run-a",
    submitted_by="olivia",
    rounds_total=3,
    round=1,
    model_digest="0" * 64,
    state_digest=None,
    epoch=2,
    leader="coordinator-x",
    lease_until=NOW + 3,
    stop_requested=False,
    stop_reason=None,
    created_at=900.0,
    started_at=900.0,
    finished_at=None,
    updated_at=NOW,
)
ROUND = RoundRecord(
    run_id="run-a",
    round=1,
    stage="collecting",
    base_digest="0" * 64,
    target_reports=3,
    min_reports=2,
    attempt=1,
    opened_at=950.0,
    deadline_at=NOW + 43.0,
    quorum_at=None,
    closed_at=None,
    published_at=None,
    model_digest=None,
    reports=None,
    examples=None,
    metrics=None,
    evaluation=None,
    evaluation_reports=None,
    close_reason=None,
)


def assignment(client_id: str, state: str = "assigned", **changes: Any) -> AssignmentRecord:
    values: dict[str, Any] = {
        "run_id": "run-a",
        "round": 1,
        "client_id": client_id,
        "kind": "train",
        "state": state,
        "reason": None,
        "attempt": 1,
        "seed": 0,
        "assigned_at": 950.0,
        "ended_at": None,
    }
    return AssignmentRecord(**{**values, **changes})


def attached(client_id: str, *apps: str, phase: str = "idle") -> AttachedClient:
    return AttachedClient(client_id, apps or ("digits",), phase, 0.4)


def registered(client_id: str, state: str = "attached", *apps: str) -> ClientRecord:
    values: dict[str, Any] = {
        "client_id": client_id,
        "instance_id": "i",
        "software_version": "0.1.0",
        "apps": apps or ("digits",),
        "first_seen_at": 1.0,
        "last_seen_at": NOW - 53.0,
        "state": state,
        "address": "x",
    }
    return ClientRecord(**values)


def facts(**changes: Any) -> RunFacts:
    assignments = changes.pop("assignments", [])
    current = replace(ROUND, **changes.pop("current", {}))
    counts = {
        state: sum(each.state == state and each.kind == "train" for each in assignments)
        for state in ("assigned", "reported", "failed", "refused", "late")
    }
    told: dict[str, Any] = {
        **counts,
        "stage": current.stage,
        "quorum_at": current.quorum_at,
        "deadline_at": current.deadline_at,
        "now": NOW,
        "stop_requested": False,
        "epoch": 2,
    }
    if "attempt" in RoundProgress.__dataclass_fields__:
        told["attempt"] = current.attempt
    values: dict[str, Any] = {
        "run": replace(RUN, **changes.pop("run", {})),
        "current": current,
        "progress": RoundProgress(**told),
        "assignments": assignments,
        "attached": [],
        "registered": [],
    }
    return RunFacts(**{**values, **changes})


def screen(told: RunFacts) -> str:
    return "\n".join(explain(told).lines)


def test_a_round_that_collects_tells_who_is_waited_for_and_for_how_long() -> None:
    view = explain(
        facts(
            assignments=[
                assignment("a", "reported"),
                assignment("b"),
                assignment("c"),
                assignment("d", "failed", reason="no data"),
                assignment("e", "refused", reason="array 'w' must be finite"),
            ],
            attached=[attached("a"), attached("b", phase="round 1: computing (40%)")],
            registered=[registered("a"), registered("b"), registered("c", "detached")],
        )
    )

    assert view.lines == [
        "run run-a (study) is running, round 1 of 3",
        "led by coordinator-x (epoch 2)",
        (
            "round 1, attempt 1 of 3: 1 of 3 wanted reports are in, quorum 2; 2 not answered, "
            "1 failed, 1 refused"
        ),
        "1 more report makes the quorum; the deadline is in 43 s",
        "  e: train: refused, array 'w' must be finite",
        "  d: train: failed, no data",
        "  b: train: assigned, round 1: computing (40%), heard 0 s ago",
        "  c: train: assigned, not attached, left 53 s ago",
        "  a: train: reported",
    ]
    assert (view.stage, view.attempt, view.min_reports) == ("collecting", 1, 2)
    assert view.deadline_seconds == 43.0
    assert view.counts is not None
    assert view.counts.assigned == 2
    by_client = {each.client: each for each in view.clients}
    assert by_client["b"].attached
    assert by_client["b"].heard_seconds_ago == 0.4
    assert not by_client["c"].attached


def test_a_hidden_round_tells_its_phase_who_is_awaited_and_who_was_left_out() -> None:
    standing = Standing(ServerPhase.UNMASKING, ("b", "c"), ("a",))
    told = facts(
        current={"stage": "closed", "close_reason": "every report is in"},
        hidden=HiddenRound(2, "open", None, standing, {"d": "revealed a wrong share of 'a'"}),
    )
    view = explain(told)

    assert view.lines[3:] == [
        "hidden sum, attempt 2: clients help to take the masks off the sum",
        "hidden sum, attempt 2: 1 answered, waits for b, c",
        "left out of the sum: d: revealed a wrong share of 'a'",
    ]
    assert view.hidden is not None
    assert (view.hidden.phase, view.hidden.awaited) == ("unmasking", ["b", "c"])
    assert view.hidden.excluded == {"d": "revealed a wrong share of 'a'"}


def test_whoever_must_have_lied_is_named_in_every_round_of_the_run() -> None:
    view = explain(facts(hidden=HiddenRound(1, "done", suspects=("e", "f"))))

    named = [line for line in view.lines if line.startswith("left out of the run: ")]
    assert [line.split(":")[1] for line in named] == [" e", " f"]
    assert view.hidden is not None
    assert view.hidden.suspects == ["e", "f"]


def test_a_hidden_round_that_waits_for_many_names_twenty() -> None:
    many = tuple(f"site-{number:02}" for number in range(25))
    told = facts(hidden=HiddenRound(1, "open", None, Standing(ServerPhase.SHARING, many, ())))

    assert "waits for site-00, site-01" in screen(told)
    assert "site-19 and 5 more" in screen(told)


def test_a_hidden_sum_that_was_given_up_tells_why() -> None:
    told = facts(hidden=HiddenRound(1, "aborted", "agreeing needs 3 clients, got 2"))

    assert (
        "hidden sum, attempt 1: ended without a sum: agreeing needs 3 clients, got 2"
    ) in screen(told)


def test_a_hidden_sum_that_is_done_needs_no_line() -> None:
    hidden = HiddenRound(1, "done")

    assert "hidden" not in screen(facts(hidden=hidden))


def test_every_phase_of_a_hidden_round_has_its_words() -> None:
    for phase in ServerPhase:
        standing = Standing(phase, (), ())
        (line,) = hidden_lines(HiddenRound(1, "open", None, standing))
        assert line.startswith("hidden sum, attempt 1: ")


def test_a_standing_quorum_tells_when_the_round_closes() -> None:
    told = facts(current={"quorum_at": NOW - 4.0}, attached=[attached("a")])

    assert "the quorum stands; it closes in 6 s at the latest" in screen(told)


def test_a_quorum_near_the_deadline_closes_at_the_deadline() -> None:
    told = facts(current={"quorum_at": NOW, "deadline_at": NOW + 2.0}, attached=[attached("a")])

    assert "it closes in 2 s at the latest" in screen(told)


def test_a_quorum_that_came_a_moment_ago_is_not_counted_as_missing() -> None:
    told = facts(
        current={"quorum_at": None},
        assignments=[assignment(name, "reported") for name in ("a", "b")],
        attached=[attached("a")],
    )

    assert "the quorum is in; the round closes within moments" in screen(told)


def test_a_deadline_that_passed_is_told() -> None:
    told = facts(current={"deadline_at": NOW - 7.0}, attached=[attached("a")])

    assert "the deadline passed 7 s ago" in screen(told)


def test_a_run_that_waits_for_clients_says_how_many_are_wanted() -> None:
    told = facts(
        current={"stage": "published"},
        attached=[attached("a"), attached("b", "heart")],
        registered=[registered("a"), registered("z", "detached")],
    )

    assert (
        "round 2 waits for clients with app 'digits': 1 attached here, 3 wanted, 2 are enough "
        "after 10 s"
    ) in screen(told)
    assert "  z: absent, not attached, left 53 s ago" in screen(told)
    assert "  a: idle, not asked in this round, idle" in screen(told)


def test_an_app_that_nobody_offers_is_told_with_those_that_are() -> None:
    view = explain(
        facts(
            current={"stage": "published"},
            attached=[attached("a", "heart", "rand"), attached("b", "heart")],
            registered=[registered("old", "detached", "digits")],
        )
    )

    assert view.apps_offered == ["heart", "rand"]
    assert (
        "no attached client offers app 'digits'; offered are 'heart', 'rand': add it to "
        "client.apps at the sites, or correct run.app in the job"
    ) in view.lines
    assert "offered it before: old" in view.lines


def test_a_coordinator_without_clients_says_so() -> None:
    told = screen(facts(current={"stage": "published"}))

    assert "no client is attached to this coordinator" in told
    assert "offered it before" not in told


def test_a_collecting_round_whose_clients_all_left_says_so() -> None:
    told = screen(facts(assignments=[assignment("a")], registered=[registered("a")]))

    assert "no client is attached to this coordinator" in told
    assert "attached to another coordinator, or its connection has just gone" in told


def test_an_asked_client_that_the_registry_does_not_know_is_not_attached() -> None:
    assert "  a: train: assigned, not attached" in screen(facts(assignments=[assignment("a")]))


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ({"leader": None, "lease_until": 0.0}, "no coordinator leads it yet"),
        ({"lease_until": NOW - 12.0}, "the lease of coordinator-x ended 12 s ago"),
        ({"stop_requested": True, "stop_reason": "enough"}, "a stop was asked for: enough"),
        ({"stop_requested": True, "stop_reason": ""}, "a stop was asked for: no reason given"),
        ({"name": ""}, "run run-a is running"),
    ],
)
def test_what_stands_in_the_way_of_a_run_is_told(run: dict[str, Any], words: str) -> None:
    assert words in screen(facts(run=run))


def test_a_closed_round_is_being_aggregated() -> None:
    told = facts(current={"stage": "closed", "close_reason": "every report is in"})

    assert "round 1 is closed (every report is in) and being aggregated" in screen(told)


def test_the_last_evaluation_is_waited_for() -> None:
    told = facts(
        run={"round": 3},
        current={"stage": "published", "round": 3},
        assignments=[
            assignment("a", kind="evaluate", round=3),
            assignment("b", "reported", kind="evaluate", round=3),
        ],
        attached=[attached("a")],
    )

    assert "waits for 1 clients to evaluate the last model" in screen(told)
    assert "waits for clients with app" not in screen(told)


def test_between_the_last_round_and_the_end_nothing_is_waited_for() -> None:
    told = facts(run={"round": 3}, current={"stage": "published", "round": 3})

    assert "waits" not in screen(told)


def test_a_run_that_ended_says_why_and_who_was_left_out() -> None:
    view = explain(
        facts(
            run={
                "state": "failed",
                "reason": "round 1: 1 of 2 needed",
                "end_kind": "quorum_lost",
                "finished_at": NOW,
            },
            current={"stage": "abandoned"},
            assignments=[
                assignment("a", "reported"),
                assignment("b", "late", reason="at the deadline"),
                assignment("c", "cancelled"),
            ],
            registered=[registered("z")],
        )
    )

    assert view.lines == [
        "run run-a (study) is failed, round 1 of 3",
        "reason: round 1: 1 of 2 needed (quorum_lost)",
        "  b: train: late, at the deadline",
        "  c: train: cancelled",
        "  a: train: reported",
    ]


def test_a_run_before_its_first_round_has_no_round_to_count() -> None:
    view = explain(
        facts(run={"round": 0, "state": "submitted"}, current={"stage": "published", "round": 0})
    )

    assert (view.attempt, view.min_reports, view.counts, view.deadline_seconds) == (None,) * 4


def test_a_thousand_clients_still_fit_on_one_screen() -> None:
    clients = [f"site-{number:04}" for number in range(1000)]
    told = facts(
        assignments=[assignment(client) for client in clients[:600]],
        registered=[registered(client, "detached") for client in clients],
    )

    view = explain(told)

    assert len(view.lines) < 40
    assert len(view.clients) == 1000
    assert view.lines[-1] == "  and 600 assigned, 380 absent"
    assert f"{clients[19]} and 980 more" in "\n".join(view.lines)


async def test_the_route_gathers_the_facts_of_rows_and_sessions(api: RunningApi) -> None:
    run_id = await api.submit()
    lease = await api.lead(run_id)
    for client in ("a", "b", "c"):
        await api.register(client)
    api.attach("a", phase="round 1: computing")
    await api.open_round(lease, 1, ["a", "b"], quorum=2)
    await api.runs.fail_assignment(run_id, 1, "b", "train", state="failed", reason="no data")

    view = (await api.operator.get(f"/api/v1/runs/{run_id}/explain")).json()

    assert [(each["client"], each["state"]) for each in view["clients"]] == [
        ("b", "failed"),
        ("c", "absent"),
        ("a", "assigned"),
    ]
    assert view["apps_offered"] == ["digits"]
    assert 0 < view["deadline_seconds"] <= 60
    assert "2 more reports make the quorum" in "\n".join(view["lines"])


async def test_the_evaluations_beside_a_round_are_told_with_it(api: RunningApi) -> None:
    run_id = await api.submit()
    lease = await api.lead(run_id)
    run = await api.runs.get(run_id)
    await api.runs.open_round(
        lease,
        round=1,
        base_digest=run.model_digest,
        target_reports=1,
        min_reports=1,
        deadline_seconds=60.0,
        clients=[("a", 1)],
        evaluate_clients=["a"],
        evaluate_round=0,
    )

    view = (await api.operator.get(f"/api/v1/runs/{run_id}/explain")).json()

    assert [(each["client"], each["kind"]) for each in view["clients"]] == [
        ("a", "evaluate"),
        ("a", "train"),
    ]


def test_a_client_that_was_announced_and_never_came_is_told_so() -> None:
    told = facts(registered=[registered("z", "registered")])

    assert "  z: absent, not attached, has never been" in screen(told)


async def test_an_asynchronous_run_tells_who_trains_and_who_waits_with_an_update(
    api: RunningApi,
) -> None:
    run_id = await api.submit(job=job_with(asynchronous={"group_size": 3}))
    lease = await api.lead(run_id)
    for client in ("a", "b", "c"):
        await api.register(client)
    await api.runs.prepare(lease, version=0, clients=[("a", 1), ("b", 1), ("c", 1)])
    await api.runs.report_prepared(run_id, 0, "b")

    view = (await api.operator.get(f"/api/v1/runs/{run_id}/explain")).json()

    line = "version 1 is made as soon as 3 clients hold an update: 1 do, 2 train"
    assert line in view["lines"]
    assert [(each["client"], each["kind"], each["state"]) for each in view["clients"]] == [
        ("a", "prepare", "assigned"),
        ("c", "prepare", "assigned"),
        ("b", "prepare", "reported"),
    ]
