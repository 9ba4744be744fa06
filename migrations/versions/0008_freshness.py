"""Keep how fresh each sink is, and the positions at which its last writes can be read.

An operation keeps the time and the first version of the changes that it delivers.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add two columns without a default, which rewrites no row, and two tables."""
    op.add_column("sync_operation", sa.Column("changed_at", sa.DateTime(timezone=True)))
    op.add_column("sync_operation", sa.Column("first_version", sa.BigInteger()))
    op.create_table(
        "freshness",
        sa.Column("sink", sa.Text(), nullable=False),
        sa.Column("minute", sa.DateTime(timezone=True), nullable=False),
        sa.Column("bucket", sa.SmallInteger(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("sink", "minute", "bucket"),
    )
    op.create_table(
        "visibility_mark",
        sa.Column("sink", sa.Text(), nullable=False),
        sa.Column("entity_type", sa.Text(), nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("mark", sa.BigInteger(), nullable=False),
        sa.Column(
            "written_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("sink", "entity_type", "namespace"),
    )


def downgrade() -> None:
    """Drop the tables and columns."""
    op.drop_table("visibility_mark")
    op.drop_table("freshness")
    op.drop_column("sync_operation", "first_version")
    op.drop_column("sync_operation", "changed_at")
