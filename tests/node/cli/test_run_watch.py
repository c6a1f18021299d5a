import io
import sys
from typing import Any

import pytest
from rich.console import Console

from kumiai.node.cli.run_watch import RunPicture, _drawn, event_line, watcher
from kumiai.node.cli.transfer_bar import transfer_bar
from kumiai.node.operator.events import ServerSentEvent


def row(kind: str, number: int | None = 1, **more: Any) -> ServerSentEvent:
    data = {
        "seq": 1,
        "round": number,
        "at": 100.0,
        "level": "info",
        "kind": kind,
        "client_id": None,
        "text": f"{kind}!",
        "data": None,
    }
    return ServerSentEvent(1, "event", data | more)


def progress(number: int, stage: str, **counts: int) -> ServerSentEvent:
    zero = dict.fromkeys(("assigned", "reported", "failed", "refused", "late"), 0)
    return ServerSentEvent(
        None,
        "progress",
        {
            "round": number,
            "rounds_total": 3,
            "state": "running",
            "stage": stage,
            "counts": zero | counts,
            "deadline_at": 0.0,
            "phases": {f"site-{n}": "train" for n in range(8)} if counts else {},
        },
    )


STORY = [
    row("run_submitted", None),
    progress(0, "published"),
    row("waiting", None, text="waiting for clients"),
    row("round_opened", data={"clients": 4, "target": 4, "quorum": 3}),
    progress(1, "collecting", assigned=3, reported=1),
    row("train_failed", level="warning", client_id="site-2", text="out of \x1b[31mmemory"),
]
END = [
    row("round_closed", data={"reports": 3}),
    row(
        "round_published",
        at=102.5,
        data={"reports": 3, "examples": 30, "metrics": {"loss": 0.5}},
    ),
    row("evaluation_opened", 1, text="model of round 1 goes to 4 clients", data={"clients": 4}),
    row("model_evaluated", data={"reports": 4, "metrics": {"accuracy": 0.9}}),
    ServerSentEvent(None, "end", {"state": "finished", "reason": "all 3 rounds are done"}),
]


def told(*events: ServerSentEvent) -> RunPicture:
    picture = RunPicture()
    for event in events:
        picture.take(event)
    return picture


def test_an_open_round_shows_who_has_reported() -> None:
    picture = told(*STORY)

    assert picture.published == 0
    assert picture.rounds_total == 3
    assert (picture.rounds[1].reported, picture.rounds[1].clients) == (1, 4)
    assert picture.doing.startswith("round 1: 1 of 4 reported (site-0 train")
    assert picture.doing.endswith("…)")
    assert picture.trouble == "out of \ufffd[31mmemory"
    assert picture.rounds[1].seconds is None


def test_a_round_that_is_done_shows_what_it_gave() -> None:
    picture = told(*STORY, *END)

    line = picture.rounds[1]
    assert (line.stage, line.examples, line.seconds) == ("published", 30, 2.5)
    assert line.metrics == {"loss": 0.5}
    assert line.evaluation == {"accuracy": 0.9}
    assert (picture.published, picture.state) == (1, "finished")
    assert picture.doing == "all 3 rounds are done"
    assert picture.trouble == ""


@pytest.mark.parametrize(
    ("event", "doing"),
    [
        (STORY[3], "round 1: 0 of 4 reported"),
        (row("round_closed", data={"reports": 1}), "round 1: aggregating 1 update"),
        (END[0], "round 1: aggregating 3 updates"),
        (END[1], "round 1 is published"),
        (END[2], "model of round 1 goes to 4 clients"),
        (row("stop_requested", text="stopped by ada: enough"), "stopped by ada: enough"),
    ],
)
def test_what_goes_on_now_is_told_with_each_step(event: ServerSentEvent, doing: str) -> None:
    assert told(*STORY, event).doing == doing


def test_a_run_that_ends_without_a_reason_shows_its_state() -> None:
    event = ServerSentEvent(None, "end", {"state": "stopped", "reason": None})

    assert told(event).doing == "stopped"


def test_a_lost_connection_is_trouble_until_the_next_word() -> None:
    lost = ServerSentEvent(None, "lost", {"reason": "gone"})

    assert told(lost).trouble == "connection lost, trying again: gone"
    assert told(lost, row("run_started")).trouble == ""


def test_a_round_at_rest_changes_nothing() -> None:
    assert told(progress(1, "published", reported=2)).doing == "waiting for a coordinator"


def test_without_anybody_at_work_nobody_is_named() -> None:
    event = progress(1, "collecting")

    assert told(event).doing == "round 1: 0 of 0 reported"


@pytest.mark.parametrize("events", [STORY, [*STORY, *END]])
def test_the_picture_is_drawn_in_full(events: list[ServerSentEvent]) -> None:
    console = Console(file=io.StringIO(), width=140)

    console.print(_drawn(told(*events), "BAR"))

    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "BAR" in text
    assert ("3/4" in text) == (len(events) > len(STORY))
    assert ("memory" in text) == (len(events) == len(STORY))


def test_of_many_rounds_the_last_are_drawn() -> None:
    picture = told(*(row("round_opened", n, data={"clients": 1}) for n in range(1, 40)))
    console = Console(file=io.StringIO(), width=140)

    console.print(_drawn(picture, ""))

    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line.split()[0] for line in lines if "collecting" in line] == [
        str(n) for n in range(28, 40)
    ]


def test_a_line_says_when_who_what_and_how_good() -> None:
    failed = STORY[-1].data
    published = END[1].data

    assert event_line(failed) == ("1970-01-01 00:01:40  warning: site-2: out of \ufffd[31mmemory")
    assert event_line(published) == "1970-01-01 00:01:42  round_published!; loss 0.5"


def test_why_a_run_was_stopped_is_told_once() -> None:
    lines = [
        event_line(row(kind, text="enough").data) for kind in ("stop_requested", "run_stopped")
    ]

    assert [line.partition("  ")[2] for line in lines] == ["enough", "the run has stopped"]


def test_in_a_pipe_each_event_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with watcher() as show:
        for event in [*STORY, ServerSentEvent(None, "lost", {"reason": "gone"}), *END]:
            show(event)

    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 8
    assert captured.err == "connection lost, trying again: gone\n"


def test_on_a_terminal_the_picture_is_drawn_anew(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "140")

    with watcher() as show:
        for event in [*STORY, *END]:
            show(event)

    assert "all 3 rounds are done" in capsys.readouterr().out


@pytest.mark.parametrize("terminal", [True, False])
def test_a_transfer_has_a_bar_on_a_terminal_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)

    with transfer_bar("model") as begin:
        passed = begin(1000)
        passed(500)
        passed(500)

    assert ("model" in capsys.readouterr().err) is terminal
