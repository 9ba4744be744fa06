"""Rows that SQL has edited, and results that sinks inside PostgreSQL lack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from altsync.contract import EMBEDDING, SIMILARITY
from altsync.db import Conn
from altsync.entities import EntityType, Row
from altsync.generations import model_of
from altsync.outbox.edges import input_hash_of
from altsync.projection import is_edited
from altsync.store.rows import HALF_HASH, read_rows, row_sum
from altsync.store.vectors import HAS_VECTOR


@dataclass(frozen=True, slots=True)
class Gap:
    """An entity whose result in PostgreSQL is ``missing``, or else stale."""

    id: UUID
    key: str
    missing: bool
    in_progress: bool


def edited_rows(
    conn: Conn,
    entity_type: EntityType,
    *,
    after: UUID | None,
    limit: int,
    ids: Sequence[UUID] | None = None,
) -> tuple[list[Row], UUID | None]:
    """Return the rows of one page of living entities whose content does not fit their hashes.

    PostgreSQL's own checksum finds rows that are as altsync wrote them. Only other rows are read
    and hashed. Also returns the id after which the next page begins, None at the end. ``ids``
    narrows the page.
    """
    rows = conn.execute(
        f"""
        SELECT id, COALESCE(substr(line_hash, {HALF_HASH + 1})
                 = left(content_hash, {HALF_HASH}) || {row_sum(entity_type, "l")}, false)
        FROM {entity_type} l WHERE id > %(after)s AND deleted_at IS NULL
          AND (%(ids)s::uuid[] IS NULL OR id = ANY(%(ids)s))
        ORDER BY id LIMIT %(limit)s
        """,
        {
            "after": after or UUID(int=0),
            "limit": limit,
            "ids": None if ids is None else list(ids),
        },
    ).fetchall()
    changed = [row[0] for row in rows if not row[1]]
    read = read_rows(conn, entity_type, changed) if changed else []
    edited = [row for row in read if not row.deleted and is_edited(row)]
    return edited, rows[-1][0] if len(rows) == limit else None


def embedding_gaps(
    conn: Conn,
    entity_type: EntityType,
    *,
    after: UUID | None,
    limit: int,
    ids: Sequence[UUID] | None = None,
) -> tuple[list[Gap], UUID | None]:
    """Return the entities of one page that lack the wanted vector.

    One statement reads vector and operations, so that they belong together. Also returns the id
    after which the next page begins, None at the end. ``ids`` narrows the page.
    """
    return _gaps_of(
        conn,
        f"""
        WITH page AS MATERIALIZED (
          SELECT l.id, l.{entity_type.key_column} AS key,
                 NOT {HAS_VECTOR} AS missing,
                 l.embedding_text_hash IS DISTINCT FROM l.text_hash
                   OR {model_of()} IS DISTINCT FROM e.config ->> 'model' AS stale
          FROM {entity_type} l LEFT JOIN sink_state e ON e.sink = '{EMBEDDING}'
          WHERE l.id > %(after)s AND l.deleted_at IS NULL
            AND (%(ids)s::uuid[] IS NULL OR l.id = ANY(%(ids)s))
          ORDER BY l.id LIMIT %(limit)s)
        SELECT p.id, p.key, p.missing, EXISTS (
                 SELECT 1 FROM sync_operation o WHERE o.entity_id = p.id
                   AND o.sink = '{EMBEDDING}' AND o.finished_at IS NULL),
               p.missing OR p.stale
        FROM page p ORDER BY p.id
        """,
        after=after,
        limit=limit,
        ids=ids,
    )


def similarity_gaps(
    conn: Conn,
    entity_type: EntityType,
    follows: str,
    *,
    after: UUID | None,
    limit: int,
    ids: Sequence[UUID] | None = None,
) -> tuple[list[Gap], UUID | None]:
    """Return the entities of one page whose neighbours were not computed from their vectors.

    Only entities that the sink ``follows`` has confirmed are compared: others are not searched yet.
    """
    return _gaps_of(
        conn,
        f"""
        WITH page AS MATERIALIZED (
          SELECT l.id, l.{entity_type.key_column} AS key,
                 l.{follows}_sync_status = 'synced' AND l.embedding_text_hash IS NOT NULL
                   AND l.neighbours_input_hash IS DISTINCT FROM {input_hash_of(entity_type)}
                   AS missing
          FROM {entity_type} l WHERE l.id > %(after)s AND l.deleted_at IS NULL
            AND (%(ids)s::uuid[] IS NULL OR l.id = ANY(%(ids)s))
          ORDER BY l.id LIMIT %(limit)s)
        SELECT p.id, p.key, true, EXISTS (
                 SELECT 1 FROM sync_operation o WHERE o.entity_id = p.id
                   AND o.sink IN ('{EMBEDDING}', '{follows}', '{SIMILARITY}')
                   AND o.finished_at IS NULL),
               p.missing
        FROM page p ORDER BY p.id
        """,
        after=after,
        limit=limit,
        ids=ids,
    )


def _gaps_of(
    conn: Conn, statement: str, *, after: UUID | None, limit: int, ids: Sequence[UUID] | None
) -> tuple[list[Gap], UUID | None]:
    """Return the gaps of one page, and the id after which the next page begins.

    The statement selects the fields of a ``Gap``, and whether it is one.
    """
    wanted = None if ids is None else list(ids)
    rows = conn.execute(
        statement,
        {"after": after or UUID(int=0), "limit": limit, "ids": wanted},
    ).fetchall()
    gaps = [Gap(*row[:4]) for row in rows if row[4]]
    return gaps, rows[-1][0] if len(rows) == limit else None
