"""The vector index in PostgreSQL: one table per type of entity, guarded by version in SQL.

For installations without a vector service. The tables are in the database of ``PGVECTOR_URL``,
which may be the one that altsync's own tables are in. They need pgvector 0.8 or later.
"""

from __future__ import annotations

import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache, partial, wraps
from hashlib import sha256
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar, cast

import numpy as np
import orjson
import psycopg
from psycopg.errors import (
    FeatureNotSupported,
    InsufficientPrivilege,
    UndefinedFile,
    UndefinedObject,
    UndefinedTable,
)
from psycopg.rows import dict_row

from altsync import deadline
from altsync.catalogue.current import entity_types
from altsync.config import Settings
from altsync.contract import (
    AlreadyNewer,
    Answer,
    Digest,
    Failed,
    Installation,
    RecordOutcome,
    SinkTraits,
    SinkVersion,
    Written,
)
from altsync.db import Conn, connect, is_connection_lost
from altsync.deadline import SharedClient
from altsync.entities import EntityType, Model, Row
from altsync.errors import SinkFailure
from altsync.operations import ErrorKind
from altsync.ownership import SAMPLED, Guard, Ownership, Store
from altsync.projection import namespace, vector_metadata
from altsync.protocols import Held, Match, Reads, StoredVector, VectorStore
from altsync.sentences import describe
from altsync.sinks.pgvector import SINK

T = TypeVar("T")
P = ParamSpec("P")

#: Rows per statement. Each insert searches the HNSW graph, which takes milliseconds: a statement
#: stays far below its timeout.
BATCH = 100

#: Bytes of vectors and metadata per statement, as they are sent.
MAX_BYTES = 4_000_000

#: Keys per page when a table is listed.
PAGE = 1000

#: Hours that a deletion is remembered, so that a late upsert finds it.
TOMBSTONE_HOURS = 24

#: Seconds after which an idle connection is asked whether it still is one.
FRESH_SECONDS = 5.0

#: Seconds that a statement over a whole table may take.
AGGREGATE_SECONDS = 60.0

#: Dimensions that an HNSW index takes, by type: https://github.com/pgvector/pgvector#hnsw
MOST_DIMENSIONS = {"vector": 2000, "halfvec": 4000}

#: Numbers in the binary form of a vector, which follow a header of 4 bytes.
BINARY_FORMS = {"vector": ">f4", "halfvec": ">f2"}
BINARY_HEADER = 4

#: The first release with iterative scans, which find as many neighbours as are asked for behind a
#: filter: https://github.com/pgvector/pgvector#iterative-index-scans
OLDEST = (0, 8)

#: Candidates that a search keeps while it walks the graph; 1,000 at most. pgvector's default of 40
#: misses one neighbour in ten of a few thousand random vectors.
EF_SEARCH = 200
MOST_EF_SEARCH = 1000

#: Nodes that a filtered search visits before it ends; the search without the index follows.
SCANNED = 20_000

#: Bytes of an identifier in PostgreSQL, less the longest suffix of an index.
NAME_BYTES = 63 - len("_namespace")

#: Columns of an entity's marks: a filter on them compares the column, not the metadata.
MARKS = ("version", "model", "content_hash")

NOT_IN_TIME = "the PostgreSQL of pgvector did not answer in time"

#: For this transaction alone: a pooler keeps no parameter of a session.
LIMIT_TRANSACTION = """
SELECT set_config('statement_timeout', %(timeout)s, true),
       set_config('idle_in_transaction_session_timeout', %(timeout)s, true)
"""

FIND_EXTENSION = """
SELECT quote_ident(n.nspname), e.extversion
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'
"""

EXISTING = """
SELECT name FROM unnest(%(names)s::text[]) name WHERE to_regclass(quote_ident(name)) IS NOT NULL
"""

DESCRIBE = """
SELECT c.relname, a.attname, t.typname, a.atttypmod
FROM unnest(%(names)s::text[]) wanted(name)
JOIN pg_class c ON c.oid = to_regclass(quote_ident(wanted.name))
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type t ON t.oid = a.atttypid
"""

CREATE_TABLE = """
CREATE TABLE {table} (
  key text COLLATE "C" PRIMARY KEY,
  namespace text NOT NULL,
  version bigint NOT NULL,
  model text,
  content_hash text,
  metadata jsonb,
  embedding {type}({dimensions}),
  updated_at timestamptz NOT NULL DEFAULT now(),
  deleted_at timestamptz,
  CHECK ((deleted_at IS NULL) = (embedding IS NOT NULL))) WITH (fillfactor = 80)
"""

