"""Reads of operations and entities for explanations.

Two partial indexes find the history of one entity: of live and of finished operations. Neither is
updated while an operation is enqueued or claimed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.rows import dict_row

from altsync.catalogue.current import current, entity_types
from altsync.contract import Columns
from altsync.db import Conn
from altsync.declarations import WITH_STATUS, columns_of
from altsync.entities import EntityType, entity_id
from altsync.generations import model_of


@dataclass(frozen=True, slots=True)
class OperationRow:
    """A row of the outbox, live or finished. ``last_error`` also explains ``superseded``."""

    id: int
    entity_type: str
    entity_id: UUID
    entity_key: str
    sink: str
    action: str
    origin: str
    status: str
    version: int
    attempts: int
    error_kind: str | None
    last_error: str | None
    leased_by: str | None
    created_at: datetime
    available_at: datetime
    finished_at: datetime | None
    discarded_at: datetime | None = None
    discarded_by: str | None = None
    discarded_why: str | None = None


@dataclass(frozen=True, slots=True)
class SinkMark:
    """PostgreSQL's record of an entity in one sink."""

    status: str
    synced_at: datetime | None = None
    remote_id: str | None = None
    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class RelatedEntity:
    """A relationship of an entity. ``direction`` is ``out`` or ``in``.

    ``key`` and ``name`` are of the other entity.
    """

    type: str
    direction: str
    key: str
    name: str
    score: float | None


@dataclass(frozen=True, slots=True)
class EntityState:
    """The row of an entity, without its vector.

    ``content`` is by column. ``sinks`` is by name, and includes the embedding.
    """

    type: EntityType
    id: UUID
    key: str
    seed_id: str
    version: int
    graph_version: int
    deleted_at: datetime | None
    created_at: datetime
    updated_at: datetime
    content: Mapping[str, Any]
    content_hash: str
    text_hash: str
    embedding_model: str | None
    embedding_text_hash: str | None
    embedding_updated_at: datetime | None
    sinks: Mapping[str, SinkMark]
    relationships: tuple[RelatedEntity, ...] = ()


_OPERATION = """
SELECT id, entity_type, entity_id, entity_key, sink, action, origin, status, version, attempts,
       error_kind, last_error, leased_by, created_at, available_at, finished_at,
       discarded_at, discarded_by, discarded_why
FROM sync_operation
"""


#: Literals: a prepared statement uses a partial index only if its predicate is in the text.
_STATUS = {name: f"status = '{name}'" for name in ("dead", "discarded")}


def operation_rows(
    conn: Conn,
    *,
    sink: str | None = None,
    status: str | None = None,
    ids: Sequence[UUID] | None = None,
    before: int | None = None,
    limit: int = 50,
) -> list[OperationRow]:
    """Return operations of a sink, a status or entities, the newest first, below id ``before``."""
    conditions = {
        "sink": "sink = %(sink)s" if sink is not None else None,
        "status": _STATUS.get(status, "status = %(status)s") if status is not None else None,
        "ids": "entity_id = ANY(%(ids)s)" if ids is not None else None,
        "before": "id < %(before)s" if before is not None else None,
    }
    # One SELECT for each partial index. A status occurs in one of them only.
    halves = {
        "finished_at IS NULL": status in (None, "pending", "in_progress"),
        "finished_at IS NOT NULL": status not in ("pending", "in_progress"),
    }
    wanted = [condition for condition in conditions.values() if condition]
    parts = [
        f"({_OPERATION} WHERE {' AND '.join([half, *wanted])} ORDER BY id DESC LIMIT %(limit)s)"
        for half, asked in halves.items()
        if asked
    ]
    rows = conn.execute(
        f"SELECT * FROM ({' UNION ALL '.join(parts)}) o ORDER BY id DESC LIMIT %(limit)s",
        {
            "sink": sink,
            "status": status,
            "ids": list(ids) if ids is not None else None,
            "before": before,
            "limit": limit,
        },
    )
    return [OperationRow(*row) for row in rows]


