"""The API as a running server."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kumiai.storage import DatabaseManager
from tests.node.http.api import Certificates, RunningApi, running_api


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
async def api(
    certificates: Certificates, database: DatabaseManager, tmp_path: Path
) -> AsyncIterator[RunningApi]:
    async with running_api(certificates, database, tmp_path) as running:
        yield running
