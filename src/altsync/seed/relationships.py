"""SQL on seeded relationships: staging, the guarded upsert, deletion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from altsync.contract import Topology
from altsync.copying import fill
from altsync.db import Conn
from altsync.entities import EdgeTable, EntityType
from altsync.operations import Origin
from altsync.outbox.edges import enqueue_edge_update
from altsync.outbox.enqueue import lock_entities
from altsync.seed.changes import Changes


def _columns(edges: EdgeTable) -> tuple[str, ...]:
    return (
        *("id", "seed_id", edges.source, edges.target, "relationship_type"),
        *("strength_score", "attributes", "content_hash"),
    )


def _changed(edges: EdgeTable) -> str:
    """What is new or differs, in SQL. Not by the hash alone, which does not show an edit by SQL."""
    own, staged = (", ".join(f"{a}.{name}" for name in _columns(edges)) for a in ("e", "s"))
    return f"""
    FROM staging_{edges.table} s LEFT JOIN {edges.table} e ON e.id = s.id
    WHERE e.id IS NULL OR ROW({own}) IS DISTINCT FROM ROW({staged})
    """


def create_staging(conn: Conn, edges: EdgeTable) -> None:
    """The session's temporary table that COPY fills, batch by batch."""
    conn.execute(
        f"""
        CREATE TEMP TABLE IF NOT EXISTS staging_{edges.table} (
          id uuid, seed_id text, {edges.source} uuid, {edges.target} uuid,
          relationship_type text, strength_score numeric(6, 5), attributes jsonb,
          content_hash text)
        """
    )


def copy(conn: Conn, edges: EdgeTable, rows: Sequence[Sequence[Any]]) -> None:
    """COPY (id, seed_id, source, target, type, strength, attributes, content_hash) rows."""
    fill(conn, f"staging_{edges.table}", _columns(edges), rows)


def holders(
    conn: Conn, kind: EntityType, ids: Sequence[UUID], pairs: Sequence[tuple[UUID, UUID, str]]
) -> dict[tuple[UUID, UUID, str], str]:
    """Seed ids of the relationships that hold one of ``pairs``, but for those in ``ids``."""
    edges = kind.edge_table
    rows = conn.execute(
        f"""
        SELECT r.{edges.source}, r.{edges.target}, r.relationship_type, r.seed_id
        FROM unnest(%s::uuid[], %s::uuid[], %s::text[]) AS p(source, target, relation)
        JOIN {edges.table} r ON r.{edges.source} = p.source
          AND r.{edges.target} = p.target AND r.relationship_type = p.relation
        WHERE r.seed_id IS NOT NULL AND r.id <> ALL(%s)
        """,
        ([p[0] for p in pairs], [p[1] for p in pairs], [p[2] for p in pairs], list(ids)),
    )
    return {(r[0], r[1], r[2]): r[3] for r in rows}


def classify(conn: Conn, edges: EdgeTable, topology: Topology) -> Changes:
    """Return what ``upsert`` would do, without doing it."""
    row = conn.execute(
        f"SELECT count(*) FILTER (WHERE e.id IS NULL), count(*) FILTER (WHERE e.id IS NOT NULL), "
        f"count(DISTINCT s.{edges.source}) {_changed(edges)}"
    ).fetchone()
    assert row is not None
    return Changes(created=row[0], updated=row[1], operations=row[2] * len(topology.graph))


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Entities that what changed in staging touches, all locked.

    ``sources`` are those that it begins at, or began at before.
    """

    entities: frozenset[UUID] = frozenset()
    sources: frozenset[UUID] = frozenset()


def lock_changed(conn: Conn, kind: EntityType, locked: Endpoints | None = None) -> Endpoints:
    """Lock the entities that what changed in staging touches; those of ``locked`` are already.

    Looked at again after each lock: another session may have moved a relationship meanwhile, and
    the entity that it begins at now is to be written, too.
    """
    locked, edges = locked or Endpoints(), kind.edge_table
    while True:
        rows = conn.execute(
            f"SELECT s.{edges.source}, s.{edges.target}, e.{edges.source} {_changed(edges)}"
        ).fetchall()
        entities = frozenset(i for row in rows for i in row if i)
        sources = frozenset(i for row in rows for i in (row[0], row[2]) if i)
        if entities <= locked.entities:
            return Endpoints(locked.entities, sources)
        lock_entities(conn, ((kind, i) for i in entities - locked.entities))
        locked = Endpoints(locked.entities | entities, sources)


def remove_from_staging(conn: Conn, edges: EdgeTable, seed_ids: Sequence[str]) -> None:
    """Take lines that were refused out of staging."""
    conn.execute(f"DELETE FROM staging_{edges.table} WHERE seed_id = ANY(%s)", (list(seed_ids),))


def upsert(
    conn: Conn, kind: EntityType, ends: Endpoints, topology: Topology, at: Callable[[str], None]
) -> Changes:
    """Upsert what changed in staging; the entities that it begins at are written to the graph.

    ``ends`` are those of :func:`lock_changed`. A relationship that another session has drawn from
    elsewhere since is left to one more round, in which that entity is locked. ``at`` is
    called at each step.
    """
    changes, edges = Changes(), kind.edge_table
    columns = _columns(edges)
    written = ", ".join(f"{name} = excluded.{name}" for name in columns[2:])
    while ends.sources:
        created = conn.execute(
            f"""
            INSERT INTO {edges.table} AS r ({", ".join(columns)})
            SELECT {", ".join(f"s.{name}" for name in columns)} {_changed(edges)} ORDER BY s.id
            ON CONFLICT (id) DO UPDATE SET {written}, neo4j_rel_id = NULL, updated_at = now()
            WHERE r.{edges.source} = ANY(%s)
            RETURNING (xmax = 0)
            """,
            (list(ends.entities),),
        ).fetchall()
        at("related")
        operations = _carry(conn, kind, sorted(ends.sources), topology)
        fresh = sum(row[0] for row in created)
        changes += Changes(created=fresh, updated=len(created) - fresh, operations=operations)
        ends = lock_changed(conn, kind)
    return changes


def delete(
    conn: Conn,
    kind: EntityType,
    ids: Sequence[UUID],
    topology: Topology,
    at: Callable[[str], None],
) -> Changes:
    """Delete relationships; the entities that they began at are written to the graph.

    ``at`` is called at each step.
    """
    table, source = kind.edge_table.table, kind.edge_table.source
    sources = {
        row[0]
        for row in conn.execute(
            f"SELECT DISTINCT {source} FROM {table} WHERE id = ANY(%s)",
            (list(ids),),
        )
    }
    lock_entities(conn, ((kind, i) for i in sources))
    at("ends locked")
    gone = conn.execute(
        f"DELETE FROM {table} WHERE id = ANY(%s) RETURNING {source}",
        (list(ids),),
    ).fetchall()
    at("unrelated")
    # Another session may have moved one before its entity was locked.
    moved = {row[0] for row in gone} - sources
    lock_entities(conn, ((kind, i) for i in moved))
    operations = _carry(conn, kind, sorted(sources | moved), topology)
    return Changes(deleted=len(gone), operations=operations)


def _carry(conn: Conn, kind: EntityType, sources: Sequence[UUID], topology: Topology) -> int:
    conn.execute(
        f"""
        INSERT INTO changed_in_run SELECT '{kind}', id, version FROM {kind} WHERE id = ANY(%s)
        ON CONFLICT (id) DO NOTHING
        """,
        (list(sources),),
    )
    return enqueue_edge_update(conn, kind, sources, topology, Origin.SEED)
