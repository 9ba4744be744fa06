"""Plan the costs of an embedding by another model, and of a backfill."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from uuid import UUID

from altsync.catalogue.current import entity_types
from altsync.contract import EMBEDDING, SinkTraits
from altsync.costs.planner import Planner
from altsync.db import Conn
from altsync.entities import EntityType
from altsync.store.rows import namespaces_of, read_rows
from altsync.store.unembedded import backfilled_ids, unembedded_ids


def plan_reembed(conn: Conn, planner: Planner) -> Iterator[tuple[EntityType, int]]:
    """Add the entities that the planner's model has not embedded, in the caller's transaction.

    Yield the type and the number of entities of each page.
    """
    sinks = [EMBEDDING, *planner.topology.vector, *planner.topology.relating]
    for kind in entity_types():
        yield from _add(conn, planner, kind, unembedded_ids(conn, kind, planner.model), sinks)


def plan_backfill(
    conn: Conn, planner: Planner, sink: SinkTraits, *, force: bool
) -> Iterator[tuple[EntityType, int]]:
    """Add the entities that a backfill of a sink would enqueue, as ``plan_reembed`` does."""
    for kind in entity_types():
        if sink.takes(kind):
            ids = backfilled_ids(conn, kind, sink.name, force=force)
            yield from _add(conn, planner, kind, ids, [sink.name])


def _add(
    conn: Conn,
    planner: Planner,
    kind: EntityType,
    pages: Iterator[Sequence[UUID]],
    sinks: Sequence[str],
) -> Iterator[tuple[EntityType, int]]:
    for ids in pages:
        # Former keys have left the sinks, or will leave them without this work.
        rows = [replace(row, former_keys=()) for row in read_rows(conn, kind, ids)]
        planner.write(kind, rows, namespaces_of(conn, kind, ids, planner.spaced), sinks)
        yield kind, len(ids)
