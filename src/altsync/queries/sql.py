"""SQL of queries: entities by filter, with content, vectors and relationships."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from altsync.db import Conn
from altsync.entities import EntityType
from altsync.generations import model_of
from altsync.store.vectors import VECTOR

#: Entities that are read for suggestions when a key is unknown.
SUGGESTION_POOL = 1000

#: Values of a field that are listed to choose from.
CHOICES = 200


@dataclass(frozen=True, slots=True)
class StoredEntity:
    """A living entity in PostgreSQL. ``content`` has its declared fields by name."""

    key: str
    name: str
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StoredVector:
    """An entity's name and stored vector (float32 little-endian), None when not embedded.

    ``group`` is the value of the field that it is compared within.
    """

    key: str
    name: str
    group: str | None
    vector: bytes | None
    model: str | None


@dataclass(frozen=True, slots=True)
class Link:
    """A relationship of an entity, seen from it; ``direction`` is ``out`` or ``in``.

    ``entity``, ``key`` and ``name`` are the type, key and name of the other end.
    """

    type: str
    direction: str
    entity: str
    key: str
    name: str
    score: float | None = None


def matching(kind: EntityType, where: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return a condition on living entities (``l``) and its parameters.

    ``where`` maps columns to values; a column of lists matches each value that it holds.
    """
    clauses, parameters = ["l.deleted_at IS NULL"], dict[str, Any]()
    for column, value in where.items():
        parameters[f"where_{column}"] = value
        is_list = column in kind.list_columns
        # @> can use a GIN index on a column of lists.
        clauses.append(
            f"l.{column} @> ARRAY[%(where_{column})s::text]"
            if is_list
            else f"l.{column} = %(where_{column})s"
        )
    return " AND ".join(clauses), parameters


def stored_entities(
    conn: Conn, kind: EntityType, keys: Sequence[str], where: Mapping[str, Any], *, limit: int
) -> list[StoredEntity]:
    """Return the living entities of ``keys`` that match, in the order of ``keys``."""
    condition, parameters = matching(kind, where)
    names = list(kind.columns)
    rows = conn.execute(
        f"""
        SELECT l.{kind.key_column}, l.{kind.name_column}, {", ".join(f"l.{n}" for n in names)}
        FROM unnest(%(keys)s::text[]) WITH ORDINALITY AS wanted (key, position)
        JOIN {kind} l ON l.{kind.key_column} = wanted.key
        WHERE {condition} ORDER BY position LIMIT %(limit)s
        """,
        {**parameters, "keys": list(keys), "limit": limit},
    )
    return [StoredEntity(r[0], r[1], dict(zip(names, r[2:], strict=True))) for r in rows]


def named_vectors(conn: Conn, kind: EntityType, keys: Sequence[str]) -> list[StoredVector]:
    """Return names and stored vectors of the living entities among ``keys``."""
    within = kind.similar.within if kind.similar else None
    rows = conn.execute(
        f"""
        SELECT l.{kind.key_column}, l.{kind.name_column}, {f"l.{within}" if within else "NULL"},
               {VECTOR}, {model_of()}
        FROM {kind} l WHERE l.{kind.key_column} = ANY(%s) AND l.deleted_at IS NULL
        """,
        (list(keys),),
        binary=True,
    )
    return [StoredVector(*row) for row in rows]


def links_of(
    conn: Conn, kind: EntityType, keys: Sequence[str], *, each: int
) -> dict[str, list[Link]]:
    """Return the relationships of living entities by their keys, at most ``each`` an entity.

    Parents come first, then relationships by type and score.
    """
    parts = [*_parent_links(kind), *_edge_links(kind)]
    if not parts:
        return {}
    columns = ["id", kind.key_column, *(edge.column for edge in kind.graph_parents)]
    rows = conn.execute(
        f"""
        WITH wanted AS (SELECT {", ".join(dict.fromkeys(columns))} FROM {kind}
                       WHERE {kind.key_column} = ANY(%(keys)s) AND deleted_at IS NULL),
        link AS ({" UNION ALL ".join(parts)}),
        ranked AS (SELECT *, row_number() OVER (
                     PARTITION BY owner ORDER BY rank, type, score DESC NULLS LAST, key, direction
                   ) AS place FROM link)
        SELECT owner, type, direction, entity, key, name, score FROM ranked
        WHERE place <= %(each)s ORDER BY owner, place
        """,
        {"keys": list(keys), "each": each},
    )
    found: dict[str, list[Link]] = {}
    for owner, *link in rows:
        found.setdefault(owner, []).append(Link(*link))
    return found


