"""Find deleted entities by an index: the relay asks for them every minute.

Of a table of a million living rows the index has no entry.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TABLES = ("sport_archetype", "league", "few_shot_example")


def upgrade() -> None:
    """Create one index per table, without holding up its writers.

    What an interrupted run left is not valid, so it is dropped first.
    """
    with op.get_context().autocommit_block():
        for table in TABLES:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {table}_deleted")
            op.create_index(
                f"{table}_deleted",
                table,
                ["deleted_at"],
                postgresql_where=sa.text("deleted_at IS NOT NULL"),
                postgresql_concurrently=True,
            )


def downgrade() -> None:
    """Remove the indexes; the questions are answered by scans then."""
    for table in TABLES:
        op.drop_index(f"{table}_deleted", table_name=table)
