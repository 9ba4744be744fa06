"""Keep the former tags of entities that are renamed: no other entity may have one.

The columns and indexes of the entities' own tables follow their classes.
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column, which rewrites no row, and have a tag be the key in place of a seed.

    Indexes are made without holding up writers. What an interrupted run left is not valid, so it
    is dropped first.
    """
    op.execute(
        "ALTER TABLE tag_registry ADD COLUMN IF NOT EXISTS former boolean DEFAULT false NOT NULL"
    )
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS tag_registry_current")
        op.execute(
            "CREATE UNIQUE INDEX CONCURRENTLY tag_registry_current "
            "ON tag_registry (seed_id, entity_type) WHERE NOT former"
        )
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS tag_registry_tag")
        op.execute(
            "CREATE UNIQUE INDEX CONCURRENTLY tag_registry_tag ON tag_registry (tag, entity_type)"
        )
    op.execute(
        """
        ALTER TABLE tag_registry DROP CONSTRAINT tag_registry_pkey,
          DROP CONSTRAINT tag_registry_tag_entity_type_key,
          ADD CONSTRAINT tag_registry_pkey PRIMARY KEY USING INDEX tag_registry_tag
        """
    )


def downgrade() -> None:
    """Remove the column. An entity that was renamed keeps its current tag alone."""
    op.execute("DELETE FROM tag_registry WHERE former")
    op.execute(
        """
        ALTER TABLE tag_registry DROP CONSTRAINT tag_registry_pkey,
          ADD CONSTRAINT tag_registry_pkey PRIMARY KEY (seed_id, entity_type),
          ADD CONSTRAINT tag_registry_tag_entity_type_key UNIQUE (tag, entity_type)
        """
    )
    op.drop_index("tag_registry_current", table_name="tag_registry")
    op.drop_column("tag_registry", "former")
