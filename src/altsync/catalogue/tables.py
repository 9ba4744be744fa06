"""Check at the start of a process that the database has the declared tables."""

from __future__ import annotations

from collections.abc import Iterable

from altsync.db import Conn
from altsync.entities import EntityType
from altsync.errors import SchemaError


def check_tables(conn: Conn, kinds: Iterable[EntityType]) -> None:
    """Raise ``SchemaError`` with the missing tables and columns of entities."""
    wanted = [(kind.value, column) for kind in kinds for column in kind.columns]
    rows = conn.execute(
        """
        SELECT w.relation, CASE WHEN to_regclass(w.relation) IS NOT NULL THEN w.attribute END
        FROM unnest(%s::text[], %s::text[]) AS w(relation, attribute)
        WHERE NOT EXISTS (SELECT 1 FROM pg_attribute a
                          WHERE a.attrelid = to_regclass(w.relation) AND a.attname = w.attribute
                            AND NOT a.attisdropped)
        ORDER BY 1, 2
        """,
        ([one[0] for one in wanted], [one[1] for one in wanted]),
    ).fetchall()
    missing = dict.fromkeys(
        table if column is None else f"{table}.{column}" for table, column in rows
    )
    if missing:
        raise SchemaError(
            f"the database lacks what the catalogue declares ({', '.join(missing)}): "
            "run altsync migrate"
        )
