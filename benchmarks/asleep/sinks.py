"""The product's sinks over lines that sleep."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import orjson
from neo4j import ManagedTransaction
from pinecone import Index, Vector

from altsync.embedding import Embedded
from altsync.entities import EntityType, Model
from altsync.openai_embedder import decode
from altsync.sinks.neo4j import write as neo4j
from altsync.sinks.pinecone import write as pinecone
from altsync.sinks.pinecone.client import index_names
from benchmarks.bench import DIMENSIONS

T = TypeVar("T")

#: Round trips of a managed transaction with one statement: BEGIN, RUN and PULL; COMMIT. A
#: statement that commits itself takes one.
ROUND_TRIPS = 2

#: OpenAI's answer for one text, as it comes over the wire.
_ANSWER = base64.b64encode(
    np.random.default_rng(0).standard_normal(DIMENSIONS).astype("<f4").tobytes()
).decode()


class SleepingEmbedder:
    """Answers every text with the same vector."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def embed(self, texts: Sequence[str], model: Model) -> Embedded:
        """Sleep once for the request, then decode its answer."""
        time.sleep(self._seconds)
        return Embedded(tuple(decode(_ANSWER, model.dimensions) for _ in texts), len(texts))


class Graph(neo4j.Sink):
    """The graph sink, with statements that return the expected rows."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def setup(self) -> None:
        """Nothing to create."""

    def _run(
        self,
        work: Callable[[ManagedTransaction], T],
        *,
        write: bool = True,
        guarded: bool = True,
        follower: bool = False,
        alone: bool = False,
        timeout: float | None = None,
    ) -> T:
        time.sleep((1 if alone else ROUND_TRIPS) * self._seconds)
        return work(cast(ManagedTransaction, _Transaction()))

    def close(self) -> None:
        """There is no driver."""


class _Transaction:
    def run(self, statement: str, parameters: Mapping[str, Any]) -> list[dict[str, str]]:
        return [{"key": row["key"], "id": "4:0:0"} for row in parameters["rows"]]


class VectorIndex(pinecone.Sink):
    """The Pinecone sink over an index that sleeps."""

    def __init__(self, seconds: float) -> None:
        self._timeout = 10.0
        self._line = _Line(seconds)
        self._names = index_names("")
        self.belong_to(None)

    def within_limit(self, work: Callable[[], T]) -> T:
        """Nothing hangs here."""
        return work()

    def setup(self) -> None:
        """Nothing to create."""

    def _handle(self, entity_type: EntityType, opened: Callable[[str], Index]) -> Index:
        return cast(Index, self._line)

    def close(self) -> None:
        """There is no client."""


@dataclass(frozen=True, slots=True)
class _Taken:
    upserted_count: int
    has_errors: bool = False


class _Line:
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def upsert(self, *, vectors: Sequence[Vector], namespace: str, timeout: float) -> _Taken:
        orjson.dumps({"vectors": [one.to_dict() for one in vectors], "namespace": namespace})
        time.sleep(self._seconds)
        return _Taken(len(vectors))
