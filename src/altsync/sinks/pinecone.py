"""The vector index: one index per type of entity, one namespace per category of examples.

The index has no conditional write, so an older version could overwrite a newer one when a
call is applied late. Vectors carry their version; the outbox repeats unsure writes.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, ClassVar

import httpx
import numpy as np
import orjson
import pinecone
from pinecone import RetryConfig, ServerlessSpec
from pinecone._internal.adapters import indexes_adapter, vectors_adapter
from pinecone._internal.adapters._decode import decode_response

from altsync.config import Settings
from altsync.errors import SinkFailure, seconds_of
from altsync.projection import namespace, vector_metadata
from altsync.records import (
    Answer,
    EntityType,
    ErrorKind,
    Model,
    Outcome,
    Row,
    SinkTraits,
    SinkVersion,
    Written,
)
from altsync.sinks.base import VectorStore

# Pinecone's SDK imports httpx when its first client is made, OpenAI's looks at whatever httpx
# is there: two threads starting at once would meet half a module if it were not imported above.

#: The setting that switches this sink on.
SETTING = "PINECONE_API_KEY"

INDEXES = {
    EntityType.SPORT_ARCHETYPE: "altsports-archetypes",
    EntityType.LEAGUE: "altsports-leagues",
    EntityType.FEW_SHOT_EXAMPLE: "altsports-examples",
}

#: Vectors per upsert, and ids per fetch or delete.
#: https://docs.pinecone.io/reference/api/database-limits
MAX_VECTORS = 1000

#: Bytes of one upsert's body: 2 MB by the same page, less some room for what frames it.
MAX_BYTES = 2_000_000 - 10_000

#: Upserts of one batch under way at once: 16 MB of bodies, and at 0.1 s each well below the
#: 100 requests and 50 MB a second that one namespace takes, by the same page.
IN_FLIGHT = 8

#: Ids in the URL of one fetch: a URL longer than 8 KB is refused on the way.
FETCH_IDS = 100

#: Records that one read unit fetches, by the page that ``Reads`` names.
FETCH_RECORDS_PER_UNIT = 10

METRIC = "cosine"

#: Held by the one thread that has the SDK's answers looked at.
_KNOWING = threading.Lock()


@dataclass(frozen=True, slots=True)
class Match:
    """A neighbour: its key, its cosine similarity, and what its vector carries."""

    key: str
    score: float
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Held:
    """What the index holds of one entity in one namespace.

    ``version`` and ``model`` are None for a vector that altsync did not write. ``metadata`` is
    what there is beside them.
    """

    index: str
    namespace: str
    key: str
    version: int | None
    model: str | None
    content_hash: str | None
    dimensions: int
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StoredVector:
    """A vector as the index holds it. ``version`` is None where altsync did not write it."""

    key: str
    namespace: str
    version: int | None
    metadata: Mapping[str, Any]
    values: Sequence[float]


@dataclass(slots=True)
class Reads:
    """What reading costs: requests, and the read units that Pinecone charges for them.

    A list costs 1 unit per request, a fetch 1 for every 10 records and at least 1:
    https://www.pinecone.io/learn/read-units/
    """

    requests: int = 0
    units: int = 0

    def listed(self) -> None:
        """One more page of ids."""
        self.requests += 1
        self.units += 1

    def fetched(self, records: int) -> None:
        """One more request for so many records."""
        self.requests += 1
        self.units += max(1, -(-records // FETCH_RECORDS_PER_UNIT))


def price_of_listing(namespaces: Sequence[int]) -> Reads:
    """What it costs to list and fetch namespaces of so many records each."""
    reads = Reads()
    for records in namespaces:
        for start in range(0, records, FETCH_IDS):
            reads.listed()
            reads.fetched(min(FETCH_IDS, records - start))
    return reads


class Sink:
    """Mirrors entities as vectors with metadata to filter on."""

    traits: ClassVar[SinkTraits] = SinkTraits("pinecone", needs_embedding=True, in_flight=IN_FLIGHT)

    def __init__(
        self,
        api_key: str,
        *,
        host: str | None,
        timeout: float,
        dimensions: int,
        cloud: str,
        region: str,
    ) -> None:
        with _KNOWING:
            know_answers()
        self._api_key = api_key
        self._timeout = timeout
        self._dimensions = dimensions
        self._spec = ServerlessSpec(cloud=cloud, region=region)
        # Retries wait in PostgreSQL, where every worker sees them.
        self._client = pinecone.Pinecone(
            api_key=api_key, host=host, timeout=timeout, retry_config=RetryConfig(max_retries=0)
        )
        self._handles: dict[EntityType, pinecone.Index] = {}
        self._opening = threading.Lock()

    def setup(self) -> None:
        """Create the indexes that are not there."""
        with self._door():
            there = {index.name for index in self._client.indexes.list()}
            for name in INDEXES.values():
                if name not in there:
                    self._create(name)

    def _create(self, name: str) -> None:
        try:
            self._client.create_index(
                name=name, dimension=self._dimensions, metric=METRIC, spec=self._spec
            )
        except pinecone.ConflictError:
            return  # another process was faster

    def split(self, rows: Sequence[Row], model: Model) -> list[Sequence[Row]]:
        """By namespace, count, and bytes as they will be sent."""
        parts: list[Sequence[Row]] = []
        by_namespace: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            by_namespace[namespace(row)].append(row)
        for members in by_namespace.values():
            start = size = 0
            for place, row in enumerate(members):
                more = sent_bytes(row, model)
                if place > start and (size + more > MAX_BYTES or place - start >= MAX_VECTORS):
                    parts.append(members[start:place])
                    start, size = place, 0
                size += more
            parts.append(members[start:])
        return parts

    def upsert(self, rows: Sequence[Row], model: Model) -> Answer:
        """Write vectors of one namespace in one request; leave a former namespace."""
        space = namespace(rows[0])
        vectors = [_sent(row, model) for row in rows]
        with self._door():
            index = self._index(rows[0].entity_type)
            answer = index.upsert(vectors=vectors, namespace=space, timeout=self._timeout)
        if answer.has_errors or answer.upserted_count != len(rows):
            raise SinkFailure(
                ErrorKind.UNKNOWN,
                f"Pinecone took {answer.upserted_count} of {len(rows)} vectors",
                unsure=True,
            )
        calls = 1 + self._leave_former_namespaces(rows, space)
        written = (Written(row.id, row.version, row.key, space) for row in rows)
        return Answer(tuple(written), calls=calls)

    def _leave_former_namespaces(self, rows: Sequence[Row], space: str) -> int:
        moved = [row for row in rows if row.written_namespace not in (None, space)]
        return self._delete_keys(moved, lambda row: {row.written_namespace or ""})

    def delete(self, rows: Sequence[Row]) -> Answer:
        """Remove vectors by id: from where they are, would be, or may turn up."""
        calls = self._delete_keys(
            rows,
            lambda row: {row.written_namespace, namespace(row), *row.doubtful_namespaces},
        )
        outcomes: list[Outcome] = [Written(row.id, row.version) for row in rows]
        return Answer(tuple(outcomes), calls=calls)

    def _delete_keys(self, rows: Sequence[Row], spaces_of: Any) -> int:
        """Delete rows from namespaces; returns the number of calls."""
        by_space: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            for space in spaces_of(row) - {None}:
                by_space[space].append(row.key)
        calls = 0
        for space, keys in by_space.items():
            for start in range(0, len(keys), MAX_VECTORS):
                self._delete_page(rows[0].entity_type, space, keys[start : start + MAX_VECTORS])
                calls += 1
        return calls

    def _delete_page(self, entity_type: EntityType, space: str, keys: list[str]) -> None:
        # Without its namespace, nothing of it is there.
        with self._door(), suppress(pinecone.NotFoundError):
            self._index(entity_type).delete(ids=keys, namespace=space, timeout=self._timeout)

    def versions(self, entity_type: EntityType) -> Iterator[SinkVersion]:
        """Every vector of the type, over all namespaces. Costs a list and a fetch per page."""
        with self._door():
            index = self._index(entity_type)
            spaces = index.describe_index_stats(timeout=self._timeout).namespaces
            for space in sorted(spaces):
                yield from self._versions_in(index, space)

    def count(self, entity_type: EntityType) -> int:
        """Vectors in the index, over all namespaces, as it counts them. Raises ``SinkFailure``."""
        with self._door(), suppress(pinecone.NotFoundError):
            stats = self._looked_up(entity_type).describe_index_stats(timeout=self._timeout)
            return sum(int(one.vector_count or 0) for one in stats.namespaces.values())
        return 0

    def stored(self, entity_type: EntityType, reads: Reads) -> Iterator[list[StoredVector]]:
        """Everything that the index holds, page by page. Raises ``SinkFailure``."""
        with self._door(), suppress(pinecone.NotFoundError):
            index = self._looked_up(entity_type)
            reads.requests += 1
            spaces = index.describe_index_stats(timeout=self._timeout).namespaces
            for space in sorted(spaces):
                yield from self._stored_in(index, "" if space == "__default__" else space, reads)

    def _stored_in(
        self, index: pinecone.Index, space: str, reads: Reads
    ) -> Iterator[list[StoredVector]]:
        for page in index.list(namespace=space, limit=FETCH_IDS, timeout=self._timeout):
            reads.listed()
            ids = [item.id for item in page.vectors if item.id]
            if ids:
                found = index.fetch(ids=ids, namespace=space, timeout=self._timeout).vectors
                reads.fetched(len(ids))
                yield [_stored(key, space, one) for key, one in sorted(found.items())]

    def fetch(
        self, entity_type: EntityType, space: str, keys: Sequence[str], reads: Reads
    ) -> list[StoredVector]:
        """Those of ``keys`` that one namespace holds. Raises ``SinkFailure``."""
        fetched: list[StoredVector] = []
        with self._door(), suppress(pinecone.NotFoundError):
            index = self._looked_up(entity_type)
            for start in range(0, len(keys), FETCH_IDS):
                ids = list(keys[start : start + FETCH_IDS])
                reads.fetched(len(ids))
                found = index.fetch(ids=ids, namespace=space, timeout=self._timeout).vectors
                fetched += [_stored(key, space, one) for key, one in found.items()]
        return fetched

    def remove(self, entity_type: EntityType, space: str, keys: Sequence[str]) -> None:
        """Remove vectors from one namespace by id. Raises ``SinkFailure``."""
        for start in range(0, len(keys), MAX_VECTORS):
            self._delete_page(entity_type, space, list(keys[start : start + MAX_VECTORS]))

    def _looked_up(self, entity_type: EntityType) -> pinecone.Index:
        """The index of a type as it is: looking creates none."""
        return self._handle(entity_type, self._described)

    def find(self, entity_type: EntityType, key: str, space: str) -> Held | None:
        """What the index holds of one entity in one namespace now. Raises ``SinkFailure``."""
        with self._door(), suppress(pinecone.NotFoundError):
            # Without its index or namespace, nothing of it is there; looking makes neither.
            handle = self._looked_up(entity_type)
            found = handle.fetch(ids=[key], namespace=space, timeout=self._timeout).vectors
            if key in found:
                return _held(INDEXES[entity_type], space, key, found[key])
        return None

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
        """The entities nearest to a vector (float32 little-endian), the best first.

        ``where`` is a metadata filter in the index's own language. Without metadata an answer
        is small, and may be long. Raises ``SinkFailure``.
        """
        with self._door():
            answer = self._index(entity_type).query(
                vector=orjson.loads(printed(vector)),
                top_k=top_k,
                namespace=space,
                filter=where,
                include_values=False,
                include_metadata=with_metadata,
                timeout=self._timeout,
            )
        return [Match(m.id, m.score or 0.0, dict(m.metadata or {})) for m in answer.matches]

    def _versions_in(self, index: pinecone.Index, space: str) -> Iterator[SinkVersion]:
        own = "" if space == "__default__" else space
        for page in index.list(namespace=own, limit=FETCH_IDS, timeout=self._timeout):
            ids = [item.id for item in page.vectors if item.id]
            if not ids:
                continue
            found = index.fetch(ids=ids, namespace=own, timeout=self._timeout).vectors
            for key, vector in sorted(found.items()):
                marks = vector.metadata or {}
                yield SinkVersion(
                    key,
                    int(marks.get("version", 0)),
                    marks.get("content_hash"),
                    marks.get("model"),
                    own,
                )

    def close(self) -> None:
        """Close the connections."""
        for handle in self._handles.values():
            handle.close()
        self._client.close()

    def _index(self, entity_type: EntityType) -> pinecone.Index:
        """The index of a type, made when it is not there."""
        return self._handle(entity_type, self._open_index)

    def _handle(
        self, entity_type: EntityType, opened: Callable[[str], pinecone.Index]
    ) -> pinecone.Index:
        """The handle of an index. Asks for its address once, whatever threads come."""
        with self._opening:
            if entity_type not in self._handles:
                self._handles[entity_type] = opened(INDEXES[entity_type])
            return self._handles[entity_type]

    def _open_index(self, name: str) -> pinecone.Index:
        try:
            return self._described(name)
        except pinecone.NotFoundError:
            self.setup()
            return self._described(name)

    def _described(self, name: str) -> pinecone.Index:
        host = self._client.indexes.describe(name).host
        if host is None:
            raise SinkFailure(ErrorKind.SINK, f"the index {name} is not ready yet")
        return without_retries(
            pinecone.Index(host=host, api_key=self._api_key, timeout=self._timeout)
        )

    @contextmanager
    def _door(self) -> Iterator[None]:
        """Let nothing of the SDK out but as ``SinkFailure``."""
        try:
            yield
        except pinecone.PineconeError as error:
            if isinstance(error, pinecone.NotFoundError):
                self._handles.clear()  # the index is gone or moved: look it up again
            raise translate(error) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # The SDK does not wrap all of its client's errors: a broken encoding, for one.
            reason = f"Pinecone answered in no known form: {error}"
            raise SinkFailure(ErrorKind.SINK, reason, unsure=True) from error


def _stored(key: str, space: str, vector: Any) -> StoredVector:
    metadata = dict(vector.metadata or {})
    version = metadata.get("version")
    number = int(version) if isinstance(version, int | float) else None
    return StoredVector(key, space, number, metadata, vector.values or ())


def _held(index: str, space: str, key: str, vector: Any) -> Held:
    marks = dict(vector.metadata or {})
    version = marks.pop("version", None)
    return Held(
        index,
        space,
        key,
        int(version) if version is not None else None,
        marks.pop("model", None),
        marks.pop("content_hash", None),
        len(vector.values or ()),
        marks,
    )


@cache
def know_answers() -> list[str]:
    """Have every kind of the SDK's answers looked at now, by one thread; returns their names.

    The library that parses them prepares a kind when it first meets it, and crashes the process
    when two threads meet it at once (msgspec 0.22: a null pointer in ``StructInfo``).
    """
    kinds = {
        one
        for adapter in (indexes_adapter, vectors_adapter)
        for one in vars(adapter).values()
        if isinstance(one, type) and hasattr(one, "__struct_fields__")
    }
    for kind in kinds:
        with suppress(pinecone.PineconeError, TypeError):  # some are never parsed
            decode_response(b"{}", kind)
    return sorted(kind.__name__ for kind in kinds)


def without_retries(index: pinecone.Index) -> pinecone.Index:
    """Take the SDK's own retries from an index handle, which no option of it can.

    Three retries of a request that times out would outlive the lease. Where a later SDK keeps
    its transport elsewhere, its retries stay.
    """
    client = getattr(getattr(index, "_http", None), "_client", None)
    transport = getattr(client, "_transport", None)
    if isinstance(getattr(transport, "_config", None), RetryConfig):
        transport._config = RetryConfig(max_retries=0)  # type: ignore[union-attr]
    return index


def _sent(row: Row, model: Model) -> pinecone.Vector:
    """A vector as the SDK passes it on to its printer: the numbers in JSON, never Python's."""
    values: Any = orjson.Fragment(printed(row.vector or b""))
    return pinecone.Vector(id=row.key, values=values, metadata=vector_metadata(row, model.name))


