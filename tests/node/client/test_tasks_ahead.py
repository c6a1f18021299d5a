"""What a client does of an asynchronous run: trains ahead, holds, brings, withdraws."""

import asyncio
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kumiai.core.clock import SystemClock
from kumiai.core.errors import DeadlineError
from kumiai.node.client.budget import SiteLedger, limits_of
from kumiai.node.client.deltas import ArraysUpload
from kumiai.node.client.held import HeldUpdates
from kumiai.node.client.tasks import TaskRunner
from kumiai.node.settings import ClientSettings
from kumiai.node.study import App, Context, Site, Update
from kumiai.node.wire import kumiai_pb2 as pb
from tests.node.client.test_tasks import Answers, OneModel, anew, hidden, overtaken, task

TRAIN, EVALUATE, PREPARE = pb.TASK_KIND_TRAIN, pb.TASK_KIND_EVALUATE, pb.TASK_KIND_PREPARE


def ahead(number: int, kind: pb.TaskKind, *, version: int, exponent: float = 0.5) -> pb.Task:
    made = task(number, kind)
    terms = pb.AheadTask(version=version, staleness_max=5, staleness_exponent=exponent)
    made.ahead.CopyFrom(terms)
    return made


class Wire(OneModel):
    """A transfer during which things happen, and that may be late."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.is_late: list[bool] = []
        self.amid: list[Callable[[], None]] = []

    async def send_update(
        self, upload: Any, report: Any, *, until: Callable[[], float], **options: Any
    ) -> pb.PutResult:
        for happens in self.amid:
            happens()
        self.amid = []
        if self.is_late.pop() if self.is_late else until() == 0.0:
            raise DeadlineError("update was not moved before the deadline")
        return await super().send_update(upload, report, **options)


class Life:
    """A client from its start to its end; the next one begins with what is on the disk."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.trained: list[int] = []
        self.sent: list[pb.ClientMessage] = []
        self.during = lambda: None
        app = App("heart", data=lambda site: 0)

        @app.train
        def train(weights: dict[str, Any], context: Context) -> Update:
            self.trained.append(context.round)
            self.during()
            return Update({"w": weights["w"] + 1}, examples=3)

        models = folder / f"life-{len(list(folder.iterdir()))}"
        models.mkdir()
        self.transfer: Any = Wire(models)
        self.runner = TaskRunner(
            apps={"heart": app},
            site=Site("site-1", {}),
            transfer=self.transfer,
            state_dir=folder,
            send=self.sent.append,
            **options,
        )

    async def do(self, order: pb.Task) -> list[pb.ClientMessage]:
        """Do a task, and return what is answered."""
        self.runner.take(order)
        serving = asyncio.create_task(self.runner.serve())
        async with asyncio.timeout(30):
            while not self.runner.is_idle:
                await asyncio.sleep(0)
        serving.cancel()
        await asyncio.wait({serving})
        return [each for each in self.sent if not each.HasField("progress")]


def held_in(folder: Path, version: int) -> object:
    return HeldUpdates(folder / "held").find("run-a", version)


async def test_a_client_trains_holds_what_it_made_and_says_that_it_waits(tmp_path: Path) -> None:
    life = Life(tmp_path)

    (answer,) = await life.do(ahead(2, PREPARE, version=2))

    assert (answer.prepared.key.round, answer.prepared.key.kind) == (2, PREPARE)
    # The study is told the round that its update would make if nobody were quicker.
    assert life.trained == [3]
    held = HeldUpdates(tmp_path / "held").find("run-a", 2)
    assert held is not None
    assert (held.examples, held.ahead.policy.staleness_max) == (3, 5)
    np.testing.assert_array_equal(held.arrays["w"], np.ones(2))


async def test_a_client_that_starts_again_says_so_and_does_not_train_again(tmp_path: Path) -> None:
    await Life(tmp_path).do(ahead(2, PREPARE, version=2))
    life = Life(tmp_path)

    (answer,) = await life.do(ahead(2, PREPARE, version=2))

    assert answer.HasField("prepared")
    assert life.trained == []


