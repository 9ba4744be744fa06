"""``altsync erase``: an entity leaves every store, and a receipt proves it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from altsync import erased
from altsync.entities import entity_id
from altsync.erase import receipt as receipts
from altsync.erase.receipt import Receipt
from altsync.erase.run import Request, Waiting, erase, lines_of, read_stores, refused_lines
from altsync.errors import AltsyncError, SaveError
from altsync.local.services.vectors import Vectors
from altsync.protocols import Reads
from tests import points, toy
from tests.integration.database_fixture import DatabaseFixture, leagues
from tests.integration.models_site import NEW, models_site
from tests.integration.seeds import write
from tests.integration.test_other_catalogue import Shop, product, shop
from tests.sports import LEAGUE

__all__ = ["shop"]

REQUEST = Request("product", "A-1", "asked by mail", "test@host")


class Killed(BaseException):
    """The process ends here."""


def erased_by(shop: Shop, request: Request = REQUEST, **options: Any) -> Receipt | Waiting:
    """Erase, with workers that deliver while it waits."""
    return erase(shop.app, request, wait=lambda seconds: shop.deliver(), **options)


def receipt_of(shop: Shop, request: Request = REQUEST) -> Receipt:
    done = erased_by(shop, request)
    assert isinstance(done, Receipt), done
    return done


def held_by_postgresql(shop: Shop) -> dict[str, int]:
    """Every row with the key or the id in any column, by table."""
    tables = shop.pg.conn.execute(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema() "
        "AND table_type = 'BASE TABLE'"
    ).fetchall()
    entity = str(entity_id("product", "p-A-1"))
    found = {}
    for (table,) in tables:
        count = shop.pg.scalar(
            f"SELECT count(*) FROM {table} t WHERE t::text ~ '(\\mA-1\\M|{entity})'"
        )
        if count:
            found[table] = count
    return found


def seeded(shop: Shop) -> None:
    shop.seed()
    shop.deliver()
    assert shop.drift() == {}


def test_an_erased_entity_is_in_no_store(shop: Shop) -> None:
    seeded(shop)
    before = held_by_postgresql(shop)
    assert {"product", "sync_operation", "tag_registry", "review"} <= set(before)
    vectors = shop.pg.scalar("SELECT count(*) FROM embedding")
    done = receipt_of(shop)
    assert all(
        one == {"name": one["name"], "found": [], "not_read": None} for one in done.body["stores"]
    )
    assert {one["name"] for one in done.body["stores"]} == {"neo4j", "pinecone", "postgresql"}
    assert held_by_postgresql(shop) == {}
    assert shop.pg.scalar("SELECT count(*) FROM embedding") == vectors - 1
    graph: Any = shop.app.sink("neo4j")
    assert graph.tombstones(toy.PRODUCT, ["A-1"]) == {}
    assert shop.drift() == {}
    (audit,) = erased.erasures(shop.pg.conn)
    assert (audit.entity, audit.reason, audit.receipt_hash) == (
        "product",
        "asked by mail",
        done.hash,
    )


@pytest.mark.parametrize("point", points.ERASING)
def test_an_erasure_that_is_killed_goes_on(shop: Shop, point: str) -> None:
    seeded(shop)

    def kill(reached: str) -> None:
        if reached == point:
            raise Killed

    with pytest.raises(Killed):
        erased_by(shop, at=kill)
    if point == "completed":
        with pytest.raises(AltsyncError, match="was erased on"):
            erased_by(shop)
    else:
        receipt_of(shop)
    assert held_by_postgresql(shop) == {}
    assert shop.drift() == {}


def test_a_receipt_is_checked_against_every_store(shop: Shop, tmp_path: Path) -> None:
    seeded(shop)
    done = receipt_of(shop)
    file = tmp_path / "receipt.json"
    file.write_text(json.dumps(done.as_json()))
    read = receipts.read(file)
    assert all(one.ok for one in read_stores(shop.app, read.target))
    # A write from a backup brings it back, in a namespace that it never had.
    shop.seed(allow_erased=True)
    shop.deliver()
    found = {one.name: one.found for one in read_stores(shop.app, read.target)}
    assert all(found.values()), found
    file.write_text(json.dumps(done.as_json() | {"reason": "another"}))
    with pytest.raises(AltsyncError, match="the receipt was changed"):
        receipts.read(file)
    file.write_text("{}")
    with pytest.raises(AltsyncError, match="no receipt of altsync erase"):
        receipts.read(file)


def test_a_seed_that_brings_it_back_is_refused_alone(shop: Shop) -> None:
    seeded(shop)
    done = receipt_of(shop)
    assert lines_of(shop.folder, done.target) == [f"{shop.folder}/products/spring.jsonl:1"]
    report = shop.seed()
    refused = [(one.file, one.number, one.field) for one in report.shown]
    assert ("products/spring.jsonl", 1, "sku") in refused
    assert "it was erased on" in report.shown[0].reason
    assert report.total.created == 0
    # The key under another id, too: it is not registered on the way.
    write(shop.folder, "products/spring.jsonl", [{**product("A-1"), "id": "other"}])
    assert shop.seed().total.created == 0
    assert shop.pg.scalar("SELECT count(*) FROM tag_registry WHERE tag = 'A-1'") == 0
    assert held_by_postgresql(shop) == {}


def test_a_seed_may_be_told_to_bring_it_back(shop: Shop) -> None:
    seeded(shop)
    receipt_of(shop)
    assert shop.seed(allow_erased=True, dry_run=True).total.created == 3
    assert shop.seed().total.created == 0
    assert shop.seed(allow_erased=True).total.created >= 1
    assert shop.seed().total.rejected == 0
    shop.deliver()
    assert shop.drift() == {}
    receipt_of(shop)
    assert held_by_postgresql(shop) == {}


def test_a_program_that_brings_it_back_is_refused(shop: Shop) -> None:
    import altsync

    seeded(shop)
    receipt_of(shop)
    fields = {name: value for name, value in product("A-1").items() if name != "id"}
    one = toy.Product(seed_id="p-A-1", **fields)
    shop.pg.conn.autocommit = True
    with shop.pg.conn.transaction():
        with pytest.raises(SaveError, match="allow_erased"):
            altsync.save(shop.pg.conn, one)
        altsync.save(shop.pg.conn, one, allow_erased=True)
    assert shop.pg.scalar("SELECT count(*) FROM product WHERE seed_id = 'p-A-1'") == 1


def test_a_parent_that_others_name_is_not_erased(shop: Shop) -> None:
    seeded(shop)
    with pytest.raises(AltsyncError, match=r"products still name 'acme' in brand"):
        erased_by(shop, replace(REQUEST, entity="brand", name="acme"))
    assert shop.drift() == {}


def test_an_unknown_entity_is_named(shop: Shop) -> None:
    with pytest.raises(AltsyncError, match="there is no product 'nothing'"):
        erased_by(shop, replace(REQUEST, name="nothing"))


def test_an_erasure_waits_for_the_workers(shop: Shop) -> None:
    seeded(shop)
    waiting = erase(shop.app, replace(REQUEST, timeout=0.0))
    assert isinstance(waiting, Waiting)
    assert {one.partition(":")[0] for one in waiting.reasons} >= {"neo4j", "pinecone"}
    receipt_of(shop)


def test_a_call_of_unknown_outcome_is_waited_for(shop: Shop) -> None:
    """A worker's write may land until its lease and its call have ended."""
    seeded(shop)
    shop.pg.conn.execute(
        "UPDATE sync_operation SET outcome_unknown = true, finished_at = now() "
        "WHERE sink = 'neo4j' AND entity_key = 'A-1'"
    )
    waiting = erase(shop.app, replace(REQUEST, timeout=0.5), wait=lambda seconds: shop.deliver())
    assert isinstance(waiting, Waiting)
    assert any("unknown outcome" in one for one in waiting.reasons), waiting
    shop.pg.conn.execute(
        "UPDATE sync_operation SET finished_at = finished_at - interval '1 hour' "
        "WHERE finished_at IS NOT NULL"
    )
    receipt_of(shop)
    assert held_by_postgresql(shop) == {}


