import asyncio
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import text

from kumiai.core import failpoints
from kumiai.core.errors import ConflictError, FencedError, NotFoundError
from kumiai.storage import DatabaseManager, Lease, RunRecord, RunRepository, UpdateInbox
from kumiai.storage.accepting import accept_updates
from tests.storage.leading import TTL_SECONDS, Leading, new_run, request_of

Step = Callable[[RunRepository, Lease], Awaitable[object]]

STEPS: dict[str, Step] = {
    "renew_lease": lambda runs, lease: runs.renew_lease(lease, 5.0),
    "start": lambda runs, lease: runs.start(lease),
    "open_round": lambda runs, lease: Leading(runs, lease).open(2),
    "extend_round": lambda runs, lease: runs.extend_round(
        lease, round=1, deadline_seconds=5.0, clients=[("a", 1)]
    ),
    "mark_quorum": lambda runs, lease: runs.mark_quorum(lease, 1),
    "close_round": lambda runs, lease: runs.close_round(lease, 1, "why"),
    "publish_round": lambda runs, lease: Leading(runs, lease).publish(1),
    "record_evaluation": lambda runs, lease: runs.record_evaluation(lease, 0, {}, 1),
    "open_evaluation": lambda runs, lease: runs.open_evaluation(lease, 0, ["z"]),
    "close_evaluation": lambda runs, lease: runs.close_evaluation(lease, 0),
    "finish": lambda runs, lease: runs.finish(lease, "failed", "why"),
}


async def dump(database: DatabaseManager) -> list[object]:
    tables = ("runs", "rounds", "assignments", "updates", "models", "events")
    async with database.reading() as connection:
        return [
            sorted(map(str, (await connection.execute(text(f"SELECT * FROM {table}"))).all()))
            for table in tables
        ]


async def expire(database: DatabaseManager) -> None:
    async with database.transaction() as connection:
        await connection.execute(text("UPDATE runs SET lease_until = 1"))


async def test_a_submitted_run_can_be_claimed(runs: RunRepository, run: RunRecord) -> None:
    await runs.create(new_run("run-b"))

    assert await runs.claimable() == ["run-a", "run-b"]


async def test_a_lease_is_held_by_one(runs: RunRepository, run: RunRecord) -> None:
    first = await runs.acquire_lease("run-a", "one", TTL_SECONDS)
    second = await runs.acquire_lease("run-a", "two", TTL_SECONDS)

    assert first == Lease("run-a", "one", 1)
    assert second is None
    assert await runs.claimable() == []
    held = await runs.get("run-a")
    assert held.leader == "one"
    assert held.lease_until == pytest.approx(held.updated_at + TTL_SECONDS, abs=1.0)


async def test_many_that_claim_at_once_make_one_leader(runs: RunRepository, run: RunRecord) -> None:
    leases = await asyncio.gather(
        *(runs.acquire_lease("run-a", f"leader-{n}", TTL_SECONDS) for n in range(8))
    )

    assert sum(lease is not None for lease in leases) == 1


async def test_a_lease_that_has_run_out_is_taken_over(
    database: DatabaseManager, leading: Leading
) -> None:
    await expire(database)

    assert await leading.runs.claimable() == ["run-a"]
    taken = await leading.runs.acquire_lease("run-a", "leader-2", TTL_SECONDS)

    assert taken == Lease("run-a", "leader-2", 2)
    event = (await leading.runs.events("run-a"))[-1]
    assert (event.kind, event.data) == ("leader_changed", {"leader": "leader-2", "epoch": 2})


async def test_a_leader_takes_its_own_lease_again_at_once(leading: Leading) -> None:
    assert await leading.runs.claimable("leader-1") == ["run-a"]
    assert await leading.runs.claimable("leader-2") == []

    again = await leading.runs.acquire_lease("run-a", "leader-1", TTL_SECONDS)

    assert again == Lease("run-a", "leader-1", 2)
    with pytest.raises(FencedError):
        await leading.runs.renew_lease(leading.lease, TTL_SECONDS)


async def test_a_renewed_lease_lasts_longer(database: DatabaseManager, leading: Leading) -> None:
    await expire(database)

    await leading.runs.renew_lease(leading.lease, TTL_SECONDS)

    assert await leading.runs.claimable() == []


async def test_a_released_lease_is_free(leading: Leading) -> None:
    await leading.runs.release_lease(leading.lease)

    assert await leading.runs.claimable() == ["run-a"]
    assert (await leading.runs.get("run-a")).leader is None
    with pytest.raises(FencedError):
        await leading.runs.renew_lease(leading.lease, TTL_SECONDS)


async def test_an_old_lease_releases_nothing(database: DatabaseManager, leading: Leading) -> None:
    await expire(database)
    await leading.runs.acquire_lease("run-a", "leader-2", TTL_SECONDS)

    await leading.runs.release_lease(leading.lease)

    assert (await leading.runs.get("run-a")).leader == "leader-2"