async def test_a_round_takes_in_what_waits_and_nobody_trains(tmp_path: Path) -> None:
    await Life(tmp_path).do(ahead(2, PREPARE, version=2))
    life = Life(tmp_path)

    assert await life.do(ahead(6, TRAIN, version=2)) == []

    (report,) = life.transfer.reports
    assert (report.round, report.examples) == (6, 3)
    assert life.trained == []


async def test_a_client_without_the_update_says_so_at_once(tmp_path: Path) -> None:
    life = Life(tmp_path)

    (answer,) = await life.do(ahead(6, TRAIN, version=2))

    assert answer.failure.reason == "no update from version 2 waits at this site"
    assert life.trained == []


async def test_a_client_that_could_not_bring_its_update_waits_with_the_same_one(
    tmp_path: Path,
) -> None:
    await Life(tmp_path).do(ahead(2, PREPARE, version=2))
    HeldUpdates(tmp_path / "held").use("run-a", 2, 3)
    life = Life(tmp_path)

    (answer,) = await life.do(ahead(2, PREPARE, version=2))

    assert answer.HasField("prepared")
    assert life.trained == []


async def test_an_update_that_is_late_is_no_failure_as_its_round_asks_again(
    tmp_path: Path,
) -> None:
    await Life(tmp_path).do(ahead(2, PREPARE, version=2))
    life = Life(tmp_path)
    life.transfer.is_late = [True]

    assert await life.do(ahead(6, TRAIN, version=2)) == []
    again = ahead(6, TRAIN, version=2)
    again.attempt = 2
    assert await life.do(again) == []

    assert [each.round for each in life.transfer.reports] == [6]
    assert life.trained == []


async def test_an_update_goes_into_the_next_attempt_that_begins_while_it_is_brought(
    tmp_path: Path,
) -> None:
    await Life(tmp_path).do(ahead(2, PREPARE, version=2))
    life = Life(tmp_path)
    again = ahead(6, TRAIN, version=2)
    again.attempt = 2
    life.transfer.is_late = [True]
    life.transfer.amid = [lambda: life.runner.take(again)]

    assert await life.do(ahead(6, TRAIN, version=2)) == []

    assert [each.round for each in life.transfer.reports] == [6]


async def test_a_held_update_is_hidden_anew_for_the_attempt_that_begins_while_it_is_brought(
    tmp_path: Path,
) -> None:
    attempts = list[int]()

    class Rounds:
        async def has_hidden(self, _run_id: str) -> bool:
            return False

        async def mask(self, key: tuple[str, int, int], *_: Any, **__: Any) -> ArraysUpload:
            attempts.append(key[2])
            return ArraysUpload.prepare({"masked": np.full(2, key[2])})

    await Life(tmp_path).do(hidden(ahead(2, PREPARE, version=2)))
    life, asked = Life(tmp_path, secure=Rounds()), hidden(ahead(6, TRAIN, version=2))
    life.transfer.amid = [lambda: life.runner.take(anew(asked))]

    assert await life.do(asked) == []

    assert (attempts, [each.attempt for each in life.transfer.reports]) == ([1, 2], [2])
    assert life.trained == []


async def test_an_update_that_came_too_late_for_an_attempt_goes_into_the_next_one(
    tmp_path: Path,
) -> None:
    await Life(tmp_path).do(ahead(2, PREPARE, version=2))
    life = Life(tmp_path)
    life.transfer.first = [overtaken(2)]

    assert await life.do(ahead(6, TRAIN, version=2)) == []
    assert await life.do(anew(ahead(6, TRAIN, version=2))) == []

    assert [each.attempt for each in life.transfer.reports] == [1, 2]
    assert life.trained == []


async def test_nothing_is_sent_any_more_for_a_round_that_is_over(tmp_path: Path) -> None:
    await Life(tmp_path).do(ahead(2, PREPARE, version=2))
    life = Life(tmp_path)
    over = pb.Cancel(key=pb.TaskKey(run_id="run-a", round=6))
    life.transfer.amid = [lambda: life.runner.cancel(over)]

    assert await life.do(ahead(6, TRAIN, version=2)) == []

    assert life.transfer.reports == []


