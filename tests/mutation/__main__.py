"""Does a test notice each small mistake? ``make mutate FILES='kumiai.identity.check*'``.

For each mutant of the named modules a forked process loads the changed text in place of the
module and runs those tests that run the changed lines: of the module's own test file, or of the
files that ``[tool.mutation.tests]`` in pyproject.toml names for it. A mutant that no test kills
must stand in ``docs/reference/mutants.md`` with a reason; one that stands there and is killed
must go.

Why not mutmut: version 3 changes only the bodies of functions without decorators, so neither
limits, formats and the table of permissions nor any property; it deletes no statement, so not
the call of a check either; and it cannot tell the wording of a message from a word that is
stored. Its changed texts are all in one module at once, behind a switch; here each one is loaded
for itself.
"""

import ast
import contextlib
import fnmatch
import importlib.abc
import importlib.machinery
import importlib.util
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NoReturn

import pytest
from _pytest.main import pytest_runtestloop as run_tests
from coverage import CoverageData

from tests.alone import IN_ONE_PROCESS
from tests.mutation.mutants import Mutant, mutants_of
from tests.mutation.waiting import code_of

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "mutants.md"
CPU_LIMIT_FACTOR = 3
CPU_LIMIT_SECONDS_MIN = 5
QUIET = ("-qq", "-p", "no:cacheprovider", "--tb=no")
_ROW = re.compile(r"^\| `(kumiai[\w.]+)` \| `(.+?)` \| (.+) \|$", re.MULTILINE)


def main(patterns: Sequence[str]) -> int:
    """Try the mutants of all modules that are named; return 0 if none survives without a reason."""
    os.chdir(ROOT)
    os.environ[IN_ONE_PROCESS] = "1"  # a process of its own would load the true text
    modules = [each for each in all_modules() if any(fnmatch.fnmatch(each, p) for p in patterns)]
    if not modules:
        print("FILES must name modules, as in FILES='kumiai.identity.check*'", file=sys.stderr)
        return 2
    return max([tried(name) for name in modules])


def all_modules() -> dict[str, Path]:
    """Return the modules of the project that have code of their own."""
    source = ROOT / "src"
    paths = [each for each in sorted(source.rglob("*.py")) if not each.stem.endswith("_pb2")]
    found = {}
    for path in paths:
        parts = path.relative_to(source).with_suffix("").parts
        found[".".join(parts if parts[-1] != "__init__" else parts[:-1])] = path
    return found


@dataclass(slots=True)
class Trial:
    """One module under test."""

    name: str
    path: Path
    files: list[str]
    cpu_seconds: float = 0.0
    tests: dict[int, list[str]] = field(default_factory=dict)
    """The tests that run a line; without a name: the import does."""
    all_tests: list[str] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)

    def tests_of(self, mutant: Mutant) -> list[str]:
        """Return the tests that may notice, those first that have noticed most so far."""
        found = set(self.all_tests if self.is_imported(mutant) else self._runners_of(mutant))
        return sorted(found, key=lambda test: (-self.kills[test], test))

    def is_imported(self, mutant: Mutant) -> bool:
        """Return whether an import runs the changed lines, so that every test may feel them."""
        return "" in self._runners_of(mutant)

    def _runners_of(self, mutant: Mutant) -> set[str]:
        first, last = mutant.lines
        return {test for line in range(first, last + 1) for test in self.tests.get(line, ())}


def tried(name: str) -> int:
    """Try the mutants of one module, and tell which ones survive."""
    path = all_modules()[name]
    mutants = mutants_of(path.read_bytes())
    if not mutants:
        return 0
    trial = Trial(name, path, test_files(name))
    if not trial.files:
        print(f"{name}: no test file; name one in [tool.mutation.tests] of pyproject.toml")
        return 1
    measure(trial)
    session = Session(trial, mutants)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = folder
        options = [*QUIET, "-s", "--hypothesis-seed=0", f"--basetemp={folder}/t"]
        pytest.main([*options, *trial.files], plugins=[session, Haste()])
    return verdict(name, [mutant.label for mutant in session.survivors])


def verdict(name: str, survivors: Sequence[str]) -> int:
    """Compare the survivors with those that the page gives a reason for."""
    accepted = [label for module, label in accepted_mutants() if module == name]
    unknown, gone = Counter(survivors) - Counter(accepted), Counter(accepted) - Counter(survivors)
    for label in unknown.elements():
        cell = label.replace("|", r"\|")
        print(f"  without a reason:\n| `{name}` | `{cell}` |  |")
    for label in gone.elements():
        print(f"  does not survive, so it must go from {PAGE.name}: {label}")
    return int(bool(unknown or gone))


