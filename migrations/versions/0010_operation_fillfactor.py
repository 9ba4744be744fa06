"""Leave room on the pages of operations, so that a claim and its end stay on one page."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Fill pages to 70 percent from now on; full ones follow as their rows are purged."""
    op.execute("ALTER TABLE sync_operation SET (fillfactor = 70)")


def downgrade() -> None:
    """Fill pages again."""
    op.execute("ALTER TABLE sync_operation RESET (fillfactor)")