#: A tombstone has no vector, and HNSW leaves rows without one out.
CREATE_INDEXES = {
    "embedding": "USING hnsw (embedding {ops})",
    "namespace": "(namespace) WHERE deleted_at IS NULL",
    "deleted": "(deleted_at) WHERE deleted_at IS NOT NULL",
}

CREATE_OWNER = """
CREATE TABLE {owner} (
  single boolean PRIMARY KEY DEFAULT true CHECK (single),
  id text NOT NULL, since text NOT NULL, database text NOT NULL, system text NOT NULL)
"""

MARK_OWNER = """
INSERT INTO {owner} (id, since, database, system)
VALUES (%(id)s, %(since)s, %(database)s, %(system)s) ON CONFLICT (single) {conflict}
"""

REPLACE_OWNER = """
DO UPDATE SET id = excluded.id, since = excluded.since, database = excluded.database,
  system = excluded.system
"""

# A vector that stays as it is keeps its place: PostgreSQL then updates the row without a new entry
# in the HNSW graph (a heap-only tuple).
UPSERT = """
INSERT INTO {table} AS t (key, namespace, version, model, content_hash, metadata, embedding)
SELECT g.key, g.namespace, g.version, %(model)s, g.content_hash, g.metadata::jsonb,
       g.embedding::{type}({dimensions})
FROM unnest(%(keys)s::text[], %(namespaces)s::text[], %(versions)s::bigint[], %(hashes)s::text[],
            %(metadata)s::text[], %(embeddings)s::text[])
  AS g(key, namespace, version, content_hash, metadata, embedding)
ORDER BY g.key
ON CONFLICT (key) DO UPDATE SET
  namespace = excluded.namespace, version = excluded.version, model = excluded.model,
  content_hash = excluded.content_hash, metadata = excluded.metadata,
  embedding = CASE WHEN t.embedding OPERATOR({schema}.=) excluded.embedding
                   THEN t.embedding ELSE excluded.embedding END,
  updated_at = now(), deleted_at = NULL
WHERE t.version < excluded.version OR (t.version = excluded.version AND t.deleted_at IS NULL)
RETURNING t.key
"""

DELETE = """
INSERT INTO {table} AS t (key, namespace, version, deleted_at)
SELECT g.key, '', g.version, now() FROM unnest(%(keys)s::text[], %(versions)s::bigint[])
  AS g(key, version)
ORDER BY g.key
ON CONFLICT (key) DO UPDATE SET
  namespace = '', version = excluded.version, model = NULL, content_hash = NULL, metadata = NULL,
  embedding = NULL, updated_at = now(), deleted_at = now()
WHERE t.version <= excluded.version
RETURNING t.key
"""

VERSIONS_OF = """
SELECT key, version FROM {table} WHERE key = ANY(%(keys)s) AND (deleted_at IS NOT NULL) = %(gone)s
"""

#: Neither a row nor a tombstone of version 0 refuses a write.
RESET_VERSIONS = (
    "UPDATE {table} SET version = 0 WHERE key = ANY(%s) AND (version > %s OR version < 0)"
)

FORGET_TOMBSTONES = "DELETE FROM {table} WHERE deleted_at < now() - make_interval(hours => %s)"

COUNT = "SELECT count(*) FROM {table} WHERE deleted_at IS NULL"
SAMPLE = "SELECT key FROM {table} WHERE deleted_at IS NULL ORDER BY key LIMIT %s"
READ_OWNER = "SELECT id, since, database, system FROM {owner}"

#: The 32 bits of a row's marks. SHA-256 is the same in every release and build of PostgreSQL.
ROW_DIGEST = (
    "('x' || left(encode(sha256(convert_to(concat_ws(chr(31), {facts}), 'UTF8')), 'hex'), 8))"
    "::bit(32)::bigint"
)

DIGEST = """
SELECT version %% %(modulus)s, count(*), sum({digest})::bigint
FROM {table} WHERE deleted_at IS NULL GROUP BY 1
"""

LIST = """
SELECT key, namespace, version, model, content_hash, metadata{embedding} FROM {table}
WHERE deleted_at IS NULL AND key > %(after)s AND ({condition}) ORDER BY key LIMIT %(limit)s
"""

IN_BUCKETS = "%(buckets)s::bigint[] IS NULL OR version %% %(modulus)s = ANY(%(buckets)s)"
BY_KEYS = "key = ANY(%(keys)s)"

