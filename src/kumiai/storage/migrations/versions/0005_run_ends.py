"""What kind of error ended a run, beside the reason in words."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; of the runs that have failed already, only a mistake of ours is known."""
    op.add_column("runs", sa.Column("end_kind", sa.Text(), nullable=True))
    op.execute(
        "UPDATE runs SET end_kind = 'internal' "
        "WHERE state = 'failed' AND reason LIKE 'internal error:%'"
    )


def downgrade() -> None:
    """Remove the column; the reason stays."""
    op.drop_column("runs", "end_kind")
