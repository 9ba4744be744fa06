"""Write the neighbours that a vector index found, and request the searches that follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from altsync.contract import Topology
from altsync.db import Conn
from altsync.entities import EntityType
from altsync.operations import Origin
from altsync.outbox.edges import enqueue_edge_update, enqueue_neighbour_search
from altsync.outbox.enqueue import lock_entities
from altsync.similarity import sql
from altsync.similarity.groups import write_similar_edges
from altsync.similarity.rules import SAME_SCORE, Rules
from altsync.similarity.sql import Neighbours
from altsync.store.reads import living_keys


@dataclass(frozen=True, slots=True)
class EdgeCounts:
    """The edges that a call changed, and the searches that it requested."""

    added: int = 0
    rescored: int = 0
    removed: int = 0
    rerun_requested: int = 0

    def __add__(self, other: EdgeCounts) -> EdgeCounts:
        return EdgeCounts(
            self.added + other.added,
            self.rescored + other.rescored,
            self.removed + other.removed,
            self.rerun_requested + other.rerun_requested,
        )


def relate(
    conn: Conn,
    kind: EntityType,
    found: Sequence[Neighbours],
    rules: Rules,
    topology: Topology,
    follower: str,
) -> EdgeCounts:
    """Replace the SIMILAR_TO edges of searched entities, in the caller's transaction.

    Entities whose edges changed are written to the graph. The neighbours of an entity with a new
    input are searched again where their edges do not fit its candidates. A search that was only
    repeated requests no others, so one change ends after one more search of each neighbour. An
    entity is searched again itself where it, or a chosen neighbour, changed or was deleted
    meanwhile. ``follower`` is the sink that searches.
    """
    sources = [n.source for n in found]
    targets = living_keys(conn, kind, list({key for n in found for key in n.edges}))
    lock_entities(conn, ((kind, i) for i in {*sources, *targets.values()}))
    current = sql.similar_edges(conn, kind, sources)
    living = living_keys(conn, kind, list(targets))
    with_new_input = sql.with_new_input(conn, kind, found)
    counts = EdgeCounts()
    changed: dict[UUID, Neighbours] = {}
    for one in found:
        wanted = {key: score for key, score in one.edges.items() if key in living}
        difference = _difference(current[one.source], wanted)
        if difference != EdgeCounts():
            changed[one.source] = one
            counts += difference
    _rewrite(conn, kind, list(changed.values()), living)
    unchanged = sql.record_neighbours_input(conn, kind, found)
    enqueue_edge_update(conn, kind, list(changed), topology, Origin.SIMILARITY)
    rerun = sql.find_asymmetric(conn, kind, [n for n in found if n.source in with_new_input], rules)
    rerun |= {n.source for n in found if n.source not in unchanged or n.edges.keys() - living}
    requested = enqueue_neighbour_search(
        conn, kind, [follower], sorted(rerun), delay=rules.debounce, again=True
    )
    return counts + EdgeCounts(rerun_requested=requested)


def _difference(current: Mapping[str, float], wanted: Mapping[str, float]) -> EdgeCounts:
    kept = current.keys() & wanted.keys()
    return EdgeCounts(
        added=len(wanted.keys() - current.keys()),
        rescored=sum(abs(current[key] - wanted[key]) >= SAME_SCORE for key in kept),
        removed=len(current.keys() - wanted.keys()),
    )


def _rewrite(
    conn: Conn, kind: EntityType, found: Sequence[Neighbours], living: Mapping[str, UUID]
) -> None:
    """Replace the SIMILAR_TO edges by those to living neighbours. Kept edges keep their ids."""
    edges = {
        one.source: {living[key]: score for key, score in one.edges.items() if key in living}
        for one in found
    }
    write_similar_edges(conn, kind, edges, {one.source: one.version for one in found})
