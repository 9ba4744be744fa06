"""The whole job on a catalogue that is not the shipped one: nothing is edited but its classes."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

import altsync
from altsync import Catalogue, queries, saving, schema
from altsync.app import Application
from altsync.catalogue.current import using
from altsync.catalogue.tables import check_tables
from altsync.cli import app as cli
from altsync.cli.status import leftover_notes
from altsync.db import Database, connect
from altsync.delivery import Delivery, Policy
from altsync.errors import AltsyncError, SchemaError, SeedError
from altsync.local.services.graph import Graph
from altsync.local.services.vectors import Vectors
from altsync.local.vectors.faults import FaultRule
from altsync.outbox.upkeep import backfill_page
from altsync.outbox.versions import newest_version
from altsync.seed.loader import Loader
from altsync.seed.options import SeedOptions
from altsync.seed.report import SeedReport
from altsync.status.collect import collect
from altsync.verify.report import Options as Comparison
from altsync.why import explain as why_explain
from altsync.why.explanation import Explanation
from altsync.why.history import entity_state
from tests import toy
from tests.contract.harness import GraphHarness, PineconeHarness, arcade_harness
from tests.integration.database_fixture import CONFIRM_AFTER, LEASE, DatabaseFixture, embedding_sink
from tests.integration.fakes import FakeEmbedder
from tests.integration.seeds import write
from tests.integration.stores import name_stores

BRANDS = [
    {"id": "b1", "name": "Acme", "country": "FR", "about": "Makes all."},
    {"id": "b2", "name": "Zeta"},
]
SHELVES = [{"id": "s-1", "title": "Left"}, {"id": "s-2", "title": "Right"}]


def product(sku: str, **fields: Any) -> dict[str, Any]:
    line = {"id": f"p-{sku}", "sku": sku, "title": f"Thing {sku}", "brand": "acme"}
    return (
        line | {"about": "A thing.", "tags": ["new"], "weight": 1.5, "since": "2026-01-31"} | fields
    )


PRODUCTS = [
    product("A-1", shelf="s-1", price_cents=250, sizes={"cm": [1, 2]}),
    product("A-2"),
    product("A-3", brand="zeta", sold=False, supplier="Kept here", shelf="s-2"),
]


@dataclass(frozen=True)
class Shop:
    """All stores, on the toy catalogue."""

    pg: DatabaseFixture
    database: Database
    app: Application
    graph: GraphHarness
    index: PineconeHarness
    embedder: FakeEmbedder
    folder: Path

    def seed(self, **options: Any) -> SeedReport:
        report = SeedReport(None)
        chosen = SeedOptions(self.folder, **{"parts": toy.catalogue.parts, **options})
        Loader(self.pg.conn, self.app.topology, chosen, report).run()
        return report

    def deliver_some(self) -> None:
        """Deliver what is due of the current catalogue."""
        for name in self.app.topology.names * 3:
            sink = self.app.sink(name)
            if name == "embedding":
                sink = embedding_sink(self.database, self.embedder)
            assert sink is not None
            policy = Policy(lease=LEASE, confirm_after=CONFIRM_AFTER)
            Delivery(self.database, sink, self.app.topology, policy, worker="t").drain(60.0)

    def deliver(self) -> None:
        for _ in range(10):
            self.deliver_some()
            if not self.pg.scalar("SELECT count(*) FROM sync_operation WHERE finished_at IS NULL"):
                return
            self.pg.advance_time(60)
        raise AssertionError("not at rest")

    def drift(self, **options: Any) -> dict[str, dict[str, int]]:
        report = self.app.verify(Comparison(**{"grace": 0.0, "deep": True, **options}), None)
        assert report.problems == {}
        tallies = [*report.tallies, report.rows]
        kinds = {t.sink: {k.value: n for k, n in t.kinds.items() if n} for t in tallies}
        return {sink: numbers for sink, numbers in kinds.items() if numbers}

    def run(self, *arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(cli, list(arguments))
        logging.root.handlers[:] = [logging.NullHandler()]
        assert result.exit_code == code, result.output
        return result.output


@pytest.fixture
def shop(
    empty_database_url: str,
    graph_server: Graph,
    vectors_server: Vectors,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Shop]:
    """Every store, with the toy catalogue's schema, and seeds of a few things."""
    with using(toy.catalogue):
        name_stores(
            monkeypatch,
            empty_database_url,
            graph_server,
            vectors_server,
            ALTSYNC_SIMILARITY="local",
        )
        schema.migrate(empty_database_url)
        graph, index = arcade_harness(graph_server), PineconeHarness(vectors_server)
        graph.wipe()
        index.wipe()
        database, app = Database(empty_database_url), Application()
        with database.transaction() as conn:
            app.register_sinks(conn)
        assert set(app.set_up_sinks().values()) == {None}
        write(tmp_path, "brands.jsonl", BRANDS)
        write(tmp_path, "shelves.jsonl", SHELVES)
        write(tmp_path, "products/spring.jsonl", PRODUCTS)
        write(
            tmp_path,
            "reviews.jsonl",
            [{"id": "r1", "product": "p-A-1", "title": "Good", "stars": 5}],
        )
        write(
            tmp_path,
            "pairs.jsonl",
            [{"id": "e1", "type": "GOES_WITH", "source": "p-A-1", "target": "p-A-3"}],
        )
        pg = DatabaseFixture(empty_database_url)
        yield Shop(pg, database, app, graph, index, FakeEmbedder(), tmp_path)
        pg.close()
        app.close()
        database.close()
        index.wipe()
        graph.wipe()
        graph.close()
        index.close()


