"""Accept rows that SQL has edited as the content of their entities."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from altsync.contract import EMBEDDING, Topology
from altsync.db import Conn
from altsync.declarations import pending
from altsync.entities import EntityType
from altsync.generations import model_of
from altsync.operations import Origin
from altsync.outbox.enqueue import enqueue_parameters, lock_entities, notify, select_operations
from altsync.projection import content_hash, is_edited, text_hash
from altsync.store.rows import HALF_HASH, SAVED, read_rows


def accept_edits(
    conn: Conn, entity_type: EntityType, ids: Sequence[UUID], topology: Topology
) -> int:
    """Give rows that SQL has edited new hashes, a new version and operations for every sink.

    The next seeding restores the values of the seed line. Returns the number of rows.
    """
    lock_entities(conn, ((entity_type, i) for i in ids))
    rows = [row for row in read_rows(conn, entity_type, ids) if not row.deleted and is_edited(row)]
    if not rows:
        return 0
    # One statement writes hashes, version and operations: no worker reads only some of them.
    conn.execute(
        f"""
        WITH own AS MATERIALIZED (
          SELECT * FROM unnest(%(ids)s::uuid[], %(contents)s::text[], %(texts)s::text[])
            AS o(id, content_hash, text_hash)),
        changed AS (
          UPDATE {entity_type} l SET content_hash = o.content_hash, text_hash = o.text_hash,
            line_hash = CASE WHEN left(l.line_hash, {HALF_HASH}) = '{SAVED}' THEN '{SAVED}' END,
            version = nextval('entity_version'), updated_at = now(),
            {pending()},
            embedding_sync_status = CASE WHEN l.embedding_text_hash = o.text_hash
              THEN l.embedding_sync_status ELSE 'pending' END
          FROM own o WHERE l.id = o.id
          RETURNING l.id, l.{entity_type.key_column} AS key, l.version, l.graph_version,
            COALESCE(l.embedding_text_hash = l.text_hash AND {model_of()} =
              (SELECT config ->> 'model' FROM sink_state WHERE sink = '{EMBEDDING}'), false)
              AS embedded)
        {select_operations(entity_type, "changed", origin=Origin.RECONCILE)}
        """,
        {
            "ids": [row.id for row in rows],
            "contents": [content_hash(row.content) for row in rows],
            "texts": [text_hash(row.content) for row in rows],
            **enqueue_parameters(topology),
        },
    )
    notify(conn, topology.names)
    return len(rows)
