"""Simulated servers behind the contract of a sink.

``Graph`` is guarded and stands for Neo4j. ``Vectors`` is the product's own Pinecone sink over a
simulated index.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, cast

import numpy as np
import orjson
import pinecone

from altsync.contract import AlreadyNewer, Answer, RecordOutcome, SinkTraits, SinkVersion, Written
from altsync.entities import EntityType, Model, Row
from altsync.projection import content_hash
from altsync.sinks.pinecone import write as pinecone_sink
from tests.faults.connection import (
    ERRORS,
    RETRY_AFTER,
    Broken,
    Connection,
    NoAnswer,
    NoConnection,
    Refused,
    Reset,
    Throttled,
    failure,
)
from tests.faults.server import Effect, Result, Write

# --- the graph ----------------------------------------------------------------------------------


class Graph:
    """A guarded sink that mirrors edges, too."""

    traits: ClassVar[SinkTraits] = SinkTraits("neo4j", guarded=True, edges=True)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def setup(self) -> None:
        """The ledger has its tables."""

    def split(self, rows: Sequence[Row], model: Model) -> list[Sequence[Row]]:
        """All in one call."""
        return [rows]

    def upsert(self, rows: Sequence[Row], model: Model) -> Answer:
        """Write nodes in one request. Raises ``SinkFailure``."""
        return self._send(rows, lambda row: {"content_hash": content_hash(row.content)})

    def delete(self, rows: Sequence[Row]) -> Answer:
        """Remove nodes in one request. Raises ``SinkFailure``."""
        return self._send(rows, lambda row: None)

    def versions(self, entity_type: EntityType) -> Iterator[SinkVersion]:
        """Every node of the type."""
        for held in self._connection.server.held():
            if held.kind == entity_type:
                yield SinkVersion(held.key, held.version, held.body["content_hash"])

    def close(self) -> None:
        """Let go of the ledger."""
        self._connection.server.close()

    def _send(self, rows: Sequence[Row], body: Callable[[Row], Mapping[str, str] | None]) -> Answer:
        writes = [
            Write(row.entity_type, "", row.key, row.graph_version, body(row))
            for row in sorted(rows, key=lambda row: row.key)
        ]
        try:
            results = self._connection.send(writes)
        except ERRORS as error:
            raise failure(error) from error
        by_key = {write.key: result for write, result in zip(writes, results, strict=True)}
        return Answer(tuple(_outcome(row, by_key[row.key]) for row in rows))


def _outcome(row: Row, result: Result) -> RecordOutcome:
    if result.effect is Effect.REFUSED:
        return AlreadyNewer(row.id, result.found)
    return Written(row.id, row.graph_version, remote_id=row.key)


# --- the vector index ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Taken:
    """The index's answer to an upsert."""

    upserted_count: int
    has_errors: bool = False
    response_info: None = None


class SimulatedIndex:
    """One index as the SDK shows it, with the SDK's errors."""

    def __init__(self, kind: str, connection: Connection) -> None:
        self._kind = kind
        self._connection = connection

    def upsert(
        self, *, vectors: Sequence[pinecone.Vector], namespace: str, timeout: float
    ) -> _Taken:
        """Write vectors into one namespace."""
        self._send(
            [
                Write(
                    self._kind,
                    namespace,
                    vector["id"],
                    int(vector["metadata"]["version"]),
                    {
                        "content_hash": vector["metadata"]["content_hash"],
                        "model": vector["metadata"]["model"],
                        "vector": np.asarray(vector["values"], "<f4").tobytes().hex(),
                    },
                )
                for vector in orjson.loads(orjson.dumps([v.to_dict() for v in vectors]))
            ]
        )
        return _Taken(len(vectors))

    def delete(self, *, ids: Sequence[str], namespace: str, timeout: float) -> None:
        """Remove vectors from one namespace."""
        self._send([Write(self._kind, namespace, key, 0, None) for key in ids])

    def _send(self, writes: Sequence[Write]) -> None:
        try:
            self._connection.send(writes)
        except (NoConnection, Reset) as error:
            raise pinecone.PineconeConnectionError(str(error)) from error
        except NoAnswer as error:
            raise pinecone.PineconeTimeoutError(str(error)) from error
        except Broken as error:
            raise pinecone.ServiceError(str(error)) from error
        except Throttled as error:
            headers = {"Retry-After": str(RETRY_AFTER)}
            raise pinecone.RateLimitError(str(error), headers=headers) from error
        except Refused as error:
            raise pinecone.ApiError(str(error), 400) from error


class Vectors(pinecone_sink.Sink):
    """The product's Pinecone sink, over simulated indexes."""

    _connection: Connection

    def setup(self) -> None:
        """The ledger has its tables."""

    def _handle(
        self, entity_type: EntityType, opened: Callable[[str], pinecone.Index]
    ) -> pinecone.Index:
        return cast(pinecone.Index, SimulatedIndex(entity_type, self._connection))

    def close(self) -> None:
        """Let go of the ledger; the client is shared."""
        self._connection.server.close()


def open_vectors(connection: Connection, *, timeout: float, dimensions: int) -> Vectors:
    """A sink of its own, but for the SDK's client, which is slow to make and never called."""
    sink = copy.copy(_vectors(timeout, dimensions))
    sink._connection = connection
    return sink


@cache
def _vectors(timeout: float, dimensions: int) -> Vectors:
    return Vectors(
        "key", host=None, timeout=timeout, dimensions=dimensions, cloud="aws", region="nowhere"
    )
