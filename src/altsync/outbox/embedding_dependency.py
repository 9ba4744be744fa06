"""Sinks behind the embedding, when the vector does not come.

The caller has locked the entities, under whose lock embeddings are asked for and settled.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from altsync.catalogue.current import entity_types
from altsync.contract import EMBEDDING, Topology
from altsync.db import Conn
from altsync.entities import EntityType
from altsync.outbox.enqueue import status_column

#: An operation, and its entity.
OfEntity = tuple[int, EntityType, UUID]


def embedding_in_progress(conn: Conn, ids: Sequence[UUID]) -> set[UUID]:
    """Return those of the entities whose embedding has a live operation."""
    if not ids:
        return set()
    rows = conn.execute(
        f"""
        SELECT entity_id FROM sync_operation
        WHERE entity_id = ANY(%s) AND sink = '{EMBEDDING}' AND finished_at IS NULL
        """,
        (list(ids),),
    )
    return {row[0] for row in rows}


def keep_outcome_unknown(conn: Conn, ids: Sequence[int]) -> None:
    """Keep the unknown outcome of operations that have just ended and that nothing follows.

    They count as discarded, so the next success of their entity finds them, and a confirming
    write follows.
    """
    if ids:
        conn.execute(
            """
            UPDATE sync_operation SET status = 'discarded', outcome_unknown = true,
              discarded_at = now(),
              discarded_by = 'altsync', discarded_why = 'its embedding was given up on'
            WHERE id = ANY(%s) AND status = 'superseded'
            """,
            (list(ids),),
        )


def fail_behind(conn: Conn, ended: Sequence[OfEntity], topology: Topology) -> None:
    """Mark the sinks behind an embedding failed where it was given up on.

    For operations of the embedding that are dead or discarded, and for those of the sinks behind
    it that have ended waiting for it. A retry makes them pending again.
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
