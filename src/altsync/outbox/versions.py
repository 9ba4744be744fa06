"""Read which versions each sink has confirmed.

The lowest version of a live operation bounds what its sink lacks. So a change counts from the first
version on, though a later change of its entity is delivered with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from altsync.contract import EMBEDDING, Topology
from altsync.db import Conn

#: The lowest version that a live operation ``o`` delivers.
_FIRST = "COALESCE(o.first_version, o.version)"

_SOURCES = "unnest(%(sinks)s::text[], %(sources)s::text[]) AS r(sink, source)"


#: Live operations of a sink above which its version is not read: reading so many takes 10 ms.
FAR_BEHIND = 10_000


@dataclass(frozen=True, slots=True)
class Remaining:
    """Operations at or below a version: those that wait, and dead letters."""

    waiting: int = 0
    dead: int = 0


def newest_version(conn: Conn) -> int:
    """Return the newest version. Every committed change has this one or a lower one."""
    row = conn.execute("SELECT last_value FROM entity_version").fetchone()
    assert row is not None
    return int(row[0])


def sources_of(topology: Topology, sink: str) -> list[str]:
    """Return the sinks whose operations lead to a change in ``sink``, itself included."""
    found = [sink]
    traits = topology.traits(sink)
    if traits.follows in topology.names:
        found += sources_of(topology, traits.follows)
    if traits.needs_embedding:
        found.append(EMBEDDING)
    return list(dict.fromkeys(found))


def remaining(
    conn: Conn, topology: Topology, sinks: Sequence[str], version: int
) -> dict[str, Remaining]:
    """Return what is left to deliver of the changes up to a version, by sink, in one snapshot."""
    rows = conn.execute(
        f"""
        SELECT sink, sum(waiting)::bigint, sum(dead)::bigint FROM (
          SELECT r.sink, count(*) AS waiting, 0 AS dead
          FROM {_SOURCES} JOIN sync_operation o ON o.sink = r.source
          WHERE o.finished_at IS NULL AND {_FIRST} <= %(version)s GROUP BY 1
          UNION ALL
          SELECT r.sink, 0, count(*)
          FROM {_SOURCES} JOIN sync_operation o ON o.sink = r.source
          WHERE o.status = 'dead' AND {_FIRST} <= %(version)s GROUP BY 1) x
        GROUP BY sink
        """,
        {**_pairs(topology, sinks), "version": version},
    )
    found = {sink: Remaining(waiting, dead) for sink, waiting, dead in rows}
    return {sink: found.get(sink, Remaining()) for sink in sinks}


def confirmed_versions(
    conn: Conn, topology: Topology, sinks: Sequence[str]
) -> tuple[int, dict[str, int | None]]:
    """Return the newest version, and the version up to which each sink has all changes.

    Dead letters are left out of account, and changes that are not committed. None for a sink with
    more than ``FAR_BEHIND`` live operations: their lowest version would cost a scan of them.
    """
    row = conn.execute(
        f"""
        SELECT (SELECT last_value FROM entity_version),
          ARRAY(SELECT json_build_array(r.sink, min(x.first), max(x.rows) > %(most)s)
                FROM {_SOURCES}
                CROSS JOIN LATERAL (
                  SELECT min(first) AS first, count(*) AS rows FROM (
                    SELECT {_FIRST} AS first FROM sync_operation o
                    WHERE o.sink = r.source AND o.finished_at IS NULL LIMIT %(most)s + 1) live) x
                GROUP BY r.sink)
        """,
        {**_pairs(topology, sinks), "most": FAR_BEHIND},
    ).fetchone()
    assert row is not None
    newest, found = row
    return newest, {
        sink: None if far else newest if first is None else min(newest, first - 1)
        for sink, first, far in found
    }


def _pairs(topology: Topology, sinks: Sequence[str]) -> Mapping[str, list[str]]:
    pairs = [(sink, source) for sink in sinks for source in sources_of(topology, sink)]
    return {"sinks": [sink for sink, _ in pairs], "sources": [source for _, source in pairs]}
