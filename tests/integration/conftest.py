"""What most tests of a federation begin with; modules that need another one make their own."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kumiai.storage import DatabaseManager, RunRepository
from kumiai.testing.databases import SQLiteTemplate
from tests.integration import study
from tests.integration.federation import Federation


@pytest.fixture
def site_settings() -> dict[str, Any]:
    """Return what the ``[client]`` table of every site holds besides the usual."""
    return {}


@pytest.fixture
async def federation(
    tmp_path: Path, sqlite_template: SQLiteTemplate, site_settings: dict[str, Any]
) -> AsyncIterator[Federation]:
    """Lend a coordinator that listens, without clients."""
    database_url = sqlite_template.copy_to(tmp_path / "kumiai.db")
    federation = Federation(tmp_path, database_url, client_settings=site_settings)
    await federation.start()
    yield federation
    for event in study.hold.values():
        event.set()
    study.hold.clear()
    await federation.stop()


@pytest.fixture
async def runs(federation: Federation) -> AsyncIterator[RunRepository]:
    """Lend what the coordinator's database holds of runs."""
    database = DatabaseManager(federation.database_url)
    await database.connect()
    yield RunRepository(database)
    await database.close()
