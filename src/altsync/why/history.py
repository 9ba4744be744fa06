"""Operations in pages, and the state of one entity."""

from __future__ import annotations

import re
from dataclasses import replace
from difflib import SequenceMatcher
from uuid import UUID

from altsync.db import Conn
from altsync.entities import EntityType
from altsync.why.sql import (
    EntityState,
    OperationRow,
    RelatedEntity,
    SinkMark,
    find_entities,
    operation_rows,
    read_entity,
    relationships,
    similar_keys,
)

__all__ = [
    "EntityState",
    "OperationRow",
    "RelatedEntity",
    "SinkMark",
    "entity_state",
    "operations",
    "suggestions",
]

#: Least similarity of a suggestion (0 to 1): the default of difflib.
ALIKE = 0.6


def operations(
    conn: Conn,
    *,
    sink: str | None = None,
    status: str | None = None,
    entity: str | UUID | None = None,
    before: int | None = None,
    limit: int = 50,
) -> list[OperationRow]:
    """Return operations, the newest first. The next page is ``before`` the last id.

    ``entity`` is an entity's id, or a key or seed id, which entities of several types may have.
    """
    match entity:
        case str():
            ids: list[UUID] | None = [found for _, found in find_entities(conn, entity)]
        case UUID():
            ids = [entity]
        case None:
            ids = None
    return operation_rows(conn, sink=sink, status=status, ids=ids, before=before, limit=limit)


def entity_state(conn: Conn, key: str, entity_type: EntityType | None = None) -> EntityState | None:
    """Return the entity with the key or seed id ``key``, None if there is no such row.

    Keys are tried before seed ids, and types in the order of the catalogue.
    """
    for kind, entity in find_entities(conn, key, entity_type):
        row = read_entity(conn, kind, entity)
        if row is not None and kind.edges:
            return replace(row, relationships=tuple(relationships(conn, kind, row.key)))
        if row is not None:
            return row
    return None


def suggestions(conn: Conn, text: str, limit: int = 3) -> list[str]:
    """Return keys of living entities similar to ``text``, the most similar first."""
    words = re.findall(r"[^\W_]+", text.lower())
    found = similar_keys(conn, [f"%{word[:3]}%" for word in words]) if words else []
    scores = {key: max(_similarity(text, key), _similarity(text, name)) for key, name in found}
    best = sorted((key for key in scores if scores[key] >= ALIKE), key=lambda k: (-scores[k], k))
    return best[:limit]


def _similarity(one: str, other: str) -> float:
    return SequenceMatcher(None, one.lower(), other.lower()).ratio()
