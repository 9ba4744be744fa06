"""Entity types, failures and matches, as the page shows them."""

from __future__ import annotations

from typing import Any

from altsync import queries
from altsync.entities import EntityType
from altsync.retry import FailureGroup


def type_view(kind: EntityType) -> dict[str, Any]:
    """Return the names, filters and relationships of an entity type."""
    return {
        "type": kind.value,
        "one": kind.one,
        "many": kind.many,
        "name_field": kind.name_column,
        "key_field": kind.key_column,
        "filters": filters_of(kind),
        "relations": kind.edges.relations if kind.edges else (),
        "within": kind.similar.within if kind.similar else None,
    }


def filters_of(kind: EntityType) -> list[str]:
    """Return the fields to filter by, without key and name: the search finds those."""
    own = (kind.key_column, kind.name_column)
    return [name for name in queries.filter_fields(kind) if name not in own]


def group_view(group: FailureGroup) -> dict[str, Any]:
    """Return a group of dead operations, with samples of its entities."""
    samples = [key.split(" ", 1) for key in dict.fromkeys(group.sample_keys)]
    return {
        "group": group.group,
        "sink": group.sink,
        "error_kind": group.error_kind,
        "reason": group.reason,
        "sample_reason": group.sample_reason,
        "count": group.count,
        "samples": [{"entity_type": kind, "key": key} for kind, key in samples],
        "oldest": group.oldest,
        "newest": group.newest,
    }


def match_view(kind: EntityType, found: queries.Found) -> dict[str, Any]:
    """Return an entity that a search found, with the fields to filter by."""
    fields = {name: found.content[name] for name in filters_of(kind)}
    return {"key": found.key, "name": found.name, "score": found.score, "fields": fields}
