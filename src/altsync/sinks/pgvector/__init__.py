"""The vector index in PostgreSQL: one table per type of entity, guarded by version in SQL."""

from altsync.contract import Columns, Declaration, SinkTraits

#: Parallel statements of one batch. Each keeps one core of the server busy with HNSW's graph.
SINK = Declaration(
    SinkTraits("pgvector", guarded=True, needs_embedding=True, in_flight=2),
    f"{__name__}.write:open_sink",
    "PGVECTOR_URL",
    "pgvector",
    Columns("pgvector_sync_status", "pgvector_synced_at"),
    compare=f"{__name__}.compare:compare",
    show=f"{__name__}.show:show",
    check=f"{__name__}.show:check",
    forget=f"{__name__}.show:forget",
    is_index=True,
    rank=30,
)
