"""Every package that Kumiai needs is written down, with what it is for."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions

from tests.meta.repository import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PAGE = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")


def name_of(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    return normal(found.group() if found else requirement)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(section: list[str]) -> set[str]:
    return {name_of(requirement) for requirement in section}


CORE = declared(PROJECT["dependencies"])
EXTRAS = {name: declared(section) for name, section in PROJECT["optional-dependencies"].items()}
EVERYTHING = CORE.union(*EXTRAS.values())
# Modules of packages that another one brings in any case, by the package that brings them.
BROUGHT = {
    "google": "protobuf",
    "starlette": "fastapi",
    "click": "typer",
    "greenlet": "sqlalchemy",
    "coverage": "pytest-cov",
    "packaging": "pytest",
}


OURS = {"kumiai", "kumiai_pb2", "tests", "benchmarks"}


def described() -> set[str]:
    """Return the packages that have a row of their own in a table of the page."""
    return {normal(name) for name in re.findall(r"^\| `([A-Za-z0-9._-]+)", PAGE, re.MULTILINE)}


def imported(folder: str) -> dict[str, str]:
    """Return the packages that the code in a folder imports, each with one file that does."""
    modules: dict[str, str] = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Import(names=names):
                    found = [alias.name for alias in names]
                case ast.ImportFrom(module=str(module), level=0):
                    found = [module]
                case _:
                    found = []
            for name in found:
                modules.setdefault(name.partition(".")[0], str(path.relative_to(ROOT)))
    return {
        name: path
        for name, path in modules.items()
        if name not in sys.stdlib_module_names and name not in OURS
    }


def test_every_dependency_has_a_line_on_the_page() -> None:
    assert sorted(EVERYTHING - described()) == []


def test_the_page_describes_nothing_that_is_not_a_dependency() -> None:
    assert sorted(described() - EVERYTHING) == []


def test_every_extra_is_named_on_the_page() -> None:
    missing = [extra for extra in EXTRAS if f"`{extra}`" not in PAGE]

    assert missing == []


def undeclared(folder: str, declared_names: set[str]) -> dict[str, str]:
    homes = packages_distributions()
    return {
        name: path
        for name, path in imported(folder).items()
        if normal(BROUGHT.get(name, name)) not in declared_names
        and not any(normal(home) in declared_names for home in homes.get(name, []))
    }


def test_whatever_the_code_imports_is_declared() -> None:
    users = CORE.union(*(names for extra, names in EXTRAS.items() if extra != "dev"))

    found = undeclared("src/kumiai", users)

    assert {name: path for name, path in found.items() if "/testing/" not in path} == {}


def test_whatever_the_tests_import_is_declared() -> None:
    assert undeclared("tests", EVERYTHING) == {}


def test_every_core_dependency_is_imported_somewhere() -> None:
    homes = packages_distributions()
    names = {normal(home) for name in imported("src/kumiai") for home in homes.get(name, [name])}

    assert sorted(CORE - names) == []


def test_every_dependency_has_a_floor() -> None:
    sections = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    requirements = [requirement for section in sections for requirement in section]

    floorless = [requirement for requirement in requirements if ">=" not in requirement]

    assert floorless == []
