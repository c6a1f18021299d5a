"""Privacy budgets: the ledger, which can only be added to, limits, and counts for speed."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables, and the triggers that keep the ledger as it is."""
    _create_tables()
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    for statement in _sqlite_triggers() if is_sqlite else _postgresql_triggers():
        op.execute(statement)


def downgrade() -> None:
    """Drop them: what was spent is forgotten here, and coordinators with a witness will notice."""
    for table in ("budget_counts", "budget_limits", "budget_head", "budget_entries"):
        # With its triggers.
        op.drop_table(table)
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION budget_refuse()")


def _create_tables() -> None:
    op.create_table(
        "budget_entries",
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("charge_key", sa.Text(), nullable=True),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("chain", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_budget_entries"),
        sa.UniqueConstraint("charge_key", "kind", name="uq_budget_entries_charge_key_kind"),
    )
    op.create_index("ix_budget_entries_run_id_sequence", "budget_entries", ["run_id", "sequence"])
    op.create_table(
        "budget_head",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("chain", sa.LargeBinary(), nullable=False),
        sa.Column("frozen", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_budget_head"),
    )
    op.create_table(
        "budget_limits",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("window_days", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("guarantee", sa.Text(), nullable=False),
        sa.Column("epsilon", sa.Double(), nullable=False),
        sa.Column("delta", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "window_days", name="pk_budget_limits"),
    )
    op.create_table(
        "budget_counts",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("guarantee", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("day", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("times", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "guarantee", "event", "day", name="pk_budget_counts"),
    )


def _sqlite_triggers() -> list[str]:
    refuse = "BEGIN SELECT RAISE(ABORT, 'the budget ledger can only be added to'); END"
    acts = [("budget_entries", "UPDATE"), ("budget_entries", "DELETE"), ("budget_head", "DELETE")]
    triggers = [
        f"CREATE TRIGGER {table}_{act.lower()} BEFORE {act} ON {table} {refuse}"
        for table, act in acts
    ]
    grows = f"CREATE TRIGGER budget_head_update BEFORE UPDATE ON budget_head {_UNLESS_IT_GROWS}"
    return [*triggers, f"{grows} {refuse}"]


def _postgresql_triggers() -> list[str]:
    run = "EXECUTE FUNCTION budget_refuse()"
    acts = {"budget_entries": "UPDATE OR DELETE OR TRUNCATE", "budget_head": "DELETE OR TRUNCATE"}
    triggers = [
        f"CREATE TRIGGER {table}_keep BEFORE {act} ON {table} FOR EACH STATEMENT {run}"
        for table, act in acts.items()
    ]
    grows = "CREATE TRIGGER budget_head_grows BEFORE UPDATE ON budget_head FOR EACH ROW"
    return [_REFUSE, *triggers, f"{grows} {_UNLESS_IT_GROWS} {run}"]


_UNLESS_IT_GROWS = "WHEN (new.size <= old.size OR new.name <> old.name)"
_REFUSE = """
    CREATE FUNCTION budget_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'the budget ledger can only be added to'; END $$
"""
