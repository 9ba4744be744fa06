"""SQL that deletes entities: tombstones, and the operations that remove them from sinks."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from altsync.contract import Topology
from altsync.db import Conn
from altsync.declarations import pending
from altsync.entities import EntityType
from altsync.operations import Action, Origin
from altsync.outbox.edges import end_searches
from altsync.outbox.enqueue import enqueue_parameters, lock_entities, notify, select_operations
from altsync.seed.changes import Changes
from altsync.seed.sql.seen import note_changes
from altsync.similarity.sql import delete_relationships, incoming

#: Ids per delete statement: a short transaction, few row locks at once.
DELETE_PAGE = 1000


def tombstone(
    conn: Conn,
    entity_type: EntityType,
    ids: Sequence[UUID],
    topology: Topology,
    *,
    noted: bool = True,
    origin: Origin = Origin.SEED,
) -> Changes:
    """Mark entities as deleted and enqueue their removal from every sink.

    ``noted``: the caller reads ``changed_in_run`` later.
    """
    if entity_type.edges:
        # One statement locks the entities and the sources of edges to them: two deletions cannot
        # deadlock. An edge is written under its target's lock: few are new since ``incoming``.
        sources = incoming(conn, entity_type, ids)
        lock_entities(conn, ((entity_type, i) for i in {*ids, *sources}))
    # The relationships are deleted, too. Without the hash, a restored entity is searched again.
    forget = ", neighbours_input_hash = NULL" if entity_type.similar else ""
    cursor = conn.execute(
        f"""
        WITH living AS MATERIALIZED (
          SELECT id FROM {entity_type} WHERE id = ANY(%(ids)s) AND deleted_at IS NULL
          ORDER BY id FOR NO KEY UPDATE),
        changed AS (
          UPDATE {entity_type} l SET deleted_at = now(), updated_at = now(),
            version = nextval('entity_version'), {pending()},
            embedding_sync_status = 'synced'{forget}
          FROM living WHERE l.id = living.id
          RETURNING l.id, l.{entity_type.key_column} AS key, l.version, l.graph_version,
                    true AS embedded),
        {f"noted AS ({note_changes(entity_type)})," if noted else ""}
        enqueued AS (
          {
            select_operations(entity_type, "changed", origin=origin, action=Action.DELETE)
        } RETURNING 1)
        SELECT (SELECT count(*) FROM changed), (SELECT count(*) FROM enqueued)
        """,
        {"ids": list(ids), **enqueue_parameters(topology)},
    )
    row = cursor.fetchone()
    assert row is not None
    updates = 0
    if entity_type.edges:
        end_searches(conn, ids)
        updates = delete_relationships(conn, entity_type, ids, topology)
    notify(conn, topology.names)
    return Changes(deleted=row[0], operations=row[1] + updates)
