"""Tags, given permanently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from altsync.db import Conn
from altsync.records import EntityType

#: Where tags are given permanently, and where a dry run gives them (a temporary table).
Registry = Literal["tag_registry", "tags_to_be"]


def known_tags(
    conn: Conn,
    entity_type: EntityType,
    seed_ids: Sequence[str],
    registry: Registry = "tag_registry",
) -> dict[str, str]:
    """Tags already given, by seed id."""
    rows = conn.execute(
        f"SELECT seed_id, tag FROM {registry} WHERE entity_type = %s AND seed_id = ANY(%s)",
        (entity_type, list(seed_ids)),
    )
    return {r[0]: r[1] for r in rows}


def holders_of_tags(
    conn: Conn,
    entity_type: EntityType,
    tags: Sequence[str],
    registry: Registry = "tag_registry",
) -> dict[str, str]:
    """Seed ids by the tags that they hold, for those of ``tags`` that are taken."""
    rows = conn.execute(
        f"SELECT tag, seed_id FROM {registry} WHERE entity_type = %s AND tag = ANY(%s)",
        (entity_type, list(tags)),
    )
    return {r[0]: r[1] for r in rows}


def register_tags(
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