NEAREST = """
SELECT key, 1 - (embedding OPERATOR({schema}.<=>) %(vector)s::{type}({dimensions})) AS score{marks}
FROM {table} WHERE deleted_at IS NULL AND namespace = %(space)s AND {where}
ORDER BY embedding OPERATOR({schema}.<=>) %(vector)s::{type}({dimensions}) LIMIT %(limit)s
"""

TUNE_SEARCH = """
SELECT set_config('hnsw.iterative_scan', 'strict_order', true),
       set_config('hnsw.ef_search', %(ef_search)s, true),
       set_config('hnsw.max_scan_tuples', %(scanned)s, true)
"""

#: Bitmap scans stay: they read the namespace by its index.
WITHOUT_GRAPH = "SELECT set_config('enable_indexscan', 'off', true)"


@dataclass(frozen=True, slots=True)
class Extension:
    """pgvector as the database has it; ``schema`` is quoted."""

    schema: str
    version: str

    @property
    def is_too_old(self) -> bool:
        """Whether it has no iterative scans."""
        return tuple(map(int, re.findall(r"\d+", self.version)[:2])) < OLDEST


def limited(method: Callable[Concatenate[Sink, P], T]) -> Callable[Concatenate[Sink, P], T]:
    """Run a method of the sink, with all its statements, within the timeout of one call."""

    @wraps(method)
    def call(self: Sink, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.within_limit(lambda: method(self, *args, **kwargs))

    return cast("Callable[Concatenate[Sink, P], T]", call)


class Connections:
    """Connections that calls take and give back. None is opened before it is needed.

    Unlike a pool, a call learns at once why there is none: the outbox repeats it later.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._idle: list[tuple[float, Conn]] = []
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def transaction(self) -> Iterator[Conn]:
        """A connection in a transaction: committed at the end, or rolled back."""
        conn = self._take()
        try:
            with conn.transaction():
                yield conn
        finally:
            self._give_back(conn)

    def _take(self) -> Conn:
        while True:
            with self._lock:
                since, conn = self._idle.pop() if self._idle else (0.0, None)
            if conn is None:
                # As through a transaction pooler: no statement is prepared, and what a statement
                # needs is set for its transaction.
                return connect(self._url, name="altsync-pgvector", pooled=True)
            try:
                if time.monotonic() - since > FRESH_SECONDS:
                    conn.execute("SELECT 1")
            except psycopg.Error:
                conn.close()
            else:
                return conn

    def _give_back(self, conn: Conn) -> None:
        with self._lock:
            if not self._closed and not conn.closed:
                self._idle.append((time.monotonic(), conn))
                return
        conn.close()

    def close(self) -> None:
        """Close those that are idle now, and each other one when its call ends."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for _, conn in idle:
            conn.close()


class Sink:
    """Mirrors entities as rows with a vector; an older version never overwrites a newer one."""

    traits: ClassVar[SinkTraits] = SINK.traits

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        dimensions: int,
        kind: str = "halfvec",
        prefix: str = "",
    ) -> None:
        self._shared = SharedClient(lambda: Connections(url), Connections.close)
        self._own = threading.local()
        self._timeout = timeout
        self._dimensions = dimensions
        self._kind = kind
        self._tables = table_names(prefix)
        self._owner = table_name(prefix, "altsync-pgvector-installation")
        self._extension: Extension | None = None
        self._ready: set[EntityType] = set()
        self.belong_to(None)

    # --- ownership ----------------------------------------------------------------------------

    def belong_to(self, ownership: Ownership | None) -> None:
        """Write only to tables that are, or become, that installation's."""
        first = next(iter(self._tables.values()))
        self._guard = Guard(
            ownership,
            Store(
                self.traits.name,
                f"the pgvector table {first}",
                read=self._read_owner,
                mark=partial(self._write_owner, "DO NOTHING"),
                replace=partial(self._write_owner, REPLACE_OWNER),
                sample=self._sample,
            ),
        )

    @limited
    def check_owner(self) -> None:
        """Raise ``SinkFailure`` when the tables are another installation's. Writes nothing."""
        self._guard.check()

    @limited
    def adopt(self) -> list[Installation]:
        """Make the tables this installation's; returns the former owner. Raises ``SinkFailure``."""
        self._create_missing()
        former = self._guard.adopt()
        return [] if former is None else [former]

    def _read_owner(self) -> Installation | None:
        with self._transaction() as conn:
            if not _existing(conn, [self._owner]):
                return None
            statement = READ_OWNER.format(owner=_quoted(self._owner))
            found = conn.execute(statement).fetchone()
        return Installation(*found) if found else None

    def _write_owner(self, conflict: str, owner: Installation) -> bool:
        statement = MARK_OWNER.format(owner=_quoted(self._owner), conflict=conflict)
        with self._transaction() as conn:
            conn.execute(statement, asdict(owner))
        return True

    def _sample(self) -> dict[EntityType, list[str]]:
        with self._transaction() as conn:
            found: dict[EntityType, list[str]] = {}
            for kind in self._kinds_in(conn):
                statement = SAMPLE.format(table=self._table(kind))
                found[kind] = [row[0] for row in conn.execute(statement, (SAMPLED,))]
        return found

    # --- tables -------------------------------------------------------------------------------

    @limited
    def setup(self) -> None:
        """Create the extension, the tables and their indexes, and mark them as this installation's.

        Raises ``SinkFailure``: also for a table that cannot hold altsync's vectors.
        """
        self._guard.check()
        self._create_missing()
        self._guard.require()
        self.check_indexes()

    @limited
    def check_indexes(self) -> None:
        """Raise ``SinkFailure`` when a table that exists cannot hold altsync's vectors."""
        with self._transaction() as conn:
            self._extension = self._find_extension(conn)
            problems = self._misfits(conn)
        if problems:
            raise SinkFailure(ErrorKind.SINK, "; ".join(problems.values()), only=problems)

    def _create_missing(self) -> None:
        """Create what does not exist. Callers at the same time wait for each other."""
        most = MOST_DIMENSIONS[self._kind]
        if self._dimensions > most:
            raise SinkFailure(
                ErrorKind.SINK,
                f"an HNSW index takes at most {most:,} dimensions of {self._kind}, and "
                f"ALTSYNC_EMBEDDING_DIMENSIONS is {self._dimensions:,}: set a smaller number"
                + (", or ALTSYNC_PGVECTOR_TYPE=halfvec" if self._kind == "vector" else ""),
            )
        with self._transaction() as conn:
            conn.execute("SELECT pg_advisory_xact_lock(hashtext('altsync.pgvector'))")
            self._extension = self._find_extension(conn, create=True)
            names = [self._owner, *self._tables.values()]
            indexes = [f"{n}_{part}" for n in self._tables.values() for part in CREATE_INDEXES]
            existing = _existing(conn, names + indexes)
            if self._owner not in existing:
                conn.execute(CREATE_OWNER.format(owner=_quoted(self._owner)))
            fitting = self._tables.keys() - self._misfits(conn).keys()
            for kind in fitting:
                self._create_table(conn, kind, existing)
        self._ready |= fitting

    def _create_table(self, conn: Conn, kind: EntityType, existing: set[str]) -> None:
        name = self._tables[kind]
        if name not in existing:
            conn.execute(self._statement(CREATE_TABLE, kind))
        for part, definition in CREATE_INDEXES.items():
            index = f"{name}_{part}"
            if index not in existing:
                text = self._statement(definition, kind)
                conn.execute(f"CREATE INDEX {_quoted(index)} ON {_quoted(name)} {text}")

    def _find_extension(self, conn: Conn, *, create: bool = False) -> Extension:
        found = conn.execute(FIND_EXTENSION).fetchone()
        if found is None and create:
            try:
                with conn.transaction():
                    conn.execute("CREATE EXTENSION IF NOT EXISTS vector")
            except (FeatureNotSupported, UndefinedFile, UndefinedObject) as error:
                raise SinkFailure(
                    ErrorKind.SINK,
                    "the server of PGVECTOR_URL has no pgvector: install it "
                    "(https://github.com/pgvector/pgvector#installation) or use the image "
                    "pgvector/pgvector, then run altsync migrate",
                ) from error
            except InsufficientPrivilege as error:
                raise SinkFailure(
                    ErrorKind.SINK,
                    f"the database {conn.info.dbname} has no pgvector, and the role "
                    f"{conn.info.user} may not create it: run CREATE EXTENSION vector in it as a "
                    "superuser (or as the provider's administrator), then altsync migrate",
                ) from error
            found = conn.execute(FIND_EXTENSION).fetchone()
        if found is None:
            raise SinkFailure(
                ErrorKind.SINK,
                f"the database {conn.info.dbname} has no pgvector: run altsync migrate",
            )
        extension = Extension(*found)
        if extension.is_too_old:
            oldest = ".".join(map(str, OLDEST))
            raise SinkFailure(
                ErrorKind.SINK,
                f"the database {conn.info.dbname} has pgvector {extension.version}, and altsync "
                f"needs {oldest} or later: install it, and run ALTER EXTENSION vector UPDATE",
            )
        return extension

    def _misfits(self, conn: Conn) -> dict[EntityType, str]:
        """Return why existing tables cannot hold altsync's vectors, and what to do."""
        columns: dict[str, dict[str, tuple[str, int]]] = defaultdict(dict)
        for table, column, kind, modifier in conn.execute(
            DESCRIBE, {"names": list(self._tables.values())}
        ):
            columns[table][column] = kind, modifier
        problems = {
            kind: misfit(name, columns[name], self._kind, self._dimensions)
            for kind, name in self._tables.items()
            if name in columns
        }
        return {kind: problem for kind, problem in problems.items() if problem is not None}

    def _require(self, kind: EntityType) -> None:
        """Make sure of a type's table, and of its owner, before a write."""
        if kind not in self._ready:
            self._guard.check()
            self._create_missing()
        if kind not in self._ready:
            self.check_indexes()
        self._guard.require()
        deadline.check()

    def _kinds_in(self, conn: Conn) -> list[EntityType]:
        """Return the types whose tables exist."""
        existing = _existing(conn, list(self._tables.values()))
        return [kind for kind, name in self._tables.items() if name in existing]

    def _table(self, kind: EntityType) -> str:
        return _quoted(self._tables[kind])

    def _statement(self, template: str, kind: EntityType, **more: str) -> str:
        """Return a statement on a type's table, whatever the search path."""
        assert self._extension is not None
        schema = self._extension.schema
        return template.format(
            table=self._table(kind),
            schema=schema,
            type=f"{schema}.{self._kind}",
            ops=f"{schema}.{self._kind}_cosine_ops",
            dimensions=self._dimensions,
            **more,
        )

    # --- writing ------------------------------------------------------------------------------

    def split(self, rows: Sequence[Row], model: Model) -> list[Sequence[Row]]:
        """By count, and by bytes as they will be sent."""
        parts: list[Sequence[Row]] = []
        start = size = 0
        for place, row in enumerate(rows):
            more = sent_bytes(row, model)
            if place > start and (size + more > MAX_BYTES or place - start >= BATCH):
                parts.append(rows[start:place])
                start, size = place, 0
            size += more
        return [*parts, rows[start:]] if rows else parts

    @limited
    def upsert(self, rows: Sequence[Row], model: Model) -> Answer:
        """Write rows in one statement, unless something newer, or their deletion, is stored."""
        if model.dimensions != self._dimensions:
            raise SinkFailure(
                ErrorKind.SINK,
                f"the vectors of {model.name} have {model.dimensions:,} dimensions, and this "
                f"process was started with ALTSYNC_EMBEDDING_DIMENSIONS={self._dimensions}: set "
                "the same number everywhere",
            )
        kind = rows[0].entity_type
        unfit = {row.id: reason for row in rows if (reason := _unfit(row, self._dimensions))}
        fit = [row for row in rows if row.id not in unfit]
        written: set[str] = set()
        newer: dict[str, int] = {}
        if fit:
            self._require(kind)
            metadata = [_metadata(row, model.name) for row in fit]
            with self._transaction(kind) as conn:
                found = conn.execute(
                    self._statement(UPSERT, kind),
                    {
                        "model": model.name,
                        "keys": [row.key for row in fit],
                        "namespaces": [namespace(row) for row in fit],
                        "versions": [row.version for row in fit],
                        "hashes": [row.content_hash for row in fit],
                        "metadata": [orjson.dumps(one).decode() for one in metadata],
                        "embeddings": [printed(row.vector or b"") for row in fit],
                    },
                )
                written = {row[0] for row in found}
                refused = [row.key for row in fit if row.key not in written]
                newer = self._versions_of(conn, kind, refused)
                newer |= self._versions_of(conn, kind, refused, gone=True)
                deadline.check()

        def outcome(row: Row) -> RecordOutcome:
            if row.id in unfit:
                return Failed(row.id, ErrorKind.ITEM, unfit[row.id], final=True)
            if row.key in written:
                return Written(row.id, row.version, row.key, namespace(row))
            return AlreadyNewer(row.id, newer.get(row.key))

        return Answer(tuple(map(outcome, rows)), calls=1 if fit else 0)

    @limited
    def delete(self, rows: Sequence[Row]) -> Answer:
        """Take the vectors away, and keep the rows as tombstones for late upserts."""
        kind = rows[0].entity_type
        self._require(kind)
        versions = {row.key: row.version for row in rows}
        newer = self._delete(kind, versions)

        def outcome(row: Row) -> RecordOutcome:
            found = newer.get(row.key)
            return Written(row.id, row.version) if found is None else AlreadyNewer(row.id, found)

        return Answer(tuple(map(outcome, rows)))

    def _delete(self, kind: EntityType, versions: Mapping[str, int]) -> dict[str, int]:
        """Delete keys as of their versions; return those that are kept, as they are newer."""
        with self._transaction(kind) as conn:
            numbers = {"keys": list(versions), "versions": list(versions.values())}
            went = {r[0] for r in conn.execute(self._statement(DELETE, kind), numbers)}
            newer = self._versions_of(conn, kind, [key for key in versions if key not in went])
            deadline.check()
        return newer

    def _versions_of(
        self, conn: Conn, kind: EntityType, keys: Sequence[str], *, gone: bool = False
    ) -> dict[str, int]:
        """Return the versions of living rows, or of tombstones."""
        if not keys:
            return {}
        statement = self._statement(VERSIONS_OF, kind)
        found = conn.execute(statement, {"keys": list(keys), "gone": gone})
        return dict(found.fetchall())

    @limited
    def remove(self, entity_type: EntityType, keys: Sequence[str], version: int) -> None:
        """Remove rows that are not above ``version``, and leave tombstones of it."""
        self._require(entity_type)
        self._delete(entity_type, dict.fromkeys(keys, version))

    @limited
    def reset_versions(self, entity_type: EntityType, keys: Sequence[str], highest: int) -> None:
        """Set versions above ``highest`` to 0: they would refuse every write."""
        self._require(entity_type)
        statement = RESET_VERSIONS.format(table=self._table(entity_type))
        with self._transaction(entity_type) as conn:
            conn.execute(statement, (list(keys), highest))

    @limited
    def forget_tombstones(self) -> None:
        """Remove deletions that no upsert can be late for any more."""
        with self._transaction() as conn:
            kinds = self._kinds_in(conn)
        if not kinds:
            return
        self._guard.require()
        with self._transaction() as conn:
            for kind in kinds:
                statement = FORGET_TOMBSTONES.format(table=self._table(kind))
                conn.execute(statement, (TOMBSTONE_HOURS,))

    # --- reading ------------------------------------------------------------------------------

    def versions(self, entity_type: EntityType) -> Iterator[SinkVersion]:
        """Every living row of the type, in the order of keys."""
        for page in self.stored(entity_type, Reads(), with_values=False):
            for one in page:
                marks = one.metadata
                yield SinkVersion(
                    one.key,
                    one.version or 0,
                    marks.get("content_hash"),
                    marks.get("model"),
                    one.namespace,
                )

    def count(self, entity_type: EntityType, reads: Reads) -> int:
        """Living rows of a type. Raises ``SinkFailure``."""
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
        """Living rows, page by page: all, or those of some buckets of a digest.

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
        """Return the living rows among ``keys``. Raises ``SinkFailure``."""
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
        """Return those of ``keys`` that one namespace holds. Raises ``SinkFailure``."""
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
        """Versions at which ``keys`` were deleted, while the table remembers it.

        Raises ``SinkFailure``.
        """
        with self._transaction(entity_type) as conn:
            if entity_type not in self._kinds_in(conn):
                return {}
            statement = VERSIONS_OF.format(table=self._table(entity_type))
            found = conn.execute(statement, {"keys": list(keys), "gone": True})
            return dict(found.fetchall())

    def find(self, entity_type: EntityType, key: str, space: str | None = None) -> Held | None:
        """What the table holds of one entity now, in any namespace or in ``space``.

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
        """The entities nearest to a vector (float32 little-endian), the best first.

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

    # --- connections --------------------------------------------------------------------------

    def as_stored(self, vector: bytes) -> Any:
        """Return a vector (float32 little-endian) with the precision of the table."""
        form = BINARY_FORMS[self._kind]
        return np.frombuffer(vector, "<f4").astype(form).astype("<f4")

    def close(self) -> None:
        """Close the connections."""
        self._shared.close()

    def within_limit(self, work: Callable[[], T], seconds: float | None = None) -> T:
        """Run ``work`` within the timeout. Raises ``SinkFailure`` when it takes longer.

        A part of such work has no limit of its own.
        """
        if getattr(self._own, "connections", None) is not None:
            return work()

        def run(connections: Connections) -> T:
            self._own.connections = connections  # the thread is this call's alone
            return work()

        try:
            return self._shared.call(seconds or self._timeout, run)
        except TimeoutError:
            raise SinkFailure(
                ErrorKind.SINK, NOT_IN_TIME, outcome_unknown=True, timed_out=True
            ) from None

    @contextmanager
    def _transaction(
        self, kind: EntityType | None = None, *, seconds: float | None = None
    ) -> Iterator[Conn]:
        """A transaction with limits; lets no error out but ``SinkFailure``."""
        limit = {"timeout": f"{(seconds or self._timeout) * 1000:.0f}ms"}
        try:
            with self._own.connections.transaction() as conn:
                conn.execute(LIMIT_TRANSACTION, limit)
                yield conn
        except (UndefinedTable, UndefinedObject) as error:
            # The table or the extension was dropped: both are looked for again.
            self._ready.clear()
            self._extension = None
            raise translate(error) from error
        except psycopg.Error as error:
            raise translate(error) from error


def table_names(prefix: str) -> dict[EntityType, str]:
    """Return the table of each type behind ``prefix``."""
    return {kind: table_name(prefix, f"{kind.index_name}-vectors") for kind in entity_types()}


def table_name(prefix: str, name: str) -> str:
    """Return a name that needs no quotes, cut where PostgreSQL would cut it.

    It does not end as a table of altsync's own does, which may be in the same schema.
    """
    full = f"{prefix}-{name}" if prefix else name
    full = full.replace("-", "_")
    if len(full.encode()) <= NAME_BYTES:
        return full
    return f"{full[: NAME_BYTES - 9]}_{sha256(full.encode()).hexdigest()[:8]}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _existing(conn: Conn, names: Sequence[str]) -> set[str]:
    return {row[0] for row in conn.execute(EXISTING, {"names": list(names)})}


def misfit(
    table: str, columns: Mapping[str, tuple[str, int]], kind: str, dimensions: int
) -> str | None:
    """Return why a table cannot hold altsync's vectors, and what to do; None when it can.

    ``columns`` are its types and their modifiers, by name.
    """
    wanted = ("key", "namespace", "version", "model", "content_hash", "metadata", "embedding")
    missing = [name for name in (*wanted, "updated_at", "deleted_at") if name not in columns]
    if missing:
        return (
            f"the table {table} lacks the columns {', '.join(missing)}: set ALTSYNC_PREFIX, or "
            "rename or drop the table; then run altsync migrate"
        )
    found, length = columns["embedding"]
    wrong = []
    if found != kind:
        wrong.append(f"vectors of type {found} where altsync needs {kind}")
    if length != dimensions:
        wrong.append(f"{length} dimensions where altsync needs {dimensions}")
    if not wrong:
        return None
    settings = ["ALTSYNC_PGVECTOR_TYPE"] if found != kind else []
    settings += ["ALTSYNC_EMBEDDING_DIMENSIONS"] if length != dimensions else []
    return (
        f"the table {table} has {' and '.join(wrong)}: set {', '.join(settings)} or "
        f"ALTSYNC_PREFIX, or run DROP TABLE {_quoted(table)}; then run altsync migrate and "
        "altsync backfill --sink pgvector --force"
    )


def _unfit(row: Row, dimensions: int) -> str | None:
    """Return why a row's vector cannot be stored and found again; None when it can."""
    numbers = np.frombuffer(row.vector or b"", "<f4")
    if len(numbers) != dimensions:
        return f"its vector has {len(numbers):,} dimensions, and the table takes {dimensions:,}"
    if not np.isfinite(numbers).all() or not numbers.any():
        return "its vector has no direction (zeros, or no numbers), so nothing is near to it"
    return None


