"""Entities that are deleted and come back: once all is synced, the graph has PostgreSQL's edges."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from altsync.db import Database
from altsync.local.services.graph import Graph
from altsync.protocols import Sink
from altsync.seed import relationships
from altsync.seed.report import SeedReport
from altsync.seed.sql.seen import create_changed_in_run
from tests import sports
from tests.conftest import TOPOLOGY
from tests.contract.harness import GraphHarness, arcade_harness
from tests.integration.database_fixture import (
    TIMEOUT,
    DatabaseFixture,
    archetype,
    delete,
    delivery,
    league,
    leagues,
)
from tests.integration.seeds import Fields, seed, write

#: From, type and to.
Edges = set[tuple[str, str, str]]

RACING, PRECISION = archetype("racing"), archetype("precision")
A, B, C, D = (league(key, sport_archetype="racing") for key in "abcd")


@pytest.fixture
def graph(graph_server: Graph) -> Iterator[GraphHarness]:
    """An empty graph with its constraints."""
    harness = arcade_harness(graph_server)
    harness.empty()
    harness.shared().setup()
    yield harness
    harness.close()


@pytest.fixture
def mirrored(pg: DatabaseFixture, database: Database, graph: GraphHarness) -> Iterator[Sink]:
    """The graph's sink; archetypes and leagues are there, and delivered."""
    pg.save(RACING, PRECISION, A, B, C, D)
    drain(database, graph.shared())
    yield graph.shared()


def drain(database: Database, sink: Sink, at: Callable[[str], None] = lambda point: None) -> None:
    """Deliver all that is due."""
    delivery(database, sink, at).drain(TIMEOUT)


def meanwhile(work: Callable[[], None]) -> Callable[[str], None]:
    """Do ``work`` once, between reading the rows of a batch and writing them."""
    left = [work]

    def at(point: str) -> None:
        if point == "read" and left:
            left.pop()()

    return at


def relate(pg: DatabaseFixture, folder: Path, *ends: str, **options: Any) -> SeedReport:
    """Seed relationships r0, r1 … from the first to the second letter of each."""
    lines: list[Fields] = [
        {"id": f"r{n}", "type": "COMPETES_WITH", "source": pair[0], "target": pair[1]}
        for n, pair in enumerate(ends)
    ]
    write(folder, "relationships.jsonl", lines)
    return seed(pg, folder, sports.RELATIONSHIPS, **options)


def wanted(pg: DatabaseFixture) -> Edges:
    """The edges of living leagues, as PostgreSQL has them."""
    rows = pg.conn.execute(
        """
        SELECT league_tag, 'BELONGS_TO_ARCHETYPE', sport_archetype FROM league
        WHERE deleted_at IS NULL
        UNION ALL
        SELECT s.league_tag, r.relationship_type, t.league_tag FROM league_relationship r
        JOIN league s ON s.id = r.source_league_id JOIN league t ON t.id = r.target_league_id
        """
    ).fetchall()
    return {(row[0], row[1], row[2]) for row in rows}


def drawn(graph: GraphHarness) -> Edges:
    """The edges of leagues in the graph."""
    found = graph.ask(
        "MATCH (n:League)-[r]->(o) "
        "RETURN n.league_tag AS n, type(r) AS r, coalesce(o.league_tag, o.name) AS o"
    )
    return {(one["n"], one["r"], one["o"]) for one in found}


def living(pg: DatabaseFixture, table: str) -> int:
    """Entities that are not deleted."""
    count: int = pg.scalar(f"SELECT count(*) FROM {table} WHERE deleted_at IS NULL")
    return count


def assert_agreement(pg: DatabaseFixture, graph: GraphHarness) -> None:
    """Nothing is under way, every status says synced, and the graph is what they say."""
    assert not [op for op in pg.ops("neo4j") if op.live]
    for table, label in (("league", "League"), ("sport_archetype", "SportArchetype")):
        assert pg.scalar(f"SELECT bool_and(neo4j_sync_status = 'synced') FROM {table}")
        written = graph.ask(
            f"MATCH (n:{label}) WHERE n.sync_version IS NOT NULL RETURN count(n) AS count"
        )
        assert written == [{"count": living(pg, table)}]
    assert drawn(graph) == wanted(pg)


