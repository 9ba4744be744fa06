"""Tags, given permanently."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from psycopg import errors

from altsync.db import Conn
from altsync.entities import EntityType

#: Where tags are given permanently, and where a dry run gives them (a temporary table).
Registry = Literal["tag_registry", "tags_to_be"]


def current_keys(
    conn: Conn,
    entity_type: EntityType,
    seed_ids: Sequence[str],
    registry: Registry = "tag_registry",
) -> dict[str, str]:
    """Current tags of those that have one, by seed id."""
    rows = conn.execute(
        f"SELECT seed_id, tag FROM {registry} "
        "WHERE entity_type = %s AND seed_id = ANY(%s) AND NOT former",
        (entity_type, list(seed_ids)),
    )
    return {r[0]: r[1] for r in rows}


def key_holders(
    conn: Conn,
    entity_type: EntityType,
    tags: Sequence[str],
    registry: Registry = "tag_registry",
) -> dict[str, str]:
    """Seed ids by the tags that they hold or held, for those of ``tags`` that are taken."""
    rows = conn.execute(
        f"SELECT tag, seed_id FROM {registry} WHERE entity_type = %s AND tag = ANY(%s)",
        (entity_type, list(tags)),
    )
    return {r[0]: r[1] for r in rows}


def register_keys(
    conn: Conn,
    entity_type: EntityType,
    tags: Mapping[str, str],
    registry: Registry = "tag_registry",
) -> None:
    """Give tags to seed ids permanently. Two seeders at once: the second one's batch is retried."""
    seed_ids = sorted(tags)
    conn.execute(
        f"""
        INSERT INTO {registry} (entity_type, seed_id, tag)
        SELECT %s, r.seed_id, r.tag FROM unnest(%s::text[], %s::text[]) AS r(seed_id, tag)
        """,
        (entity_type, seed_ids, [tags[seed_id] for seed_id in seed_ids]),
    )


def move_keys(conn: Conn, entity_type: EntityType, tags: Mapping[str, str]) -> None:
    """Give seeds other tags. The former ones stay theirs. Raises ``UniqueViolation``.

    A tag that another seeder has just given to its own seed is such a violation.
    """
    seed_ids = sorted(tags)
    conn.execute(
        "UPDATE tag_registry SET former = true "
        "WHERE entity_type = %s AND seed_id = ANY(%s) AND NOT former",
        (entity_type, seed_ids),
    )
    given = conn.execute(
        """
        INSERT INTO tag_registry AS t (entity_type, seed_id, tag)
        SELECT %s, r.seed_id, r.tag FROM unnest(%s::text[], %s::text[]) AS r(seed_id, tag)
        ON CONFLICT (tag, entity_type) DO UPDATE SET former = false
          WHERE t.seed_id = excluded.seed_id
        """,
        (entity_type, seed_ids, [tags[seed_id] for seed_id in seed_ids]),
    )
    if given.rowcount != len(seed_ids):
        raise errors.UniqueViolation("a tag was given to another seed meanwhile")


def former_keys(conn: Conn, entity_type: EntityType, tags: Collection[str]) -> set[str]:
    """Return those of ``tags`` that an entity had before it was renamed."""
    rows = conn.execute(
        "SELECT tag FROM tag_registry WHERE entity_type = %s AND tag = ANY(%s) AND former",
        (entity_type, sorted(tags)),
    )
    return {row[0] for row in rows}
