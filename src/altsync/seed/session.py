"""SQL on the seeder's temporary tables, and on what stays in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from psycopg import errors

from altsync.db import Conn, copy_lines, fill, fill_lines
from altsync.records import EntityType
from altsync.seed.lines import Part
from altsync.store import PART_FIELDS, Changes

#: Tables of what belongs to a league, and their content columns with their types.
PART_COLUMNS = {
    Part.DOCUMENTS: ("document", PART_FIELDS["document"]),
    Part.CONTRACTS: ("contract", PART_FIELDS["contract"]),
}


def table_of(part: Part) -> str:
    """The table that a part is loaded into."""
    if part is Part.RELATIONSHIPS:
        return "league_relationship"
    return part.entity_type or PART_COLUMNS[part][0]


def _seeded(part: Part) -> str:
    """Which rows of a part's table come from seeds and are there, as SQL."""
    if part is Part.RELATIONSHIPS:
        return "e.seed_id IS NOT NULL"
    return "e.deleted_at IS NULL" if part.entity_type else "true"


#: Columns of the ids met in this run, and where; ``rejected`` when the line was refused.
#: ``archetype`` is what a league's line names, and what an archetype's is called.
_SEEN = ("part", "seed_id", "file", "line", "rejected", "archetype")


def create_tables(conn: Conn) -> None:
    """The temporary tables of one session, empty for a new run."""
    conn.execute(
        """
        CREATE TEMP TABLE IF NOT EXISTS seen (
          part text NOT NULL, seed_id text NOT NULL, file text NOT NULL, line int NOT NULL,
          rejected bool NOT NULL, archetype text, PRIMARY KEY (seed_id, part));
        CREATE TEMP TABLE IF NOT EXISTS staging_seen (LIKE seen)
        """
    )
    conn.execute(
        """
        CREATE TEMP TABLE IF NOT EXISTS tags_to_be (
          entity_type text NOT NULL, seed_id text NOT NULL, tag text NOT NULL,
          PRIMARY KEY (seed_id, entity_type), UNIQUE (tag, entity_type))
        """
    )
    conn.execute("TRUNCATE seen, tags_to_be")
    for table, columns in PART_COLUMNS.values():
        typed = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        conn.execute(
            f"""
            CREATE TEMP TABLE IF NOT EXISTS staging_{table} (
              id uuid, seed_id text, league_id uuid, title text, attributes jsonb,
              content_hash text, {typed})
            """
        )


def mark_seen(conn: Conn, seen: Sequence[bytes]) -> bool:
    """Note ids, by lines of part, seed_id, file, line, rejected, archetype.

    Returns whether all are new in this run. The first good line of an id wins. COPY first, which
    takes half as long and refuses a batch where any id is not new.
    """
    try:
        with conn.transaction():
            copy_lines(conn, "seen", _SEEN, seen)
    except errors.UniqueViolation:
        return _mark_again(conn, seen)
    return True


def _mark_again(conn: Conn, seen: Sequence[bytes]) -> bool:
    fill_lines(conn, "staging_seen", _SEEN, seen)
    noted = conn.execute(
        """
        INSERT INTO seen SELECT * FROM staging_seen
        ON CONFLICT (seed_id, part) DO UPDATE
          SET rejected = false, file = excluded.file, line = excluded.line,
              archetype = excluded.archetype
          WHERE seen.rejected AND NOT excluded.rejected
        """
    )
    return noted.rowcount == len(seen)


def first_places(conn: Conn, part: Part, seed_ids: Sequence[str]) -> dict[str, str]:
    """Return where ids were met first, as file:line."""
    rows = conn.execute(
        "SELECT seed_id, file, line FROM seen WHERE part = %s AND seed_id = ANY(%s)",
        (part, list(seed_ids)),
    )
    return {r[0]: f"{r[1]}:{r[2]}" for r in rows}


def unseen(conn: Conn, part: Part) -> list[UUID]:
    """Living entities of a part that this run has not met, in the order of ids."""
    rows = conn.execute(
        f"""
        SELECT e.id FROM {table_of(part)} e
        WHERE NOT EXISTS (SELECT 1 FROM seen s WHERE s.part = %s AND s.seed_id = e.seed_id)
          AND {_seeded(part)} ORDER BY e.id
        """,
        (part,),
    )
    return [r[0] for r in rows]