async def test_no_lease_on_what_is_not_there_or_has_ended(leading: Leading) -> None:
    await leading.runs.finish(leading.lease, "finished", "done")

    assert await leading.runs.acquire_lease("run-a", "leader-1", TTL_SECONDS) is None
    assert await leading.runs.acquire_lease("run-x", "leader-1", TTL_SECONDS) is None
    assert await leading.runs.claimable("leader-1") == []


@pytest.mark.parametrize("newer", ["leader-2", "leader-1"])
@pytest.mark.parametrize("step", STEPS)
async def test_a_fenced_leader_changes_nothing(
    database: DatabaseManager, leading: Leading, step: str, newer: str
) -> None:
    await leading.open()
    await expire(database)
    await leading.runs.acquire_lease("run-a", newer, TTL_SECONDS)
    before = await dump(database)

    with pytest.raises(FencedError, match="another coordinator leads"):
        await STEPS[step](leading.runs, leading.lease)

    assert await dump(database) == before


@pytest.mark.parametrize("step", STEPS)
async def test_the_leader_of_a_run_that_has_ended_is_fenced(leading: Leading, step: str) -> None:
    await leading.runs.finish(leading.lease, "finished", "done")

    with pytest.raises(FencedError):
        await STEPS[step](leading.runs, leading.lease)


@pytest.mark.parametrize("step", sorted(set(STEPS) - {"renew_lease", "start", "finish"}))
async def test_no_step_before_the_start(runs: RunRepository, run: RunRecord, step: str) -> None:
    lease = await runs.acquire_lease("run-a", "leader-1", TTL_SECONDS)
    assert lease is not None

    with pytest.raises(ConflictError, match="must be running, got submitted"):
        await STEPS[step](runs, lease)


async def test_a_run_starts_once(leading: Leading) -> None:
    first = await leading.runs.get("run-a")

    again = await leading.runs.start(leading.lease)

    assert (again.state, again.started_at) == ("running", first.started_at)
    kinds = [event.kind for event in await leading.runs.events("run-a")]
    assert kinds.count("run_started") == 1


async def test_an_open_round_collects_from_its_clients(leading: Leading) -> None:
    opened = await leading.runs.open_round(
        leading.lease,
        round=1,
        base_digest="d0",
        target_reports=2,
        min_reports=1,
        deadline_seconds=30.0,
        clients=[("b", 12), ("a", 2**62)],
        evaluate_clients=["c", "a"],
        evaluate_round=0,
    )

    assert (opened.stage, opened.attempt, opened.base_digest) == ("collecting", 1, "d0")
    assert (opened.target_reports, opened.min_reports) == (2, 1)
    assert opened.deadline_at - opened.opened_at == pytest.approx(30.0, abs=1.0)
    train = await leading.runs.assignments("run-a", 1)
    evaluate = await leading.runs.assignments("run-a", 0)
    assert [(each.client_id, each.kind, each.seed) for each in train] == [
        ("a", "train", 2**62),
        ("b", "train", 12),
    ]
    assert [(each.client_id, each.kind) for each in evaluate] == [
        ("a", "evaluate"),
        ("c", "evaluate"),
    ]
    assert (await leading.runs.get("run-a")).round == 1
    assert await leading.runs.round("run-a", 1) == opened


async def test_a_round_may_open_for_no_client(leading: Leading) -> None:
    await leading.open(clients=[], evaluate=[])

    assert await leading.runs.assignments("run-a", 1) == []


@pytest.mark.parametrize("number", [0, 2])
async def test_rounds_open_in_order(leading: Leading, number: int) -> None:
    with pytest.raises(ConflictError, match=r"must be 1, the one after the last"):
        await leading.open(number)


async def test_a_round_opens_after_the_one_before_is_published(leading: Leading) -> None:
    await leading.open(1)

    with pytest.raises(ConflictError, match="must be published before the next"):
        await leading.open(2)


async def test_a_round_starts_from_the_model_of_the_run(leading: Leading) -> None:
    await leading.play(1)

    with pytest.raises(ConflictError, match="base of round 2"):
        await leading.runs.open_round(
            leading.lease,
            round=2,
            base_digest="d0",
            target_reports=1,
            min_reports=1,
            deadline_seconds=1.0,
            clients=[],
        )
    await leading.open(2)


async def test_who_was_asked_to_evaluate_stays_so(leading: Leading, inbox: UpdateInbox) -> None:
    await leading.open(1, evaluate=["a", "b"])
    await inbox.accept_evaluation("run-a", 0, "a", 5, {})

    await leading.runs.open_evaluation(leading.lease, 0, ["a", "b", "c"])

    states = {each.client_id: each.state for each in await leading.runs.assignments("run-a", 0)}
    assert states == {"a": "reported", "b": "assigned", "c": "assigned"}