def _metadata(row: Row, model: str) -> dict[str, Any]:
    """Return what a row carries beside its marks, which have columns of their own."""
    known = vector_metadata(row, model)
    return {name: value for name, value in known.items() if name not in MARKS}


@lru_cache(BATCH)
def printed(vector: bytes) -> str:
    """Float32 numbers as pgvector reads them. Kept for a while, as rows are cut by their bytes."""
    return orjson.dumps(np.frombuffer(vector, "<f4"), option=orjson.OPT_SERIALIZE_NUMPY).decode()


def sent_bytes(row: Row, model: Model) -> int:
    """Bytes that one row takes in a statement; a deletion, those of its key."""
    if row.deleted:
        return len(row.key)
    metadata = orjson.dumps(_metadata(row, model.name))
    return len(row.key) + len(printed(row.vector or b"")) + len(metadata)


def translated(where: Mapping[str, Any], parameters: dict[str, Any]) -> str:
    """Return a filter as a condition in SQL, and add its values to ``parameters``.

    A field that holds a list equals each of its values, as in Pinecone. Raises ``SinkFailure``
    for an operator that no query of altsync uses.
    """
    conditions = []
    for field, wanted in where.items():
        if field == "$and":
            conditions += [translated(one, parameters) for one in wanted]
        elif field.startswith("$"):
            raise _unknown_operator(field)
        elif isinstance(wanted, Mapping):
            conditions += [_compared(field, op, value, parameters) for op, value in wanted.items()]
        else:
            conditions.append(_compared(field, "$eq", wanted, parameters))
    return " AND ".join(f"({one})" for one in conditions) or "true"


