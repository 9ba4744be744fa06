"""The vector index: one index per type of entity, namespaces as declared."""

from altsync.contract import Columns, Declaration, SinkTraits

#: Upserts of one batch in flight: 16 MB of bodies, and at 0.1 s each well below the 100 requests
#: and 50 MB a second that one namespace takes.
#: https://docs.pinecone.io/reference/api/database-limits
SINK = Declaration(
    SinkTraits("pinecone", needs_embedding=True, in_flight=8, only_vectors=True),
    f"{__name__}.write:open_sink",
    "PINECONE_API_KEY",
    "Pinecone",
    Columns("pinecone_sync_status", "pinecone_synced_at", "pinecone_id", "pinecone_namespace"),
    compare=f"{__name__}.compare:compare",
    show=f"{__name__}.show:show",
    check=f"{__name__}.show:check",
    price=f"{__name__}.compare:price_of_listing",
    estimate=f"{__name__}.estimate:Estimate",
    is_index=True,
    lag=2.0,
    rank=20,
)
