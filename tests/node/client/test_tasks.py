"""Which tasks a client still does when the coordinator has gone on."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from kumiai.core.clock import SystemClock
from kumiai.core.codec import encode
from kumiai.core.errors import DeadlineError
from kumiai.node.client.budget import SiteLedger, limits_of, read_copy
from kumiai.node.client.deltas import ArraysUpload, DeltaUpload
from kumiai.node.client.tasks import TaskRunner
from kumiai.node.client.transfer import ModelFile, PutReport
from kumiai.node.settings import ClientSettings
from kumiai.node.study import App, Context, Evaluation, Site, Update
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.privacy import PoissonDiscreteGaussianEvent, event_to_json

TRAIN, EVALUATE = pb.TASK_KIND_TRAIN, pb.TASK_KIND_EVALUATE


def task(number: int, kind: pb.TaskKind, run_id: str = "run-a") -> pb.Task:
    key = pb.TaskKey(run_id=run_id, round=number, kind=kind)
    return pb.Task(key=key, app="heart", deadline_seconds=60, attempt=1, config_json="{}")


def anew(asked: pb.Task, attempt: int = 2) -> pb.Task:
    """Return the same task as it is asked again."""
    message = pb.Task()
    message.CopyFrom(asked)
    message.attempt = attempt
    return message


class Answers:
    """A runner without any app: what it does at all, it answers with a failure."""

    def __init__(self, tmp_path: Path) -> None:
        self.given: list[tuple[str, int, int]] = []
        no_transfer: Any = None
        self.runner = TaskRunner(
            apps={},
            site=Site("site-1", {}),
            transfer=no_transfer,
            state_dir=tmp_path,
            send=self._send,
        )

    def _send(self, message: pb.ClientMessage) -> None:
        key = message.failure.key
        self.given.append((key.run_id, key.round, key.kind))

    async def until_idle(self) -> list[tuple[str, int, int]]:
        serving = asyncio.create_task(self.runner.serve())
        async with asyncio.timeout(30):
            while not self.runner.is_idle:
                await asyncio.sleep(0)
        serving.cancel()
        await asyncio.wait({serving})
        return self.given


@pytest.fixture
def answers(tmp_path: Path) -> Answers:
    return Answers(tmp_path)


async def test_a_slow_client_drops_what_the_run_has_left_behind(answers: Answers) -> None:
    for number in range(1, 4):
        answers.runner.take(task(number - 1, EVALUATE))
        answers.runner.take(task(number, TRAIN))

    answers.runner.cancel(pb.Cancel(key=pb.TaskKey(run_id="run-a", round=2)))

    assert await answers.until_idle() == [("run-a", 2, EVALUATE), ("run-a", 3, TRAIN)]


async def test_the_end_of_a_run_drops_all_of_it_and_nothing_of_another(answers: Answers) -> None:
    answers.runner.take(task(1, TRAIN))
    answers.runner.take(task(1, EVALUATE))
    answers.runner.take(task(1, TRAIN, "run-b"))

    answers.runner.cancel(pb.Cancel(key=pb.TaskKey(run_id="run-a")))

    assert await answers.until_idle() == [("run-b", 1, TRAIN)]


async def test_a_failure_that_was_overtaken_by_a_new_attempt_is_tried_again(
    tmp_path: Path,
) -> None:
    sent: list[pb.ClientMessage] = []
    transfer: Any = BreaksTwice()
    runner = TaskRunner(
        apps={"heart": App("heart")},
        site=Site("site-1", {}),
        transfer=transfer,
        state_dir=tmp_path,
        send=sent.append,
    )
    transfer.on_call = lambda: runner.take(again)
    first, again = task(1, TRAIN), anew(task(1, TRAIN))
    runner.take(first)

    await done(runner)

    assert transfer.calls == 2
    failures = [each.failure for each in sent if each.HasField("failure")]
    assert [(each.reason, each.attempt) for each in failures] == [("attempt 2 broke", 2)]


class BreaksTwice:
    """A transfer that fails; while it does so for the first time the round is extended."""

    def __init__(self) -> None:
        self.calls = 0
        self.on_call = lambda: None

    async def fetch_model(self, *_: Any, **__: Any) -> None:
        self.calls += 1
        self.on_call()
        raise DeadlineError(f"attempt {self.calls} broke")


class OneModel:
    """A transfer that has one model, and answers every update alike."""

    def __init__(self, folder: Path, outcome: pb.PutOutcome = pb.PUT_OUTCOME_ACCEPTED) -> None:
        self._outcome = outcome
        self.reports: list[PutReport] = []
        self.first: list[pb.PutResult] = []
        """What is answered before that."""
        self.amid: list[Callable[[], None]] = []
        """What happens while an update moves."""
        arrays = {"w": np.zeros(2, np.float32)}
        self._file = ModelFile(folder / "models" / "m.safetensors", "digest")
        self._file.path.parent.mkdir()
        self._file.path.write_bytes(b"".join(encode(arrays)))

    async def fetch_model(self, *_: Any, **__: Any) -> ModelFile:
        return self._file

    async def send_update(self, _: DeltaUpload, report: PutReport, **__: Any) -> pb.PutResult:
        self.reports.append(report)
        if self.amid:
            self.amid.pop(0)()
        if self.first:
            return self.first.pop(0)
        return pb.PutResult(outcome=self._outcome, reason="the round is closed")


@pytest.mark.parametrize(
    ("heeds", "heed_seconds", "blamed"), [(True, 20.0, []), (False, 0.05, ["heart"])]
)
async def test_a_study_that_does_not_heed_a_withdrawal_is_named_in_the_log(
    tmp_path: Path, heeds: bool, heed_seconds: float, blamed: list[str]
) -> None:
    app, begun, end = App("heart"), threading.Event(), threading.Event()

    @app.evaluate
    def evaluate(_weights: Any, context: Context) -> Evaluation:
        begun.set()
        while not end.wait(0.001):
            if heeds:
                context.check_cancelled()
        return Evaluation(examples=1, metrics={})

    runner = TaskRunner(
        apps={"heart": app},
        site=Site("site-1", {}),
        transfer=OneModel(tmp_path),  # type: ignore[arg-type]
        state_dir=tmp_path,
        send=lambda _: None,
        heed_seconds=heed_seconds,
    )
    with capture_logs() as logged:
        serving = asyncio.create_task(runner.serve())
        runner.take(task(1, EVALUATE))
        await asyncio.to_thread(begun.wait, 5)
        runner.cancel(pb.Cancel(key=pb.TaskKey(run_id="run-a")))
        async with asyncio.timeout(30):
            while not runner.is_idle and not warnings(logged):
                await asyncio.sleep(0)
            end.set()
            while not runner.is_idle:
                await asyncio.sleep(0)
        serving.cancel()
        await asyncio.wait({serving})

    assert [(each["app"], each["task"]) for each in warnings(logged)][:1] == [
        (name, "evaluate") for name in blamed
    ]


@pytest.mark.parametrize("is_withdrawn", [True, False])
async def test_a_study_that_never_ends_is_named_again_and_again_with_its_age(
    tmp_path: Path, is_withdrawn: bool
) -> None:
    app, begun, end = App("heart"), threading.Event(), threading.Event()

    @app.train
    def train(weights: Any, _context: Context) -> Update:
        begun.set()
        end.wait(30)
        return Update(dict(weights), examples=1)

    runner = TaskRunner(
        apps={"heart": app},
        site=Site("site-1", {}),
        transfer=OneModel(tmp_path),  # type: ignore[arg-type]
        state_dir=tmp_path,
        send=lambda _: None,
        heed_seconds=0.05,
    )
    asked = task(3, TRAIN)
    asked.deadline_seconds = 60.0 if is_withdrawn else 0.0
    with capture_logs() as logged:
        serving = asyncio.create_task(runner.serve())
        runner.take(asked)
        await asyncio.to_thread(begun.wait, 30)
        if is_withdrawn:
            runner.cancel(pb.Cancel(key=pb.TaskKey(run_id="run-a", round=3)))
        async with asyncio.timeout(30):
            while len(warnings(logged)) < 3:
                await asyncio.sleep(0)
            end.set()
            while not runner.is_idle:
                await asyncio.sleep(0)
        serving.cancel()
        await asyncio.wait({serving})

    told = [each for each in warnings(logged) if each["event"].startswith("study goes on")]
    word = "was withdrawn" if is_withdrawn else "deadline is over"
    assert len(told) >= 3
    assert all(word in each["event"] for each in told)
    assert {(each["run"], each["round"], each["task"]) for each in told} == {("run-a", 3, "train")}
    assert told[0]["age_seconds"] <= told[-1]["age_seconds"] < 30


async def test_a_study_that_is_asked_anew_in_time_is_not_named(tmp_path: Path) -> None:
    app, end = App("heart"), threading.Event()

    @app.train
    def train(weights: Any, _context: Context) -> Update:
        end.wait(30)
        return Update(dict(weights), examples=1)

    runner = TaskRunner(
        apps={"heart": app},
        site=Site("site-1", {}),
        transfer=OneModel(tmp_path),  # type: ignore[arg-type]
        state_dir=tmp_path,
        send=lambda _: None,
        heed_seconds=0.1,
    )
    first = task(1, TRAIN)
    first.deadline_seconds = 0.0
    with capture_logs() as logged:
        serving = asyncio.create_task(runner.serve())
        runner.take(first)
        async with asyncio.timeout(30):
            while (looks_at := runner._blaming) is None:
                await asyncio.sleep(0)
            runner.take(anew(task(1, TRAIN)))  # no timer is heard before this
            while runner._blaming is looks_at:
                await asyncio.sleep(0)
            end.set()
            while not runner.is_idle:
                await asyncio.sleep(0)
        serving.cancel()
        await asyncio.wait({serving})

    assert [each for each in warnings(logged) if "study goes on" in each["event"]] == []


def counting_app() -> App:
    """Return a study that adds one, and says how far it is."""
    app = App("heart")

    @app.train
    def train(weights: Any, context: Context) -> Update:
        for step in range(101):
            context.report(step / 100, "adding")
        return Update({"w": weights["w"] + 1}, examples=3, metrics={"loss": 0.5})

    @app.evaluate
    def evaluate(_weights: Any, context: Context) -> Evaluation:
        raise OSError(f"/secret/{context.site}.csv")

    return app


async def done(runner: TaskRunner, *tasks: pb.Task) -> None:
    """Have the runner do these tasks."""
    for each in tasks:
        runner.take(each)
    serving = asyncio.create_task(runner.serve())
    async with asyncio.timeout(30):
        while not runner.is_idle:
            await asyncio.sleep(0)
    serving.cancel()
    await asyncio.wait({serving})


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (pb.PUT_OUTCOME_ACCEPTED, {"event": "update accepted", "loss": 0.5}),
        (pb.PUT_OUTCOME_LATE, {"event": "update not accepted", "reason": "the round is closed"}),
    ],
)
async def test_what_became_of_an_update_is_logged(
    tmp_path: Path, outcome: pb.PutOutcome, told: dict[str, Any]
) -> None:
    transfer: Any = OneModel(tmp_path, outcome)
    sent: list[pb.ClientMessage] = []
    runner = TaskRunner(
        apps={"heart": counting_app()},
        site=Site("site-1", {}),
        transfer=transfer,
        state_dir=tmp_path,
        send=sent.append,
    )

    with capture_logs() as logged:
        await done(runner, task(1, TRAIN))

    assert told.items() <= logged[0].items()
    assert transfer.reports == [PutReport("run-a", 1, 1, 3, {"loss": 0.5})]
    fractions = [each.progress.fraction for each in sent if each.progress.text == "adding"]
    assert fractions[:2] == pytest.approx([0.05, 0.1])
    assert 15 <= len(fractions) <= 20  # of a hundred: each message costs the coordinator


async def test_a_study_that_fails_is_told_and_not_begun_again(tmp_path: Path) -> None:
    sent: list[pb.ClientMessage] = []
    transfer: Any = OneModel(tmp_path)
    runner = TaskRunner(
        apps={"heart": counting_app()},
        site=Site("site-1", {}),
        transfer=transfer,
        state_dir=tmp_path,
        send=sent.append,
    )

    with capture_logs() as logged:
        await done(runner, task(1, EVALUATE))
        runner.take(task(1, EVALUATE))

    failures = [each.failure.reason for each in sent if each.HasField("failure")]
    assert len(failures) == 2
    assert failures[0] == failures[1]
    assert "evaluate of app 'heart' failed" in failures[0]
    assert [each["event"] for each in logged] == ["task failed"]
    assert runner.is_idle


async def in_turn(runner: TaskRunner, *tasks: pb.Task) -> None:
    """Have the runner do these tasks, each when the one before is done."""
    serving = asyncio.create_task(runner.serve())
    async with asyncio.timeout(30):
        for each in tasks:
            runner.take(each)
            while not runner.is_idle:
                await asyncio.sleep(0)
    serving.cancel()
    await asyncio.wait({serving})


def overtaken(attempt: int) -> pb.PutResult:
    return pb.PutResult(outcome=pb.PUT_OUTCOME_OVERTAKEN, attempt=attempt)


class Trained:
    """A client of a study that counts how often it trains, and of rounds that hide updates."""

    def __init__(self, folder: Path) -> None:
        self.count = 0
        self.hidden: list[int] = []
        self.sent: list[pb.ClientMessage] = []
        self.transfer: Any = OneModel(folder)
        app, secure = App("heart"), self
        made: Any = secure

        @app.train
        def train(weights: Any, _context: Context) -> Update:
            self.count += 1
            return Update({"w": weights["w"] + 1}, examples=3)

        self.runner = TaskRunner(
            apps={"heart": app},
            site=Site("site-1", {}),
            transfer=self.transfer,
            state_dir=folder,
            send=self.sent.append,
            secure=made,
        )

    async def has_hidden(self, _run_id: str) -> bool:
        return False

    async def mask(self, key: Any, update: Any, *_: Any, **__: Any) -> ArraysUpload:
        """Stand for a round of secure aggregation: other bytes for each attempt."""
        self.hidden.append(key[2])
        return ArraysUpload.prepare({"w": update + key[2]})

    @property
    def attempts(self) -> list[int]:
        """Which ones updates were sent for."""
        return [each.attempt for each in self.transfer.reports]


def hidden(asked: pb.Task) -> pb.Task:
    asked.secure.SetInParent()
    return asked


async def test_an_open_update_that_was_overtaken_goes_into_the_attempt_that_is_asked_for(
    tmp_path: Path,
) -> None:
    site = Trained(tmp_path)
    site.transfer.first = [overtaken(2), overtaken(4)]

    await in_turn(
        site.runner, task(1, TRAIN), *(anew(task(1, TRAIN), attempt) for attempt in (2, 3, 4))
    )

    assert (site.attempts, site.count) == ([1, 2, 4], 1)
    assert failures_of(site.sent) == []


async def test_an_open_update_is_sent_for_the_newest_attempt_that_was_asked_for_meanwhile(
    tmp_path: Path,
) -> None:
    site = Trained(tmp_path)
    site.transfer.amid = [lambda: site.runner.take(anew(task(1, TRAIN)))]
    site.transfer.first = [overtaken(2)]

    await done(site.runner, task(1, TRAIN))

    assert (site.attempts, site.count) == ([1, 2], 1)


async def test_a_coordinator_that_asks_for_no_later_attempt_is_not_sent_an_update_for_ever(
    tmp_path: Path,
) -> None:
    site = Trained(tmp_path)
    site.transfer.first = [overtaken(1)]

    await in_turn(site.runner, task(1, TRAIN), anew(task(1, TRAIN)))

    assert (site.attempts, site.count) == ([1, 2], 2)


async def test_an_update_for_whose_attempt_the_deadline_has_passed_has_time_for_the_next(
    tmp_path: Path,
) -> None:
    site = Trained(tmp_path)
    loop, left = asyncio.get_running_loop(), list[float]()
    send = site.transfer.send_update

    async def sent(upload: Any, report: PutReport, *, until: Any, **rest: Any) -> pb.PutResult:
        left.append(until() - loop.time())
        result: pb.PutResult = await send(upload, report, until=until, **rest)
        return result

    site.transfer.send_update = sent
    site.transfer.first = [overtaken(2)]
    late = task(1, TRAIN)
    late.deadline_seconds = 0.0

    await done(site.runner, late)

    assert left[0] <= 0
    assert 0 < left[1] <= 60


@pytest.mark.parametrize("outcome", [pb.PUT_OUTCOME_OVERTAKEN, pb.PUT_OUTCOME_ACCEPTED])
@pytest.mark.parametrize(("amid", "afterwards"), [([2], []), ([], [2])])
async def test_what_was_hidden_for_an_attempt_answers_no_other(
    tmp_path: Path, outcome: pb.PutOutcome, amid: list[int], afterwards: list[int]
) -> None:
    site, asked = Trained(tmp_path), hidden(task(1, TRAIN))
    site.transfer.first = [pb.PutResult(outcome=outcome, attempt=2)]
    site.transfer.amid = [lambda: site.runner.take(anew(asked, amid[0]))] * len(amid)

    await in_turn(site.runner, asked, *(anew(asked, attempt) for attempt in afterwards))

    assert (site.attempts, site.hidden, site.count) == ([1, 2], [1, 2], 2)
    assert failures_of(site.sent) == []


@pytest.mark.parametrize(("is_withdrawn", "attempts"), [(False, [2]), (True, [])])
async def test_an_attempt_that_is_over_before_it_asks_for_keys_holds_up_no_other(
    tmp_path: Path, *, is_withdrawn: bool, attempts: list[int]
) -> None:
    site, asked, left = Trained(tmp_path), hidden(task(1, TRAIN)), list[float]()
    mask, loop = site.mask, asyncio.get_running_loop()

    async def waits(key: Any, update: Any, weight: Any, *, until: Any) -> ArraysUpload:
        if key[2] > 1:
            return await mask(key, update, weight, until=until)
        if is_withdrawn:
            site.runner.cancel(pb.Cancel(key=asked.key))
        else:
            site.runner.take(anew(asked, 2))
        left.append(until() - loop.time())
        raise DeadlineError("round 1 did not ask for the update in time")

    site.mask = waits

    with capture_logs() as logged:
        await in_turn(site.runner, asked)

    assert left[0] <= 0
    assert "task failed" not in [each["event"] for each in logged]
    assert (site.attempts, failures_of(site.sent)) == (attempts, [])


def private_task() -> pb.Task:
    terms = pb.PrivateTask(unit=pb.PRIVACY_UNIT_RECORD, clip=1.0, step=0.001)
    message = task(1, TRAIN)
    message.secure.CopyFrom(pb.SecureTask(privacy=terms))
    return message


@pytest.mark.parametrize("fault", ["raises", "has other shapes"])
async def test_why_a_study_failed_stays_at_the_site_when_the_run_is_private(
    tmp_path: Path, fault: str
) -> None:
    app = App("heart")

    @app.gradients
    def gradients(_weights: Any, context: Context) -> Any:
        context.report(0.5, "at the record of Ann Example")
        if fault == "raises":
            raise ValueError("no number: 'Ann Example'")
        return {"w": np.zeros((4711, 3))}

    sent: list[pb.ClientMessage] = []
    transfer: Any = OneModel(tmp_path)
    runner = TaskRunner(
        apps={"heart": app},
        site=Site("site-1", {}),
        transfer=transfer,
        state_dir=tmp_path,
        send=sent.append,
    )

    with capture_logs() as logged:
        await done(runner, private_task())

    (reason,) = [each.failure.reason for each in sent if each.HasField("failure")]
    assert reason == "study failed, and a private run is not told why: see the log of this site"
    assert not any("Ann" in str(each) or "4711" in str(each) for each in sent)
    (told,) = warnings(logged)
    assert ("Ann" if fault == "raises" else "4711") in str(told["exc_info"])


async def test_what_is_asked_of_a_private_task_in_public_is_answered_in_words(
    tmp_path: Path,
) -> None:
    sent: list[pb.ClientMessage] = []
    transfer: Any = OneModel(tmp_path)
    runner = TaskRunner(
        apps={"heart": counting_app()},
        site=Site("site-1", {}),
        transfer=transfer,
        state_dir=tmp_path,
        send=sent.append,
    )

    await done(runner, private_task())

    (reason,) = [each.failure.reason for each in sent if each.HasField("failure")]
    assert "must have a function gradients" in reason


@pytest.mark.parametrize("message", [task(1, TRAIN), task(1, EVALUATE)])
@pytest.mark.parametrize("has_budget", [True, False])
async def test_a_site_with_a_budget_gives_nothing_without_noise(
    tmp_path: Path,
    message: pb.Task,
    has_budget: bool,
) -> None:
    sent: list[pb.ClientMessage] = []
    transfer: Any = OneModel(tmp_path)
    settings = ClientSettings(budget_epsilon=3.0 if has_budget else None)
    runner = TaskRunner(
        apps={"heart": counting_app()},
        site=Site("site-1", {}),
        transfer=transfer,
        state_dir=tmp_path,
        send=sent.append,
        ledger=SiteLedger(tmp_path, "site-1", SystemClock(), limits_of(settings, "site-1")),
    )

    await done(runner, message)

    reasons = [each.failure.reason for each in sent if each.HasField("failure")]
    assert any("this site has a privacy budget" in each for each in reasons) is has_budget
    assert not (has_budget and transfer.reports)
    assert any(each.HasField("progress") for each in sent) is not has_budget


def training_task(kind: pb.TaskKind = TRAIN, **changes: Any) -> pb.Task:
    asked = {
        "clip": 1.0,
        "noise_multiplier": 2.0,
        "sampling_rate": 0.5,
        "steps": 3,
        "batch": 4.0,
        "learning_rate": 0.1,
        **changes,
    }
    message = task(1, kind)
    message.training.CopyFrom(pb.TrainingTask(**asked))
    return message


def private_runner(
    tmp_path: Path, app: App, *, budget: float | None = None, has_ledger: bool = True
) -> tuple[TaskRunner, list[pb.ClientMessage], SiteLedger, Any]:
    sent: list[pb.ClientMessage] = []
    limits = limits_of(ClientSettings(budget_epsilon=budget), "site-1")
    ledger = SiteLedger(tmp_path, "site-1", SystemClock(), limits)
    transfer: Any = OneModel(tmp_path)
    runner = TaskRunner(
        apps={"heart": app},
        site=Site("site-1", {}),
        transfer=transfer,
        state_dir=tmp_path,
        send=sent.append,
        ledger=ledger if has_ledger else None,
    )
    return runner, sent, ledger, transfer


def failures_of(sent: list[pb.ClientMessage]) -> list[str]:
    return [each.failure.reason for each in sent if each.HasField("failure")]


def app_with_gradients(gradients: Any) -> App:
    app = counting_app()
    app.gradients(gradients)
    return app


async def test_an_update_with_noise_of_its_own_is_paid_for_and_tells_nothing_else(
    tmp_path: Path,
) -> None:
    app = app_with_gradients(lambda weights, context: {"w": np.ones((9, weights["w"].size))})
    runner, sent, ledger, transfer = private_runner(tmp_path, app, budget=50.0)

    await done(runner, training_task())

    assert failures_of(sent) == []
    (report,) = transfer.reports
    assert (report.examples, report.metrics) == (1, {})
    (charge,) = read_copy(ledger.export()).charges
    assert [dict(each.events) for each in charge.charge.spends] == [
        {event_to_json(PoissonDiscreteGaussianEvent(0.5, 2.0)): 3}
    ]


@pytest.mark.parametrize("marked", [training_task(EVALUATE), task(1, EVALUATE)])
async def test_a_site_with_a_budget_measures_nothing_whatever_the_task_calls_itself(
    tmp_path: Path, marked: pb.Task
) -> None:
    marked.central.CopyFrom(pb.CentralTask(clip=1.0, noise_multiplier=1.0, cohort_size=3))
    runner, sent, _, _ = private_runner(tmp_path, counting_app(), budget=50.0)

    await done(runner, marked)

    (reason,) = failures_of(sent)
    assert "this site has a privacy budget" in reason
    assert not any(each.HasField("evaluation") for each in sent)


async def test_why_a_private_training_failed_stays_at_the_site_and_costs_nothing(
    tmp_path: Path,
) -> None:
    def gradients(weights: Any, context: Context) -> Any:
        raise ValueError("patient Ann has no age")

    runner, sent, ledger, transfer = private_runner(tmp_path, app_with_gradients(gradients))

    with capture_logs() as logged:
        await done(runner, training_task())

    (reason,) = failures_of(sent)
    assert reason == "study failed, and a private run is not told why: see the log of this site"
    assert not any("Ann" in str(each) for each in sent)
    assert "Ann" in str(warnings(logged)[0]["exc_info"])
    assert not read_copy(ledger.export()).charges
    assert not transfer.reports


async def test_a_private_training_that_is_withdrawn_costs_nothing(tmp_path: Path) -> None:
    def gradients(weights: Any, context: Context) -> Any:
        loop.call_soon_threadsafe(
            runner.cancel, pb.Cancel(key=pb.TaskKey(run_id="run-a", round=1, kind=TRAIN))
        )
        while not context.cancelled:
            pass
        return {"w": np.ones((9, weights["w"].size))}

    loop = asyncio.get_running_loop()
    runner, sent, ledger, transfer = private_runner(tmp_path, app_with_gradients(gradients))

    await done(runner, training_task(steps=1))

    assert failures_of(sent) == []
    assert not read_copy(ledger.export()).charges
    assert not transfer.reports


@pytest.mark.parametrize(
    ("has_ledger", "changes", "problem"),
    [
        (False, {}, "this site keeps no ledger"),
        (True, {"noise_multiplier": 0.0}, "noise_multiplier must be greater than 0"),
        (True, {"sampling_rate": 2.0}, "sampling_rate must be from 0 to 1"),
    ],
)
async def test_a_private_training_that_can_not_be_is_refused_in_words(
    tmp_path: Path, has_ledger: bool, changes: dict[str, Any], problem: str
) -> None:
    app = app_with_gradients(lambda weights, context: {"w": np.ones((9, weights["w"].size))})
    runner, sent, _, _ = private_runner(tmp_path, app, has_ledger=has_ledger)

    await done(runner, training_task(**changes))

    (reason,) = failures_of(sent)
    assert problem in reason


def warnings(logged: Any) -> list[Any]:
    return [each for each in logged if each["log_level"] == "warning"]
