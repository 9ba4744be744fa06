"""Read an entity, its neighbours and their relationships from PostgreSQL."""

from __future__ import annotations

from dataclasses import dataclass

from altsync.db import Conn
from altsync.entities import EntityType


@dataclass(frozen=True, slots=True)
class Node:
    """A living entity. ``group`` is its value of ``Similar(within=)``, if that is declared."""

    key: str
    name: str
    group: str | None


@dataclass(frozen=True, slots=True)
class Line:
    """A relationship by the keys of its ends. ``score`` goes up to 1."""

    source: str
    target: str
    kind: str
    score: float | None


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """An entity, its nearest neighbours, and every relationship among them."""

    centre: Node
    neighbours: tuple[Node, ...]
    edges: tuple[Line, ...]


def neighbourhood(conn: Conn, kind: EntityType, key: str, *, limit: int) -> Neighbourhood | None:
    """Return a living entity with its ``limit`` strongest neighbours, in either direction.

    Returns None when there is no such entity. Raises ``LookupError`` for a type without
    relationships.
    """
    e = kind.edge_table
    within = kind.similar.within if kind.similar else None
    node = f"l.id, l.{kind.key_column}, l.{kind.name_column}, {f'l.{within}' if within else 'NULL'}"
    centre = conn.execute(
        f"SELECT {node} FROM {kind} l WHERE l.{kind.key_column} = %s AND l.deleted_at IS NULL",
        (key,),
    ).fetchone()
    if centre is None:
        return None
    others = conn.execute(
        f"""
        SELECT {node}
        FROM (SELECT {e.target} AS id, strength_score FROM {e.table} WHERE {e.source} = %(id)s
              UNION ALL
              SELECT {e.source}, strength_score FROM {e.table} WHERE {e.target} = %(id)s) r
        JOIN {kind} l ON l.id = r.id
        WHERE l.deleted_at IS NULL AND l.id <> %(id)s
        GROUP BY l.id ORDER BY max(r.strength_score) DESC NULLS LAST, 2 LIMIT %(limit)s
        """,
        {"id": centre[0], "limit": limit},
    ).fetchall()
    edges = conn.execute(
        f"""
        SELECT s.{kind.key_column}, t.{kind.key_column}, r.relationship_type,
               r.strength_score::float8
        FROM {e.table} r JOIN {kind} s ON s.id = r.{e.source} JOIN {kind} t ON t.id = r.{e.target}
        WHERE r.{e.source} = ANY(%(ids)s) AND r.{e.target} = ANY(%(ids)s)
        ORDER BY r.strength_score DESC NULLS LAST, 1, 2, 3
        """,
        {"ids": [centre[0], *(r[0] for r in others)]},
    )
    return Neighbourhood(
        Node(*centre[1:]),
        tuple(Node(*r[1:]) for r in others),
        tuple(Line(*r) for r in edges),
    )