def test_every_store_holds_what_the_lines_say(shop: Shop) -> None:
    report = shop.seed()
    assert {part.value: counts.created for part, counts in report.parts.items()} == {
        "brands": 2,
        "shelves": 2,
        "products": 3,
        "reviews": 1,
        "pairs": 1,
    }
    shop.deliver()
    assert shop.drift() == {}
    (node,) = shop.graph.ask("MATCH (n:Product {sku: 'A-1'}) RETURN properties(n) AS p")
    held = dict(node["p"])
    assert held["title"] == "Thing A-1"
    assert (held["season"], held["since"], held["weight"]) == ("spring", "2026-01-31", 1.5)
    assert "supplier" not in held
    led = shop.graph.ask(
        "MATCH (n:Product)-[r]->(p) RETURN n.sku AS sku, type(r) AS type, "
        "coalesce(p.brand_key, p.shelf_code, p.name, p.sku) AS to ORDER BY sku, type, to"
    )
    assert {(one["sku"], one["type"], one["to"]) for one in led} >= {
        ("A-1", "MADE_BY", "acme"),
        ("A-1", "STANDS_ON", "s-1"),
        ("A-1", "SOLD_IN", "spring"),
        ("A-1", "GOES_WITH", "A-3"),
        ("A-2", "MADE_BY", "acme"),
        ("A-3", "STANDS_ON", "s-2"),
    }
    assert not any(one["sku"] == "A-2" and one["type"] == "STANDS_ON" for one in led)
    held = shop.app.sink("pinecone").find(toy.PRODUCT, "A-1", "acme")  # type: ignore[union-attr]
    assert held is not None
    assert held.metadata == {
        "brand": "acme",
        "season": "spring",
        "price_cents": 250,
        "weight": 1.5,
        "sold": True,
        "tags": ["new"],
    }


def test_the_same_lines_again_change_nothing(shop: Shop) -> None:
    shop.seed()
    shop.deliver()
    total = shop.seed().total
    assert (total.created, total.updated, total.operations, total.rejected) == (0, 0, 0, 0)


def test_an_edit_reaches_every_store(shop: Shop) -> None:
    """Another brand is another namespace, and a shelf may be left."""
    shop.seed()
    shop.deliver()
    write(
        shop.folder,
        "products/spring.jsonl",
        [product("A-1", brand="zeta"), *PRODUCTS[1:]],
    )
    assert shop.seed().total.updated == 1
    shop.deliver()
    assert shop.drift() == {}
    index = shop.app.sink("pinecone")
    assert index.find(toy.PRODUCT, "A-1", "acme") is None  # type: ignore[union-attr]
    assert index.find(toy.PRODUCT, "A-1", "zeta") is not None  # type: ignore[union-attr]
    led = shop.graph.ask("MATCH (:Product {sku: 'A-1'})-[r]->() RETURN type(r) AS type")
    assert sorted(one["type"] for one in led if one["type"] != "LOOKS_LIKE") == [
        "GOES_WITH",
        "MADE_BY",
        "SOLD_IN",
    ]


def test_similar_things_of_one_brand_are_related(shop: Shop) -> None:
    same = {"title": "Same", "about": "Same.", "tags": []}
    write(
        shop.folder,
        "products/spring.jsonl",
        [product("A-1", **same), product("A-2", **same), product("A-3", **same, brand="zeta")],
    )
    shop.seed()
    shop.deliver()
    led = shop.graph.ask(
        "MATCH (a:Product)-[r:LOOKS_LIKE]->(b:Product) RETURN a.sku AS a, b.sku AS b ORDER BY a"
    )
    assert [(one["a"], one["b"]) for one in led] == [("A-1", "A-2"), ("A-2", "A-1")]
    assert shop.drift() == {}


