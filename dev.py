#!/usr/bin/env python3
"""Everything a developer does with Kumiai, one word each: ``python3 dev.py help``.

Needs nothing but Python's standard library. It makes ``.venv`` beside itself, installs Kumiai
there when ``pyproject.toml`` has changed, and runs the word's program in it. Words after the
command go on to that program: ``python3 dev.py unit -k codec``.

An old Python must be able to read this file, to be told that it is too old.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "kumiai-installed.json"
PYTHON_LEAST = (3, 11)
PYTHON_NAMES = ("python3.13", "python3.12", "python3.11", "python3.14")
# Messages compiled by this release run on every protobuf from 5.29 on; a later one would not.
PROTO_TOOLS = "grpcio-tools==1.71.2"
TORCH = ("opacus==1.6.0", "torch==2.13.0")
GROUPS = ("unit", "integration", "system")
NO_TESTS_EXIT = 5
STEP_SECONDS_MAX = 2400.0
INTERRUPT_SECONDS_MAX = 30.0


def main(arguments: list[str]) -> int:
    """Run the command that the first word names and return its exit code."""
    if not arguments or arguments[0] in ("help", "-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        return complain(f"command must be one of {', '.join(COMMANDS)}, got {name!r}")
    if sys.version_info < PYTHON_LEAST and name != "clean":
        return run_with_newer_python()
    os.chdir(ROOT)
    return COMMANDS[name](rest)


def usage() -> str:
    """Return one line for each command."""
    lines = [f"  {name:12} {command.__doc__}" for name, command in COMMANDS.items()]
    return "usage: python3 dev.py COMMAND [ARGUMENTS]\n\n" + "\n".join(lines)


def complain(message: str) -> int:
    """Print why it cannot go on; return the exit code for that."""
    print(f"dev.py: {message}", file=sys.stderr)
    return 2


def say(message: str) -> None:
    """Tell what happens now; standard output belongs to the program that is run."""
    print(f"dev.py: {message}", file=sys.stderr, flush=True)


# --------------------------------------------------------------------------- Python and .venv


def run_with_newer_python() -> int:
    """Start this program again in a Python that is new enough; complain if there is none."""
    for name in PYTHON_NAMES:
        path = shutil.which(name)
        if path and is_new_enough(path):
            os.execv(path, [path, str(Path(__file__).resolve()), *sys.argv[1:]])
    found = ".".join(map(str, sys.version_info[:3]))
    return complain(
        f"Python must be 3.11 or newer, got {found} ({sys.executable}), and no python3.11 to "
        "python3.14 is on PATH; install one (Debian 12 or Ubuntu 24.04: apt install python3 "
        "python3-venv; macOS: brew install python@3.13, or python.org)"
    )


def is_new_enough(python: str) -> bool:
    """Return whether the program is a working Python of at least 3.11."""
    check = f"import sys; sys.exit(sys.version_info < {PYTHON_LEAST})"
    try:
        return (
            subprocess.run([python, "-c", check], capture_output=True, check=False).returncode == 0
        )
    except OSError:
        return False


def in_venv(program: str) -> str:
    """Return the path of a program of the virtual environment."""
    return str(VENV / "bin" / program)


def prepare(extra: str = "") -> int:
    """Make .venv if there is none and install Kumiai with the extra; 0 when all is in place."""
    if not is_new_enough(in_venv("python")):
        code = make_venv()
        if code:
            return code
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    installed = read_stamp()
    if wanted in (installed.get(extra), installed.get("dev")):
        return 0
    code = install(extra)
    if code == 0:
        STAMP.write_text(json.dumps({**installed, extra: wanted}))
    return code


def make_venv() -> int:
    """Make .venv anew."""
    say(f"making {VENV.name} with Python {sys.version.split()[0]}")
    uv = shutil.which("uv")
    if uv:
        return call([uv, "venv", "--quiet", "--clear", "--seed", "-p", sys.executable, str(VENV)])
    if importlib.util.find_spec("ensurepip") is None:
        return complain(
            "Python's ensurepip must be there to make a virtual environment, got none; "
            "on Debian or Ubuntu: apt install python3-venv"
        )
    return call([sys.executable, "-m", "venv", "--clear", str(VENV)])


def install(extra: str) -> int:
    """Install Kumiai from this folder, editable, with an extra or without."""
    target = f"{ROOT}[{extra}]" if extra else str(ROOT)
    say(
        f"installing Kumiai{f' with its {extra} tools' if extra else ''}: once, about half a minute"
    )
    uv = shutil.which("uv")
    if uv:
        return call([uv, "pip", "install", "--quiet", "-p", in_venv("python"), "-e", target])
    return pip("-e", target)


def pip(*arguments: str) -> int:
    """Install with plain pip."""
    quiet = ["--quiet", "--disable-pip-version-check"]
    return call([in_venv("python"), "-m", "pip", "install", *quiet, *arguments])


def read_stamp() -> dict[str, str]:
    """Return which extras stand in .venv, and for which pyproject.toml."""
    try:
        stamp: dict[str, str] = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return stamp


# --------------------------------------------------------------------------- running programs


def call(command: list[str], **environment: str) -> int:
    """Run a program to its end and return its exit code."""
    return subprocess.run(command, env={**os.environ, **environment}, check=False).returncode


def become(command: list[str]) -> int:
    """Turn into the program, so that signals and the exit code are its own."""
    sys.stdout.flush()
    os.execv(command[0], command)


def dev_tool(program: str, *arguments: str) -> int:
    """Install the dev tools if need be and turn into one of them."""
    return prepare("dev") or become([in_venv(program), *arguments])


def tee(
    command: list[str], environment: dict[str, str], seconds_max: float = STEP_SECONDS_MAX
) -> tuple[int, str]:
    """Run a program, pass its output on as it comes; return its exit code and its last line.

    It ends when the program does, or its time is up. Processes that are left behind would hold
    the output open for ever: they are ended, too.
    """
    tail = b""
    with subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        try:
            for data in output_of(process, seconds_max):
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
                tail = (tail + data)[-10_000:]
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGINT)  # the terminal reaches this session alone
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(INTERRUPT_SECONDS_MAX)
            raise
        finally:
            end_group(process)
    lines = [line for line in tail.decode(errors="replace").splitlines() if line.strip()]
    return process.returncode, lines[-1].strip("= ") if lines else ""


def output_of(process: subprocess.Popen[bytes], seconds_max: float) -> Iterator[bytes]:
    """Yield what the program writes, until it ends or its time is up."""
    pipe = process.stdout.fileno() if process.stdout else -1
    deadline = time.monotonic() + seconds_max
    while time.monotonic() < deadline:
        has_ended = process.poll() is not None
        is_ready = bool(select.select([pipe], [], [], 0 if has_ended else 0.2)[0])
        data = os.read(pipe, 1 << 16) if is_ready else b""
        if data:
            yield data
        elif has_ended:
            return
        elif is_ready:
            time.sleep(0.2)  # it has closed its output and goes on
    say(f"it did not end within {seconds_max:.0f} s and was ended")


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End the program, if it runs, and all that it has left behind."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


# --------------------------------------------------------------------------- commands


def setup(arguments: list[str]) -> int:
    """make .venv and install Kumiai with the development tools"""
    if arguments:
        return complain(f"setup must stand alone, got {' '.join(arguments)}")
    code = prepare("dev")
    if code == 0:
        say("ready; try: python3 dev.py demo")
    return code


def demo(arguments: list[str]) -> int:
    """run the demo: one coordinator, five clients, real data, on this machine"""
    return prepare() or become([in_venv("kumiai"), "demo", *arguments])


def test(arguments: list[str]) -> int:
    """run all tests: unit, integration, system"""
    return prepare("dev") or report(run_groups(arguments, covered=False))


def check(arguments: list[str]) -> int:
    """do what CI does: format, ruff, mypy, import contracts, all tests with branch coverage"""
    code = prepare("dev")
    if code:
        return code
    results = [
        run_step("format", [in_venv("ruff"), "format", "--check"]),
        run_step("ruff", [in_venv("ruff"), "check"]),
        run_step("mypy", [in_venv("mypy")]),
        run_step("imports", [in_venv("lint-imports"), "--no-logo"]),
    ]
    results += run_groups(arguments, covered=True)
    results.append(run_coverage())
    return report(results)


def format_(arguments: list[str]) -> int:
    """put the code into its form and mend what ruff can mend"""
    code = prepare("dev") or call([in_venv("ruff"), "check", "--fix", "--exit-zero", *arguments])
    return code or become([in_venv("ruff"), "format", *arguments])


def lint(arguments: list[str]) -> int:
    """run ruff and the import contracts"""
    code = prepare("dev") or call([in_venv("ruff"), "check", *arguments])
    return code or become([in_venv("lint-imports"), "--no-logo"])


def types(arguments: list[str]) -> int:
    """run mypy --strict"""
    return dev_tool("mypy", *arguments)


def unit(arguments: list[str]) -> int:
    """run the quick unit tests: seconds, after every change"""
    return dev_tool("pytest", "-m", "unit and not slow and not chaos", *arguments)


def integration(arguments: list[str]) -> int:
    """run the tests against real servers on loopback"""
    return dev_tool("pytest", "-m", "integration and not chaos", *arguments)


def system(arguments: list[str]) -> int:
    """run the tests of whole federations as processes"""
    return dev_tool("pytest", "-m", "system and not chaos", *arguments)


def chaos(arguments: list[str]) -> int:
    """run federations under random faults"""
    return dev_tool("pytest", "-m", "chaos", "--timeout=0", *arguments)


def soak(arguments: list[str]) -> int:
    """run a federation for as long as asked and watch what it uses"""
    return dev_tool("python", "benchmarks/soak.py", *arguments)


def mutate(arguments: list[str]) -> int:
    """make small mistakes in the modules that are named, and tell which ones no test notices"""
    return dev_tool("python", "-m", "tests.mutation", *arguments)


def bench(arguments: list[str]) -> int:
    """run the benchmarks, or those that are named, and print which goals are met"""
    return dev_tool("python", "benchmarks", *arguments)


def docs(arguments: list[str]) -> int:
    """check that the docs agree with the code and that their links lead somewhere"""
    return dev_tool("pytest", "tests/meta", *arguments)


def proto(arguments: list[str]) -> int:
    """compile the wire's .proto with the release that the oldest protobuf understands"""
    if arguments:
        return complain(f"proto must stand alone, got {' '.join(arguments)}")
    compiler = ROOT / "build" / "proto"
    python = str(compiler / "bin" / "python")
    if not is_new_enough(python):
        code = call([sys.executable, "-m", "venv", str(compiler)]) or call(
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PROTO_TOOLS]
        )
        if code:
            return code
    wire = "src/kumiai/node/wire"
    outputs = [f"--python_out={wire}", f"--pyi_out={wire}"]
    return call([python, "-m", "grpc_tools.protoc", "-I", wire, *outputs, "kumiai.proto"])


