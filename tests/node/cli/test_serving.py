"""The two programs in the foreground: they start, say what is wrong, and stop cleanly."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kumiai.core.errors import ConflictError
from kumiai.node.cli.serving import run_until_stopped
from tests.node.cli.program import Federation, invoke, start


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_program_cleanly(number: signal.Signals) -> None:
    steps: list[str] = []
    before = signal.getsignal(signal.SIGINT)

    async def program() -> None:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), number)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            steps.append("stopped")

    run_until_stopped(program())

    assert steps == ["stopped"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_program_that_ends_or_fails_by_itself_is_let() -> None:
    async def ends() -> None:
        pass

    async def fails() -> None:
        raise ConflictError("two of us")

    run_until_stopped(ends())
    with pytest.raises(ConflictError, match="two of us"):
        run_until_stopped(fails())


def test_programs_run_on_uvloop_where_it_is_installed_and_else_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loops: list[str] = []

    async def program() -> None:
        loops.append(type(asyncio.get_running_loop()).__module__.partition(".")[0])

    run_until_stopped(program())
    monkeypatch.setitem(sys.modules, "uvloop", None)
    run_until_stopped(program())

    assert loops == ["uvloop", "asyncio"]


def test_a_cancellation_from_inside_is_no_clean_stop() -> None:
    async def program() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        run_until_stopped(program())


@pytest.mark.parametrize("role", ["coordinator", "client"])
def test_without_a_config_file_the_newcomer_is_told_how_to_get_one(role: str) -> None:
    outcome = invoke(role, "start")

    assert outcome.code == 3
    assert f"write one with `kumiai config init {role}`" in outcome.err


@pytest.mark.parametrize("role", ["coordinator", "client"])
def test_without_a_certificate_nothing_starts(role: str) -> None:
    outcome = invoke(role, "start", "--set", "identity.certificate=none.crt")

    assert outcome.code == 3
    assert "certificate must exist" in outcome.err


@pytest.fixture
def config(folder: Path) -> Path:
    invoke("ca", "init", "hospitals")
    invoke("ca", "issue", "coordinator", "c", "--out", "id", "--host", "localhost")
    invoke("config", "init", "coordinator", "--certificate", "id/c.crt")
    path = folder / "kumiai.toml"
    text = path.read_text()
    for key in ("listen", "http_listen"):
        text = text.replace(f"# {key} = ", f'{key} = "127.0.0.1:0"  # ')
    path.write_text(text)
    return path


@pytest.mark.integration
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_coordinator_stops_when_asked(config: Path, number: signal.Signals) -> None:
    process = start("coordinator", "start", environ={"KUMIAI_LOG__FORMAT": "json"})
    assert process.stderr is not None
    for line in process.stderr:
        if "coordinator started" in line:
            break

    process.send_signal(number)
    _, rest = process.communicate(timeout=30)

    assert process.returncode == 0, rest
    assert "coordinator stopped" in rest
    assert "Traceback" not in rest


@pytest.mark.integration
def test_two_coordinators_do_not_share_a_folder(config: Path) -> None:
    first = start("coordinator", "start")
    assert first.stderr is not None
    next(line for line in first.stderr if "coordinator started" in line)

    second = invoke("coordinator", "start")
    first.terminate()
    first.communicate(timeout=30)

    assert second.code == 1
    assert "another coordinator runs on" in second.err


@pytest.mark.integration
def test_a_client_stops_when_asked(federation: Federation) -> None:
    process = federation.processes.clients["site-2"]

    code = federation.do(process.stop(30))
    federation.do(federation.processes.start_client("site-2"))
    federation.do(federation.processes.wait_until_attached())

    assert code == 0


HANGING = """
import asyncio
from kumiai.node.cli.serving import run_until_stopped

async def main():
    print("up", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        print("stopping", flush=True)
        await asyncio.Event().wait()

run_until_stopped(main())
"""


@pytest.mark.integration
def test_the_second_signal_ends_a_program_that_hangs() -> None:
    process = subprocess.Popen([sys.executable, "-c", HANGING], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None

    said = []
    for _ in range(2):
        said.append(process.stdout.readline().strip())
        process.send_signal(signal.SIGINT)

    assert said == ["up", "stopping"]
    assert process.wait(30) == -signal.SIGINT
    process.stdout.close()
