"""One harness for each sink: all that the contract suite uses of it beside the sink itself.

A sink without one makes ``test_every_sink_has_a_harness`` fail.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar
from uuid import uuid4

import neo4j
import pinecone
import psycopg

from altsync.contract import SinkVersion
from altsync.entities import EntityType, Model, Row
from altsync.local.services.graph import DATABASE, Graph
from altsync.local.services.postgres import Postgres
from altsync.local.services.vectors import Vectors
from altsync.local.vectors.control import INDEX_PATH
from altsync.local.vectors.names import DEFAULT_NAMESPACE, EMBEDDING_MODEL
from altsync.openai_embedder import OpenAIEmbedder
from altsync.projection import namespace
from altsync.protocols import Sink
from altsync.sinks.embedding import write as embedding
from altsync.sinks.neo4j import read as graph_reads
from altsync.sinks.neo4j import write as graph
from altsync.sinks.pgvector import read as row_reads
from altsync.sinks.pgvector import write as pgvector
from altsync.sinks.pgvector.tables import table_names
from altsync.sinks.pinecone import read as vector_reads
from altsync.sinks.pinecone import write as vectors
from tests import sports
from tests.contract import memory
from tests.contract.rows import MODEL
from tests.real_neo4j.server import RELEASES

#: Seconds of one call where nothing is meant to go wrong.
TIMEOUT = 20.0

Stored = Mapping[str, Mapping[str, Any]]


class Harness(ABC):
    """One sink on a store that is empty at first."""

    #: The module of ``altsync.sinks``.
    module: ClassVar[str]
    #: Whether the sink mirrors entities, one version of each. The embedding sink keeps texts
    #: beside each other instead, and is asked for what it lacks alone.
    mirrors: ClassVar[bool] = True
    #: The model that rows are written with.
    model: ClassVar[Model] = MODEL
    _shared: Sink | None = None

    def shared(self) -> Sink:
        """A sink that tests share: building clients takes longer than most tests."""
        if self._shared is None:
            self._shared = self.open()
        return self._shared

    def close(self) -> None:
        """Let go of every connection."""
        if self._shared is not None:
            self._shared.close()

    @abstractmethod
    def open(self, timeout: float = TIMEOUT) -> Sink:
        """One more sink on the same store. The caller closes it."""

    @abstractmethod
    def wipe(self) -> None:
        """Empty the store; indexes and constraints go, too."""

    @abstractmethod
    def stored(self, entity_type: EntityType) -> Stored:
        """Return the store's records by key, read without the sink's own code."""

    @abstractmethod
    def spoil(self, row: Row) -> None:
        """Change what the store holds of a row, behind the sink's back."""

    def settle(self, rows: Sequence[Row]) -> None:  # noqa: B027  (most sinks need nothing)
        """Do what settling does for the sink beside the sink's own writes."""

    def small_pages(self, monkeypatch: Any, size: int) -> None:  # noqa: B027  (some have none)
        """Make listing take pages of this size."""

    def held(self, one: Row) -> SinkVersion:
        """Return the entry that ``versions`` must have for a row that was written."""
        return SinkVersion(one.key, one.version, one.content_hash)


class MemoryHarness(Harness):
    """The reference sink."""

    module = "memory"

    def __init__(self) -> None:
        self._first = memory.Sink()

    def open(self, timeout: float = TIMEOUT) -> Sink:
        """A sink that shares the dictionary."""
        sink = memory.Sink()
        sink.held = self._first.held
        return sink

    def wipe(self) -> None:
        """Forget everything."""
        self._first.held.clear()

    def stored(self, entity_type: EntityType) -> Stored:
        """Properties of what is not deleted."""
        held = self._first.held.items()
        return {key: dict(h.properties) for (t, key), h in held if t is entity_type and not h.gone}

    def spoil(self, row: Row) -> None:
        """Lose the properties."""
        held = self._first.held[row.entity_type, row.key]
        self._first.held[row.entity_type, row.key] = memory.Held(held.version, "spoiled")