def test_pruning_takes_things_out_everywhere(shop: Shop) -> None:
    shop.seed()
    shop.deliver()
    write(shop.folder, "products/spring.jsonl", PRODUCTS[1:2])
    write(shop.folder, "reviews.jsonl", [])
    write(shop.folder, "pairs.jsonl", [])
    report = shop.seed(prune=True, yes=True)
    assert report.parts[toy.catalogue.part("products")].deleted == 2
    shop.deliver()
    assert shop.drift() == {}
    assert [one["sku"] for one in shop.graph.ask("MATCH (n:Product) RETURN n.sku AS sku")] == [
        "A-2"
    ]


def test_a_parent_that_is_named_stays(shop: Shop) -> None:
    shop.seed()
    write(shop.folder, "brands.jsonl", BRANDS[1:])
    with pytest.raises(SeedError, match=r"brands that products still name .*acme \(2 products\)"):
        shop.seed(prune=True, yes=True)


def test_lines_are_refused_by_field(shop: Shop) -> None:
    lines = [
        product("B-1", brand="acmee"),
        product("B-2", price_cents="1"),
        product("B-3", since="2026"),
        product("B 4"),
        product("B-5", shelf="s-9"),
    ]
    write(shop.folder, "products/spring.jsonl", lines)
    refused = [(one.field, one.reason) for one in shop.seed().shown if "products" in one.file]
    assert [field for field, _ in refused] == ["brand", "price_cents", "since", "sku", "shelf"]
    assert "did you mean 'acme'?" in refused[0][1]


def test_planted_drift_is_found_and_repaired(shop: Shop) -> None:
    shop.seed()
    shop.deliver()
    shop.graph.ask("MATCH (n:Product {sku: 'A-1'}) SET n.title = 'Other'")
    shop.graph.ask("MATCH (:Product {sku: 'A-1'})-[r:STANDS_ON]->() DELETE r")
    shop.graph.ask("CREATE (:Shelf {shelf_code: 'x', sync_version: 1})")
    shop.index.index("shop-products").delete(ids=["A-2"], namespace="acme")
    shop.pg.conn.execute("UPDATE brand SET about = 'By SQL' WHERE brand_key = 'zeta'")
    assert shop.drift() == {
        "postgresql": {"edited": 1},
        "neo4j": {"stale": 1, "orphan": 1},
        "pinecone": {"missing": 1},
    }
    shop.app.verify(Comparison(grace=0.0, deep=True, repair=True, max_delete=0.9), None)
    shop.deliver()
    assert shop.drift() == {}


def test_views_name_the_catalogues_entities(shop: Shop) -> None:
    shop.seed()
    shop.deliver()
    found = collect(shop.pg.conn, shop.app.topology, {})
    assert {kind.value: one.total for kind, one in found.entities.items()} == {
        "brand": 2,
        "shelf": 2,
        "product": 3,
    }
    state = entity_state(shop.pg.conn, "A-1")
    assert state is not None
    assert {(one.type, one.key) for one in state.relationships} >= {("GOES_WITH", "A-3")}
    told = why_explain.explain(shop.app, "A-1", shop.folder)
    assert isinstance(told, Explanation)
    assert told.reasons == (f"Every store agrees at version {state.version}.",)
    shown = shop.run("why", "A-1", "--dir", str(shop.folder))
    assert "STANDS_ON" in shown
    assert "product" in shop.run("status")
    body = json.loads(shop.run("why", "A-1", "--json", "--dir", str(shop.folder)))
    assert body["entity"]["type"] == "product"


SMALL = Catalogue("shop", entities=[toy.Brand, toy.Shelf])


def small(url: str) -> list[str]:
    """Every table of the smaller catalogue's database."""
    with connect(url) as conn:
        rows = conn.execute("SELECT relname FROM pg_class WHERE relkind = 'r'").fetchall()
    return [row[0] for row in rows if row[0] in ("brand", "product", "review", "league")]


