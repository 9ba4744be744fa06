"""SQL on the entities: rows for sinks, seeding, embeddings, tags, counts.

Functions take a connection and never commit. Table and column names come from closed sets.
"""

from __future__ import annotations

from altsync.store.counts import (
    SINK_STATUSES,
    Backlog,
    RunProgress,
    archetype_counts,
    archetype_names,
    backlog,
    count_living,
    count_statuses,
    league_vector,
    remote_calls,
    run_progress,
    status_breakdown,
)
from altsync.store.operations import (
    EntityState,
    OperationRow,
    Relationship,
    SinkMark,
    clock,
    find_entities,
    operation_rows,
    read_entity,
    relationships_of,
    similar_keys,
)
from altsync.store.rows import (
    CONTENT_COLUMNS,
    read_rows,
)
from altsync.store.seeding import (
    DELETE_PAGE,
    Changes,
    changed_versions,
    classify_staged,
    copy_to_staging,
    create_changed_in_run,
    create_staging,
    tombstone,
    upsert_staged,
)
from altsync.store.tags import (
    Registry,
    holders_of_tags,
    known_tags,
    register_tags,
)
from altsync.store.vectors import (
    EmbeddingCache,
    Unembedded,
    paid_twice,
    unembedded,
    unpaid_contents,
)

__all__ = [
    "CONTENT_COLUMNS",
    "DELETE_PAGE",
    "SINK_STATUSES",
    "Backlog",
    "Changes",
    "EmbeddingCache",
    "EntityState",
    "OperationRow",
    "Registry",
    "Relationship",
    "RunProgress",
    "SinkMark",
    "Unembedded",
    "archetype_counts",
    "archetype_names",
    "backlog",
    "changed_versions",
    "classify_staged",
    "clock",
    "copy_to_staging",
    "count_living",
    "count_statuses",
    "create_changed_in_run",
    "create_staging",
    "find_entities",
    "holders_of_tags",
    "known_tags",
    "league_vector",
    "operation_rows",
    "paid_twice",
    "read_entity",
    "read_rows",
    "register_tags",
    "relationships_of",
    "remote_calls",
    "run_progress",
    "similar_keys",
    "status_breakdown",
    "tombstone",
    "unembedded",
    "unpaid_contents",
    "upsert_staged",
]
