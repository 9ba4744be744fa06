"""SQL on seeded relationships: staging, the guarded upsert, deletion."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from altsync.contract import Topology
from altsync.copying import fill
from altsync.db import Conn
from altsync.declarations import EDGE_IDS
from altsync.entities import EdgeTable, EntityType
from altsync.seed.changes import Changes


def _columns(edges: EdgeTable) -> tuple[str, ...]:
    return (
        *("id", "seed_id", edges.source, edges.target, "relationship_type"),
        *("strength_score", "attributes", "content_hash"),
    )


def _changed(edges: EdgeTable) -> str:
    """Return SQL for the staged rows that are new or differ.

    All columns are compared: the hash alone does not show an edit by SQL.
    """
    own, staged = (", ".join(f"{a}.{name}" for name in _columns(edges)) for a in ("e", "s"))
    return f"""
    FROM staging_{edges.table} s LEFT JOIN {edges.table} e ON e.id = s.id
    WHERE e.id IS NULL OR ROW({own}) IS DISTINCT FROM ROW({staged})
    """


def create_staging(conn: Conn, edges: EdgeTable) -> None:
    """Create the session's temporary table that COPY fills, batch by batch."""
    conn.execute(
        f"""
        CREATE TEMP TABLE IF NOT EXISTS staging_{edges.table} (
          id uuid, seed_id text, {edges.source} uuid, {edges.target} uuid,
          relationship_type text, strength_score numeric(6, 5), attributes jsonb,
          content_hash text)
        """
    )


def copy_to_staging(conn: Conn, edges: EdgeTable, rows: Sequence[Sequence[Any]]) -> None:
    """COPY (id, seed_id, source, target, type, strength, attributes, content_hash) rows."""
    fill(conn, f"staging_{edges.table}", _columns(edges), rows)


def remove_from_staging(conn: Conn, edges: EdgeTable, seed_ids: Sequence[str]) -> None:
    """Remove rejected lines from staging."""
    conn.execute(f"DELETE FROM staging_{edges.table} WHERE seed_id = ANY(%s)", (list(seed_ids),))


def holders(
    conn: Conn, kind: EntityType, ids: Sequence[UUID], pairs: Sequence[tuple[UUID, UUID, str]]
) -> dict[tuple[UUID, UUID, str], str]:
    """Return the seed ids of stored relationships by ``pairs``, but for those in ``ids``."""
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
    """Return what an upsert of the staged rows would change, without writing."""
    row = conn.execute(
        f"SELECT count(*) FILTER (WHERE e.id IS NULL), count(*) FILTER (WHERE e.id IS NOT NULL), "
        f"count(DISTINCT s.{edges.source}) {_changed(edges)}"
    ).fetchone()
    assert row is not None
    return Changes(created=row[0], updated=row[1], operations=row[2] * len(topology.graph))


def changed_ends(conn: Conn, edges: EdgeTable) -> list[tuple[UUID, UUID, UUID | None]]:
    """Return (source, target, stored source) of the staged rows that are new or differ."""
    return conn.execute(
        f"SELECT s.{edges.source}, s.{edges.target}, e.{edges.source} {_changed(edges)}"
    ).fetchall()


def upsert_staged(conn: Conn, edges: EdgeTable, locked: Collection[UUID]) -> Changes:
    """Upsert the staged rows that are new, or whose stored source is one of ``locked``."""
    columns = _columns(edges)
    written = [f"{name} = excluded.{name}" for name in columns[2:]]
    written += [f"{name} = NULL" for name in EDGE_IDS]
    rows = conn.execute(
        f"""
        INSERT INTO {edges.table} AS r ({", ".join(columns)})
        SELECT {", ".join(f"s.{name}" for name in columns)} {_changed(edges)} ORDER BY s.id
        ON CONFLICT (id) DO UPDATE SET {", ".join(written)}, updated_at = now()
        WHERE r.{edges.source} = ANY(%s)
        RETURNING (xmax = 0)
        """,
        (list(locked),),
    ).fetchall()
    created = sum(row[0] for row in rows)
    return Changes(created=created, updated=len(rows) - created)


def sources_of(conn: Conn, edges: EdgeTable, ids: Sequence[UUID]) -> set[UUID]:
    """Return the sources of relationships."""
    rows = conn.execute(
        f"SELECT DISTINCT {edges.source} FROM {edges.table} WHERE id = ANY(%s)", (list(ids),)
    )
    return {row[0] for row in rows}


def delete(conn: Conn, edges: EdgeTable, ids: Sequence[UUID]) -> list[UUID]:
    """Delete relationships; return the source of each."""
    rows = conn.execute(
        f"DELETE FROM {edges.table} WHERE id = ANY(%s) RETURNING {edges.source}", (list(ids),)
    )
    return [row[0] for row in rows]


def note_sources(conn: Conn, kind: EntityType, sources: Sequence[UUID]) -> None:
    """Note the sources of changed relationships as changed by this run."""
    conn.execute(
        f"""
        INSERT INTO changed_in_run SELECT '{kind}', id, version FROM {kind} WHERE id = ANY(%s)
        ON CONFLICT (id) DO NOTHING
        """,
        (list(sources),),
    )
