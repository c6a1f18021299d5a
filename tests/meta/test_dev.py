"""The developer's program starts everywhere, and says what is missing where it cannot go on."""

import fcntl
import importlib.util
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tests.conftest import pytest_terminal_summary
from tests.meta.repository import ROOT


@pytest.fixture
def dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Load dev.py as a module that believes to stand in an empty folder."""
    spec = importlib.util.spec_from_file_location("dev_under_test", ROOT / "dev.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "STAMP", tmp_path / ".venv" / "kumiai-installed.json")
    monkeypatch.setattr(module.shutil, "which", lambda _: None)
    (tmp_path / ".venv").mkdir()
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    return module


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "dev.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def test_help_names_every_command_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    words = re.search(r"^COMMANDS = ((?:.*\\\n)*.*)$", makefile, re.MULTILINE)

    shown = run("help")

    assert words is not None
    made = words.group(1).replace("\\\n", " ").split()
    assert re.findall(r"^  (\w+)", shown.stdout, re.MULTILINE) == made
    assert shown.returncode == 0


def test_an_unknown_command_is_a_mistake_of_the_caller() -> None:
    refused = run("tset")

    assert refused.returncode == 2
    assert "got 'tset'" in refused.stderr


def test_no_command_shows_the_help_and_is_a_mistake_of_the_caller() -> None:
    refused = run()

    assert refused.returncode == 2
    assert "usage:" in refused.stdout


def test_an_old_python_is_named_when_there_is_no_newer_one(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dev.sys, "version_info", (3, 9, 6))

    code = dev.main(["demo"])

    assert code == 2
    assert "must be 3.11 or newer, got 3.9.6" in capsys.readouterr().err


def test_a_newer_python_on_the_path_takes_over(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    monkeypatch.setattr(dev.sys, "version_info", (3, 9, 6))
    monkeypatch.setattr(dev.sys, "argv", ["dev.py", "unit", "-k", "codec"])
    monkeypatch.setattr(
        dev.shutil, "which", lambda name: sys.executable if name == "python3.12" else None
    )
    monkeypatch.setattr(dev.os, "execv", lambda path, words: started.append((path, words)))

    dev.main(["unit", "-k", "codec"])

    path, words = started[0]
    assert path == sys.executable
    assert words[2:] == ["unit", "-k", "codec"]


def test_a_missing_ensurepip_is_told_with_its_package(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dev.importlib.util, "find_spec", lambda _: None)

    code = dev.make_venv()

    assert code == 2
    assert "apt install python3-venv" in capsys.readouterr().err


def test_what_stands_for_this_pyproject_is_not_installed_again(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(dev, "in_venv", lambda _: sys.executable)
    monkeypatch.setattr(dev, "call", lambda command: commands.append(command) or 0)

    codes = [dev.prepare(), dev.prepare("dev"), dev.prepare("dev"), dev.prepare()]

    assert codes == [0, 0, 0, 0]
    assert [command[-1].rpartition("[")[2] for command in commands] == [str(dev.ROOT), "dev]"]


def test_a_changed_pyproject_is_installed(dev: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(dev, "in_venv", lambda _: sys.executable)
    monkeypatch.setattr(dev, "call", lambda command: commands.append(command) or 0)
    dev.prepare("dev")

    (dev.ROOT / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    dev.prepare()

    assert len(commands) == 2


def test_a_failed_installation_is_tried_again(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = iter([1, 0])
    monkeypatch.setattr(dev, "in_venv", lambda _: sys.executable)
    monkeypatch.setattr(dev, "call", lambda _: next(codes))

    assert [dev.prepare(), dev.prepare(), dev.prepare()] == [1, 0, 0]


def test_the_report_fails_when_one_step_failed(
    dev: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    code = dev.report([("ruff", True, "All checks passed!"), ("unit tests", False, "1 failed")])

    assert code == 1
    assert "failed: unit tests" in capsys.readouterr().out


def test_the_last_line_of_a_step_is_kept(dev: ModuleType) -> None:
    program = "import sys; print('=== 3 passed ==='); print(); sys.exit(4)"

    assert dev.tee([sys.executable, "-c", program], {}) == (4, "3 passed")


@pytest.mark.parametrize("ending", ["sys.exit(3)", "os.kill(os.getpid(), 9)"])
def test_a_step_ends_although_a_process_that_it_left_behind_holds_its_output(
    dev: ModuleType, tmp_path: Path, ending: str
) -> None:
    lock = tmp_path / "lock"
    left_behind = f"""
import fcntl, time
file = open({str(lock)!r}, "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(600)
"""
    program = f"""
import os, subprocess, sys
left = subprocess.Popen([sys.executable, "-c", {left_behind!r}], stdout=subprocess.PIPE)
left.stdout.readline()
{ending}
"""

    code, _ = dev.tee([sys.executable, "-c", program], {})

    assert code in (3, -signal.SIGKILL)
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # it was let go by the end of whoever held it


def test_a_step_that_does_not_end_is_ended(
    dev: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    program = "import time; print('began', flush=True); time.sleep(600)"

    assert dev.tee([sys.executable, "-c", program], {}, 3.0) == (-signal.SIGKILL, "began")
    assert "it did not end within 3 s and was ended" in capsys.readouterr().err


def test_a_step_may_close_its_output_before_it_ends(dev: ModuleType) -> None:
    program = "import os, time; os.close(1); os.close(2); time.sleep(0.5); os._exit(4)"

    assert dev.tee([sys.executable, "-c", program], {}) == (4, "")


def test_tests_keep_what_they_compile_wherever_programs_are_told_not_to(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    pytest_program = Path(dev.in_venv("pytest"))
    pytest_program.parent.mkdir()
    pytest_program.write_text("#!/bin/sh\necho bytecode is ${PYTHONDONTWRITEBYTECODE:-kept}")
    pytest_program.chmod(0o755)

    result = dev.run_group("unit", [], covered=False)

    assert result == ("unit tests", True, "bytecode is kept")


def test_the_summary_tells_why_a_test_got_a_second_try() -> None:
    told: list[str] = []
    report = SimpleNamespace(nodeid="tests/test_it.py::test_it", longreprtext="assert 1 == 2")
    reporter = SimpleNamespace(
        stats={"rerun": [report]},
        write_sep=lambda _, title: told.append(title),
        write_line=told.append,
    )

    pytest_terminal_summary(reporter)

    assert told == ["first try of tests/test_it.py::test_it", "assert 1 == 2"]