# --- archetypes -------------------------------------------------------------------------------


def test_an_archetype_is_deleted_in_the_batch_of_a_new_league_of_it(
    pg: DatabaseFixture, database: Database, graph: GraphHarness, mirrored: Sink
) -> None:
    """The league's edge leads to a stub, as it would if the archetype had never been there."""
    pg.delete(PRECISION)
    pg.save(league("darts", sport_archetype="precision"))
    drain(database, mirrored)
    assert ("darts", "BELONGS_TO_ARCHETYPE", "precision") in drawn(graph)
    assert_agreement(pg, graph)


def test_an_archetype_comes_back_with_leagues_while_its_deletion_is_under_way(
    pg: DatabaseFixture, database: Database, graph: GraphHarness, mirrored: Sink
) -> None:
    """Another worker writes the leagues before the deletion lands; none writes them again."""
    pg.delete(PRECISION)

    def put_back() -> None:
        pg.save(PRECISION, league("darts", sport_archetype="precision"))
        drain(database, mirrored)
        assert ("darts", "BELONGS_TO_ARCHETYPE", "precision") in drawn(graph)

    drain(database, mirrored, meanwhile(put_back))
    assert_agreement(pg, graph)


def test_an_archetype_goes_with_its_leagues_in_one_batch(
    pg: DatabaseFixture, database: Database, graph: GraphHarness, mirrored: Sink
) -> None:
    """No stub is left of it, whichever goes first."""
    pg.delete(A, B, C, D, RACING)
    drain(database, mirrored)
    found = graph.ask("MATCH (n) WHERE NOT n:AltsyncTombstone RETURN n.name AS name")
    assert found == [{"name": "precision"}]


# --- leagues ----------------------------------------------------------------------------------


def test_a_league_is_back_before_its_deletion_was_delivered(
    pg: DatabaseFixture, database: Database, graph: GraphHarness, mirrored: Sink, tmp_path: Path
) -> None:
    """Its node was never away: what pointed to it lets go by itself, and so does it."""
    relate(pg, tmp_path, "ab", "cb", "bd")
    drain(database, mirrored)
    assert len(drawn(graph)) == 7
    pg.delete(B)
    pg.save(B)
    drain(database, mirrored)
    assert len(drawn(graph)) == 4
    assert_agreement(pg, graph)


def test_a_league_comes_back_with_edges_while_its_deletion_is_under_way(
    pg: DatabaseFixture, database: Database, graph: GraphHarness, mirrored: Sink, tmp_path: Path
) -> None:
    """Another worker draws an edge to it before the deletion lands; none draws it again."""
    relate(pg, tmp_path, "cb", "bd")
    drain(database, mirrored)
    pg.delete(B)

    def put_back() -> None:
        pg.save(B)
        relate(pg, tmp_path, "ab")
        drain(database, mirrored)
        assert ("a", "COMPETES_WITH", "b") in drawn(graph)

    drain(database, mirrored, meanwhile(put_back))
    assert ("a", "COMPETES_WITH", "b") in drawn(graph)
    assert_agreement(pg, graph)


def test_a_league_that_is_deleted_is_gone_in_either_order_of_writes(
    pg: DatabaseFixture, database: Database, graph: GraphHarness, mirrored: Sink, tmp_path: Path
) -> None:
    """Leagues with edges to it are written, before its deletion lands or after; no stub is left."""
    relate(pg, tmp_path, "ab", "bc")
    drain(database, mirrored)
    pg.delete(B)
    assert {op.entity_key for op in pg.ops("neo4j") if op.live} == {"a", "b"}
    pg.conn.execute(
        "UPDATE sync_operation SET available_at = now() + interval '1 hour' "
        "WHERE sink = 'neo4j' AND entity_key = 'a' AND finished_at IS NULL"
    )
    drain(database, mirrored)
    assert graph.ask("MATCH (n:League {league_tag: 'b'}) RETURN count(n) AS count") == [
        {"count": 0}
    ]
    pg.advance_time(3601)
    drain(database, mirrored)
    assert_agreement(pg, graph)
    assert graph.count("League") == 3


