"""The reference sink: a dictionary that keeps every rule of the contract."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from altsync.config import Settings
from altsync.contract import (
    AlreadyNewer,
    Answer,
    Declaration,
    RecordOutcome,
    SinkTraits,
    SinkVersion,
    Written,
)
from altsync.entities import EntityType, Model, Row
from altsync.projection import Scalar, graph_node
from altsync.protocols import VectorStore

#: No setting switches it on.
SINK = Declaration(SinkTraits("memory", guarded=True), f"{__name__}:open_sink")

#: Rows per call.
BATCH = 500


@dataclass(frozen=True, slots=True)
class Held:
    """A record of the sink; ``gone`` marks a tombstone."""

    version: int
    content_hash: str
    properties: dict[str, Scalar] = field(default_factory=dict)
    gone: bool = False


class Sink:
    """A guarded sink in memory."""

    traits: ClassVar[SinkTraits] = SINK.traits

    def __init__(self) -> None:
        self.held: dict[tuple[EntityType, str], Held] = {}

    def setup(self) -> None:
        """Nothing to create."""

    def split(self, rows: Sequence[Row], model: Model) -> list[Sequence[Row]]:
        """By count."""
        return [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]

    def upsert(self, rows: Sequence[Row], model: Model) -> Answer:
        """Hold each row unless something newer, or its own deletion, is held."""
        return Answer(tuple(self._upsert(row) for row in rows))

    def delete(self, rows: Sequence[Row]) -> Answer:
        """Leave a tombstone, so that a late upsert does not resurrect."""
        return Answer(tuple(self._delete(row) for row in rows))

    def _upsert(self, row: Row) -> RecordOutcome:
        held = self.held.get((row.entity_type, row.key))
        if held and (held.version, held.gone) > (row.version, False):
            return AlreadyNewer(row.id, held.version)
        properties = dict(graph_node(row).properties)
        self.held[row.entity_type, row.key] = Held(row.version, row.content_hash, properties)
        return Written(row.id, row.version, remote_id=row.key)

    def _delete(self, row: Row) -> RecordOutcome:
        held = self.held.get((row.entity_type, row.key))
        if held and not held.gone and held.version > row.version:
            return AlreadyNewer(row.id, held.version)
        version = max(row.version, held.version if held else 0)
        self.held[row.entity_type, row.key] = Held(version, row.content_hash, gone=True)
        return Written(row.id, row.version)

    def versions(self, entity_type: EntityType) -> Iterator[SinkVersion]:
        """Everything held and not deleted."""
        for (held_type, key), held in sorted(self.held.items()):
            if held_type is entity_type and not held.gone:
                yield SinkVersion(key, held.version, held.content_hash)

    def close(self) -> None:
        """Nothing to let go of."""


def open_sink(settings: Settings, vectors: VectorStore) -> Sink:
    """A sink of its own, empty; always configured."""
    return Sink()
