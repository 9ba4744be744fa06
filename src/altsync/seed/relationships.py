"""Write and delete seeded relationships under the locks of their ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from altsync.contract import Topology
from altsync.db import Conn
from altsync.entities import EntityType
from altsync.operations import Origin
from altsync.outbox.edges import enqueue_edge_update
from altsync.outbox.enqueue import lock_entities
from altsync.seed.changes import Changes
from altsync.seed.sql import relationships as sql


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The locked entities at the ends of the staged relationships that changed.

    ``sources`` are the former and the new sources among them.
    """

    entities: frozenset[UUID] = frozenset()
    sources: frozenset[UUID] = frozenset()


def lock_changed(conn: Conn, kind: EntityType, locked: Endpoints | None = None) -> Endpoints:
    """Lock the ends of the staged relationships that changed, unless ``locked`` holds them.

    The ends are read again after each lock, until all of them are locked::

        this seeder             | another seeder
        reads r: from x         |
                                | changes r: from y, and commits
        locks x                 |
        reads r again: from y   |
        locks y                 |
    """
    locked = locked or Endpoints()
    while True:
        rows = sql.changed_ends(conn, kind.edge_table)
        entities = frozenset(i for row in rows for i in row if i)
        sources = frozenset(i for row in rows for i in (row[0], row[2]) if i)
        if entities <= locked.entities:
            return Endpoints(locked.entities, sources)
        lock_entities(conn, ((kind, i) for i in entities - locked.entities))
        locked = Endpoints(locked.entities | entities, sources)


def upsert(
    conn: Conn,
    kind: EntityType,
    endpoints: Endpoints,
    topology: Topology,
    at: Callable[[str], None],
) -> Changes:
    """Upsert the staged relationships that changed, and enqueue the nodes of their sources.

    ``endpoints`` come from :func:`lock_changed`. A relationship that another session has given a
    new source meanwhile waits for the next round, which locks that source. ``at`` is called at
    each step.
    """
    changes = Changes()
    while endpoints.sources:
        written = sql.upsert_staged(conn, kind.edge_table, endpoints.entities)
        at("related")
        operations = _enqueue(conn, kind, sorted(endpoints.sources), topology)
        changes += replace(written, operations=operations)
        endpoints = lock_changed(conn, kind)
    return changes


def delete(
    conn: Conn,
    kind: EntityType,
    ids: Sequence[UUID],
    topology: Topology,
    at: Callable[[str], None],
) -> Changes:
    """Delete relationships, and enqueue the nodes of their sources.

    ``at`` is called at each step.
    """
    sources = sql.sources_of(conn, kind.edge_table, ids)
    lock_entities(conn, ((kind, i) for i in sources))
    at("ends locked")
    deleted = sql.delete(conn, kind.edge_table, ids)
    at("relationships deleted")
    # Another session may have given one a new source before its former source was locked.
    moved = set(deleted) - sources
    lock_entities(conn, ((kind, i) for i in moved))
    operations = _enqueue(conn, kind, sorted(sources | moved), topology)
    return Changes(deleted=len(deleted), operations=operations)


def _enqueue(conn: Conn, kind: EntityType, sources: Sequence[UUID], topology: Topology) -> int:
    sql.note_sources(conn, kind, sources)
    return enqueue_edge_update(conn, kind, sources, topology, Origin.SEED)
