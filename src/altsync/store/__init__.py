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
    remote_calls,
    run_progress,
    status_breakdown,
)
from altsync.store.examples import (
    FullExample,
    example_categories,
    full_examples,
)
from altsync.store.leagues import (
    AuditEntry,
    Contract,
    Document,
    FullLeague,
    LeagueFilter,
    Relationship,
    StoredLeague,
    audit_trail,
    full_league,
    full_leagues,
    full_leagues_by_tag,
    full_leagues_of_archetypes,
    relationships,
    stored_leagues,
    tags_like,
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
    example_vectors,
    league_vectors,
)

__all__ = [
    "CONTENT_COLUMNS",
    "DELETE_PAGE",
    "SINK_STATUSES",
    "AuditEntry",
    "Backlog",
    "Changes",
    "Contract",
    "Document",
    "EmbeddingCache",
    "FullExample",
    "FullLeague",
    "LeagueFilter",
    "Registry",
    "Relationship",
    "RunProgress",
    "StoredLeague",
    "archetype_counts",
    "archetype_names",
    "audit_trail",
    "backlog",
    "classify_staged",
    "copy_to_staging",
    "count_living",
    "count_statuses",
    "create_changed_in_run",
    "create_staging",
    "example_categories",
    "example_vectors",
    "full_examples",
    "full_league",
    "full_leagues",
    "full_leagues_by_tag",
    "full_leagues_of_archetypes",
    "holders_of_tags",
    "known_tags",
    "league_vectors",
    "read_rows",
    "register_tags",
    "relationships",
    "remote_calls",
    "run_progress",
    "status_breakdown",
    "stored_leagues",
    "tags_like",
    "tombstone",
    "upsert_staged",
]
