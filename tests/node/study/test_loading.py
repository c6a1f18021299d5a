"""load_app: from a file or a module to the one App."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kumiai.core.errors import ConfigError
from kumiai.node.study import StudyError, load_app

STUDY = """
from dataclasses import dataclass
import numpy as np
import kumiai as km

@dataclass
class Settings:
    rate: float = 0.1

{name} = km.App("{app}")

@{name}.model
def model(config):
    return {{"w": np.zeros(1)}}

@{name}.train
def train(weights, context):
    return km.Update(weights, 1)
"""


@pytest.fixture(autouse=True)
def _imports_are_forgotten() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("kumiai_study_") or "study_package" in name or name == "neighbour":
            del sys.modules[name]


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def test_a_file_with_one_app_needs_no_name(tmp_path: Path) -> None:
    file = write(tmp_path / "heart.py", STUDY.format(name="app", app="heart"))

    assert load_app(file).name == "heart"
    assert load_app(f"{file}:app").name == "heart"


def test_two_files_of_the_same_name_are_two_studies(tmp_path: Path) -> None:
    one = write(tmp_path / "1" / "study.py", STUDY.format(name="app", app="one"))
    two = write(tmp_path / "2" / "study.py", STUDY.format(name="app", app="two"))

    assert [load_app(one).name, load_app(two).name, load_app(one).name] == ["one", "two", "one"]


def test_a_file_may_import_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path / "neighbour.py", "NAME = 'from-neighbour'\n")
    text = STUDY.format(name="app", app="x").replace('km.App("x")', "km.App(NAME)")
    file = write(tmp_path / "study.py", "from neighbour import NAME\n" + text)

    assert load_app(file).name == "from-neighbour"
    assert load_app(file).name == "from-neighbour"
    assert sys.path.count(str(tmp_path)) == 1


def test_the_same_app_under_two_names_is_one(tmp_path: Path) -> None:
    file = write(tmp_path / "s.py", STUDY.format(name="app", app="one") + "\nalias = app\n")

    assert load_app(file).name == "one"


def test_an_installed_module_is_loaded_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "study_package" / "heart.py", STUDY.format(name="study", app="heart"))
    monkeypatch.syspath_prepend(tmp_path)

    assert load_app("study_package.heart").name == "heart"
    assert load_app("study_package.heart:study").name == "heart"


def test_several_apps_need_a_name(tmp_path: Path) -> None:
    text = STUDY.format(name="first", app="one") + STUDY.format(name="second", app="two")
    file = write(tmp_path / "s.py", text)

    assert load_app(f"{file}:second").name == "two"
    with pytest.raises(ConfigError, match=r"exactly one App, .* got a module with apps first, sec"):
        load_app(file)


def test_a_name_that_is_no_app_is_told_with_what_was_found(tmp_path: Path) -> None:
    file = write(tmp_path / "s.py", STUDY.format(name="app", app="one"))

    for name in ("missing", "model"):
        with pytest.raises(ConfigError, match=f"s.py:{name} must be an App, got .* apps app"):
            load_app(f"{file}:{name}")


def test_a_module_without_an_app_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "s.py", "x = 1\n")

    with pytest.raises(ConfigError, match=r"must hold exactly one App, .* without any App"):
        load_app(file)


def test_an_app_without_its_functions_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "s.py", "import kumiai as km\napp = km.App('x')\n")

    with pytest.raises(ConfigError, match="app 'x' must have a function model"):
        load_app(file)


def test_code_that_raises_is_told_at_its_line_and_leaves_no_module(tmp_path: Path) -> None:
    file = write(tmp_path / "broken.py", "x = 1\n1 / 0\n")

    with pytest.raises(
        StudyError, match=r"broken.py' failed at broken.py:2 with ZeroDivisionError"
    ):
        load_app(file)

    assert not [name for name in sys.modules if name.endswith("_broken")]


def test_a_module_whose_import_fails_inside_is_the_studys_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "study_package_broken.py", "import surely_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(
        StudyError, match=r"failed at study_package_broken.py:1 with ModuleNotFound"
    ):
        load_app("study_package_broken")


@pytest.mark.parametrize("reference", ["surely_not_installed", "kumiai.surely_not_there"])
def test_a_module_that_is_not_installed_is_the_references_fault(reference: str) -> None:
    with pytest.raises(ConfigError, match=r"must name an installed module, got .* ./study.py"):
        load_app(reference)


@pytest.mark.parametrize("reference", ["", ":app"])
def test_a_reference_without_a_place_is_refused(reference: str) -> None:
    with pytest.raises(ConfigError, match="app reference must be path/to/file"):
        load_app(reference)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must name an existing file, got .*none.py"):
        load_app(str(tmp_path / "none.py"))


def test_a_file_that_is_no_python_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "study.txt", "x")

    with pytest.raises(ConfigError, match=r"must name a Python file, got .*study.txt"):
        load_app(file)
