"""Leave the tables of entities to the catalogue: they follow its classes from now on.

A database that never held an entity has no use for the tables that the first revision made: they
go, and ``altsync migrate`` makes those of its catalogue. Tables with rows stay as they are.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLES = (
    "contract",
    "document",
    "league_relationship",
    "few_shot_example",
    "league",
    "sport_archetype",
)

#: What others have built on a table keeps it.
DROP = f"""
DO $$
BEGIN
  IF {" OR ".join(f"EXISTS (SELECT 1 FROM {table})" for table in TABLES)} THEN
    RETURN;
  END IF;
  {" ".join(f"DROP FUNCTION embedding_vector({table});" for table in TABLES[3:])}
  DROP TABLE {", ".join(TABLES)};
EXCEPTION WHEN dependent_objects_still_exist THEN
  NULL;
END
$$
"""


def upgrade() -> None:
    """Drop the tables when all of them are empty."""
    op.execute(DROP)


def downgrade() -> None:
    """Put something in the place of what is missing, so that the first revision can go."""
    for table in TABLES:
        op.execute(f"CREATE TABLE IF NOT EXISTS {table} (id uuid, deleted_at timestamptz)")
    for table in TABLES[3:]:
        op.execute(f"CREATE INDEX IF NOT EXISTS {table}_deleted ON {table} (deleted_at)")
        op.execute(
            f"CREATE OR REPLACE FUNCTION embedding_vector({table}) RETURNS bytea LANGUAGE sql "
            "STABLE RETURN NULL::bytea"
        )
