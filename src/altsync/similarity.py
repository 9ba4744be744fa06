"""SIMILAR_TO as a maintained view: the leagues nearest to each league, by their vectors.

It is a sink like the others, so that its work is claimed, retried, buried and seen like theirs.
What it mirrors is the vector index, what it writes is the table ``league_relationship``; from
there edges travel to the graph as part of their source's projection.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any, ClassVar, Protocol
from uuid import UUID

import structlog

from altsync import outbox, store
from altsync.db import Database
from altsync.records import (
    SIMILARITY,
    SIMILARITY_FOLLOWS,
    Answer,
    EntityType,
    ErrorKind,
    Failed,
    League,
    Model,
    Outcome,
    Row,
    SinkTraits,
    SinkVersion,
    Topology,
    Written,
)
from altsync.sinks.pinecone import Match
from altsync.store import Neighbours, Rules

log = structlog.get_logger(__name__)

#: The setting that switches this sink on: it asks the vector index.
SETTING = "PINECONE_API_KEY"

#: Leagues per call: a lease is made sure of, and progress kept, between two calls.
PART = 50

#: Queries that are under way at once.
LANES = 8

#: Neighbours that a query asks for, more than a league keeps: one that has many near ones is
#: still seen by those for whom it is among the nearest.
REACH = 100

#: How many times more are asked for when an answer is crowded with leagues that are deleted.
WIDER = 10

#: Neighbours that an index answers with at most: https://docs.pinecone.io/reference/api/database-limits
FARTHEST = 10_000

#: Cosine of a vector with itself, as an index that rounds may answer it. Below, the index does
#: not show what it was given yet.
ITSELF = 0.999

#: Seconds until a league is looked for again that the index does not show yet.
LAG = 2.0

#: Seconds that an index may lag behind its writes before a vector counts as missing.
#: https://docs.pinecone.io/guides/index-data/check-data-freshness speaks of a few seconds.
LONGEST_LAG = 60.0


class Index(Protocol):
    """A vector index that can be asked for neighbours."""

    def setup(self) -> None:
        """Create what is missing."""
        ...

    def nearest(
        self,
        entity_type: EntityType,
        vector: bytes,
        *,
        top_k: int,
        space: str,
        where: Mapping[str, Any] | None = None,
        with_metadata: bool = True,
    ) -> list[Match]:
        """The entities nearest to a vector, the best first. Raises ``SinkFailure``."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


def basis(row: Row) -> str:
    """What the neighbours of a league are computed from; the same as ``outbox.edges.BASIS``."""
    assert isinstance(row.content, League)
    return f"{row.embedding_model}|{row.embedding_text_hash}|{row.content.sport_archetype}"