def test_a_type_is_added_to_an_installation_that_runs(shop: Shop, empty_database_url: str) -> None:
    """Its class is all that is new: tables, index and constraints are made by migrate."""
    shop.pg.conn.execute("DROP TABLE review, product_relationship, product CASCADE")
    with using(SMALL):
        shop.seed(parts=SMALL.parts)
        shop.deliver()
        assert shop.drift() == {}
        assert small(empty_database_url) == ["brand"]
    with pytest.raises(SchemaError, match=r"\(product\): run altsync migrate"):
        check_tables(shop.pg.conn, toy.catalogue.entity_types)
    planned = schema.plan(empty_database_url)
    assert [one.split("(")[0] for one in planned.statements if "CREATE TABLE" in one] == [
        "CREATE TABLE product ",
        "CREATE TABLE product_relationship ",
        "CREATE TABLE review ",
    ]
    schema.migrate(empty_database_url)
    check_tables(shop.pg.conn, toy.catalogue.entity_types)
    assert set(shop.app.set_up_sinks().values()) == {None}
    total = shop.seed().total
    assert (total.created, total.unchanged, total.rejected) == (5, 4, 0)
    shop.deliver()
    assert shop.drift() == {}


def test_a_type_is_taken_away(shop: Shop) -> None:
    """Its remaining rows are neither claimed nor compared, and breaks nothing."""
    shop.seed()
    with using(SMALL):
        shop.deliver_some()
        left = shop.pg.conn.execute(
            "SELECT DISTINCT entity_type FROM sync_operation WHERE finished_at IS NULL"
        ).fetchall()
        assert left == [("product",)]
        assert shop.drift() == {}
        status = collect(shop.pg.conn, shop.app.topology, {})
        assert set(status.entities) == {"brand", "shelf"}
        assert set(status.leftovers) == {"product"}
        left_over = status.leftovers["product"]
        assert (left_over.rows, left_over.operations > 0) == (len(PRODUCTS), True)
        (note,) = leftover_notes(status)
        assert note.plain.startswith("product is not in the catalogue, and has")
        assert shop.seed(parts=SMALL.parts).total.unchanged == 4
    shop.deliver()
    assert shop.drift() == {}


def test_any_entity_is_searched_and_explored(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Namespaces from a field, a key property of another name, filters of every type."""
    shop.seed()
    shop.deliver()
    stores = replace(shop.app.stores(), embedder=shop.embedder)
    found = queries.search(stores, "product", "A thing.")
    assert {one.key for one in found} == {"A-1", "A-2", "A-3"}
    (first,) = queries.search(stores, "product", "A thing.", {"price_cents": "250", "tags": "new"})
    assert (first.entity, first.key, first.name) == ("product", "A-1", "Thing A-1")
    assert (first.content["sizes"], first.content["weight"]) == ({"cm": [1, 2]}, 1.5)
    assert {(one.type, one.direction, one.entity, one.key) for one in first.relationships} >= {
        ("MADE_BY", "out", "brand", "acme"),
        ("STANDS_ON", "out", "shelf", "s-1"),
        ("SOLD_IN", "out", "Season", "spring"),
        ("GOES_WITH", "out", "product", "A-3"),
    }
    for where, keys in (
        ({"sold": "false"}, {"A-3"}),
        ({"sold": True, "brand": "acme"}, {"A-1", "A-2"}),
        ({"weight": 1.5}, {"A-1", "A-2", "A-3"}),
        ({"season": "spring", "price_cents": 0}, {"A-2", "A-3"}),
    ):
        assert {one.key for one in queries.search(stores, "product", "x", where)} == keys, where
    near = queries.similar(stores, toy.PRODUCT, "A-1", {"brand": "acme"})
    assert [(one.key, one.sources) for one in near.results] == [("A-2", ("graph", "vector"))]
    explored = queries.explore(stores, "products", "A thing.", {"price_cents": 250})
    (one,) = explored.results
    assert ("GOES_WITH", "A-3") in {(link.type, link.key) for link in one.relationships}
    assert [link.key for link in one.siblings] == ["A-2"]
    shelf = queries.neighbours(stores, "shelf", "s-1")
    assert [(link.type, link.direction, link.key) for link in shelf] == [("STANDS_ON", "in", "A-1")]
    monkeypatch.setenv("ALTSYNC_CATALOGUE", "tests.toy:catalogue")
    shown = shop.run("graph", "A-3", "--json")
    assert {"GOES_WITH", "MADE_BY", "STANDS_ON"} <= {one["type"] for one in json.loads(shown)}


def test_answers_say_which_version_each_store_had(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lower bounds, by what is confirmed; none where the index lags behind its writes."""
    shop.seed()
    shop.deliver()
    stores = replace(shop.app.stores(), embedder=shop.embedder)
    newest = newest_version(shop.pg.conn)
    every = dict.fromkeys(("postgresql", "pinecone", "neo4j"), newest)
    assert queries.search(stores, "product", "x").versions == {
        "postgresql": newest,
        "pinecone": newest,
    }
    assert queries.explore(stores, "product", "x").versions == every
    assert queries.similar(stores, "product", "A-1").versions == every
    monkeypatch.setenv("ALTSYNC_CATALOGUE", "tests.toy:catalogue")
    shown = json.loads(shop.run("graph", "A-3", "--versions", "--json"))
    assert shown["versions"] == {"postgresql": newest, "neo4j": newest}
    assert shown["results"]

    shop.pg.conn.execute("UPDATE product SET version = nextval('entity_version')")
    graph = shop.app.topology.traits("neo4j")
    backfill_page(shop.pg.conn, graph, toy.PRODUCT, after=None, force=True)
    behind = queries.explore(stores, "product", "x").versions
    assert behind["pinecone"] == newest_version(shop.pg.conn) > newest
    assert behind["neo4j"] is not None
    assert behind["neo4j"] <= newest
    away = replace(stores, graph=None)
    assert queries.explore(away, "product", "x").versions["neo4j"] is None

    shop.index.server.admin.set_faults([FaultRule("pinecone.upsert", "lag", seconds=3600)])
    index = shop.app.topology.traits("pinecone")
    backfill_page(shop.pg.conn, index, toy.PRODUCT, after=None, force=True)
    shop.deliver()
    assert queries.search(stores, "product", "x").versions["pinecone"] is None
    shop.index.server.admin.flush()
    assert queries.search(stores, "product", "x").versions["pinecone"] is not None


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"colour": "red"}, "no filter of product 'colour'; there are brand, season"),
        ({"sesson": "all"}, "did you mean 'season'?"),
        ({"season": "sprng"}, "no product with the season 'sprng'; there are spring"),
        ({"price_cents": "dear"}, "price_cents: invalid value 'dear': use a whole number"),
        ({"sold": "perhaps"}, "sold: invalid value 'perhaps': use true or false"),
        ({"price_cents": 7}, "no product with the price_cents '7'; there are 0, 250"),
    ],
)
def test_a_filter_that_fits_nothing_says_what_there_is(
    shop: Shop, where: dict[str, Any], said: str
) -> None:
    shop.seed()
    with pytest.raises(AltsyncError) as caught:
        queries.search(shop.app.stores(), "product", "x", where)
    assert said in str(caught.value)


