"""SQL that reads rows as sinks get them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from altsync.db import Conn
from altsync.declarations import namespace_column
from altsync.entities import Edge, EntityType, Model, Row
from altsync.generations import model_of
from altsync.projection import content_of
from altsync.store.vectors import VECTOR

#: Hex digits of the first two parts of a ``line_hash``: 64 bits of the line's hash and of the
#: content hash. The third part is ``row_sum``, which differs once a row is edited by SQL.
HALF_HASH = 16

#: Marks in place of a line's hash: of rows that ``altsync.save`` created, and of seeded rows that
#: it changed. No hash has a hyphen.
SAVED, CHANGED = "saved-by-program", "edited-by-saving"


def row_sum(entity_type: EntityType, alias: str) -> str:
    """Return SQL for a sum over a row's content and hashes, as 16 hex digits or fewer.

    PostgreSQL's hash of a record takes about a microsecond. It may change with a major version of
    PostgreSQL. A row with another sum is compared by content.
    """
    columns = [*entity_type.columns, "content_hash", "text_hash"]
    return f"to_hex(hash_record_extended(ROW({', '.join(f'{alias}.{c}' for c in columns)}), 0))"


_BY_MODEL = """
FROM embedding e WHERE e.model = %(model)s AND e.dimensions = %(dimensions)s
  AND e.text_hash = l.text_hash
"""
_VECTOR_BY = f"(SELECT e.vector {_BY_MODEL})"
_EMBEDDED_BY = f"(SELECT e.text_hash {_BY_MODEL}), %(model)s::text"


def read_rows(
    conn: Conn,
    entity_type: EntityType,
    ids: Sequence[UUID],
    *,
    with_vectors: bool = False,
    with_edges: bool = False,
    sink: str | None = None,
    model: Model | None = None,
) -> list[Row]:
    """Return the present rows of ``ids``, deleted ones too, sorted by key.

    ``written_namespace`` is the namespace in ``sink``, if that sink has namespaces. Edges are read
    after the rows, so they may be newer than ``graph_version``, never older. With ``model``, rows
    are as that model embeds them: embedded as soon as it has a vector of their text.
    """
    content = list(entity_type.columns)
    embedded = f"embedding_text_hash, {model_of()}" if model is None else _EMBEDDED_BY
    vector = VECTOR if model is None else _VECTOR_BY
    vector = vector if with_vectors else "NULL::bytea"
    space = (namespace_column(sink) if sink else None) or "NULL::text"
    rows = conn.execute(
        f"""
        SELECT id, {entity_type.key_column}, version, graph_version, deleted_at IS NOT NULL,
               content_hash, text_hash, {embedded}, {space},
               {vector}, edges_version > 0, former_keys, {", ".join(content)}
        FROM {entity_type} l WHERE id = ANY(%(ids)s) ORDER BY {entity_type.key_column}
        """,
        {
            "ids": list(ids),
            **({"model": model.name, "dimensions": model.dimensions} if model else {}),
        },
        binary=True,
    ).fetchall()
    linked = [r[0] for r in rows if r[11]] if with_edges else []
    edges = read_edges(conn, entity_type, linked) if linked else {}
    return [_row(entity_type, read, edges.get(read[0]) if edges else None) for read in rows]


def namespaces_of(
    conn: Conn, entity_type: EntityType, ids: Sequence[UUID], sinks: Sequence[str]
) -> dict[str, dict[UUID, str | None]]:
    """Return the namespace of each entity in each of ``sinks``, None if it was never written."""
    columns = {sink: column for sink in sinks if (column := namespace_column(sink))}
    if not columns:
        return {}
    rows = conn.execute(
        f"SELECT id, {', '.join(columns.values())} FROM {entity_type} WHERE id = ANY(%s)",
        (list(ids),),
    ).fetchall()
    return {
        sink: {row[0]: row[place] for row in rows} for place, sink in enumerate(columns, start=1)
    }


def records_by_namespace(conn: Conn, entity_type: EntityType, sink: str) -> dict[str, int]:
    """Return the number of a type's records in each namespace of a sink. Reads every entity."""
    column = namespace_column(sink)
    if column is None:
        return {}
    rows = conn.execute(
        f"SELECT {column}, count(*) FROM {entity_type} WHERE {column} IS NOT NULL GROUP BY 1"
    )
    return dict(rows.fetchall())


def _row(entity_type: EntityType, read: Sequence[Any], edges: tuple[Edge, ...] | None) -> Row:
    entity, key, version, graph_version, deleted, *hashes, space, vector, _, former = read[:13]
    content_hash, text_hash, embedded, model = hashes
    return Row(
        entity_type,
        entity,
        key,
        version,
        graph_version,
        deleted,
        content_of(entity_type, read[13:]),
        content_hash,
        text_hash,
        embedded,
        model,
        space,
        vector,
        edges=edges,
        former_keys=tuple(former),
    )


def read_edges(conn: Conn, kind: EntityType, ids: Sequence[UUID]) -> dict[UUID, tuple[Edge, ...]]:
    """Return the relationships from each of ``ids`` to living entities."""
    if kind.edges is None:
        return {}
    table, source, target = kind.edges.table, kind.edges.source, kind.edges.target
    rows = conn.execute(
        f"""
        SELECT r.{source}, r.id, r.relationship_type, t.{kind.key_column}, t.graph_version,
               r.strength_score
        FROM {table} r
        JOIN {kind} t ON t.id = r.{target} AND t.deleted_at IS NULL
        WHERE r.{source} = ANY(%s) ORDER BY r.relationship_type, t.{kind.key_column}
        """,
        (list(ids),),
    ).fetchall()
    found: dict[UUID, list[Edge]] = {entity: [] for entity in ids}
    for entity, edge, relation, key, version, score in rows:
        strength = None if score is None else float(score)
        found[entity].append(Edge(edge, relation, key, version, strength))
    return {entity: tuple(edges) for entity, edges in found.items()}
