"""What most tests of a federation begin with; modules that need another one make their own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kumiai.testing.databases import SQLiteTemplate
from tests.integration.federation import Federation


@pytest.fixture
async def federation(tmp_path: Path, sqlite_template: SQLiteTemplate) -> AsyncIterator[Federation]:
    """Lend a coordinator that listens, without clients."""
    federation = Federation(tmp_path, sqlite_template.copy_to(tmp_path / "kumiai.db"))
    await federation.start()
    yield federation
    await federation.stop()
