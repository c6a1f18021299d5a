"""Secure aggregation: the attempts of a round and their messages."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "secure_rounds",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("opened_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["run_id"], ["runs.run_id"], name="fk_secure_rounds_run_id_runs", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run_id", "round", "attempt", name="pk_secure_rounds"),
    )
    op.create_table(
        "secure_messages",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("sender", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("taken_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["runs.run_id"], name="fk_secure_messages_run_id_runs", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("seq", name="pk_secure_messages"),
        sa.UniqueConstraint(
            "run_id",
            "round",
            "attempt",
            "sender",
            "kind",
            name="uq_secure_messages_run_id_round_attempt_sender_kind",
        ),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    """Drop the tables; rounds under way begin anew."""
    op.drop_table("secure_messages")
    op.drop_table("secure_rounds")
