"""SQL of entities: staging, and the guarded upsert with its operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from altsync.contract import EMBEDDING, Topology
from altsync.copying import fill
from altsync.db import Conn
from altsync.entities import EntityType
from altsync.generations import model_of
from altsync.operations import Origin
from altsync.outbox.edges import input_hash_of
from altsync.outbox.enqueue import enqueue_parameters, notify, select_operations
from altsync.seed.changes import Changes
from altsync.seed.sql.current import (
    count_current,
    current_of_staged,
    current_sinks,
    pending_unless_current,
)
from altsync.seed.sql.seen import note_changes
from altsync.store.rows import CHANGED, HALF_HASH, SAVED, row_sum


def create_staging(conn: Conn, entity_type: EntityType) -> None:
    """Create the session's temporary table that COPY fills, batch by batch."""
    columns = ", ".join(f"{name} {kind}" for name, kind in entity_type.columns.items())
    conn.execute(
        f"""
        CREATE TEMP TABLE IF NOT EXISTS staging_{entity_type} (
          id uuid NOT NULL, seed_id text NOT NULL, {columns},
          content_hash text NOT NULL, text_hash text NOT NULL, line_hash text)
        """
    )


def copy_to_staging(
    conn: Conn, entity_type: EntityType, rows: Sequence[Sequence[str | None]]
) -> None:
    """COPY rows of id, seed_id, content columns…, content_hash, text_hash, line_hash."""
    hashes = ["content_hash", "text_hash", "line_hash"]
    columns = ["id", "seed_id", *entity_type.columns, *hashes]
    fill(conn, f"staging_{entity_type}", columns, rows)


class ExistingRow(NamedTuple):
    """The key and hashes of a stored entity.

    ``content_hash`` is None for a deleted one. ``fits``: by its ``line_hash``, the row is as a
    seeding run has written it. ``fingerprint`` is that of its line.
    """

    key: str
    content_hash: str | None
    fits: bool = True
    text_hash: str | None = None
    fingerprint: str | None = None

    def is_same(self, content_hash: str, text_hash: str, fingerprint: str) -> bool:
        """Return whether a line with these hashes changes nothing, not even its own hash."""
        hashes = (self.content_hash, self.text_hash, self.fingerprint)
        return self.fits and hashes == (content_hash, text_hash, fingerprint)


def existing_rows(
    conn: Conn, entity_type: EntityType, seed_ids: Sequence[str]
) -> dict[str, ExistingRow]:
    """Return stored entities by seed id, so that unchanged lines are not staged."""
    rows = conn.execute(
        f"""
        SELECT seed_id, {entity_type.key_column},
               CASE WHEN deleted_at IS NULL THEN content_hash END,
               COALESCE(strpos(l.line_hash, '-') = 0
                        AND {_FITS.format(sum=row_sum(entity_type, "l"))}, false),
               text_hash, left(line_hash, {HALF_HASH})
        FROM {entity_type} l WHERE seed_id = ANY(%s)
        """,
        (list(seed_ids),),
    )
    return {seed_id: ExistingRow(*found) for seed_id, *found in rows}


#: Whether a row ``l`` is the one that its ``line_hash`` was written with.
_FITS = f"substr(l.line_hash, {HALF_HASH + 1}) = left(l.content_hash, {HALF_HASH}) || {{sum}}"


def unchanged_lines(
    conn: Conn, entity_type: EntityType, seed_ids: Sequence[str], fingerprints: Sequence[str]
) -> set[int]:
    """Return the positions, from 1, of lines that wrote the living entity of their id."""
    rows = conn.execute(
        f"""
        SELECT line.place
        FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS line (seed_id, fingerprint, place)
        JOIN LATERAL (SELECT line_hash, content_hash, {row_sum(entity_type, "l")} AS sum
                      FROM {entity_type} l
                      WHERE l.seed_id = line.seed_id AND deleted_at IS NULL OFFSET 0) l ON true
        WHERE l.line_hash = line.fingerprint || left(l.content_hash, {HALF_HASH}) || l.sum
        """,
        (list(seed_ids), list(fingerprints)),
    )
    return {place for (place,) in rows}


def stage_values(
    entity_type: EntityType, rows: Sequence[Sequence[str | None]]
) -> tuple[str, dict[str, list[str | None]]]:
    """Return a CTE in place of the staging table, and its parameters, so that no COPY is needed.

    ``rows`` are those of ``copy_to_staging``.
    """
    typed = {"id": "uuid", "seed_id": "text", **entity_type.columns}
    typed |= {"content_hash": "text", "text_hash": "text", "line_hash": "text"}
    values = ", ".join(f"v{n}::{kind} AS {name}" for n, (name, kind) in enumerate(typed.items()))
    arrays = ", ".join(f"%(v{n})s::text[]" for n in range(len(typed)))
    names = ", ".join(f"v{n}" for n in range(len(typed)))
    parameters = {f"v{n}": list(column) for n, column in enumerate(zip(*rows, strict=True))}
    cte = (
        f"staging_{entity_type} AS MATERIALIZED (SELECT {values} FROM unnest({arrays}) s({names}))"
    )
    return cte, parameters


