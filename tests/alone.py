"""Runs a test's body in a process of its own, which has one thread.

Who forks beside threads may inherit a lock that is held, and then waits for ever; and the workers
of pytest have threads.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
SECONDS_MAX = 90.0
IN_ONE_PROCESS = "KUMIAI_TESTS_IN_ONE_PROCESS"
"""Set where the process has one thread already, and has changed what is tested."""


def run_alone(body: Callable[..., None], *arguments: str) -> None:
    """Call a function of a module with these arguments; all its processes end with it.

    Raises
    ------
    AssertionError
        If it raised, with what it wrote; if it did not end in time.
    """
    if IN_ONE_PROCESS in os.environ:
        body(*arguments)
        return
    call = f"from {body.__module__} import {body.__name__} as body; body(*sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", f"import sys; {call}", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )
    with process:
        try:
            written, _ = process.communicate(timeout=SECONDS_MAX)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it must end within {SECONDS_MAX:.0f} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, written
