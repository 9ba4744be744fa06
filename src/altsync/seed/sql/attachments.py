"""SQL on attachments: staging, the upsert, deletion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from altsync.catalogue.parts import AttachmentTable
from altsync.copying import fill
from altsync.db import Conn
from altsync.seed.changes import Changes


def create_staging(conn: Conn, table: AttachmentTable) -> None:
    """Create the session's temporary table that COPY fills, batch by batch."""
    typed = "".join(f", {name} {kind}" for name, kind in table.columns.items())
    conn.execute(
        f"""
        CREATE TEMP TABLE IF NOT EXISTS staging_{table} (
          id uuid, seed_id text, {table.owner_column} uuid, title text, attributes jsonb,
          content_hash text{typed})
        """
    )


def copy_to_staging(conn: Conn, table: AttachmentTable, rows: Sequence[Sequence[Any]]) -> None:
    """COPY (id, seed_id, owner, title, attributes, content_hash, …) rows into staging."""
    names = ["id", "seed_id", *_columns(table)]
    fill(conn, f"staging_{table}", names, rows)


def _columns(table: AttachmentTable) -> list[str]:
    return [table.owner_column, "title", "attributes", "content_hash", *table.columns]


def upsert(conn: Conn, table: AttachmentTable, *, write: bool) -> Changes:
    """Upsert the staged rows that are new or differ; or only count them."""
    names = _columns(table)
    changed = f"""
        FROM staging_{table} s LEFT JOIN {table} e ON e.id = s.id
        WHERE e.id IS NULL OR {_differs("e", "s", names)}
    """
    upsert = f"""
        INSERT INTO {table} AS t (id, seed_id, {", ".join(names)})
        SELECT s.id, s.seed_id, {", ".join("s." + n for n in names)} {changed} ORDER BY s.id
        ON CONFLICT (id) DO UPDATE SET {", ".join(f"{n} = excluded.{n}" for n in names)},
          updated_at = now()
        WHERE {_differs("t", "excluded", names)}
        RETURNING (xmax = 0) AS created
    """
    source = upsert if write else f"SELECT e.id IS NULL AS created {changed}"
    row = conn.execute(
        f"""
        WITH c AS ({source})
        SELECT count(*) FILTER (WHERE created), count(*) FILTER (WHERE NOT created) FROM c
        """
    ).fetchone()
    assert row is not None
    return Changes(created=row[0], updated=row[1])


def _differs(one: str, other: str, names: Sequence[str]) -> str:
    """Return SQL for whether two rows differ. The hash alone does not show an edit by SQL."""
    pairs = [", ".join(f"{alias}.{name}" for name in names) for alias in (one, other)]
    return f"(ROW({pairs[0]}) IS DISTINCT FROM ROW({pairs[1]}))"


def delete(conn: Conn, table: AttachmentTable, ids: Sequence[UUID]) -> int:
    """Delete attachments. No sink holds them, so there is no tombstone."""
    return conn.execute(f"DELETE FROM {table} WHERE id = ANY(%s)", (list(ids),)).rowcount
