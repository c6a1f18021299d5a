"""What is shown: to a person at a terminal, in a file, to a program."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from kumiai.node.demo.picture import RoundLine, RunPicture
from kumiai.node.demo.result import Comeback, DemoResult, PrivateFacts
from kumiai.node.demo.screens import JsonScreen, PlainScreen, TerminalScreen
from kumiai.node.studies import Baselines


@pytest.fixture
def picture() -> RunPicture:
    picture = RunPicture(rounds_total=3)
    picture.lines[0] = RoundLine(0, loss=2.3, accuracy=0.1)
    picture.lines[1] = RoundLine(1, 2, 2, is_published=True, loss=1.5, accuracy=0.5)
    picture.lines[2] = RoundLine(2, 1, 2)
    picture.phases = {"site-1": "training"}
    picture.out = {"site-2": "killed in round 2"}
    return picture


@pytest.fixture
def result(picture: RunPicture) -> DemoResult:
    return DemoResult(
        study="digits",
        run_id="run-1",
        history=(picture.lines[0], picture.lines[1]),
        yardsticks=Baselines("accuracy", {"site-1": 0.25, "site-2": 0.35}, 0.9),
        comeback=Comeback("site-2", 2, 1.25, reports=2, wanted=2),
        model=Path("m.safetensors"),
        start_seconds=1.5,
        run_seconds=2.5,
    )


def test_plain_lines_come_once_each(picture: RunPicture) -> None:
    stream = io.StringIO()
    screen = PlainScreen(stream)

    screen.step("ready")
    screen.show(picture)
    screen.show(picture)
    screen.note("something happened")
    screen.say(["next"])
    screen.close()

    assert stream.getvalue().splitlines() == [
        "ready",
        "round   0 of 3: initial model,    loss 2.300, accuracy 10.0 %",
        "round   1 of 3: 2 of 2 reports,   loss 1.500, accuracy 50.0 %",
        "something happened",
        "next",
    ]


def test_plain_results_stand_one_below_the_other(result: DemoResult) -> None:
    stream = io.StringIO()

    PlainScreen(stream).result(result)

    told = stream.getvalue()
    assert "local only    30.0 %  each site its own model, 25.0 % to 35.0 %" in told
    assert "federated     50.0 %" in told
    assert "pooled        90.0 %" in told
    assert "3 processes started in 1.5 s, 1 rounds took 2.5 s" in told


def new_terminal(height: int = 40) -> tuple[TerminalScreen, io.StringIO]:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, color_system=None, width=100, height=height)
    return TerminalScreen(console), stream


def test_a_terminal_shows_rounds_and_who_is_out(picture: RunPicture) -> None:
    screen, stream = new_terminal()

    screen.step("ready")
    screen.note("something happened")
    screen.show(picture)
    screen.close()

    told = stream.getvalue()
    assert "✓ ready" in told
    assert "▸ something happened" in told
    assert "│ start │         │ 2.300 │   10.0 %" in told
    assert "│     2 │  1 of 2 │       │" in told
    assert "● site-1 training" in told
    assert "✗ site-2 killed in round 2" in told


def test_a_low_terminal_shows_the_last_rounds(picture: RunPicture) -> None:
    screen, stream = new_terminal(height=5)
    picture.lines[3] = RoundLine(3, 0, 2)

    screen.show(picture)
    screen.close()

    assert "start" not in stream.getvalue()


def test_at_the_end_a_terminal_shows_everything(picture: RunPicture, result: DemoResult) -> None:
    screen, stream = new_terminal()

    screen.show(picture)
    screen.result(result)
    screen.say(["kumiai run show [run-1]"])
    screen.close()

    told = stream.getvalue()
    assert "│ local only │   30.0 % │ each site its own model, 25.0 % to 35.0 %" in told
    assert told.endswith("kumiai run show [run-1]\n")


def test_a_terminal_can_show_a_result_without_having_followed(result: DemoResult) -> None:
    screen, stream = new_terminal()

    screen.result(result)

    assert "pooled" in stream.getvalue()


def test_a_program_gets_one_document(picture: RunPicture, result: DemoResult) -> None:
    stream = io.StringIO()
    screen = JsonScreen(stream)

    screen.step("ready")
    screen.note("something happened")
    screen.show(picture)
    screen.result(result)
    screen.say(["next"])
    screen.close()

    document = json.loads(stream.getvalue())
    assert document["accuracy"] == {
        "local_only": pytest.approx(0.3),
        "federated": 0.5,
        "pooled": 0.9,
    }
    assert document["killed"] == {
        "client": "site-2",
        "round": 2,
        "away_seconds": 1.25,
        "reports": 2,
        "wanted": 2,
        "took_part": True,
    }
    assert document["rounds"] == 1
    assert len(document["history"]) == 2


def test_a_round_that_went_on_without_the_client_says_so() -> None:
    assert not Comeback("site-2", 2, 1.25, reports=1, wanted=2).took_part


@pytest.fixture
def private(result: DemoResult) -> DemoResult:
    return replace(result, privacy=PrivateFacts("record", 1.7, 1e-4, 9.8, 0.75, 0.8))


def test_a_private_run_shows_its_promise_and_what_noise_costs(private: DemoResult) -> None:
    stream = io.StringIO()

    PlainScreen(stream).result(private)

    told = stream.getvalue()
    assert "federated     75.0 %" in told
    assert "noise-free    80.0 %  the same steps, simulated" in told
    assert "epsilon         1.70  at delta 0.0001, for each record, over all rounds" in told


def test_a_program_gets_the_promise_too(private: DemoResult) -> None:
    stream = io.StringIO()

    JsonScreen(stream).result(private)

    document = json.loads(stream.getvalue())
    assert document["privacy"]["epsilon"] == 1.7
    assert document["accuracy"]["federated"] == document["privacy"]["accuracy"] == 0.75


def test_rounds_of_a_private_run_are_told_without_measures() -> None:
    stream = io.StringIO()
    picture = RunPicture(rounds_total=2, is_private=True)
    picture.lines[0] = RoundLine(0)
    picture.lines[1] = RoundLine(1, 3, 3, is_published=True)
    picture.lines[2] = RoundLine(2, 1, 3)

    PlainScreen(stream).show(picture)

    assert stream.getvalue().splitlines() == [
        "round   0 of 2: initial model",
        "round   1 of 2: 3 of 3 reports",
    ]
