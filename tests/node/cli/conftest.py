"""An empty current folder for every test, and one federation for those that need it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.cli.program import Federation


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and no setting in the environment."""
    monkeypatch.chdir(tmp_path)
    for variable in ("KUMIAI_CONFIG", "KUMIAI_CA_PASSPHRASE"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A coordinator and two clients, for all tests of a session."""
    running = Federation(tmp_path_factory.mktemp("federation"))
    yield running
    running.close()
