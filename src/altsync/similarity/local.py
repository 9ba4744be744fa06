"""SIMILAR_TO from the vectors that PostgreSQL holds: exact, without a remote call.

One pass over a group of entities compares it with all entities of a batch at once, by blocked
matrix products. A cosine is symmetric, so the pass updates both ends of each pair: an entity is
searched again only where it was full and lost a neighbour.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar
from uuid import UUID

import numpy as np
import numpy.typing as npt
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
from altsync.similarity.groups import (
    GroupMember,
    SimilarEdge,
    Vectored,
    edges_from,
    group_members,
    group_pages,
    groups_of,
    note_neighbours_input,
    similar_edges_at,
    vectored,
    weakest_edges,
    write_similar_edges,
)
from altsync.similarity.sql import SAME_SCORE, Rules, RulesOf, related_entities

log = structlog.get_logger(__name__)

Floats = npt.NDArray[np.float32]

#: Entities that share one pass over their group. A block of scores takes PART x BLOCK x 4 bytes.
PART = 2000

#: Members of a group per block: 12 MB of 1,536 numbers each.
BLOCK = 2000

#: Sources whose edges one transaction writes, so that no lock is held for long.
SOURCES = 500

#: Decimal places of a score, so that equal texts have equal scores: float32 products of the same
#: two vectors differ in the seventh place by their position in a block.
DECIMALS = 6

#: Tries of a transaction that met another writer of the same rows.
WRITE_TRIES = 3


@dataclass(slots=True)
class ComparedGroup:
    """What one pass over a group found. Scores are cosines.

    ``scores`` holds each pair (entity of the batch, member) above ``enter``, as far as it may
    become an edge, and each pair that has an edge. ``members`` are the entities that were compared.
    """

    batch: dict[UUID, Vectored]
    edges: list[SimilarEdge]
    members: dict[UUID, GroupMember] = field(default_factory=dict)
    scores: dict[UUID, dict[UUID, float]] = field(default_factory=lambda: defaultdict(dict))


@dataclass(frozen=True, slots=True)
class Change:
    """The edges that a source is to have, and whether it must be searched again."""

    edges: dict[UUID, float]
    rerun: bool = False


class Sink:
    """Keeps the SIMILAR_TO relationships of entities in step with the vectors in PostgreSQL."""

    traits: ClassVar[SinkTraits] = LOCAL_SIMILARITY.traits

    def __init__(self, database: Database, topology: Topology, rules: RulesOf) -> None:
        self._database = database
        self._topology = topology
        self._rules = rules

    def setup(self) -> None:
        """Nothing: migrations made the table."""

    def split(self, rows: Sequence[Row], model: Model) -> list[Sequence[Row]]:
        """By count."""
        return [rows[i : i + PART] for i in range(0, len(rows), PART)]

    def upsert(self, rows: Sequence[Row], model: Model) -> Answer:
        """Search the neighbours of entities, and write what has changed of any edge.

        An entity without a vector of ``model`` keeps its edges: the settlement of its embedding
        enqueues its search.
        """
        kind = rows[0].entity_type
        ids = [row.id for row in rows]
        with self._database.autocommit() as conn:
            groups = groups_of(conn, kind, ids, model, across=self._rules(kind).across)
        for group, members in groups.items():
            found = self._compare(kind, group, members, model)
            self._write(kind, group, found, model)
        return Answer(tuple(Written(row.id, row.version) for row in rows), calls=0)

    # --- comparing ------------------------------------------------------------------------------

    def _compare(
        self, kind: EntityType, group: str | None, ids: Sequence[UUID], model: Model
    ) -> ComparedGroup:
        """Compare entities with every member of their group, in one snapshot."""
        with self._database.snapshot() as conn:
            batch = vectored(conn, kind, ids, group, model)
            found = ComparedGroup({one.id: one for one in batch}, similar_edges_at(conn, kind, ids))
            if batch:
                search = _Search(batch, found.edges, self._rules(kind))
                for page in group_pages(conn, kind, group, model, BLOCK):
                    found.members.update((m.id, m) for m, _vector in page)
                    for entity, member, score in search.block(page):
                        found.scores[entity][member] = score
        return found

    # --- writing --------------------------------------------------------------------------------

    def _write(
        self, kind: EntityType, group: str | None, found: ComparedGroup, model: Model
    ) -> None:
        """Write what a pass found, a few hundred sources at a time."""
        if not found.batch:
            return
        sources = sorted({*found.batch, *self._others(kind, found)})
        for start in range(0, len(sources), SOURCES):
            self._write_sources(kind, group, found, sources[start : start + SOURCES], model)

    def _others(self, kind: EntityType, found: ComparedGroup) -> set[UUID]:
        """Members outside the batch whose edges may change by what was found of the batch."""
        rules = self._rules(kind)
        known: dict[UUID, dict[UUID, float]] = defaultdict(dict)
        for edge in found.edges:
            if edge.target in found.batch and edge.source not in found.batch:
                known[edge.source][edge.target] = edge.score
        changed = {
            source
            for source, edges in known.items()
            for target, score in edges.items()
            if not _stays(found.scores[target].get(source), score, rules.leave)
        }
        better: dict[UUID, float] = {}
        for entity, scores in found.scores.items():
            for member, score in scores.items():
                if member in found.batch or score <= rules.enter:
                    continue
                if entity not in known.get(member, ()):
                    better[member] = max(score, better.get(member, -1.0))
        with self._database.autocommit() as conn:
            # Their own searches find the same pairs, and more.
            due = due_searches(conn, SIMILARITY, [*changed, *better])
            better = {member: score for member, score in better.items() if member not in due}
            weakest = weakest_edges(conn, kind, list(better))
        for member, score in better.items():
            count, lowest = weakest.get(member, (0, -1.0))
            if count < rules.top_k or score > lowest + SAME_SCORE:
                changed.add(member)
        return changed - due

    def _write_sources(
        self,
        kind: EntityType,
        group: str | None,
        found: ComparedGroup,
        sources: Sequence[UUID],
        model: Model,
    ) -> None:
        for attempt in range(1, WRITE_TRIES + 1):
            try:
                self._write_once(kind, group, found, sources, model)
                return
            except (errors.DeadlockDetected, errors.SerializationFailure):
                if attempt == WRITE_TRIES:
                    raise

    def _write_once(
        self,
        kind: EntityType,
        group: str | None,
        found: ComparedGroup,
        sources: Sequence[UUID],
        model: Model,
    ) -> None:
        """Write the edges of sources in one transaction, by what is true under their locks."""
        reverse = _reversed(found.scores, set(sources) - found.batch.keys())
        targets = {t for s in sources for t in found.scores.get(s, ())}
        targets |= {t for scores in reverse.values() for t in scores}
        targets |= {e.target for e in found.edges if e.source in set(sources)}
        everyone = {*sources, *targets}
        with self._database.transaction() as conn:
            lock_entities(conn, ((kind, i) for i in everyone))
            now = edges_from(conn, kind, sources)
            everyone |= {target for edges in now.values() for target in edges}
            standing = group_members(conn, kind, list(everyone))
            view = _View(group, model, found, standing, self._rules(kind))
            changes: dict[UUID, Change] = {}
            noted: list[Vectored] = []
            for source in sources:
                if view.is_changed(source):
                    continue  # its own search is due
                if source in found.batch:
                    changes[source] = view.search(source, now.get(source, {}))
                    noted.append(found.batch[source])
                else:
                    scores = reverse.get(source, {})
                    changes[source] = view.update(source, now.get(source, {}), scores)
            rewritten = {s: c.edges for s, c in changes.items() if c.edges != now.get(s, {})}
            versions = {s: standing[s].version for s in rewritten}
            write_similar_edges(conn, kind, rewritten, versions)
            note_neighbours_input(conn, kind, noted)
            enqueue_edge_update(conn, kind, sorted(rewritten), self._topology, Origin.SIMILARITY)
            unchanged = [one.id for one in noted if one.id not in rewritten]
            release_held(conn, unchanged, self._topology)
            again = sorted(s for s, c in changes.items() if c.rerun)
            enqueue_neighbour_search(conn, kind, [SIMILARITY], again, delay=0.0, again=True)
        log.info(
            "relationships.updated",
            entities=len(noted),
            changed=len(rewritten),
            rerun_requested=len(again),
        )

    def delete(self, rows: Sequence[Row]) -> Answer:
        """Nothing: an entity's relationships go with it, in the transaction that deletes it."""
        return Answer(tuple(Written(row.id, row.version) for row in rows), calls=0)

    def versions(self, entity_type: EntityType) -> Iterator[SinkVersion]:
        """Entities whose neighbours were computed; ``content_hash`` is what from."""
        if entity_type.similar:
            yield from related_entities(self._database, entity_type)

    def close(self) -> None:
        """Nothing is open."""


