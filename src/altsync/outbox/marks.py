"""Keep the positions at which the last writes to an index can be read.

An index that lags behind its writes numbers them for each namespace. A query that names this
position or a later one has seen the write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from altsync.catalogue.current import current
from altsync.contract import SinkTraits
from altsync.db import Conn
from altsync.entities import EntityType

#: Positions by entity type and namespace.
Marks = Mapping[tuple[EntityType, str], int]

#: Age of a mark from which a lower one replaces it. Positions only fall when an index was made
#: again, and a batch is settled long before that.
REPLACED_AFTER = "10 minutes"

#: Age from which a mark counts as seen. An index that lags for longer is broken, and each check
#: costs a query.
LONGEST_LAG = "1 hour"

#: Stores the marks of one type. Settlements of several workers may come in any order. Sorted, so
#: that two of them cannot deadlock.
KEEP = f"""
INSERT INTO visibility_mark AS m (sink, entity_type, namespace, mark)
SELECT %(sink)s, %(kind)s, r.namespace, r.mark
FROM unnest(%(spaces)s::text[], %(marks)s::bigint[]) AS r(namespace, mark) ORDER BY r.namespace
ON CONFLICT (sink, entity_type, namespace) DO UPDATE
SET mark = excluded.mark, written_at = now()
WHERE excluded.mark > m.mark OR m.written_at < now() - interval '{REPLACED_AFTER}'
"""


def parameters(sink: SinkTraits, kind: EntityType, marks: Marks) -> dict[str, Any] | None:
    """Return the parameters of ``KEEP`` for one type; None without marks of it."""
    found = {space: mark for (of, space), mark in marks.items() if of is kind}
    if not found:
        return None
    spaces, values = list(found), list(found.values())
    return {"sink": sink.name, "kind": kind.value, "spaces": spaces, "marks": values}


def read_marks(
    conn: Conn, sinks: Sequence[str], kind: EntityType | None = None
) -> dict[str, dict[tuple[EntityType, str], int]]:
    """Return the marks of the last hour by sink, of one type if ``kind`` is given.

    A sink without any mark, old or new, is left out: its store names no positions.
    """
    rows = conn.execute(
        f"""
        SELECT sink, entity_type, namespace,
               CASE WHEN written_at > now() - interval '{LONGEST_LAG}' THEN mark END
        FROM visibility_mark
        WHERE sink = ANY(%s) AND (%s::text IS NULL OR entity_type = %s)
        """,
        (list(sinks), kind, kind),
    )
    found: dict[str, dict[tuple[EntityType, str], int]] = {}
    known = current().by_table
    for sink, entity_type, namespace, mark in rows:
        of_sink = found.setdefault(sink, {})
        if entity_type in known and mark is not None:
            of_sink[known[entity_type], namespace] = mark
    return found
