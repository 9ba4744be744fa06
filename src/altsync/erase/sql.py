"""SQL of an erasure: what PostgreSQL holds of an entity, and its removal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg import sql

from altsync.catalogue.current import current
from altsync.db import Conn
from altsync.declarations import namespace_column
from altsync.entities import EntityType
from altsync.store.reads import named_by_children

#: Text in which reasons of errors replace a key.
REMOVED = "(erased)"


@dataclass(frozen=True, slots=True)
class Target:
    """All names under which stores may hold an entity.

    ``keys`` begins with the present one. ``namespaces`` are all that vectors of its type may have.
    """

    kind: EntityType
    id: UUID
    seed_id: str
    keys: tuple[str, ...]
    namespaces: tuple[str, ...]
    text_hashes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the document that ``from_json`` reads."""
        return {
            "entity": self.kind.value,
            "id": str(self.id),
            "seed_id": self.seed_id,
            "keys": list(self.keys),
            "namespaces": list(self.namespaces),
            "text_hashes": list(self.text_hashes),
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Target:
        """Return the target of a document. Raises ``LookupError`` for an unknown type."""
        return cls(
            current().by_table[body["entity"]],
            UUID(body["id"]),
            body["seed_id"],
            tuple(body["keys"]),
            tuple(body["namespaces"]),
            tuple(body["text_hashes"]),
        )


def find_target(conn: Conn, kind: EntityType, name: str, sinks: Sequence[str]) -> Target | None:
    """Return an entity by its key or seed id, deleted or not. Its row is locked."""
    row = conn.execute(
        f"""
        SELECT l.id, l.seed_id, l.{kind.key_column}, l.former_keys, l.text_hash,
               l.embedding_text_hash
        FROM {kind} l
        WHERE l.{kind.key_column} = %(name)s OR l.seed_id = %(name)s OR l.seed_id = (
          SELECT r.seed_id FROM tag_registry r
          WHERE r.entity_type = '{kind}' AND r.tag = %(name)s)
        ORDER BY l.{kind.key_column} = %(name)s DESC LIMIT 1 FOR NO KEY UPDATE
        """,
        {"name": name},
    ).fetchone()
    if row is None:
        return None
    entity, seed_id, key, former, *hashes = row
    registered = conn.execute(
        "SELECT tag FROM tag_registry WHERE entity_type = %s AND seed_id = %s ORDER BY tag",
        (kind.value, seed_id),
    )
    keys = dict.fromkeys([key, *former, *(r[0] for r in registered)])
    return Target(
        kind,
        entity,
        seed_id,
        tuple(keys),
        tuple(_namespaces(conn, kind, entity, sinks)),
        tuple(dict.fromkeys(one for one in hashes if one)),
    )


def _namespaces(conn: Conn, kind: EntityType, entity: UUID, sinks: Sequence[str]) -> list[str]:
    """Return all namespaces that vectors of a type have, or had for this entity."""
    found = {kind.namespace}
    columns = {column for sink in sinks if (column := namespace_column(sink))}
    if kind.namespace_column:
        columns.add(kind.namespace_column)
        found.discard("")
    for column in sorted(columns):
        rows = conn.execute(f"SELECT DISTINCT {column} FROM {kind} WHERE {column} IS NOT NULL")
        found |= {row[0] for row in rows}
    rows = conn.execute(
        "SELECT DISTINCT unnest(namespaces) FROM sync_operation WHERE entity_id = %s", (entity,)
    )
    return sorted(found | {row[0] for row in rows})


def children_named(conn: Conn, target: Target) -> str | None:
    """Return which living entities still name the entity as their parent; None if none do."""
    found = named_by_children(conn, target.kind, target.keys)
    if found is None:
        return None
    return f"{found.counted} still name {found.key!r} in {found.column}"


def is_living(conn: Conn, target: Target) -> bool:
    """Return whether the entity is not deleted. Its row, if there is one, is locked."""
    row = conn.execute(
        f"SELECT deleted_at IS NULL FROM {target.kind} WHERE id = %s FOR UPDATE", (target.id,)
    ).fetchone()
    return row is not None and bool(row[0])


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An operation that must end before the entity's row may be removed, by sink and reason."""

    sink: str
    is_dead: bool
    reason: str


def unfinished(conn: Conn, target: Target, confirm_after: float) -> list[Unfinished]:
    """Return the operations that may still write the entity somewhere.

    A call of unknown outcome may be applied until ``confirm_after`` seconds after its end.
    """
    rows = conn.execute(
        """
        SELECT sink, status = 'dead',
          CASE status WHEN 'dead' THEN last_error WHEN 'in_progress' THEN 'a worker is deleting it'
            WHEN 'pending' THEN COALESCE(last_error, 'waits for a worker')
            ELSE 'a call of unknown outcome may still be applied' END
        FROM sync_operation WHERE entity_id = %(id)s AND (
          finished_at IS NULL OR status = 'dead'
          OR ((timeout_count > 0 OR outcome_unknown)
              AND finished_at > now() - make_interval(secs => %(after)s)))
        ORDER BY sink, id
        """,
        {"id": target.id, "after": confirm_after},
    )
    return [Unfinished(*row) for row in rows]


def purge(conn: Conn, target: Target, erasure: int) -> None:
    """Remove all that PostgreSQL holds of a deleted entity.

    The caller has checked that no operation of it is unfinished.
    """
    kind, one = target.kind, {"id": target.id, "seed": target.seed_id}
    conn.execute(f"DELETE FROM {kind} WHERE id = %(id)s", one)
    conn.execute("DELETE FROM sync_operation WHERE entity_id = %(id)s", one)
    conn.execute(
        f"DELETE FROM tag_registry WHERE entity_type = '{kind}' AND seed_id = %(seed)s", one
    )
    conn.execute(sql.SQL("DELETE {}").format(_own_vectors()), (list(target.text_hashes),))
    conn.execute("UPDATE erasure SET purged_at = now() WHERE id = %s", (erasure,))


#: Columns of text that may name an entity, by table: reasons of errors, discards and pauses.
TEXTS = {
    "sync_operation": ("last_error", "discarded_why"),
    "sink_state": ("reason", "pause_reason"),
}

#: The part of a comparison's result that names entities.
_SAMPLES = "result ->> 'samples'"


def remove_from_texts(conn: Conn, target: Target) -> None:
    """Replace the entity's names in texts about other entities. Whole words count."""
    one = {"names": _names(target), "by": REMOVED}
    for table, columns in TEXTS.items():
        for column in columns:
            conn.execute(
                f"UPDATE {table} SET {column} = regexp_replace({column}, %(names)s, %(by)s, 'g') "
                f"WHERE {column} ~ %(names)s",
                one,
            )
    conn.execute(
        f"UPDATE verify_run SET result = result - 'samples' WHERE {_SAMPLES} ~ %(names)s", one
    )


def _names(target: Target) -> str:
    """Return a regular expression of PostgreSQL for the names of an entity, as whole words."""
    names = "|".join(map(re.escape, (*target.keys, target.seed_id, str(target.id))))
    return rf"(?<![[:alnum:]_])(?:{names})(?![[:alnum:]_])"


def _own_vectors() -> sql.Composed:
    """Return the rows of ``embedding`` with some text hashes that no living entity has."""
    in_use = sql.SQL(" OR ").join(
        sql.SQL(
            "EXISTS (SELECT 1 FROM {table} l WHERE l.deleted_at IS NULL "
            "AND e.text_hash IN (l.text_hash, l.embedding_text_hash))"
        ).format(table=sql.Identifier(kind.value))
        for kind in current().entity_types
    )
    return sql.SQL("FROM embedding e WHERE e.text_hash = ANY(%s) AND NOT ({})").format(in_use)


def remains(conn: Conn, target: Target) -> dict[str, int]:
    """Count the rows that PostgreSQL holds of an entity, by table."""
    kind = target.kind
    one = {
        "id": target.id,
        "seed": target.seed_id,
        "keys": list(target.keys),
        "names": _names(target),
    }
    counts = {
        kind.value: f"FROM {kind} WHERE id = %(id)s OR {kind.key_column} = ANY(%(keys)s)",
        "sync_operation": "FROM sync_operation WHERE entity_id = %(id)s",
        "tag_registry": f"FROM tag_registry WHERE entity_type = '{kind}' "
        "AND (seed_id = %(seed)s OR tag = ANY(%(keys)s))",
        "verify_run.result": f"FROM verify_run WHERE {_SAMPLES} ~ %(names)s",
        **{
            f"{table}.{column}": f"FROM {table} WHERE {column} ~ %(names)s"
            for table, columns in TEXTS.items()
            for column in columns
        },
    }
    if kind.edges:
        edges = kind.edges
        counts[edges.table] = (
            f"FROM {edges.table} WHERE {edges.source} = %(id)s OR {edges.target} = %(id)s"
        )
    for table in current().attachments:
        if table.owner == kind:
            counts[str(table)] = f"FROM {table} WHERE {table.owner_column} = %(id)s"
    found: dict[str, int] = {}
    for name, source in counts.items():
        row = conn.execute(f"SELECT count(*) {source}", one).fetchone()
        found[name] = row[0] if row else 0
    statement = sql.SQL("SELECT count(*) {}").format(_own_vectors())
    row = conn.execute(statement, (list(target.text_hashes),)).fetchone()
    found["embedding"] = row[0] if row else 0
    return found
