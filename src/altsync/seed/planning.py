"""Add the changes of a dry run to a plan of costs."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from altsync.costs.planner import Planner
from altsync.db import Conn
from altsync.entities import EntityType, Row
from altsync.seed.prepare import PreparedRow
from altsync.seed.sql.deletion import DELETE_PAGE
from altsync.seed.sql.entities import staged_changes
from altsync.store.rows import namespaces_of, read_rows


def plan_upserts(
    conn: Conn, planner: Planner, kind: EntityType, rows: Sequence[PreparedRow]
) -> None:
    """Add the staged rows that a real run would write."""
    changes = staged_changes(conn, kind, planner.model.name)
    planned = []
    for row in rows:
        found = changes.get(row.request.seed_id)
        if found is None:
            continue
        planned.append(
            Row(
                kind,
                found.id,
                row.key,
                version=0,
                graph_version=0,
                deleted=False,
                content=row.content,
                content_hash=row.content_hash,
                text_hash=row.text_hash,
                embedding_text_hash=found.embedded_text,
                embedding_model=found.model,
                former_keys=() if found.key in (None, row.key) else (found.key,),
            )
        )
    namespaces = namespaces_of(conn, kind, [row.id for row in planned], planner.spaced)
    current = {found.id: found.current for found in changes.values()}
    planner.write(kind, planned, namespaces, current=current)


def plan_removals(conn: Conn, planner: Planner, kind: EntityType, ids: Sequence[UUID]) -> None:
    """Add the entities that a real run would delete."""
    for start in range(0, len(ids), DELETE_PAGE):
        page = ids[start : start + DELETE_PAGE]
        planner.remove(
            kind, read_rows(conn, kind, page), namespaces_of(conn, kind, page, planner.spaced)
        )
