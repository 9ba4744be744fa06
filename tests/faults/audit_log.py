"""Events that are noted during a run, for the oracle's check at rest."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from altsync.db import Conn, Database
from tests import sports

#: Events of the log that are counted.
COUNTED = frozenset(
    {
        "batch.retried",
        "breaker.opened",
        "lease.lost",
        "operations.dead_lettered",
        "operations.lease_lost",
        "sink.ahead",
        "sink.failed",
    }
)

#: Notes every change of an entity that does not raise its version.
AUDIT = """
CREATE TABLE IF NOT EXISTS faults_audit (
  entity_type text, id uuid, old_version bigint, new_version bigint);
CREATE OR REPLACE FUNCTION faults_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.version < OLD.version
     OR (NEW.version = OLD.version AND (NEW.content_hash <> OLD.content_hash
         OR (NEW.deleted_at IS NULL) <> (OLD.deleted_at IS NULL)))
     OR NEW.graph_version < OLD.graph_version THEN
    INSERT INTO faults_audit VALUES (TG_TABLE_NAME, NEW.id, OLD.version, NEW.version);
  END IF;
  RETURN NULL;
END $$;
"""

AUDIT_OF = """
CREATE OR REPLACE TRIGGER faults_audit AFTER UPDATE ON {table}
FOR EACH ROW EXECUTE FUNCTION faults_audit()
"""


def watch_versions(conn: Conn) -> None:
    """Let the database note versions that do not go up."""
    conn.execute(AUDIT)
    for entity_type in sports.TYPES:
        conn.execute(AUDIT_OF.format(table=entity_type))


def speed_up(conn: Conn, *, deadlock_timeout: str) -> None:
    """For sessions to come: commits wait for no disk, and deadlocks are found sooner.

    No test here ends the server, so nothing that was committed can be lost.
    """
    for setting in ("synchronous_commit = off", f"deadlock_timeout = '{deadlock_timeout}'"):
        conn.execute(f"ALTER DATABASE {conn.info.dbname} SET {setting}")


class AuditLog:
    """Events of all processes in one file. A short line is appended whole, or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, event: str, **details: Any) -> None:
        """Append one event."""
        line = json.dumps({"at": time.time(), "pid": os.getpid(), "event": event, **details})
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, line.encode() + b"\n")
        finally:
            os.close(descriptor)

    def read(self) -> list[dict[str, Any]]:
        """Every event so far."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def counts(self) -> Counter[str]:
        """Events by name."""
        return Counter(entry["event"] for entry in self.read())

    def follow_log(self) -> None:
        """Note what altsync logs of ``COUNTED``, and keep the rest quiet."""
        structlog.configure(processors=[self._take], cache_logger_on_first_use=False)

    def _take(
        self, _logger: Any, _method: str, event: MutableMapping[str, Any]
    ) -> Mapping[str, Any]:
        name = event.pop("event")
        if name in COUNTED:
            event.pop("exc_info", None)
            self.note(name, **{key: str(value) for key, value in event.items()})
        raise structlog.DropEvent


class WatchedDatabase(Database):
    """Knows whether this thread has a transaction open."""

    def __init__(self, url: str, *, name: str, size: int = 4) -> None:
        super().__init__(url, name=name, size=size)
        self._mine = threading.local()

    @property
    def in_transaction(self) -> bool:
        """Return whether this thread is between BEGIN and COMMIT."""
        return getattr(self._mine, "depth", 0) > 0

    @contextmanager
    def transaction(self) -> Iterator[Conn]:
        """As the product's own, counted."""
        with super().transaction() as conn:
            self._mine.depth = getattr(self._mine, "depth", 0) + 1
            try:
                yield conn
            finally:
                self._mine.depth -= 1