def find_entities(
    conn: Conn, key: str, entity_type: EntityType | None = None
) -> list[tuple[EntityType, UUID]]:
    """Return the entities with the key ``key``, then those with the seed id ``key``.

    Purged ones are found, too, as ids are derived from seed ids.
    """
    kinds = [entity_type] if entity_type else list(entity_types())
    registered = conn.execute(
        "SELECT entity_type, seed_id FROM tag_registry WHERE entity_type = ANY(%s) AND tag = %s",
        ([kind.value for kind in kinds], key),
    ).fetchall()
    by_key = [(current().by_table[r[0]], entity_id(r[0], r[1])) for r in registered]
    for kind in kinds:
        # tag_registry lacks types whose key is the seed id.
        found = conn.execute(f"SELECT id FROM {kind} WHERE {kind.key_column} = %s", (key,))
        by_key += [(kind, row[0]) for row in found]
    by_key.sort(key=lambda one: kinds.index(one[0]))
    by_seed_id = [(kind, entity_id(kind, key)) for kind in kinds]
    return list(dict.fromkeys([*by_key, *by_seed_id]))


def read_entity(conn: Conn, entity_type: EntityType, entity: UUID) -> EntityState | None:
    """Return the row of an entity, deleted or not; None if it is purged or never existed."""
    content = list(entity_type.columns)
    marks = _marks(conn)
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(
            f"""
            SELECT id, {entity_type.key_column} AS entity_key, seed_id, version, graph_version,
                   deleted_at, created_at, updated_at, content_hash, text_hash,
                   {model_of()} AS embedding_model,
                   embedding_text_hash, embedding_updated_at,
                   {", ".join([*_column_names(marks), *content])}
            FROM {entity_type} l WHERE id = %s
            """,
            (entity,),
        ).fetchone()
    if row is None:
        return None
    return EntityState(
        type=entity_type,
        id=row["id"],
        key=row["entity_key"],
        seed_id=row["seed_id"],
        version=row["version"],
        graph_version=row["graph_version"],
        deleted_at=row["deleted_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        content={name: row[name] for name in content},
        content_hash=row["content_hash"],
        text_hash=row["text_hash"],
        embedding_model=row["embedding_model"],
        embedding_text_hash=row["embedding_text_hash"],
        embedding_updated_at=row["embedding_updated_at"],
        sinks={sink: _mark(row, columns) for sink, columns in marks.items()},
    )


def _marks(conn: Conn) -> dict[str, Columns]:
    """Return the columns of each registered sink on an entity."""
    registered = {row[0] for row in conn.execute("SELECT sink FROM sink_state")}
    found = ((sink, columns_of(sink)) for sink in WITH_STATUS if sink in registered)
    return {sink: columns for sink, columns in found if columns is not None}


def _column_names(marks: Mapping[str, Columns]) -> list[str]:
    return [name for columns in marks.values() for name in astuple(columns) if name]


def _mark(row: Mapping[str, Any], columns: Columns) -> SinkMark:
    at, remote_id, namespace = columns.synced_at, columns.remote_id, columns.namespace
    return SinkMark(
        row[columns.status],
        row[at] if at else None,
        row[remote_id] if remote_id else None,
        row[namespace] if namespace else None,
    )


def relationships(conn: Conn, kind: EntityType, key: str) -> list[RelatedEntity]:
    """Return relationships with living entities: outgoing ones first, by type and score."""
    edges = kind.edge_table
    ends = (("out", edges.source, edges.target), ("in", edges.target, edges.source))
    parts = (
        f"""
        SELECT r.relationship_type, '{direction}', o.{kind.key_column}, o.{kind.name_column},
               r.strength_score::float8
        FROM {kind} l JOIN {edges.table} r ON r.{own} = l.id
        JOIN {kind} o ON o.id = r.{other}
        WHERE l.{kind.key_column} = %(key)s AND l.deleted_at IS NULL AND o.deleted_at IS NULL
        """
        for direction, own, other in ends
    )
    rows = conn.execute(
        f"{' UNION ALL '.join(parts)} ORDER BY 2 DESC, 1, 5 DESC NULLS LAST, 3", {"key": key}
    )
    return [RelatedEntity(*row) for row in rows]


#: Number of keys from which suggestions are chosen.
CANDIDATES = 1000


def similar_keys(conn: Conn, patterns: Sequence[str]) -> list[tuple[str, str]]:
    """Return (key, name) of living entities whose key or name matches an ILIKE pattern."""
    parts = [
        f"SELECT {kind.key_column} AS key, {kind.name_column} AS name FROM {kind} "
        "WHERE deleted_at IS NULL"
        for kind in entity_types()
    ]
    return conn.execute(
        f"""
        SELECT key, name FROM ({" UNION ALL ".join(parts)}) e
        WHERE key ILIKE ANY(%(patterns)s) OR name ILIKE ANY(%(patterns)s) LIMIT {CANDIDATES}
        """,
        {"patterns": list(patterns)},
    ).fetchall()
