"""Keep a pause in columns of its own, apart from the state of the breaker.

An operation that ended while it waited for its embedding keeps its unknown outcome as
``superseded``; the index of dead letters finds it. Two columns that nothing reads are dropped.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

STATES = "'closed', 'open', 'probing', 'disabled'"

DEAD = "status IN ('dead', 'discarded')"

#: The former index served dead and discarded rows alone.
DEAD_OR_UNKNOWN = f"{DEAD} OR (status = 'superseded' AND outcome_unknown)"

TO_COLUMNS = """
UPDATE sink_state SET paused_since = since, pause_reason = reason,
  state = COALESCE(config -> 'before_pause' ->> 'state', 'closed'),
  since = COALESCE((config -> 'before_pause' ->> 'since')::timestamptz, now()),
  reason = config -> 'before_pause' ->> 'reason',
  config = config - 'before_pause'
WHERE state = 'paused'
"""

TO_STATE = """
UPDATE sink_state SET state = 'paused', since = paused_since, reason = pause_reason,
  config = CASE WHEN state = 'closed' THEN config ELSE config || jsonb_build_object('before_pause',
    jsonb_build_object('state', state, 'since', since, 'reason', reason)) END
WHERE paused_since IS NOT NULL
"""

#: Until now this was history: its follow-up carried the unknown outcome.
FORGET = """
UPDATE sync_operation SET outcome_unknown = false
WHERE status = 'superseded' AND outcome_unknown
"""

DISCARD = """
UPDATE sync_operation SET status = 'discarded', discarded_at = now(), discarded_by = 'altsync',
  discarded_why = 'its embedding was waited for'
WHERE status = 'superseded' AND outcome_unknown
"""


def upgrade() -> None:
    """Move pauses to columns, and index the superseded rows with an unknown outcome."""
    op.add_column("sink_state", sa.Column("paused_since", sa.DateTime(timezone=True)))
    op.add_column("sink_state", sa.Column("pause_reason", sa.Text()))
    op.execute(TO_COLUMNS)
    op.execute("ALTER TABLE sink_state DROP CONSTRAINT state_known")
    op.execute(f"ALTER TABLE sink_state ADD CONSTRAINT state_known CHECK (state IN ({STATES}))")
    op.drop_column("sink_state", "last_answer_at")
    op.drop_column("sync_operation", "passed_by")
    op.execute(FORGET)
    _index(DEAD_OR_UNKNOWN)


def downgrade() -> None:
    """Move pauses back into the state, and discard what the former index has to find."""
    op.execute("ALTER TABLE sink_state DROP CONSTRAINT state_known")
    op.execute(TO_STATE)
    op.execute(
        f"ALTER TABLE sink_state ADD CONSTRAINT state_known CHECK (state IN ({STATES}, 'paused'))"
    )
    op.drop_column("sink_state", "paused_since")
    op.drop_column("sink_state", "pause_reason")
    op.add_column("sink_state", sa.Column("last_answer_at", sa.DateTime(timezone=True)))
    op.add_column(
        "sync_operation",
        sa.Column("passed_by", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
    )
    op.execute(DISCARD)
    _index(DEAD)


def _index(predicate: str) -> None:
    op.drop_index("sync_operation_dead", table_name="sync_operation")
    op.create_index(
        "sync_operation_dead",
        "sync_operation",
        ["entity_id", "sink"],
        postgresql_where=sa.text(predicate),
    )
