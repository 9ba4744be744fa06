"""The state of a simulated server, and every request that it received.

One SQLite file per sink, shared by all processes and whole after every kill. Late writes wait
in the file too; the next client applies those that are due, in the order of their times.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

#: Seconds to wait for another process that writes the same file.
BUSY = 20.0

SCHEMA = """
CREATE TABLE IF NOT EXISTS call (
  id INTEGER PRIMARY KEY, at REAL NOT NULL, pid INTEGER NOT NULL, trouble TEXT NOT NULL,
  size INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS sent (
  at REAL NOT NULL, pid INTEGER NOT NULL, trouble TEXT NOT NULL, space TEXT NOT NULL,
  key TEXT NOT NULL, version INTEGER NOT NULL, what TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS sent_key ON sent (key);
CREATE TABLE IF NOT EXISTS late (id INTEGER PRIMARY KEY, due REAL NOT NULL, writes TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS applied (
  id INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, space TEXT NOT NULL,
  key TEXT NOT NULL, version INTEGER NOT NULL, effect TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS held (
  kind TEXT NOT NULL, space TEXT NOT NULL, key TEXT NOT NULL, version INTEGER NOT NULL,
  body TEXT NOT NULL, PRIMARY KEY (kind, space, key));
CREATE TABLE IF NOT EXISTS tombstone (
  kind TEXT NOT NULL, key TEXT NOT NULL, version INTEGER NOT NULL, PRIMARY KEY (kind, key));
CREATE TABLE IF NOT EXISTS paid (
  id INTEGER PRIMARY KEY, at REAL NOT NULL, text_hash TEXT NOT NULL, kept_at REAL);
"""


class Rule(StrEnum):
    """The guarantees of the guarded sink; each may be switched off."""

    VERSION_GUARD = "version guard"
    TOMBSTONE_GUARD = "tombstone guard"
    SAME_VERSION_AGAIN = "same version again"


class Effect(StrEnum):
    """The effect of a write."""

    WRITTEN = "written"
    REMOVED = "removed"
    ABSENT = "absent"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Write:
    """One record of a request; a ``body`` of None deletes."""

    kind: str
    space: str
    key: str
    version: int
    body: Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one record; ``found`` is the newer version that refused it."""

    effect: Effect
    found: int | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """One record that the server holds."""

    kind: str
    space: str
    key: str
    version: int
    body: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Charge:
    """One text in one paid request, and when its vector was safe (None: never)."""

    at: float
    text_hash: str
    kept_at: float | None


class SimulatedServer(ABC):
    """A server's durable state. Open it after a fork, never before.

    Each thread has a connection of its own: calls that are under way at once do not share a
    transaction.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: list[sqlite3.Connection] = []
        self._own = threading.local()
        self._conn.execute("PRAGMA journal_mode = WAL")
        self._conn.executescript(SCHEMA)

    @property
    def _conn(self) -> sqlite3.Connection:
        """This thread's connection."""
        if not hasattr(self._own, "conn"):
            conn = sqlite3.connect(
                self._path, timeout=BUSY, isolation_level=None, check_same_thread=False
            )
            # A killed process loses nothing that was committed; only the machine's end would.
            conn.execute("PRAGMA synchronous = OFF")
            self._own.conn = conn
            self._opened.append(conn)
        own: sqlite3.Connection = self._own.conn
        return own

    def close(self) -> None:
        """Let go of the file."""
        for conn in self._opened:
            conn.close()

    # --- what clients do ----------------------------------------------------------------------

    def record_call(self, fault: str, size: int) -> None:
        """Count a request, whatever becomes of it."""
        self._conn.execute(
            "INSERT INTO call (at, pid, trouble, size) VALUES (?, ?, ?, ?)",
            (time.time(), os.getpid(), fault, size),
        )

    def record_sent(self, fault: str, writes: Sequence[Write]) -> None:
        """Record the writes of a request, for the history of an entity."""
        now, pid = time.time(), os.getpid()
        with self._transaction():
            self._conn.executemany(
                "INSERT INTO sent VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (now, pid, fault, w.space, w.key, w.version, "upsert" if w.body else "delete")
                    for w in writes
                ],
            )

    def write(self, writes: Sequence[Write]) -> list[Result]:
        """Apply one request as a whole, after everything late that is due by now."""
        with self._transaction():
            self._apply_delayed(time.time())
            return [self._apply_and_log(write) for write in writes]

    def write_delayed(self, writes: Sequence[Write], seconds: float) -> None:
        """Let a request be applied ``seconds`` from now."""
        entries = [[w.kind, w.space, w.key, w.version, w.body] for w in writes]
        self._conn.execute(
            "INSERT INTO late (due, writes) VALUES (?, ?)",
            (time.time() + seconds, json.dumps(entries)),
        )

    def apply_delayed(self, *, everything: bool = False) -> None:
        """Apply the late writes that are due, or all of them."""
        with self._transaction():
            self._apply_delayed(float("inf") if everything else time.time())

    def charge(self, text_hashes: Sequence[str]) -> None:
        """The texts of one request are paid."""
        self._conn.executemany(
            "INSERT INTO paid (at, text_hash) VALUES (?, ?)",
            [(time.time(), text_hash) for text_hash in text_hashes],
        )

    def record_kept(self, text_hashes: Sequence[str]) -> None:
        """The vectors of these texts are safe from now on."""
        self._conn.executemany(
            "UPDATE paid SET kept_at = ? WHERE text_hash = ? AND kept_at IS NULL",
            [(time.time(), text_hash) for text_hash in text_hashes],
        )

    def lose_everything(self) -> None:
        """Forget what is held, as a server does that is set up anew."""
        self._conn.executescript("DELETE FROM held; DELETE FROM tombstone; DELETE FROM late;")

    # --- what the oracle asks -----------------------------------------------------------------

    def held(self) -> list[Held]:
        """Everything that is held."""
        rows = self._conn.execute("SELECT kind, space, key, version, body FROM held")
        return [
            Held(kind, space, key, version, json.loads(body))
            for kind, space, key, version, body in rows
        ]

    def delayed_until(self) -> float:
        """When the last late write is due (``time.time()``); 0 when none waits."""
        (due,) = self._conn.execute("SELECT COALESCE(max(due), 0) FROM late").fetchone()
        return float(due)

    def calls(self) -> int:
        """Requests so far."""
        (count,) = self._conn.execute("SELECT count(*) FROM call").fetchone()
        return int(count)

    def faults(self) -> dict[str, int]:
        """Requests so far by what became of them."""
        return dict(self._conn.execute("SELECT trouble, count(*) FROM call GROUP BY 1"))

    def charges(self) -> list[Charge]:
        """Every text of every paid request, in order."""
        rows = self._conn.execute("SELECT at, text_hash, kept_at FROM paid ORDER BY id")
        return [Charge(*row) for row in rows]

    def history(self, key: str) -> list[tuple[float, str]]:
        """(when, what) was sent and applied for a key."""
        sent = self._conn.execute(
            """
            SELECT at, 'sent by ' || pid || ': ' || what || ' ' || version || ' in "' || space
              || '", ' || trouble
            FROM sent WHERE key = ?
            """,
            (key,),
        ).fetchall()
        applied = self._conn.execute(
            """
            SELECT at, 'applied: ' || version || ' in "' || space || '", ' || effect
            FROM applied WHERE key = ?
            """,
            (key,),
        ).fetchall()
        return sorted(sent + applied)

    def older_after_newer(self) -> list[tuple[str, str, int, int]]:
        """(kind, key, version, older version written after it), by the log of every write."""
        rows = self._conn.execute(
            """
            SELECT kind, key, newest, version FROM (
              SELECT kind, key, version, max(version) OVER (
                PARTITION BY kind, key ORDER BY id
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS newest
              FROM applied WHERE effect IN ('written', 'removed'))
            WHERE version < newest
            """
        )
        return [tuple(row) for row in rows]

    # --- inside -------------------------------------------------------------------------------

    @abstractmethod
    def _apply(self, write: Write) -> Result:
        """Apply one record."""

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._conn.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._conn.execute("ROLLBACK")
            raise
        self._conn.execute("COMMIT")

    def _apply_delayed(self, now: float) -> None:
        due = self._conn.execute(
            "SELECT id, writes FROM late WHERE due <= ? ORDER BY due, id", (now,)
        ).fetchall()
        for late_id, writes in due:
            for entry in json.loads(writes):
                self._apply_and_log(Write(*entry))
            self._conn.execute("DELETE FROM late WHERE id = ?", (late_id,))

    def _apply_and_log(self, write: Write) -> Result:
        result = self._apply(write)
        self._conn.execute(
            "INSERT INTO applied (at, kind, space, key, version, effect) VALUES (?,?,?,?,?,?)",
            (time.time(), write.kind, write.space, write.key, write.version, result.effect),
        )
        return result

    def _version(self, write: Write) -> int | None:
        return self._one(
            "SELECT version FROM held WHERE kind = ? AND space = ? AND key = ?",
            (write.kind, write.space, write.key),
        )

    def _one(self, statement: str, values: tuple[Any, ...]) -> int | None:
        row = self._conn.execute(statement, values).fetchone()
        return row[0] if row else None

    def _put(self, write: Write) -> Result:
        self._conn.execute(
            "INSERT OR REPLACE INTO held (kind, space, key, version, body) VALUES (?,?,?,?,?)",
            (write.kind, write.space, write.key, write.version, json.dumps(write.body)),
        )
        return Result(Effect.WRITTEN)

    def _remove(self, write: Write) -> Result:
        cursor = self._conn.execute(
            "DELETE FROM held WHERE kind = ? AND space = ? AND key = ?",
            (write.kind, write.space, write.key),
        )
        return Result(Effect.REMOVED if cursor.rowcount else Effect.ABSENT)


class UnguardedServer(SimulatedServer):
    """The last write wins, whatever its version."""

    def _apply(self, write: Write) -> Result:
        return self._remove(write) if write.body is None else self._put(write)


class GuardedServer(SimulatedServer):
    """An older version is refused; a deletion is remembered. The same version may come again."""

    def __init__(self, path: Path, *, without: frozenset[Rule] = frozenset()) -> None:
        super().__init__(path)
        self._without = without

    def _apply(self, write: Write) -> Result:
        found = self._version(write)
        if found is not None and self._is_newer(found, write.version):
            if write.body is None:
                self._write_tombstone(write)
            return Result(Effect.REFUSED, found)
        if write.body is None:
            self._write_tombstone(write)
            return self._remove(write)
        tombstone = self._one(
            "SELECT version FROM tombstone WHERE kind = ? AND key = ?", (write.kind, write.key)
        )
        if (
            tombstone is not None
            and tombstone >= write.version
            and Rule.TOMBSTONE_GUARD not in self._without
        ):
            return Result(Effect.REFUSED, tombstone)
        return self._put(write)

    def _is_newer(self, found: int, version: int) -> bool:
        if Rule.VERSION_GUARD in self._without:
            return False
        return found > version or (found == version and Rule.SAME_VERSION_AGAIN in self._without)

    def _write_tombstone(self, write: Write) -> None:
        self._conn.execute(
            """
            INSERT INTO tombstone (kind, key, version) VALUES (?, ?, ?)
            ON CONFLICT DO UPDATE SET version = max(version, excluded.version)
            """,
            (write.kind, write.key, write.version),
        )
