"""Which tasks a client still does when the coordinator has gone on."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from kumiai.core.codec import encode
from kumiai.core.errors import DeadlineError
from kumiai.node.client.tasks import TaskRunner
from kumiai.node.client.transfer import ModelFile
from kumiai.node.study import App, Context, Evaluation, Site
from kumiai.node.wire import kumiai_pb2 as pb

TRAIN, EVALUATE = pb.TASK_KIND_TRAIN, pb.TASK_KIND_EVALUATE


def task(number: int, kind: pb.TaskKind, run_id: str = "run-a") -> pb.Task:
    key = pb.TaskKey(run_id=run_id, round=number, kind=kind)
    return pb.Task(key=key, app="heart", deadline_seconds=60, attempt=1, config_json="{}")


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
        async with asyncio.timeout(5):
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
    first, again = task(1, TRAIN), task(1, TRAIN)
    again.attempt = 2
    runner.take(first)

    serving = asyncio.create_task(runner.serve())
    async with asyncio.timeout(5):
        while not runner.is_idle:
            await asyncio.sleep(0)
    serving.cancel()
    await asyncio.wait({serving})

    assert transfer.calls == 2
    failures = [each.failure.reason for each in sent if each.HasField("failure")]
    assert failures == ["attempt 2 broke"]


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
    """A transfer that has one model."""

    def __init__(self, folder: Path) -> None:
        arrays = {"w": np.zeros(2, np.float32)}
        self._file = ModelFile(folder / "models" / "m.safetensors", "digest")
        self._file.path.parent.mkdir()
        self._file.path.write_bytes(b"".join(encode(arrays)))

    async def fetch_model(self, *_: Any, **__: Any) -> ModelFile:
        return self._file


@pytest.mark.parametrize(("heeds", "blamed"), [(True, []), (False, ["heart"])])
async def test_a_study_that_does_not_heed_a_withdrawal_is_named_in_the_log(
    tmp_path: Path, heeds: bool, blamed: list[str]
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
        heed_seconds=0.05,
    )
    with capture_logs() as logged:
        serving = asyncio.create_task(runner.serve())
        runner.take(task(1, EVALUATE))
        await asyncio.to_thread(begun.wait, 5)
        runner.cancel(pb.Cancel(key=pb.TaskKey(run_id="run-a")))
        async with asyncio.timeout(5):
            while not runner.is_idle and not warnings(logged):
                await asyncio.sleep(0)
            end.set()
            while not runner.is_idle:
                await asyncio.sleep(0)
        serving.cancel()
        await asyncio.wait({serving})

    assert [each["app"] for each in warnings(logged)] == blamed


def warnings(logged: Any) -> list[Any]:
    return [each for each in logged if each["log_level"] == "warning"]
