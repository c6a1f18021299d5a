"""An empty current folder for every test, and one federation for those that need it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kumiai.storage import DatabaseManager
from kumiai.testing.databases import SQLiteTemplate
from tests.node.cli.program import Federation
from tests.node.http.api import Certificates, RunningApi, running_api


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


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Who calls the API, and the coordinator."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
async def api(
    certificates: Certificates, sqlite_template: SQLiteTemplate, tmp_path: Path
) -> AsyncIterator[RunningApi]:
    """The API alone, in the test's event loop, on an empty database."""
    database = DatabaseManager(sqlite_template.copy_to(tmp_path / "kumiai.db"))
    await database.connect()
    async with running_api(certificates, database, tmp_path) as running:
        yield running
    await database.close()
