"""Clients that train ahead of a round: asked, waiting, taken in, given up."""

from collections.abc import Awaitable, Callable

import pytest

from kumiai.core.errors import ConflictError, FencedError
from kumiai.storage import AssignmentRecord, Lease, RunRepository
from tests.storage.leading import Leading

Step = Callable[[RunRepository, Lease], Awaitable[object]]

STEPS: dict[str, Step] = {
    "prepare": lambda runs, lease: runs.prepare(lease, version=0, clients=[("a", 1)]),
    "fail_overdue": lambda runs, lease: runs.fail_overdue(lease, seconds=1.0, reason="why"),
    "withdraw_prepared": lambda runs, lease: runs.withdraw_prepared(lease, newest=0, reason="why"),
}


async def asked(leading: Leading, *clients: str, version: int = 0) -> None:
    seeded = [(client, 100 + index) for index, client in enumerate(clients)]
    await leading.runs.prepare(leading.lease, version=version, clients=seeded)


async def ready(leading: Leading, *clients: str, version: int = 0) -> None:
    await asked(leading, *clients, version=version)
    for client in clients:
        assert await leading.runs.report_prepared("run-a", version, client)


async def open_group(leading: Leading, joined: dict[str, int], *, number: int = 1) -> None:
    await leading.runs.open_round(
        leading.lease,
        round=number,
        base_digest=f"d{number - 1}",
        target_reports=len(joined),
        min_reports=1,
        deadline_seconds=60.0,
        clients=[(client, 1) for client in joined],
        joined=joined,
    )


def told(rows: list[AssignmentRecord]) -> list[tuple[str, int, str]]:
    return [(each.client_id, each.round, each.state) for each in rows if each.kind == "prepare"]


async def test_whoever_is_asked_trains_until_it_says_that_it_waits(leading: Leading) -> None:
    runs = leading.runs
    await asked(leading, "b", "a", "c")

    waits = await runs.report_prepared("run-a", 0, "b")

    assert waits
    assert told(await runs.preparing("run-a", 0)) == [
        ("b", 0, "reported"),
        ("a", 0, "assigned"),
        ("c", 0, "assigned"),
    ]
    (first, *_) = await runs.preparing("run-a", 0)
    assert (first.seed, first.attempt) == (100, 1)
    assert [each.client_id for each in await runs.open_assignments("a")] == ["a"]
    assert await runs.open_assignments("b") == []
    events = await runs.events("run-a")
    assert (events[-1].kind, events[-1].data) == ("training_asked", {"clients": 3})


async def test_saying_twice_that_one_waits_changes_nothing(leading: Leading) -> None:
    await ready(leading, "a")
    before = await leading.runs.preparing("run-a", 0)

    assert not await leading.runs.report_prepared("run-a", 0, "a")
    assert not await leading.runs.report_prepared("run-a", 0, "stranger")
    assert await leading.runs.preparing("run-a", 0) == before


async def test_whoever_trains_or_waits_is_not_asked_again(leading: Leading) -> None:
    await ready(leading, "a")
    await asked(leading, "b")
    before = await leading.runs.preparing("run-a", 0)

    await asked(leading, "a", "b")

    assert await leading.runs.preparing("run-a", 0) == before


async def test_a_client_that_failed_is_asked_again_in_another_attempt(leading: Leading) -> None:
    await asked(leading, "a")
    await leading.runs.fail_assignment("run-a", 0, "a", "prepare", state="failed", reason="no data")
    assert told(await leading.runs.preparing("run-a", 0)) == [("a", 0, "failed")]

    await asked(leading, "a")

    (row,) = await leading.runs.preparing("run-a", 0)
    assert (row.state, row.attempt, row.reason) == ("assigned", 2, None)


async def test_a_round_takes_in_who_waits_with_the_version_of_each(leading: Leading) -> None:
    await ready(leading, "a", "slow")
    await open_group(leading, {"a": 0})
    await leading.runs.close_round(leading.lease, 1, "all reported")
    await leading.publish(1)
    await ready(leading, "a", version=1)

    await open_group(leading, {"slow": 0, "a": 1}, number=2)

    assert await leading.runs.bases("run-a", 1, oldest=0) == {"a": 0, "slow": 0}
    assert await leading.runs.bases("run-a", 2, oldest=0) == {"a": 1, "slow": 0}
    assert await leading.runs.bases("run-a", 2, oldest=1) == {"a": 1}
    assert told(await leading.runs.preparing("run-a", 1)) == [("a", 1, "joined")]
    await asked(leading, "late", version=0)
    assert told(await leading.runs.preparing("run-a", 1))[-1] == ("late", 0, "assigned")
    assert told(await leading.runs.preparing("run-a", 1, oldest=1)) == [("a", 1, "joined")]
    rows = await leading.runs.assignments("run-a", 2)
    assert {(each.client_id, each.kind) for each in rows} == {("a", "train"), ("slow", "train")}


