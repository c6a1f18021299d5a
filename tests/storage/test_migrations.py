"""From every revision to every other, both ways, with rows that must come through."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.core.errors import ConfigError, SchemaError, StorageError
from kumiai.storage import DatabaseManager, schema
from kumiai.testing.databases import PostgresServer

REVISIONS = schema.revisions()
ROWS = (
    (
        "INSERT INTO clients (client_id, instance_id, software_version, apps_json, first_seen_at, "
        "last_seen_at, state, address) VALUES ('a', 'i', 'v', '[]', 1.5, 2.5, 'attached', 'x')"
    ),
    (
        "INSERT INTO runs (run_id, name, app, state, job_json, submitted_by, rounds_total, round, "
        "model_digest, created_at, updated_at) "
        "VALUES ('r', 'digits', 'app', 'running', '{}', 'olga', 3, 1, 'd0', 1.0, 2.0)"
    ),
    (
        "INSERT INTO rounds (run_id, round, stage, base_digest, target_reports, min_reports, "
        "attempt, opened_at, deadline_at) VALUES ('r', 1, 'collecting', 'd0', 2, 1, 1, 3.0, 4.0)"
    ),
    (
        "INSERT INTO models (run_id, round, model_id, digest, size_bytes, name, created_at) "
        "VALUES ('r', 0, 'm', 'd0', 10, 'digits', 1.0)"
    ),
    (
        "INSERT INTO updates (run_id, round, client_id, digest, size_bytes, examples, "
        "metrics_json, accepted_at) VALUES ('r', 1, 'a', 'u', 7, 9, '{\"loss\": 0.5}', 3.5)"
    ),
    (
        "INSERT INTO assignments (run_id, round, client_id, kind, state, attempt, seed, "
        "assigned_at) VALUES ('r', 1, 'a', 'train', 'reported', 1, 4294967296, 3.1)"
    ),
    (
        "INSERT INTO evaluations (run_id, round, client_id, examples, metrics_json, reported_at) "
        "VALUES ('r', 0, 'a', 9, '{}', 3.2)"
    ),
    "INSERT INTO events (run_id, at, level, kind, text) VALUES ('r', 1.0, 'info', 'k', 'words')",
)
TABLES = ("clients", "runs", "rounds", "models", "updates", "assignments", "evaluations", "events")


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Lend a database without any table."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/kumiai.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.new_database(migrated=False)
    yield url
    server.give_back(url)


async def dump(connection: AsyncConnection, columns: dict[str, list[str]]) -> dict[str, list[Any]]:
    found = {}
    for table, names in columns.items():
        rows = await connection.execute(text(f"SELECT {', '.join(names)} FROM {table}"))
        found[table] = [tuple(row) for row in rows]
    return found


def columns_of(connection: Connection) -> dict[str, list[str]]:
    return {
        table: [column["name"] for column in inspect(connection).get_columns(table)]
        for table in TABLES
    }


@pytest.mark.parametrize("start", REVISIONS)
async def test_rows_come_through_every_step_up_and_down_and_all_at_once(
    empty_url: str, start: str
) -> None:
    database = DatabaseManager(empty_url)
    await database.connect()
    await database.migrate(REVISIONS[0])
    async with database.reading() as connection:
        columns = await connection.run_sync(columns_of)
    await database.migrate(start)
    async with database.transaction() as connection:
        for statement in ROWS:
            await connection.exec_driver_sql(statement)
        before = await dump(connection, columns)

    here = REVISIONS.index(start)
    up, down = REVISIONS[here + 1 :], REVISIONS[-2::-1]
    # Step by step to the newest and to the oldest, then there, back and home in one go each.
    for end in [*up, *down, REVISIONS[-1], REVISIONS[0], start]:
        steps = await database.migrate(end)

        first, last = sorted((here, REVISIONS.index(end)))
        assert sorted(step.revision for step in steps) == REVISIONS[first + 1 : last + 1]
        async with database.reading() as connection:
            assert await connection.run_sync(schema.revision_of) == end
            assert await dump(connection, columns) == before
        here = REVISIONS.index(end)
    await database.close()


@pytest.mark.parametrize("end", REVISIONS)
async def test_going_down_and_up_again_gives_the_same_schema(empty_url: str, end: str) -> None:
    database = DatabaseManager(empty_url)
    await database.connect()
    await database.migrate()
    async with database.reading() as connection:
        first = await connection.run_sync(schema_of)

    await database.migrate(end)
    await database.migrate()

    async with database.reading() as connection:
        assert await connection.run_sync(schema_of) == first
    await database.close()


async def test_only_a_mistake_of_ours_is_known_of_runs_that_failed_before(empty_url: str) -> None:
    database = DatabaseManager(empty_url)
    await database.connect()
    await database.migrate("0004")
    async with database.transaction() as connection:
        await connection.exec_driver_sql(ROWS[1])
        for run_id, state, reason in (
            ("a", "failed", "internal error: TypeError: x"),
            ("b", "failed", "round 1: only 1 of 2 needed updates"),
            ("c", "stopped", "internal error: said an operator"),
        ):
            await connection.execute(
                text(
                    "INSERT INTO runs (run_id, name, app, state, reason, job_json, submitted_by, "
                    "rounds_total, round, model_digest, created_at, updated_at) SELECT :run_id, "
                    "name, app, :state, :reason, job_json, submitted_by, rounds_total, round, "
                    "model_digest, created_at, updated_at FROM runs WHERE run_id = 'r'"
                ),
                {"run_id": run_id, "state": state, "reason": reason},
            )

    await database.migrate("0005")

    async with database.reading() as connection:
        rows = await connection.execute(text("SELECT run_id, end_kind FROM runs ORDER BY run_id"))
        assert [tuple(row) for row in rows] == [
            ("a", "internal"),
            ("b", None),
            ("c", None),
            ("r", None),
        ]
    await database.close()


def schema_of(connection: Connection) -> dict[str, Any]:
    found = inspect(connection)
    return {
        table: (
            sorted((c["name"], str(c["type"]), c["nullable"]) for c in found.get_columns(table)),
            sorted(str(index["name"]) for index in found.get_indexes(table)),
        )
        for table in sorted(found.get_table_names())
    }


async def test_a_database_that_is_there_already_is_left_alone(database: DatabaseManager) -> None:
    assert await database.planned_migration() == []
    assert await database.migrate() == []


async def test_a_plan_changes_nothing(empty_url: str) -> None:
    database = DatabaseManager(empty_url)
    await database.connect()

    planned = await database.planned_migration()

    assert [step.revision for step in planned] == REVISIONS
    assert {step.direction for step in planned} == {"up"}
    assert all(step.text for step in planned)
    async with database.reading() as connection:
        assert await connection.run_sync(schema.revision_of) is None
    await database.close()


async def test_an_unknown_revision_is_refused(database: DatabaseManager) -> None:
    with pytest.raises(ConfigError, match=r"revision must be one of 0001, .* got 'base'"):
        await database.migrate("base")


async def test_a_database_that_is_not_connected_is_not_migrated(empty_url: str) -> None:
    with pytest.raises(StorageError, match="must be connected first"):
        await DatabaseManager(empty_url).migrate()


async def test_two_revisions_at_once_are_damage(database: DatabaseManager) -> None:
    async with database.transaction() as connection:
        await connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('0001')")

    with pytest.raises(SchemaError, match="must have one revision"):
        await database.verify_schema()


async def test_a_migration_that_would_lose_a_reference_changes_nothing(tmp_path: Path) -> None:
    database = DatabaseManager(f"sqlite:///{tmp_path}/kumiai.db")
    await database.connect()
    await database.migrate(REVISIONS[0])
    async with database._unhurried(foreign_keys=False) as connection:
        await connection.exec_driver_sql(ROWS[2])
        await connection.commit()

    with pytest.raises(SchemaError, match="rows of rounds must refer to rows of runs"):
        await database.migrate()

    async with database.reading() as connection:
        assert await connection.run_sync(schema.revision_of) == REVISIONS[0]
    await database.close()