def classify_staged(conn: Conn, entity_type: EntityType, topology: Topology) -> Changes:
    """Return what ``upsert_staged`` would change, without writing."""
    current = count_current(entity_type, topology)
    row = conn.execute(
        f"""
        SELECT count(*) FILTER (WHERE e.id IS NULL), count(*) FILTER (WHERE e.id IS NOT NULL),
               COALESCE(sum(%(direct)s::int + CASE
                 WHEN e.embedding_text_hash = s.text_hash AND {model_of("e")} = m.model
                 THEN %(vector)s::int - ({current})
                      + (e.deleted_at IS NOT NULL)::int * %(derived)s::int
                 ELSE 1 END), 0)
        FROM {_staged(entity_type)}
        LEFT JOIN (SELECT config ->> 'model' AS model FROM sink_state
                   WHERE sink = '{EMBEDDING}') m ON true
        WHERE {_changed(entity_type)}
        """,
        {
            "direct": len(topology.direct),
            "vector": len(topology.vector),
            "derived": _derived(entity_type, topology),
        },
    ).fetchone()
    assert row is not None
    return Changes(created=row[0], updated=row[1], operations=int(row[2]))


def _staged(entity_type: EntityType) -> str:
    """Return SQL for the staged rows ``s``, each with the row ``e`` that it would replace."""
    # OFFSET 0 keeps the planner from reading the whole table for each batch.
    return f"""staging_{entity_type} s LEFT JOIN LATERAL (
          SELECT * FROM {entity_type} there WHERE there.id = s.id OFFSET 0) e ON true"""


def _changed(entity_type: EntityType) -> str:
    differs = _differs(entity_type, "e", "s")
    return f"e.id IS NULL OR e.deleted_at IS NOT NULL OR {differs}"


class StagedChange(NamedTuple):
    """A staged row that ``upsert_staged`` would write, as PostgreSQL holds its entity now.

    ``current`` are the sinks that need no write. The other fields are None for a new entity, but
    for its id.
    """

    id: UUID
    key: str | None
    embedded_text: str | None
    model: str | None
    current: Sequence[str]


def staged_changes(conn: Conn, entity_type: EntityType, model: str) -> dict[str, StagedChange]:
    """Return the staged rows that ``upsert_staged`` would write, by seed id.

    ``model`` is the name of the model that embeds.
    """
    rows = conn.execute(
        f"""
        SELECT s.seed_id, s.id, e.{entity_type.key_column}, e.embedding_text_hash,
               {model_of("e")}, {current_of_staged(entity_type, "%(model)s")}
        FROM {_staged(entity_type)} WHERE {_changed(entity_type)}
        """,
        {"model": model},
    )
    return {seed_id: StagedChange(*found) for seed_id, *found in rows}


def _derived(entity_type: EntityType, topology: Topology) -> int:
    """Return the number of sinks that search the neighbours of a restored entity."""
    return len(topology.followers(EMBEDDING)) if entity_type.similar else 0


#: A new entity waits for its relationships, unless a leading sink is paused, open or disabled.
_HELD = """c.created AND (SELECT bool_and(state = 'closed' AND paused_since IS NULL)
                          FROM sink_state WHERE sink = ANY(%(leaders)s::text[]))"""


