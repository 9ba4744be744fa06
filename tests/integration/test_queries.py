"""Every query pattern on three real stores, against the same question asked of each by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner, Result

from altsports import queries
from altsports.queries import LeagueFilter, Relationship
from altsync import queries as engine
from altsync.cli import app
from altsync.db import Conn
from altsync.errors import AltsyncError
from altsync.local.services.graph import Graph
from altsync.local.services.postgres import Postgres
from altsync.local.services.vectors import Vectors
from altsync.queries import Link, MissingStore, Stores, Unavailable, UnknownName
from altsync.sinks.neo4j import write as neo4j
from altsync.sinks.pinecone import write as pinecone
from tests.contract.doubles import closed_port
from tests.integration.ask_stack import (
    AskStack,
    CountingDatabase,
    CountingEmbedder,
    CountingGraph,
    ask_stack,
    with_counting_index,
)
from tests.integration.few_rights import role_that_lacks

RACING = "High-speed racing competitions with global viewership"
COMBAT = "elite combat sports with global reach"

#: How far a score in single precision may be from the same in double precision.
NEAR = 1e-5

Ask = Callable[..., Result]

#: Contracts of the rarest status in the seeds.
DRAFT = "EXISTS (SELECT FROM contract c WHERE c.league_id = l.id AND c.status = 'draft')"


@pytest.fixture(scope="module")
def _stack(postgres: Postgres, graph_server: Graph, vectors_server: Vectors) -> Iterator[AskStack]:
    with ask_stack(postgres, graph_server, vectors_server) as stack:
        yield stack


@pytest.fixture
def stack(_stack: AskStack) -> AskStack:
    """The stores with all seeds and no edge between leagues."""
    return _stack


@pytest.fixture
def stores(stack: AskStack) -> Stores:
    """The arguments of queries."""
    return stack.stores


@pytest.fixture
def edges(stack: AskStack) -> Iterator[None]:
    """UFC is similar to Bellator, and Formula 1 competes with UFC; a stub hangs on both."""
    stack.graph.ask(
        "MATCH (u:League {league_tag: 'ufc'}), (b:League {league_tag: 'bellator_mma'}), "
        "(f:League {league_tag: 'formula_1'}), (c:SportArchetype {name: 'combat'}) "
        "CREATE (u)-[:SIMILAR_TO {score: 0.83}]->(b), (f)-[:COMPETES_WITH {score: 0.5}]->(u), "
        "(f)-[:SIMILAR_TO {score: 0.81}]->(u), "
        "(s:League {league_tag: 'stub', league_name: 'Stub', sport_archetype: 'racing'}), "
        "(u)-[:SIMILAR_TO {score: 0.99}]->(s), (s)-[:BELONGS_TO_ARCHETYPE]->(c)"
    )
    yield
    stack.graph.ask("MATCH (s:League {league_tag: 'stub'}) DETACH DELETE s")
    stack.graph.ask("MATCH (:League)-[r:SIMILAR_TO]->(:League) DELETE r")
    stack.graph.ask("MATCH (:League)-[r:COMPETES_WITH]->(:League) DELETE r")


@pytest.fixture
def changes(stack: AskStack) -> Iterator[Conn]:
    """A connection to change leagues behind the sinks' backs; all is put back at the end."""
    columns = "status, tier, deleted_at, embedding_text_hash, embedding_model, league_tag"
    stack.conn.execute(f"CREATE TEMPORARY TABLE before AS SELECT id, {columns} FROM league")
    yield stack.conn
    sets = ", ".join(f"{name} = b.{name}" for name in columns.split(", "))
    stack.conn.execute(f"UPDATE league l SET {sets} FROM before b WHERE b.id = l.id")
    stack.conn.execute("DROP TABLE before")


def assert_ranking(found: list[Any], expected: list[tuple[str, float]]) -> None:
    """The same leagues with the same scores, in an order that their scores allow."""
    scores = dict(expected)
    assert {one.league_tag for one in found} == scores.keys()
    for one in found:
        assert one.score == pytest.approx(scores[one.league_tag], abs=NEAR)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


# --- search ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "condition"),
    [
        (LeagueFilter(), "true"),
        (LeagueFilter(status="active"), "status = 'active'"),
        (LeagueFilter(status="inactive", tier="TIER2"), "status = 'inactive' AND tier = 'TIER2'"),
        (LeagueFilter(archetype="combat"), "sport_archetype = 'combat'"),
        (LeagueFilter(contract_status="draft"), DRAFT),
        (LeagueFilter(contract_status="draft", tier="TIER1"), f"tier = 'TIER1' AND {DRAFT}"),
        (LeagueFilter(tier="TIER9"), "false"),
    ],
)
@pytest.mark.parametrize("top_k", [3, 25])
def test_search_finds_the_best_that_match(
    stack: AskStack, where: LeagueFilter, condition: str, top_k: int
) -> None:
    """As comparing every matching row by hand does, however rare they are."""
    found = queries.search(stack.stores, RACING, where, top_k=top_k)
    expected = stack.ranking(stack.question(RACING), condition)
    assert_ranking(found, expected[:top_k])


def test_search_agrees_with_the_index(stack: AskStack) -> None:
    """The same as a query of the index by hand."""
    found = queries.search(stack.stores, RACING, LeagueFilter(status="active"), top_k=20)
    answer = stack.index.index("altsports-leagues").query(
        vector=memoryview(stack.question(RACING)).cast("f").tolist(),
        top_k=20,
        namespace="default",
        filter={"status": "active"},
    )
    assert [one.league_tag for one in found] == [match.id for match in answer.matches]


