"""Record the namespaces that the writes of an operation may have reached."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from altsync.catalogue.current import entity_types
from altsync.contract import SinkTraits
from altsync.db import Conn
from altsync.declarations import namespace_column
from altsync.entities import EntityType
from altsync.outbox.enqueue import lock_entities


def record_former_namespaces(
    conn: Conn,
    sink: SinkTraits,
    token: UUID,
    former: Mapping[tuple[EntityType, UUID], str],
    *,
    always: bool = False,
) -> None:
    """Record the namespaces that entities are about to leave, while a write there may be late.

    Settling removes the namespace from the entity. The operation keeps it for the confirming write,
    which must leave it, too. ``always``: the shadow has to leave it, whatever happens to the write.
    """
    lock_entities(conn, former)
    conn.execute(
        """
        UPDATE sync_operation o SET namespaces = array_append(o.namespaces, r.namespace)
        FROM unnest(%(ids)s::uuid[], %(namespaces)s::text[]) AS r(id, namespace)
        WHERE o.entity_id = ANY(%(ids)s) AND o.entity_id = r.id AND o.sink = %(sink)s
          AND o.finished_at IS NULL AND o.lease_token = %(token)s
          AND (o.outcome_unknown OR %(always)s) AND r.namespace <> ALL (o.namespaces)
        """,
        {
            "ids": [entity for _, entity in former],
            "namespaces": list(former.values()),
            "sink": sink.name,
            "token": token,
            "always": always,
        },
    )


def record_namespaces(
    conn: Conn, sink: SinkTraits, token: UUID, wanted: Mapping[tuple[EntityType, UUID], str]
) -> set[UUID]:
    """Record where entities are about to be written; return those whose lease is still held.

    Called before the write, so that a later delivery leaves these namespaces even if the write
    fails. The entity keeps the last one, the operation all, as a late write may reach any.
    """
    lock_entities(conn, wanted)
    recorded = conn.execute(
        """
        UPDATE sync_operation o SET namespaces =
          CASE WHEN r.namespace = ANY (o.namespaces) THEN o.namespaces
               ELSE array_append(o.namespaces, r.namespace) END
        FROM unnest(%(ids)s::uuid[], %(namespaces)s::text[]) AS r(id, namespace)
        WHERE o.entity_id = ANY(%(ids)s) AND o.entity_id = r.id AND o.sink = %(sink)s
          AND o.finished_at IS NULL AND o.lease_token = %(token)s
        RETURNING o.entity_id
        """,
        {
            "ids": [entity for _, entity in wanted],
            "namespaces": list(wanted.values()),
            "sink": sink.name,
            "token": token,
        },
    )
    held = {row[0] for row in recorded}
    column = namespace_column(sink.name)
    for kind in entity_types() if column else ():
        chosen = {i: name for (k, i), name in wanted.items() if k == kind and i in held}
        if chosen:
            conn.execute(
                f"""
                UPDATE {kind} l SET {column} = r.namespace
                FROM unnest(%(ids)s::uuid[], %(namespaces)s::text[]) AS r(id, namespace)
                WHERE l.id = ANY(%(ids)s) AND l.id = r.id
                """,
                {"ids": list(chosen), "namespaces": list(chosen.values())},
            )
    return held
