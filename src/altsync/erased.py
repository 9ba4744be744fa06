"""Record erased entities by salted hashes, and refuse seeds that would bring them back."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from hashlib import sha256
from typing import Any

from psycopg.types.json import Jsonb

from altsync.db import Conn
from altsync.entities import EntityType
from altsync.installation import installation_id


@dataclass(frozen=True, slots=True)
class Erasure:
    """An erasure, as the audit shows it. Neither key nor seed id is kept."""

    id: int
    entity: str
    reason: str | None
    requested_by: str
    requested_at: datetime
    completed_at: datetime | None
    receipt_hash: str | None
    lifted_at: datetime | None


@dataclass(slots=True)
class Erased:
    """The erased seed ids and keys of one database, by their hashes.

    ``lifted`` collects the hashes of entities that the caller loads in spite of their erasure.
    """

    salt: str
    days: dict[tuple[str, str], date]
    allowed: bool = False
    lifted: set[tuple[str, str]] = field(default_factory=set)

    def refusal(self, kind: EntityType, names: Iterable[str]) -> str | None:
        """Return why an entity with one of these names is refused; None when it is not."""
        if not self.days:
            return None
        for name in names:
            place = kind.value, _hash(self.salt, kind, name)
            day = self.days.get(place)
            if day is None:
                continue
            if not self.allowed:
                return (
                    f"it was erased on {day}: remove the line, or load it by --allow-erased "
                    "(from a program: save(…, allow_erased=True))"
                )
            self.lifted.add(place)
        return None


def _hash(salt: str, kind: EntityType, name: str) -> str:
    return sha256(f"{salt}\0{kind.value}\0{name}".encode()).hexdigest()


def read_erased(conn: Conn, *, allowed: bool = False) -> Erased:
    """Return the erased entities that no caller has allowed again."""
    rows = conn.execute(
        "SELECT entity_type, seed_hash, key_hashes, requested_at FROM erasure "
        "WHERE lifted_at IS NULL"
    ).fetchall()
    days = {
        (kind, one): requested.date()
        for kind, seed, keys, requested in rows
        for one in (seed, *keys)
    }
    return Erased(installation_id(conn) if days else "", days, allowed)


def lift(conn: Conn, erased: Erased) -> None:
    """Record that the erased entities which were loaded again are allowed."""
    for kind, one in sorted(erased.lifted):
        conn.execute(
            "UPDATE erasure SET lifted_at = now() WHERE entity_type = %s AND lifted_at IS NULL "
            "AND (seed_hash = %s OR %s = ANY(key_hashes))",
            (kind, one, one),
        )
    erased.lifted.clear()


def record(
    conn: Conn,
    kind: EntityType,
    seed_id: str,
    keys: Collection[str],
    reason: str | None,
    requested_by: str,
    target: Mapping[str, Any],
) -> int:
    """Record a requested erasure; return its id. A repeated request keeps the first one's time.

    ``target`` is what is to be erased. It is kept until the erasure is complete.
    """
    salt = installation_id(conn)
    row = conn.execute(
        """
        INSERT INTO erasure AS e (entity_type, seed_hash, key_hashes, reason, requested_by, target)
        VALUES (%s, %s, %s, %s, %s, %s)
        ON CONFLICT (entity_type, seed_hash) DO UPDATE SET
          key_hashes = ARRAY(SELECT DISTINCT unnest(e.key_hashes || excluded.key_hashes)),
          reason = COALESCE(excluded.reason, e.reason), target = excluded.target,
          requested_at = CASE WHEN e.lifted_at IS NULL THEN e.requested_at ELSE now() END,
          purged_at = CASE WHEN e.lifted_at IS NULL THEN e.purged_at END,
          completed_at = CASE WHEN e.lifted_at IS NULL THEN e.completed_at END,
          lifted_at = NULL
        RETURNING id
        """,
        (
            kind.value,
            _hash(salt, kind, seed_id),
            sorted(_hash(salt, kind, key) for key in keys),
            reason,
            requested_by,
            Jsonb(target),
        ),
    ).fetchone()
    assert row is not None
    return int(row[0])


@dataclass(frozen=True, slots=True)
class Begun:
    """A requested erasure. ``target`` is None once it is complete."""

    id: int
    requested_at: datetime
    requested_by: str
    reason: str | None
    target: Mapping[str, Any] | None
    is_purged: bool


def find(conn: Conn, kind: EntityType, name: str) -> Begun | None:
    """Return the erasure of an entity with this seed id or key."""
    place = _hash(installation_id(conn), kind, name)
    row = conn.execute(
        "SELECT id, requested_at, requested_by, reason, target, purged_at IS NOT NULL "
        "FROM erasure WHERE entity_type = %s AND lifted_at IS NULL "
        "AND (seed_hash = %s OR %s = ANY(key_hashes)) ORDER BY id LIMIT 1",
        (kind.value, place, place),
    ).fetchone()
    return None if row is None else Begun(*row)


def complete(conn: Conn, erasure: int, receipt_hash: str) -> None:
    """Record that the stores were read, and that nothing was found."""
    conn.execute(
        "UPDATE erasure SET completed_at = now(), target = NULL, receipt_hash = %s WHERE id = %s",
        (receipt_hash, erasure),
    )


def erasures(conn: Conn, limit: int = 100) -> list[Erasure]:
    """Return the last erasures, the newest first."""
    rows = conn.execute(
        "SELECT id, entity_type, reason, requested_by, requested_at, completed_at, receipt_hash, "
        "lifted_at FROM erasure ORDER BY id DESC LIMIT %s",
        (limit,),
    )
    return [Erasure(*row) for row in rows]