def accepted_mutants() -> list[tuple[str, str]]:
    """Return module and label of each mutant that the page gives a reason for."""
    rows = _ROW.findall(PAGE.read_text(encoding="utf-8"))
    return [(module, label.replace(r"\|", "|")) for module, label, _ in rows]


def test_files(name: str) -> list[str]:
    """Return the test files of a module: those that are named for it, else its own."""
    parts = name.split(".")[1:]
    own = "/".join(["tests", *parts[:-1], f"test_{parts[-1]}.py"])
    return named_tests().get(name) or ([own] if (ROOT / own).exists() else [])


def named_tests() -> dict[str, list[str]]:
    """Return the test files of the modules for which pyproject.toml names some."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    named: dict[str, list[str]] = settings["tool"]["mutation"]["tests"]
    return named


# --------------------------------------------------------------------------- before the trial


def measure(trial: Trial) -> None:
    """Run the tests on the true text: they pass, and we learn which of them run which line."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        data = Path(folder) / "coverage"
        command = [sys.executable, "-m", "pytest", *QUIET, *trial.files, f"--basetemp={folder}/t"]
        command += ["--hypothesis-seed=0", "--timeout=0"]  # the examples of the trial, and its time
        # The folder, not the name: to find a module by its name, coverage imports its package, and
        # numpy cannot be imported a second time.
        command += [f"--cov={trial.path.parent}", "--cov-context=test", "--cov-report="]
        command += ["--cov-fail-under=0", "-W", "ignore::coverage.exceptions.CoverageWarning"]
        environment = {**os.environ, "COVERAGE_FILE": str(data)}
        before = cpu_seconds_of_children()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        trial.cpu_seconds = cpu_seconds_of_children() - before
        if done.returncode:
            sys.exit(f"the tests of {trial.name} must pass first:\n{done.stdout}{done.stderr}")
        found = CoverageData(str(data))
        found.read()
        for line, contexts in found.contexts_by_lineno(str(trial.path)).items():
            trial.tests[line] = sorted({context.rpartition("|")[0] for context in contexts})


def cpu_seconds_of_children() -> float:
    """Return the processor time of all processes so far that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def dependents_of(name: str) -> set[str]:
    """Return the loaded modules that must be loaded anew when this one is."""
    loaded = {each: module for each, module in sys.modules.items() if is_ours(each)}
    imports = {each: imports_of(module) for each, module in loaded.items()}
    found, size = {name}, 0
    while size != len(found):
        size = len(found)
        found |= {each for each, needs in imports.items() if not needs.isdisjoint(found)}
    return found | {each for each in loaded if each.startswith("tests")}


def is_ours(name: str) -> bool:
    return name.partition(".")[0] in {"kumiai", "tests"} and "mutation" not in name


def imports_of(module: ModuleType) -> set[str]:
    """Return what a module of ours imports, wherever in it that is."""
    path = getattr(module, "__file__", None)
    found: set[str] = set()
    for node in ast.walk(ast.parse(Path(path).read_bytes())) if path else ():
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=str(parent), names=names):
                found |= {parent, *(f"{parent}.{alias.name}" for alias in names)}
    return found


# ---------------------------------------------------------------------------------- the trial


class Session:
    """Tries the mutants in forks of a session of pytest that has collected its tests already."""

    def __init__(self, trial: Trial, mutants: Sequence[Mutant]) -> None:
        self.trial = trial
        self.mutants = mutants
        self.survivors: list[Mutant] = []
        self._dependents: set[str] = set()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run no test here, and some of them in each fork."""
        self._dependents = dependents_of(self.trial.name)
        self.trial.all_tests = [item.nodeid for item in session.items]
        began, ends = time.monotonic(), Counter[str]()
        for mutant in self.mutants:
            end = self._outcome(session, mutant)
            ends[end] += 1
            if end in {"survived", "not run"}:
                self.survivors.append(mutant)
                place = f"{self.trial.path.relative_to(ROOT)}:{mutant.line}"
                print(f"{place}: {end}: {mutant.label}", flush=True)
        counts = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
        took = time.monotonic() - began
        print(f"{self.trial.name}: {len(self.mutants)} mutants in {took:.0f} s: {counts}")
        return True

    def _outcome(self, session: pytest.Session, mutant: Mutant) -> str:
        """Return what becomes of a mutant: killed, timed out, survived, or not run by any test."""
        tests = self.trial.tests_of(mutant)
        if not tests:
            return "not run"
        reading, writing = os.pipe()
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            self._be_child(session, mutant, tests, writing)
        os.close(writing)
        code = code_of(pid)
        with os.fdopen(reading) as pipe:
            self.trial.kills.update(pipe.read().splitlines())
        return {0: "survived", None: "timed out", -signal.SIGXCPU: "timed out"}.get(code, "killed")

    def _be_child(
        self, session: pytest.Session, mutant: Mutant, tests: list[str], pipe: int
    ) -> NoReturn:
        """Take up the changed text, run the tests, and end."""
        code = 1
        try:
            os.setsid()
            # Not of time: on a busy machine a test that is only slow would count as a killer.
            limit = CPU_LIMIT_SECONDS_MIN + CPU_LIMIT_FACTOR * int(self.trial.cpu_seconds)
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
            silence = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1, 2):
                os.dup2(silence, standard)
            module = sys.modules[self.trial.name]
            # What an import has made by the true code, a test's constants say, must be made anew.
            if not self.trial.is_imported(mutant) and put_in_place(module, mutant):
                code = run_collected(session, tests, Reporter(pipe))
            else:
                code = self._run_anew(session, mutant, tests, Reporter(pipe))
        finally:
            os._exit(code)

    def _run_anew(
        self, session: pytest.Session, mutant: Mutant, tests: list[str], reporter: "Reporter"
    ) -> int:
        """Load the changed module, and all that rests on it, in place of the true one."""
        for name in self._dependents:
            package, _, own = name.rpartition(".")
            # A module is an attribute of its package, too: ``from package import module`` takes it.
            if sys.modules.pop(name, None) is not None and package in sys.modules:
                vars(sys.modules[package]).pop(own, None)
        sys.meta_path.insert(0, Finder(self.trial.name, self.trial.path, mutant.source))
        folder = session.config.getoption("basetemp")
        options = [*QUIET, "-x", "--hypothesis-seed=0", f"--basetemp={folder}"]
        return int(pytest.main([*options, *tests], plugins=[reporter, Haste()]))


