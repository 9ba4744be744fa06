"""The stores that queries read, and the errors when one is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Protocol

from psycopg import errors

from altsync.db import Conn, Database
from altsync.declarations import GRAPHS, INDEXES, SINKS, title_of
from altsync.embedding import Embedder
from altsync.entities import EntityType, Model
from altsync.errors import AltsyncError, ConfigurationError
from altsync.projection import digest
from altsync.queries.sql import keys_like
from altsync.store.vectors import EmbeddingCache
from altsync.tokens import too_long
from altsync.wording import unknown

#: Matches of one query of the vector index at most, without their metadata.
#: https://docs.pinecone.io/reference/api/database-limits
MOST = 10_000

#: The sink that answers questions about the graph.
GRAPH = GRAPHS[0]

#: Similar names that the error for an unknown name offers.
SUGGESTIONS = 3


class UnknownName(AltsyncError):
    """A type, key, field or value that the catalogue or PostgreSQL does not have."""


class MissingStore(ConfigurationError):
    """A query needs a store that is not configured; the text names the setting."""


class Matchable(Protocol):
    """A match: a key and its cosine similarity."""

    @property
    def key(self) -> str:
        """Return its key in the sinks."""
        ...

    @property
    def score(self) -> float:
        """Return its cosine similarity."""
        ...


class VectorIndex(Protocol):
    """A sink that finds the nearest vectors."""

    def nearest(
        self,
        entity_type: EntityType,
        vector: bytes,
        *,
        top_k: int,
        space: str,
        where: Mapping[str, Any] | None = None,
        with_metadata: bool = True,
    ) -> Sequence[Matchable]:
        """Return the best matches in a namespace, the best first. Raises ``SinkFailure``."""
        ...


class GraphStore(Protocol):
    """A sink that answers Cypher."""

    def query(self, statement: str, **parameters: Any) -> Sequence[Any]:
        """Return all records of a read. Raises ``SinkFailure``."""
        ...


@dataclass(frozen=True)
class Stores:
    """The stores that queries read; None for one that is not configured.

    ``vectors`` is the vector index, and ``index`` the name of its sink, whether it is configured
    or not. ``sinks`` are those of ALTSYNC_SINKS. ``cache`` stores the vectors of query texts, so
    that a text is charged once. ``model`` is the configured model of the database: vectors of
    other models are never compared with it. ``renew`` returns stores by the model that serves now:
    a program may keep its stores while the models are exchanged.
    """

    database: Database
    graph: GraphStore | None
    vectors: VectorIndex | None
    embedder: Embedder | None
    cache: EmbeddingCache
    model: Model
    index: str | None = None
    sinks: Sequence[str] = ()
    renew: Callable[[Stores], Stores] | None = None

    def now(self) -> Stores:
        """Return the stores of one query: a model, and the index of its vectors."""
        return self.renew(self) if self.renew else self


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A store that could not answer, with the reason. The result comes from the others."""

    store: str
    reason: str


@contextmanager
def reading(source: Conn | Stores) -> Iterator[Conn]:
    """Yield the given connection, or one of the stores' own."""
    if isinstance(source, Stores):
        with source.database.autocommit() as conn:
            yield conn
    else:
        yield source


def require_graph(stores: Stores) -> GraphStore:
    """Return the graph. Raises ``MissingStore``."""
    if stores.graph is None:
        raise MissingStore(f"this question needs {title_of(GRAPH)}: {missing_graph(stores).reason}")
    return stores.graph


def missing_graph(stores: Stores) -> Unavailable:
    """Return the reason why there is no graph."""
    return _missing(stores, GRAPH)


def index_name(stores: Stores) -> str:
    """Return the name of the sink that is the vector index, configured or not."""
    return stores.index or INDEXES[0]


def missing_index(stores: Stores) -> Unavailable:
    """Return the reason why there is no vector index."""
    return _missing(stores, index_name(stores))


def _missing(stores: Stores, sink: str) -> Unavailable:
    named = sink in stores.sinks
    setting = SINKS[sink].setting
    return Unavailable(
        sink, f"{setting} is not set" if named else f"{sink} is not in ALTSYNC_SINKS"
    )


def require_vectors(stores: Stores) -> VectorIndex:
    """Return the vector index. Raises ``MissingStore``."""
    if stores.vectors is None:
        missing = missing_index(stores)
        raise MissingStore(f"this question needs {title_of(missing.store)}: {missing.reason}")
    return stores.vectors


def question_vector(stores: Stores, text: str) -> bytes:
    """Return the vector of a query text (float32 little-endian), embedded once and then stored.

    Raises ``AltsyncError`` for a text that is empty or over the model's limit, ``MissingStore``
    when no embedder is set, and ``SinkFailure`` when the embedder does not answer.
    """
    if not text.strip():
        raise AltsyncError("the question is empty: say what to look for")
    text_hash = digest(text.encode())
    known = stores.cache.find(stores.model, text_hash)
    if known is not None:
        return known
    if stores.embedder is None:
        raise MissingStore("this question has to be embedded first: OPENAI_API_KEY is not set")
    over = too_long(text, stores.model.name)
    if over is not None:
        raise AltsyncError(str(over))
    (vector,) = stores.embedder.embed([text], stores.model).vectors
    # A read-only role cannot store the vector: the next query with this text is charged again.
    with suppress(errors.InsufficientPrivilege, errors.ReadOnlySqlTransaction):
        stores.cache.keep(stores.model, {text_hash: vector})
    return vector


def check_count(name: str, value: int, most: int = MOST) -> None:
    """Raise ``AltsyncError`` unless ``1 <= value <= most``."""
    if not 1 <= value <= most:
        raise AltsyncError(f"{name} must be between 1 and {most:,}, not {value:,}")


def unknown_entity(conn: Conn, kind: EntityType, key: str) -> UnknownName:
    """Return the error for an unknown entity, with similar keys."""
    near = get_close_matches(key, keys_like(conn, kind, key), n=SUGGESTIONS, cutoff=0.3)
    return UnknownName(f"no {kind.one} {key!r}{_hint(near)}")


def unknown_of(what: str, name: str, known: list[str]) -> UnknownName:
    """Return the error for a name that is none of the known ones."""
    if not known:
        return UnknownName(f"no {what} {name!r}: nothing is seeded yet")
    return UnknownName(unknown(what, name, known))


def _hint(near: list[str]) -> str:
    return f"; did you mean {' or '.join(near)}?" if near else ""
