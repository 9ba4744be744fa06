"""The shared state of sinks: registered, enabled, and the wanted embedding model."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from altsync.contract import EMBEDDING, Topology
from altsync.db import Conn
from altsync.installation import make_installation
from altsync.operations import BreakerState


def register_sinks(conn: Conn, topology: Topology, model: str, dimensions: int) -> None:
    """Insert each sink's row of shared state, and set the wanted model if none is set."""
    for sink in topology.names:
        conn.execute("INSERT INTO sink_state (sink) VALUES (%s) ON CONFLICT DO NOTHING", (sink,))
    conn.execute(
        """
        UPDATE sink_state
        SET config = jsonb_build_object('model', %s::text, 'dimensions', %s::int) || config
        WHERE sink = %s AND NOT config ? 'model'
        """,
        (model, dimensions, EMBEDDING),
    )
    make_installation(conn)


def wanted_model(conn: Conn) -> tuple[str, int] | None:
    """Return the embedding model that all processes want, and its dimensions."""
    row = conn.execute(
        "SELECT config ->> 'model', (config ->> 'dimensions')::int FROM sink_state WHERE sink = %s",
        (EMBEDDING,),
    ).fetchone()
    return (row[0], row[1]) if row and row[0] else None


def want_model(conn: Conn, model: str) -> None:
    """Change the model that all processes want; its dimensions stay."""
    conn.execute(
        "UPDATE sink_state SET config = config || jsonb_build_object('model', %s::text) "
        "WHERE sink = %s",
        (model, EMBEDDING),
    )


@dataclass(frozen=True, slots=True)
class SinkHealth:
    """The shared state of a sink, for display."""

    state: BreakerState
    since: datetime
    reason: str | None
    open_until: datetime | None
    last_claim_at: datetime | None
    last_wake_at: datetime | None
    unanswered_wakes: int


def sink_health(conn: Conn) -> dict[str, SinkHealth]:
    """Return the shared state of every sink."""
    rows = conn.execute(
        """
        SELECT sink, CASE WHEN paused_since IS NULL THEN state ELSE 'paused' END,
               COALESCE(paused_since, since),
               COALESCE(pause_reason, reason,
                        (SELECT string_agg(key || ': ' || (value ->> 'reason'), '; ')
                         FROM jsonb_each(config -> 'faults'))),
               open_until, last_claim_at, last_wake_at, unanswered_wakes
        FROM sink_state
        """
    )
    return {r[0]: SinkHealth(BreakerState(r[1]), *r[2:]) for r in rows}


def enabled_sinks(conn: Conn) -> set[str]:
    """Return the sinks that no relay has marked as disabled."""
    rows = conn.execute("SELECT sink FROM sink_state WHERE state <> 'disabled'")
    return {row[0] for row in rows}


def set_enabled(conn: Conn, sink: str, reason: str | None) -> None:
    """Mark a sink as disabled for ``reason``; None enables it again. A pause stays."""
    if reason is None:
        conn.execute(
            "UPDATE sink_state SET state = 'closed', since = now(), reason = NULL "
            "WHERE sink = %s AND state = 'disabled'",
            (sink,),
        )
    else:
        conn.execute(
            "UPDATE sink_state SET state = 'disabled', since = now(), reason = %s "
            "WHERE sink = %s AND state <> 'disabled'",
            (reason, sink),
        )
