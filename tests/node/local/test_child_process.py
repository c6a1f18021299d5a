"""A child process: what it says is kept, how it ended is told, it ends when it should."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from kumiai.core.errors import KumiaiError
from kumiai.node.local.child_process import ChildCommand, ChildProcess

# Not signal.pause(): a signal that came a moment before it would be waited for in vain.
FOREVER = "import time\nwhile True: time.sleep(0.1)"
PROGRAMS = {
    "tell_environment": "import os; print(*sorted(os.environ.items()), sep='\\n')",
    "fail": "import sys; print('first'); print('last words', file=sys.stderr); sys.exit(7)",
    "wait": "import os, signal; open(os.environ['READY'], 'w').close()\n" + FOREVER,
    "deaf": (
        "import os, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "open(os.environ['READY'], 'w').close()\n" + FOREVER
    ),
}


Make = Callable[..., ChildCommand]


@pytest.fixture
def command(tmp_path: Path) -> Make:
    for name, text in PROGRAMS.items():
        (tmp_path / f"{name}.py").write_text(text)
    os.mkfifo(tmp_path / "ready")

    def make(module: str, **environment: str) -> ChildCommand:
        return ChildCommand(
            name=module,
            module=module,
            arguments=(),
            log=tmp_path / "logs" / "child.log",
            environment={
                "PYTHONPATH": str(tmp_path),
                "READY": str(tmp_path / "ready"),
                **environment,
            },
        )

    return make


async def started(command: ChildCommand) -> ChildProcess:
    """Start a program and return once it has opened its end of the pipe."""
    process = await ChildProcess.start(command)
    await asyncio.to_thread(Path(command.environment["READY"]).read_bytes)
    return process


async def test_both_outputs_are_kept(command: Make) -> None:
    process = await ChildProcess.start(command("fail"))

    assert await process.wait() == 7
    assert sorted(process.last_lines().splitlines()) == ["first", "last words"]


async def test_a_second_start_adds_to_the_log(command: Make) -> None:
    await (await ChildProcess.start(command("fail"))).wait()
    process = await ChildProcess.start(command("fail"))
    await process.wait()

    assert process.last_lines().count("last words") == 2
    assert process.last_lines(1).count("\n") == 0


async def test_an_end_that_nobody_asked_for_is_told_with_the_last_words(command: Make) -> None:
    process = await ChildProcess.start(command("fail"))
    await process.wait()

    with pytest.raises(KumiaiError, match=r"(?s)fail must go on running.*exit code 7.*last words"):
        process.verify_running()
    assert not process.is_running
    assert not process.is_unwanted


async def test_a_killed_process_says_by_which_signal(command: Make) -> None:
    process = await started(command("wait"))

    assert await process.kill() == -signal.SIGKILL
    assert process.is_unwanted


async def test_a_process_is_asked_to_end_first(command: Make) -> None:
    process = await started(command("wait"))

    assert await process.stop(patience_seconds=20) == -signal.SIGTERM


async def test_a_halted_process_can_be_stopped(command: Make) -> None:
    process = await started(command("wait"))
    process.send(signal.SIGSTOP)

    assert await process.stop(patience_seconds=20) == -signal.SIGTERM


async def test_a_process_that_does_not_listen_is_forced(command: Make) -> None:
    process = await started(command("deaf"))

    assert await process.stop(patience_seconds=0.05) == -signal.SIGKILL


async def test_a_signal_to_an_ended_process_does_nothing(command: Make) -> None:
    process = await ChildProcess.start(command("fail"))
    await process.wait()

    process.send(signal.SIGTERM)

    assert await process.stop(patience_seconds=1) == 7


async def test_settings_of_this_shell_do_not_reach_the_child(
    command: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUMIAI_COORDINATOR__LISTEN", "0.0.0.0:1")
    monkeypatch.setenv("OTHER", "kept")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    process = await ChildProcess.start(command("tell_environment", KUMIAI_EXTRA="given"))
    await process.wait()

    told = process.last_lines(10_000)
    assert "KUMIAI_COORDINATOR__LISTEN" not in told
    assert "('OTHER', 'kept')" in told
    assert "('KUMIAI_EXTRA', 'given')" in told
    assert "('OMP_NUM_THREADS', '1')" in told


async def test_a_child_is_out_of_reach_of_the_terminal(command: Make) -> None:
    process = await started(command("wait"))

    assert os.getsid(process.pid) != os.getsid(0)
    await process.kill()


async def test_a_process_that_said_nothing_has_no_last_lines(command: Make, tmp_path: Path) -> None:
    process = await ChildProcess.start(command("wait"))
    await process.kill()
    (tmp_path / "logs" / "child.log").unlink()

    assert process.last_lines() == ""
    assert process.name == "wait"
