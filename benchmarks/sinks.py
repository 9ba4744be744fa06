"""Sinks that do a sink's own work and keep nothing, so that what grows is not theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

from altsync.contract import Answer, SinkTraits, SinkVersion, Written
from altsync.db import Database
from altsync.embedding import Embedded
from altsync.entities import EntityType, Model, Row
from altsync.projection import graph_node, vector_metadata
from altsync.protocols import Sink
from altsync.sinks.embedding import write as embedding
from altsync.store.vectors import EmbeddingCache
from benchmarks.bench import TOPOLOGY
from tests.integration.fakes import vector_of

#: Rows per call.
BATCH = 500


class Forgetful:
    """Projects every row as its real counterpart does, and forgets it."""

    traits: ClassVar[SinkTraits]

    def setup(self) -> None:
        """Nothing to create."""

    def split(self, rows: Sequence[Row], model: Model) -> list[Sequence[Row]]:
        """By count."""
        return [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]

    def upsert(self, rows: Sequence[Row], model: Model) -> Answer:
        """Every row is written."""
        return Answer(tuple(self.write(row, model) for row in rows))

    def delete(self, rows: Sequence[Row]) -> Answer:
        """Every row is removed."""
        return Answer(tuple(Written(row.id, row.version) for row in rows))

    def write(self, row: Row, model: Model) -> Written:
        """Return the request of the sink for one row."""
        raise NotImplementedError

    def versions(self, entity_type: EntityType) -> Iterator[SinkVersion]:
        """Nothing is kept."""
        return iter(())

    def close(self) -> None:
        """Nothing to let go of."""


class Graph(Forgetful):
    """In the place of Neo4j."""

    traits: ClassVar[SinkTraits] = TOPOLOGY.traits("neo4j")

    def write(self, row: Row, model: Model) -> Written:
        """A node."""
        node = graph_node(row)
        return Written(row.id, row.graph_version, remote_id=f"{node.label}:{row.key}")


class Index(Forgetful):
    """In the place of Pinecone."""

    traits: ClassVar[SinkTraits] = TOPOLOGY.traits("pinecone")

    def write(self, row: Row, model: Model) -> Written:
        """A vector and its metadata."""
        metadata = vector_metadata(row, model.name)
        return Written(row.id, row.version, row.key, str(metadata["model"]))


class HashEmbedder:
    """In the place of OpenAI: vectors made from the texts."""

    def embed(self, texts: Sequence[str], model: Model) -> Embedded:
        """One request."""
        return Embedded(tuple(vector_of(text, model) for text in texts), tokens=len(texts))


def open_sink(name: str, database: Database) -> Sink:
    """The sink that stands for the product's of this name."""
    sinks: dict[str, Callable[[], Sink]] = {
        "embedding": lambda: embedding.Sink(HashEmbedder(), EmbeddingCache(database)),
        "neo4j": Graph,
        "pinecone": Index,
    }
    return sinks[name]()
