"""What the cache owes the truth: the outbox of late writes, the cache's epoch."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the outbox and the leases of those who drain it."""
    op.create_table(
        "cache_outbox",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("retry_at", sa.Double(), server_default=sa.text("0"), nullable=False),
        sa.Column("parked_at", sa.Double(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("seq", name="pk_cache_outbox"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_cache_outbox_topic_key_seq", "cache_outbox", ["topic", "key", "seq"])
    op.create_index(
        "ix_cache_outbox_topic_parked_at_seq", "cache_outbox", ["topic", "parked_at", "seq"]
    )
    op.create_table(
        "cache_drains",
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("topic", name="pk_cache_drains"),
    )
    op.create_table(
        "cache_epoch",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("salt", sa.Text(), nullable=False),
        sa.Column("server", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.Double(), nullable=False),
        sa.Column("lease_seconds", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_cache_epoch"),
    )


def downgrade() -> None:
    """Drop them; what waits in the outbox is lost."""
    op.drop_table("cache_epoch")
    op.drop_table("cache_drains")
    op.drop_index("ix_cache_outbox_topic_parked_at_seq", table_name="cache_outbox")
    op.drop_index("ix_cache_outbox_topic_key_seq", table_name="cache_outbox")
    op.drop_table("cache_outbox")
