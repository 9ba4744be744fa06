"""Fail the sinks that wait for an embedding which was given up on.

The caller has locked the entities: embeddings are enqueued and settled under the same lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from altsync.catalogue.current import entity_types
from altsync.contract import EMBEDDING, Topology
from altsync.db import Conn
from altsync.entities import EntityType
from altsync.outbox.enqueue import status_column

#: An operation's id, and the type and id of its entity.
OfEntity = tuple[int, EntityType, UUID]


def hand_over(conn: Conn, ids: Sequence[int]) -> None:
    """Make the embedding that operations wait for deliver their versions, too.

    So ``altsync wait`` waits for the embedding instead.
    """
    if ids:
        conn.execute(
            f"""
            UPDATE sync_operation e SET
              first_version = LEAST(COALESCE(e.first_version, e.version),
                                    COALESCE(o.first_version, o.version)),
              changed_at = LEAST(e.changed_at, o.changed_at)
            FROM sync_operation o
            WHERE o.id = ANY(%s) AND e.entity_id = o.entity_id AND e.sink = '{EMBEDDING}'
              AND (e.finished_at IS NULL OR e.status = 'dead')
            """,
            (list(ids),),
        )


def fail_behind(conn: Conn, ended: Sequence[OfEntity], topology: Topology) -> None:
    """Mark the sinks that wait for an embedding failed, where it was given up on.

    ``ended`` are dead or discarded operations of the embedding, and operations of
    waiting sinks that ended without it. A retry makes the sinks pending again.
    """
    columns = [column for sink in topology.vector if (column := status_column(sink))]
    for entity_type in entity_types():
        ids = [i for _, t, i in ended if t is entity_type]
        for column in columns if ids else ():
            conn.execute(
                f"""
                UPDATE {entity_type} l SET {column} = 'failed'
                WHERE l.id = ANY(%(ids)s) AND l.{column} = 'pending'
                  AND l.embedding_sync_status = 'failed'
                  AND NOT EXISTS (SELECT 1 FROM sync_operation o
                    WHERE o.entity_id = l.id AND o.sink = ANY(%(sinks)s)
                      AND o.finished_at IS NULL)
                """,
                {"ids": ids, "sinks": [EMBEDDING, column.removesuffix("_sync_status")]},
            )
