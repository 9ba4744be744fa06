"""The sink that embeds: each text once per model."""

from altsync.contract import EMBEDDING, Columns, Declaration, Drift, SinkTraits

#: Few requests of one batch are in flight: tokens per minute are the provider's limit.
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
