"""Reading what the tables hold, for comparisons, views and searches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, cast

import numpy as np
import orjson
from psycopg.rows import dict_row

from altsync.contract import (
    Digest,
    SinkVersion,
)
from altsync.entities import EntityType
from altsync.protocols import Held, Match, Reads, StoredVector
from altsync.sinks.pgvector.client import limited
from altsync.sinks.pgvector.filters import MARKS, translated
from altsync.sinks.pgvector.statements import (
    BY_KEYS,
    COUNT,
    DIGEST,
    IN_BUCKETS,
    LIST,
    NEAREST,
    ROW_DIGEST,
    TUNE_SEARCH,
    VERSIONS_OF,
    WITHOUT_GRAPH,
)
from altsync.sinks.pgvector.tables import Tables

#: Rows per statement. Each insert searches the HNSW graph, which takes milliseconds: a statement
#: stays far below its timeout.
BATCH = 100

#: Keys per page when a table is listed.
PAGE = 1000

#: Seconds that a statement over a whole table may take.
AGGREGATE_SECONDS = 60.0

#: Numbers in the binary form of a vector, which follow a header of 4 bytes.
BINARY_FORMS = {"vector": ">f4", "halfvec": ">f2"}

BINARY_HEADER = 4

#: Candidates that a search keeps while it walks the graph; 1,000 at most. pgvector's default of 40
#: misses one neighbour in ten of a few thousand random vectors.
EF_SEARCH = 200

MOST_EF_SEARCH = 1000

#: Nodes that a filtered search visits before it ends; the search without the index follows.
SCANNED = 20_000


class Reader(Tables):
    """The reads of a sink. Each raises ``SinkFailure``."""

    def versions(self, entity_type: EntityType) -> Iterator[SinkVersion]:
        """List the living rows of a type, in the order of keys."""
        for page in self.stored(entity_type, Reads(), with_values=False):
            yield from (one.as_version() for one in page)

    def count(self, entity_type: EntityType, reads: Reads) -> int:
        """Count the living rows of a type."""
        statement = COUNT.format(table=self._table(entity_type))
        found = reads.ask(lambda: self._aggregate(entity_type, statement))
        return int(found[0][0]) if found else 0

    def digest(self, entity_type: EntityType, modulus: int) -> Digest:
        """Return what the table holds, by version modulo ``modulus``. Raises ``SinkFailure``.

        The facts are a count, and a sum of ``ROW_DIGEST`` over all but vectors and metadata.
        """
        facts = "key, version, namespace, content_hash, model"
        statement = DIGEST.format(
            table=self._table(entity_type), digest=ROW_DIGEST.format(facts=facts)
        )
        rows = self._aggregate(entity_type, statement, modulus=modulus)
        return {row[0]: {(row[1], row[2])} for row in rows}

    def _aggregate(self, kind: EntityType, statement: str, **parameters: Any) -> list[Any]:
        """Return the rows of a statement over a whole table; none where there is no table."""
        seconds = max(self._timeout, AGGREGATE_SECONDS)

        def work() -> list[Any]:
            with self._transaction(kind, seconds=seconds) as conn:
                if kind not in self._kinds_in(conn):
                    return []
                return list(conn.execute(statement, parameters))

        return self.within_limit(work, seconds)

    def stored(
        self,
        entity_type: EntityType,
        reads: Reads,
        *,
        modulus: int = 1,
        buckets: Sequence[int] | None = None,
        with_values: bool = True,
    ) -> Iterator[list[StoredVector]]:
        """List living rows by page: all, or those of some buckets of a digest.

        Raises ``SinkFailure``.
        """
        after = ""
        numbers = {"modulus": modulus, "buckets": None if buckets is None else list(buckets)}
        while True:
            read = partial(
                self._list, entity_type, IN_BUCKETS, {**numbers, "after": after}, with_values
            )
            page = reads.ask(read)
            reads.described()
            if page:
                yield page
            if len(page) < PAGE:
                return
            after = page[-1].key

    def rows(
        self, entity_type: EntityType, keys: Sequence[str], *, with_values: bool = False
    ) -> dict[str, StoredVector]:
        """Return the living rows of ``keys``."""
        found: dict[str, StoredVector] = {}
        for start in range(0, len(keys), PAGE):
            some = list(keys[start : start + PAGE])
            numbers = {"keys": some, "after": ""}
            read = self._list(entity_type, BY_KEYS, numbers, with_values)
            found |= {one.key: one for one in read}
        return found

    def fetch(
        self, entity_type: EntityType, space: str, keys: Sequence[str], reads: Reads
    ) -> list[StoredVector]:
        """Return the rows of ``keys`` in one namespace."""
        reads.described()
        found = reads.ask(lambda: self.rows(entity_type, keys, with_values=True))
        return [one for one in found.values() if one.namespace == space]

    @limited
    def _list(
        self,
        kind: EntityType,
        condition: str,
        parameters: Mapping[str, Any],
        with_values: bool,
    ) -> list[StoredVector]:
        statement = LIST.format(
            table=self._table(kind),
            embedding=", embedding" if with_values else "",
            condition=condition,
        )
        with self._transaction(kind) as conn:
            if kind not in self._kinds_in(conn):
                return []
            # In binary form a vector is a header and its numbers, whatever driver reads it.
            rows = conn.cursor(binary=True, row_factory=dict_row).execute(
                statement, {**parameters, "limit": PAGE}
            )
            return [self._stored(row) for row in rows]

    def _stored(self, row: Mapping[str, Any]) -> StoredVector:
        marks = {name: row[name] for name in MARKS if row[name] is not None}
        numbers = bytes(row.get("embedding") or b"")[BINARY_HEADER:]
        values = np.frombuffer(numbers, BINARY_FORMS[self._kind]).astype("<f4")
        metadata = {**(row["metadata"] or {}), **marks}
        return StoredVector(
            row["key"], row["namespace"], row["version"], metadata, cast(Sequence[float], values)
        )

    @limited
    def tombstones(self, entity_type: EntityType, keys: Sequence[str]) -> dict[str, int]:
        """Return the versions at which ``keys`` were deleted, while the table remembers it."""
        with self._transaction(entity_type) as conn:
            if entity_type not in self._kinds_in(conn):
                return {}
            statement = VERSIONS_OF.format(table=self._table(entity_type))
            found = conn.execute(statement, {"keys": list(keys), "gone": True})
            return dict(found.fetchall())

    def find(self, entity_type: EntityType, key: str, space: str | None = None) -> Held | None:
        """Return the row of an entity, in any namespace or in ``space``.

        Raises ``SinkFailure``.
        """
        one = self.rows(entity_type, [key], with_values=True).get(key)
        if one is None or space not in (None, one.namespace):
            return None
        metadata = {name: value for name, value in one.metadata.items() if name not in MARKS}
        return Held(
            self._tables[entity_type],
            one.namespace,
            key,
            one.version,
            one.metadata.get("model"),
            one.metadata.get("content_hash"),
            len(one.values),
            metadata,
        )

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
    ) -> list[Match]:
        """Return the entities nearest to a vector (float32 little-endian), the best first.

        ``where`` is a filter as Pinecone's: equality, ``$eq``, ``$in`` and ``$and``. The HNSW
        index answers; where it finds fewer than ``top_k``, the table is searched without it, so
        that a rare filter loses none. Raises ``SinkFailure``.
        """
        parameters: dict[str, Any] = {
            "vector": printed(vector),
            "space": space,
            "limit": top_k,
            "ef_search": str(min(MOST_EF_SEARCH, max(EF_SEARCH, 2 * top_k))),
            "scanned": str(max(SCANNED, 4 * top_k)),
        }
        condition = translated(where or {}, parameters)
        with self._transaction(entity_type) as conn:
            if entity_type not in self._kinds_in(conn):
                return []
            if self._extension is None:
                self._extension = self._find_extension(conn)
            statement = self._statement(
                NEAREST,
                entity_type,
                where=condition,
                marks=", metadata, version, model, content_hash" if with_metadata else "",
            )
            conn.execute(TUNE_SEARCH, parameters)
            found = conn.execute(statement, parameters).fetchall()
            if len(found) < top_k:
                conn.execute(WITHOUT_GRAPH)
                found = conn.execute(statement, parameters).fetchall()
        return [_match(row) for row in found]

    def as_stored(self, vector: bytes) -> Any:
        """Return a vector (float32 little-endian) with the precision of the table."""
        form = BINARY_FORMS[self._kind]
        return np.frombuffer(vector, "<f4").astype(form).astype("<f4")


@lru_cache(BATCH)
def printed(vector: bytes) -> str:
    """Return float32 numbers in pgvector's form. Cached: ``split`` measures rows by their bytes."""
    return orjson.dumps(np.frombuffer(vector, "<f4"), option=orjson.OPT_SERIALIZE_NUMPY).decode()


def _match(row: Sequence[Any]) -> Match:
    key, score, *more = row
    if not more:
        return Match(key, score, {})
    metadata, *marks = more
    return Match(key, score, {**(metadata or {}), **dict(zip(MARKS, marks, strict=True))})
