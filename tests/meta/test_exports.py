"""What a module says it offers is there, and whoever takes something takes what is offered."""

import ast
import importlib
import importlib.util
import pkgutil
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

import kumiai
from tests.meta.repository import ROOT

OPTIONAL = ("asyncpg", "obstore", "pkcs11", "redis", "sklearn", "torch")
SOURCE = ROOT / "src"


def modules() -> Iterator[str]:
    yield "kumiai"
    for module in pkgutil.walk_packages(kumiai.__path__, "kumiai."):
        if not module.name.endswith(("_pb2", "__main__")) and ".migrations" not in module.name:
            yield module.name


MODULES = list(modules())
FILES = sorted((SOURCE / "kumiai").rglob("*.py"))


def load(name: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(OPTIONAL):
            pytest.skip(f"{name} needs an extra: {error}")
        raise


def offers(module: types.ModuleType, entry: str) -> bool:
    try:
        return hasattr(module, entry)
    except ImportError as error:
        # A name that loads on first use says so when its extra is not installed.
        return any(extra in str(error) for extra in OPTIONAL)


@pytest.mark.parametrize("name", MODULES)
def test_every_listed_name_exists_and_is_listed_once(name: str) -> None:
    module = load(name)
    listed = getattr(module, "__all__", [])

    missing = [entry for entry in listed if not offers(module, entry)]

    assert missing == []
    assert len(set(listed)) == len(listed)


def imports_of_ours(path: Path) -> Iterator[tuple[str, str]]:
    """Give each name that a file takes from one of our modules, with the module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.ImportFrom(module=str(module), level=0) if module.startswith("kumiai"):
                for alias in node.names:
                    yield module, alias.name


def is_offered(module_name: str, entry: str) -> bool:
    module = load(module_name)
    is_submodule = hasattr(module, "__path__") and (
        importlib.util.find_spec(f"{module_name}.{entry}") is not None
    )
    return is_submodule or entry in getattr(module, "__all__", ())


def is_neighbour(path: Path, module_name: str) -> bool:
    return module_name.split(".")[:-1] == list(path.relative_to(SOURCE).parent.parts)


def test_whoever_takes_a_name_from_another_package_of_ours_takes_a_listed_one() -> None:
    taken = [
        f"{path.relative_to(SOURCE)} takes {module}.{entry}"
        for path in FILES
        for module, entry in imports_of_ours(path)
        if not is_neighbour(path, module) and not is_offered(module, entry)
    ]

    assert taken == []


def test_nobody_takes_a_name_that_begins_with_an_underscore() -> None:
    taken = [
        f"{path.relative_to(SOURCE)} takes {module}.{entry}"
        for path in FILES
        for module, entry in imports_of_ours(path)
        if entry.startswith("_") and entry != "__version__"
    ]

    assert taken == []