def test_search_gives_whole_rows(stack: AskStack) -> None:
    """Everything that PostgreSQL has of a league, documents and contracts included."""
    (found,) = (
        one for one in queries.search(stack.stores, RACING) if one.league_tag == "formula_1"
    )
    for table, parts in (("document", found.documents), ("contract", found.contracts)):
        rows = stack.rows(
            f"SELECT p.title, p.attributes FROM {table} p JOIN league l ON l.id = p.league_id "
            "WHERE league_tag = 'formula_1' ORDER BY p.seed_id"
        )
        assert [(part.title, part.attributes) for part in parts] == rows
        assert rows
    names = "league_name, sport_name, location, tier, status, description, attributes"
    (row,) = stack.rows(f"SELECT {names} FROM league WHERE league_tag = 'formula_1'")
    assert row == tuple(getattr(found, name) for name in names.split(", "))
    dates = [c.start_date for c in found.contracts]
    assert dates == [
        r[0]
        for r in stack.rows(
            "SELECT start_date FROM contract c JOIN league l ON l.id = c.league_id "
            "WHERE league_tag = 'formula_1' ORDER BY c.seed_id"
        )
    ]


def test_rows_cost_one_statement(stack: AskStack) -> None:
    """However many hits there are; a question that is known costs one more."""
    queries.search(stack.stores, RACING, top_k=1)
    database = CountingDatabase(stack.env["DATABASE_URL"])
    try:
        for top_k in (1, 100):
            database.statements.clear()
            found = queries.search(replace(stack.stores, database=database), RACING, top_k=top_k)
            assert len(found) == top_k
            assert len(database.statements) == 1
    finally:
        database.close()


def test_the_index_is_asked_for_more_until_enough_match(stack: AskStack) -> None:
    """Twice as much each time; what it lacks in the end is compared in PostgreSQL."""
    stores, index = with_counting_index(stack.stores)
    found = queries.search(stores, RACING, LeagueFilter(contract_status="draft"), top_k=3)
    assert len(found) == 3
    assert index.asked == [3 * 2**n for n in range(len(index.asked))]
    assert 1 < len(index.asked) < 9
    assert index.filters[0] == {"model": stack.stores.model.name}


def test_nothing_is_asked_twice_when_enough_match(stack: AskStack) -> None:
    """The usual case: one question to the index, with all that it can check."""
    stores, index = with_counting_index(stack.stores)
    where = LeagueFilter(status="active", archetype="racing", tier="TIER1")
    queries.search(stores, RACING, where, top_k=5)
    assert index.asked == [5]
    assert index.filters == [
        {
            "status": "active",
            "sport_archetype": "racing",
            "tier": "TIER1",
            "model": stack.stores.model.name,
        }
    ]


def test_an_index_that_lags_behind_hides_nothing(stack: AskStack) -> None:
    """Vectors that are not there yet are compared in PostgreSQL when they are needed."""
    gone = ["premier_league", "lol_worlds"]
    index = stack.index.index("altsports-leagues")
    kept = index.fetch(ids=gone, namespace="default").vectors
    index.delete(ids=gone, namespace="default")
    try:
        found = queries.search(
            stack.stores, RACING, LeagueFilter(contract_status="draft"), top_k=50
        )
    finally:
        index.upsert(
            vectors=[
                {"id": key, "values": list(one.values), "metadata": one.metadata}
                for key, one in kept.items()
            ],
            namespace="default",
        )
    assert_ranking(found, stack.ranking(stack.question(RACING), DRAFT))


def test_postgresql_has_the_last_word(stack: AskStack, changes: Conn) -> None:
    """Matches of leagues that were changed or deleted do not count."""
    queries.search(stack.stores, RACING)
    best = [tag for tag, _score in stack.ranking(stack.question(RACING), "status = 'active'")]
    changes.execute("UPDATE league SET status = 'inactive' WHERE league_tag = %s", (best[0],))
    changes.execute("UPDATE league SET deleted_at = now() WHERE league_tag = %s", (best[1],))
    found = queries.search(stack.stores, RACING, LeagueFilter(status="active"), top_k=10)
    assert [one.league_tag for one in found] == best[2:12]


def test_vectors_of_other_models_are_not_compared(stack: AskStack, changes: Conn) -> None:
    """Neither in PostgreSQL nor in the index."""
    expected = len(stack.tags(DRAFT))
    changes.execute(
        "UPDATE league SET embedding_model = 'other' WHERE league_tag = 'premier_league'"
    )
    other = replace(stack.stores, model=replace(stack.stores.model, name="other"))
    queries.search(stack.stores, RACING, top_k=1)
    (own,) = stack.rows("SELECT text_hash FROM league WHERE league_tag = 'premier_league'")
    vectors = {_hash(RACING): stack.question(RACING), own[0]: stack.vector("nfl")}
    other.cache.keep(other.model, vectors)
    try:
        found = queries.search(other, RACING, LeagueFilter(contract_status="draft"))
    finally:
        stack.conn.execute("DELETE FROM embedding WHERE model = 'other'")
    assert [one.league_tag for one in found] == ["premier_league"]
    assert expected > 1


def _hash(text: str) -> str:
    from altsync.projection import digest

    return digest(text.encode())


def test_a_question_is_paid_once(stack: AskStack) -> None:
    """A repeated question is answered from the cache, in any command or process."""
    assert stack.stores.embedder is not None
    embedder = CountingEmbedder(stack.stores.embedder)
    stores = replace(stack.stores, embedder=embedder)
    for _ in range(2):
        queries.search(stores, "a question of its own")
        queries.explore(stores, "a question of its own")
        queries.examples(stores, "a question of its own")
    assert embedder.texts == ["a question of its own"]
    assert queries.search(replace(stores, embedder=None), "a question of its own", top_k=1)


