"""The database itself refuses to rewrite the audit log."""

import pytest
from sqlalchemy import text

from kumiai.core.errors import StorageError
from kumiai.storage import DatabaseManager
from kumiai.testing.databases import PostgresServer

ROWS = {
    "audit_entries": (
        "(sequence, at, act, outcome, subject, person, body, chain) "
        "VALUES (0, 1.0, 'run.created', 'done', 'run/r', 'p', '{}', :hash)"
    ),
    "audit_head": "(name, size, chain, frontier) VALUES ('log', 7, :hash, :hash)",
    "audit_nodes": "(level, position, hash) VALUES (8, 0, :hash)",
    "audit_persons": "(person, kind, name, secret) VALUES ('p', 'operator', 'ann', :hash)",
    "audit_checkpoints": "(size, key_id, at, note) VALUES (1, 'k', 1.0, 'note')",
    "audit_signers": "(key_id, document, created_at) VALUES ('k', '{}', 1.0)",
}
REFUSED = {
    "an entry's change": "UPDATE audit_entries SET body = '{ }'",
    "an entry's end": "DELETE FROM audit_entries",
    "a node's change": "UPDATE audit_nodes SET position = 1",
    "a node's end": "DELETE FROM audit_nodes",
    "a checkpoint's change": "UPDATE audit_checkpoints SET note = ''",
    "a checkpoint's end": "DELETE FROM audit_checkpoints",
    "a signer's change": "UPDATE audit_signers SET document = ''",
    "a signer's end": "DELETE FROM audit_signers",
    "a head that does not grow": "UPDATE audit_head SET size = 7",
    "a head that shrinks": "UPDATE audit_head SET size = 6",
    "another name of the head": "UPDATE audit_head SET size = 8, name = 'other'",
    "the head's end": "DELETE FROM audit_head",
    "another key of a person": "UPDATE audit_persons SET name = 'eve'",
}


async def fill(database: DatabaseManager) -> None:
    async with database.transaction() as connection:
        for table, row in ROWS.items():
            statement = text(f"INSERT INTO {table} {row}")
            binds = {"hash": b"\x01" * 32} if ":hash" in row else {}
            await connection.execute(statement, binds)


@pytest.mark.parametrize("what", REFUSED)
async def test_the_database_refuses(database: DatabaseManager, what: str) -> None:
    await fill(database)

    with pytest.raises(StorageError, match="audit log can only be added to"):
        async with database.transaction() as connection:
            await connection.execute(text(REFUSED[what]))


@pytest.mark.parametrize("table", ROWS)
async def test_postgresql_refuses_to_truncate(postgres: PostgresServer, table: str) -> None:
    database = DatabaseManager(url := postgres.new_database())
    await database.connect()

    with pytest.raises(StorageError, match="audit log can only be added to"):
        async with database.transaction() as connection:
            await connection.execute(text(f"TRUNCATE {table}"))

    await database.close()
    postgres.give_back(url)


async def test_the_head_may_grow_and_a_person_may_be_forgotten(database: DatabaseManager) -> None:
    await fill(database)

    async with database.transaction() as connection:
        await connection.execute(text("UPDATE audit_head SET size = 8"))
        await connection.execute(text("DELETE FROM audit_persons"))

    async with database.reading() as connection:
        assert (await connection.execute(text("SELECT size FROM audit_head"))).scalar_one() == 8
        count = await connection.execute(text("SELECT count(*) FROM audit_persons"))
        assert count.scalar_one() == 0
