"""Plan the costs of another model, in place or beside the serving one, and of a backfill."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from uuid import UUID

from altsync.catalogue.current import entity_types
from altsync.contract import EMBEDDING, SinkTraits
from altsync.costs.planner import Planner
from altsync.db import Conn
from altsync.entities import EntityType
from altsync.store.rows import namespaces_of, read_rows
from altsync.store.unembedded import backfilled_ids, unembedded_ids

#: A function that gets the type and the number of the entities of each page.
Progress = Callable[[EntityType, int], None]


def no_progress(kind: EntityType, count: int) -> None:
    """Show nothing."""


def plan_reembed(conn: Conn, planner: Planner, progress: Progress = no_progress) -> None:
    """Add the entities that the planner's model has not embedded, in the caller's transaction."""
    sinks = [EMBEDDING, *planner.topology.vector, *planner.topology.relating]
    for kind in entity_types():
        ids = unembedded_ids(conn, kind, planner.model)
        _add(conn, planner, kind, ids, sinks, progress)


def plan_addition(conn: Conn, planner: Planner, progress: Progress = no_progress) -> None:
    """Add all entities, for new indexes of the planner's model, in the caller's transaction."""
    sinks = [EMBEDDING, *planner.topology.vector]
    for kind in entity_types():
        for ids in backfilled_ids(conn, kind, EMBEDDING, force=True):
            rows = [replace(row, former_keys=()) for row in read_rows(conn, kind, ids)]
            planner.write(kind, rows, {}, sinks)
            progress(kind, len(ids))


def plan_backfill(
    conn: Conn,
    planner: Planner,
    sink: SinkTraits,
    *,
    force: bool,
    progress: Progress = no_progress,
) -> None:
    """Add the entities that a backfill of a sink would enqueue, in the caller's transaction."""
    for kind in entity_types():
        if sink.takes(kind):
            ids = backfilled_ids(conn, kind, sink.name, force=force)
            _add(conn, planner, kind, ids, [sink.name], progress)


def _add(
    conn: Conn,
    planner: Planner,
    kind: EntityType,
    pages: Iterator[Sequence[UUID]],
    sinks: Sequence[str],
    progress: Progress,
) -> None:
    for ids in pages:
        # Former keys have left the sinks, or will leave them without this work.
        rows = [replace(row, former_keys=()) for row in read_rows(conn, kind, ids)]
        planner.write(kind, rows, namespaces_of(conn, kind, ids, planner.spaced), sinks)
        progress(kind, len(ids))