class GraphHarness(Harness):
    """The graph sink on any server that speaks Bolt."""

    module = "neo4j"

    def __init__(self, uri: str, auth: tuple[str, str] | None, database: str) -> None:
        self.uri, self.auth, self.database = uri, auth, database
        self.driver = neo4j.GraphDatabase.driver(uri, auth=auth)

    def open(self, timeout: float = TIMEOUT) -> graph.Sink:
        """A sink with a driver of its own."""
        return graph.Sink(self.uri, self.auth, database=self.database, timeout=timeout)

    def ask(self, statement: str, **parameters: Any) -> list[dict[str, Any]]:
        """Records of a statement, by a driver that the sink does not know."""
        answer = self.driver.execute_query(statement, parameters, database_=self.database)
        return [record.data() for record in answer.records]

    def empty(self) -> None:
        """Delete every node; constraints stay."""
        self.ask("MATCH (n) DETACH DELETE n")

    def wipe(self) -> None:
        """Delete every node, constraint and index."""
        self.empty()
        for found in self.ask("SHOW CONSTRAINTS"):
            self.ask(f"DROP CONSTRAINT `{found['name']}` IF EXISTS")
        for found in self.ask("SHOW INDEXES"):
            if found.get("type") != "LOOKUP":
                self.ask(f"DROP INDEX `{found['name']}` IF EXISTS")

    def stored(self, entity_type: EntityType) -> Stored:
        """Properties of the nodes that altsync has written."""
        kind = entity_type
        found = self.ask(
            f"MATCH (n:{kind.label}) WHERE n.sync_version IS NOT NULL "
            f"RETURN n.{kind.key_property} AS key, properties(n) AS properties"
        )
        return {one["key"]: one["properties"] for one in found}

    def spoil(self, row: Row) -> None:
        """Lose a property, add one, and cut the node loose."""
        kind = row.entity_type
        self.ask(
            f"MATCH (n:{kind.label} {{{kind.key_property}: $key}}) "
            "OPTIONAL MATCH (n)-[r]->() DELETE r "
            "SET n.content_hash = 'spoiled'",
            key=row.key,
        )

    def parents(self, row: Row) -> list[tuple[str, str]]:
        """Edges that leave a node: their type, and the name of what they lead to."""
        kind = row.entity_type
        found = self.ask(
            f"MATCH (n:{kind.label} {{{kind.key_property}: $key}})-[r]->(p) "
            "RETURN type(r) AS edge, p.name AS name ORDER BY edge, name",
            key=row.key,
        )
        return [(one["edge"], one["name"]) for one in found]

    def count(self, label: str) -> int:
        """Nodes with a label."""
        found = self.ask(f"MATCH (n:{label}) RETURN count(n) AS count")
        return int(found[0]["count"])

    def small_pages(self, monkeypatch: Any, size: int) -> None:
        """Nodes per page."""
        monkeypatch.setattr(graph_reads, "PAGE", size)

    def held(self, one: Row) -> SinkVersion:
        """Follows the graph's version."""
        return SinkVersion(one.key, one.graph_version, one.content_hash)

    def close(self) -> None:
        """Let go of every connection."""
        super().close()
        self.driver.close()


