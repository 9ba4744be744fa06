"""SQL on the entities: rows for sinks, seeding, embeddings, tags, counts, batches, edges.

Functions take a connection and never commit. Table and column names come from closed sets.
"""

from __future__ import annotations

from altsync.store.batches import (
    BatchTotals,
    Throughput,
    Work,
    batch_totals,
    last_settled_batch,
    recent_work,
    throughput,
)
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
from altsync.store.edges import (
    LeagueChoices,
    LeagueEdge,
    LeagueNode,
    Neighbourhood,
    league_choices,
    neighbourhood,
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
)

__all__ = [
    "CONTENT_COLUMNS",
    "DELETE_PAGE",
    "SINK_STATUSES",
    "Backlog",
    "BatchTotals",
    "Changes",
    "EmbeddingCache",
    "EntityState",
    "LeagueChoices",
    "LeagueEdge",
    "LeagueNode",
    "Neighbourhood",
    "OperationRow",
    "Registry",
    "Relationship",
    "RunProgress",
    "SinkMark",
    "Throughput",
    "Work",
    "archetype_counts",
    "archetype_names",
    "backlog",
    "batch_totals",
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
    "last_settled_batch",
    "league_choices",
    "league_vector",
    "neighbourhood",
    "operation_rows",
    "read_entity",
    "read_rows",
    "recent_work",
    "register_tags",
    "relationships_of",
    "remote_calls",
    "run_progress",
    "similar_keys",
    "status_breakdown",
    "throughput",
    "tombstone",
    "upsert_staged",
]
