"""A child does not outlive its parent, however that ends."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil

PARENT = """
import subprocess, sys, os
child = subprocess.Popen(
    [sys.executable, "-m", "kumiai.node.local.parent_watch", str(os.getpid()), "signal_wait"],
    env={**os.environ, "PYTHONPATH": sys.argv[1]}, stdout=subprocess.PIPE,
)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""


def test_a_child_ends_when_its_parent_was_killed(tmp_path: Path) -> None:
    (tmp_path / "signal_wait.py").write_text(
        "import time; print('up', flush=True)\nwhile True: time.sleep(0.1)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))

        parent.send_signal(signal.SIGKILL)

    child.wait(timeout=60)
    assert not child.is_running()


def test_a_child_whose_parent_is_gone_already_ends(tmp_path: Path) -> None:
    (tmp_path / "signal_wait.py").write_text("import time\nwhile True: time.sleep(0.1)")
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        capture_output=True,
        text=True,
        check=True,
    )
    command = [
        sys.executable,
        "-m",
        "kumiai.node.local.parent_watch",
        gone.stdout.strip(),
        "signal_wait",
    ]

    ended = subprocess.run(command, env={"PYTHONPATH": str(tmp_path)}, check=False, timeout=60)

    assert ended.returncode == 1


def test_the_module_runs_as_if_it_were_the_program(tmp_path: Path) -> None:
    (tmp_path / "tell.py").write_text("import sys; print(__name__, sys.argv[1:]); sys.exit(5)")
    starter = (
        "import os, runpy, sys;"
        "sys.argv = ['', str(os.getppid()), 'tell', 'a', '--b'];"
        "runpy.run_module('kumiai.node.local.parent_watch', run_name='__main__')"
    )

    told = subprocess.run(
        [sys.executable, "-c", starter],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert told.stdout == "__main__ ['a', '--b']\n"
    assert told.returncode == 5