# --- similar --------------------------------------------------------------------------------------


def test_similar_joins_what_both_stores_know(stack: AskStack, edges: None) -> None:
    """The nearest by vector, and the leagues with an edge; each says where it comes from."""
    found = queries.similar(stack.stores, "ufc", top_k=20)
    near = [t for t, _ in stack.ranking(stack.vector("ufc")) if t != "ufc"][:20]
    edge = {"bellator_mma", "formula_1"}
    combat = stack.tags("sport_archetype = 'combat'")
    kept = [tag for tag in near if tag not in edge][: 20 - len(edge)]

    assert found.unavailable == ()
    expected = [(t, s) for t, s in stack.ranking(stack.vector("ufc")) if t in {*kept, *edge}]
    assert_ranking(list(found.results), expected)
    for one in found.results:
        graph = one.league_tag in combat | edge
        assert one.sources == tuple(
            name for name, knows in (("graph", graph), ("vector", one.league_tag in near)) if knows
        )
    paths = {one.league_tag: one.path for one in found.results}
    assert paths["bellator_mma"] == "UFC -[SIMILAR_TO 0.83]→ Bellator MMA"
    assert paths["formula_1"] == "UFC ←[SIMILAR_TO 0.81]- Formula 1"
    assert paths["one_championship"] == "UFC → combat ← ONE Championship"


def test_similar_within_the_archetype(stack: AskStack, edges: None) -> None:
    """On request, no other archetype, whatever edge leads there."""
    found = queries.similar(stack.stores, "ufc", top_k=10, cross_archetype=False)
    assert {one.sport_archetype for one in found.results} == {"combat"}
    assert len(found.results) == 10


def test_similar_embeds_nothing(stack: AskStack) -> None:
    """The vector is there already."""
    found = queries.similar(replace(stack.stores, embedder=None), "formula_1", top_k=3)
    ranking = [one for one in stack.ranking(stack.vector("formula_1")) if one[0] != "formula_1"]
    assert_ranking(list(found.results), ranking[:3])


def _dead_graph() -> neo4j.Sink:
    return neo4j.Sink(f"bolt://127.0.0.1:{closed_port()}", None, database=None, timeout=2.0)


def _dead_index() -> pinecone.Sink:
    return pinecone.Sink(
        "key",
        host=f"http://127.0.0.1:{closed_port()}",
        timeout=2.0,
        dimensions=1536,
        cloud="aws",
        region="us-east-1",
    )


@pytest.mark.parametrize("make", [None, _dead_graph], ids=["not configured", "away"])
def test_similar_without_the_graph(stack: AskStack, make: Any) -> None:
    """The index alone answers, and it is said that the graph did not."""
    graph = make() if make else None
    found = queries.similar(replace(stack.stores, graph=graph), "ufc", top_k=5)
    if graph:
        graph.close()
    assert [one.store for one in found.unavailable] == ["neo4j"]
    assert {one.sources for one in found.results} == {("vector",)}
    ranking = [one for one in stack.ranking(stack.vector("ufc")) if one[0] != "ufc"]
    assert_ranking(list(found.results), ranking[:5])
    assert found.results[0].path == f"UFC ≈ {found.results[0].league_name}"


@pytest.mark.parametrize("make", [None, _dead_index], ids=["not configured", "away"])
def test_similar_without_the_index(stack: AskStack, make: Any) -> None:
    """The graph alone answers; scores are computed from the vectors in PostgreSQL."""
    index = make() if make else None
    found = queries.similar(replace(stack.stores, vectors=index), "ufc", top_k=5)
    if index:
        index.close()
    assert [one.store for one in found.unavailable] == ["pinecone"]
    assert {one.sources for one in found.results} == {("graph",)}
    ranking = stack.ranking(stack.vector("ufc"), "sport_archetype = 'combat'")
    assert_ranking(list(found.results), [one for one in ranking if one[0] != "ufc"][:5])


def test_similar_of_a_league_that_is_not_embedded(stack: AskStack, changes: Conn) -> None:
    """The graph answers without scores, and the reason is said."""
    changes.execute("UPDATE league SET embedding_text_hash = NULL WHERE league_tag = 'ufc'")
    found = queries.similar(stack.stores, "ufc", top_k=5)
    assert found.unavailable == (Unavailable("pinecone", "ufc is not embedded yet"),)
    assert [(one.score, one.sources) for one in found.results] == [(None, ("graph",))] * 5


def test_a_neighbour_that_is_not_embedded_comes_last(stack: AskStack, changes: Conn) -> None:
    """It has no score, and is shown nevertheless."""
    changes.execute(
        "UPDATE league SET embedding_text_hash = NULL WHERE league_tag = 'one_championship'"
    )
    combat = len(stack.tags("sport_archetype = 'combat'")) - 1
    found = queries.similar(
        replace(stack.stores, vectors=None), "ufc", top_k=combat, cross_archetype=False
    )
    assert (found.results[-1].league_tag, found.results[-1].score) == ("one_championship", None)


def test_similar_shows_no_deleted_league(stack: AskStack, changes: Conn) -> None:
    """Though both other stores still have it."""
    changes.execute("UPDATE league SET deleted_at = now() WHERE league_tag = 'invicta_fc'")
    found = queries.similar(stack.stores, "ufc", top_k=40)
    assert "invicta_fc" not in {one.league_tag for one in found.results}


