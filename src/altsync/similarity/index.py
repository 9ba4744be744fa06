"""SIMILAR_TO as a maintained view: the entities nearest to each entity, by their vectors.

It is a sink like the others: its work is claimed, retried, given up on and shown like theirs. It
mirrors the vector index, and writes the table ``<entity>_relationship``; from there edges are
written to the graph as part of their source's projection.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from heapq import nlargest
from itertools import repeat
from typing import Any
from uuid import UUID

import numpy as np
import structlog

from altsync.contract import (
    SIMILARITY,
    Answer,
    Failed,
    RecordOutcome,
    SinkTraits,
    SinkVersion,
    Topology,
    Written,
)
from altsync.db import Database
from altsync.declarations import INDEXES, index_similarity
from altsync.entities import EntityType, Model, Row
from altsync.operations import ErrorKind
from altsync.outbox.edges import invalidate_neighbours
from altsync.outbox.enqueue import lock_entities
from altsync.projection import namespace
from altsync.protocols import Index, Reads
from altsync.similarity.sql import (
    Neighbours,
    Rules,
    RulesOf,
    relate,
    related_entities,
    similar_edges,
    similar_to,
    vector_standing,
)
from altsync.store.reads import living_keys

log = structlog.get_logger(__name__)

#: Entities per call: a lease is made sure of, and progress kept, between two calls.
PART = 50

#: Queries that are under way at once.
LANES = 8

#: Neighbours that a query asks for, more than an entity keeps: one that has many near ones is
#: still found by those that have it among their nearest.
REACH = 100

#: How many times more are asked for when an answer ends before the last neighbour is certain:
#: deleted entities fill it, or entities beyond it are as near as the last that is kept.
WIDER = 10

#: Neighbours that an index answers with at most: https://docs.pinecone.io/reference/api/database-limits
FARTHEST = 10_000

#: Cosine of a vector with itself, as an index that rounds may answer it. Below, the index does
#: not show what it was given yet.
ITSELF = 0.999

#: Decimals of a score, as PostgreSQL keeps it. Scores are rounded before they are compared:
#: float32 products of equal vectors differ by 1e-7, and ties must not be decided by that.
DECIMALS = 5

#: Seconds until an entity is looked for again that the index does not show yet.
LAG = 2.0

#: Seconds that an index may lag behind its writes before a vector counts as missing.
#: https://docs.pinecone.io/guides/index-data/check-data-freshness speaks of a few seconds.
LONGEST_LAG = 60.0


def neighbours_input(row: Row) -> str:
    """What the neighbours of an entity are computed from; the same as ``outbox.input_hash_of``."""
    parts = (row.embedding_model, row.embedding_text_hash, group_of(row))
    return "|".join(part for part in parts if part is not None)


def group_of(row: Row) -> str | None:
    """The value that neighbours of an entity share with it, None for any."""
    within = row.entity_type.similarity.within
    return None if within is None else getattr(row.content, within)


def _ends_early(
    answer: Mapping[str, float], alive: Mapping[str, float], reach: int, rules: Rules
) -> bool:
    """Return whether an entity beyond the first ``reach`` may belong among the neighbours."""
    if len(answer) < reach:
        return False
    farthest = nlargest(reach, answer.values())[-1]
    # One more than are kept: the entity itself is among them.
    best = nlargest(rules.top_k + 1, alive.values())
    short = len(best) <= rules.top_k
    return farthest > rules.leave and (short or farthest >= best[-1])


class Sink:
    """Keeps the SIMILAR_TO relationships of entities in step with their vectors."""

    traits: SinkTraits = index_similarity(INDEXES[0]).traits

    def __init__(
        self,
        database: Database,
        index: Index,
        topology: Topology,
        rules: RulesOf,
        *,
        follows: str = INDEXES[0],
    ) -> None:
        self.traits = index_similarity(follows).traits
        self._follows = follows
        self._database = database
        self._index = index
        self._topology = topology
        self._rules = rules
        self._lanes = ThreadPoolExecutor(LANES, thread_name_prefix="similarity")
        self._reach: dict[EntityType, int] = {}

    def setup(self) -> None:
        """The vector index that is asked; migrations made the table."""
        self._index.setup()

    def split(self, rows: Sequence[Row], model: Model) -> list[Sequence[Row]]:
        """By count. Entities of equal text go together, as one query answers for all of them."""
        ordered = sorted(rows, key=lambda row: row.text_hash)
        return [ordered[i : i + PART] for i in range(0, len(ordered), PART)]

    def upsert(self, rows: Sequence[Row], model: Model) -> Answer:
        """Ask for the neighbours of each entity, and write what has changed of its edges."""
        seen, calls = self._see(rows, model)
        hidden = [row for row in rows if seen[row.id].get(row.key, 0.0) < ITSELF]
        ended, fetches = self._hidden(hidden, seen, model)
        shown = [row for row in rows if row.id not in ended]
        self._relate(rows[0].entity_type, shown, seen)
        outcomes: list[RecordOutcome] = [Written(row.id, row.version) for row in shown]
        return Answer((*outcomes, *ended.values()), calls=calls + fetches)

    def _see(self, rows: Sequence[Row], model: Model) -> tuple[dict[UUID, dict[str, float]], int]:
        """Return what each entity sees of living ones, as scores by key, and the queries it took.

        Entities of equal vectors share a query. A query is repeated with a greater reach where its
        answer ends too early. Where most queries of a call were, the next call begins with that
        reach: many near entities rarely come alone.
        """
        seen: dict[UUID, dict[str, float]] = {}
        groups = self._equals(rows)
        asked, wider, calls = len(groups), 0, 0
        kind = rows[0].entity_type
        rules, least = self._rules(kind), self._least(kind)
        first = reach = self._reach.get(kind, least)
        while groups:
            firsts = [group[0] for group in groups]
            answers = list(self._lanes.map(self._ask, firsts, repeat(model), repeat(reach)))
            calls += len(answers)
            with self._database.autocommit() as conn:
                tags = list({tag for answer in answers for tag in answer})
                living = living_keys(conn, kind, tags)
            ends_early: list[list[Row]] = []
            for group, answer in zip(groups, answers, strict=True):
                own = {row.key for row in group}
                alive = {t: s for t, s in answer.items() if t in living or t in own}
                seen |= {row.id: alive for row in group}
                if _ends_early(answer, alive, reach, rules):
                    ends_early.append(group)
                if reach == first:
                    wider += _ends_early(answer, alive, least, rules)
            groups = ends_early if reach < FARTHEST else []
            reach = min(reach * WIDER, FARTHEST) if groups else reach
        self._reach[kind] = reach if wider * 2 > asked else least
        return seen, calls

    def _equals(self, rows: Sequence[Row]) -> list[list[Row]]:
        """Group entities that get the same answer."""
        groups: dict[tuple[bytes, str], list[Row]] = defaultdict(list)
        for row in rows:
            groups[row.vector or b"", self._group(row)].append(row)
        return list(groups.values())

    def _group(self, row: Row) -> str:
        """Return the group that neighbours must be of, "" for any."""
        return "" if self._rules(row.entity_type).across else group_of(row) or ""

    def _least(self, kind: EntityType) -> int:
        """Return the reach of a first query."""
        return max(REACH, self._rules(kind).top_k) + 1

    def _relate(
        self, kind: EntityType, rows: Sequence[Row], seen: Mapping[UUID, dict[str, float]]
    ) -> None:
        """Write the edges of entities by all that they saw (scores by key)."""
        if not rows:
            return
        with self._database.transaction() as conn:
            ids = [row.id for row in rows]
            now = similar_edges(conn, kind, ids)
            incoming = similar_to(conn, kind, ids)
            together = {row.key for row in rows}  # their edges are written with these
            found = [
                self._neighbours(row, seen[row.id], now[row.id], incoming[row.id] | together)
                for row in rows
            ]
            related = relate(conn, kind, found, self._rules(kind), self._topology, SIMILARITY)
        log.info(
            "relationships.updated",
            entities=len(rows),
            added=related.added,
            rescored=related.rescored,
            removed=related.removed,
            rerun_requested=related.rerun_requested,
        )

    def _neighbours(
        self, row: Row, seen: dict[str, float], now: dict[str, float], incoming: set[str]
    ) -> Neighbours:
        """The edges of an entity: in above one score, out below a lower one, so many at most.

        Of equal scores the keys decide, so that every order of work ends with the same edges.
        A wide answer has no more entities asked again than a narrow one: the nearest, and those
        that lead here or may soon (``incoming``).
        """
        rules = self._rules(row.entity_type)
        near = {tag: s for tag, s in seen.items() if tag != row.key and s > rules.leave}
        wanted = {tag: s for tag, s in near.items() if s > rules.enter or tag in now}
        best = sorted(wanted.items(), key=_nearest_first)[: rules.top_k]
        first = dict(sorted(near.items(), key=_nearest_first)[: self._least(row.entity_type)])
        first |= {tag: near[tag] for tag in incoming & near.keys()}
        return Neighbours(row.id, row.version, neighbours_input(row), dict(best), first)

    def _ask(self, row: Row, model: Model, reach: int) -> dict[str, float]:
        """Return the scores of the entities nearest to one, by key."""
        matches = self._index.nearest(
            row.entity_type,
            row.vector or b"",
            top_k=reach,
            space=namespace(row),
            where=self._where(row, model),
            with_metadata=False,
        )
        return {match.key: round(match.score, DECIMALS) for match in matches}

    def _where(self, row: Row, model: Model) -> dict[str, Any]:
        """Return the metadata of vectors that are compared with an entity's."""
        group, within = self._group(row), row.entity_type.similarity.within
        return {"model": model.name} | ({str(within): group} if group else {})

    def _hidden(
        self, rows: Sequence[Row], seen: Mapping[UUID, dict[str, float]], model: Model
    ) -> tuple[dict[UUID, RecordOutcome], int]:
        """Return the outcomes of entities that are not among their own neighbours, and the calls.

        A ranked answer proves nothing: equal vectors crowd an entity out, and an approximate index
        may miss it. So the ids are fetched. An entity without an outcome has a good answer.
        """
        if not rows:
            return {}, 0
        kind = rows[0].entity_type
        standing = self._standing(kind, [row.id for row in rows])
        held, calls = self._held([row for row in rows if not standing[row.id][0]], model)
        ended: dict[UUID, RecordOutcome] = {}
        for row in rows:
            waiting, age = standing[row.id]
            late = age is not None and age < LONGEST_LAG
            crowded = min(seen[row.id].values(), default=0.0) >= ITSELF
            if waiting:  # its vector is still to be written, and will ask for this again
                ended[row.id] = Written(row.id, row.version)
            elif row.id in held and (crowded or not late):
                continue
            elif late:
                reason = "the vector index does not show its vector yet"
                ended[row.id] = Failed(row.id, ErrorKind.SINK, reason, retry_after=LAG)
            else:
                reason = (
                    "the vector index does not hold its vector as PostgreSQL does: "
                    f"altsync backfill --sink {self._follows} --force writes it again"
                )
                ended[row.id] = Failed(row.id, ErrorKind.ITEM, reason)
        return ended, calls

    def _held(self, rows: Sequence[Row], model: Model) -> tuple[set[UUID], int]:
        """Return the entities whose vectors the index holds as PostgreSQL does, and the calls."""
        reads = Reads()
        spaces: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            spaces[namespace(row)].append(row.key)
        stored = {
            one.key: one
            for space, keys in spaces.items()
            for one in self._index.fetch(rows[0].entity_type, space, keys, reads)
        }
        held = {
            row.id
            for row in rows
            if (one := stored.get(row.key))
            and self._where(row, model).items() <= one.metadata.items()
            and cosine(row.vector or b"", one.values) >= ITSELF
        }
        return held, reads.requests

    def _standing(
        self, kind: EntityType, ids: Sequence[UUID]
    ) -> dict[UUID, tuple[bool, float | None]]:
        """Of entities: whether their vector is on its way, and seconds since it was written.

        Where it is on its way, settling it asks anew. Under the entities' locks, or it could have
        settled just before, and not asked.
        """
        with self._database.transaction() as conn:
            lock_entities(conn, ((kind, i) for i in ids))
            standing = vector_standing(conn, kind, ids, self._follows)
            invalidate_neighbours(
                conn, kind, [i for i, (waiting, _) in standing.items() if waiting]
            )
        return {i: standing.get(i, (True, None)) for i in ids}  # a row that is gone needs nothing

    def delete(self, rows: Sequence[Row]) -> Answer:
        """Nothing: an entity's relationships go with it, in the transaction that deletes it."""
        return Answer(tuple(Written(row.id, row.version) for row in rows), calls=0)

    def versions(self, entity_type: EntityType) -> Iterator[SinkVersion]:
        """Entities whose neighbours were computed; ``content_hash`` is what from."""
        if entity_type.similar:
            yield from related_entities(self._database, entity_type)

    def close(self) -> None:
        """Let go of the threads and of the index."""
        self._index.close()
        self._lanes.shutdown(wait=False, cancel_futures=True)


def cosine(vector: bytes, values: Sequence[float]) -> float:
    """Return the cosine of a vector (float32 little-endian) and numbers; 0 where there is none."""
    one, other = np.frombuffer(vector, "<f4").astype(np.float64), np.asarray(values, np.float64)
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if one.shape == other.shape and lengths else 0.0


def _nearest_first(one: tuple[str, float]) -> tuple[float, str]:
    return -one[1], one[0]
