"""The tables of an installation: created, checked and owned.

One module, as each of these needs the names, the extension and the connections.
"""

from __future__ import annotations

import re
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256

from psycopg.errors import (
    FeatureNotSupported,
    InsufficientPrivilege,
    UndefinedFile,
    UndefinedObject,
)

from altsync import deadline
from altsync.catalogue.current import entity_types
from altsync.contract import (
    Installation,
)
from altsync.db import Conn
from altsync.deadline import SharedClient
from altsync.entities import EntityType
from altsync.errors import SinkFailure
from altsync.operations import ErrorKind
from altsync.ownership import SAMPLED, Guard, Ownership, Store
from altsync.sinks.pgvector import SINK
from altsync.sinks.pgvector.client import Client, Connections, limited
from altsync.sinks.pgvector.statements import (
    CREATE_INDEXES,
    CREATE_OWNER,
    CREATE_TABLE,
    DESCRIBE,
    EXISTING,
    FIND_EXTENSION,
    MARK_OWNER,
    READ_OWNER,
    REPLACE_OWNER,
    SAMPLE,
)

#: Dimensions that an HNSW index takes, by type: https://github.com/pgvector/pgvector#hnsw
MOST_DIMENSIONS = {"vector": 2000, "halfvec": 4000}

#: The first release with iterative scans, which find enough neighbours under a filter:
#: https://github.com/pgvector/pgvector#iterative-index-scans
OLDEST = (0, 8)

#: Bytes of an identifier in PostgreSQL, less the longest suffix of an index.
NAME_BYTES = 63 - len("_namespace")


@dataclass(frozen=True, slots=True)
class Extension:
    """pgvector as the database has it; ``schema`` is quoted."""

    schema: str
    version: str

    @property
    def is_too_old(self) -> bool:
        """Return whether this release has no iterative scans."""
        return tuple(map(int, re.findall(r"\d+", self.version)[:2])) < OLDEST


class Tables(Client):
    """The tables of an installation."""

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

    def belong_to(self, ownership: Ownership | None) -> None:
        """Set the installation. Writes to the tables of another one are refused."""
        first = next(iter(self._tables.values()))
        self._guard = Guard(
            ownership,
            Store(
                SINK.name,
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
        """Make the tables this installation's; return the former owner. Raises ``SinkFailure``."""
        self._create_missing()
        former = self._guard.adopt()
        return [] if former is None else [former]

    def _read_owner(self) -> Installation | None:
        with self._transaction() as conn:
            if not existing_of(conn, [self._owner]):
                return None
            statement = READ_OWNER.format(owner=quoted(self._owner))
            found = conn.execute(statement).fetchone()
        return Installation(*found) if found else None

    def _write_owner(self, conflict: str, owner: Installation) -> bool:
        statement = MARK_OWNER.format(owner=quoted(self._owner), conflict=conflict)
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

    @limited
    def remove_indexes(self) -> None:
        """Drop this installation's tables. Raises ``SinkFailure``."""
        self._guard.check()
        with self._transaction() as conn:
            for name in (*self._tables.values(), self._owner):
                conn.execute(f"DROP TABLE IF EXISTS {quoted(name)}")
        self._ready.clear()

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
        """Create missing tables and indexes. Concurrent callers wait for each other."""
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
            existing = existing_of(conn, names + indexes)
            if self._owner not in existing:
                conn.execute(CREATE_OWNER.format(owner=quoted(self._owner)))
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
                conn.execute(f"CREATE INDEX {quoted(index)} ON {quoted(name)} {text}")

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
        """Check a type's table and owner before a write. Create the table if it is missing."""
        if kind not in self._ready:
            self._guard.check()
            self._create_missing()
        if kind not in self._ready:
            self.check_indexes()
        self._guard.require()
        deadline.check()

    def _kinds_in(self, conn: Conn) -> list[EntityType]:
        """Return the types whose tables exist."""
        existing = existing_of(conn, list(self._tables.values()))
        return [kind for kind, name in self._tables.items() if name in existing]

    def _table(self, kind: EntityType) -> str:
        return quoted(self._tables[kind])

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


def table_names(prefix: str) -> dict[EntityType, str]:
    """Return the table of each type, with ``prefix`` before its name."""
    return {kind: table_name(prefix, f"{kind.index_name}-vectors") for kind in entity_types()}


def table_name(prefix: str, name: str) -> str:
    """Return a name that needs no quotes, cut where PostgreSQL would cut it.

    Its ending differs from those of altsync's own tables, which may share the schema.
    """
    full = f"{prefix}-{name}" if prefix else name
    full = full.replace("-", "_")
    if len(full.encode()) <= NAME_BYTES:
        return full
    return f"{full[: NAME_BYTES - 9]}_{sha256(full.encode()).hexdigest()[:8]}"


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def existing_of(conn: Conn, names: Sequence[str]) -> set[str]:
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
        f"ALTSYNC_PREFIX, or run DROP TABLE {quoted(table)}; then run altsync migrate and "
        "altsync backfill --sink pgvector --force"
    )
