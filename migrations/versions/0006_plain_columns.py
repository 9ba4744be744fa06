"""Rename columns and an origin to the words of the documentation.

Nothing is rewritten but the rows of confirming writes.
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

#: Columns of ``sync_operation``: former and new name.
OPERATION = (
    ("asked_again", "rerun_requested"),
    ("unsure", "outcome_unknown"),
    ("suspicion", "timeout_count"),
    ("suspected_at", "last_timeout_at"),
    ("places", "namespaces"),
)

ORIGINS = "'seed', 'update', 'embedding', 'retry', 'reconcile', 'backfill', 'similarity', 'model'"


def upgrade() -> None:
    """Rename the columns of operations, and that of entities that are searched for neighbours."""
    for former, new in OPERATION:
        _rename_in_operations(former, new)
    _rename_in_entities("neighbours_of", "neighbours_input_hash")
    _rename_origin("echo", "confirm")


def downgrade() -> None:
    """Give them their former names."""
    for former, new in OPERATION:
        _rename_in_operations(new, former)
    _rename_in_entities("neighbours_input_hash", "neighbours_of")
    _rename_origin("confirm", "echo")


def _rename_in_operations(former: str, new: str) -> None:
    """Rename a column, and its NOT NULL constraint where PostgreSQL (18 and later) has one."""
    op.alter_column("sync_operation", former, new_column_name=new)
    name = f"sync_operation_{former}_not_null"
    op.execute(
        f"""
        DO $$
        BEGIN
          IF EXISTS (SELECT FROM pg_constraint
                     WHERE conrelid = 'sync_operation'::regclass AND conname = '{name}') THEN
            ALTER TABLE sync_operation
              RENAME CONSTRAINT {name} TO sync_operation_{new}_not_null;
          END IF;
        END $$
        """
    )


def _rename_in_entities(former: str, new: str) -> None:
    op.execute(
        f"""
        DO $$
        DECLARE entity text;
        BEGIN
          FOR entity IN SELECT table_name FROM information_schema.columns
            WHERE table_schema = current_schema() AND column_name = '{former}'
          LOOP
            EXECUTE format('ALTER TABLE %I RENAME COLUMN {former} TO {new}', entity);
          END LOOP;
        END $$
        """
    )


def _rename_origin(former: str, new: str) -> None:
    op.execute("ALTER TABLE sync_operation DROP CONSTRAINT origin_known")
    op.execute(f"UPDATE sync_operation SET origin = '{new}' WHERE origin = '{former}'")
    op.execute(
        "ALTER TABLE sync_operation ADD CONSTRAINT origin_known "
        f"CHECK (origin IN ({ORIGINS}, '{new}'))"
    )