def upsert_staged(
    conn: Conn,
    entity_type: EntityType,
    topology: Topology,
    *,
    absent: bool = False,
    noted: bool = True,
    saved: Sequence[Sequence[str | None]] | None = None,
) -> Changes:
    """Upsert what changed in staging and enqueue its operations, in the caller's transaction.

    A row that another seeder has written alike meanwhile is not written. The version is drawn
    under the row's lock: one drawn earlier could be older than a committed one.

    ``absent``: the caller has read that no staged entity exists, not even a deleted one. Then no
    row is guarded, as a guard costs a third of its INSERT. Raises ``UniqueViolation`` when another
    seeder has created one since. ``noted``: the caller reads ``changed_in_run`` later. ``saved``:
    rows that a program saves, in place of the staging table.
    """
    staged, values = stage_values(entity_type, saved) if saved is not None else ("", {})
    columns = list(entity_type.columns)
    names = ", ".join(columns)
    note = f", noted AS ({note_changes(entity_type)})" if noted else ""
    similar = entity_type.similar is not None
    unsearched = (
        f"l.neighbours_input_hash IS DISTINCT FROM {input_hash_of(entity_type)}" if similar else ""
    )
    searched = f", {unsearched} AS unsearched" if similar else ""
    operations = select_operations(
        entity_type,
        "changed",
        origin=Origin.SEED if saved is None else Origin.UPDATE,
        unsearched="c.unsearched" if similar else None,
        held=_HELD if similar and topology.relating_locally else None,
        left_out="c.current",
    )
    row = conn.execute(
        f"""
        WITH {staged}{", " if staged else ""}
        wanted AS (SELECT config ->> 'model' AS model FROM sink_state
                   WHERE sink = '{EMBEDDING}'),
        changed AS (
          INSERT INTO {entity_type} AS l
            (id, seed_id, {names}, content_hash, text_hash, line_hash)
          SELECT s.id, s.seed_id, {", ".join("s." + c for c in columns)},
                 s.content_hash, s.text_hash, s.line_hash || {row_sum(entity_type, "s")}
          FROM staging_{entity_type} s ORDER BY s.id
          {"" if absent else _renew(entity_type, saved=saved is not None)}
          RETURNING l.id, l.{entity_type.key_column} AS key, l.version, l.graph_version,
                    (xmax = 0) AS created,
                    COALESCE(l.embedding_text_hash = l.text_hash
                             AND {model_of()} = (SELECT model FROM wanted), false)
                      AS embedded{searched}, {current_sinks()} AS current),
        enqueued AS ({operations} RETURNING 1)
        {note}
        SELECT count(*) FILTER (WHERE created), count(*) FILTER (WHERE NOT created),
               (SELECT count(*) FROM enqueued)
        FROM changed
        """,
        enqueue_parameters(topology) | values,
    ).fetchone()
    assert row is not None
    if row[2]:
        notify(conn, topology.names)
    return Changes(created=row[0], updated=row[1], operations=row[2])


def note_lines(conn: Conn, entity_type: EntityType) -> None:
    """Set the ``line_hash`` of rows that hold the staged values and lack it.

    Rows lack it after an older release without ``row_sum``, or another version of PostgreSQL.
    Rows are updated in the order of ids.
    """
    conn.execute(
        f"""
        WITH lacking AS MATERIALIZED (
          SELECT l.id, s.line_hash || {row_sum(entity_type, "s")} AS line_hash
          FROM {entity_type} l JOIN staging_{entity_type} s ON s.id = l.id
          WHERE l.deleted_at IS NULL AND {row_sum(entity_type, "l")} = {row_sum(entity_type, "s")}
            AND l.line_hash IS DISTINCT FROM s.line_hash || {row_sum(entity_type, "s")}
          ORDER BY l.id FOR NO KEY UPDATE OF l)
        UPDATE {entity_type} l SET line_hash = c.line_hash FROM lacking c WHERE l.id = c.id
        """
    )


def _differs(entity_type: EntityType, one: str, other: str) -> str:
    """Return SQL for whether two rows differ in content or hashes."""
    columns = [*entity_type.columns, "content_hash", "text_hash"]
    pairs = [", ".join(f"{alias}.{c}" for c in columns) for alias in (one, other)]
    return f"(ROW({pairs[0]}) IS DISTINCT FROM ROW({pairs[1]}))"


#: The ``line_hash`` of a saved row. ``--prune`` may delete a seeded row that a program has changed.
_SAVED_LINE = f"""
CASE WHEN l.deleted_at IS NOT NULL OR left(l.line_hash, {HALF_HASH}) = '{SAVED}'
     THEN excluded.line_hash
     ELSE '{CHANGED}' || substr(excluded.line_hash, {HALF_HASH + 1}) END
"""


#: Sinks delete former keys: add the replaced key, and take out one that the entity has again.
_FORMER_KEYS = """
former_keys = CASE WHEN l.{key} = excluded.{key} THEN l.former_keys
                   ELSE array_remove(l.former_keys || l.{key}, excluded.{key}) END
"""


def _renew(entity_type: EntityType, *, saved: bool) -> str:
    columns = entity_type.columns
    # An entity may be searched in another group and then return to this one with the same vector.
    # The hash is cleared, so that it is searched again.
    within = entity_type.similar.within if entity_type.similar else None
    stays = f"l.{within} = excluded.{within} AND " if within else ""
    forget = (
        f", neighbours_input_hash = CASE WHEN {stays}l.deleted_at IS NULL "
        "THEN l.neighbours_input_hash END"
    )
    return f"""
    ON CONFLICT (id) DO UPDATE SET
      {", ".join(f"{c} = excluded.{c}" for c in columns)},
      content_hash = excluded.content_hash, text_hash = excluded.text_hash,
      {_FORMER_KEYS.format(key=entity_type.key_column)},
      line_hash = {_SAVED_LINE if saved else "excluded.line_hash"},
      version = nextval('entity_version'), updated_at = now(), deleted_at = NULL,
      {pending_unless_current(entity_type)},
      embedding_sync_status = CASE
        WHEN l.embedding_text_hash = excluded.text_hash
         AND {model_of()} = (SELECT model FROM wanted)
        THEN 'synced' ELSE 'pending' END
      {forget if entity_type.similar else ""}
    WHERE l.deleted_at IS NOT NULL OR {_differs(entity_type, "l", "excluded")}
    """