async def test_a_client_makes_no_second_update_in_place_of_one_that_it_lost(
    tmp_path: Path,
) -> None:
    HeldUpdates(tmp_path / "held").use("run-a", 2, 3)
    life = Life(tmp_path)

    (answer,) = await life.do(ahead(2, PREPARE, version=2))

    assert "which was summed in round 3" in answer.failure.reason
    assert life.trained == []


async def test_a_client_makes_no_update_again_that_was_summed(tmp_path: Path) -> None:
    await Life(tmp_path).do(ahead(2, PREPARE, version=2))
    HeldUpdates(tmp_path / "held").use("run-a", 2, 6)
    life = Life(tmp_path)

    (answer,) = await life.do(ahead(2, PREPARE, version=2))

    assert "which was summed in round 6" in answer.failure.reason
    assert life.trained == []


async def test_what_was_summed_is_noted_where_no_backup_brings_it_back(tmp_path: Path) -> None:
    counters = tmp_path / "counters"
    HeldUpdates(tmp_path / "held", counters / "held").use("run-a", 2, 6)

    (answer,) = await Life(tmp_path, counters_dir=counters).do(ahead(2, PREPARE, version=2))

    assert "which was summed in round 6" in answer.failure.reason


async def test_a_task_with_terms_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (answer,) = await Life(tmp_path).do(ahead(2, PREPARE, version=2, exponent=9.0))

    assert answer.failure.reason == (
        "task must be one of an asynchronous run: staleness_exponent must be 0 to 4, got 9.0"
    )


async def test_a_site_that_hides_its_updates_trains_no_open_one_ahead(tmp_path: Path) -> None:
    life = Life(tmp_path, requires_secure=True)

    (answer,) = await life.do(ahead(2, PREPARE, version=2))

    assert "this site trains only where its update is hidden" in answer.failure.reason
    assert life.trained == []


async def test_an_update_that_was_made_to_be_hidden_never_leaves_open(tmp_path: Path) -> None:
    hidden = ahead(2, PREPARE, version=2)
    hidden.secure.SetInParent()
    await Life(tmp_path).do(hidden)
    life = Life(tmp_path)

    (answer,) = await life.do(ahead(6, TRAIN, version=2))

    assert answer.failure.reason == "no update from version 2 waits at this site"
    assert life.transfer.reports == []


async def test_an_update_from_another_model_of_the_same_version_is_not_taken(
    tmp_path: Path,
) -> None:
    await Life(tmp_path).do(ahead(2, PREPARE, version=2))
    life, asked = Life(tmp_path), ahead(6, TRAIN, version=2)
    asked.model_digest = "another"

    (answer,) = await life.do(asked)

    assert answer.failure.reason == "no update from version 2 waits at this site"
    assert life.transfer.reports == []


async def test_an_evaluation_trains_nothing_ahead(tmp_path: Path) -> None:
    life = Life(tmp_path, requires_secure=True)

    (answer,) = await life.do(ahead(2, EVALUATE, version=2))

    assert not answer.HasField("prepared")
    assert (life.trained, held_in(tmp_path, 2)) == ([], None)


async def test_training_ahead_of_no_version_is_refused(tmp_path: Path) -> None:
    life = Life(tmp_path)

    (answer,) = await life.do(task(2, PREPARE))

    assert answer.failure.reason == ("task must be one of an asynchronous run: it names no version")
    assert (life.trained, life.transfer.reports) == ([], [])


@pytest.mark.parametrize("claimed", ["training", "central", "secure.privacy"])
async def test_a_site_with_a_budget_brings_no_update_that_it_made_ahead(
    tmp_path: Path, claimed: str
) -> None:
    await Life(tmp_path).do(ahead(2, PREPARE, version=2))
    limits = limits_of(ClientSettings(budget_epsilon=3.0), "site-1")
    life = Life(tmp_path, ledger=SiteLedger(tmp_path, "site-1", SystemClock(), limits))
    asked = ahead(6, TRAIN, version=2)
    attrgetter(claimed)(asked).SetInParent()

    (answer,) = await life.do(asked)

    assert "this site has a privacy budget" in answer.failure.reason
    assert life.transfer.reports == []