class Sink:
    """Keeps the SIMILAR_TO relationships of leagues in step with their vectors."""

    traits: ClassVar[SinkTraits] = SinkTraits(
        SIMILARITY,
        guarded=True,
        needs_embedding=True,
        follows=SIMILARITY_FOLLOWS,
        types=(EntityType.LEAGUE,),
    )

    def __init__(self, database: Database, index: Index, topology: Topology, rules: Rules) -> None:
        self._database = database
        self._index = index
        self._topology = topology
        self._rules = rules
        self._lanes = ThreadPoolExecutor(LANES, thread_name_prefix="similarity")

    def setup(self) -> None:
        """The vector index that is asked; migrations made the table."""
        self._index.setup()

    def split(self, rows: Sequence[Row], model: Model) -> list[Sequence[Row]]:
        """By count."""
        return [rows[i : i + PART] for i in range(0, len(rows), PART)]

    def upsert(self, rows: Sequence[Row], model: Model) -> Answer:
        """Ask for the neighbours of each league, and write what has changed of its edges."""
        seen, calls = self._see(rows, model)
        shown = [row for row in rows if seen[row.id].get(row.key, 0.0) >= ITSELF]
        self._relate(shown, seen)
        fine = {row.id for row in shown}
        hidden = [row for row in rows if row.id not in fine]
        outcomes: list[Outcome] = [Written(row.id, row.version) for row in shown]
        return Answer((*outcomes, *self._hidden(hidden)), calls=calls)

    def _see(self, rows: Sequence[Row], model: Model) -> tuple[dict[UUID, dict[str, float]], int]:
        """What each league sees of living ones, as scores by tag; and how many queries it took.

        One query a league, but where deleted ones that the index still shows crowd them out.
        """
        seen: dict[UUID, dict[str, float]] = {}
        reach, calls = max(REACH, self._rules.top_k) + 1, 0
        while rows:
            answers = list(self._lanes.map(self._ask, rows, repeat(model), repeat(reach)))
            calls += len(answers)
            with self._database.autocommit() as conn:
                tags = list({tag for answer in answers for tag in answer})
                living = store.living_keys(conn, EntityType.LEAGUE, tags)
            for row, answer in zip(rows, answers, strict=True):
                seen[row.id] = {t: s for t, s in answer.items() if t in living or t == row.key}
            rows = [
                row
                for row, answer in zip(rows, answers, strict=True)
                if len(answer) >= reach and self._lacks(seen[row.id], min(answer.values()))
            ]
            if reach == FARTHEST:
                break
            reach = min(reach * WIDER, FARTHEST)
        return seen, calls

    def _lacks(self, seen: dict[str, float], farthest: float) -> bool:
        """Whether a league has room for one that is farther than all that was answered."""
        return len(seen) <= self._rules.top_k and farthest > self._rules.leave

    def _relate(self, rows: Sequence[Row], seen: Mapping[UUID, dict[str, float]]) -> None:
        """Write the edges of leagues by all that they saw (scores by tag)."""
        if not rows:
            return
        with self._database.transaction() as conn:
            now = store.similar_edges(conn, [row.id for row in rows])
            found = [self._neighbours(row, seen[row.id], now[row.id]) for row in rows]
            related = store.relate(conn, found, self._rules, self._topology, SIMILARITY)
        log.info(
            "relationships.updated",
            leagues=len(rows),
            added=related.added,
            rescored=related.rescored,
            removed=related.removed,
            asked_again=related.asked_again,
        )

    def _neighbours(self, row: Row, seen: dict[str, float], now: dict[str, float]) -> Neighbours:
        """The edges of a league: in above one score, out below a lower one, so many at most."""
        rules = self._rules
        near = {tag: s for tag, s in seen.items() if tag != row.key and s > rules.leave}
        wanted = {tag: s for tag, s in near.items() if s > rules.enter or tag in now}
        best = sorted(wanted.items(), key=lambda one: (-one[1], one[0]))[: rules.top_k]
        return Neighbours(row.id, row.version, basis(row), dict(best), near)

    def _ask(self, row: Row, model: Model, reach: int) -> dict[str, float]:
        assert isinstance(row.content, League)
        where: dict[str, Any] = {"model": model.name}
        if not self._rules.across_archetypes:
            where["sport_archetype"] = row.content.sport_archetype
        matches = self._index.nearest(
            EntityType.LEAGUE,
            row.vector or b"",
            top_k=reach,
            space="default",
            where=where,
            with_metadata=False,
        )
        return {match.key: match.score for match in matches}

    def _hidden(self, rows: Sequence[Row]) -> Iterator[Outcome]:
        """What becomes of leagues that the index does not show as they are."""
        if not rows:
            return
        standing = self._standing([row.id for row in rows])
        for row in rows:
            waiting, age = standing.get(row.id, (True, None))
            if waiting:  # its vector is still to be written, and will ask for this again
                yield Written(row.id, row.version)
            elif age is not None and age < LONGEST_LAG:
                reason = "the vector index does not show its vector yet"
                yield Failed(row.id, ErrorKind.SINK, reason, retry_after=LAG)
            else:
                reason = (
                    "the vector index does not hold its vector as PostgreSQL does: "
                    "altsync backfill --sink pinecone --force writes it again"
                )
                yield Failed(row.id, ErrorKind.ITEM, reason)

    def _standing(self, ids: Sequence[UUID]) -> dict[UUID, tuple[bool, float | None]]:
        """Of leagues: whether their vector is on its way, and seconds since it was written.

        Where it is on its way, settling it asks anew. Under the leagues' locks, or it could have
        settled just before, and not asked.
        """
        with self._database.transaction() as conn:
            outbox.lock_entities(conn, ((EntityType.LEAGUE, i) for i in ids))
            standing = store.vector_standing(conn, ids)
            outbox.forget_basis(conn, [i for i, (waiting, _) in standing.items() if waiting])
        return standing

    def delete(self, rows: Sequence[Row]) -> Answer:
        """Nothing: a league's relationships go with it, in the transaction that deletes it."""
        return Answer(tuple(Written(row.id, row.version) for row in rows), calls=0)

    def versions(self, entity_type: EntityType) -> Iterator[SinkVersion]:
        """Leagues whose neighbours were computed; ``content_hash`` is what from."""
        if entity_type is EntityType.LEAGUE:
            yield from store.related_leagues(self._database)

    def close(self) -> None:
        """Let go of the threads and of the index."""
        self._index.close()
        self._lanes.shutdown(wait=False, cancel_futures=True)
