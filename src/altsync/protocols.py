"""The protocols of sinks: ``Sink`` for each, ``Index`` for one that finds vectors.

A sink mirrors rows idempotently, reports an outcome for each record, and translates the errors of
its driver: it raises nothing but ``SinkFailure``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from altsync.contract import Answer, SinkTraits, SinkVersion, Usage
from altsync.entities import EntityType, Model, Row

T = TypeVar("T")

#: Records that one read unit fetches, by the page that ``Reads`` names.
FETCH_RECORDS_PER_UNIT = 10


class Attempt(Protocol):
    """A way to make a request: once, or again when it fails."""

    def __call__(self, call: Callable[[], T]) -> T:
        """Return what ``call`` returns. Raises ``SinkFailure``."""
        ...


def once(call: Callable[[], T]) -> T:
    """Make a request once."""
    return call()


@dataclass(frozen=True, slots=True)
class Match:
    """A neighbour: its key, its cosine similarity, and its vector's metadata."""

    key: str
    score: float
    metadata: Mapping[str, Any]


class Matches(list[Match]):
    """The matches of a query, the best first.

    ``mark`` is the position up to which the query has seen the writes to its namespace, None where
    the index does not say: see ``Answer.marks``.
    """

    def __init__(self, matches: Iterable[Match] = (), mark: int | None = None) -> None:
        super().__init__(matches)
        self.mark = mark


@dataclass(frozen=True, slots=True)
class Held:
    """The vector of one entity in one namespace of an index.

    ``version`` and ``model`` are None for a vector that altsync did not write. ``metadata`` has
    the other fields.
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
    """A vector as the index holds it. ``version`` is None if it is no whole number."""

    key: str
    namespace: str
    version: int | None
    metadata: Mapping[str, Any]
    values: Sequence[float]

    @property
    def is_ours(self) -> bool:
        """Return whether altsync wrote it: its metadata has a version, valid or not."""
        return "version" in self.metadata

    def as_version(self) -> SinkVersion:
        """Return its key, version, hash, model and namespace."""
        marks = self.metadata
        return SinkVersion(
            self.key,
            self.version or 0,
            marks.get("content_hash"),
            marks.get("model"),
            self.namespace,
        )


@dataclass(slots=True)
class Reads:
    """The cost of reading: requests, and the read units that Pinecone charges.

    A list costs 1 unit per request, a fetch 1 for every 10 records and at least 1:
    https://www.pinecone.io/learn/read-units/
    ``ask`` is how each request is made; one that is repeated counts each time.
    """

    requests: int = 0
    units: int = 0
    ask: Attempt = once

    def described(self) -> None:
        """Count one more request for an index's statistics, which costs no unit."""
        self.requests += 1

    def listed(self) -> None:
        """Count one more page of ids."""
        self.requests += 1
        self.units += 1

    def fetched(self, records: int) -> None:
        """Count one more request for so many records."""
        self.requests += 1
        self.units += max(1, -(-records // FETCH_RECORDS_PER_UNIT))


class Index(Protocol):
    """A vector index that can be asked for neighbours."""

    def setup(self) -> None:
        """Create missing indexes."""
        ...

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
        """Return the entities nearest to a vector, the best first. Raises ``SinkFailure``."""
        ...

    def fetch(
        self, entity_type: EntityType, space: str, keys: Sequence[str], reads: Reads
    ) -> list[StoredVector]:
        """Return the vectors of ``keys`` that exist. Raises ``SinkFailure``."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


@dataclass(frozen=True, slots=True)
class Shown:
    """One entity in a sink, compared with its row in PostgreSQL.

    ``agrees`` is None where the sink did not answer. ``held`` is the form for scripts, ``lines``
    the one for people, ``versions`` those of the records found.
    """

    agrees: bool | None
    detail: str
    held: Any = None
    lines: tuple[str, ...] = ()
    versions: tuple[int | None, ...] = ()


@runtime_checkable
class Lagging(Protocol):
    """A sink whose queries see a write later than it is confirmed: see ``Answer.marks``."""

    def seen(self, entity_type: EntityType, space: str) -> int | None:
        """Return the position up to which queries of a namespace see its writes.

        None if the store does not say. Raises ``SinkFailure``.
        """
        ...


class Estimate(Protocol):
    """The cost of planned writes to a sink whose service charges for them.

    ``written_namespace`` of a row is where its record is now, None if it was never written.
    ``former_keys`` has the key of a record that the write removes.
    """

    def write(self, row: Row, model: Model) -> None:
        """Add a record that is to be written."""
        ...

    def remove(self, row: Row, model: Model) -> None:
        """Add a record that is to be removed."""
        ...

    def hold(self, entity_type: EntityType, records: Mapping[str, int]) -> None:
        """Tell how many records of a type each namespace has now, before the first ``ask``."""
        ...

    def ask(self, row: Row, model: Model) -> None:
        """Add a question for the neighbours of a record in its namespace."""
        ...

    def usage(self) -> Usage:
        """Return the units of all that was added."""
        ...

    def stored_bytes(self) -> int:
        """Return the bytes that the service keeps more; below 0, less."""
        ...


class VectorStore(Protocol):
    """A store of vectors by the hash of their text."""

    def known(self, model: Model, hashes: Sequence[str]) -> set[str]:
        """Return the hashes that have a vector."""
        ...

    def keep(self, model: Model, vectors: Mapping[str, bytes]) -> None:
        """Store vectors (float32 little-endian) in a transaction of their own."""
        ...

    def forget(self, hashes: Sequence[str]) -> None:
        """Remove vectors of every model."""
        ...

    def versions(self, entity_type: EntityType) -> Iterator[SinkVersion]:
        """Return the text that each living entity has embedded."""
        ...


class Charged(Protocol):
    """A sink whose provider charges for calls, beside ``Sink``: its calls count against a cap."""

    def most_usage(self, rows: Sequence[Row], model: Model, removing: bool) -> Usage:
        """Return an upper bound of what one call with these rows costs.

        ``removing``: the call deletes them. Without rows it is that of a probe.
        """
        ...


class Sink(Protocol):
    """One mirror of PostgreSQL."""

    @property
    def traits(self) -> SinkTraits:
        """The sink's traits, an attribute of its class."""
        ...

    def setup(self) -> None:
        """Create indexes and constraints. Several processes may call it at once."""
        ...

    def split(self, rows: Sequence[Row], model: Model) -> list[Sequence[Row]]:
        """Cut rows of one type into the rows of each call, by count and bytes."""
        ...

    def upsert(self, rows: Sequence[Row], model: Model) -> Answer:
        """Write rows of one type in one call.

        Raises ``SinkFailure`` when the call failed as a whole.
        """
        ...

    def delete(self, rows: Sequence[Row]) -> Answer:
        """Remove rows of one type by their keys in one call, as of their versions.

        After a rename, a row has the entity's former key: never remove by the entity's id.
        Raises ``SinkFailure`` when the call failed as a whole.
        """
        ...

    def versions(self, entity_type: EntityType) -> Iterator[SinkVersion]:
        """List the entities that the sink holds, as a stream."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...
