"""SIMILAR_TO as a maintained view: the entities nearest to each entity, by a vector index.

It is a sink like the others. It follows the vector index and writes the table
``<entity>_relationship``; edges are written to the graph as part of their source's projection.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
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
from altsync.similarity import sql
from altsync.similarity.nearest import NearestQueries, Scores, group_of
from altsync.similarity.relate import relate
from altsync.similarity.rules import RulesOf
from altsync.similarity.sql import Neighbours
from altsync.store.reads import living_versions

log = structlog.get_logger(__name__)

#: Entities per call: the lease is renewed, and progress kept, between two calls.
PART = 50

#: Cosine of a vector with itself, as an index that rounds may return it. Below, the index does
#: not show the written vector yet.
ITSELF = 0.999

#: Seconds until the next search of an entity that the index does not show yet.
LAG = 2.0

#: Seconds that an index may lag behind its writes before a vector counts as missing.
#: https://docs.pinecone.io/guides/index-data/check-data-freshness speaks of a few seconds.
LONGEST_LAG = 60.0


def neighbours_input(row: Row) -> str:
    """Return the input of an entity's search, as ``outbox.edges.input_hash_of`` in SQL."""
    parts = (row.embedding_model, row.embedding_text_hash, group_of(row))
    return "|".join(part for part in parts if part is not None)


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
        self._queries = NearestQueries(database, index, rules)

    def setup(self) -> None:
        """Set up the vector index; migrations created the table."""
        self._index.setup()

    def split(self, rows: Sequence[Row], model: Model) -> list[Sequence[Row]]:
        """Split by count. Entities of equal text stay together: one query answers all of them."""
        ordered = sorted(rows, key=lambda row: row.text_hash)
        return [ordered[i : i + PART] for i in range(0, len(ordered), PART)]

    def upsert(self, rows: Sequence[Row], model: Model) -> Answer:
        """Search the neighbours of entities, and write the edges that have changed."""
        scores, calls = self._queries.search(rows, model)
        hidden = [row for row in rows if scores[row.id].get(row.key, 0.0) < ITSELF]
        ended, fetches = self._hidden(hidden, scores, model)
        shown = [row for row in rows if row.id not in ended]
        self._relate(rows[0].entity_type, shown, scores)
        outcomes: list[RecordOutcome] = [Written(row.id, row.version) for row in shown]
        return Answer((*outcomes, *ended.values()), calls=calls + fetches)

    def delete(self, rows: Sequence[Row]) -> Answer:
        """Do nothing: the transaction that deletes an entity deletes its relationships."""
        return Answer(tuple(Written(row.id, row.version) for row in rows), calls=0)

    def versions(self, entity_type: EntityType) -> Iterator[SinkVersion]:
        """Yield entities whose neighbours were computed; ``content_hash`` is the input."""
        if entity_type.similar:
            yield from living_versions(self._database, entity_type, "neighbours_input_hash")

    def close(self) -> None:
        """Close the threads and the index."""
        self._index.close()
        self._queries.close()

    # --- edges ----------------------------------------------------------------------------------

    def _relate(self, kind: EntityType, rows: Sequence[Row], scores: Mapping[UUID, Scores]) -> None:
        """Write the edges of entities by the scores of their searches."""
        if not rows:
            return
        with self._database.transaction() as conn:
            ids = [row.id for row in rows]
            current = sql.similar_edges(conn, kind, ids)
            incoming = sql.similar_to(conn, kind, ids)
            together = {row.key for row in rows}  # written in the same transaction
            found = [
                self._neighbours(row, scores[row.id], current[row.id], incoming[row.id] | together)
                for row in rows
            ]
            counts = relate(conn, kind, found, self._rules(kind), self._topology, SIMILARITY)
        log.info(
            "relationships.updated",
            entities=len(rows),
            added=counts.added,
            rescored=counts.rescored,
            removed=counts.removed,
            rerun_requested=counts.rerun_requested,
        )

    def _neighbours(
        self, row: Row, scores: Scores, current: Scores, incoming: set[str]
    ) -> Neighbours:
        """Return an entity's edges: above ``enter`` or kept above ``leave``, ``top_k`` at most.

        Of equal scores the first keys are chosen, so that every order of work ends with the same
        edges. Candidates are the nearest of a narrow query, and the entities of ``incoming``: a
        wide query requests no more searches than a narrow one.
        """
        rules = self._rules(row.entity_type)
        near = {key: s for key, s in scores.items() if key != row.key and s > rules.leave}
        wanted = {key: s for key, s in near.items() if s > rules.enter or key in current}
        edges = sorted(wanted.items(), key=_nearest_first)[: rules.top_k]
        least = self._queries.least(row.entity_type)
        candidates = dict(sorted(near.items(), key=_nearest_first)[:least])
        candidates |= {key: near[key] for key in incoming & near.keys()}
        return Neighbours(row.id, row.version, neighbours_input(row), dict(edges), candidates)

    # --- an index that lags ---------------------------------------------------------------------

    def _hidden(
        self, rows: Sequence[Row], scores: Mapping[UUID, Scores], model: Model
    ) -> tuple[dict[UUID, RecordOutcome], int]:
        """Return the outcomes of entities that are not among their own neighbours, and the calls.

        A ranked answer proves nothing: equal vectors crowd an entity out, and an approximate index
        may miss it. So the ids are fetched. An entity without an outcome has a good answer.
        """
        if not rows:
            return {}, 0
        kind = rows[0].entity_type
        states = self._vector_states(kind, [row.id for row in rows])
        stored, calls = self._stored([row for row in rows if not states[row.id][0]], model)
        ended: dict[UUID, RecordOutcome] = {}
        for row in rows:
            pending, age = states[row.id]
            lagging = age is not None and age < LONGEST_LAG
            crowded = min(scores[row.id].values(), default=0.0) >= ITSELF
            if pending:  # writing its vector enqueues this search again
                ended[row.id] = Written(row.id, row.version)
            elif row.id in stored and (crowded or not lagging):
                continue
            elif lagging:
                reason = "the vector index does not show its vector yet"
                ended[row.id] = Failed(row.id, ErrorKind.SINK, reason, retry_after=LAG)
            else:
                reason = (
                    "the vector index does not hold its vector as PostgreSQL does: "
                    f"altsync backfill --sink {self._follows} --force writes it again"
                )
                ended[row.id] = Failed(row.id, ErrorKind.ITEM, reason)
        return ended, calls

    def _stored(self, rows: Sequence[Row], model: Model) -> tuple[set[UUID], int]:
        """Return the entities whose vectors the index holds as PostgreSQL does, and the calls."""
        reads = Reads()
        spaces: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            spaces[namespace(row)].append(row.key)
        fetched = {
            one.key: one
            for space, keys in spaces.items()
            for one in self._index.fetch(rows[0].entity_type, space, keys, reads)
        }
        stored = {
            row.id
            for row in rows
            if (one := fetched.get(row.key))
            and self._queries.where(row, model).items() <= one.metadata.items()
            and cosine(row.vector or b"", one.values) >= ITSELF
        }
        return stored, reads.requests

    def _vector_states(
        self, kind: EntityType, ids: Sequence[UUID]
    ) -> dict[UUID, tuple[bool, float | None]]:
        """Return (pending, age): whether a write waits, and seconds since the last one.

        The hash of pending ones is cleared, so that writing the vector enqueues this search again.
        The entities' locks exclude this order::

            this search                | worker of the vector index
            reads: vector is pending   |
                                       | settles it: same hash, so no search is enqueued
            clears the hash            |
        """
        with self._database.transaction() as conn:
            lock_entities(conn, ((kind, i) for i in ids))
            states = sql.vector_states(conn, kind, ids, self._follows)
            invalidate_neighbours(conn, kind, [i for i, (pending, _) in states.items() if pending])
        return {i: states.get(i, (True, None)) for i in ids}  # a purged row needs no search


def cosine(vector: bytes, values: Sequence[float]) -> float:
    """Return the cosine of a vector (float32 little-endian) and numbers; 0 where there is none."""
    one, other = np.frombuffer(vector, "<f4").astype(np.float64), np.asarray(values, np.float64)
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if one.shape == other.shape and lengths else 0.0


def _nearest_first(one: tuple[str, float]) -> tuple[float, str]:
    return -one[1], one[0]