# --- seeders at once --------------------------------------------------------------------------


@contextmanager
def held_up(pg: DatabaseFixture, work: Callable[[DatabaseFixture], Any]) -> Iterator[list[Any]]:
    """Commit the caller's transaction when ``work`` of another session waits for it.

    The result of ``work`` is in the list afterwards.
    """
    other, watcher = DatabaseFixture(pg.url), DatabaseFixture(pg.url)
    results: list[Any] = []
    try:
        with ThreadPoolExecutor(1) as pool:
            with pg.conn.transaction():
                yield results
                waiting = pool.submit(work, other)
                watcher.until_waiting(other.conn)
            results.append(waiting.result())
    finally:
        other.close()
        watcher.close()


def edges_version(pg: DatabaseFixture, key: str) -> int:
    """The number of a league's relationships."""
    number: int = pg.scalar("SELECT edges_version FROM league WHERE league_tag = %s", key)
    return number


def test_a_league_is_pruned_while_a_relationship_to_it_is_seeded(
    pg: DatabaseFixture, tmp_path: Path
) -> None:
    """The line is refused, as it would have been a moment later."""
    pg.save(A, B, C)
    create_changed_in_run(pg.conn)
    with held_up(pg, lambda other: relate(other, tmp_path, "ab", "ac")) as reports:
        delete(pg.conn, B)
    assert [(line.seed_id, line.field) for line in reports[0].shown] == [("r0", "target")]
    assert {edge for edge in wanted(pg) if edge[1] == "COMPETES_WITH"} == {
        ("a", "COMPETES_WITH", "c")
    }


@pytest.mark.parametrize("there", [True, False])
def test_a_relationship_is_moved_while_another_moves_it(
    pg: DatabaseFixture, tmp_path: Path, there: bool
) -> None:
    """The league that it began at in between is carried; there before or not."""
    pg.save(A, B, C, D)
    (tmp_path / "moved").mkdir()
    if there:
        relate(pg, tmp_path, "ad")
    with held_up(pg, lambda other: relate(other, tmp_path, "ca")):
        relate(pg, tmp_path / "moved", "bd")
        before = edges_version(pg, "b")
    assert {edge for edge in wanted(pg) if edge[1] == "COMPETES_WITH"} == {
        ("c", "COMPETES_WITH", "a")
    }
    assert edges_version(pg, "b") > before


def test_a_relationship_is_deleted_while_another_moves_it(
    pg: DatabaseFixture, tmp_path: Path
) -> None:
    """The league that it began at in between is carried."""
    pg.save(A, B, C, D)
    (tmp_path / "moved").mkdir()
    relate(pg, tmp_path, "ad")
    ids: Sequence[Any] = [pg.scalar("SELECT id FROM league_relationship")]

    def prune(other: DatabaseFixture) -> None:
        create_changed_in_run(other.conn)
        with other.conn.transaction():
            relationships.delete(other.conn, sports.LEAGUE, ids, TOPOLOGY, lambda point: None)

    with held_up(pg, prune):
        relate(pg, tmp_path / "moved", "bd")
        before = edges_version(pg, "b")
    assert pg.scalar("SELECT count(*) FROM league_relationship") == 0
    assert edges_version(pg, "b") > before


def test_two_delete_leagues_that_point_to_each_other(pg: DatabaseFixture) -> None:
    """Written and deleted rows are locked in one order, so that there is no deadlock."""
    every = leagues(40)
    pg.save(*every)
    pg.conn.execute(
        """
        INSERT INTO league_relationship (id, source_league_id, target_league_id, relationship_type)
        SELECT gen_random_uuid(), s.id, t.id, 'SIMILAR_TO' FROM league s, league t
        WHERE right(s.league_tag, 1)::int % 2 <> right(t.league_tag, 1)::int % 2
        """
    )
    start = Barrier(2, timeout=TIMEOUT)

    def remove(half: Sequence[sports.League]) -> int:
        session = DatabaseFixture(pg.url)
        try:
            start.wait()
            return session.delete(*half).deleted
        finally:
            session.close()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(remove, (every[::2], every[1::2]))) == [20, 20]
    assert pg.scalar("SELECT count(*) FROM league_relationship") == 0