def test_an_unknown_league_is_told_with_what_is_like_it(stack: AskStack) -> None:
    """The message corrects a typing error."""
    with pytest.raises(UnknownName, match="no league 'formla_1'; did you mean formula_1"):
        queries.similar(stack.stores, "formla_1")
    with pytest.raises(UnknownName, match=r"no league 'qqq%%'$"):
        queries.league(stack.stores, "qqq%%")


# --- archetypes, explore, graph -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "condition"),
    [
        ({}, "true"),
        ({"tier": "TIER1"}, "tier = 'TIER1'"),
        ({"tier": "TIER2", "status": "active"}, "tier = 'TIER2' AND status = 'active'"),
    ],
)
def test_archetypes_are_ranked_by_the_graph(
    stack: AskStack, edges: None, options: Mapping[str, str], condition: str
) -> None:
    """The counts are those of PostgreSQL; a node that is a stub does not count."""
    found = queries.archetypes(stack.stores, **options)  # type: ignore[arg-type]
    rows = stack.rows(
        f"SELECT sport_archetype, count(*) FROM league WHERE deleted_at IS NULL AND {condition} "
        "GROUP BY 1 ORDER BY 2 DESC, 1"
    )
    assert [(one.archetype, one.count) for one in found] == rows
    for one in found:
        tags = stack.tags(f"{condition} AND sport_archetype = %s", one.archetype)
        assert {league.league_tag for league in one.leagues} == tags


def test_archetypes_cost_a_statement_each(stack: AskStack) -> None:
    """One of the graph, one of PostgreSQL; fewer leagues on request."""
    database = CountingDatabase(stack.env["DATABASE_URL"])
    graph = CountingGraph(stack.stores.graph)
    stores = replace(stack.stores, database=database, graph=cast(neo4j.Sink, graph))
    try:
        found = queries.archetypes(stores, each=2, limit=3)
    finally:
        database.close()
    assert [len(one.leagues) for one in found] == [2, 2, 2]
    assert (len(database.statements), len(graph.statements)) == (1, 1)


def test_explore_looks_around_every_hit(stack: AskStack, edges: None) -> None:
    """The hits of search, and for all hits in one statement what the graph has beside them."""
    graph = CountingGraph(stack.stores.graph)
    stores = replace(stack.stores, graph=cast(neo4j.Sink, graph))
    found = queries.explore(stores, COMBAT, top_k=5)
    assert len(graph.statements) == 1
    assert [one.league for one in found.results] == queries.search(stores, COMBAT, top_k=5)
    for one in found.results:
        siblings = stack.tags(
            "sport_archetype = %s AND league_tag <> %s",
            one.league.sport_archetype,
            one.league.league_tag,
        )
        assert len(one.same_archetype) == 5
        assert {n.league_tag for n in one.same_archetype} <= siblings
    (ufc,) = (one for one in found.results if one.league.league_tag == "ufc")
    assert [(n.league_tag, n.score) for n in ufc.similar_to] == [
        ("bellator_mma", 0.83),
        ("formula_1", 0.81),
    ]


@pytest.mark.parametrize("make", [None, _dead_graph], ids=["not configured", "away"])
def test_explore_without_the_graph(stack: AskStack, make: Any) -> None:
    """Hits stand alone, and it is said why."""
    graph = make() if make else None
    found = queries.explore(replace(stack.stores, graph=graph), COMBAT, top_k=2)
    if graph:
        graph.close()
    assert [one.store for one in found.unavailable] == ["neo4j"]
    assert [(one.same_archetype, one.similar_to) for one in found.results] == [((), ())] * 2


def test_leagues_by_the_graph(stack: AskStack, edges: None) -> None:
    """Leagues of an archetype, and the others of a league's: the same as PostgreSQL says."""
    combat = stack.tags("sport_archetype = 'combat'")
    found = queries.leagues_of_archetype(stack.stores, "combat")
    assert {one.league_tag for one in found} == combat
    assert [one.tier or "" for one in found] == sorted(one.tier or "" for one in found)
    others = queries.leagues_of_same_archetype(stack.stores, "ufc")
    assert {one.league_tag for one in others} == combat - {"ufc"}
    assert queries.leagues_of_same_archetype(stack.stores, "ufc", limit=2) == others[:2]


def test_pairs_across_archetypes(stack: AskStack, edges: None) -> None:
    """Similar leagues of two archetypes; neither a stub nor a pair of one archetype."""
    (pair,) = queries.cross_archetype_pairs(stack.stores)
    assert (pair.source_tag, pair.target_tag, pair.score) == ("formula_1", "ufc", 0.81)
    assert (pair.source_archetype, pair.target_archetype) == ("racing", "combat")


# --- examples -------------------------------------------------------------------------------------

SOCCER = "Similar contract examples for soccer/premium"


@pytest.mark.parametrize("category", [None, "contract_generation", "triage"])
def test_examples_by_meaning(stack: AskStack, category: str | None) -> None:
    """Of one category, or the best of all."""
    found = queries.examples(stack.stores, SOCCER, category=category, top_k=7)
    condition = f"category = '{category}'" if category else "true"
    expected = stack.ranking(stack.question(SOCCER), condition, "few_shot_example")[:7]
    assert [one.example_id for one in found] == [key for key, _score in expected]
    assert [one.score for one in found] == pytest.approx([s for _, s in expected], abs=NEAR)
    (row,) = stack.rows(
        "SELECT category, input_text, output_text, tags FROM few_shot_example "
        "WHERE example_id = %s",
        found[0].example_id,
    )
    assert row == (
        *(getattr(found[0], n) for n in ("category", "input_text", "output_text")),
        list(found[0].tags),
    )


