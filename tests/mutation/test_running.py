"""A mutant takes the place of the true code; survivors and reasons must agree."""

import functools
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.mutation import __main__ as running
from tests.mutation.mutants import mutants_of

SOURCE = """
import functools


class Box:
    def __init__(self, size=3):
        self.size = size

    @property
    def is_full(self):
        return self.size >= 3

    @classmethod
    def new(cls):
        return cls(1 + 2)


@functools.lru_cache
def doubled(number):
    return number * 2
"""


@pytest.fixture
def module(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    path = tmp_path_factory.mktemp("source") / "boxes.py"
    path.write_text(SOURCE)
    made = ModuleType("boxes")
    made.__file__ = str(path)
    exec(compile(SOURCE, str(path), "exec"), vars(made))
    return made


@pytest.mark.parametrize(
    ("label", "seen"),
    [
        ("Box.is_full: self.size >= 3 → self.size > 3", [False, 3, 2]),
        ("Box.new: 1 + 2 → 1 - 2", [True, -1, 2]),
        ("doubled: number * 2 → number + 2", [True, 3, 3]),
    ],
)
def test_a_living_function_gets_the_changed_code(
    module: ModuleType, label: str, seen: list[object]
) -> None:
    (mutant,) = (each for each in mutants_of(SOURCE.encode()) if each.label == label)
    box = module.Box()

    assert running.put_in_place(module, mutant)
    assert [box.is_full, module.Box.new().size, module.doubled(1)] == seen


@pytest.mark.parametrize("label", ["Box.__init__: 3 → 4"])
def test_a_changed_default_asks_for_a_module_loaded_anew(module: ModuleType, label: str) -> None:
    (mutant,) = (each for each in mutants_of(SOURCE.encode()) if each.label == label)

    assert not running.put_in_place(module, mutant)


def test_what_rests_on_a_module_is_loaded_anew_with_it() -> None:
    import kumiai.identity.rate_limits  # noqa: F401 - so that it is there to be found

    found = running.dependents_of("kumiai.identity.check")

    assert {"kumiai.identity", "kumiai.identity.rate_limits"} < found
    assert "kumiai.core.errors" not in found
    assert "kumiai.identity.names" not in found


def test_a_survivor_without_a_reason_and_a_reason_without_a_survivor_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [("kumiai.a", "f: 1 → 2"), ("kumiai.b", "g: a | b → a & b")]
    monkeypatch.setattr(running, "accepted_mutants", lambda: rows)

    codes = [
        running.verdict("kumiai.b", ["g: a | b → a & b"]),
        running.verdict("kumiai.b", ["g: a | b → a & b", "h: c | d → c & d"]),
        running.verdict("kumiai.a", []),
    ]

    shown = capsys.readouterr().out
    assert codes == [0, 1, 1]
    assert r"| `kumiai.b` | `h: c \| d → c & d` |" in shown
    assert "must go from mutants.md: f: 1 → 2" in shown


@functools.cache
def labels_of(name: str) -> frozenset[str]:
    source = running.all_modules()[name].read_bytes()
    return frozenset(mutant.label for mutant in mutants_of(source))


def test_every_reason_is_about_a_mutant_that_there_is() -> None:
    rows = running.accepted_mutants()

    assert [row for row in rows if row[1] not in labels_of(row[0])] == []


def test_every_named_test_file_is_there() -> None:
    modules = running.all_modules()

    missing = [
        file
        for name in running.named_tests()
        for file in running.test_files(name)
        if name not in modules or not (running.ROOT / file).exists()
    ]

    assert missing == []


IMPATIENT = """
import time

import pytest
from hypothesis import given, strategies


def work(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


@pytest.mark.timeout(0.05)
def test_by_the_clock():
    work(0.2)


@given(strategies.booleans())
def test_by_the_deadline_of_an_example(value):
    work(0.5)
"""


@pytest.mark.parametrize(("plugins", "shown"), [("", "2 failed"), ("Haste()", "2 passed")])
def test_no_test_fails_because_time_has_passed(tmp_path: Path, plugins: str, shown: str) -> None:
    path = tmp_path / "test_impatient.py"
    path.write_text(IMPATIENT)
    options = ["-q", "-p", "no:cacheprovider", f"--rootdir={tmp_path}"]
    call = f"pytest.main({[*options, str(path)]}, plugins=[{plugins}])"
    # Hypothesis has a patient profile of its own where it finds itself in continuous integration.
    as_at_home = "import hypothesis; hypothesis.settings.load_profile('default')"
    program = f"import pytest; from tests.mutation.__main__ import Haste; {as_at_home}; {call}"

    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=running.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert shown in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
def test_what_other_children_used_is_not_counted() -> None:
    subprocess.run([sys.executable, "-c", "import numpy"], check=True)
    trial = running.Trial(
        "kumiai.identity.denials",
        running.all_modules()["kumiai.identity.denials"],
        running.test_files("kumiai.identity.denials"),
    )
    before = running.cpu_seconds_of_children()

    running.measure(trial)

    assert 0 < trial.cpu_seconds <= running.cpu_seconds_of_children() - before


@pytest.mark.slow
def test_a_module_whose_mutants_are_all_killed_passes() -> None:
    command = [sys.executable, "-m", "tests.mutation", "kumiai.identity.denials"]

    done = subprocess.run(command, cwd=running.ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 killed" in done.stdout


def test_a_pattern_that_names_no_module_is_a_mistake_of_the_caller() -> None:
    command = [sys.executable, "-m", "tests.mutation", "kumiai.nothing"]

    done = subprocess.run(command, cwd=running.ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "FILES must name modules" in done.stderr
