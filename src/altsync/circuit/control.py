"""Control writes: repeat the write of a record that a sink holds, to show that it accepts any.

A control write is a leased operation, so no other worker writes the same entity meanwhile. It
leaves no history.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from altsync.contract import SinkTraits
from altsync.db import Conn
from altsync.entities import EntityType
from altsync.operations import Action, Operation, Origin
from altsync.outbox.claim import release
from altsync.outbox.enqueue import status_column
from altsync.outbox.upkeep import mark_pending


def begin_control(
    conn: Conn,
    sink: SinkTraits,
    entity_type: EntityType,
    *,
    deleted: bool,
    token: UUID,
    worker: str,
    lease: float,
) -> Operation | None:
    """Lease an entity that the sink holds, or has removed; None when there is none.

    On an autocommit connection. None, too, for a sink without a status column.
    """
    status = status_column(sink.name)
    if status is None or not sink.takes(entity_type):
        return None
    key = entity_type.key_column
    parameters: dict[str, Any] = {
        "sink": sink.name,
        "action": Action.DELETE if deleted else Action.UPSERT,
        "token": token,
        "worker": worker,
        "lease": lease,
    }
    row = conn.execute(
        f"""
        WITH held AS MATERIALIZED (
          SELECT l.id, l.{key} AS key, l.{"graph_version" if sink.edges else "version"} AS version
          FROM {entity_type} l
          WHERE l.{status} = 'synced' AND (l.deleted_at IS NOT NULL) = {deleted}
            AND NOT EXISTS (
              SELECT 1 FROM sync_operation o WHERE o.entity_id = l.id AND o.sink = %(sink)s
                AND (o.finished_at IS NULL OR o.status IN ('dead', 'discarded')))
          LIMIT 1 FOR NO KEY UPDATE OF l SKIP LOCKED)
        INSERT INTO sync_operation (entity_type, entity_id, entity_key, sink, action, version,
          origin, status, attempts, lease_token, leased_by, available_at)
        SELECT '{entity_type}', id, key, %(sink)s, %(action)s, version, '{Origin.BACKFILL}',
          'in_progress', 1, %(token)s, %(worker)s, now() + make_interval(secs => %(lease)s)
        FROM held
        ON CONFLICT (entity_id, sink) WHERE finished_at IS NULL DO NOTHING
        RETURNING id, entity_id, entity_key, version
        """,
        parameters,
    ).fetchone()
    if row is None:
        return None
    return Operation(row[0], entity_type, row[1], row[2], row[3], 1, 0, False)


def end_control(conn: Conn, op: Operation, token: UUID, *, settled: bool) -> None:
    """End a control write, inside the caller's transaction.

    ``settled``: its outcome is known. It stays as a pending operation where the entity has changed
    meanwhile, or the write may still be applied.
    """
    removed = (
        settled
        and conn.execute(
            """
        DELETE FROM sync_operation
        WHERE id = %s AND lease_token = %s AND NOT rerun_requested AND version = %s
        """,
            (op.id, token, op.version),
        ).rowcount
    )
    if not removed:
        release(conn, [op.id], token, outcome_unknown=not settled)
        mark_pending(conn, op.entity_type, [op.entity_id])


def passed_since(conn: Conn, ids: Sequence[int]) -> bool:
    """Return whether, since each operation failed alone, another of its destination has passed.

    False if one of them has not failed alone before.
    """
    row = conn.execute(
        """
        SELECT NOT EXISTS (
          SELECT 1 FROM sync_operation o WHERE o.id = ANY(%s) AND NOT EXISTS (
            SELECT 1 FROM sync_operation p
            WHERE p.sink = o.sink AND p.entity_type = o.entity_type AND p.action = o.action
              AND p.status = 'synced' AND p.finished_at > o.last_timeout_at
              AND p.entity_id <> o.entity_id))
        """,
        (list(ids),),
    ).fetchone()
    assert row is not None
    return bool(row[0])
