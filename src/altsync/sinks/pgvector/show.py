"""Show the vector of one entity for ``why``, and check the server for ``doctor``."""

from __future__ import annotations

from dataclasses import replace

from altsync.config import Settings
from altsync.db import connect
from altsync.entities import Row
from altsync.log import redact
from altsync.protocols import Shown
from altsync.sinks.pgvector.write import Sink
from altsync.sinks.vectors import show_vectors


def show(sink: Sink, row: Row) -> Shown:
    """Ask for the entity's row. Raises ``SinkFailure``."""
    held = sink.find(row.entity_type, row.key)
    shown = show_vectors(row, [] if held is None else [held])
    deleted = sink.tombstones(row.entity_type, [row.key])
    lines = tuple(f"deleted there as of version {version}" for version in deleted.values())
    return replace(shown, lines=(*shown.lines, *lines))


def forget(sink: Sink, row: Row) -> None:
    """Remove the tombstones of a deleted entity. Raises ``SinkFailure``."""
    sink.forget_deletions(row.entity_type, [row.key, *row.former_keys])


def check(settings: Settings, sink: Sink, timeout: float) -> str:
    """Return which server and extension answer. Raises what psycopg raises."""
    url = settings.pgvector_url
    assert url is not None
    with connect(url.get_secret_value()) as conn:
        row = conn.execute(
            "SELECT current_setting('server_version'), "
            "(SELECT extversion FROM pg_extension WHERE extname = 'vector')"
        ).fetchone()
        place = f"{conn.info.host}:{conn.info.port}/{conn.info.dbname}"
    assert row is not None
    server, extension = row
    return f"pgvector {extension}, PostgreSQL {server.split()[0]} at {redact(place)}"
