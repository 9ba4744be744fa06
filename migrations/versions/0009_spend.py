"""Record the cost of each batch and day: tokens, read units, write units and dollars."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def _count(name: str, kind: Any) -> sa.Column[Any]:
    return sa.Column(name, kind(), server_default=sa.text("0"), nullable=False)


def upgrade() -> None:
    """Add the tables of cost by day, and the units of each batch."""
    op.create_table(
        "spend",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("sink", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        _count("tokens", sa.BigInteger),
        _count("read_units", sa.BigInteger),
        _count("write_units", sa.BigInteger),
        _count("dollars", sa.Numeric),
        sa.PrimaryKeyConstraint("day", "sink", "origin", name="spend_pkey"),
    )
    op.create_table(
        "spend_day",
        sa.Column("day", sa.Date(), nullable=False),
        _count("dollars", sa.Numeric),
        _count("reserved", sa.Numeric),
        sa.PrimaryKeyConstraint("day", name="spend_day_pkey"),
    )
    op.add_column("delivery_batch", _count("read_units", sa.BigInteger))
    op.add_column("delivery_batch", _count("write_units", sa.BigInteger))
    op.add_column("delivery_batch", _count("dollars", sa.Numeric))


def downgrade() -> None:
    """Drop the record of costs."""
    op.drop_column("delivery_batch", "dollars")
    op.drop_column("delivery_batch", "write_units")
    op.drop_column("delivery_batch", "read_units")
    op.drop_table("spend_day")
    op.drop_table("spend")
