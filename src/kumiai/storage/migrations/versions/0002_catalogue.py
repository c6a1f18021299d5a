"""Descriptions, tags, row versions and full-text search of runs, models and clients.

On SQLite the terms of each table are indexed by an FTS5 table without content of its own,
``search_<table>``; triggers keep it. It needs a number for each row, and not SQLite's own row
number: VACUUM gives new ones to a table whose key is text. So ``search_<table>_keys`` gives one.
"""
# ruff: noqa: S608 - only the names of our own tables enter these statements

import sqlalchemy as sa
from alembic import op

from kumiai.core.errors import SchemaError
from kumiai.storage.search import search_terms

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TABLES = {"runs": ("run_id", "name"), "models": ("model_id", "name"),
           "clients": ("client_id", "client_id")}  # fmt: skip
"""Each table with its key and with the column that names a row."""


def upgrade() -> None:
    """Add the columns, work out the terms of the rows that exist, index them."""
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        _verify_fts5(connection)
    op.add_column("clients", _text("display_name"))
    op.create_index("ix_models_created_at_model_id", "models", ["created_at", "model_id"])
    for table, (key, name) in _TABLES.items():
        op.add_column(table, _text("description"))
        op.add_column(table, _text("tags_json", "'[]'"))
        op.add_column(
            table, sa.Column("row_version", sa.Integer(), server_default="1", nullable=False)
        )
        op.add_column(table, _text("search_terms"))
        _fill_terms(connection, table, name)
        if connection.dialect.name == "sqlite":
            for statement in _sqlite_index(table, key):
                op.execute(statement)
        else:
            op.create_index(
                f"ix_{table}_search",
                table,
                [sa.text("CAST(search_terms AS tsvector)")],
                postgresql_using="gin",
                # Rows come one by one; a list of those that wait to be indexed, as it gathers
                # after a bulk insert, is read by every search.
                postgresql_with={"fastupdate": "off"},
            )


def downgrade() -> None:
    """Remove them; what people wrote about the rows goes with the columns."""
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    # The revision before knows only clients that came.
    op.execute("UPDATE clients SET state = 'detached' WHERE state = 'registered'")
    for table in _TABLES:
        if is_sqlite:
            for act in ("insert", "update", "delete"):
                op.execute(f"DROP TRIGGER search_{table}_{act}")
            op.execute(f"DROP TABLE search_{table}")
            op.execute(f"DROP TABLE search_{table}_keys")
        else:
            op.drop_index(f"ix_{table}_search", table)
        for column in ("search_terms", "row_version", "tags_json", "description"):
            op.drop_column(table, column)
    op.drop_index("ix_models_created_at_model_id", "models")
    op.drop_column("clients", "display_name")


def _text(name: str, default: str = "''") -> "sa.Column[str]":
    return sa.Column(name, sa.Text(), server_default=sa.text(default), nullable=False)


def _verify_fts5(connection: sa.Connection) -> None:
    used = sa.text("SELECT sqlite_compileoption_used('ENABLE_FTS5'), sqlite_version()")
    has_fts5, version = connection.execute(used).one()
    if not has_fts5:
        raise SchemaError(
            f"SQLite must be built with its full-text search FTS5, got {version} without; use "
            "another build of Python, or PostgreSQL"
        )


def _fill_terms(connection: sa.Connection, table: str, name: str) -> None:
    # By name and not by row: a run of a thousand rounds has a thousand models and one name.
    rows = sa.table(table, sa.column(name), sa.column("search_terms"))
    names = connection.scalars(sa.select(rows.c[name]).distinct()).all()
    if names:
        connection.execute(
            sa.update(rows)
            .where(rows.c[name] == sa.bindparam("found"))
            .values(search_terms=sa.bindparam("terms")),
            [{"found": found, "terms": search_terms(found)} for found in names],
        )


def _sqlite_index(table: str, key: str) -> list[str]:
    index, keys = f"search_{table}", f"search_{table}_keys"
    return [
        statement.format(table=table, key=key, index=index, keys=keys)
        for statement in (_KEYS, _INDEX, _FILL_KEYS, _FILL_INDEX, *_TRIGGERS)
    ]


_KEYS = "CREATE TABLE {keys} (entry_id INTEGER PRIMARY KEY, {key} TEXT NOT NULL UNIQUE)"
_INDEX = """
    CREATE VIRTUAL TABLE {index}
    USING fts5(terms, content='', columnsize=0, detail=none, tokenize='ascii')
"""
_FILL_KEYS = "INSERT INTO {keys} ({key}) SELECT {key} FROM {table}"
_FILL_INDEX = """
    INSERT INTO {index} (rowid, terms)
    SELECT entry_id, search_terms FROM {table} JOIN {keys} USING ({key})
"""
_LEARN = """
    INSERT INTO {index} (rowid, terms)
    SELECT entry_id, new.search_terms FROM {keys} WHERE {key} = new.{key};
"""
# FTS5 without content forgets a row only if it is told the terms that the row had.
_FORGET = """
    INSERT INTO {index} ({index}, rowid, terms)
    SELECT 'delete', entry_id, old.search_terms FROM {keys} WHERE {key} = old.{key};
"""
# In a new row's place the key's number is at hand: a look-up less.
_INSERTED = """
    INSERT INTO {keys} ({key}) VALUES (new.{key});
    INSERT INTO {index} (rowid, terms) VALUES (last_insert_rowid(), new.search_terms);
"""
_DELETED = _FORGET + "DELETE FROM {keys} WHERE {key} = old.{key};"
_IF_OTHER = f"WHEN old.search_terms IS NOT new.search_terms BEGIN {_FORGET} {_LEARN} END"
_TRIGGERS = (
    f"CREATE TRIGGER {{index}}_insert AFTER INSERT ON {{table}} BEGIN {_INSERTED} END",
    f"CREATE TRIGGER {{index}}_update AFTER UPDATE OF search_terms ON {{table}} {_IF_OTHER}",
    f"CREATE TRIGGER {{index}}_delete AFTER DELETE ON {{table}} BEGIN {_DELETED} END",
)
