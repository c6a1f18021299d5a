"""The audit log: entries that can only be added, and the keys to the persons in them."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_FIXED = ("audit_entries", "audit_nodes", "audit_checkpoints", "audit_signers")
"""Rows of these come, and never change or go."""


def upgrade() -> None:
    """Create the tables, and the triggers that keep them as they are."""
    _create_tables()
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    for statement in _sqlite_triggers() if is_sqlite else _postgresql_triggers():
        op.execute(statement)


def downgrade() -> None:
    """Drop them: what was recorded is lost, and clients that keep a checkpoint will notice."""
    for table in ("audit_head", "audit_persons", *_FIXED):
        # With its triggers and indexes.
        op.drop_table(table)
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION audit_refuse()")


def _create_tables() -> None:
    op.create_table(
        "audit_entries",
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("act", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("person", sa.Text(), nullable=True),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("chain", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_audit_entries"),
    )
    for column in ("act", "subject", "person"):
        op.create_index(
            f"ix_audit_entries_{column}_sequence", "audit_entries", [column, "sequence"]
        )
    op.create_index("ix_audit_entries_at", "audit_entries", ["at"])
    op.create_table(
        "audit_head",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("chain", sa.LargeBinary(), nullable=False),
        sa.Column("frontier", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_audit_head"),
    )
    op.create_table(
        "audit_nodes",
        sa.Column("level", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("level", "position", name="pk_audit_nodes"),
    )
    op.create_table(
        "audit_persons",
        sa.Column("person", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("person", name="pk_audit_persons"),
        sa.UniqueConstraint("kind", "name", name="uq_audit_persons_kind_name"),
    )
    op.create_table(
        "audit_checkpoints",
        sa.Column("size", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("size", "key_id", name="pk_audit_checkpoints"),
    )
    op.create_table(
        "audit_signers",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("key_id", name="pk_audit_signers"),
    )


def _sqlite_triggers() -> list[str]:
    refuse = "BEGIN SELECT RAISE(ABORT, 'the audit log can only be added to'); END"
    acts = [(table, act) for table in _FIXED for act in ("UPDATE", "DELETE")]
    acts += [("audit_head", "DELETE"), ("audit_persons", "UPDATE")]
    triggers = [
        f"CREATE TRIGGER {table}_{act.lower()} BEFORE {act} ON {table} {refuse}"
        for table, act in acts
    ]
    grows = f"CREATE TRIGGER audit_head_update BEFORE UPDATE ON audit_head {_UNLESS_IT_GROWS}"
    return [*triggers, f"{grows} {refuse}"]


def _postgresql_triggers() -> list[str]:
    run = "EXECUTE FUNCTION audit_refuse()"
    acts = dict.fromkeys(_FIXED, "UPDATE OR DELETE OR TRUNCATE")
    acts |= {"audit_head": "DELETE OR TRUNCATE", "audit_persons": "UPDATE OR TRUNCATE"}
    triggers = [
        f"CREATE TRIGGER {table}_keep BEFORE {act} ON {table} FOR EACH STATEMENT {run}"
        for table, act in acts.items()
    ]
    grows = "CREATE TRIGGER audit_head_grows BEFORE UPDATE ON audit_head FOR EACH ROW"
    return [_REFUSE, *triggers, f"{grows} {_UNLESS_IT_GROWS} {run}"]


_UNLESS_IT_GROWS = "WHEN (new.size <= old.size OR new.name <> old.name)"
_REFUSE = """
    CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'the audit log can only be added to'; END $$
"""
