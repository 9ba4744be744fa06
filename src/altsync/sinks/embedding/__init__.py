"""The sink that embeds: each text once per model."""

from altsync.contract import EMBEDDING, Columns, Declaration, Drift, SinkTraits

#: Parallel requests of one batch. A few suffice: the provider limits tokens per minute.
SINK = Declaration(
    SinkTraits(EMBEDDING, guarded=True, in_flight=4),
    f"{__name__}.write:open_sink",
    "OPENAI_API_KEY",
    "The embedding",
    Columns("embedding_sync_status", "embedding_updated_at"),
    compare="altsync.verify.derived:compare_embeddings",
    check=f"{__name__}.write:check",
    drifts=(Drift.MISSING, Drift.STALE),
    rank=0,
)
