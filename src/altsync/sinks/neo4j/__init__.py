"""The graph: nodes with the edges to their parents, guarded by version."""

from altsync.contract import Columns, Declaration, Drift, SinkTraits

SINK = Declaration(
    SinkTraits("neo4j", guarded=True, edges=True),
    f"{__name__}.write:open_sink",
    "NEO4J_URI",
    "Neo4j",
    Columns("neo4j_sync_status", "neo4j_synced_at", "neo4j_node_id"),
    edge_id="neo4j_rel_id",
    compare=f"{__name__}.compare:compare",
    show=f"{__name__}.show:show",
    check=f"{__name__}.show:check",
    forget=f"{__name__}.show:forget",
    drifts=(Drift.MISSING, Drift.STALE, Drift.ORPHAN, Drift.AHEAD),
    rank=10,
)