def test_all_examples_of_a_category(stack: AskStack) -> None:
    """More than there are is no error."""
    found = queries.examples(stack.stores, SOCCER, category="triage", top_k=1000)
    ids = stack.rows("SELECT example_id FROM few_shot_example WHERE category = 'triage'")
    assert {one.example_id for one in found} == {row[0] for row in ids}


def test_an_unknown_category_or_archetype_is_told_with_those_there_are(stores: Stores) -> None:
    """A closed set is named in full."""
    with pytest.raises(UnknownName, match="no category 'x'; there are contract_generation, data"):
        queries.examples(stores, SOCCER, category="x")
    with pytest.raises(UnknownName, match="no archetype 'x'; there are combat, large_field"):
        queries.leagues_of_archetype(stores, "x")


# --- PostgreSQL alone -----------------------------------------------------------------------------


def test_a_league_by_its_tag_or_seed_or_id(stack: AskStack) -> None:
    """All three are found by an index; a deleted league by none."""
    (row,) = stack.rows("SELECT seed_id, id::text FROM league WHERE league_tag = 'ufc'")
    found = queries.league(stack.conn, "ufc")
    assert found.league_name == "UFC"
    assert [queries.league(stack.stores, name) for name in row] == [found, found]


@pytest.mark.parametrize(
    ("where", "condition"),
    [
        (LeagueFilter(), "true"),
        (LeagueFilter(archetype="combat"), "sport_archetype = 'combat'"),
        (LeagueFilter(tier="TIER1", contract_status="draft"), f"tier = 'TIER1' AND {DRAFT}"),
        (LeagueFilter(synced=True, archetype="combat"), "sport_archetype = 'combat'"),
    ],
)
def test_leagues_by_filter(stack: AskStack, where: LeagueFilter, condition: str) -> None:
    """All that match, or the first."""
    found = queries.leagues(stack.conn, where)
    assert {one.league_tag for one in found} == stack.tags(condition)
    assert len(found) == len(stack.tags(condition))
    assert queries.leagues(stack.stores, where, limit=2) == found[:2]


def test_leagues_that_wait_are_not_synced(stack: AskStack) -> None:
    """Every sink must have confirmed."""
    try:
        stack.conn.execute(
            "UPDATE league SET pinecone_sync_status = 'pending' WHERE league_tag = 'ufc'"
        )
        found = queries.leagues(stack.conn, LeagueFilter(archetype="combat", synced=True))
    finally:
        stack.conn.execute(
            "UPDATE league SET pinecone_sync_status = 'synced' WHERE league_tag = 'ufc'"
        )
    assert {one.league_tag for one in found} == stack.tags("sport_archetype = 'combat'") - {"ufc"}


def test_relationships_seen_from_a_league(stack: AskStack) -> None:
    """Both directions, by type and strength."""
    stack.conn.execute(
        "INSERT INTO league_relationship "
        "(id, seed_id, source_league_id, target_league_id, relationship_type, strength_score) "
        "SELECT gen_random_uuid(), CASE WHEN kind <> 'SIMILAR_TO' THEN 'r1' END, "
        "s.id, t.id, kind, score FROM (VALUES "
        "('ufc', 'bellator_mma', 'SIMILAR_TO', 0.83), ('formula_1', 'ufc', 'SIMILAR_TO', 0.9), "
        "('ufc', 'one_championship', 'COMPETES_WITH', NULL)) AS e (source, target, kind, score) "
        "JOIN league s ON s.league_tag = source JOIN league t ON t.league_tag = target"
    )
    try:
        found = queries.relationships(stack.conn, "ufc")
    finally:
        stack.conn.execute("DELETE FROM league_relationship")
    assert found == [
        Relationship("COMPETES_WITH", "out", "one_championship", "ONE Championship", None),
        Relationship("SIMILAR_TO", "out", "bellator_mma", "Bellator MMA", 0.83),
        Relationship("SIMILAR_TO", "in", "formula_1", "Formula 1", 0.9),
    ]
    with pytest.raises(UnknownName):
        queries.relationships(stack.conn, "unknown")


def test_the_audit_trail_of_a_league(stack: AskStack) -> None:
    """Every operation on it, the newest first."""
    found = queries.audit_trail(stack.stores, "ufc")
    assert {(one.sink, one.status) for one in found} == {
        (sink, "synced") for sink in ("embedding", "neo4j", "pinecone")
    }
    assert queries.audit_trail(stack.conn, "ufc", limit=1) == found[:1]


# --- what cannot be asked -------------------------------------------------------------------------


def test_what_is_missing_is_named(stores: Stores) -> None:
    """The setting that would switch it on."""
    without_index = replace(stores, vectors=None)
    without_graph = replace(stores, graph=None)
    without_embedder = replace(stores, embedder=None)
    for setting, ask in (
        ("PINECONE_API_KEY", lambda: queries.search(without_index, "x")),
        ("PINECONE_API_KEY", lambda: queries.explore(without_index, "x")),
        ("PINECONE_API_KEY", lambda: queries.examples(without_index, "x")),
        ("OPENAI_API_KEY", lambda: queries.search(without_embedder, "never asked")),
        ("NEO4J_URI", lambda: queries.archetypes(without_graph)),
        ("NEO4J_URI", lambda: queries.leagues_of_archetype(without_graph, "combat")),
        ("NEO4J_URI", lambda: queries.leagues_of_same_archetype(without_graph, "ufc")),
        ("NEO4J_URI", lambda: queries.cross_archetype_pairs(without_graph)),
    ):
        with pytest.raises(MissingStore, match=f"{setting} is not set"):
            ask()