@lru_cache(MAX_VECTORS)
def printed(vector: bytes) -> bytes:
    """Float32 numbers as JSON, each as short as it can be: half the bytes of their doubles.

    Kept for a while: rows are cut by their bytes a moment before they are sent.
    """
    return orjson.dumps(np.frombuffer(vector, "<f4"), option=orjson.OPT_SERIALIZE_NUMPY)


def sent_bytes(row: Row, model: Model) -> int:
    """Bytes that one row takes in the body of an upsert."""
    metadata = orjson.dumps(vector_metadata(row, model.name))
    frame = len('{"id":"","values":,"metadata":},')
    return frame + len(row.key) + len(printed(row.vector or b"")) + len(metadata)


def translate(error: pinecone.PineconeError) -> SinkFailure:
    """Whose fault an error of the SDK is."""
    match error:
        case pinecone.PineconeTimeoutError():
            return SinkFailure(
                ErrorKind.SINK, "Pinecone did not answer in time", unsure=True, suspect=True
            )
        case pinecone.PineconeConnectionError():
            return SinkFailure(ErrorKind.SINK, f"no connection to Pinecone: {error}", unsure=True)
        case pinecone.RateLimitError():
            return SinkFailure(ErrorKind.SINK, f"Pinecone: {error}", retry_after=_wait(error))
        case pinecone.ServiceError():
            return SinkFailure(
                ErrorKind.SINK,
                f"Pinecone: {error}",
                unsure=True,
                suspect=True,
                retry_after=_wait(error),
            )
        case pinecone.ApiError() if error.status_code in (400, 413, 422):
            return SinkFailure(ErrorKind.ITEM, f"Pinecone: {error}")
        case pinecone.ApiError():
            return SinkFailure(ErrorKind.SINK, f"Pinecone: {error}")
        case pinecone.PineconeValueError() | pinecone.PineconeTypeError():
            return SinkFailure(ErrorKind.ITEM, f"Pinecone's client: {error}")
        case _:
            return SinkFailure(ErrorKind.UNKNOWN, f"{type(error).__name__}: {error}", unsure=True)


def _wait(error: pinecone.ApiError) -> float | None:
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    return seconds_of(headers.get("retry-after"))


def open_sink(settings: Settings, vectors: VectorStore) -> Sink | None:
    """The sink, or None when no PINECONE_API_KEY is set."""
    if settings.pinecone_api_key is None:
        return None
    return Sink(
        settings.pinecone_api_key.get_secret_value(),
        host=settings.pinecone_controller_host,
        timeout=settings.altsync_sink_timeout_seconds,
        dimensions=settings.altsync_embedding_dimensions,
        cloud=settings.altsync_pinecone_cloud,
        region=settings.altsync_pinecone_region,
    )
