"""Update children and relationships of renamed entities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

from altsync.catalogue.current import entity_types
from altsync.contract import Topology
from altsync.db import Conn
from altsync.entities import Content, EntityType, ParentEdge, entity_id
from altsync.operations import Origin
from altsync.outbox.edges import enqueue_edge_update
from altsync.outbox.enqueue import lock_entities
from altsync.projection import content_hash
from altsync.seed.prepare import row_of
from altsync.seed.sql.entities import upsert_staged
from altsync.similarity.sql import incoming
from altsync.store.reads import children_page
from altsync.store.rows import SAVED, read_rows

#: Children of a renamed entity that one statement updates.
PAGE = 2000


def lock(conn: Conn, entity_type: EntityType, seed_ids: Iterable[str]) -> None:
    """Lock entities before they are renamed, and the sources of edges to them, in one order."""
    ids = {entity_id(entity_type, seed_id) for seed_id in seed_ids}
    if entity_type.edges:
        ids |= incoming(conn, entity_type, list(ids))
    lock_entities(conn, ((entity_type, i) for i in ids))


def follow(
    conn: Conn,
    entity_type: EntityType,
    renamed: Mapping[str, tuple[str, str]],
    topology: Topology,
    *,
    noted: bool = False,
) -> int:
    """Give children the new keys of parents, and enqueue the sources of edges to the parents.

    Call it in the transaction that renames. ``renamed`` has (former, new) keys by seed id. Later
    seed lines that name a former key are rejected. Returns the number of operations.
    """
    operations = 0
    keys = dict(renamed.values())
    for child in entity_types():
        for parent in child.parents:
            if parent.parent == entity_type:
                operations += _move_children(conn, child, parent, keys, topology, noted=noted)
    if entity_type.edges:
        ids = [entity_id(entity_type, seed_id) for seed_id in renamed]
        sources = sorted(incoming(conn, entity_type, ids))
        operations += enqueue_edge_update(conn, entity_type, sources, topology, Origin.SEED)
    return operations


def _move_children(
    conn: Conn,
    child: EntityType,
    parent: ParentEdge,
    keys: Mapping[str, str],
    topology: Topology,
    *,
    noted: bool,
) -> int:
    operations = 0
    after: UUID | None = UUID(int=0)
    while after is not None:
        page, after = children_page(conn, child, parent.column, list(keys), after, PAGE)
        if not page:
            break
        rows = []
        for row in read_rows(conn, child, list(page)):
            content: Any = row.content
            former = getattr(content, parent.column)
            moved: Content = replace(content, **{parent.column: keys[former]})
            rows.append(row_of(page[row.id], moved, content_hash(moved), SAVED))
        changes = upsert_staged(conn, child, topology, noted=noted, saved=rows)
        operations += changes.operations
    return operations
