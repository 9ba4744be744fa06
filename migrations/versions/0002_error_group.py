"""Keep the group of an operation's error, so that dead letters are grouped by an index.

One entity and sink is one failure from now on: of several dead ones the latest stays.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

#: ``altsync.outbox.patterns.GROUP`` as it was when this revision was written.
GROUP = r"""
md5(sink || ' ' || error_kind || ' ' || regexp_replace(regexp_replace(
  replace(replace(last_error, '''' || entity_key || '''', '''…'''),
          '"' || entity_key || '"', '"…"'),
  '[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|\m(?=[a-f]*[0-9])[0-9a-f]{16,}\M', '…', 'g'),
  '(?<![0-9.])(?!(?<= \[)[1-5][0-9][0-9]\])(?!(?<=answered )[1-5][0-9][0-9]\M)[0-9]+(\.[0-9]+)?',
  '…', 'g'))
"""

#: The latest failure takes over what is unsure of those before, as a settlement does.
MERGE = """
WITH ranked AS (
  SELECT id, unsure, places,
         max(id) OVER (PARTITION BY entity_id, sink) AS latest
  FROM sync_operation WHERE status = 'dead'),
earlier AS (SELECT * FROM ranked WHERE id <> latest),
ended AS (
  UPDATE sync_operation o SET status = 'superseded', unsure = false
  FROM earlier e WHERE o.id = e.id)
UPDATE sync_operation o SET unsure = o.unsure OR e.unsure, places = o.places || e.places
FROM (SELECT latest, bool_or(unsure) AS unsure,
             COALESCE(array_agg(place) FILTER (WHERE place IS NOT NULL), '{}') AS places
      FROM earlier LEFT JOIN LATERAL unnest(places) place ON true GROUP BY latest) e
WHERE o.id = e.latest
"""


def upgrade() -> None:
    """Add the column and fill it for what is dead; finished history stays as it is."""
    op.add_column("sync_operation", sa.Column("error_group", sa.Text(), nullable=True))
    op.execute(MERGE)
    op.execute(f"UPDATE sync_operation SET error_group = {GROUP} WHERE status = 'dead'")
    with op.get_context().autocommit_block():
        op.create_index(
            "sync_operation_error_group",
            "sync_operation",
            ["error_group", "id"],
            postgresql_where=sa.text("status = 'dead'"),
            postgresql_concurrently=True,
            if_not_exists=True,
        )


def downgrade() -> None:
    """Remove the column, and its index with it."""
    op.drop_column("sync_operation", "error_group")
