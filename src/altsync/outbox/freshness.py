"""Count confirmed changes by their age, in minutes; read and prune the counts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from altsync.contract import EMBEDDING
from altsync.db import Conn
from altsync.declarations import SINKS
from altsync.freshness import WINDOWS, Counts, Freshness, freshness_of

#: Adds a batch's counts to the minute's. Sorted, so that two workers cannot deadlock.
COUNT = """
INSERT INTO freshness AS f (sink, minute, bucket, count)
SELECT %(sink)s, date_trunc('minute', now(), 'UTC'), r.bucket, r.count
FROM unnest(%(buckets)s::smallint[], %(counts)s::integer[]) AS r(bucket, count) ORDER BY r.bucket
ON CONFLICT (sink, minute, bucket) DO UPDATE SET count = f.count + excluded.count
"""


def windows(conn: Conn) -> dict[str, dict[str, Counts]]:
    """Return the counts of each sink in the windows until now."""
    columns = ", ".join(
        f"COALESCE(sum(count) FILTER (WHERE minute > now() - interval '{seconds} s'), 0)"
        for seconds in WINDOWS.values()
    )
    # One scan of the key for each sink: the key begins with it.
    rows = conn.execute(
        f"""
        SELECT s.sink, f.bucket, {columns} FROM sink_state s
        JOIN freshness f ON f.sink = s.sink
         AND f.minute > now() - interval '{max(WINDOWS.values())} s'
        GROUP BY s.sink, f.bucket
        """
    )
    found: dict[str, dict[str, dict[int, int]]] = {}
    for sink, bucket, *counts in rows:
        of_sink = found.setdefault(sink, {name: {} for name in WINDOWS})
        for name, count in zip(WINDOWS, counts, strict=True):
            if count:
                of_sink[name][bucket] = int(count)
    return {sink: dict(of_sink) for sink, of_sink in found.items()}


def overdue(sink: str, seconds: float, late: Mapping[str, Mapping[float, int]]) -> int:
    """Return the number of waiting changes that are older than the objective of a sink.

    ``late`` counts them by sink and age. A change whose text is not embedded yet waits for the
    sinks behind the embedding, too.
    """
    sources = {sink, EMBEDDING} if _needs_embedding(sink) else {sink}
    return sum(late.get(one, {}).get(seconds, 0) for one in sources)


def _needs_embedding(sink: str) -> bool:
    return sink in SINKS and SINKS[sink].traits.needs_embedding


def freshness(
    conn: Conn,
    objectives: Mapping[str, float],
    target: float,
    late: Mapping[str, Mapping[float, int]],
) -> dict[str, Freshness]:
    """Return the freshness of each sink that has an objective or a confirmed change.

    ``objectives`` are in seconds, by sink. ``late`` counts waiting changes by sink and age.
    """
    waits = {sink: overdue(sink, seconds, late) for sink, seconds in objectives.items()}
    counts = windows(conn)
    return {
        sink: freshness_of(counts.get(sink, {}), objectives.get(sink), target, waits.get(sink, 0))
        for sink in dict.fromkeys([*counts, *objectives])
    }


def prune_freshness(conn: Conn, before: datetime) -> int:
    """Remove the counts of minutes before a time; return how many."""
    return conn.execute("DELETE FROM freshness WHERE minute < %s", (before,)).rowcount