def run_collected(session: pytest.Session, tests: Sequence[str], reporter: "Reporter") -> int:
    """Run some of the tests that the session has collected; return 0 if all pass."""
    items = {item.nodeid: item for item in session.items}
    session.items[:] = [items[test] for test in tests]
    session.config.option.maxfail = 1
    session.config.pluginmanager.register(reporter)
    with contextlib.suppress(pytest.Session.Failed):
        run_tests(session)
    return int(session.testsfailed > 0)


def put_in_place(module: ModuleType, mutant: Mutant) -> bool:
    """Give a living function the changed code; return whether that is all that has changed."""
    old = compile(Path(str(module.__file__)).read_bytes(), str(module.__file__), "exec")
    new = compile(mutant.source, str(module.__file__), "exec")
    holder: Any = module
    for part in mutant.place.split("."):
        holder = vars(holder).get(part)
        old, new = code_named(part, old), code_named(part, new)
        function = bare(holder)
        if function is not None and old is not None and new is not None:
            if old == new or function.__code__.co_freevars != new.co_freevars:
                return False  # what has changed is a default, say
            function.__code__ = new
            return True
        if not isinstance(holder, type) or old is None or new is None:
            return False
    return False


def bare(value: Any) -> FunctionType | None:
    """Return the function under a property or a decorator."""
    value = getattr(value, "fget", None) or getattr(value, "__wrapped__", None) or value
    value = getattr(value, "__func__", value)
    return value if isinstance(value, FunctionType) else None


def code_named(name: str, within: CodeType) -> CodeType | None:
    """Return the code of a function or class that is defined directly within a code."""
    found = [
        each for each in within.co_consts if isinstance(each, CodeType) and each.co_name == name
    ]
    return found[0] if len(found) == 1 else None


class Haste:
    """Lets a property test end with its first failure, and none fail because time has passed.

    A smaller example is of no use here; and on a busy machine a test that is only slow would
    count as a killer.
    """

    def pytest_configure(self) -> None:
        from hypothesis import HealthCheck, Phase, settings

        settings.register_profile(
            "mutation",
            deadline=None,
            phases=(Phase.explicit, Phase.generate),
            suppress_health_check=[HealthCheck.too_slow],
        )
        settings.load_profile("mutation")

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_timeout_set_timer(self) -> bool:
        """Let no clock end a test."""
        return True


class Reporter:
    """Tells which test has noticed."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            os.write(self._pipe, f"{report.nodeid}\n".encode())


class Finder(importlib.abc.MetaPathFinder):
    """Finds the changed text in place of the module."""

    def __init__(self, name: str, path: Path, source: bytes) -> None:
        self._name, self._path, self._source = name, path, source

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        loader = Loader(fullname, str(self._path), self._source)
        return importlib.util.spec_from_file_location(fullname, self._path, loader=loader)


class Loader(importlib.machinery.SourceFileLoader):
    """Loads the changed text."""

    def __init__(self, fullname: str, path: str, source: bytes) -> None:
        super().__init__(fullname, path)
        self._source = source

    def get_code(self, fullname: str) -> object:
        return compile(self._source, self.path, "exec", dont_inherit=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