def test_a_sink_that_is_down_keeps_it_open(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    seeded(shop)
    sink: Any = shop.app.sink("pinecone")
    real: Callable[..., Any] = sink.find

    def down(*given: Any) -> Any:
        from altsync.errors import SinkFailure
        from altsync.operations import ErrorKind

        raise SinkFailure(ErrorKind.SINK, "no connection")

    monkeypatch.setattr(type(sink), "find", down)
    waiting = erased_by(shop)
    assert waiting == Waiting(("pinecone: no answer: no connection",))
    monkeypatch.setattr(type(sink), "find", lambda self, *given: real(*given))
    receipt_of(shop)


def test_an_operation_that_begins_after_the_wait_keeps_it_open(shop: Shop) -> None:
    seeded(shop)

    def begin_again(reached: str) -> None:
        if reached == "deleted":
            shop.pg.conn.execute(
                "UPDATE sync_operation SET status = 'pending', finished_at = NULL WHERE id = ("
                "SELECT max(id) FROM sync_operation WHERE sink = 'neo4j' AND entity_key = 'A-1')"
            )

    waiting = erased_by(shop, at=begin_again)
    assert isinstance(waiting, Waiting)
    assert shop.pg.scalar("SELECT count(*) FROM product WHERE sku = 'A-1'") == 1
    receipt_of(shop)


def test_texts_about_others_lose_its_names_as_whole_words(shop: Shop) -> None:
    seeded(shop)
    shop.pg.conn.execute(
        "UPDATE sync_operation SET last_error = 'A-1 hides A-10, (A-1) and BA-1' "
        "WHERE entity_key = 'A-3'"
    )
    receipt_of(shop)
    texts = shop.pg.conn.execute("SELECT DISTINCT last_error FROM sync_operation").fetchall()
    assert ("(erased) hides A-10, ((erased)) and BA-1",) in texts


def test_a_vector_whose_text_another_entity_has_stays(shop: Shop) -> None:
    alike = [product("A-1", title="The same"), product("B-1", title="The same")]
    write(shop.folder, "products/spring.jsonl", alike)
    write(shop.folder, "pairs.jsonl", [])
    seeded(shop)
    same = shop.pg.scalar("SELECT count(DISTINCT text_hash) FROM product") == 1
    assert same
    before = shop.pg.scalar("SELECT count(*) FROM embedding")
    receipt_of(shop)
    assert shop.pg.scalar("SELECT count(*) FROM embedding") == before
    assert shop.drift() == {}


def test_files_of_refused_lines_are_named(tmp_path: Path) -> None:
    (tmp_path / "r1").mkdir()
    (tmp_path / "r1" / "rejects.jsonl").write_text('{"raw": "p-A-1"}\n')
    assert refused_lines(tmp_path, ["p-A-1"]) == [str(tmp_path / "r1" / "rejects.jsonl")]
    assert refused_lines(tmp_path, ["p-A-9"]) == []


def test_the_indexes_of_both_models_are_read(
    pg: DatabaseFixture, vectors_server: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    with models_site(pg, vectors_server, monkeypatch) as site:
        site.save(*leagues(5))
        site.deliver()
        site.run("add", NEW, "--yes")
        site.deliver()
        request = Request("league", "l002", None, "test@host")
        done = erase(site.app, request, wait=lambda seconds: site.deliver())
        assert isinstance(done, Receipt)
        names = [one["name"] for one in done.body["stores"]]
        assert names == ["pinecone", "shadow_pinecone", "postgresql"]
        assert site.held(shadow=True) == site.expected(NEW)
        # A vector that another program writes there is found.
        (page,) = site.index(shadow=True).stored(LEAGUE, Reads())
        copy = {"id": "l002", "values": list(page[0].values), "metadata": {"version": 1}}
        index = site.index(shadow=True)._index(LEAGUE)
        index.upsert(vectors=[copy], namespace=page[0].namespace)
        found = {one.name: one.found for one in read_stores(site.app, done.target)}
        assert found["pinecone"] == ()
        assert found["shadow_pinecone"] != ()