class PineconeHarness(Harness):
    """The vector sink on altsync's own server."""

    module = "pinecone"

    def __init__(self, server: Vectors, dimensions: int = MODEL.dimensions) -> None:
        self.server = server
        self.dimensions = dimensions
        self.client = pinecone.Pinecone(api_key=server.secret, host=server.url, timeout=TIMEOUT)
        self._handles: dict[str, pinecone.Index] = {}

    def open(self, timeout: float = TIMEOUT) -> vectors.Sink:
        """A sink with a client of its own."""
        return self.open_at(self.server.url, self.server.secret, timeout)

    def open_at(self, url: str, key: str, timeout: float = TIMEOUT) -> vectors.Sink:
        """A sink with another address or key."""
        return vectors.Sink(
            key,
            host=url,
            timeout=timeout,
            dimensions=self.dimensions,
            cloud="aws",
            region="us-east-1",
        )

    def wipe(self) -> None:
        """Delete the indexes."""
        self.server.admin.clear()
        for index in list(self.client.indexes.list()):
            self.client.indexes.delete(index.name)
        self.server.admin.reset_stats()

    def empty(self) -> None:
        """Delete what the indexes hold; they stay when they are as they should be."""
        self.server.admin.clear()
        there = {index.name: index.dimension for index in self.client.indexes.list()}
        if there != dict.fromkeys(sports.INDEXES, self.dimensions):
            self.wipe()
        for name in sports.INDEXES if there else ():
            self._empty_index(name)
            self.remove_mark(name)
        self.server.admin.reset_stats()

    def remove_mark(self, name: str) -> None:
        """Take away the tags that say whose an index is."""
        with suppress(pinecone.NotFoundError):
            tags = dict.fromkeys(self.client.indexes.describe(name).tags or {}, "")
            if tags:
                self.client.indexes.configure(name, tags=tags)

    def _empty_index(self, name: str) -> None:
        index = self.index(name)
        with suppress(pinecone.NotFoundError):
            for space in index.describe_index_stats().namespaces:
                if space == DEFAULT_NAMESPACE:
                    index.delete(delete_all=True)
                else:
                    index.delete_namespace(namespace=space)

    def index(self, name: str) -> pinecone.Index:
        """An index by a handle that the sink does not know."""
        if name not in self._handles:
            host = f"{self.server.url}{INDEX_PATH}/{name}"
            self._handles[name] = pinecone.Index(
                host=host, api_key=self.server.secret, timeout=TIMEOUT
            )
        return self._handles[name]

    def records(self, entity_type: EntityType) -> dict[tuple[str, str], Any]:
        """Vectors by namespace (as the server calls it) and id."""
        index = self.index(entity_type.index_name)
        found: dict[tuple[str, str], Any] = {}
        for space in index.describe_index_stats().namespaces:
            own = "" if space == DEFAULT_NAMESPACE else space
            pages = index.list(namespace=own)
            ids = [item.id for page in pages for item in page.vectors if item.id]
            for start in range(0, len(ids), 100):
                answer = index.fetch(ids=ids[start : start + 100], namespace=own)
                found |= {(space, key): one for key, one in answer.vectors.items()}
        return found

    def stored(self, entity_type: EntityType) -> Stored:
        """Metadata; a key in two namespaces is an error."""
        found = self.records(entity_type)
        stored = {key: dict(one.metadata or {}) for (_, key), one in found.items()}
        assert len(stored) == len(found), sorted(found)
        return stored

    def spoil(self, row: Row) -> None:
        """Lose the metadata and change the numbers."""
        space = next(s for s, key in self.records(row.entity_type) if key == row.key)
        own = "" if space == DEFAULT_NAMESPACE else space
        one = {"id": row.key, "values": [1.0, 0.0, 0.0, 0.0], "metadata": {"version": 1}}
        self.index(row.entity_type.index_name).upsert(vectors=[one], namespace=own)

    def small_pages(self, monkeypatch: Any, size: int) -> None:
        """Ids per page and per fetch."""
        monkeypatch.setattr(vector_reads, "FETCH_IDS", size)

    def held(self, one: Row) -> SinkVersion:
        """Says the model and the namespace, too."""
        space = namespace(one)
        return SinkVersion(one.key, one.version, one.content_hash, self.model.name, space)

    def close(self) -> None:
        """Let go of every connection."""
        super().close()
        for handle in self._handles.values():
            handle.close()
        self.client.close()


class PgvectorHarness(Harness):
    """The vector sink in a database of its own."""

    module = "pgvector"

    def __init__(self, server: Postgres, dimensions: int = MODEL.dimensions) -> None:
        self.dimensions = dimensions
        name = f"pgvector_{uuid4().hex}"
        with psycopg.connect(server.url, autocommit=True) as conn:
            conn.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        self.url = server.url.rpartition("/")[0] + f"/{name}"
        self.superuser_url = server.superuser_url.rpartition("/")[0] + f"/{name}"
        # pgvector is no trusted extension: only a superuser creates it.
        self.ask_as_superuser("CREATE EXTENSION vector")

    def open(self, timeout: float = TIMEOUT) -> pgvector.Sink:
        """A sink with a pool of its own."""
        return self.open_at(self.url, timeout)

    def open_at(self, url: str, timeout: float = TIMEOUT, kind: str = "halfvec") -> pgvector.Sink:
        """A sink with another address or type of vectors."""
        return pgvector.Sink(url, timeout=timeout, dimensions=self.dimensions, kind=kind)

    def ask(self, statement: str, *parameters: Any) -> list[Any]:
        """Rows of a statement, by a connection that the sink does not know."""
        with psycopg.connect(self.url, autocommit=True) as conn:
            cursor = conn.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    def ask_as_superuser(self, statement: str) -> None:
        """Run what altsync's role may not."""
        with psycopg.connect(self.superuser_url, autocommit=True) as conn:
            conn.execute(statement)

    def tables(self) -> list[str]:
        """Every table of the database."""
        return [row[0] for row in self.ask("SELECT relname FROM pg_stat_user_tables ORDER BY 1")]

    def wipe(self) -> None:
        """Drop the tables."""
        for name in self.tables():
            self.ask(f'DROP TABLE "{name}"')

    def empty(self) -> None:
        """Delete the rows; tables and indexes stay."""
        for name in self.tables():
            self.ask(f'TRUNCATE "{name}"')

    def stored(self, entity_type: EntityType) -> Stored:
        """Marks, metadata and numbers of living rows."""
        table = table_names("")[entity_type]
        if table not in self.tables():
            return {}
        found = self.ask(
            "SELECT key, namespace, version, model, content_hash, metadata, embedding::text "
            f"FROM {table} WHERE deleted_at IS NULL"
        )
        names = ("namespace", "version", "model", "content_hash")
        return {
            row[0]: {**dict(zip(names, row[1:5], strict=True)), **row[5], "numbers": row[6]}
            for row in found
        }

    def spoil(self, row: Row) -> None:
        """Lose the metadata and change the numbers."""
        table = table_names("")[row.entity_type]
        numbers = str([1.0] + [0.0] * (self.dimensions - 1))
        statement = f"UPDATE {table} SET metadata = '{{}}', embedding = %s::halfvec WHERE key = %s"
        self.ask(statement, numbers, row.key)

    def small_pages(self, monkeypatch: Any, size: int) -> None:
        """Rows per page."""
        monkeypatch.setattr(row_reads, "PAGE", size)

    def held(self, one: Row) -> SinkVersion:
        """Says the model and the namespace, too."""
        space = namespace(one)
        return SinkVersion(one.key, one.version, one.content_hash, self.model.name, space)


