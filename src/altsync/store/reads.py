"""SQL that several features share: keys, counts, the database's time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from altsync.catalogue.current import children_of, current, entity_types
from altsync.contract import SinkVersion
from altsync.db import Conn, Database
from altsync.entities import EntityType
from altsync.generations import model_of
from altsync.wording import plural

#: Entities per page of a listing.
PAGE = 1000


def living_keys(conn: Conn, entity_type: EntityType, keys: Sequence[str]) -> dict[str, UUID]:
    """Return those of ``keys`` that living entities have, with their ids."""
    rows = conn.execute(
        f"SELECT {entity_type.key_column}, id FROM {entity_type} "
        f"WHERE {entity_type.key_column} = ANY(%s) AND deleted_at IS NULL",
        (list(keys),),
    )
    return {row[0]: row[1] for row in rows}


def living_versions(
    database: Database, entity_type: EntityType, hash_column: str
) -> Iterator[SinkVersion]:
    """Yield the living entities with a hash in a column, page by page in the order of ids."""
    after = UUID(int=0)
    while True:
        with database.autocommit() as conn:
            rows = conn.execute(
                f"""
                SELECT id, {entity_type.key_column}, version, {hash_column}, {model_of()}
                FROM {entity_type} l
                WHERE id > %s AND deleted_at IS NULL ORDER BY id LIMIT {PAGE}
                """,
                (after,),
            ).fetchall()
        if not rows:
            return
        for _id, key, version, found, model in rows:
            if found is not None:
                yield SinkVersion(key, version, found, model)
        after = rows[-1][0]


@dataclass(frozen=True, slots=True)
class Named:
    """Living entities that hold the key of a parent in a column, ``counted`` with their noun."""

    key: str
    column: str
    counted: str


def named_by_children(conn: Conn, kind: EntityType, keys: Sequence[str]) -> Named | None:
    """Return living entities that name one of ``keys`` as a parent in the graph; None if none do.

    Only the first column and key are returned.
    """
    for child in children_of(kind):
        for parent in child.graph_parents:
            if parent.parent != kind:
                continue
            row = conn.execute(
                f"SELECT {parent.column}, count(*) FROM {child} "
                f"WHERE {parent.column} = ANY(%s) AND deleted_at IS NULL "
                "GROUP BY 1 ORDER BY 1 LIMIT 1",
                (list(keys),),
            ).fetchone()
            if row is not None:
                return Named(row[0], parent.column, plural(row[1], child.one, child.many))
    return None


def children_page(
    conn: Conn, child: EntityType, column: str, keys: Sequence[str], after: UUID, limit: int
) -> tuple[dict[UUID, str], UUID | None]:
    """Lock a page of living entities that hold one of ``keys`` in a column.

    Returns their seed ids by id, and the id to continue after, None at the end.
    """
    rows = conn.execute(
        f"SELECT id, seed_id FROM {child} WHERE {column} = ANY(%s) AND deleted_at IS NULL "
        "AND id > %s ORDER BY id LIMIT %s FOR NO KEY UPDATE",
        (list(keys), after, limit),
    ).fetchall()
    return dict(rows), rows[-1][0] if len(rows) == limit else None


def values_of(
    conn: Conn, entity_type: EntityType, seed_ids: Sequence[str], columns: Sequence[str]
) -> dict[str, tuple[Any, ...]]:
    """Return values of entities by seed id, and of deleted ones until they are purged."""
    rows = conn.execute(
        f"SELECT {', '.join(['seed_id', *columns])} FROM {entity_type} WHERE seed_id = ANY(%s)",
        (list(seed_ids),),
    )
    return {seed_id: tuple(values) for seed_id, *values in rows}


def all_keys(conn: Conn, entity_type: EntityType) -> set[str]:
    """Return the keys of living entities of a type."""
    rows = conn.execute(
        f"SELECT {entity_type.key_column} FROM {entity_type} WHERE deleted_at IS NULL"
    )
    return {row[0] for row in rows}


def known_keys(conn: Conn, entity_type: EntityType, keys: Sequence[str]) -> set[str]:
    """Return those of ``keys`` that any entity has or had: in its row or in the registry."""
    rows = conn.execute(
        f"""
        SELECT {entity_type.key_column} FROM {entity_type}
        WHERE {entity_type.key_column} = ANY(%(keys)s)
        UNION SELECT tag FROM tag_registry WHERE entity_type = %(kind)s AND tag = ANY(%(keys)s)
        """,
        {"keys": list(keys), "kind": entity_type.value},
    )
    return {row[0] for row in rows}


def count_living(conn: Conn, entity_type: EntityType) -> int:
    """Count the entities that are not deleted."""
    row = conn.execute(f"SELECT count(*) FROM {entity_type} WHERE deleted_at IS NULL").fetchone()
    assert row is not None
    return int(row[0])


def missing_parents(conn: Conn) -> list[tuple[EntityType, str]]:
    """Return (parent's type, key) of parents that living entities name and that are not loaded.

    A key of the declaration's ``known`` counts as missing only if it was loaded once.
    """
    found: list[tuple[EntityType, str]] = []
    for kind in entity_types():
        for edge in kind.graph_parents:
            if edge.parent is None:
                continue
            parent = current().by_table[edge.parent]
            rows = conn.execute(
                f"""
                SELECT named.key
                FROM (SELECT DISTINCT {edge.column} AS key FROM {kind}
                      WHERE deleted_at IS NULL AND {edge.column} IS NOT NULL) named
                WHERE NOT EXISTS (
                    SELECT 1 FROM {parent} a
                    WHERE a.{parent.key_column} = named.key AND a.deleted_at IS NULL)
                  AND (named.key <> ALL(%s) OR EXISTS (
                    SELECT 1 FROM tag_registry t
                    WHERE t.entity_type = '{parent}' AND t.tag = named.key))
                ORDER BY 1
                """,
                (sorted(edge.known),),
            )
            found += [(parent, row[0]) for row in rows]
    return sorted(set(found))


def clock(conn: Conn) -> datetime:
    """Return the database's time."""
    row = conn.execute("SELECT now()").fetchone()
    assert row is not None
    now: datetime = row[0]
    return now
