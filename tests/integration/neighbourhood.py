"""Leagues with vectors in a real index, and the similarity between them, seen from both sides."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt

from altsync.circuit.sinks import register_sinks
from altsync.contract import Topology
from altsync.db import Database
from altsync.delivery import Batch, Delivery, Policy
from altsync.embedding import Embedded
from altsync.entities import Model
from altsync.outbox.upkeep import backfill_page
from altsync.protocols import Sink
from altsync.seed.sql.deletion import tombstone
from altsync.seed.sql.seen import create_changed_in_run
from altsync.similarity.index import Sink as Similarity
from altsync.similarity.local import Sink as LocalSimilarity
from altsync.similarity.rules import SAME_SCORE, Rules
from altsync.sinks.embedding import write as embedding
from altsync.sinks.pinecone import write as pinecone
from altsync.store.vectors import EmbeddingCache
from tests import sports
from tests.conftest import TOPOLOGY
from tests.integration.database_fixture import CONFIRM_AFTER, LEASE, DatabaseFixture, league
from tests.integration.fakes import FakeEmbedder, FakeGraph

#: The sinks of the product, with similarity.
RELATING = Topology((*TOPOLOGY.sinks, Similarity.traits))

#: The same, with similarity from the vectors in PostgreSQL, at once.
LOCALLY = Topology((*TOPOLOGY.sinks, replace(LocalSimilarity.traits, delay=0.0)))

#: Seconds until a search is due.
DELAY = Similarity.traits.delay

#: Few edges each, so that leagues crowd each other out.
CROWDED = Rules(enter=0.80, leave=0.70, top_k=3)

#: Rounds of deliveries after which everything must be at rest.
ROUNDS = 20


class Neighbourhood:
    """A database, an index, and every delivery between them."""

    def __init__(
        self,
        pg: DatabaseFixture,
        database: Database,
        index: pinecone.Sink,
        rules: Rules,
        mode: str = "index",
    ):
        self.pg, self.database, self.index, self.rules = pg, database, index, rules
        self.mode = mode
        pg.topology = self.topology = LOCALLY if mode == "local" else RELATING
        self.graph = FakeGraph()
        self.embedder = FakeEmbedder()
        self.similarity: Sink = self.searching(rules)
        with pg.conn.transaction():
            register_sinks(pg.conn, self.topology, "test-model", 4)

    def searching(self, rules: Rules) -> Sink:
        """Return a sink that searches neighbours as this place does."""
        if self.mode == "local":
            return LocalSimilarity(self.database, self.topology, lambda _kind: rules)
        return Similarity(self.database, self.index, self.topology, lambda _kind: rules)

    def deliver(self, sink: Sink, at: Callable[[str], None] = lambda point: None) -> Batch:
        """Deliver everything that is due for a sink; return it as one batch. ``at`` gets points."""
        delivery = self._delivery(sink, at)
        total = Batch()
        while (batch := delivery.deliver_batch()).claimed:
            total.claimed += batch.claimed
            total.calls += batch.calls
        return total

    def deliver_batch(self, sink: Sink) -> Batch:
        """Deliver one batch."""
        return self._delivery(sink).deliver_batch()

    def _delivery(self, sink: Sink, at: Callable[[str], None] = lambda point: None) -> Delivery:
        policy = Policy(lease=LEASE, confirm_after=CONFIRM_AFTER)
        return Delivery(self.database, sink, self.topology, policy, worker="tests", at=at)

    def vectors(self) -> None:
        """Embed what waits for it, and write the vectors to the index."""
        self.embed()
        self.deliver(self.index)

    def embed(self) -> None:
        """Embed what waits for it."""
        self.deliver(embedding.Sink(self.embedder, EmbeddingCache(self.database)))

    def settle(self) -> int:
        """Deliver until nothing is left; returns how many queries similarity made."""
        calls = 0
        for _ in range(ROUNDS):
            self.vectors()
            calls += self.deliver(self.similarity).calls
            self.deliver(self.graph)
            if not self.pg.scalar("SELECT count(*) FROM sync_operation WHERE status='pending'"):
                return calls
            self.pg.advance_time(DELAY + 1)
        raise AssertionError(f"not at rest after {ROUNDS} rounds")

    def ask_for_all(self) -> None:
        """Let the neighbours of every league be looked for again, as ``relate --all`` does."""
        with self.pg.conn.transaction():
            backfill_page(
                self.pg.conn, self.similarity.traits, sports.LEAGUE, after=None, force=True
            )

    # --- changes --------------------------------------------------------------------------------

    def save(self, *leagues: sports.League) -> None:
        """Seed leagues."""
        self.pg.save(*leagues)

    def delete(self, *leagues: sports.League) -> None:
        """Delete leagues as the seeder does."""
        create_changed_in_run(self.pg.conn)
        ids = [self.pg.row(league)["id"] for league in leagues]
        full = mock.patch("altsync.similarity.sql.full_at", lambda _kind: self.rules.top_k)
        with full, self.pg.conn.transaction():
            tombstone(self.pg.conn, sports.LEAGUE, ids, self.topology)

    # --- looking --------------------------------------------------------------------------------

    def edges(self) -> dict[tuple[str, str], float]:
        """The SIMILAR_TO relationships of the table, as scores by the pair of tags."""
        rows = self.pg.conn.execute(
            """
            SELECT s.league_tag, t.league_tag, r.strength_score FROM league_relationship r
            JOIN league s ON s.id = r.source_league_id JOIN league t ON t.id = r.target_league_id
            WHERE r.relationship_type = 'SIMILAR_TO'
            """
        )
        return {(r[0], r[1]): float(r[2]) for r in rows}

    def projected(self) -> dict[tuple[str, str], float | None]:
        """The edges that the graph was last given, by the pair of tags."""
        last: dict[str, dict[tuple[str, str], float | None]] = {}
        for call in self.graph.calls:
            for row in call.rows:
                edges = {(row.key, e.target): e.score for e in row.edges or ()}
                last[row.key] = {} if row.deleted else edges
        return {pair: score for edges in last.values() for pair, score in edges.items()}

    def cosines(self) -> dict[tuple[str, str], float]:
        """Return the cosine of every pair that may be similar, from the stored vectors."""
        rows = self.pg.conn.execute(
            "SELECT league_tag, sport_archetype, l.embedding_vector FROM league l "
            "WHERE deleted_at IS NULL AND l.embedding_vector IS NOT NULL",
            binary=True,
        ).fetchall()
        units = {tag: (archetype, _unit(vector)) for tag, archetype, vector in rows}
        return {
            (a, b): float(one @ other)
            for a, (kind, one) in units.items()
            for b, (other_kind, other) in units.items()
            if a != b and (kind == other_kind or self.rules.across)
        }


class Compass(FakeEmbedder):
    """Vectors on a circle: a league lies where its description says, in degrees."""

    def embed(self, texts: Sequence[str], model: Model) -> Embedded:
        """One request."""
        angles = [math.radians(float(text.split(" degrees")[0].split()[-1])) for text in texts]
        vectors = [(math.cos(angle), math.sin(angle), 0.0, 0.0) for angle in angles]
        return Embedded(tuple(np.array(v, "<f4").tobytes() for v in vectors), tokens=len(texts))


def at(tag: str, degrees: float, **changes: Any) -> sports.League:
    """A league that lies there."""
    return league(tag, description=f"{degrees} degrees", **changes)


def _unit(vector: bytes) -> npt.NDArray[np.float64]:
    numbers = np.frombuffer(vector, "<f4").astype(np.float64)
    return numbers / np.linalg.norm(numbers)


def faults(place: Neighbourhood) -> Iterator[str]:
    """Return what is wrong with the edges, in words: nothing, when similarity is at rest.

    Written from the rules, not from the code: above ``enter`` is in unless ``top_k`` better ones
    are, below ``leave`` is out, scores are cosines, and the graph was given the same.
    """
    rules, edges, cosines = place.rules, place.edges(), place.cosines()
    slack = 2 * SAME_SCORE
    mine: dict[str, list[float]] = {}
    for (source, _target), score in edges.items():
        mine.setdefault(source, []).append(score)
    for pair, score in edges.items():
        if pair not in cosines:
            yield f"{pair} must not be"
        elif abs(cosines[pair] - score) > slack:
            yield f"{pair} is {cosines[pair]:.4f}, not {score:.4f}"
        elif score <= rules.leave - slack:
            yield f"{pair} should have left at {score:.4f}"
    for source, scores in mine.items():
        if len(scores) > rules.top_k:
            yield f"{source} has {len(scores)} edges"
    for pair, score in cosines.items():
        full = len(mine.get(pair[0], ())) >= rules.top_k
        near = score > rules.enter + slack and not (full and score <= min(mine[pair[0]]) + slack)
        if near and pair not in edges:
            yield f"{pair} is missing at {score:.4f}"
    given = {p: s for p, s in place.projected().items() if p in edges or p in cosines}
    if given.keys() != edges.keys():
        yield f"the graph was given {sorted(given.keys() ^ edges.keys())} otherwise"


def changed(league: sports.League, text: str) -> sports.League:
    """The league with another text, and so with another vector."""
    return replace(league, description=text)
