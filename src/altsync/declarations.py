"""The sinks that altsync brings, as declared: traits and settings, without importing an SDK."""

from __future__ import annotations

from dataclasses import dataclass

from altsync.records import EMBEDDING, SIMILARITY, SIMILARITY_FOLLOWS, SinkTraits


@dataclass(frozen=True, slots=True)
class Declaration:
    """A sink's traits, and the setting that switches it on; empty for a sink that is always on."""

    traits: SinkTraits
    setting: str


#: Few requests of one batch are in flight: tokens per minute are the provider's limit.
EMBEDDER = Declaration(SinkTraits(EMBEDDING, guarded=True, in_flight=4), "OPENAI_API_KEY")

NEO4J = Declaration(SinkTraits("neo4j", guarded=True, edges=True), "NEO4J_URI")

#: Upserts of one batch in flight: 16 MB of bodies, and at 0.1 s each well below the 100 requests
#: and 50 MB a second that one namespace takes.
#: https://docs.pinecone.io/reference/api/database-limits
PINECONE = Declaration(
    SinkTraits("pinecone", needs_embedding=True, in_flight=8), "PINECONE_API_KEY"
)

#: Statements of one batch in flight: each keeps a core of the server busy, building the graph.
PGVECTOR = Declaration(
    SinkTraits("pgvector", guarded=True, needs_embedding=True, in_flight=2), "PGVECTOR_URL"
)

SINKS = {one.traits.name: one for one in (EMBEDDER, NEO4J, PINECONE, PGVECTOR)}

#: Neighbours from the vectors in PostgreSQL. Without an embedder no vector arrives.
LOCAL_SIMILARITY = Declaration(
    SinkTraits(SIMILARITY, guarded=True, follows=EMBEDDING, similar=True, local=True),
    EMBEDDER.setting,
)

#: Neighbours by queries to the vector index.
INDEX_SIMILARITY = Declaration(
    SinkTraits(
        SIMILARITY,
        guarded=True,
        needs_embedding=True,
        follows=SIMILARITY_FOLLOWS,
        similar=True,
    ),
    PINECONE.setting,
)

#: By the value of ALTSYNC_SIMILARITY.
SIMILARITIES = {"local": LOCAL_SIMILARITY, "index": INDEX_SIMILARITY}