def torch(arguments: list[str]) -> int:
    """install PyTorch into .venv, for the examples that want it (large)"""
    # Plain pip, never uv: uv resolves a version for graphics cards, five times the size.
    return prepare("dev") or pip(*TORCH, *arguments)


def clean(arguments: list[str]) -> int:
    """delete what the commands made: .venv, caches, builds; never a federation's data"""
    if arguments:
        return complain(f"clean must stand alone, got {' '.join(arguments)}")
    made = [".venv", "build", "dist", "htmlcov", ".hypothesis", ".import_linter_cache"]
    made += [".mypy_cache", ".pytest_cache", ".ruff_cache"]
    folders = [ROOT / name for name in made]
    for top in ("src", "tests", "benchmarks", "examples"):
        folders += (ROOT / top).rglob("__pycache__")
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    for file in ROOT.glob(".coverage*"):
        file.unlink()
    return 0


# --------------------------------------------------------------------------- check, step by step


def run_step(name: str, command: list[str]) -> tuple[str, bool, str]:
    """Run one step of the check."""
    say(name)
    began = time.monotonic()
    code, last = tee(command, {})
    return name, code == 0, f"{last} ({time.monotonic() - began:.0f} s)"


def run_groups(arguments: list[str], *, covered: bool) -> list[tuple[str, bool, str]]:
    """Run unit, integration and system tests, each for itself."""
    return [run_group(group, arguments, covered=covered) for group in GROUPS]