def _reversed(
    scores: Mapping[UUID, Mapping[UUID, float]], wanted: set[UUID]
) -> dict[UUID, dict[UUID, float]]:
    """Scores by the member, for the members in ``wanted``."""
    found: dict[UUID, dict[UUID, float]] = {}
    for entity, others in scores.items():
        for member in others.keys() & wanted:
            found.setdefault(member, {})[entity] = others[member]
    return found


def _stays(score: float | None, now: float, leave: float) -> bool:
    """Return whether an edge stays; ``score`` is None where its ends were not compared."""
    return score is not None and score > leave and abs(score - now) < SAME_SCORE


class _Search:
    """The products of one batch with its group, block by block."""

    def __init__(
        self, batch: Sequence[Vectored], edges: Iterable[SimilarEdge], rules: Rules
    ) -> None:
        # In the order of keys, so that equal scores are chosen in that order.
        self._batch = sorted(batch, key=lambda one: one.tag)
        self._vectors = _units([one.vector for one in self._batch])
        self._place = {one.id: i for i, one in enumerate(self._batch)}
        self._rules = rules
        self._known: dict[UUID, set[int]] = defaultdict(set)
        for edge in edges:
            for entity, member in ((edge.source, edge.target), (edge.target, edge.source)):
                if entity in self._place:
                    self._known[member].add(self._place[entity])

    def block(
        self, page: Sequence[tuple[GroupMember, bytes]]
    ) -> Iterator[tuple[UUID, UUID, float]]:
        """Yield (entity of the batch, member, score) of one page of members, in key order."""
        scores = _units([vector for _member, vector in page]) @ self._vectors.T
        chosen = scores > self._rules.enter
        for row, (member, _vector) in enumerate(page):
            if member.id in self._place:
                chosen[row, self._place[member.id]] = False  # itself
        chosen = self._within_reach(scores, chosen)
        for row, (member, _vector) in enumerate(page):
            for column in self._known.get(member.id, ()):
                chosen[row, column] = True
        rows, columns = np.nonzero(chosen)
        rounded = np.round(scores[rows, columns].astype(np.float64), DECIMALS)
        for row, column, score in zip(
            rows.tolist(), columns.tolist(), rounded.tolist(), strict=True
        ):
            yield self._batch[column].id, page[row][0].id, score

    def _within_reach(self, scores: Floats, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Drop the pairs that are among the nearest of neither end.

        It matters where many entities have nearly equal texts: a thousand of them make a million
        pairs, and ten edges each.
        """
        most = self._rules.top_k + 1
        if chosen.sum() <= most * sum(scores.shape):
            return chosen
        ranked = np.where(chosen, np.round(scores, DECIMALS), -np.inf)
        near = np.zeros_like(chosen)
        for axis in (0, 1):
            best = np.argsort(-ranked, axis=axis, kind="stable").take(range(most), axis=axis)
            np.put_along_axis(near, best, True, axis=axis)
        return near & chosen


@dataclass(frozen=True, slots=True)
class _View:
    """What a pass found, against what is true under the locks of the entities."""

    group: str | None
    model: Model
    found: ComparedGroup
    standing: Mapping[UUID, GroupMember]
    rules: Rules

    def is_changed(self, source: UUID) -> bool:
        """Whether a source is gone, or has come to the group or changed in it since it was read.

        A source that is in another group keeps no edge to the batch, and is judged by that.
        """
        if source in self.found.members or source in self.found.batch:
            return not self._compared(source)
        return source not in self.standing or self._kept(source)

    def _kept(self, entity: UUID) -> bool:
        """Return whether a pair with this entity stays as it is, as its own search decides."""
        now = self.standing.get(entity)
        if now is None or now.model != self.model.name:
            return False
        return self.group is None or now.group == self.group

    def search(self, source: UUID, now: Mapping[UUID, float]) -> Change:
        """Return all edges of an entity of the batch: the nearest of all members."""
        scores = self.found.scores.get(source, {})
        edges: dict[UUID, float] = {}
        for target, score in now.items():
            if not self._compared(target):
                if self._kept(target):
                    edges[target] = score
            elif target in scores:
                if scores[target] > self.rules.leave:
                    edges[target] = _settled(scores[target], score)
            else:
                edges[target] = score  # made by its own search since, at the very threshold
        edges |= {
            target: score
            for target, score in scores.items()
            if target not in now and score > self.rules.enter and self._compared(target)
        }
        return Change(self._nearest(edges))

    def update(
        self, source: UUID, now: Mapping[UUID, float], scores: Mapping[UUID, float]
    ) -> Change:
        """Return the edges of a member by its scores with the batch; the others stay.

        Its edges are all that are near enough, or the nearest of them. Where it has no more than
        those, an edge that is lost may have to be replaced by one that was not compared.
        """
        edges = dict(now)
        for entity in self.found.batch.keys() & (now.keys() | scores.keys()):
            if not self._compared(entity):
                continue
            score = scores.get(entity)
            if entity not in now:
                if score is not None and score > self.rules.enter:
                    edges[entity] = score
            elif score is not None and score > self.rules.leave:
                edges[entity] = _settled(score, now[entity])
            else:
                del edges[entity]
        full = len(now) >= self.rules.top_k
        weakest = min(now.values(), default=-1.0)
        if full:
            edges = {
                target: score
                for target, score in edges.items()
                if target in now or score > weakest + SAME_SCORE
            }
        nearest = self._nearest(edges)
        lost = full and (
            len(nearest) < self.rules.top_k or min(nearest.values()) < weakest - SAME_SCORE
        )
        return Change(nearest, rerun=lost)

    def _compared(self, target: UUID) -> bool:
        """Return whether an entity has the vector and the group still by which it was compared."""
        read, now = self.found.members.get(target), self.standing.get(target)
        return read is not None and now is not None and now.compared_by == read.compared_by

    def _nearest(self, edges: Mapping[UUID, float]) -> dict[UUID, float]:
        ordered = sorted(edges.items(), key=lambda one: (-one[1], self.standing[one[0]].tag))
        return dict(ordered[: self.rules.top_k])


def _settled(score: float, now: float) -> float:
    """The score to keep: a difference that rounding explains is none."""
    return now if abs(score - now) < SAME_SCORE else score


def _units(vectors: Sequence[bytes]) -> Floats:
    """Vectors (float32 little-endian) as the rows of a matrix, each of length 1 or 0."""
    matrix = np.frombuffer(b"".join(vectors), "<f4").reshape(len(vectors), -1).astype(np.float32)
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    units: Floats = np.divide(matrix, lengths, out=np.zeros_like(matrix), where=lengths > 0)
    return units
