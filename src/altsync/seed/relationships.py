"""SQL on seeded relationships between leagues: staging, the guarded upsert, deletion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from altsync.db import Conn, fill
from altsync.outbox import carry_edges, lock_entities
from altsync.records import EntityType, Origin, Topology
from altsync.store import Changes

_COLUMNS = (
    *("id", "seed_id", "source_league_id", "target_league_id", "relationship_type"),
    *("strength_score", "attributes", "content_hash"),
)

#: What is new or differs. Not by the hash alone, which does not show an edit by SQL.
_CHANGED = f"""
FROM staging_league_relationship s LEFT JOIN league_relationship e ON e.id = s.id
WHERE e.id IS NULL OR ROW({", ".join(f"e.{name}" for name in _COLUMNS)})
  IS DISTINCT FROM ROW({", ".join(f"s.{name}" for name in _COLUMNS)})
"""


def create_staging(conn: Conn) -> None:
    """The session's temporary table that COPY fills, batch by batch."""
    conn.execute(
        """
        CREATE TEMP TABLE IF NOT EXISTS staging_league_relationship (
          id uuid, seed_id text, source_league_id uuid, target_league_id uuid,
          relationship_type text, strength_score numeric(6, 5), attributes jsonb,
          content_hash text)
        """
    )


def copy(conn: Conn, rows: Sequence[Sequence[Any]]) -> None:
    """COPY (id, seed_id, source, target, type, strength, attributes, content_hash) rows."""
    fill(conn, "staging_league_relationship", _COLUMNS, rows)


def holders(
    conn: Conn, ids: Sequence[UUID], pairs: Sequence[tuple[UUID, UUID, str]]
) -> dict[tuple[UUID, UUID, str], str]:
    """Seed ids of the relationships that hold one of ``pairs``, but for those in ``ids``."""
    rows = conn.execute(
        """
        SELECT r.source_league_id, r.target_league_id, r.relationship_type, r.seed_id
        FROM unnest(%s::uuid[], %s::uuid[], %s::text[]) AS p(source, target, relation)
        JOIN league_relationship r ON r.source_league_id = p.source
          AND r.target_league_id = p.target AND r.relationship_type = p.relation
        WHERE r.seed_id IS NOT NULL AND r.id <> ALL(%s)
        """,
        ([p[0] for p in pairs], [p[1] for p in pairs], [p[2] for p in pairs], list(ids)),
    )
    return {(r[0], r[1], r[2]): r[3] for r in rows}


def classify(conn: Conn, topology: Topology) -> Changes:
    """Return what ``upsert`` would do, without doing it."""
    row = conn.execute(
        f"SELECT count(*) FILTER (WHERE e.id IS NULL), count(*) FILTER (WHERE e.id IS NOT NULL), "
        f"count(DISTINCT s.source_league_id) {_CHANGED}"
    ).fetchone()
    assert row is not None
    return Changes(created=row[0], updated=row[1], operations=row[2] * len(topology.graph))


@dataclass(frozen=True, slots=True)
class Ends:
    """Leagues that what changed in staging touches, all locked.

    ``sources`` are those that it begins at, or began at before.
    """

    leagues: frozenset[UUID] = frozenset()
    sources: frozenset[UUID] = frozenset()


def lock_changed(conn: Conn, locked: Ends | None = None) -> Ends:
    """Lock the leagues that what changed in staging touches; those of ``locked`` are already.

    Looked at again after each lock: another session may have moved a relationship meanwhile, and
    the league that it begins at now is to be carried, too.
    """
    locked = locked or Ends()
    while True:
        rows = conn.execute(
            f"SELECT s.source_league_id, s.target_league_id, e.source_league_id {_CHANGED}"
        ).fetchall()
        leagues = frozenset(i for row in rows for i in row if i)
        sources = frozenset(i for row in rows for i in (row[0], row[2]) if i)
        if leagues <= locked.leagues:
            return Ends(locked.leagues, sources)
        lock_entities(conn, ((EntityType.LEAGUE, i) for i in leagues - locked.leagues))
        locked = Ends(locked.leagues | leagues, sources)


def withdraw(conn: Conn, seed_ids: Sequence[str]) -> None:
    """Take lines that were refused out of staging."""
    conn.execute(
        "DELETE FROM staging_league_relationship WHERE seed_id = ANY(%s)", (list(seed_ids),)
    )


def upsert(conn: Conn, ends: Ends, topology: Topology, at: Callable[[str], None]) -> Changes:
    """Upsert what changed in staging; the leagues that it begins at are carried to the graph.

    ``ends`` are those of :func:`lock_changed`. A relationship that another session has drawn from
    elsewhere since is left to one more round, in which that league is locked. ``at`` is
    called at each step.
    """
    changes = Changes()
    while ends.sources:
        created = conn.execute(
            f"""
            INSERT INTO league_relationship AS r ({", ".join(_COLUMNS)})
            SELECT s.id, s.seed_id, s.source_league_id, s.target_league_id, s.relationship_type,
                   s.strength_score, s.attributes, s.content_hash {_CHANGED} ORDER BY s.id
            ON CONFLICT (id) DO UPDATE SET
              source_league_id = excluded.source_league_id,
              target_league_id = excluded.target_league_id,
              relationship_type = excluded.relationship_type,
              strength_score = excluded.strength_score, attributes = excluded.attributes,
              content_hash = excluded.content_hash, neo4j_rel_id = NULL, updated_at = now()
            WHERE r.source_league_id = ANY(%s)
            RETURNING (xmax = 0)
            """,
            (list(ends.leagues),),
        ).fetchall()
        at("related")
        operations = _carry(conn, sorted(ends.sources), topology)
        fresh = sum(row[0] for row in created)
        changes += Changes(created=fresh, updated=len(created) - fresh, operations=operations)
        ends = lock_changed(conn)
    return changes


def delete(
    conn: Conn, ids: Sequence[UUID], topology: Topology, at: Callable[[str], None]
) -> Changes:
    """Delete relationships; the leagues that they began at are carried to the graph.

    ``at`` is called at each step.
    """
    sources = {
        row[0]
        for row in conn.execute(
            "SELECT DISTINCT source_league_id FROM league_relationship WHERE id = ANY(%s)",
            (list(ids),),
        )
    }
    lock_entities(conn, ((EntityType.LEAGUE, i) for i in sources))
    at("leagues locked")
    gone = conn.execute(
        "DELETE FROM league_relationship WHERE id = ANY(%s) RETURNING source_league_id",
        (list(ids),),
    ).fetchall()
    at("unrelated")
    # Another session may have moved one before its league was locked.
    moved = {row[0] for row in gone} - sources
    lock_entities(conn, ((EntityType.LEAGUE, i) for i in moved))
    operations = _carry(conn, sorted(sources | moved), topology)
    return Changes(deleted=len(gone), operations=operations)


def _carry(conn: Conn, sources: Sequence[UUID], topology: Topology) -> int:
    conn.execute(
        """
        INSERT INTO changed_in_run SELECT 'league', id, version FROM league WHERE id = ANY(%s)
        ON CONFLICT (id) DO NOTHING
        """,
        (list(sources),),
    )
    return carry_edges(conn, sources, topology, Origin.SEED)