async def test_an_extended_round_asks_again_who_has_not_reported(
    leading: Leading, database: DatabaseManager
) -> None:
    runs = leading.runs
    await leading.open(clients=["a", "b", "c"])
    async with database.transaction() as connection:
        await accept_updates(connection, [request_of("a")])
    await runs.fail_assignment("run-a", 1, "b", "train", state="failed", reason="oom")
    before = await runs.round("run-a", 1)

    extended = await runs.extend_round(
        leading.lease,
        round=1,
        deadline_seconds=500.0,
        clients=[("a", 7), ("b", 8), ("d", 9)],
    )

    assert (extended.attempt, extended.stage) == (2, "collecting")
    assert extended.deadline_at > before.deadline_at
    found = {
        each.client_id: (each.state, each.attempt, each.seed, each.reason, each.ended_at is None)
        for each in await runs.assignments("run-a", 1)
    }
    assert found == {
        "a": ("reported", 1, 1000, None, False),
        "b": ("assigned", 2, 8, None, True),
        "c": ("assigned", 1, 1002, None, True),
        "d": ("assigned", 2, 9, None, True),
    }


async def test_only_a_round_that_collects_can_be_extended(leading: Leading) -> None:
    await leading.open()
    await leading.runs.close_round(leading.lease, 1, "why")

    with pytest.raises(ConflictError, match="must be collecting, got closed"):
        await leading.runs.extend_round(leading.lease, round=1, deadline_seconds=1.0, clients=[])


async def test_the_quorum_is_marked_once(leading: Leading) -> None:
    await leading.open()

    first = await leading.runs.mark_quorum(leading.lease, 1)
    again = await leading.runs.mark_quorum(leading.lease, 1)

    assert first == again == (await leading.runs.progress("run-a", 1)).quorum_at


async def test_only_a_round_that_collects_has_its_quorum_marked(leading: Leading) -> None:
    await leading.open()
    await leading.runs.close_round(leading.lease, 1, "why")

    with pytest.raises(ConflictError, match="must be collecting, got closed"):
        await leading.runs.mark_quorum(leading.lease, 1)


@pytest.mark.parametrize("step", ["mark_quorum", "close_round", "publish_round", "extend_round"])
async def test_a_round_that_is_not_there_is_not_found(leading: Leading, step: str) -> None:
    with pytest.raises(NotFoundError, match="round of run run-a must exist, got 1"):
        await STEPS[step](leading.runs, leading.lease)


async def test_a_closed_round_returns_its_updates_by_client(
    leading: Leading, database: DatabaseManager
) -> None:
    await leading.open(clients=["b", "a", "B", "c"])
    async with database.transaction() as connection:
        await accept_updates(connection, [request_of(name) for name in ("b", "a", "B")])

    updates = await leading.runs.close_round(leading.lease, 1, "grace is over")
    again = await leading.runs.close_round(leading.lease, 1, "again")

    assert [update.client_id for update in updates] == ["B", "a", "b"]
    assert [update.metrics for update in updates] == [{"loss": 0.5}] * 3
    assert updates == again == await leading.runs.updates("run-a", 1)
    closed = await leading.runs.round("run-a", 1)
    assert (closed.stage, closed.close_reason) == ("closed", "grace is over")
    late = {each.client_id: each.state for each in await leading.runs.assignments("run-a", 1)}
    assert late == {"a": "reported", "b": "reported", "B": "reported", "c": "late"}
    kinds = [event.kind for event in await leading.runs.events("run-a")]
    assert kinds.count("round_closed") == 1


async def test_a_published_round_cannot_be_closed(leading: Leading) -> None:
    await leading.play()

    with pytest.raises(ConflictError, match="must be closed, got published"):
        await leading.runs.close_round(leading.lease, 1, "why")


async def test_a_published_round_becomes_the_model_of_the_run(leading: Leading) -> None:
    await leading.play()

    run = await leading.runs.get("run-a")
    published = await leading.runs.round("run-a", 1)
    assert (run.round, run.model_digest, run.state_digest) == (1, "d1", "s1")
    assert (published.stage, published.model_digest) == ("published", "d1")
    assert (published.reports, published.examples) == (2, 14)
    assert published.metrics == {"loss": 0.25}
    assert [model.digest for model in await leading.runs.models("run-a")] == ["d0", "d1"]


async def test_publishing_the_same_model_again_changes_nothing(
    leading: Leading, database: DatabaseManager
) -> None:
    await leading.play()
    before = await dump(database)

    await leading.publish()

    after = await dump(database)
    assert after[1:] == before[1:]


