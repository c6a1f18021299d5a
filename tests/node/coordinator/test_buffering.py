"""Which clients an asynchronous run hopes for while its leader is new."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kumiai.core.errors import QuorumLostError
from kumiai.node.ahead import policy_of
from kumiai.node.coordinator.buffering import UpdateBuffer
from kumiai.node.coordinator.engine import RoundEngine
from kumiai.node.job import parse_job
from kumiai.storage import AssignmentRecord, Lease, RunRecord

JOB = parse_job(
    {
        "run": {"app": "counting"},
        "asynchronous": {"group_size": 3},
        "cohort": {"max_attempts": 1, "grace_seconds": 10.0},
    }
)
RUN = cast("RunRecord", SimpleNamespace(app="counting", rounds_total=10))


def row(client: str, state: Any, version: int = 1) -> AssignmentRecord:
    return AssignmentRecord(
        run_id="run-a",
        round=version,
        client_id=client,
        kind="prepare",
        state=state,
        reason="out of memory" if state == "failed" else None,
        attempt=1,
        seed=1,
        assigned_at=0.0,
        ended_at=None,
    )


def turn(client: str, state: Any, number: int) -> AssignmentRecord:
    return replace(row(client, state, number), kind="train")


class Engine:
    """An engine whose rows and time are given, and which has nothing to hand out."""

    def __init__(self, *rows: AssignmentRecord) -> None:
        self.rows = rows
        self.time = 100.0
        self.members: list[AssignmentRecord] = []
        self.withdrawn: list[tuple[int, list[str]]] = []
        self.asked: list[str] = []
        self.looked_at: list[float] = []
        self.runs = self.tasks = self.clock = self.directory = self

    def monotonic(self) -> float:
        return self.time

    async def preparing(self, *_: object, **__: object) -> list[AssignmentRecord]:
        return list(self.rows)

    async def turns(self, *_: object, **__: object) -> list[AssignmentRecord]:
        return self.members

    async def withdraw_prepared(
        self, _: Lease, *, newest: int, clients: list[str], **__: object
    ) -> list[str]:
        self.withdrawn.append((newest, clients))
        return clients

    async def fail_overdue(self, *_: object, **__: object) -> list[AssignmentRecord]:
        self.looked_at.append(self.time)
        return []

    async def prepare(self, *_: object, clients: list[tuple[str, int]], **__: object) -> None:
        self.asked += [name for name, _ in clients]

    async def orders(self, *_: object) -> dict[str, Any]:
        return {}

    def deliver(self, _: object) -> None:
        pass


async def waiting(
    engine: Engine, *, attached: list[str], later: float, attempts: int = 1
) -> dict[str, int]:
    spec, policy = JOB.asynchronous, policy_of(JOB)
    assert spec is not None
    assert policy is not None
    buffer = UpdateBuffer(
        cast("RoundEngine", engine),
        Lease("run-a", "coordinator-1", 2),
        spec,
        policy,
        available=lambda _app, left_out: [each for each in attached if each not in left_out],
        seeded=lambda _job, _round, clients: [(each, 1) for each in clients],
    )
    engine.time += later
    job = JOB.model_copy(
        update={"cohort": JOB.cohort.model_copy(update={"max_attempts": attempts})}
    )
    return await buffer.waiting(RUN, job, 1, left_out=())


ROWS = (row("a", "reported"), row("b", "failed"), row("c", "reported"), row("d", "joined", 0))


async def test_a_new_leader_gives_those_time_to_come_back_who_took_part_before() -> None:
    found = await waiting(Engine(*ROWS), attached=["a", "b", "c"], later=9.0)

    assert found == {"a": 1, "c": 1}


async def test_whoever_has_not_come_back_within_the_grace_is_hoped_for_no_longer() -> None:
    with pytest.raises(QuorumLostError, match=r"only 2 of 3 clients.*out of memory"):
        await waiting(Engine(*ROWS), attached=["a", "b", "c"], later=10.0)


async def test_who_missed_the_round_that_it_waited_for_begins_anew() -> None:
    engine = Engine(row("a", "reported"), row("b", "reported", 0), row("c", "reported", 0))
    engine.members = [turn("b", "failed", 1), turn("c", "reported", 0)]

    found = await waiting(engine, attached=["a", "b", "c"], later=0.0)

    assert found == {"a": 1, "c": 0}
    assert (engine.withdrawn, engine.asked) == ([(0, ["b"])], ["b"])


@pytest.mark.parametrize(("later", "looked_at"), [(29.0, []), (30.0, [130.0])])
async def test_a_new_leader_ends_no_training_before_its_clients_had_time_to_come_back(
    later: float, looked_at: list[float]
) -> None:
    engine = Engine(*ROWS[:1], row("b", "reported"), ROWS[2])

    await waiting(engine, attached=["a", "b", "c"], later=later)

    assert engine.looked_at == looked_at


WAITING = [row(name, "reported") for name in "abcd"]
EVERYBODY = list("abcd")


async def test_who_missed_its_turn_stands_behind_the_others() -> None:
    engine = Engine(*WAITING)
    engine.members = [turn("a", "late", 1), turn("b", "reported", 1), turn("b", "late", 0)]

    found = await waiting(engine, attached=EVERYBODY, later=0.0, attempts=3)

    assert list(found) == ["b", "c", "d", "a"]


async def test_who_missed_a_turn_long_ago_stands_where_it_stood() -> None:
    engine = Engine(*WAITING)
    engine.members = [turn("a", "late", 0)]

    found = await waiting(engine, attached=EVERYBODY, later=0.0, attempts=3)

    assert list(found) == EVERYBODY


@pytest.mark.parametrize(
    ("attached", "expected"), [("abcd", ["b", "c", "d"]), ("abc", ["b", "c", "a"])]
)
async def test_who_missed_as_many_turns_as_it_may_rests_if_the_others_are_enough(
    attached: str, expected: list[str]
) -> None:
    engine = Engine(*WAITING)
    engine.members = [turn("a", "failed", 1), turn("a", "late", 0)]

    found = await waiting(engine, attached=list(attached), later=0.0, attempts=2)

    assert list(found) == expected
