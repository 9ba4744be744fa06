"""SQL on searches for neighbours, and on relationships that end with a deletion."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from altsync.contract import EMBEDDING, Topology
from altsync.db import Conn
from altsync.declarations import columns_of
from altsync.entities import EntityType
from altsync.operations import Origin
from altsync.outbox.edges import enqueue_edge_update, enqueue_neighbour_search


def incoming(conn: Conn, kind: EntityType, ids: Sequence[UUID]) -> set[UUID]:
    """Return the entities that have a relationship to one of ``ids``."""
    e = kind.edge_table
    rows = conn.execute(
        f"SELECT {e.source} FROM {e.table} WHERE {e.target} = ANY(%s)",
        (list(ids),),
    )
    return {r[0] for r in rows}


def full_at(kind: EntityType) -> int | None:
    """Return the number of SIMILAR_TO edges that an entity keeps at most."""
    return kind.similar.top if kind.similar else None


def delete_relationships(
    conn: Conn, kind: EntityType, ids: Sequence[UUID], topology: Topology
) -> int:
    """Delete every relationship from and to entities that are being deleted.

    Sources of deleted edges are written to the graph. A node that is created again before its
    deletion is delivered would else keep these edges. A full entity that loses a neighbour is
    searched again; others have no further one that is near enough. The caller has locked the
    entities and the sources. Returns the number of enqueued updates of edges.
    """
    e = kind.edge_table
    rows = conn.execute(
        f"""
        WITH deleted AS (
          DELETE FROM {e.table}
          WHERE {e.source} = ANY(%(ids)s) OR {e.target} = ANY(%(ids)s)
          RETURNING {e.source} AS source, relationship_type)
        SELECT d.source, d.relationship_type = '{e.computed}' AND (
          SELECT count(*) FROM {e.table} r  -- as before the deletion
          WHERE r.{e.source} = d.source AND r.relationship_type = d.relationship_type) >= %(top)s
        FROM deleted d
        """,
        {"ids": list(ids), "top": full_at(kind)},
    ).fetchall()
    touched = sorted({r[0] for r in rows} - set(ids))
    enqueued = enqueue_edge_update(conn, kind, touched, topology, Origin.SEED)
    full = {r[0] for r in rows if r[1]} - set(ids)
    if kind.similar:
        enqueue_neighbour_search(conn, kind, topology.relating, sorted(full), again=True)
    return enqueued


def vector_states(
    conn: Conn, kind: EntityType, ids: Sequence[UUID], index: str
) -> dict[UUID, tuple[bool, float | None]]:
    """Return (pending, age): whether a write waits, and seconds since the last one."""
    columns = columns_of(index)
    written = columns.synced_at if columns else None
    rows = conn.execute(
        f"""
        SELECT l.id, EXISTS (SELECT 1 FROM sync_operation o WHERE o.entity_id = l.id
                             AND o.sink = ANY(%(sinks)s) AND o.finished_at IS NULL),
               abs(EXTRACT(epoch FROM now() - {f"l.{written}" if written else "NULL"}))::float8
        FROM {kind} l WHERE l.id = ANY(%(ids)s)
        """,
        {"ids": list(ids), "sinks": [EMBEDDING, index]},
    )
    return {r[0]: (r[1], r[2]) for r in rows}


def forget_neighbours(conn: Conn, kind: EntityType, key: str) -> UUID | None:
    """Clear and lock a living entity's ``neighbours_input_hash``; return its id, or None."""
    row = conn.execute(
        f"""
        UPDATE {kind} SET neighbours_input_hash = NULL
        WHERE {kind.key_column} = %s AND deleted_at IS NULL
        RETURNING id
        """,
        (key,),
    ).fetchone()
    return row[0] if row else None


def count_similar(conn: Conn, kind: EntityType, since: datetime | None = None) -> int:
    """Count SIMILAR_TO relationships, or those created since a time of the database's clock."""
    e = kind.edge_table
    row = conn.execute(
        f"""
        SELECT count(*) FROM {e.table} WHERE relationship_type = '{e.computed}'
          AND (%(since)s::timestamptz IS NULL OR created_at >= %(since)s)
        """,
        {"since": since},
    ).fetchone()
    assert row is not None
    return int(row[0])