def _compared(field: str, operator: str, value: Any, parameters: dict[str, Any]) -> str:
    if operator not in ("$eq", "$in"):
        raise _unknown_operator(operator)
    values = [value] if operator == "$eq" else list(value)
    names = []
    for one in values:
        name = f"filter_{len(parameters)}"
        parameters[name] = one if field in MARKS else orjson.dumps(one).decode()
        names.append(name)
    if field in MARKS:
        return " OR ".join(f"{field} = %({name})s" for name in names) or "false"
    parameters[path := f"filter_{len(parameters)}"] = field
    return (
        " OR ".join(f"metadata -> %({path})s::text @> %({name})s::jsonb" for name in names)
        or "false"
    )


def _unknown_operator(operator: str) -> SinkFailure:
    known = "equality, $eq, $in and $and"
    return SinkFailure(ErrorKind.ITEM, f"pgvector's filter knows {known}, not {operator}")


def _match(row: Sequence[Any]) -> Match:
    key, score, *more = row
    if not more:
        return Match(key, score, {})
    metadata, *marks = more
    return Match(key, score, {**(metadata or {}), **dict(zip(MARKS, marks, strict=True))})


_SINK = partial(SinkFailure, ErrorKind.SINK)

#: Prefixes of PostgreSQL's codes, and the failure of each. The first that fits counts.
#: https://www.postgresql.org/docs/current/errcodes-appendix.html
_BY_CODE: tuple[tuple[tuple[str, ...], Callable[[str], SinkFailure]], ...] = (
    # Two writers met: the same call passes when the other is done.
    (("40", "55P03", "23505"), partial(SinkFailure, ErrorKind.UNKNOWN, lock_conflict=True)),
    (("57014",), partial(_SINK, outcome_unknown=True, timed_out=True)),
    (("53300",), partial(_SINK, throttled=True)),
    (("53",), partial(_SINK, timed_out=True)),
    (("08", "57", "58"), partial(_SINK, outcome_unknown=True)),
    # A value or its size: the record's.
    (("22", "23", "54"), partial(SinkFailure, ErrorKind.ITEM)),
    # Login, rights, a missing table, a standby: every record would get the same answer.
    (("0A", "25", "28", "3D", "3F", "42", "55"), _SINK),
    (("XX",), partial(_SINK, outcome_unknown=True, timed_out=True)),
)


