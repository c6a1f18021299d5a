"""Which tasks a client still does when the coordinator has gone on."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from kumiai.node.client.tasks import TaskRunner
from kumiai.node.study import Site
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
