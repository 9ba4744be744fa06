"""``celery -A benchmarks.asleep.workers``: the product's workers, their sinks asleep.

``BENCH_LATENCY`` has the seconds that a call of Neo4j, Pinecone and OpenAI takes.
"""

from __future__ import annotations

import os

from altsync.app import Application
from altsync.contract import EMBEDDING
from altsync.generations import Generation
from altsync.protocols import Sink
from altsync.sinks.embedding import write as embedding
from altsync.store.vectors import EmbeddingCache
from altsync.workers import tasks
from altsync.workers.app import app
from benchmarks.asleep.sinks import Graph, SleepingEmbedder, VectorIndex

__all__ = ["app"]


class SleepingApplication(Application):
    """The product's composition root, but for what the sinks talk to."""

    def _open(self, name: str, own: Generation | None = None) -> Sink | None:
        graph, index, embedder = map(float, os.environ["BENCH_LATENCY"].split(","))
        if name == EMBEDDING:
            return embedding.Sink(SleepingEmbedder(embedder), EmbeddingCache(self.database))
        return Graph(graph) if name == "neo4j" else VectorIndex(index)


tasks.Application = SleepingApplication  # type: ignore[attr-defined]