def count_rows(conn: Conn, part: Part) -> int:
    """Living rows of a part."""
    row = conn.execute(f"SELECT count(*) FROM {table_of(part)} e WHERE {_seeded(part)}").fetchone()
    assert row is not None
    return int(row[0])


def archetypes_in_use(
    conn: Conn, ids: Sequence[UUID], leaving: Sequence[UUID]
) -> list[tuple[str, int]]:
    """Of the archetypes ``ids``, those that living leagues name, with how many.

    Leagues in ``leaving`` are about to be deleted and do not count; those of this run count
    as their lines say, which a dry run has not written.
    """
    rows = conn.execute(
        """
        WITH named AS (SELECT seed_id, archetype FROM seen
                       WHERE part = %(part)s AND NOT rejected AND archetype IS NOT NULL)
        SELECT a.archetype_name, count(*) FROM sport_archetype a
        JOIN (SELECT archetype FROM named
              UNION ALL
              SELECT l.sport_archetype FROM league l
              WHERE l.deleted_at IS NULL AND l.id <> ALL(%(leaving)s)
                AND NOT EXISTS (SELECT 1 FROM named WHERE named.seed_id = l.seed_id)) n
          ON n.archetype = a.archetype_name
        WHERE a.id = ANY(%(ids)s) GROUP BY 1 ORDER BY 1
        """,
        {"ids": list(ids), "leaving": list(leaving), "part": Part.LEAGUES},
    )
    return [(r[0], r[1]) for r in rows]


def living_leagues(conn: Conn, ids: Sequence[UUID]) -> set[UUID]:
    """Return those of ``ids`` that are leagues and not deleted."""
    rows = conn.execute(
        f"SELECT id FROM {EntityType.LEAGUE} WHERE id = ANY(%s) AND deleted_at IS NULL",
        (list(ids),),
    )
    return {r[0] for r in rows}


def good_archetypes(conn: Conn) -> set[str]:
    """Names of the archetypes that this run has met in a good line."""
    rows = conn.execute(
        "SELECT archetype FROM seen WHERE part = %s AND NOT rejected AND archetype IS NOT NULL",
        (Part.ARCHETYPES,),
    )
    return {r[0] for r in rows}


def good_leagues(conn: Conn, seed_ids: Sequence[str]) -> set[str]:
    """Return those of ``seed_ids`` whose league this run has met in a good line."""
    rows = conn.execute(
        "SELECT seed_id FROM seen WHERE part = %s AND seed_id = ANY(%s) AND NOT rejected",
        (Part.LEAGUES, list(seed_ids)),
    )
    return {r[0] for r in rows}


def seen_leagues(conn: Conn, seed_ids: Sequence[str]) -> set[str]:
    """Return those of ``seed_ids`` that this run has met as leagues, in good or refused lines."""
    rows = conn.execute(
        "SELECT seed_id FROM seen WHERE part = %s AND seed_id = ANY(%s)",
        (Part.LEAGUES, list(seed_ids)),
    )
    return {r[0] for r in rows}


def mark_rejected(conn: Conn, part: Part, seed_ids: Sequence[str]) -> None:
    """Note that lines which looked good were refused after all."""
    conn.execute(
        "UPDATE seen SET rejected = true WHERE part = %s AND seed_id = ANY(%s)",
        (part, list(seed_ids)),
    )


def copy_parts(conn: Conn, part: Part, rows: Sequence[Sequence[Any]]) -> None:
    """COPY (id, seed_id, league_id, title, attributes, content_hash, …) rows into staging."""
    table, columns = PART_COLUMNS[part]
    names = ["id", "seed_id", "league_id", "title", "attributes", "content_hash", *columns]
    fill(conn, f"staging_{table}", names, rows)


def upsert_parts(conn: Conn, part: Part, *, write: bool) -> Changes:
    """Upsert what changed of a league's documents or contracts; or only count it."""
    table, columns = PART_COLUMNS[part]
    names = ["league_id", "title", "attributes", "content_hash", *columns]
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
    """SQL for whether two rows differ: their hash alone does not show an edit by SQL."""
    pairs = [", ".join(f"{alias}.{name}" for name in names) for alias in (one, other)]
    return f"(ROW({pairs[0]}) IS DISTINCT FROM ROW({pairs[1]}))"


def delete_parts(conn: Conn, part: Part, ids: Sequence[UUID]) -> int:
    """Delete documents or contracts for good: no sink holds them."""
    return conn.execute(f"DELETE FROM {table_of(part)} WHERE id = ANY(%s)", (list(ids),)).rowcount