def _parent_links(kind: EntityType) -> list[str]:
    return [
        f"""
        SELECT l.{kind.key_column} AS owner, '{edge.relation}' AS type, 'out' AS direction,
               '{edge.parent or edge.label}' AS entity, l.{edge.column} AS key,
               l.{edge.column} AS name, NULL::float8 AS score, 0 AS rank
        FROM wanted l WHERE l.{edge.column} IS NOT NULL
        """
        for edge in kind.graph_parents
    ]


def _edge_links(kind: EntityType) -> list[str]:
    if kind.edges is None:
        return []
    e = kind.edges
    return [
        f"""
        SELECT l.{kind.key_column} AS owner, r.relationship_type AS type,
               '{direction}' AS direction, '{kind}' AS entity, o.{kind.key_column} AS key,
               o.{kind.name_column} AS name, r.strength_score::float8 AS score, 1 AS rank
        FROM wanted l JOIN {e.table} r ON r.{own} = l.id
        JOIN {kind} o ON o.id = r.{other} WHERE o.deleted_at IS NULL
        """
        for direction, own, other in (("out", e.source, e.target), ("in", e.target, e.source))
    ]


def living_names(conn: Conn, kind: EntityType, keys: Sequence[str]) -> dict[str, str]:
    """Return the names of the living entities among ``keys``, by key."""
    rows = conn.execute(
        f"""
        SELECT {kind.key_column}, {kind.name_column} FROM {kind}
        WHERE {kind.key_column} = ANY(%s) AND deleted_at IS NULL
        """,
        (list(keys),),
    )
    return dict(rows.fetchall())


def namespaces_of(conn: Conn, kind: EntityType) -> list[str]:
    """Return the namespaces that living entities belong to."""
    if kind.namespace_column is None:
        return [kind.namespace]
    return field_values(conn, kind, kind.namespace_column, limit=None)


def field_values(
    conn: Conn, kind: EntityType, column: str, *, limit: int | None = CHOICES
) -> list[Any]:
    """Return the distinct values of a field of living entities, sorted, up to ``limit``."""
    value = f"unnest({column})" if column in kind.list_columns else column
    rows = conn.execute(
        f"""
        SELECT DISTINCT value FROM (SELECT {value} AS value FROM {kind} WHERE deleted_at IS NULL) v
        WHERE value IS NOT NULL ORDER BY 1 LIMIT %s
        """,
        (limit,),
    )
    return [row[0] for row in rows]


def has_value(conn: Conn, kind: EntityType, column: str, value: Any) -> bool:
    """Return whether a living entity has this value of a field."""
    condition, parameters = matching(kind, {column: value})
    row = conn.execute(
        f"SELECT EXISTS (SELECT FROM {kind} l WHERE {condition})", parameters
    ).fetchone()
    return bool(row and row[0])


def keys_like(conn: Conn, kind: EntityType, name: str) -> list[str]:
    """Return keys of living entities that share a word or a beginning with ``name``."""
    words = [name, name[:3], *(w for w in name.replace("-", "_").split("_") if len(w) > 2)]
    patterns = [f"%{_literal(word)}%" for word in words if word]
    key = kind.key_column
    rows = conn.execute(
        f"""
        SELECT {key} FROM {kind}
        WHERE deleted_at IS NULL
          AND ({key} ILIKE ANY(%(p)s) OR {kind.name_column} ILIKE ANY(%(p)s))
        ORDER BY {key} LIMIT %(limit)s
        """,
        {"p": patterns, "limit": SUGGESTION_POOL},
    )
    return [r[0] for r in rows]


def _literal(text: str) -> str:
    """Escape the wildcards of LIKE."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
