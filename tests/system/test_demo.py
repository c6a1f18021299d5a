"""The demo as people start it: a program of its own, with all its processes.

Every process of a demo has the path of its settings, below the folder for temporary files that
the test chose, in its command line: so none can hide.
"""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from kumiai.core.codec import decode

DEMO = (sys.executable, "-m", "kumiai.node.cli", "demo")
LIMIT_SECONDS = 90


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[Path]:
    """Return the demo's folder for temporary files; whatever is left running there is ended."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    yield folder
    for process in processes_of(folder):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def processes_of(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(folder) in " ".join(process.cmdline()):
                found.append(process)
    return found


def environment_of(temporary: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(temporary)}


def run_demo(temporary: Path, *options: str) -> dict[str, Any]:
    """Run a demo to its end and return its document."""
    done = subprocess.run(
        [*DEMO, "--exit", "--json", *options],
        cwd=temporary.parent,
        env=environment_of(temporary),
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def start_demo(temporary: Path, *options: str) -> "subprocess.Popen[str]":
    """Start a demo that tells line by line what it does."""
    return subprocess.Popen(
        [*DEMO, *options],
        cwd=temporary.parent,
        env=environment_of(temporary),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_until(demo: "subprocess.Popen[str]", text: str) -> str:
    """Return the first line with the text."""
    assert demo.stdout is not None
    for line in demo.stdout:
        if text in line:
            return line
    assert demo.stderr is not None
    raise AssertionError(f"the demo ended before it said {text!r}: {demo.stderr.read()}")


def test_a_killed_client_costs_nothing_and_nothing_is_left_behind(temporary: Path) -> None:
    disturbed = run_demo(temporary, "--rounds", "12", "--clients", "3", "--out", "a.safetensors")
    calm = run_demo(
        temporary, "--rounds", "12", "--clients", "3", "--out", "b.safetensors", "--no-kill"
    )

    models = [
        decode((temporary.parent / name).read_bytes()).arrays
        for name in ("a.safetensors", "b.safetensors")
    ]
    # Hidden updates are rounded at random; whoever was left out would move the model far more.
    distance = np.abs(models[0]["output.weight"] - models[1]["output.weight"]).max()
    assert 0 < distance < 0.02
    assert disturbed["killed"]["client"] == "site-2"
    assert disturbed["killed"]["took_part"]
    assert calm["killed"] is None
    assert [line["reports"] for line in disturbed["history"]] == [0] + 12 * [3]
    assert disturbed["accuracy"]["federated"] > 0.9
    assert disturbed["accuracy"]["local_only"] < disturbed["accuracy"]["federated"]
    assert processes_of(temporary) == []
    assert list(temporary.iterdir()) == []


def test_hospitals_train_together(temporary: Path) -> None:
    document = run_demo(temporary, "--study", "heart", "--dp", "--rounds", "4")

    assert len(document["sites"]) == 4
    assert document["killed"]["round"] >= 1
    assert document["killed"]["took_part"]
    assert document["accuracy"]["federated"] > 0.6
    assert document["privacy"]["unit"] == "record"
    assert 1.69 < document["privacy"]["epsilon"] <= 1.7
    assert document["privacy"]["accuracy_without"] > 0.7
    assert document["model"] == str(temporary.parent / "demo-model.safetensors")


@pytest.mark.parametrize("words", ["certificate", "clients attached", "round   1 of 500"])
def test_ctrl_c_stops_everything_at_any_moment(temporary: Path, words: str) -> None:
    with start_demo(temporary, "--rounds", "500", "--clients", "2", "--no-kill") as demo:
        read_until(demo, words)

        demo.send_signal(signal.SIGINT)

        assert demo.wait(timeout=LIMIT_SECONDS) == 128 + signal.SIGINT
    assert processes_of(temporary) == []
    assert list(temporary.iterdir()) == []


def test_no_process_outlives_a_demo_that_was_killed(temporary: Path) -> None:
    with start_demo(temporary, "--rounds", "500", "--clients", "2", "--no-kill") as demo:
        read_until(demo, "clients attached")
        children = processes_of(temporary)

        demo.send_signal(signal.SIGKILL)

        _, alive = psutil.wait_procs(children, timeout=LIMIT_SECONDS)
        assert len(children) == 3
        assert alive == []


def test_a_process_that_dies_unasked_ends_the_demo_with_its_last_words(temporary: Path) -> None:
    with start_demo(temporary, "--rounds", "500", "--clients", "2", "--no-kill") as demo:
        read_until(demo, "round   1 of 500")
        (coordinator,) = [
            process for process in processes_of(temporary) if "coordinator" in process.cmdline()
        ]

        coordinator.kill()

        assert demo.wait(timeout=LIMIT_SECONDS) == 1
        assert demo.stderr is not None
        assert "coordinator must go on running, got its end with exit code -9" in demo.stderr.read()
    assert processes_of(temporary) == []
    assert list(temporary.iterdir()) == []


def test_a_run_that_somebody_stops_fails_the_demo(temporary: Path) -> None:
    folder = temporary / "kept"
    with start_demo(
        temporary, "--rounds", "500", "--clients", "1", "--no-kill", "--dir", str(folder)
    ) as demo:
        run = read_until(demo, "submitted").split()[1]
        stop = [sys.executable, "-m", "kumiai.node.cli", "run", "stop", run, "--reason", "enough"]
        subprocess.run(
            [*stop, "--config", str(folder / "operator" / "kumiai.toml")],
            capture_output=True,
            check=True,
            timeout=LIMIT_SECONDS,
        )

        assert demo.wait(timeout=LIMIT_SECONDS) == 1
        assert demo.stderr is not None
        assert f"run {run} stopped" in demo.stderr.read()
    assert (folder / "logs" / "coordinator.log").exists()


def test_a_wrong_option_is_a_mistake_of_the_caller(temporary: Path) -> None:
    done = subprocess.run(
        [*DEMO, "--clients", "0"],
        env=environment_of(temporary),
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_SECONDS,
    )

    assert done.returncode == 2
    assert "clients must be 1 to 50" in done.stderr
    assert done.stdout == ""


def test_on_a_terminal_the_demo_stays_until_ctrl_c(temporary: Path) -> None:
    terminal, end = pty.openpty()
    with subprocess.Popen(
        [*DEMO, "--rounds", "3", "--clients", "1", "--no-kill"],
        cwd=temporary.parent,
        env={
            **environment_of(temporary),
            "TERM": "xterm",
            "NO_COLOR": "1",
            "COLUMNS": "100",
            "LINES": "40",
        },
        stdout=end,
    ) as demo:
        os.close(end)
        shown = b""
        while b"Press Ctrl-C" not in shown:
            shown += os.read(terminal, 65_536)
        running = processes_of(temporary)

        demo.send_signal(signal.SIGINT)

        assert demo.wait(timeout=LIMIT_SECONDS) == 0
    os.close(terminal)
    assert len(running) == 2
    assert "federated" in shown.decode()
    assert processes_of(temporary) == []
    assert list(temporary.iterdir()) == []