async def test_a_round_publishes_one_model(leading: Leading) -> None:
    await leading.play()

    with pytest.raises(ConflictError, match="must have one model"):
        await leading.publish(model="other")


async def test_a_round_that_collects_cannot_be_published(leading: Leading) -> None:
    await leading.open()

    with pytest.raises(ConflictError, match="must be closed, got collecting"):
        await leading.publish()

    assert (await leading.runs.get("run-a")).model_digest == "d0"


@pytest.mark.parametrize("number", [0, 1])
async def test_an_evaluation_is_recorded_with_round_and_model(
    leading: Leading, number: int
) -> None:
    await leading.play()

    for _ in range(2):
        await leading.runs.record_evaluation(leading.lease, number, {"accuracy": 0.75}, 3)

    found = await leading.runs.round("run-a", number)
    model = await leading.runs.find_model("run-a", number)
    assert model is not None
    assert (found.evaluation, found.evaluation_reports) == ({"accuracy": 0.75}, 3)
    assert model.metrics == {"accuracy": 0.75}
    kinds = [event.kind for event in await leading.runs.events("run-a")]
    assert kinds.count("model_evaluated") == 1


async def test_only_a_published_model_is_evaluated(leading: Leading) -> None:
    await leading.open()

    with pytest.raises(ConflictError, match="must be published, got collecting"):
        await leading.runs.record_evaluation(leading.lease, 1, {}, 1)
    with pytest.raises(ConflictError, match="must be published, got collecting"):
        await leading.runs.open_evaluation(leading.lease, 1, ["a"])


async def test_an_evaluation_may_be_opened_for_no_client(leading: Leading) -> None:
    await leading.runs.open_evaluation(leading.lease, 0, [])

    assert await leading.runs.assignments("run-a", 0) == []


@pytest.mark.parametrize(
    ("state", "level"), [("finished", "info"), ("stopped", "info"), ("failed", "error")]
)
async def test_a_run_ends_with_all_that_is_open(leading: Leading, state: str, level: str) -> None:
    await leading.play(1)
    await leading.open(2, evaluate=["e"])

    await leading.runs.finish(leading.lease, state, "the end")  # type: ignore[arg-type]

    run = await leading.runs.get("run-a")
    assert (run.state, run.reason, run.leader, run.lease_until) == (state, "the end", None, 0.0)
    assert run.finished_at is not None
    assert [each.stage for each in await leading.runs.rounds("run-a")] == [
        "published",
        "published",
        "abandoned",
    ]
    for number in (1, 2):
        assert {each.state for each in await leading.runs.assignments("run-a", number)} <= {
            "cancelled",
            "late",
        }
    event = (await leading.runs.events("run-a"))[-1]
    assert (event.kind, event.level, event.text) == (f"run_{state}", level, "the end")


async def test_a_run_that_fails_keeps_the_kind_of_its_error(leading: Leading) -> None:
    await leading.runs.finish(leading.lease, "failed", "nobody came", end_kind="quorum_lost")

    assert (await leading.runs.get("run-a")).end_kind == "quorum_lost"


async def test_a_run_that_does_not_fail_has_no_kind_of_error(leading: Leading) -> None:
    await leading.runs.finish(leading.lease, "finished", "done")

    assert (await leading.runs.get("run-a")).end_kind is None


async def test_a_run_may_fail_before_its_start(runs: RunRepository, run: RunRecord) -> None:
    lease = await runs.acquire_lease("run-a", "leader-1", TTL_SECONDS)
    assert lease is not None

    await runs.finish(lease, "failed", "no such app")

    assert (await runs.get("run-a")).state == "failed"


async def test_every_durable_step_has_its_crash_points(
    runs: RunRepository, reached: list[str]
) -> None:
    await runs.create(new_run())
    lease = await runs.acquire_lease("run-a", "leader-1", TTL_SECONDS)
    assert lease is not None
    await runs.start(lease)
    leading = Leading(runs, lease)
    await leading.open()
    await runs.close_round(lease, 1, "why")
    await leading.publish()
    await runs.record_evaluation(lease, 1, {}, 1)
    await runs.finish(lease, "finished", "done")

    steps = (
        "create",
        "acquire_lease",
        "start",
        "open_round",
        "close_round",
        "publish_round",
        "record_evaluation",
        "finish",
    )
    assert reached == [
        f"storage.{step}.commit.{when}" for step in steps for when in ("before", "after")
    ]


async def test_what_dies_before_the_commit_has_not_happened(
    leading: Leading, database: DatabaseManager
) -> None:
    def die(name: str) -> None:
        if name == "storage.open_round.commit.before":
            raise KeyboardInterrupt

    before = await dump(database)
    failpoints.install(die)
    try:
        with pytest.raises(KeyboardInterrupt):
            await leading.open()
    finally:
        failpoints.install(None)

    assert await dump(database) == before