def test_a_question_without_an_entity_is_about_the_only_one_that_has_it(shop: Shop) -> None:
    assert queries.only_entity("similar") is toy.PRODUCT
    with pytest.raises(AltsyncError, match="name the entity with --entity: brand, shelf, product"):
        queries.only_entity()


def test_a_program_saves_and_renames_entities_of_the_catalogue(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every kind of field, a parent that is renamed, a key and a namespace that change together."""
    monkeypatch.setattr(saving, "_topology", lambda: shop.app.topology)
    with psycopg.connect(shop.pg.url) as conn:
        altsync.save(
            conn,
            toy.Product(
                sku="S-1",
                title="Saved",
                brand="mine_fr",
                shelf="s-9",
                weight=2,
                since=date(2026, 2, 1),
                tags=["a", "b"],
                sizes={"cm": [1]},
                attributes={"colour": "red"},
            ),
            toy.Shelf(code="s-9", title="Back"),
            toy.Brand(brand_key="mine_fr", seed_id="mine", name="Mine", country="FR"),
        )
    shop.deliver()
    assert {sink: kinds for sink, kinds in shop.drift().items() if kinds} == {}
    with psycopg.connect(shop.pg.url) as conn:
        altsync.save(conn, toy.Brand(brand_key="ours", seed_id="mine", name="Mine", country="FR"))
    shop.deliver()
    assert shop.drift() == {}
    assert shop.pg.scalar("SELECT brand FROM product WHERE sku = 'S-1'") == "ours"
    found = shop.graph.ask("MATCH (b:Brand) WHERE b.brand_key IN ['mine_fr', 'ours'] RETURN b")
    assert len(found) == 1
    with psycopg.connect(shop.pg.url) as conn:
        altsync.save(
            conn,
            toy.Brand(brand_key="other", name="Other"),
            toy.Product(sku="S-2", seed_id="S-1", title="Saved", brand="other"),
        )
    shop.deliver()
    assert shop.drift() == {}
    sink: Any = shop.app.sink("pinecone")
    held = {one.key: one.namespace for one in sink.versions(toy.PRODUCT)}
    assert ("S-1" in held, held["S-2"]) == (False, "other")
