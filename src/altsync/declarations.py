"""The sinks that altsync brings, as declared: traits, settings and columns, without their SDKs.

Everything else asks here instead of knowing a sink by its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from altsync.contract import EMBEDDING, SIMILARITY, SinkTraits


@dataclass(frozen=True, slots=True)
class Columns:
    """What an entity's row keeps of a sink, as names of columns; None for what it does not keep.

    ``remote_id`` is the sink's own id of the entity. ``namespace`` is where the sink has it: for a
    sink in which an entity may be at several places.
    """

    status: str
    synced_at: str | None = None
    remote_id: str | None = None
    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class Declaration:
    """A sink's traits, and the setting that switches it on; empty for a sink that is always on.

    ``title`` is what people call it. ``is_index``: it answers which vectors are near to one.
    ``charges_reads``: a comparison costs money, so its price is said before and counted.
    """

    traits: SinkTraits
    setting: str
    title: str = ""
    columns: Columns | None = None
    is_index: bool = False
    charges_reads: bool = False


#: Few requests of one batch are in flight: tokens per minute are the provider's limit.
EMBEDDER = Declaration(
    SinkTraits(EMBEDDING, guarded=True, in_flight=4),
    "OPENAI_API_KEY",
    "The embedding",
    Columns("embedding_sync_status", "embedding_updated_at"),
)

NEO4J = Declaration(
    SinkTraits("neo4j", guarded=True, edges=True),
    "NEO4J_URI",
    "Neo4j",
    Columns("neo4j_sync_status", "neo4j_synced_at", "neo4j_node_id"),
)

#: Upserts of one batch in flight: 16 MB of bodies, and at 0.1 s each well below the 100 requests
#: and 50 MB a second that one namespace takes.
#: https://docs.pinecone.io/reference/api/database-limits
PINECONE = Declaration(
    SinkTraits("pinecone", needs_embedding=True, in_flight=8),
    "PINECONE_API_KEY",
    "Pinecone",
    Columns("pinecone_sync_status", "pinecone_synced_at", "pinecone_id", "pinecone_namespace"),
    is_index=True,
    charges_reads=True,
)

#: Statements of one batch in flight: each keeps a core of the server busy, building the graph.
PGVECTOR = Declaration(
    SinkTraits("pgvector", guarded=True, needs_embedding=True, in_flight=2),
    "PGVECTOR_URL",
    "pgvector",
    Columns("pgvector_sync_status", "pgvector_synced_at"),
    is_index=True,
)

SINKS = {one.traits.name: one for one in (EMBEDDER, NEO4J, PINECONE, PGVECTOR)}

#: Sinks that a seeding run can wait for, and whose status an entity keeps.
WITH_STATUS = tuple(name for name, one in SINKS.items() if one.columns)

#: Those of them that mirror entities: a change of the entity makes each of them pending.
MIRRORS = tuple(name for name in WITH_STATUS if name != EMBEDDING)

#: Sinks that can be asked for the vectors near to one, the first choice first.
INDEXES = tuple(name for name, one in SINKS.items() if one.is_index)

#: Sinks that charge for what a comparison reads.
CHARGED = tuple(name for name, one in SINKS.items() if one.charges_reads)

#: Neighbours from the vectors in PostgreSQL. Without an embedder no vector arrives.
LOCAL_SIMILARITY = Declaration(
    SinkTraits(SIMILARITY, guarded=True, follows=EMBEDDING, similar=True, local=True),
    EMBEDDER.setting,
)

#: What people call a sink that is declared nowhere else.
TITLES = {SIMILARITY: "Similarity"} | {name: one.title for name, one in SINKS.items()}


def index_similarity(index: str) -> Declaration:
    """Return the sink that finds neighbours by queries to a vector index."""
    traits = SinkTraits(SIMILARITY, guarded=True, needs_embedding=True, follows=index, similar=True)
    return Declaration(traits, SINKS[index].setting)


def queue_of(sink: str, sinks: Sequence[str] = INDEXES) -> str:
    """Return the queue of a sink's wake-ups: one per sink, so that a dead one holds up no other.

    Similarity shares the queue of the vector index among ``sinks``, or else of the embedder.
    """
    if sink != SIMILARITY:
        return sink
    return next((index for index in INDEXES if index in sinks), EMBEDDING)


def columns_of(sink: str) -> Columns | None:
    """Return what an entity's row keeps of a sink; None for one that it keeps nothing of."""
    return SINKS[sink].columns if sink in SINKS else None


def namespace_column(sink: str) -> str | None:
    """Return where an entity's row keeps the place that a sink has it at."""
    columns = columns_of(sink)
    return columns.namespace if columns else None


def title_of(sink: str) -> str:
    """Return what people call a sink."""
    return TITLES.get(sink) or sink


def pending(sinks: tuple[str, ...] = MIRRORS) -> str:
    """Return assignments in SQL that make sinks pending for an entity."""
    known = (columns_of(sink) for sink in sinks)
    return ", ".join(f"{columns.status} = 'pending'" for columns in known if columns)
