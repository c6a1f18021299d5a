import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection

from kumiai.storage import DatabaseManager
from kumiai.storage.tables import Base


def _differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(
        connection,
        opts={
            "compare_type": True,
            "compare_server_default": True,
            "include_name": _is_of_the_tables,
        },
    )
    return list(compare_metadata(context, Base.metadata))


def _is_of_the_tables(name: str | None, kind: str, _parents: object) -> bool:
    # SQLite's full-text indexes are tables, and no ORM class stands for them.
    return not (kind == "table" and (name or "").startswith("search_"))


@pytest.mark.filterwarnings("ignore:autogenerate skipping .* expression-based index")
async def test_the_migrated_schema_is_that_of_the_tables(database: DatabaseManager) -> None:
    async with database.reading() as connection:
        assert await connection.run_sync(_differences) == []
