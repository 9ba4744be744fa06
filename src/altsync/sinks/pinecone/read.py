"""Reading what the indexes hold, for comparisons, views and searches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import orjson
import pinecone

from altsync.contract import SinkVersion
from altsync.entities import EntityType
from altsync.ownership import SAMPLED
from altsync.protocols import Held, Match, Matches, Reads, StoredVector
from altsync.sinks.pinecone.client import limited
from altsync.sinks.pinecone.indexes import Indexes

#: Vectors per upsert, and ids per fetch or delete.
#: https://docs.pinecone.io/reference/api/database-limits
MAX_VECTORS = 1000

#: Ids in the URL of one fetch: a URL longer than 8 KB is refused on the way.
FETCH_IDS = 100


class Reader(Indexes):
    """The reads of a sink. Each raises ``SinkFailure``."""

    def versions(self, entity_type: EntityType) -> Iterator[SinkVersion]:
        """List the vectors of all namespaces. Each page costs one list and one fetch."""
        for page in self.stored(entity_type, Reads()):
            yield from (one.as_version() for one in page)

    def count(self, entity_type: EntityType, reads: Reads) -> int:
        """Return the index's own count of vectors in all namespaces. Raises ``SinkFailure``."""
        return sum(int(one.vector_count or 0) for one in self._spaces(entity_type, reads).values())

    def _spaces(self, entity_type: EntityType, reads: Reads) -> Mapping[str, Any]:
        def stats(index: pinecone.Index) -> Mapping[str, Any]:
            reads.described()
            return index.describe_index_stats(timeout=self._timeout).namespaces

        return reads.ask(lambda: self._if_present(entity_type, stats)) or {}

    def stored(self, entity_type: EntityType, reads: Reads) -> Iterator[list[StoredVector]]:
        """Yield all vectors of the index in pages. Raises ``SinkFailure``."""
        for space in sorted(self._spaces(entity_type, reads)):
            name = "" if space == "__default__" else space
            for ids in self._listed(entity_type, name, reads):
                yield sorted(self.fetch(entity_type, name, ids, reads), key=lambda one: one.key)

    def _listed(self, entity_type: EntityType, space: str, reads: Reads) -> Iterator[list[str]]:
        """Yield the ids of one namespace in pages."""
        token: str | None = None

        def page(index: pinecone.Index) -> Any:
            reads.listed()
            return index.list_paginated(
                namespace=space, limit=FETCH_IDS, pagination_token=token, timeout=self._timeout
            )

        while True:
            found = reads.ask(lambda: self._if_present(entity_type, page))
            if found is None:
                return
            ids = [item.id for item in found.vectors if item.id]
            if ids:
                yield ids
            token = found.pagination.next if found.pagination is not None else None
            if token is None:
                return

    def fetch(
        self, entity_type: EntityType, space: str, keys: Sequence[str], reads: Reads
    ) -> list[StoredVector]:
        """Return the vectors of ``keys`` in one namespace. Raises ``SinkFailure``."""
        fetched: list[StoredVector] = []
        for start in range(0, len(keys), FETCH_IDS):
            found = self._fetched(entity_type, space, list(keys[start : start + FETCH_IDS]), reads)
            fetched += [_stored(key, space, one) for key, one in found.items()]
        return fetched

    def _fetched(
        self, entity_type: EntityType, space: str, ids: list[str], reads: Reads
    ) -> Mapping[str, Any]:
        def fetch(index: pinecone.Index) -> Mapping[str, Any]:
            reads.fetched(len(ids))
            return index.fetch(ids=ids, namespace=space, timeout=self._timeout).vectors

        return reads.ask(lambda: self._if_present(entity_type, fetch)) or {}

    def find(self, entity_type: EntityType, key: str, space: str) -> Held | None:
        """Return the vector of an entity in one namespace."""
        found = self._fetched(entity_type, space, [key], Reads())
        return _held(self._names[entity_type], space, key, found[key]) if key in found else None

    def _sample(self, entity_type: EntityType) -> dict[EntityType, list[str]]:
        for space in sorted(self._spaces(entity_type, Reads())):
            name = "" if space == "__default__" else space
            for ids in self._listed(entity_type, name, Reads()):
                return {entity_type: ids[:SAMPLED]}
        return {}

    @limited
    def nearest(
        self,
        entity_type: EntityType,
        vector: bytes,
        *,
        top_k: int,
        space: str,
        where: Mapping[str, Any] | None = None,
        with_metadata: bool = True,
    ) -> Matches:
        """Return the entities nearest to a vector (float32 little-endian), the best first.

        ``where`` is a metadata filter in the index's own language. Answers without
        metadata may have more matches. Raises ``SinkFailure``.
        """
        with self._translated_errors():
            answer = self._index(entity_type).query(
                vector=orjson.loads(printed(vector)),
                top_k=top_k,
                namespace=space,
                filter=where,
                include_values=False,
                include_metadata=with_metadata,
                timeout=self._timeout,
            )
        found = (Match(m.id, m.score or 0.0, dict(m.metadata or {})) for m in answer.matches)
        return Matches(found, _reconciled(answer.response_info))

    @limited
    def seen(self, entity_type: EntityType, space: str) -> int | None:
        """Return the position up to which a query of a namespace sees its writes.

        None if the server does not say. Only queries do, so this makes one. Raises ``SinkFailure``.
        """

        def query(index: pinecone.Index) -> int | None:
            answer = index.query(
                vector=[1.0] + [0.0] * (self._dimensions - 1),
                top_k=1,
                namespace=space,
                include_values=False,
                include_metadata=False,
                timeout=self._timeout,
            )
            return _reconciled(answer.response_info)

        return self._if_present(entity_type, query)


def _reconciled(info: pinecone.ResponseInfo | None) -> int | None:
    return None if info is None else info.lsn_reconciled


def _stored(key: str, space: str, vector: Any) -> StoredVector:
    metadata = dict(vector.metadata or {})
    version = _whole(metadata.get("version"))
    return StoredVector(key, space, version, metadata, vector.values or ())


def _whole(version: Any) -> int | None:
    """Return a version, which the index returns as a double; None if it is not whole."""
    if isinstance(version, float) and version.is_integer():
        return int(version)
    return version if isinstance(version, int) and not isinstance(version, bool) else None


def _held(index: str, space: str, key: str, vector: Any) -> Held:
    marks = dict(vector.metadata or {})
    return Held(
        index,
        space,
        key,
        _whole(marks.pop("version", None)),
        marks.pop("model", None),
        marks.pop("content_hash", None),
        len(vector.values or ()),
        marks,
    )


@lru_cache(MAX_VECTORS)
def printed(vector: bytes) -> bytes:
    """Return float32 numbers as JSON, each as short as possible: half the bytes of doubles.

    Cached: ``split`` measures the rows shortly before they are sent.
    """
    return orjson.dumps(np.frombuffer(vector, "<f4"), option=orjson.OPT_SERIALIZE_NUMPY)
