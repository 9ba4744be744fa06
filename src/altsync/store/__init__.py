"""SQL on the entities: rows for sinks, seeding, embeddings, tags, counts.

Functions take a connection and never commit. Table and column names come from closed sets.
"""

from __future__ import annotations

from altsync.store.counts import (
    FOLLOWED,
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
from altsync.store.relationships import (
    Neighbours,
    Related,
    Rules,
    count_similar,
    cut_off,
    database_time,
    forget_neighbours,
    relate,
    related_leagues,
    similar_edges,
    vector_standing,
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
    "FOLLOWED",
    "SINK_STATUSES",
    "Backlog",
    "Changes",
    "EmbeddingCache",
    "Neighbours",
    "Registry",
    "Related",
    "Rules",
    "RunProgress",
    "archetype_counts",
    "archetype_names",
    "backlog",
    "classify_staged",
    "copy_to_staging",
    "count_living",
    "count_similar",
    "count_statuses",
    "create_changed_in_run",
    "create_staging",
    "cut_off",
    "database_time",
    "forget_neighbours",
    "holders_of_tags",
    "known_tags",
    "league_vector",
    "read_rows",
    "register_tags",
    "relate",
    "related_leagues",
    "remote_calls",
    "run_progress",
    "similar_edges",
    "status_breakdown",
    "tombstone",
    "upsert_staged",
    "vector_standing",
]
