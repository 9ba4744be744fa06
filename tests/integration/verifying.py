"""All stores with a few entities in them, and the ways in which tests make them disagree."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from typer.testing import CliRunner

from altsync.app import Application
from altsync.cli import app as cli
from altsync.db import Database
from altsync.delivery import Delivery, Policy
from altsync.entities import Content, EntityType, Relationship, entity_id
from altsync.local.services.graph import Graph
from altsync.local.services.vectors import Vectors
from altsync.operations import Origin
from altsync.outbox.edges import enqueue_edge_update
from altsync.projection import part_hash
from altsync.verify.report import Options, Report
from tests import sports
from tests.contract.harness import GraphHarness, PineconeHarness, arcade_harness
from tests.integration.database_fixture import (
    CONFIRM_AFTER,
    LEASE,
    DatabaseFixture,
    archetype,
    embedding_sink,
    example,
    leagues,
)
from tests.integration.fakes import FakeEmbedder
from tests.integration.stores import name_stores

#: Enough that one record is below the share that may be removed.
LEAGUES = 30

CONTENTS: tuple[Content, ...] = (
    *leagues(LEAGUES),
    archetype("team_sport"),
    archetype("racing"),
    *(example(f"e{number}", "triage" if number % 2 else "naming") for number in range(6)),
)


@dataclass(frozen=True)
class Site:
    """All stores, and clients of them that the product does not know."""

    pg: DatabaseFixture
    database: Database
    app: Application
    graph: GraphHarness
    index: PineconeHarness
    embedder: FakeEmbedder

    def deliver(self) -> None:
        """Deliver all that is due, until nothing is left."""
        for _ in range(10):
            for name in self.app.topology.names:
                self.delivery(name).drain(60.0)
            if not self.live():
                return
            self.pg.advance_time(60)
        raise AssertionError("not at rest")

    def delivery(self, name: str) -> Delivery:
        """Delivery as a worker has it, embedding for nothing."""
        sink = self.app.sink(name)
        if name == "embedding":
            sink = embedding_sink(self.database, self.embedder)
        assert sink is not None
        policy = Policy(lease=LEASE, confirm_after=CONFIRM_AFTER)
        return Delivery(self.database, sink, self.app.topology, policy, worker="tests")

    def live(self) -> int:
        """Operations that are not done."""
        found = self.pg.scalar("SELECT count(*) FROM sync_operation WHERE finished_at IS NULL")
        return int(found)

    def verify(self, *sinks: str, **options: Any) -> Report:
        """Compare, without grace unless a test is about it."""
        return self.app.verify(Options(**{"grace": 0.0, **options}), sinks or None)

    def drift(self, *sinks: str, **options: Any) -> dict[str, dict[str, int]]:
        """Return the kinds of drift above zero, by sink."""
        return found(self.verify(*sinks, **options))

    def repair(self, **options: Any) -> Report:
        """Repair, deliver, and see that one run was enough."""
        report = self.verify(repair=True, **options)
        self.deliver()
        assert self.drift(deep=True) == {}
        return report

    def run(self, *arguments: str, code: int = 0) -> Any:
        """The command as a user has it."""
        result = CliRunner().invoke(cli, ["verify", *arguments])
        # The command logs to the runner's stderr, which is closed by now.
        logging.root.handlers[:] = [logging.NullHandler()]
        assert result.exit_code == code, result.output
        return result

    def json(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """Return the JSON document of a command."""
        body: dict[str, Any] = json.loads(self.run("--json", *arguments, code=code).stdout)
        return body

    def key_version(self, key: str) -> int:
        """The version of a league."""
        return int(self.pg.scalar("SELECT version FROM league WHERE league_tag = %s", key))

    def beyond(self) -> int:
        """A version that this database has not reached, as before a restore."""
        return int(self.pg.scalar("SELECT last_value + 10000000 FROM entity_version"))

    def relate(self, *pairs: tuple[str, str, float | None]) -> None:
        """Seeded relationships between leagues."""
        ids: list[UUID] = []
        with self.pg.conn.transaction():
            for source, target, score in pairs:
                one, other = (entity_id(sports.LEAGUE, key) for key in (source, target))
                said = Relationship(source, target, "COMPETES_WITH", score, {})
                self.pg.conn.execute(
                    "INSERT INTO league_relationship (id, seed_id, source_league_id, "
                    "target_league_id, relationship_type, strength_score, content_hash) "
                    "VALUES (%s, %s, %s, %s, %s, %s, %s)",
                    (
                        entity_id("COMPETES_WITH", f"{one}:{other}"),
                        f"{source}-{target}",
                        one,
                        other,
                        "COMPETES_WITH",
                        score,
                        part_hash(said),
                    ),
                )
                ids.append(one)
            enqueue_edge_update(self.pg.conn, sports.LEAGUE, ids, self.app.topology, Origin.SEED)

    def put_vector(
        self,
        key: str,
        entity_type: EntityType = sports.LEAGUE,
        space: str = "default",
        values: Sequence[float] | None = None,
        **metadata: Any,
    ) -> None:
        """Write a vector behind altsync's back; what is not given stays as it is."""
        index = self.index.index(entity_type.index_name)
        held = index.fetch(ids=[key], namespace=space).vectors.get(key)
        marks = {**(held.metadata if held and held.metadata else {}), **metadata}
        numbers = list(values or (held.values if held and held.values else [1.0, 0.5, 0.25, 0.0]))
        one = {"id": key, "values": numbers, "metadata": marks}
        index.upsert(vectors=[one], namespace=space)

    def drop_vector(self, key: str, space: str = "default") -> None:
        """Delete a league's vector behind altsync's back."""
        self.index.index(sports.LEAGUE.index_name).delete(ids=[key], namespace=space)


def found(report: Report) -> dict[str, dict[str, int]]:
    """Kinds above zero, by sink."""
    assert report.problems == {}
    kinds = {t.sink: {k.value: n for k, n in t.kinds.items() if n} for t in report.tallies}
    return {sink: numbers for sink, numbers in kinds.items() if numbers}


@contextmanager
def site_of(
    pg: DatabaseFixture,
    database: Database,
    graph_server: Graph,
    vectors_server: Vectors,
    monkeypatch: pytest.MonkeyPatch,
    *,
    similarity: bool = False,
) -> Iterator[Site]:
    """Every store, filled and at rest."""
    name_stores(
        monkeypatch,
        pg.url,
        graph_server,
        vectors_server,
        ALTSYNC_SIMILARITY=str(similarity).lower(),
    )
    graph = arcade_harness(graph_server)
    graph.empty()
    index = PineconeHarness(vectors_server)
    index.empty()
    app = Application()
    with database.transaction() as conn:
        app.register_sinks(conn)
    assert set(app.set_up_sinks().values()) == {None}
    site = Site(pg, database, app, graph, index, FakeEmbedder())
    pg.save(*CONTENTS)
    site.deliver()
    yield site
    index.server.admin.clear()
    app.close()
    graph.close()
    index.close()
