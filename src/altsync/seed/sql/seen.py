"""SQL on the temporary tables of a run: the ids that it has read, the entities it has changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from psycopg import errors

from altsync.catalogue.current import parts
from altsync.catalogue.parts import Part
from altsync.copying import copy_rows, fill
from altsync.db import Conn
from altsync.entities import EntityType, ParentEdge
from altsync.store.rows import HALF_HASH, SAVED


def _seeded(part: Part, *, saved: bool) -> str:
    """Return SQL for the living rows of a part's table that seeds have created.

    ``saved``: rows that programs have created count, too.
    """
    if part.related:
        return "e.seed_id IS NOT NULL"
    if not part.entity_type:
        return "true"
    seeded = f"left(e.line_hash, {HALF_HASH}) IS DISTINCT FROM '{SAVED}'"
    return f"e.deleted_at IS NULL AND {'true' if saved else seeded}"


#: Columns of ``seen``: an id of this run, the file and number of its line, whether the line was
#: rejected, the key that it gives, and the keys of the parents that it names.
_SEEN = ("part", "seed_id", "file", "line", "rejected", "own_key", "parents")


def create_tables(conn: Conn) -> None:
    """Create the session's temporary tables, or empty them for a new run."""
    conn.execute(
        """
        CREATE TEMP TABLE IF NOT EXISTS seen (
          part text NOT NULL, seed_id text NOT NULL, file text NOT NULL, line int NOT NULL,
          rejected bool NOT NULL, own_key text, parents text[] NOT NULL,
          PRIMARY KEY (seed_id, part));
        CREATE TEMP TABLE IF NOT EXISTS staging_seen (LIKE seen)
        """
    )
    conn.execute(
        """
        CREATE TEMP TABLE IF NOT EXISTS tags_to_be (
          entity_type text NOT NULL, seed_id text NOT NULL, tag text NOT NULL,
          former bool NOT NULL DEFAULT false,
          PRIMARY KEY (seed_id, entity_type), UNIQUE (tag, entity_type))
        """
    )
    conn.execute("TRUNCATE seen, tags_to_be")


def create_changed_in_run(conn: Conn) -> None:
    """Create the session's table of changed entities, or empty it for a new run."""
    conn.execute(
        """
        CREATE TEMP TABLE IF NOT EXISTS changed_in_run (
          entity_type text NOT NULL, id uuid PRIMARY KEY, version bigint NOT NULL)
        """
    )
    conn.execute("TRUNCATE changed_in_run")


def changed_versions(
    conn: Conn, entity_type: EntityType, ids: Sequence[UUID]
) -> list[tuple[UUID, str, str, int]]:
    """Return (id, seed id, key, version) of those of ``ids`` that this run has changed."""
    return conn.execute(
        f"""
        SELECT c.id, l.seed_id, l.{entity_type.key_column}, c.version
        FROM changed_in_run c JOIN {entity_type} l ON l.id = c.id
        WHERE c.entity_type = '{entity_type}' AND c.id = ANY(%s) ORDER BY c.version
        """,
        (list(ids),),
    ).fetchall()


def note_changes(entity_type: EntityType) -> str:
    """Return SQL that notes the rows of a CTE ``changed`` as changed by this run."""
    return f"""
    INSERT INTO changed_in_run SELECT '{entity_type}', id, version FROM changed
    ON CONFLICT (id) DO UPDATE SET version = excluded.version
    """


def mark_seen(conn: Conn, seen: Sequence[Sequence[str | None]]) -> bool:
    """Record ids of this run; return whether all of them are new. The first good line counts.

    COPY is tried first: it takes half as long as INSERT, and fails where an id is not new.
    """
    try:
        with conn.transaction():
            copy_rows(conn, "seen", _SEEN, seen)
    except errors.UniqueViolation:
        return _mark_repeated(conn, seen)
    return True


def _mark_repeated(conn: Conn, seen: Sequence[Sequence[str | None]]) -> bool:
    fill(conn, "staging_seen", _SEEN, seen)
    noted = conn.execute(
        """
        INSERT INTO seen SELECT * FROM staging_seen
        ON CONFLICT (seed_id, part) DO UPDATE
          SET rejected = false, file = excluded.file, line = excluded.line,
              own_key = excluded.own_key, parents = excluded.parents
          WHERE seen.rejected AND NOT excluded.rejected
        """
    )
    return noted.rowcount == len(seen)


def first_places(conn: Conn, part: Part, seed_ids: Sequence[str]) -> dict[str, str]:
    """Return file:line of the first line of each id."""
    rows = conn.execute(
        "SELECT seed_id, file, line FROM seen WHERE part = %s AND seed_id = ANY(%s)",
        (part, list(seed_ids)),
    )
    return {r[0]: f"{r[1]}:{r[2]}" for r in rows}


