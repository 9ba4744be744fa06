"""List the events of one entity, to find the cause of a violation."""

from __future__ import annotations

import time
from typing import Any

import psycopg
from psycopg.rows import dict_row

from tests.faults.oracle import TABLES
from tests.faults.sandbox import NEO4J, PINECONE, Sandbox

#: Lines shown: the last ones matter.
SHOWN = 80

#: Columns of an operation that are long, or say nothing of what happened.
HIDDEN = ("entity_type", "entity_id", "entity_key", "created_at", "lease_token", "last_timeout_at")


def history(sandbox: Sandbox, key: str) -> str:
    """Every operation, request and effect of the entity with this key, in order, and its rows."""
    events: list[tuple[float, str]] = []
    for sink in (NEO4J, PINECONE):
        server = sandbox.server(sink)
        events += [(at, f"{sink}: {what}") for at, what in server.history(key)]
        server.close()
    with psycopg.connect(sandbox.url, autocommit=True, row_factory=dict_row) as conn:
        for row in conn.execute(
            "SELECT * FROM sync_operation WHERE entity_key = %s ORDER BY id", (key,)
        ):
            events.append((row["created_at"].timestamp(), f"operation: {_plain(row)}"))
        rows = [
            _plain(row)
            for table, (column, _) in TABLES.items()
            for row in conn.execute(f"SELECT * FROM {table} WHERE {column} = %s", (key,))
        ]
    lines = [f"{_clock(at)} {what}" for at, what in sorted(events)[-SHOWN:]]
    return "\n".join([f"What happened to {key}:", *lines, *rows])


def _plain(row: dict[str, Any]) -> str:
    shown = {k: v for k, v in row.items() if k not in HIDDEN and v not in (None, False, 0, [])}
    return ", ".join(f"{name} {_short(value)}" for name, value in shown.items())


def _short(value: Any) -> str:
    return _clock(value.timestamp()) if hasattr(value, "timestamp") else str(value)[:60]


def _clock(at: float) -> str:
    return time.strftime("%M:%S", time.gmtime(at)) + f"{at % 1:.3f}"[1:]