def run_group(group: str, arguments: list[str], *, covered: bool) -> tuple[str, bool, str]:
    """Run one group of tests; with branch coverage of its own if asked."""
    say(f"{group} tests")
    # The tests with servers and processes wait as much as they compute.
    cores = min(os.cpu_count() or 1, 4)
    workers = str(cores if group == "unit" else cores + 2)
    command = [in_venv("pytest"), "-m", f"{group} and not chaos", "-n", workers]
    command += ["--reruns=1", "-rR"]  # what fails on a busy machine gets a second try, named
    if group != "unit":
        command.append("--dist=loadgroup")  # tests that share a federation run on one worker
    command += arguments
    data = coverage_file(group)
    # Tests start hundreds of processes: where nothing keeps what it has compiled, as in many a
    # container, each compiles Kumiai anew, and each worker all tests.
    environment = {"PYTHONDONTWRITEBYTECODE": ""}
    if covered:
        for old in ROOT.glob(f"{data.name}*"):
            old.unlink()
        # One group alone need not reach the limit; all together must.
        command += ["--cov", "--cov-report=", "--cov-fail-under=0"]
        environment["COVERAGE_FILE"] = str(data)
    code, last = tee(command, environment)
    passed = code == 0 or (code == NO_TESTS_EXIT and bool(arguments))
    if covered and data.exists():
        last += f", branch coverage {coverage_total(data)} %"
    return f"{group} tests", passed, last


