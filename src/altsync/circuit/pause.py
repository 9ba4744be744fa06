"""Pause and resume a sink, and have an open breaker probed now."""

from __future__ import annotations

from altsync.db import Conn
from altsync.outbox.enqueue import notify, sanitize


def pause(conn: Conn, sink: str, reason: str) -> bool:
    """Stop claims for ``sink`` until it is resumed; False when it was paused already.

    Leased operations are still settled. After the commit, nothing is claimed. The breaker keeps
    its state, but a probe in progress loses its right. A second pause keeps the time of the
    first, and takes the new reason.
    """
    row = conn.execute(
        """
        INSERT INTO sink_state AS s (sink, paused_since, pause_reason)
        VALUES (%s, now(), %s)
        ON CONFLICT (sink) DO UPDATE SET
          paused_since = COALESCE(s.paused_since, excluded.paused_since),
          pause_reason = excluded.pause_reason,
          state = CASE WHEN s.state = 'probing' THEN 'open' ELSE s.state END,
          probe_token = NULL, probe_until = NULL
        RETURNING paused_since = now()
        """,
        (sink, sanitize(reason)),
    ).fetchone()
    assert row is not None
    return bool(row[0])


def resume(conn: Conn, sink: str) -> bool:
    """Allow claims for a paused sink again; False when it was not paused.

    A disabled sink stays so. An open breaker is probed at once, whether the sink was paused or not.
    """
    resumed = conn.execute(
        "UPDATE sink_state SET paused_since = NULL, pause_reason = NULL "
        "WHERE sink = %s AND paused_since IS NOT NULL",
        (sink,),
    ).rowcount
    probe_now(conn, sink)
    if resumed:
        notify(conn, [sink])
    return resumed == 1


def probe_now(conn: Conn, sink: str) -> bool:
    """Let an open breaker be probed at once; False when the breaker is not open.

    Operations that wait because of the sink become due as well, as the probe needs one.
    """
    opened = conn.execute(
        "UPDATE sink_state SET open_until = now() WHERE sink = %s AND state = 'open'", (sink,)
    ).rowcount
    if opened:
        conn.execute(
            """
            UPDATE sync_operation SET available_at = now() WHERE id IN (
              SELECT id FROM sync_operation
              WHERE sink = %s AND finished_at IS NULL AND status = 'pending'
                AND error_kind = 'sink' AND available_at > now() FOR NO KEY UPDATE SKIP LOCKED)
            """,
            (sink,),
        )
        notify(conn, [sink])
    return opened == 1