def unseen(conn: Conn, part: Part, *, saved: bool = False) -> list[UUID]:
    """Return the living rows of a part whose ids are not in ``seen``, in the order of ids.

    ``saved``: also rows that programs have created.
    """
    rows = conn.execute(
        f"""
        SELECT e.id FROM {part.table} e
        WHERE NOT EXISTS (SELECT 1 FROM seen s WHERE s.part = %s AND s.seed_id = e.seed_id)
          AND {_seeded(part, saved=saved)} ORDER BY e.id
        """,
        (part,),
    )
    return [r[0] for r in rows]


def count_rows(conn: Conn, part: Part, *, saved: bool = False) -> int:
    """Count the living rows of a part; ``saved``: also those that programs have created."""
    row = conn.execute(
        f"SELECT count(*) FROM {part.table} e WHERE {_seeded(part, saved=saved)}"
    ).fetchone()
    assert row is not None
    return int(row[0])


def parents_in_use(
    conn: Conn,
    parent: EntityType,
    ids: Sequence[UUID],
    leaving: Mapping[EntityType, Sequence[UUID]],
) -> list[tuple[str, str, int]]:
    """Return (key, name of the child type, count) for parents that living entities name.

    Entities in ``leaving`` are about to be deleted and do not count. Entities of this run count by
    the parents in their lines, which a dry run has not written.
    """
    found: list[tuple[str, str, int]] = []
    for part in parts():
        child = part.entity_type
        for place, edge in enumerate(child.parents if child else (), start=1):
            # A parent without a relation in the graph may be deleted: nothing depends on it.
            if child and edge.parent == parent and edge.relation:
                found += _in_use(conn, parent, ids, part, edge, place, leaving.get(child, ()))
    return sorted(found)


def _in_use(
    conn: Conn,
    parent: EntityType,
    ids: Sequence[UUID],
    part: Part,
    edge: ParentEdge,
    place: int,
    leaving: Sequence[UUID],
) -> list[tuple[str, str, int]]:
    child = part.entity_type
    assert child is not None
    rows = conn.execute(
        f"""
        WITH named AS (SELECT seed_id, parents[{place}] AS parent FROM seen
                       WHERE part = %(part)s AND NOT rejected AND parents[{place}] <> '')
        SELECT p.{parent.key_column}, count(*) FROM {parent} p
        JOIN (SELECT parent FROM named
              UNION ALL
              SELECT l.{edge.column} FROM {child} l
              WHERE l.deleted_at IS NULL AND l.id <> ALL(%(leaving)s)
                AND NOT EXISTS (SELECT 1 FROM named WHERE named.seed_id = l.seed_id)) n
          ON n.parent = p.{parent.key_column}
        WHERE p.id = ANY(%(ids)s) GROUP BY 1
        """,
        {"ids": list(ids), "leaving": list(leaving), "part": part},
    )
    return [(key, child.one if count == 1 else child.many, count) for key, count in rows]


def living(conn: Conn, entity_type: EntityType, ids: Sequence[UUID]) -> set[UUID]:
    """Return those of ``ids`` that are entities of a type and not deleted."""
    rows = conn.execute(
        f"SELECT id FROM {entity_type} WHERE id = ANY(%s) AND deleted_at IS NULL",
        (list(ids),),
    )
    return {r[0] for r in rows}


def good_keys(conn: Conn, part: Part) -> set[str]:
    """Return the keys of good lines of a dry run: those that they give, and those made for them."""
    rows = conn.execute(
        """
        SELECT own_key FROM seen
        WHERE part = %(part)s AND NOT rejected AND own_key IS NOT NULL
        UNION
        SELECT t.tag FROM tags_to_be t JOIN seen s ON s.part = %(part)s AND s.seed_id = t.seed_id
        WHERE t.entity_type = %(kind)s AND NOT t.former AND NOT s.rejected
        """,
        {"part": part, "kind": part.entity_type},
    )
    return {r[0] for r in rows}


def good_ids(conn: Conn, part: Part, seed_ids: Sequence[str]) -> set[str]:
    """Return those of ``seed_ids`` that good lines of a part have."""
    rows = conn.execute(
        "SELECT seed_id FROM seen WHERE part = %s AND seed_id = ANY(%s) AND NOT rejected",
        (part, list(seed_ids)),
    )
    return {r[0] for r in rows}


def seen_ids(conn: Conn, part: Part, seed_ids: Sequence[str]) -> set[str]:
    """Return those of ``seed_ids`` that good or rejected lines of a part have."""
    rows = conn.execute(
        "SELECT seed_id FROM seen WHERE part = %s AND seed_id = ANY(%s)",
        (part, list(seed_ids)),
    )
    return {r[0] for r in rows}


def mark_rejected(conn: Conn, part: Part, seed_ids: Sequence[str]) -> None:
    """Change recorded lines from good to rejected."""
    conn.execute(
        "UPDATE seen SET rejected = true WHERE part = %s AND seed_id = ANY(%s)",
        (part, list(seed_ids)),
    )
