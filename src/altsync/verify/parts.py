"""Attachments and seeded relationships that SQL has edited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from altsync.catalogue.parts import AttachmentTable, Part
from altsync.contract import Topology
from altsync.db import Conn
from altsync.entities import Attached, Relationship
from altsync.operations import Origin
from altsync.outbox.edges import enqueue_edge_update
from altsync.outbox.enqueue import lock_entities
from altsync.projection import part_fits, part_hash


@dataclass(frozen=True, slots=True)
class EditedPart:
    """A row whose content does not fit its hash. ``own_hash`` is the hash of its content.

    ``owner`` is the entity of an attachment, or the source of a relationship.
    """

    id: UUID
    seed_id: str
    owner: UUID
    own_hash: str


def edited_parts(
    conn: Conn, part: Part, *, after: str, limit: int
) -> tuple[list[EditedPart], str | None]:
    """Return the rows of one page that SQL has edited, in the order of their seed ids.

    Also returns the seed id after which the next page begins, None at the end. Rows without a
    hash were not seeded.
    """
    rows = conn.execute(_statement(part), {"after": after, "limit": limit}).fetchall()
    edited = [
        EditedPart(row[0], row[1], row[2], part_hash(held))
        for row in rows
        if row[3] is not None and not part_fits(held := _content(part, row[4:]), row[3])
    ]
    return edited, rows[-1][1] if len(rows) == limit else None


def accept_part_edits(
    conn: Conn, part: Part, edited: Sequence[EditedPart], topology: Topology
) -> int:
    """Accept the content of edited rows; return how many.

    Relationships are written to the graph. Seeding restores the content of the seed's line.
    """
    owners = sorted({one.owner for one in edited})
    if part.related:
        lock_entities(conn, ((part.related, owner) for owner in owners))
    count = conn.execute(
        f"""
        UPDATE {part.table} t SET content_hash = o.own_hash, updated_at = now()
        FROM unnest(%s::uuid[], %s::text[]) AS o(id, own_hash) WHERE t.id = o.id
        """,
        ([one.id for one in edited], [one.own_hash for one in edited]),
    ).rowcount
    if part.related:
        enqueue_edge_update(conn, part.related, owners, topology, Origin.RECONCILE)
    return count


def _statement(part: Part) -> str:
    if part.related:
        kind, edges = part.related, part.related.edge_table
        return f"""
        SELECT r.id, r.seed_id, r.{edges.source}, r.content_hash,
               s.seed_id, t.seed_id, r.attributes, r.relationship_type, r.strength_score
        FROM {edges.table} r
        JOIN {kind} s ON s.id = r.{edges.source} JOIN {kind} t ON t.id = r.{edges.target}
        WHERE r.seed_id > %(after)s ORDER BY r.seed_id LIMIT %(limit)s
        """
    table = _attachment(part)
    fields = "".join(f", p.{name}" for name in table.columns)
    return f"""
    SELECT p.id, p.seed_id, p.{table.owner_column}, p.content_hash, l.seed_id, p.title,
           p.attributes{fields}
    FROM {table} p JOIN {table.owner} l ON l.id = p.{table.owner_column}
    WHERE p.seed_id > %(after)s ORDER BY p.seed_id LIMIT %(limit)s
    """


def _attachment(part: Part) -> AttachmentTable:
    assert part.attachment is not None
    return part.attachment


def _content(part: Part, fields: Sequence[Any]) -> Attached | Relationship:
    if part.related:
        source, target, attributes, relation, strength = fields
        score = None if strength is None else float(strength)
        return Relationship(source, target, relation, score, attributes)
    owner, title, attributes, *values = fields
    table = _attachment(part)
    own = dict(zip(table.columns, values, strict=True))
    return Attached(table.owner_field, owner, title, own, attributes)
