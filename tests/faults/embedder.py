"""A simulated embedder behind the product's own embedding sink, and its bill."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from altsync.db import Database
from altsync.embedding import Embedded
from altsync.entities import Model
from altsync.projection import digest
from altsync.store.vectors import EmbeddingCache
from tests.faults.connection import ERRORS, Connection, failure
from tests.faults.server import SimulatedServer


class SimulatedEmbedder:
    """A paid embedder; its ledger says which text was paid when."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def embed(self, texts: Sequence[str], model: Model) -> Embedded:
        """One request. Raises ``SinkFailure``."""
        hashes = [digest(text.encode()) for text in texts]
        try:
            self._connection.embed(hashes)
        except ERRORS as error:
            raise failure(error) from error
        return Embedded(tuple(text_vector(text_hash) for text_hash in hashes), tokens=len(texts))

    def close(self) -> None:
        """Let go of the ledger."""
        self._connection.server.close()


class WatchedCache(EmbeddingCache):
    """The product's cache of vectors; the ledger learns when a paid one is safe."""

    def __init__(self, database: Database, server: SimulatedServer) -> None:
        super().__init__(database)
        self._server = server

    def keep(self, model: Model, vectors: Mapping[str, bytes]) -> None:
        """Keep vectors, then say so."""
        super().keep(model, vectors)
        self._server.record_kept(list(vectors))


def text_vector(text_hash: str) -> bytes:
    """The vector that the simulated model gives a text: four whole numbers from its hash."""
    return struct.pack("<4f", *(int(text_hash[place : place + 6], 16) for place in (0, 8, 16, 24)))