@pytest.mark.parametrize("number", [0, -1, 10_001])
def test_numbers_out_of_bounds_are_refused(stores: Stores, number: int) -> None:
    """Before any store is asked."""
    nothing = cast(Stores, None)
    for ask in (
        lambda: queries.search(nothing, "x", top_k=number),
        lambda: queries.similar(nothing, "ufc", top_k=number),
        lambda: queries.explore(nothing, "x", top_k=number),
        lambda: queries.examples(nothing, "x", top_k=number),
        lambda: queries.archetypes(nothing, limit=number),
        lambda: queries.cross_archetype_pairs(nothing, limit=number),
    ):
        with pytest.raises(AltsyncError, match="must be between 1 and 10,000, not"):
            ask()


def test_an_empty_question_is_refused(stores: Stores) -> None:
    """It has no meaning to search for."""
    with pytest.raises(AltsyncError, match="say what to look for"):
        queries.search(stores, " \n")


# --- the commands ---------------------------------------------------------------------------------


@pytest.fixture
def ask(stack: AskStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ask:
    """``altsync …`` in this process, with the stack's settings and those that a test adds."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int = 0, **settings: str) -> Result:
        with monkeypatch.context() as patch:
            for name, value in {**stack.env, **settings}.items():
                patch.setenv(name, value)
            result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
        assert "Traceback" not in result.stderr
        return result

    return run


@pytest.mark.parametrize("command", ["search", "explore", "examples"])
def test_a_role_that_may_only_read_searches_without_keeping_the_vector(
    stack: AskStack, postgres: Postgres, ask: Ask, command: str
) -> None:
    """The next question of this text is paid again."""
    question = f"regattas of rowing boats, for {command}"
    with role_that_lacks(postgres, stack.env["DATABASE_URL"], "to write") as role:
        for _ in range(2):
            found = json.loads(ask(command, question, "--json", DATABASE_URL=role.url).stdout)
            assert len(found) > 1
    assert stack.rows("SELECT 1 FROM embedding WHERE text_hash = %s", _hash(question)) == []


LEAGUE = {
    "league_tag",
    "league_name",
    "sport_name",
    "sport_archetype",
    "location",
    "tier",
    "status",
    "description",
    "attributes",
    "documents",
    "contracts",
}
DOCUMENT = {"title", "kind", "body", "attributes"}
CONTRACT = {
    "title",
    "counterparty",
    "contract_type",
    "status",
    "start_date",
    "end_date",
    "attributes",
}
NODE = {"league_tag", "league_name", "sport_archetype", "tier", "status"}
PAIR = {f"{end}_{part}" for end in ("source", "target") for part in ("tag", "name", "archetype")}

#: Every command with --json, and the fields of what it lists.


def _shape_id(value: object) -> str:
    """A name that is the same in every process: sets are printed in any order."""
    return " ".join(value[:2]) if isinstance(value, tuple) else type(value).__name__


SHAPES = (
    (("search", RACING, "--top-k", "2"), LEAGUE | {"score"}, 2),
    (
        ("similar", "ufc", "--top-k", "3"),
        {"league_tag", "league_name", "sport_archetype", "score", "sources", "path"},
        3,
    ),
    (("archetypes", "--tier", "TIER1"), {"archetype", "count", "leagues"}, 5),
    (("explore", COMBAT, "--top-k", "2"), LEAGUE | {"score", "same_archetype", "similar_to"}, 2),
    (
        ("examples", SOCCER, "--category", "contract_generation"),
        {
            "example_id",
            "category",
            "score",
            "input_text",
            "output_text",
            "sport_archetype",
            "tags",
            "attributes",
        },
        5,
    ),
    (("leagues", "--tier", "TIER1", "--contract-status", "draft"), LEAGUE, 3),
    (("graph", "archetype", "combat", "--limit", "4"), NODE, 4),
    (("graph", "same-archetype", "ufc", "--limit", "4"), NODE, 4),
    (("graph", "cross-archetype"), PAIR | {"score"}, 1),
)


@pytest.mark.parametrize(("arguments", "fields", "count"), SHAPES, ids=_shape_id)
def test_json_shapes(
    ask: Ask, edges: None, arguments: tuple[str, ...], fields: set[str], count: int
) -> None:
    """One list on stdout, with nothing else beside it."""
    result = ask(*arguments, "--json")
    found = json.loads(result.stdout)
    assert len(found) == count
    assert {frozenset(one) for one in found} == {frozenset(fields)}
    assert result.stderr == ""


@pytest.mark.parametrize(("arguments", "_fields", "_count"), SHAPES, ids=_shape_id)
def test_tables_for_people(
    ask: Ask, edges: None, arguments: tuple[str, ...], _fields: set[str], _count: int
) -> None:
    """The same answers, drawn."""
    result = ask(*arguments, COLUMNS="200")
    assert len(result.stdout.splitlines()) > 3
    assert result.stderr == ""


def test_the_json_of_one_league(ask: Ask) -> None:
    """An object with its parts; operations on request; the seed's id finds it as well."""
    found = json.loads(ask("league", "ufc", "--operations", "--json").stdout)
    assert found.keys() == LEAGUE | {"relationships", "operations"}
    assert {frozenset(one) for one in found["documents"]} == {frozenset(DOCUMENT)}
    assert {frozenset(one) for one in found["contracts"]} == {frozenset(CONTRACT)}
    assert found["contracts"][0]["start_date"] == "2026-01-01"
    assert [one["sink"] for one in found["operations"]] == ["pinecone", "neo4j", "embedding"]
    del found["operations"]
    assert json.loads(ask("league", "combat_001", "--json").stdout) == found
    assert "Unified rules" in ask("league", "ufc").stdout


def test_json_is_what_the_functions_answer(ask: Ask, stack: AskStack) -> None:
    """Tags and scores, in the same order."""
    found = json.loads(ask("search", RACING, "--status", "active", "--json").stdout)
    expected = queries.search(stack.stores, RACING, LeagueFilter(status="active"))
    assert [(one["league_tag"], one["score"]) for one in found] == [
        (one.league_tag, one.score) for one in expected
    ]
    assert len(found) == 50


def test_stores_that_are_away_are_told_of_on_stderr(ask: Ask) -> None:
    """The others answer, and stdout stays one document; when none is left, that is an error."""
    graph, index = f"bolt://127.0.0.1:{closed_port()}", f"http://127.0.0.1:{closed_port()}"
    away = {"NEO4J_URI": graph, "ALTSYNC_SINK_TIMEOUT_SECONDS": "4"}
    result = ask("similar", "ufc", "--json", **away)
    assert {tuple(one["sources"]) for one in json.loads(result.stdout)} == {("vector",)}
    assert " ".join(result.stderr.split()).startswith("neo4j could not be asked: ")
    result = ask("explore", COMBAT, "--json", **away)
    assert len(json.loads(result.stdout)) == 10
    assert result.stderr.startswith("neo4j could not be asked: ")
    assert "could not" not in ask("search", RACING, "--json", **away).stderr
    away["PINECONE_CONTROLLER_HOST"] = index
    result = ask("similar", "ufc", "--json", code=1, **away)
    assert result.stdout == ""
    assert result.stderr.count("could not be asked") == 2


@pytest.mark.parametrize(
    ("arguments", "settings", "code", "said"),
    [
        (("similar", "formla_1"), {}, 1, "no league 'formla_1'; did you mean formula_1"),
        (("league", "unknown"), {}, 1, "no league 'unknown'"),
        (("examples", "x", "--category", "y"), {}, 1, "no category 'y'; there are"),
        (("graph", "archetype", "y"), {}, 1, "no archetype 'y'; there are"),
        (("graph", "same-archetype", "y"), {}, 1, "no league 'y'"),
        (("search", " "), {}, 1, "the question is empty"),
        (("search", "word " * 9000), {}, 1, "9,001 tokens, and wordllama-l2-256 takes 8,192"),
        (("search", "\udcff"), {}, 2, "an argument is not valid UTF-8"),
        (("league", "\udcff"), {}, 2, "an argument is not valid UTF-8"),
        (("search", "x", "--top-k", "0"), {}, 2, "--top-k"),
        (("search", "x", "--top-k", "10001"), {}, 2, "--top-k"),
        (("leagues", "--limit", "0"), {}, 2, "--limit"),
        (("search", "x", "--tier", "TIER9"), {}, 0, "Nothing matches."),
        (("archetypes",), {"NEO4J_URI": ""}, 7, "needs Neo4j: NEO4J_URI is not set"),
        (("archetypes",), {"NEO4J_URI": "nonsense"}, 7, "NEO4J_URI: the scheme is missing"),
        (("graph", "cross-archetype"), {"NEO4J_URI": ""}, 7, "NEO4J_URI is not set"),
        (
            ("graph", "cross-archetype"),
            {"ALTSYNC_SINKS": "embedding,pinecone"},
            7,
            "needs Neo4j: neo4j is not in ALTSYNC_SINKS",
        ),
        (("search", "x"), {"PINECONE_API_KEY": ""}, 7, "PINECONE_API_KEY is not set"),
        (("search", "x"), {"ALTSYNC_SINKS": "neo4j"}, 7, "pinecone is not in ALTSYNC_SINKS"),
        (("search", "never asked"), {"OPENAI_API_KEY": ""}, 7, "OPENAI_API_KEY is not set"),
        (
            ("search", "never asked"),
            {"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"},
            8,
            "no connection to the embedder",
        ),
        (
            ("search", RACING),
            {"PINECONE_CONTROLLER_HOST": "http://127.0.0.1:1"},
            8,
            "no connection to Pinecone",
        ),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_cannot_be_answered_ends_with_a_sentence(
    ask: Ask, arguments: tuple[str, ...], settings: dict[str, str], code: int, said: str
) -> None:
    """Never a traceback, and nothing on stdout."""
    result = ask(*arguments, code=code, COLUMNS="200", **settings)
    assert said in " ".join(result.stderr.split())
    assert result.stdout == ""


# --- any entity -----------------------------------------------------------------------------------


def test_a_search_of_any_entity_finds_the_best_that_match(stack: AskStack) -> None:
    for where, condition in (
        ({}, "true"),
        ({"status": "inactive", "tier": "TIER2"}, "status = 'inactive' AND tier = 'TIER2'"),
    ):
        found = engine.search(stack.stores, "league", RACING, where, top_k=12)
        expected = dict(stack.ranking(stack.question(RACING), condition)[:12])
        assert {one.key: one.score for one in found} == pytest.approx(expected, abs=NEAR)
        scores = [one.score or 0.0 for one in found]
        assert scores == sorted(scores, reverse=True)


def test_a_search_asks_every_namespace_and_filters_lists(stack: AskStack) -> None:
    """Examples live in a namespace for each category."""
    found = engine.search(stack.stores, "example", SOCCER, {"tags": "soccer"}, top_k=9)
    vector = stack.question(SOCCER)
    expected = stack.ranking(vector, "'soccer' = ANY(tags)", "few_shot_example")
    assert [one.key for one in found] == [key for key, _ in expected[:9]]
    assert all("soccer" in one.content["tags"] for one in found)
    assert {one.relationships[0].type for one in found} == {"IN_CATEGORY"}
    one = engine.search(stack.stores, "examples", SOCCER, {"category": "triage"}, top_k=3)
    assert {two.content["category"] for two in one} == {"triage"}


def test_an_answer_has_content_and_relationships(stack: AskStack) -> None:
    (ufc,) = engine.search(stack.stores, "leagues", "UFC", {"league_name": "UFC"})
    assert (ufc.entity, ufc.key, ufc.name) == ("league", "ufc", "UFC")
    assert ufc.content["sport_archetype"] == "combat"
    assert ufc.relationships == (
        Link("BELONGS_TO_ARCHETYPE", "out", "sport_archetype", "combat", "combat"),
    )


def test_similar_of_any_entity_agrees_with_that_of_leagues(stack: AskStack, edges: None) -> None:
    found = engine.similar(stack.stores, "league", "ufc", top_k=15).results
    expected = queries.similar(stack.stores, "ufc", top_k=15).results
    assert {(one.key, one.sources, one.path) for one in found} == {
        (one.league_tag, one.sources, one.path) for one in expected
    }


def test_similar_over_namespaces(stack: AskStack) -> None:
    """The nearest examples of all categories, or of one."""
    (row,) = stack.rows("SELECT min(example_id) FROM few_shot_example")
    found = engine.similar(stack.stores, "example", row[0], top_k=8)
    vector = stack.rows(
        "SELECT l.embedding_vector FROM few_shot_example l WHERE example_id = %s", row[0]
    )
    expected = stack.ranking(bytes(vector[0][0]), "true", "few_shot_example")[1:9]
    assert [one.key for one in found.results] == [key for key, _ in expected]
    within = engine.similar(stack.stores, "example", row[0], {"category": "triage"}, top_k=3)
    assert {one.content["category"] for one in within.results} == {"triage"}


def test_explore_of_any_entity_looks_around_in_the_graph(stack: AskStack, edges: None) -> None:
    found = engine.explore(stack.stores, "league", "UFC", {"league_name": "UFC"})
    (ufc,) = found.results
    assert [(one.type, one.direction, one.key) for one in ufc.relationships] == [
        ("BELONGS_TO_ARCHETYPE", "out", "combat"),
        ("SIMILAR_TO", "out", "bellator_mma"),
        ("SIMILAR_TO", "in", "formula_1"),
        ("COMPETES_WITH", "in", "formula_1"),
    ]
    assert len(ufc.siblings) == 5
    assert {"ufc", "stub"}.isdisjoint(one.key for one in ufc.siblings)
    assert found.unavailable == ()


def test_neighbours_of_a_parent_are_its_children(stack: AskStack, changes: Conn) -> None:
    """Rows that PostgreSQL has deleted are left out, though the graph has it still."""
    stack.conn.execute("UPDATE league SET deleted_at = now() WHERE league_tag = 'ufc'")
    found = engine.neighbours(stack.stores, "archetype", "combat", limit=1000)
    assert {one.key for one in found} == stack.tags("sport_archetype = 'combat'")
    assert {(one.type, one.direction, one.entity) for one in found} == {
        ("BELONGS_TO_ARCHETYPE", "in", "league")
    }


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("search", "x", "--entity", "leage"), 1, "no entity 'leage'; there are sport_archetype"),
        (("search", "x", "--where", "teir=TIER1"), 1, "did you mean 'tier'?"),
        (("search", "x", "--where", "tier=TIER9"), 1, "no league with the tier 'TIER9'; there are"),
        (("search", "x", "--where", "tier"), 2, "invalid filter 'tier': use --where field=value"),
        (("search", "x", "--where", "tier=a", "--where", "tier=b"), 2, "names tier twice"),
        (("search", "x", "--entity", "example", "--tier", "a"), 2, "--tier does not go with"),
        (("similar", "unknown", "--entity", "example"), 1, "no example 'unknown'"),
        (("graph", "--entity", "league", "formla_1"), 1, "did you mean formula_1"),
        (("explore", "x", "--entity", "leag"), 1, "did you mean 'league'?"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_no_entity_has_is_said_with_what_there_is(
    ask: Ask, arguments: tuple[str, ...], code: int, said: str
) -> None:
    result = ask(*arguments, code=code, COLUMNS="200")
    assert said in " ".join(result.stderr.split())
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        (("search", SOCCER, "--entity", "example", "--where", "category=triage"), set()),
        (("similar", "combat", "--entity", "archetype"), {"sources", "path"}),
        (("explore", COMBAT, "--entity", "league", "--top-k", "3"), {"siblings"}),
    ],
    ids=_shape_id,
)
def test_commands_of_any_entity(ask: Ask, arguments: tuple[str, ...], fields: set[str]) -> None:
    found = json.loads(ask(*arguments, "--json").stdout)
    own = {"entity", "key", "name", "score", "content", "relationships"}
    assert {frozenset(one) for one in found} == {frozenset(own | fields)}
    assert len(ask(*arguments).stdout.splitlines()) > 3


def test_the_graph_of_any_entity_by_command(ask: Ask, edges: None) -> None:
    found = json.loads(ask("graph", "--entity", "league", "ufc", "--json").stdout)
    assert [one["key"] for one in found][:2] == ["combat", "bellator_mma"]
    assert {frozenset(one) for one in found} == {
        frozenset({"type", "direction", "entity", "key", "name", "score"})
    }
    assert "SIMILAR_TO" in ask("graph", "--entity", "league", "ufc", COLUMNS="80").stdout
