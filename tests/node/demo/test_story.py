"""The story's turns that a healthy demo never takes, told over a stand-in federation."""

import asyncio
import io
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from kumiai.core.clock import SystemClock
from kumiai.core.errors import ConfigError, KumiaiError, StorageError
from kumiai.node.demo import DemoOptions
from kumiai.node.demo.options import new_plan
from kumiai.node.demo.screens import PlainScreen
from kumiai.node.demo.story import DemoStory
from kumiai.node.operator.events import ServerSentEvent


def event(kind: str, round_number: int, **data: Any) -> ServerSentEvent:
    return ServerSentEvent(1, "event", {"kind": kind, "round": round_number, "data": data})


def end(state: str, reason: str) -> ServerSentEvent:
    return ServerSentEvent(None, "end", {"state": state, "reason": reason})


OPENED = event("round_opened", 1, target=2)
ENDED = end("finished", "all rounds are done")
METRICS = {"loss": 0.1, "accuracy": 0.9}


class StandInProcess:
    def __init__(self) -> None:
        self.signals: list[signal.Signals] = []

    def send(self, number: signal.Signals) -> None:
        self.signals.append(number)

    def verify_running(self) -> None:
        raise KumiaiError("a process ended")


@dataclass
class StandInApi:
    events: list[ServerSentEvent]
    explanations: list[dict[str, Any]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Opened by the client's return; the events after the opening of round 1 wait for it."""
    error: KumiaiError | None = None

    async def submit(self, _job: object, _model: object) -> str:
        return "run-1"

    async def stream(self, _run_id: str) -> AsyncIterator[ServerSentEvent]:
        for each in self.events:
            if each is not OPENED and OPENED in self.events:
                await self.gate.wait()
            yield each
        if self.error is not None:
            raise self.error

    async def explain(self, _run_id: str) -> dict[str, Any]:
        return self.explanations.pop(0) if len(self.explanations) > 1 else self.explanations[0]

    async def model(self, _run_id: str) -> bytes:
        return b"model"


class StandInFederation:
    def __init__(self, api: StandInApi, *, dead: StandInProcess | None = None) -> None:
        self.api = api
        self.victim = StandInProcess()
        self.clients = {"site-2": self.victim}
        self.dead = dead
        self.killed: list[str] = []

    async def start(self, *, on_step: Callable[[str], None]) -> None:
        on_step("up")

    async def wait_for_unwanted_end(self) -> StandInProcess:
        if self.dead is None:
            await asyncio.Event().wait()
        assert self.dead is not None
        return self.dead

    async def kill_client(self, name: str) -> None:
        self.killed.append(name)

    async def start_client(self, name: str) -> None:
        pass

    async def wait_until_attached(self, names: list[str]) -> None:
        self.api.gate.set()


def explanation(state: str, *, kind: str = "train", number: int = 1, total: int = 3) -> Any:
    client = {"client": "site-2", "kind": kind, "state": state}
    other = {"client": "site-1", "kind": kind, "state": "assigned"}
    return {"round": number, "rounds_total": total, "clients": [client, other]}


def new_story(
    federation: StandInFederation, out: Path, *, clients: int = 3, kill: bool = True
) -> tuple[DemoStory, io.StringIO]:
    plan = new_plan(DemoOptions(clients=clients, rounds=3, kill=kill, out=out))
    told = io.StringIO()
    return DemoStory(plan, federation, PlainScreen(told), SystemClock()), told  # type: ignore[arg-type]


async def test_a_round_may_go_on_without_the_killed_client(tmp_path: Path) -> None:
    events = [
        OPENED,
        event("round_published", 1, reports=1),
        event("model_evaluated", 1, metrics=METRICS),
        ENDED,
    ]
    federation = StandInFederation(StandInApi(events, [explanation("assigned")]))
    story, told = new_story(federation, tmp_path / "m")

    result = await story.tell()

    assert result.comeback is not None
    assert not result.comeback.took_part
    assert federation.killed == ["site-2"]
    assert "closed with 1 of 2 reports, without site-2" in told.getvalue()
    assert (tmp_path / "m").read_bytes() == b"model"


@pytest.mark.parametrize(
    ("clients", "told_as"),
    [
        (3, "updates hidden by masks, their sum checked and signed by the sites"),
        (2, "updates in the open: to hide them takes three sites"),
    ],
)
async def test_it_says_who_sees_the_updates(tmp_path: Path, clients: int, told_as: str) -> None:
    federation = StandInFederation(StandInApi([ENDED]))
    story, told = new_story(federation, tmp_path / "m", clients=clients, kill=False)

    await story.tell()

    assert f"run run-1 submitted: 3 rounds; {told_as}" in told.getvalue()


async def test_a_client_is_killed_only_while_it_is_waited_for(tmp_path: Path) -> None:
    explanations = [
        explanation("reported", number=1),
        explanation("assigned", kind="evaluate", number=1),
        explanation("assigned", number=2),
        explanation("reported", number=2),
        explanation("assigned", kind="evaluate", number=3),
    ]
    federation = StandInFederation(StandInApi([OPENED, ENDED], explanations))
    story, _ = new_story(federation, tmp_path / "m")

    result = await story.tell()

    assert result.comeback is not None
    assert result.comeback.round == 3


async def test_a_run_that_is_over_too_soon_kills_nobody(tmp_path: Path) -> None:
    federation = StandInFederation(StandInApi([ENDED], [explanation("reported")]))
    story, _ = new_story(federation, tmp_path / "m")
    story._picture.line(0)

    result = await story.tell()

    assert result.comeback is None
    assert federation.killed == []
    assert federation.victim.signals[-1] == signal.SIGCONT


async def test_a_failed_run_is_an_error_with_its_reason(tmp_path: Path) -> None:
    federation = StandInFederation(StandInApi([end("failed", "quorum lost")]))
    story, _ = new_story(federation, tmp_path / "m", kill=False)

    with pytest.raises(KumiaiError, match="run run-1 failed: quorum lost"):
        await story.tell()


async def test_a_dead_process_is_a_better_reason_than_its_broken_connection(
    tmp_path: Path,
) -> None:
    api = StandInApi([], error=KumiaiError("cut off"))
    story, _ = new_story(StandInFederation(api, dead=StandInProcess()), tmp_path / "m", kill=False)

    with pytest.raises(KumiaiError, match="a process ended"):
        await story.tell()


async def test_a_broken_connection_alone_is_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kumiai.node.demo.story._LAST_WORDS_SECONDS", 0.0)
    api = StandInApi([], error=KumiaiError("cut off"))
    story, _ = new_story(StandInFederation(api), tmp_path / "m", kill=False)

    with pytest.raises(KumiaiError, match="cut off"):
        await story.tell()


async def test_a_model_that_can_not_be_written_is_an_error(tmp_path: Path) -> None:
    federation = StandInFederation(StandInApi([ENDED]))
    story, _ = new_story(federation, tmp_path, kill=False)

    with pytest.raises(StorageError, match="can not be written"):
        await story.tell()


async def test_yardsticks_that_fail_fail_the_demo(tmp_path: Path) -> None:
    story, _ = new_story(StandInFederation(StandInApi([ENDED])), tmp_path / "m", kill=False)
    story._plan = replace(story._plan, sites={"site-1": {"partition": 3, "partitions": 2}})

    with pytest.raises(ConfigError, match="partition"):
        await story.tell()
