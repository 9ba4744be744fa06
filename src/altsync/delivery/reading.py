"""Read the rows of a batch. Each is read after its claim, or a newer version could be missed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from altsync.contract import AlreadyNewer, SinkTraits
from altsync.db import Database
from altsync.declarations import namespace_column
from altsync.delivery.state import BatchState
from altsync.entities import EntityType, Model, Row
from altsync.operations import Operation
from altsync.projection import namespace
from altsync.store.rows import read_rows


def read_batch(
    database: Database,
    traits: SinkTraits,
    operations: Sequence[Operation],
    model: Model | None = None,
) -> dict[UUID, Row]:
    """Return the current rows of operations, with the namespaces that each has yet to leave.

    ``model`` is that of a shadow. A shadow follows its sink: an entity that the sink has not moved
    to its namespace yet counts as not embedded, and the sink's write enqueues it again.
    """
    rows: dict[UUID, Row] = {}
    with database.autocommit() as conn:
        for kind, ids in _by_type((op.entity_type, op.entity_id) for op in operations).items():
            found = read_rows(
                conn,
                kind,
                ids,
                with_vectors=traits.needs_embedding,
                with_edges=traits.edges,
                sink=traits.base,
                model=model,
            )
            if traits.shadow and namespace_column(traits.base) is not None:
                found = [_following(row) for row in found]
            rows.update((row.id, row) for row in found)
    for op in operations:
        if op.namespaces and op.entity_id in rows:
            rows[op.entity_id] = replace(rows[op.entity_id], stale_namespaces=op.namespaces)
    return rows


def _following(row: Row) -> Row:
    if not row.entity_type.moves or row.deleted or row.written_namespace == namespace(row):
        return row
    return replace(row, embedding_text_hash=None)


def current_versions(
    database: Database, traits: SinkTraits, rows: Mapping[UUID, Row], state: BatchState
) -> dict[UUID, int]:
    """Return the versions that rows have now, where the sink holds a newer one than was written."""
    newer = (
        (row.entity_type, row.id)
        for row in rows.values()
        if isinstance(state.outcomes.get(row.id), AlreadyNewer)
    )
    groups = _by_type(newer)
    if not groups:
        return {}
    with database.autocommit() as conn:
        found = [row for kind, ids in groups.items() for row in read_rows(conn, kind, ids)]
    return {row.id: traits.version_of(row) for row in found}


def _by_type(entities: Iterable[tuple[EntityType, UUID]]) -> dict[EntityType, list[UUID]]:
    groups: dict[EntityType, list[UUID]] = defaultdict(list)
    for kind, entity_id in entities:
        groups[kind].append(entity_id)
    return groups