class FakeVectorStore:
    """Vectors by model and text, as the embedding table keeps them, and who has which.

    ``give`` is what settling does: it moves vectors to entities.
    """

    def __init__(self) -> None:
        self.vectors: dict[tuple[Model, str], bytes] = {}
        self.entities: dict[tuple[EntityType, str], SinkVersion] = {}
        self._lock = threading.Lock()

    def known(self, model: Model, hashes: Sequence[str]) -> set[str]:
        """Return the known ones of ``hashes``."""
        return {one for one in hashes if (model, one) in self.vectors}

    def keep(self, model: Model, vectors: Mapping[str, bytes]) -> None:
        """Keep vectors; the first one stays."""
        with self._lock:
            for text_hash, one in vectors.items():
                self.vectors.setdefault((model, text_hash), one)

    def forget(self, hashes: Sequence[str]) -> None:
        """Remove vectors of every model."""
        with self._lock:
            for key in [key for key in self.vectors if key[1] in hashes]:
                del self.vectors[key]

    def give(self, rows: Sequence[Row], model: Model) -> None:
        """Entities take the vectors of their texts."""
        for one in rows:
            if not one.deleted and (model, one.text_hash) in self.vectors:
                marks = SinkVersion(one.key, one.version, one.text_hash, model.name)
                self.entities[one.entity_type, one.key] = marks
            elif one.deleted:
                with suppress(KeyError):
                    del self.entities[one.entity_type, one.key]

    def versions(self, entity_type: EntityType) -> Iterator[SinkVersion]:
        """Return the embedded text's hash of each entity that is not deleted."""
        for (held_type, _), marks in sorted(self.entities.items()):
            if held_type is entity_type:
                yield marks


class EmbeddingHarness(Harness):
    """The embedding sink on altsync's own server, over a store in memory."""

    module = "embedding"
    mirrors = False
    model = Model(EMBEDDING_MODEL, 1536)

    def __init__(self, server: Vectors) -> None:
        self.server = server
        self.store = FakeVectorStore()

    def open(self, timeout: float = TIMEOUT) -> Sink:
        """A sink with a client of its own."""
        return self.open_at(self.server.openai_url, self.server.secret, timeout)

    def open_at(self, url: str, key: str, timeout: float = TIMEOUT) -> embedding.Sink:
        """A sink with another address or key."""
        return embedding.Sink(OpenAIEmbedder(key, base_url=url, timeout=timeout), self.store)

    def wipe(self) -> None:
        """Forget every vector."""
        self.server.admin.clear()
        self.server.admin.reset_stats()
        self.store.vectors.clear()
        self.store.entities.clear()

    def settle(self, rows: Sequence[Row]) -> None:
        """Vectors move to the entities."""
        self.store.give(rows, self.model)

    def stored(self, entity_type: EntityType) -> Stored:
        """The hash of each entity's embedded text."""
        held = self.store.entities.items()
        return {key: {"text_hash": one.content_hash} for (t, key), one in held if t is entity_type}

    def spoil(self, row: Row) -> None:
        """Lose the vector."""
        self.store.forget([row.text_hash])
        del self.store.entities[row.entity_type, row.key]

    def held(self, one: Row) -> SinkVersion:
        """The hash is that of the text."""
        return SinkVersion(one.key, one.version, one.text_hash, self.model.name)


def arcade_harness(server: Graph) -> GraphHarness:
    """The graph sink on ArcadeDB."""
    return GraphHarness(server.url, server.auth, DATABASE)


#: Names of the fixtures that the suite runs over, by the sink's module.
HARNESSES: Mapping[str, Sequence[str]] = {
    "memory": ("memory",),
    "neo4j": ("arcadedb", *RELEASES),
    "pinecone": ("pinecone",),
    "pgvector": ("pgvector",),
    "embedding": ("embedding",),
}