@pytest.mark.parametrize("joined", [{"a": 0}, {"stranger": 0}, {"b": 1}])
async def test_a_round_opens_with_nobody_who_does_not_wait(
    leading: Leading, joined: dict[str, int]
) -> None:
    await asked(leading, "a")
    await ready(leading, "b")

    with pytest.raises(ConflictError, match="must wait with an update from version"):
        await open_group(leading, joined)

    assert (await leading.runs.get("run-a")).round == 0


@pytest.mark.parametrize("step", ["extend_round", "restart_round"])
async def test_a_round_that_goes_on_takes_others_in(leading: Leading, step: str) -> None:
    await ready(leading, "a", "b")
    await open_group(leading, {"a": 0})
    more = {"reason": "too few"} if step == "restart_round" else {}

    await getattr(leading.runs, step)(
        leading.lease,
        round=1,
        deadline_seconds=5.0,
        clients=[("a", 1), ("b", 1)],
        joined={"b": 0},
        **more,
    )

    assert await leading.runs.bases("run-a", 1, oldest=0) == {"a": 0, "b": 0}


async def test_who_is_too_far_behind_is_given_up_by_version(leading: Leading) -> None:
    await ready(leading, "a", "waits")
    await asked(leading, "slow")
    await open_group(leading, {"a": 0})
    await leading.runs.close_round(leading.lease, 1, "all reported")
    await leading.publish(1)
    await asked(leading, "a", version=1)

    clients = await leading.runs.withdraw_prepared(leading.lease, newest=0, reason="too old")

    assert clients == ["slow", "waits"]
    assert told(await leading.runs.preparing("run-a", 1)) == [("a", 1, "assigned")]
    late = [each for each in await leading.runs.preparing("run-a", 0) if each.client_id == "slow"]
    assert [(each.state, each.reason) for each in late] == [("late", "too old")]
    events = [each for each in await leading.runs.events("run-a") if each.kind == "prepare_late"]
    assert [(each.client_id, each.text) for each in events] == [
        ("slow", "too old"),
        ("waits", "too old"),
    ]


async def test_who_trains_for_too_long_has_failed_and_is_asked_anew(leading: Leading) -> None:
    await asked(leading, "hangs")
    await ready(leading, "waits")

    early = await leading.runs.fail_overdue(leading.lease, seconds=60.0, reason="too long")
    failed = await leading.runs.fail_overdue(leading.lease, seconds=-1.0, reason="too long")
    await asked(leading, "hangs")

    assert (early, told(failed)) == ([], [("hangs", 0, "failed")])
    states = {each.client_id: each.state for each in await leading.runs.preparing("run-a", 0)}
    assert states == {"hangs": "assigned", "waits": "reported"}
    events = [each for each in await leading.runs.events("run-a") if each.kind == "prepare_failed"]
    assert [(each.client_id, each.round, each.text) for each in events] == [
        ("hangs", 0, "too long")
    ]


async def test_turns_are_told_of_the_newest_rounds_first(leading: Leading) -> None:
    for number in (1, 2, 3):
        await leading.play(number)

    turns = await leading.runs.turns("run-a", 2, oldest=1)
    newest = await leading.runs.turns("run-a", 3, oldest=3)

    assert [each.round for each in turns] == sorted((each.round for each in turns), reverse=True)
    assert {each.round for each in turns} == {1, 2}
    assert {(each.round, each.kind, each.state) for each in newest} == {(3, "train", "late")}


async def test_some_are_withdrawn_and_the_others_stay(leading: Leading) -> None:
    await ready(leading, "a", "b", "c")

    clients = await leading.runs.withdraw_prepared(
        leading.lease, newest=0, clients=["a", "c", "stranger"], reason="left behind"
    )

    assert clients == ["a", "c"]
    states = {each.client_id: each.state for each in await leading.runs.preparing("run-a", 0)}
    assert states == {"a": "late", "b": "reported", "c": "late"}


async def test_who_begins_from_a_version_measures_it_first(leading: Leading) -> None:
    await leading.runs.prepare(leading.lease, version=0, clients=[("a", 1)], evaluates=True)

    kinds = [each.kind for each in await leading.runs.open_assignments("a")]

    assert sorted(kinds) == ["evaluate", "prepare"]


async def test_training_ahead_entitles_to_the_model_of_its_version_alone(leading: Leading) -> None:
    await leading.play(1)
    await leading.play(2)
    await asked(leading, "new", version=1)

    assert await leading.runs.may_read_model("new", "d1")
    assert not await leading.runs.may_read_model("new", "d2")


@pytest.mark.parametrize("name", STEPS)
async def test_only_the_leader_asks_and_gives_up(leading: Leading, name: str) -> None:
    old = Lease("run-a", "leader-1", leading.lease.epoch - 1)
    await asked(leading, "b")
    before = await leading.runs.preparing("run-a", 0)

    with pytest.raises(FencedError):
        await STEPS[name](leading.runs, old)

    assert await leading.runs.preparing("run-a", 0) == before
