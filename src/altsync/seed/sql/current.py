"""Leave out the sinks of vectors that hold a changed row already.

A change of fields that are in the graph alone changes no vector and no metadata but the version.
Its write would cost as much as that of a new text. The index keeps the older version, and its
comparison accepts it where vector and metadata are equal.
"""

from __future__ import annotations

from collections.abc import Callable

from altsync.contract import Topology
from altsync.declarations import MIRRORS, ONLY_VECTORS, pending
from altsync.entities import EntityType
from altsync.generations import model_of
from altsync.outbox.enqueue import status_column
from altsync.store.rows import HALF_HASH, row_sum


def pending_unless_current(entity_type: EntityType) -> str:
    """Return assignments for ON CONFLICT that make each sink pending, unless it holds the row."""
    others = pending(tuple(name for name in MIRRORS if name not in ONLY_VECTORS))
    model = "(SELECT model FROM wanted)"
    own = (
        f"{status_column(name)} = CASE WHEN "
        f"{_is_current(name, entity_type, 'l', 'excluded', model)} THEN 'synced' ELSE 'pending' END"
        for name in ONLY_VECTORS
    )
    return ", ".join(part for part in (others, *own) if part)


def current_sinks() -> str:
    """Return an array in SQL of the sinks that a written row ``l`` has not made pending."""
    return _sinks_where(lambda name: f"l.{status_column(name)} = 'synced'")


def count_current(entity_type: EntityType, topology: Topology) -> str:
    """Return the number in SQL of sinks that hold ``s`` already, as they confirmed ``e``."""
    counts = (
        f"COALESCE({_is_current(name, entity_type, 'e', 's', 'm.model')}, false)::int"
        for name in topology.vector
        if name in ONLY_VECTORS
    )
    return " + ".join(["0", *counts])


def current_of_staged(entity_type: EntityType, model: str) -> str:
    """Return an array in SQL of the sinks that hold ``s`` already, as they confirmed ``e``.

    ``model`` is SQL for the name of the model that embeds.
    """
    return _sinks_where(lambda name: _is_current(name, entity_type, "e", "s", model))


def _sinks_where(condition: Callable[[str], str]) -> str:
    """Return an array in SQL of the sinks of vectors alone that meet a condition."""
    names = ", ".join(f"CASE WHEN {condition(name)} THEN '{name}' END" for name in ONLY_VECTORS)
    return f"array_remove(ARRAY[{names}]::text[], NULL)"


def _is_current(sink: str, entity_type: EntityType, old: str, new: str, model: str) -> str:
    """Return SQL for whether a sink holds the new row already, as it has confirmed the old one.

    The status is synced only while the index holds the old row: each change that concerns it makes
    it pending. A write of unknown outcome has a live operation, which reads the row again. A row
    that SQL has edited does not count, as the index may hold its former values.
    """
    within = entity_type.namespace_column
    columns = [entity_type.key_column, "text_hash", *entity_type.filters, *filter(None, [within])]
    rows = [", ".join(f"{alias}.{c}" for c in dict.fromkeys(columns)) for alias in (old, new)]
    written = f"left({old}.content_hash, {HALF_HASH}) || {row_sum(entity_type, old)}"
    return f"""(
      {old}.deleted_at IS NULL AND {old}.{status_column(sink)} = 'synced'
      AND {old}.embedding_text_hash = {new}.text_hash AND {model_of(old)} = {model}
      AND ROW({rows[0]}) IS NOT DISTINCT FROM ROW({rows[1]})
      AND substr({old}.line_hash, {HALF_HASH + 1}) = {written})"""
