"""SQL on the registry of keys, which are assigned permanently."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from psycopg import errors

from altsync.db import Conn
from altsync.entities import EntityType

#: The table of keys, and the temporary one of a dry run.
Registry = Literal["tag_registry", "tags_to_be"]


def current_keys(
    conn: Conn,
    entity_type: EntityType,
    seed_ids: Sequence[str],
    registry: Registry = "tag_registry",
) -> dict[str, str]:
    """Return the present keys of seeds, by seed id."""
    rows = conn.execute(
        f"SELECT seed_id, tag FROM {registry} "
        "WHERE entity_type = %s AND seed_id = ANY(%s) AND NOT former",
        (entity_type, list(seed_ids)),
    )
    return {r[0]: r[1] for r in rows}


def key_holders(
    conn: Conn,
    entity_type: EntityType,
    keys: Sequence[str],
    registry: Registry = "tag_registry",
) -> dict[str, str]:
    """Return the seed ids that hold or held some of ``keys``, by key."""
    rows = conn.execute(
        f"SELECT tag, seed_id FROM {registry} WHERE entity_type = %s AND tag = ANY(%s)",
        (entity_type, list(keys)),
    )
    return {r[0]: r[1] for r in rows}


def register_keys(
    conn: Conn,
    entity_type: EntityType,
    keys: Mapping[str, str],
    registry: Registry = "tag_registry",
) -> None:
    """Register keys of seed ids. Raises ``UniqueViolation`` when another seeder was first."""
    seed_ids = sorted(keys)
    conn.execute(
        f"""
        INSERT INTO {registry} (entity_type, seed_id, tag)
        SELECT %s, r.seed_id, r.tag FROM unnest(%s::text[], %s::text[]) AS r(seed_id, tag)
        """,
        (entity_type, seed_ids, [keys[seed_id] for seed_id in seed_ids]),
    )


def move_keys(conn: Conn, entity_type: EntityType, keys: Mapping[str, str]) -> None:
    """Replace the keys of seeds. Their former keys stay registered.

    Raises ``UniqueViolation`` when another seeder has just registered one of ``keys``.
    """
    seed_ids = sorted(keys)
    conn.execute(
        "UPDATE tag_registry SET former = true "
        "WHERE entity_type = %s AND seed_id = ANY(%s) AND NOT former",
        (entity_type, seed_ids),
    )
    registered = conn.execute(
        """
        INSERT INTO tag_registry AS t (entity_type, seed_id, tag)
        SELECT %s, r.seed_id, r.tag FROM unnest(%s::text[], %s::text[]) AS r(seed_id, tag)
        ON CONFLICT (tag, entity_type) DO UPDATE SET former = false
          WHERE t.seed_id = excluded.seed_id
        """,
        (entity_type, seed_ids, [keys[seed_id] for seed_id in seed_ids]),
    )
    if registered.rowcount != len(seed_ids):
        raise errors.UniqueViolation("a key was registered for another seed meanwhile")


def former_keys(conn: Conn, entity_type: EntityType, keys: Collection[str]) -> set[str]:
    """Return those of ``keys`` that an entity had before it was renamed."""
    rows = conn.execute(
        "SELECT tag FROM tag_registry WHERE entity_type = %s AND tag = ANY(%s) AND former",
        (entity_type, sorted(keys)),
    )
    return {row[0] for row in rows}
