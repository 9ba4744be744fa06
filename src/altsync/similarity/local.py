"""SIMILAR_TO from the vectors that PostgreSQL holds: exact, without a remote call.

One pass over a group of entities compares it with all entities of a batch at once, by blocked
matrix products. A cosine is symmetric, so the pass updates both ends of each pair: an entity is
searched again only where it was full and lost a neighbour.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from uuid import UUID

import structlog
from psycopg import errors

from altsync.contract import SIMILARITY, Answer, SinkTraits, SinkVersion, Topology, Written
from altsync.db import Database
from altsync.declarations import LOCAL_SIMILARITY
from altsync.entities import EntityType, Model, Row
from altsync.operations import Origin
from altsync.outbox.edges import (
    due_searches,
    enqueue_edge_update,
    enqueue_neighbour_search,
    release_held,
)
from altsync.outbox.enqueue import lock_entities
from altsync.similarity.decisions import Candidates, Change, ComparedGroup, LockedView
from altsync.similarity.groups import (
    EmbeddedMember,
    edges_from,
    embedded_members,
    group_members,
    group_pages,
    groups_of,
    keys_of,
    record_neighbours_input,
    similar_edges_at,
    weakest_edges,
    write_similar_edges,
)
from altsync.similarity.products import BatchProducts
from altsync.similarity.rules import SAME_SCORE, RulesOf
from altsync.store.reads import living_versions

log = structlog.get_logger(__name__)

#: Entities that share one pass over their group. A block of scores takes PART x BLOCK x 4 bytes.
PART = 2000

#: Members of a group per block: 12 MB of 1,536 numbers each.
BLOCK = 2000

#: Sources whose edges one transaction writes, so that no lock is held for long.
SOURCES = 500

#: Tries of a transaction that conflicts with another writer of the same rows.
WRITE_TRIES = 3


class Sink:
    """Keeps the SIMILAR_TO relationships of entities in step with the vectors in PostgreSQL."""

    traits: SinkTraits = LOCAL_SIMILARITY.traits

    def __init__(self, database: Database, topology: Topology, rules: RulesOf) -> None:
        self._database = database
        self._topology = topology
        self._rules = rules

    def setup(self) -> None:
        """Do nothing: migrations created the table."""

    def split(self, rows: Sequence[Row], model: Model) -> list[Sequence[Row]]:
        """Split by count."""
        return [rows[i : i + PART] for i in range(0, len(rows), PART)]

    def upsert(self, rows: Sequence[Row], model: Model) -> Answer:
        """Search the neighbours of entities, and write what has changed of any edge.

        An entity without a vector of ``model`` keeps its edges: the settlement of its embedding
        enqueues its search.
        """
        self.relate(rows, model)
        return Answer(tuple(Written(row.id, row.version) for row in rows), calls=0)

    def relate(
        self, rows: Sequence[Row], model: Model, candidates: Candidates | None = None
    ) -> None:
        """Compare entities with ``candidates``, or with their whole group; write both ends."""
        kind = rows[0].entity_type
        ids = [row.id for row in rows]
        with self._database.autocommit() as conn:
            groups = groups_of(conn, kind, ids, model, across=self._rules(kind).across)
        for group, members in groups.items():
            found = self._compare(kind, group, members, model, candidates)
            self._write(found)

    # --- comparing ------------------------------------------------------------------------------

    def _compare(
        self,
        kind: EntityType,
        group: str | None,
        ids: Sequence[UUID],
        model: Model,
        candidates: Candidates | None,
    ) -> ComparedGroup:
        """Compare entities with the candidates, or every member of their group, in one snapshot.

        Candidates include the entities themselves and the other ends of their edges.
        """
        with self._database.snapshot() as conn:
            batch = embedded_members(conn, kind, ids, group, model)
            edges = similar_edges_at(conn, kind, ids)
            found = ComparedGroup(kind, group, model, {one.id: one for one in batch}, edges)
            keys = None
            if candidates:
                found.versions = candidates.versions
                ends = {*ids, *(e.source for e in edges), *(e.target for e in edges)}
                keys = candidates.keys | keys_of(conn, kind, ends)
            if batch:
                products = BatchProducts(batch, edges, self._rules(kind))
                for page in group_pages(conn, kind, group, model, BLOCK, keys):
                    found.members.update((m.id, m) for m, _vector in page)
                    for entity, member, score in products.block(page):
                        found.scores[entity][member] = score
        return found

    # --- writing --------------------------------------------------------------------------------

    def _write(self, found: ComparedGroup) -> None:
        """Write the result of a pass, a few hundred sources at a time."""
        if not found.batch:
            return
        sources = sorted({*found.batch, *self._affected(found)})
        for start in range(0, len(sources), SOURCES):
            self._write_sources(found, sources[start : start + SOURCES])

    def _affected(self, found: ComparedGroup) -> set[UUID]:
        """Return the members outside the batch whose edges may change."""
        kind, rules = found.kind, self._rules(found.kind)
        former: dict[UUID, dict[UUID, float]] = defaultdict(dict)
        for edge in found.edges:
            if edge.target in found.batch and edge.source not in found.batch:
                former[edge.source][edge.target] = edge.score
        changed = {
            source
            for source, edges in former.items()
            for target, score in edges.items()
            if not _stays(found.scores[target].get(source), score, rules.leave)
        }
        better: dict[UUID, float] = {}
        for entity, scores in found.scores.items():
            for member, score in scores.items():
                if member in found.batch or score <= rules.enter:
                    continue
                if entity not in former.get(member, ()):
                    better[member] = max(score, better.get(member, -1.0))
        with self._database.autocommit() as conn:
            # A member whose own search is due is left out: that search finds the same pairs.
            due = due_searches(conn, SIMILARITY, [*changed, *better])
            better = {member: score for member, score in better.items() if member not in due}
            weakest = weakest_edges(conn, kind, list(better))
        for member, score in better.items():
            count, lowest = weakest.get(member, (0, -1.0))
            if count < rules.top_k or score > lowest + SAME_SCORE:
                changed.add(member)
        return changed - due

    def _write_sources(self, found: ComparedGroup, sources: Sequence[UUID]) -> None:
        for attempt in range(1, WRITE_TRIES + 1):
            try:
                self._write_once(found, sources)
                return
            except (errors.DeadlockDetected, errors.SerializationFailure):
                if attempt == WRITE_TRIES:
                    raise

    def _write_once(self, found: ComparedGroup, sources: Sequence[UUID]) -> None:
        """Write the edges of sources in one transaction, by their locked rows."""
        kind = found.kind
        reverse = _reversed(found.scores, set(sources) - found.batch.keys())
        targets = {t for s in sources for t in found.scores.get(s, ())}
        targets |= {t for scores in reverse.values() for t in scores}
        targets |= {e.target for e in found.edges if e.source in set(sources)}
        locked = {*sources, *targets}
        with self._database.transaction() as conn:
            lock_entities(conn, ((kind, i) for i in locked))
            edges = edges_from(conn, kind, sources)
            present = {target for targets in edges.values() for target in targets}
            current = group_members(conn, kind, list(locked | present))
            view = LockedView(found, current, self._rules(kind))
            changes: dict[UUID, Change] = {}
            searched: list[EmbeddedMember] = []
            rerun = {s for s in sources if view.is_outdated(s)}
            for source in sources:
                if source in rerun or view.is_changed(source):
                    continue  # its own search is due
                if source in found.batch:
                    changes[source] = view.search(source, edges.get(source, {}))
                    searched.append(found.batch[source])
                else:
                    scores = reverse.get(source, {})
                    changes[source] = view.update(source, edges.get(source, {}), scores)
            rewritten = {s: c.edges for s, c in changes.items() if c.edges != edges.get(s, {})}
            versions = {s: current[s].version for s in rewritten}
            write_similar_edges(conn, kind, rewritten, versions)
            record_neighbours_input(conn, kind, searched)
            enqueue_edge_update(conn, kind, sorted(rewritten), self._topology, Origin.SIMILARITY)
            unchanged = [one.id for one in searched if one.id not in rewritten]
            release_held(conn, unchanged, self._topology)
            rerun |= {s for s, c in changes.items() if c.rerun}
            enqueue_neighbour_search(conn, kind, [SIMILARITY], sorted(rerun), again=True)
        log.info(
            "relationships.updated",
            entities=len(searched),
            changed=len(rewritten),
            rerun_requested=len(rerun),
        )

    def delete(self, rows: Sequence[Row]) -> Answer:
        """Do nothing: the transaction that deletes an entity deletes its relationships."""
        return Answer(tuple(Written(row.id, row.version) for row in rows), calls=0)

    def versions(self, entity_type: EntityType) -> Iterator[SinkVersion]:
        """Yield entities whose neighbours were computed; ``content_hash`` is the input."""
        if entity_type.similar:
            yield from living_versions(self._database, entity_type, "neighbours_input_hash")

    def close(self) -> None:
        """Do nothing: no resource is open."""


def _reversed(
    scores: Mapping[UUID, Mapping[UUID, float]], wanted: set[UUID]
) -> dict[UUID, dict[UUID, float]]:
    """Return scores by the member, for the members in ``wanted``."""
    found: dict[UUID, dict[UUID, float]] = {}
    for entity, others in scores.items():
        for member in others.keys() & wanted:
            found.setdefault(member, {})[entity] = others[member]
    return found


def _stays(score: float | None, now: float, leave: float) -> bool:
    """Return whether an edge stays; ``score`` is None where its ends were not compared."""
    return score is not None and score > leave and abs(score - now) < SAME_SCORE
