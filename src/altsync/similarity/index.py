"""SIMILAR_TO as a maintained view: the entities nearest to each entity, by a vector index.

It follows the vector index, whose answers select the entities to compare. Their vectors in
PostgreSQL decide, so one search updates both ends of each pair.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from uuid import UUID

import numpy as np

from altsync.contract import (
    Answer,
    Failed,
    RecordOutcome,
    Topology,
    Written,
)
from altsync.db import Database
from altsync.declarations import INDEXES, index_similarity
from altsync.entities import EntityType, Model, Row
from altsync.operations import ErrorKind
from altsync.outbox.edges import invalidate_neighbours
from altsync.outbox.enqueue import lock_entities
from altsync.outbox.marks import read_marks
from altsync.projection import namespace
from altsync.protocols import Index, Reads
from altsync.similarity import sql
from altsync.similarity.decisions import Candidates
from altsync.similarity.local import Sink as LocalSink
from altsync.similarity.nearest import NearestQueries, Scores
from altsync.similarity.rules import SAME_SCORE, RulesOf

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


class Sink(LocalSink):
    """Keeps the SIMILAR_TO relationships of entities in step with the answers of an index.

    The index selects the candidates of a comparison; the rest is that of the sink that compares
    with the whole group.
    """

    traits = index_similarity(INDEXES[0]).traits

    def __init__(
        self,
        database: Database,
        index: Index,
        topology: Topology,
        rules: RulesOf,
        *,
        follows: str = INDEXES[0],
    ) -> None:
        super().__init__(database, topology, rules)
        self.traits = index_similarity(follows).traits
        self._follows = follows
        self._index = index
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
        marks = self._marks(rows[0].entity_type)
        scores, seen, calls = self._queries.search(rows, model, marks)
        hidden = [row for row in rows if scores[row.id].get(row.key, 0.0) < ITSELF]
        ended, fetches = self._hidden(hidden, scores, seen, model)
        shown = [row for row in rows if row.id not in ended]
        if shown:
            self.relate(shown, model, self._candidates(shown, scores))
        outcomes: list[RecordOutcome] = [Written(row.id, row.version) for row in shown]
        return Answer((*outcomes, *ended.values()), calls=calls + fetches)

    def close(self) -> None:
        """Close the threads and the index."""
        self._index.close()
        self._queries.close()

    def _candidates(self, rows: Sequence[Row], scores: Mapping[UUID, Scores]) -> Candidates:
        """Return the candidates of entities: all that may have a score above ``leave``."""
        least = self._rules(rows[0].entity_type).leave - SAME_SCORE
        near = {key for row in rows for key, score in scores[row.id].items() if score > least}
        return Candidates(near, {row.id: row.version for row in rows})

    # --- an index that lags ---------------------------------------------------------------------

    def _marks(self, kind: EntityType) -> dict[str, int]:
        """Return the positions of the last writes by namespace, where the index names them."""
        with self._database.autocommit() as conn:
            found = read_marks(conn, [self._follows], kind).get(self._follows, {})
        return {space: mark for (_, space), mark in found.items()}

    def _hidden(
        self,
        rows: Sequence[Row],
        scores: Mapping[UUID, Scores],
        seen: Mapping[UUID, bool],
        model: Model,
    ) -> tuple[dict[UUID, RecordOutcome], int]:
        """Return the outcomes of entities that are not among their own neighbours, and the calls.

        A ranked answer proves nothing: equal vectors crowd an entity out, and an approximate index
        may miss it. So the ids are fetched. An entity without an outcome has a good answer.
        ``seen``: whether the answer had seen every write; without it, time and crowding decide.
        """
        if not rows:
            return {}, 0
        kind = rows[0].entity_type
        states = self._vector_states(kind, [row.id for row in rows])
        unclear = [row for row in rows if not states[row.id][0] and seen.get(row.id, True)]
        stored, calls = self._stored(unclear, model) if unclear else (set(), 0)
        ended: dict[UUID, RecordOutcome] = {}
        for row in rows:
            pending, age = states[row.id]
            shown = seen.get(row.id)
            lagging = shown is False or (age is not None and age < LONGEST_LAG)
            crowded = min(scores[row.id].values(), default=0.0) >= ITSELF
            if pending:  # writing its vector enqueues this search again
                ended[row.id] = Written(row.id, row.version)
            elif row.id in stored and (shown or crowded or not lagging):
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
