"""What belongs to leagues and is no entity: documents, contracts and seeded relationships."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from altsync.db import Conn
from altsync.outbox import carry_edges, lock_entities
from altsync.projection import part_fits, part_hash
from altsync.records import EntityType, LeaguePart, Origin, Relation, Relationship, Topology

#: Content columns of what stays in PostgreSQL, with their types.
PART_FIELDS: Mapping[str, Mapping[str, str]] = {
    "document": {"kind": "text", "body": "text"},
    "contract": {
        "counterparty": "text",
        "contract_type": "text",
        "status": "text",
        "start_date": "date",
        "end_date": "date",
    },
}

RELATIONSHIPS = "league_relationship"

#: Tables of rows that have a content hash and are no entities.
PART_TABLES = (*PART_FIELDS, RELATIONSHIPS)


@dataclass(frozen=True, slots=True)
class EditedPart:
    """A row whose content is not what its hash is of. ``own_hash`` is that of its content.

    ``league`` is the one that it belongs to, or begins at.
    """

    id: UUID
    seed_id: str
    league: UUID
    own_hash: str


def edited_parts(
    conn: Conn, table: str, *, after: str, limit: int
) -> tuple[list[EditedPart], str | None]:
    """Of one page of rows of a part's table, return those that SQL has edited.

    By their seed ids; also returns the one to go on after, None at the end. Rows without a hash
    were written by no seed.
    """
    statement = _RELATIONSHIPS if table == RELATIONSHIPS else _parts_statement(table)
    rows = conn.execute(statement, {"after": after, "limit": limit}).fetchall()
    edited = [
        EditedPart(row[0], row[1], row[2], part_hash(part))
        for row in rows
        if row[3] is not None and not part_fits(part := _part(table, row[4:]), row[3])
    ]
    return edited, rows[-1][1] if len(rows) == limit else None


def accept_part_edits(
    conn: Conn, table: str, edited: Sequence[EditedPart], topology: Topology
) -> int:
    """Make what edited rows hold their content; returns how many they are.

    Relationships are carried to the graph. The seed's line wins again when it is seeded.
    """
    leagues = sorted({one.league for one in edited})
    if table == RELATIONSHIPS:
        lock_entities(conn, ((EntityType.LEAGUE, league) for league in leagues))
    count = conn.execute(
        f"""
        UPDATE {table} t SET content_hash = o.own_hash, updated_at = now()
        FROM unnest(%s::uuid[], %s::text[]) AS o(id, own_hash) WHERE t.id = o.id
        """,
        ([one.id for one in edited], [one.own_hash for one in edited]),
    ).rowcount
    if table == RELATIONSHIPS:
        carry_edges(conn, leagues, topology, Origin.RECONCILE)
    return count


_RELATIONSHIPS = f"""
SELECT r.id, r.seed_id, r.source_league_id, r.content_hash,
       s.seed_id, t.seed_id, r.attributes, r.relationship_type, r.strength_score
FROM {RELATIONSHIPS} r
JOIN league s ON s.id = r.source_league_id JOIN league t ON t.id = r.target_league_id
WHERE r.seed_id > %(after)s ORDER BY r.seed_id LIMIT %(limit)s
"""


def _parts_statement(table: str) -> str:
    fields = ", ".join(f"p.{name}" for name in PART_FIELDS[table])
    return f"""
    SELECT p.id, p.seed_id, p.league_id, p.content_hash, l.seed_id, p.title, p.attributes, {fields}
    FROM {table} p JOIN league l ON l.id = p.league_id
    WHERE p.seed_id > %(after)s ORDER BY p.seed_id LIMIT %(limit)s
    """


def _part(table: str, held: Sequence[Any]) -> LeaguePart | Relationship:
    if table == RELATIONSHIPS:
        source, target, attributes, relation, strength = held
        score = None if strength is None else float(strength)
        return Relationship(source, target, Relation(relation), score, attributes)
    league, title, attributes, *fields = held
    return LeaguePart(league, title, dict(zip(PART_FIELDS[table], fields, strict=True)), attributes)
