"""Indexes, namespaces and records in one SQLite file.

A change is on disk before its method returns, and survives kill -9 and a power cut.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from altsync.local.vectors.limits import VectorRecord

SCHEMA = """
CREATE TABLE IF NOT EXISTS definition (
    name TEXT PRIMARY KEY,
    body BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS namespace (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    index_name TEXT NOT NULL REFERENCES definition (name) ON DELETE CASCADE,
    name TEXT NOT NULL,
    UNIQUE (index_name, name)
) STRICT;
CREATE TABLE IF NOT EXISTS position (
    namespace_id INTEGER PRIMARY KEY REFERENCES namespace (id) ON DELETE CASCADE,
    lsn INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS record (
    namespace_id INTEGER NOT NULL REFERENCES namespace (id) ON DELETE CASCADE,
    id TEXT NOT NULL,
    vector BLOB NOT NULL,
    metadata BLOB,
    PRIMARY KEY (namespace_id, id)
) STRICT;
"""

UPSERT = """
INSERT INTO record (namespace_id, id, vector, metadata) VALUES (?, ?, ?, ?)
ON CONFLICT (namespace_id, id) DO UPDATE
SET vector = excluded.vector, metadata = excluded.metadata
"""

NEXT_POSITION = """
INSERT INTO position (namespace_id, lsn) VALUES (?, 1)
ON CONFLICT (namespace_id) DO UPDATE SET lsn = lsn + 1 RETURNING lsn
"""


class Storage:
    """One SQLite connection, used by one thread at a time.

    Each write to a namespace returns its log sequence number, which grows by one.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.executescript(SCHEMA)

    def close(self) -> None:
        """Merge the write-ahead log into the file, and close it."""
        with self._lock:
            self._connection.close()

    def definitions(self) -> dict[str, dict[str, Any]]:
        """Return the definitions of all indexes, by name."""
        with self._lock:
            rows = self._connection.execute("SELECT name, body FROM definition ORDER BY name")
            return {name: orjson.loads(body) for name, body in rows}

    def define(self, name: str, body: dict[str, Any]) -> None:
        """Create an index, or replace its definition."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO definition (name, body) VALUES (?, ?) "
                "ON CONFLICT (name) DO UPDATE SET body = excluded.body",
                (name, orjson.dumps(body)),
            )

    def drop_definition(self, name: str) -> None:
        """Delete an index with its namespaces and records."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM definition WHERE name = ?", (name,))

    def namespaces(self, index: str) -> dict[str, int]:
        """Return the ids of an index' namespaces, by name."""
        with self._lock:
            return dict(
                self._connection.execute(
                    "SELECT name, id FROM namespace WHERE index_name = ?", (index,)
                )
            )

    def add_namespace(self, index: str, name: str) -> int:
        """Create a namespace and return its id."""
        with self._transaction() as connection:
            row = connection.execute(
                "INSERT INTO namespace (index_name, name) VALUES (?, ?) RETURNING id",
                (index, name),
            ).fetchone()
            return int(row[0])

    def drop_namespace(self, namespace: int) -> None:
        """Delete a namespace with its records."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM namespace WHERE id = ?", (namespace,))

    def write(self, namespace: int, records: Iterable[VectorRecord]) -> int:
        """Insert or replace records."""
        rows = [
            (
                namespace,
                record.id,
                record.values.tobytes(),
                None if record.metadata is None else orjson.dumps(record.metadata),
            )
            for record in records
        ]
        with self._transaction() as connection:
            connection.executemany(UPSERT, rows)
            return _next(connection, namespace)

    def remove(self, namespace: int, ids: Iterable[str]) -> int:
        """Delete records. Absent ids are ignored."""
        with self._transaction() as connection:
            connection.executemany(
                "DELETE FROM record WHERE namespace_id = ? AND id = ?",
                [(namespace, one) for one in ids],
            )
            return _next(connection, namespace)

    def clear(self, namespace: int) -> int:
        """Delete all records of a namespace."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM record WHERE namespace_id = ?", (namespace,))
            return _next(connection, namespace)

    def position(self, namespace: int) -> int:
        """Return the log sequence number of the last write to a namespace, 0 before the first."""
        with self._lock:
            row = self._connection.execute(
                "SELECT lsn FROM position WHERE namespace_id = ?", (namespace,)
            ).fetchone()
            return int(row[0]) if row else 0

    def read_all(self, namespace: int) -> list[VectorRecord]:
        """Return all records of a namespace."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT id, vector, metadata FROM record WHERE namespace_id = ?", (namespace,)
            )
            return [
                VectorRecord(
                    identity,
                    np.frombuffer(vector, dtype=np.float32),
                    None if metadata is None else orjson.loads(metadata),
                )
                for identity, vector, metadata in rows
            ]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")


def _next(connection: sqlite3.Connection, namespace: int) -> int:
    """Return the log sequence number of a write in this transaction."""
    return int(connection.execute(NEXT_POSITION, (namespace,)).fetchone()[0])