def coverage_file(group: str) -> Path:
    """Return where a group's coverage is kept; not `.coverage.*`, which coverage gathers up."""
    return ROOT / f".coverage-{group}"


def coverage_total(data: Path) -> str:
    """Return the percentage that a data file shows."""
    command = [in_venv("coverage"), "report", f"--data-file={data}", "--format=total"]
    command.append("--fail-under=0")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "?"


def run_coverage() -> tuple[str, bool, str]:
    """Put the groups' coverage together and hold it against the limit in pyproject.toml."""
    files = [str(file) for file in map(coverage_file, GROUPS) if file.exists()]
    if not files:
        return "coverage", False, "no group of tests has measured any"
    coverage = in_venv("coverage")
    call([coverage, "combine", "--quiet", "--keep", "--data-file=.coverage", *files])
    name, passed, _ = run_step("coverage", [coverage, "report", "--data-file=.coverage"])
    return name, passed, f"{coverage_total(ROOT / '.coverage')} % of lines and branches"


def report(results: list[tuple[str, bool, str]]) -> int:
    """Print one line for each step; return 0 if all passed."""
    print()
    for name, passed, text in results:
        print(f"{'ok    ' if passed else 'FAILED'}  {name:18} {text}")
    failed = [name for name, passed, _ in results if not passed]
    print(f"\n{'all passed' if not failed else 'failed: ' + ', '.join(failed)}", flush=True)
    return 1 if failed else 0


COMMANDS = {
    "setup": setup,
    "demo": demo,
    "test": test,
    "check": check,
    "format": format_,
    "lint": lint,
    "types": types,
    "unit": unit,
    "integration": integration,
    "system": system,
    "chaos": chaos,
    "soak": soak,
    "mutate": mutate,
    "bench": bench,
    "docs": docs,
    "proto": proto,
    "torch": torch,
    "clean": clean,
}

if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
