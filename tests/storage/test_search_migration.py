"""What the revision that brought descriptions and search makes of rows that were there before."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, event, text

from kumiai.core.errors import SchemaError
from kumiai.storage import (
    Changes,
    ClientQuery,
    DatabaseManager,
    ModelQuery,
    NewClient,
    SessionQuery,
    schema,
)
from kumiai.testing.databases import SQLiteTemplate
from tests.storage.catalogue import Catalogue
from tests.storage.leading import new_run

BEFORE, ITSELF = "0001", "0002"


@pytest.fixture
async def old(database: DatabaseManager) -> AsyncIterator[Catalogue]:
    """Rows of everything, in a database as it was before."""
    catalogue = Catalogue(database)
    for run_id, name in (("run-a", "heart-study"), ("run-b", "digits"), ("run-c", "")):
        await catalogue.runs.create(new_run(run_id, name=name))
    await catalogue.add_models("run-b", 3)
    await catalogue.clients.attach(
        client_id="hospital-a", instance_id="one", software_version="1", apps=["x"], address="h:1"
    )
    await catalogue.clients.register(NewClient("hospital-b", "Charité", "large", ("berlin",)))
    await database.migrate(BEFORE)
    yield catalogue
    await database.migrate()


async def test_rows_from_before_are_found_and_can_be_described(old: Catalogue) -> None:
    await old.database.migrate()

    run = await old.history.get("run-a")
    assert (run.description, run.tags, run.row_version) == ("", (), 1)
    found = await old.history.list_sessions(SessionQuery(search="study heart"))
    assert [each.run_id for each in found.items] == ["run-a"]
    models = await old.models.list_models(ModelQuery(search="digi"))
    assert {each.model_id for each in models.items} == {f"run-b.{n}" for n in range(4)}
    clients = await old.clients.list_page(ClientQuery(search="hospital"))
    assert [each.client_id for each in clients.items] == ["hospital-a", "hospital-b"]
    await old.history.update("run-c", Changes(description="now with words"))
    assert len((await old.history.list_sessions(SessionQuery(search="words"))).items) == 1


async def test_the_way_back_keeps_the_rows_and_knows_no_new_state(old: Catalogue) -> None:
    async with old.database.reading() as connection:
        states = await connection.execute(text("SELECT client_id, state FROM clients ORDER BY 1"))
        runs = await connection.scalar(text("SELECT count(*) FROM runs"))
        models = await connection.scalar(text("SELECT count(*) FROM models"))
        found = [tuple(row) for row in states]

    assert found == [("hospital-a", "attached"), ("hospital-b", "detached")]
    assert (runs, models) == (3, 6)


async def test_there_and_back_again_leaves_the_schema_as_it_was(database: DatabaseManager) -> None:
    async def names() -> list[str]:
        query = (
            "SELECT type || ' ' || name FROM sqlite_master WHERE name NOT LIKE 'sqlite%' ORDER BY 1"
            if database.dialect == "sqlite"
            else "SELECT table_name || '.' || column_name FROM information_schema.columns "
            "WHERE table_schema = 'public' "
            "UNION SELECT indexname FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"
        )
        async with database.reading() as connection:
            return list(await connection.scalars(text(query)))

    there = await names()
    await database.migrate(BEFORE)
    assert not any("search" in name for name in await names())
    await database.migrate()

    assert await names() == there


def test_sqlite_without_full_text_search_is_named(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'x.db'}")

    @event.listens_for(engine, "connect")
    def _without(connection: sqlite3.Connection, _record: object) -> None:
        connection.create_function("sqlite_compileoption_used", 1, lambda _option: 0)

    with (
        pytest.raises(SchemaError, match="must be built with its full-text search FTS5"),
        engine.begin() as connection,
    ):
        schema.migrate(connection, None)
    engine.dispose()


async def test_the_index_survives_that_sqlite_numbers_the_rows_anew(
    sqlite_template: SQLiteTemplate, tmp_path: Path
) -> None:
    path = tmp_path / "kumiai.db"
    database = DatabaseManager(sqlite_template.copy_to(path))
    await database.connect()
    catalogue = Catalogue(database)
    for run_id in ("run-a", "run-b", "run-c"):
        await catalogue.add_run(run_id, description=f"about {run_id[-1] * 5}")
    await catalogue.end("run-a")
    await catalogue.history.delete("run-a")
    await database.close()
    connection = sqlite3.connect(path)
    connection.execute("VACUUM")
    connection.close()
    await database.connect()

    await catalogue.history.update("run-b", Changes(description="other"))
    found = [
        [run.run_id for run in (await catalogue.history.list_sessions(
            SessionQuery(search=words))).items]
        for words in ("aaaaa", "bbbbb", "ccccc", "other")
    ]  # fmt: skip
    await database.close()

    assert found == [[], [], ["run-c"], ["run-b"]]
    connection = sqlite3.connect(path)
    # Raises if the index does not fit itself.
    connection.execute("INSERT INTO search_runs (search_runs) VALUES ('integrity-check')")
    connection.close()