async def test_what_is_withdrawn_while_it_is_made_is_not_held(tmp_path: Path) -> None:
    life = Life(tmp_path)
    loop = asyncio.get_running_loop()
    withdrawn = pb.Cancel(key=pb.TaskKey(run_id="run-a", round=2, kind=PREPARE))

    def withdraw() -> None:
        asyncio.run_coroutine_threadsafe(withdrawing(), loop).result(10)

    async def withdrawing() -> None:
        life.runner.cancel(withdrawn)

    life.during = withdraw

    assert await life.do(ahead(2, PREPARE, version=2)) == []

    assert held_in(tmp_path, 2) is None


async def test_what_is_withdrawn_while_it_is_made_and_asked_anew_is_made_anew(
    tmp_path: Path,
) -> None:
    life, again = Life(tmp_path), ahead(2, PREPARE, version=2)
    again.attempt = 2
    loop = asyncio.get_running_loop()

    async def asking_anew() -> None:
        life.runner.cancel(pb.Cancel(key=pb.TaskKey(run_id="run-a", round=2, kind=PREPARE)))
        life.runner.take(again)

    def ask_anew() -> None:
        life.during = lambda: None
        asyncio.run_coroutine_threadsafe(asking_anew(), loop).result(10)

    life.during = ask_anew

    (answer,) = await life.do(ahead(2, PREPARE, version=2))

    assert answer.HasField("prepared")
    assert life.trained == [3, 3]


@pytest.fixture
def answers(tmp_path: Path) -> Answers:
    return Answers(tmp_path)


async def test_a_round_that_is_over_withdraws_nothing_that_is_made_ahead(answers: Answers) -> None:
    for number in range(3):
        answers.runner.take(ahead(number, PREPARE, version=number))

    answers.runner.cancel(pb.Cancel(key=pb.TaskKey(run_id="run-a", round=2)))

    assert await answers.until_idle() == [("run-a", number, PREPARE) for number in range(3)]


async def test_tasks_without_end_do_not_fill_the_memory(answers: Answers) -> None:
    for number in range(300):
        answers.runner.take(ahead(number, PREPARE, version=number))

    assert await answers.until_idle() == [("run-a", number, PREPARE) for number in range(256)]


async def test_what_is_made_ahead_is_withdrawn_by_version_and_alone(answers: Answers) -> None:
    for number in range(4):
        answers.runner.take(ahead(number, PREPARE, version=number))
    answers.runner.take(task(1, EVALUATE))
    answers.runner.take(task(1, TRAIN, "run-b"))

    answers.runner.cancel(pb.Cancel(key=pb.TaskKey(run_id="run-a", round=2, kind=PREPARE)))

    assert await answers.until_idle() == [
        ("run-a", 3, PREPARE),
        ("run-a", 1, EVALUATE),
        ("run-b", 1, TRAIN),
    ]


async def test_version_0_is_withdrawn_without_the_rest_of_the_run(
    answers: Answers, tmp_path: Path
) -> None:
    await Life(tmp_path).do(ahead(2, PREPARE, version=2))
    answers.runner.take(ahead(0, PREPARE, version=0))
    answers.runner.take(task(1, TRAIN))

    answers.runner.cancel(pb.Cancel(key=pb.TaskKey(run_id="run-a", kind=PREPARE)))

    assert await answers.until_idle() == [("run-a", 1, TRAIN)]
    assert held_in(tmp_path, 2) is not None


async def test_the_end_of_a_run_lets_go_of_what_was_made_ahead(
    answers: Answers, tmp_path: Path
) -> None:
    await Life(tmp_path).do(ahead(2, PREPARE, version=2))
    answers.runner.take(ahead(3, PREPARE, version=3))

    answers.runner.cancel(pb.Cancel(key=pb.TaskKey(run_id="run-a")))

    assert await answers.until_idle() == []
    async with asyncio.timeout(30):
        while held_in(tmp_path, 2) is not None:
            await asyncio.sleep(0)
