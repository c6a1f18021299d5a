import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kumiai.core import failpoints
from kumiai.testing import crash
from kumiai.testing.crash import KillHook, Step


def deaths_of(path: str, *reached: str) -> list[int]:
    """Return after how many arrivals the hook killed; it goes on, unlike a process."""
    deaths: list[int] = []
    seen: list[str] = []
    hook = KillHook(crash.parse(path), note=seen.append, kill=lambda: deaths.append(len(seen)))
    for name in reached:
        hook(name)
    return deaths


def test_a_path_is_read_step_by_step() -> None:
    assert crash.parse("a.b:2 > c") == (Step("a.b", 2), Step("c", 1))


def test_an_empty_path_has_no_step() -> None:
    assert crash.parse("") == ()


@pytest.mark.parametrize("text", [":1", "a:0", "a:x", "a>", "a:-1"])
def test_a_path_that_names_no_arrival_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be name\[:nth\]"):
        crash.parse(text)


def test_it_kills_at_the_nth_arrival() -> None:
    assert deaths_of("a:2", "a", "b", "a", "a") == [3]


def test_a_later_step_is_counted_from_the_one_before() -> None:
    assert deaths_of("a:2>b:2", "b", "a", "b", "a", "b", "a", "b") == [7]


def test_without_a_path_nothing_is_killed() -> None:
    assert deaths_of("", "a", "a") == []


PROGRAM = """
from kumiai.core import failpoints
from kumiai.testing import crash

crash.install_from_environment()
for name in ("first", "second", "first", "third"):
    failpoints.reach(name)
"""


def run(**environment: str) -> int:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, **environment}, check=False
    ).returncode


def test_the_process_dies_by_sigkill_and_what_it_reached_is_on_the_disk(tmp_path: Path) -> None:
    points = tmp_path / "points"

    code = run(KUMIAI_TEST_KILL_AT="first:2", KUMIAI_TEST_POINTS=str(points))

    assert code == -signal.SIGKILL
    assert [line.split()[1] for line in points.read_text().splitlines()] == [
        "first",
        "second",
        "first",
    ]


def test_without_a_place_to_die_it_lives(tmp_path: Path) -> None:
    assert run() == 0


def test_the_command_line_runs_under_the_hook(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kumiai", "--help"])
    monkeypatch.setattr(failpoints, "_hook", None)

    with pytest.raises(SystemExit) as ending:
        crash.main()

    assert ending.value.code == 0
    assert isinstance(failpoints._hook, KillHook)
    assert "coordinator" in capsys.readouterr().out