def translate(error: psycopg.Error) -> SinkFailure:
    """Return the failure that an error of PostgreSQL stands for."""
    said = describe(error).text.replace("DATABASE_URL", SINK.setting)
    reason = f"pgvector: {said}"
    code = error.sqlstate
    if code is None:
        lost = is_connection_lost(error)
        # No code: no connection was made, or it broke; a login that is refused has none either.
        return SinkFailure(
            ErrorKind.SINK if lost else ErrorKind.UNKNOWN,
            reason,
            outcome_unknown=not _no_login(said),
        )
    for prefixes, failure in _BY_CODE:
        if code.startswith(prefixes):
            return failure(reason)
    return SinkFailure(ErrorKind.UNKNOWN, reason, outcome_unknown=True)


def _no_login(said: str) -> bool:
    return any(sign in said for sign in ("authentication", "does not exist", "password", "pg_hba"))


def open_sink(settings: Settings, vectors: VectorStore) -> Sink | None:
    """The sink, or None when no PGVECTOR_URL is set."""
    if settings.pgvector_url is None:
        return None
    return Sink(
        settings.pgvector_url.get_secret_value(),
        timeout=settings.altsync_sink_timeout_seconds,
        dimensions=settings.altsync_embedding_dimensions,
        kind=settings.altsync_pgvector_type,
        prefix=settings.altsync_prefix,
    )
