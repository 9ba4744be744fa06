"""The requests of the page, and the actions of its buttons."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from altsync import db, log, redaction
from altsync.app import Application
from altsync.circuit.breaker import open_breaker
from altsync.contract import Usage
from altsync.costs.ledger import Bill, Item
from altsync.db import Database
from altsync.local.ports import is_free
from altsync.local.services.postgres import Postgres
from altsync.operations import Dead, ErrorKind, Settlement
from altsync.outbox.batches import record_batch
from altsync.outbox.claim import release
from altsync.verify.results import save_verification
from tests.dashboard.site import Site, serving, settings_for
from tests.integration.database_fixture import (
    GRAPH,
    DatabaseFixture,
    archetype,
    deliver,
    eventually,
    example,
    id_of,
    league,
    leagues,
)
from tests.integration.fakes import FakeGraph
from tests.integration.few_rights import role_that_lacks

#: Ends ``database.autocommit()`` soon when the server does not answer, in seconds.
SHORT = 1


@pytest.fixture(autouse=True)
def _own_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the password that a test has set."""
    monkeypatch.setattr(redaction, "_secrets", set(redaction._secrets))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A pool for fakes that deliver."""
    pool = Database(database_url)
    yield pool
    pool.close()


def dead_letter(pg: DatabaseFixture, reasons: dict[str, str]) -> None:
    """Give up on the graph's operations of these keys, for these reasons."""
    token, operations = pg.claim("neo4j")
    dead = [
        Dead(op, op.version, ErrorKind.ITEM, reasons[op.entity_key])
        for op in operations
        if op.entity_key in reasons
    ]
    pg.settle(GRAPH, token, dead)
    release(pg.conn, [op.id for op in operations if op.entity_key not in reasons], token)


def record(
    pg: DatabaseFixture, sink: str, seconds_ago: float, seconds: float = 0.2, **work: int
) -> None:
    """Note a batch that ended a while ago."""
    numbers = ("synced", "superseded", "dead", "retried", "lost")
    counts: dict[str, Any] = {name: work.get(name, 0) for name in numbers}
    settlement = Settlement(**counts)
    bill = Bill([Item("seed", Usage(work.get("tokens", 0)), Decimal())])
    claimed = work.get("claimed", sum(work.get(name, 0) for name in numbers))
    record_batch(
        pg.conn,
        sink,
        "w",
        claimed,
        settlement,
        calls=work.get("calls", 1),
        bill=bill,
        seconds=seconds,
    )
    pg.conn.execute(
        "UPDATE delivery_batch SET finished_at = now() - make_interval(secs => %s) "
        "WHERE id = (SELECT max(id) FROM delivery_batch)",
        (seconds_ago,),
    )


def relate(pg: DatabaseFixture, source: str, target: str, kind: str, score: float | None) -> None:
    """Relate two leagues. All kinds but SIMILAR_TO come from a seed line."""
    seed_id = None if kind == "SIMILAR_TO" else f"{source} {kind} {target}"
    pg.conn.execute(
        "INSERT INTO league_relationship (id, seed_id, source_league_id, target_league_id, "
        "relationship_type, strength_score) VALUES (gen_random_uuid(), %s, %s, %s, %s, %s)",
        (seed_id, id_of(league(source)), id_of(league(target)), kind, score),
    )


def test_the_overview_is_the_status_and_more(site: Site, pg: DatabaseFixture) -> None:
    """As ``altsync status --json``, with the work of the last minute."""
    pg.save(*leagues(3), archetype("racing"))
    dead_letter(pg, {"l001": "bad"})
    record(pg, "neo4j", 5, synced=7, calls=2)
    record(pg, "neo4j", 90, synced=100)
    body = site.get("/api/overview").json
    assert body["entities"]["league"]["neo4j"] == {"pending": 2, "synced": 0, "failed": 1}
    assert body["operations"]["neo4j"]["dead"] == 1
    assert body["operations"]["neo4j"]["oldest_pending_seconds"] >= 0
    assert body["at_rest"] is False
    graph = body["sinks"]["neo4j"]
    assert (graph["state"], graph["reason"]) == ("disabled", "NEO4J_URI is not set")
    assert (graph["last_minute"]["synced"], graph["last_minute"]["remote_calls"]) == (7, 2)
    assert body["sinks"]["pinecone"]["last_minute"]["synced"] == 0
    assert body["verify"] is None
    save_verification(pg.conn, seconds=1.0, consistent=True, result={"entities": 4})
    body = site.get("/api/overview").json
    assert (body["verify"]["consistent"], body["verify"]["result"]["entities"]) == (True, 4)


def test_throughput_is_cut_into_slices(site: Site, pg: DatabaseFixture) -> None:
    """The last slice is the present one; sinks without work are all zeros."""
    record(pg, "neo4j", 0, synced=4, calls=1)
    record(pg, "neo4j", 0, synced=2, retried=1, calls=3)
    record(pg, "embedding", 600, synced=9, tokens=90)
    record(pg, "embedding", 86_400, synced=1000)
    body = site.get("/api/throughput", window="1h").json
    assert (body["step"], body["slices"]) == (60, 60)
    synced = {s: [w["synced"] for w in works] for s, works in body["sinks"].items()}
    assert {sink: len(values) for sink, values in synced.items()} == dict.fromkeys(
        site.app.topology.names, 60
    )
    # A minute may have begun since.
    assert sum(synced["neo4j"][-2:]) == 6
    assert sum(synced["embedding"]) == 9
    assert sum(synced["embedding"][48:51]) == 9
    assert sum(w["tokens"] for w in body["sinks"]["embedding"]) == 90
    assert set(synced["pinecone"]) == {0}


@pytest.mark.parametrize("window", ["15m", "1h", "6h", "24h", "7d"])
def test_every_span_ends_now(site: Site, pg: DatabaseFixture, window: str) -> None:
    """And holds what has just been done."""
    record(pg, "neo4j", 0, synced=1)
    body = site.get("/api/throughput", window=window).json
    assert sum(w["synced"] for w in body["sinks"]["neo4j"]) == 1


def test_a_group_is_tried_again(site: Site, pg: DatabaseFixture) -> None:
    """All operations with the error, no others; twice does no harm."""
    pg.save(*leagues(4))
    dead_letter(pg, {"l000": "bad", "l001": "bad", "l002": "worse"})
    groups = {g["reason"]: g for g in site.get("/api/failures").json["groups"]}
    assert {reason: g["count"] for reason, g in groups.items()} == {"bad": 2, "worse": 1}
    assert groups["bad"]["samples"] == [
        {"entity_type": "league", "key": key} for key in ("l000", "l001")
    ]
    what = {"sink": "neo4j", "group": groups["bad"]["group"]}
    assert site.post("/api/retry", what).json == {"retried": 2, "due": 2}
    assert site.post("/api/retry", what).json == {"retried": 0, "due": 0}
    assert {op.entity_key: op.status for op in pg.ops("neo4j") if op.origin == "retry"} == {
        "l000": "pending",
        "l001": "pending",
    }
    (left,) = site.get("/api/failures").json["groups"]
    assert left["reason"] == "worse"


def test_many_errors_are_counted_and_the_most_frequent_are_listed(
    site: Site, pg: DatabaseFixture
) -> None:
    """Errors of which each is another one, as where a sink repeats the text that it refuses."""
    letters = "abcdefghijklmnop"
    words = [one + other for one in letters for other in letters[:8]]
    pg.save(*leagues(len(words) + 1))
    reasons = {f"l{number:03}": f"{word} is bad" for number, word in enumerate(words)}
    dead_letter(pg, {**reasons, f"l{len(words):03}": "pd is bad"})
    found = site.get("/api/failures").json
    assert (len(found["groups"]), found["all_groups"], found["operations"]) == (100, 128, 129)
    assert [group["count"] for group in found["groups"]] == [2] + [1] * 99
    assert found["groups"][0]["sample_reason"] == "pd is bad"


def test_one_entity_of_a_group_is_tried_again(site: Site, pg: DatabaseFixture) -> None:
    """And nothing else by that key in another table."""
    pg.save(league("racing"), archetype("racing"), league("other"))
    dead_letter(pg, {"racing": "bad", "other": "bad"})
    (group,) = site.get("/api/failures").json["groups"]
    what = {"sink": "neo4j", "group": group["group"], "key": "racing", "entity_type": "league"}
    assert site.post("/api/retry", what).json == {"retried": 1, "due": 1}
    (left,) = site.get("/api/failures").json["groups"]
    assert {(s["entity_type"], s["key"]) for s in left["samples"]} == {
        ("sport_archetype", "racing"),
        ("league", "other"),
    }


def test_an_entity_is_tried_again_whatever_its_errors(site: Site, pg: DatabaseFixture) -> None:
    """By its key and type."""
    pg.save(league("a"), league("b"))
    dead_letter(pg, {"a": "bad", "b": "bad"})
    answer = site.post("/api/retry", {"key": "a", "entity_type": "league"})
    assert answer.json == {"retried": 1, "due": 1}
    assert pg.last("neo4j", "b").status == "dead"


def test_more_than_a_page_of_a_group_is_tried_again(
    site: Site, pg: DatabaseFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Page by page, each in a transaction of its own."""
    monkeypatch.setattr("altsync.dashboard.api.PAGE", 3)
    pg.save(*leagues(7))
    dead_letter(pg, {f"l00{n}": "bad" for n in range(7)})
    (group,) = site.get("/api/failures").json["groups"]
    answer = site.post("/api/retry", {"sink": "neo4j", "group": group["group"]})
    assert answer.json == {"retried": 7, "due": 7}


def test_secrets_never_appear(site: Site, pg: DatabaseFixture) -> None:
    """Not in an error, a key or content; what is shown redacted can still be tried again."""
    log.protect(["hunter22"])
    pg.save(league("l_hunter22", description="call bolt://neo4j:topsecret@graph"))
    dead_letter(pg, {"l_hunter22": "no route to bolt://neo4j:other33@graph with hunter22"})
    for path in ("/api/failures", "/api/operations", "/api/entity?key=l_hunter22"):
        text = site.get(path).text
        assert "***" in text
        assert not any(secret in text for secret in ("hunter22", "topsecret", "other33"))
    (group,) = site.get("/api/failures").json["groups"]
    answer = site.post("/api/retry", {"sink": "neo4j", "group": group["group"]})
    assert answer.json == {"retried": 1, "due": 1}


def test_operations_are_filtered_and_paged(site: Site, pg: DatabaseFixture) -> None:
    """The newest first; the next page begins below the last one."""
    pg.save(*leagues(5))
    dead_letter(pg, {"l003": "bad"})

    def keys(**query: Any) -> list[tuple[str, str]]:
        found = site.get("/api/operations", **query).json["operations"]
        return [(op["sink"], op["entity_key"]) for op in found]

    everything = keys(limit=100)
    assert len(everything) == 10
    assert keys(status="dead") == [("neo4j", "l003")]
    assert keys(key="l001", sink="embedding") == [("embedding", "l001")]
    first = site.get("/api/operations", limit=4).json["operations"]
    rest = keys(limit=100, before=first[-1]["id"])
    assert [(op["sink"], op["entity_key"]) for op in first] + rest == everything
    for wrong in ("0", "-1", "x", "1e3", str(2**63)):
        assert site.get("/api/operations", before=wrong).status == 400
    wrong_sink = site.get("/api/operations", sink="neo4jj")
    assert wrong_sink.status == 400
    assert wrong_sink.json["error"].endswith("did you mean 'neo4j'?")
    pg.conn.execute("UPDATE sync_operation SET sink = 'former' WHERE status = 'dead'")
    assert keys(sink="former") == [("former", "l003")]


def test_an_entity_with_its_history(site: Site, pg: DatabaseFixture, database: Database) -> None:
    """Row, operations, and the version that each sink confirmed last."""
    pg.save(league("a"))
    deliver(database, FakeGraph())
    first = pg.version(league("a"))
    pg.save(league("a", description="changed"))
    body = site.get("/api/entity", key="a", type="league").json
    assert body["state"]["content"]["description"] == "changed"
    assert body["state"]["version"] == pg.version(league("a"))
    assert body["confirmed"] == {"embedding": None, "neo4j": first, "pinecone": None}
    assert [op["status"] for op in body["operations"]] == ["pending", "synced", "pending"]
    unknown = site.get("/api/entity", key="unknown").json
    assert (unknown["state"], unknown["operations"]) == (None, [])


def test_the_stores_are_asked(site: Site, pg: DatabaseFixture) -> None:
    """Stores that are switched off are shown so, without contents."""
    pg.save(league("a"))
    body = site.get("/api/stores", key="a").json
    assert {check["store"]: check["agrees"] for check in body["checks"]}["neo4j"] is None
    assert body["held"] == {"neo4j": [], "pinecone": []}
    assert any("NEO4J_URI is not set" in check["detail"] for check in body["checks"])
    assert site.get("/api/stores", key="unknown").status == 400


def test_a_search_without_a_store_says_what_is_missing(site: Site) -> None:
    """The setting's name."""
    answer = site.post("/api/search", {"entity": "league", "text": "cars"})
    assert (answer.status, "PINECONE_API_KEY" in answer.json["error"]) == (502, True)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"entity": "league", "text": " "}, "say what to look for"),
        ({"text": "cars"}, "entity is missing"),
        ({"entity": "leagu", "text": "cars"}, "did you mean 'league'?"),
        ({"entity": "league", "text": "cars", "where": ["tier"]}, "where must be an object"),
        ({"entity": "league", "text": "cars", "where": {"tier": 1}}, "tier must be text"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(
    site: Site, body: dict[str, object], said: str
) -> None:
    answer = site.post("/api/search", body)
    assert answer.status == 400
    assert said in answer.json["error"]


def test_the_session_names_the_types_of_the_catalogue(site: Site) -> None:
    types = {one["type"]: one for one in site.get("/api/session").json["types"]}
    assert list(types) == ["sport_archetype", "league", "few_shot_example"]
    assert types["league"] == {
        "type": "league",
        "one": "league",
        "many": "leagues",
        "name_field": "league_name",
        "key_field": "league_tag",
        "filters": ["sport_name", "sport_archetype", "location", "tier", "status"],
        "relations": ["SIMILAR_TO", "COMPETES_WITH", "SAME_ARCHETYPE"],
        "within": "sport_archetype",
    }
    assert types["few_shot_example"]["relations"] == []


def test_the_graph_around_a_league(site: Site, pg: DatabaseFixture) -> None:
    """Related leagues in either direction, and the edges between them."""
    pg.save(*(league(key) for key in "abcde"), league("gone"))
    for source, target, kind, score in (
        ("a", "b", "SIMILAR_TO", 0.9),
        ("c", "a", "COMPETES_WITH", 0.5),
        ("b", "c", "SAME_ARCHETYPE", None),
        ("d", "e", "SIMILAR_TO", 0.8),
        ("a", "gone", "SIMILAR_TO", 0.99),
    ):
        relate(pg, source, target, kind, score)
    pg.delete(league("gone"))
    body = site.get("/api/graph", entity="league", key="a").json
    assert body["centre"]["name"] == "The a"
    assert [one["key"] for one in body["neighbours"]] == ["b", "c"]
    assert [(e["source"], e["target"], e["kind"], e["score"]) for e in body["edges"]] == [
        ("a", "b", "SIMILAR_TO", 0.9),
        ("c", "a", "COMPETES_WITH", 0.5),
        ("b", "c", "SAME_ARCHETYPE", None),
    ]
    assert site.get("/api/graph", entity="league", key="unknown").status == 400
    assert site.get("/api/graph", entity="few_shot_example", key="a").status == 400


def test_choices_are_what_is_there(site: Site, pg: DatabaseFixture) -> None:
    """Of living leagues alone."""
    pg.save(league("a", tier="TIER1"), league("b", status="inactive"), example("x"))
    body = site.get("/api/choices", entity="league").json
    assert body == {
        "sport_name": ["Football"],
        "sport_archetype": ["team_sport"],
        "location": [],
        "tier": ["TIER1"],
        "status": ["active", "inactive"],
    }
    assert site.get("/api/choices").status == 400


def test_a_field_with_too_many_values_is_typed_and_not_chosen(
    site: Site, pg: DatabaseFixture
) -> None:
    pg.save(*(league(f"l{n}", location=f"Place {n}") for n in range(51)))
    assert site.get("/api/choices", entity="league").json["location"] is None


def test_ready_says_which_sinks_stand_still(site: Site, pg: DatabaseFixture) -> None:
    """They do not make it unready."""
    answer = site.get("/readyz")
    assert (answer.status, answer.json["ready"]) == (200, True)
    assert answer.json["sinks"]["neo4j"] == {"state": "disabled", "reason": "NEO4J_URI is not set"}


def test_ready_says_that_a_breaker_is_open(database_url: str, pg: DatabaseFixture) -> None:
    """With its reason, redacted."""
    app = Application(settings_for(database_url, neo4j_uri="bolt://127.0.0.1:1"))
    reason = "no route to bolt://a:secret99@b"
    open_breaker(pg.conn, "neo4j", uuid4(), reason, 60)
    with serving(app) as site:
        sink = site.get("/readyz").json["sinks"]["neo4j"]
    app.close()
    assert sink == {"state": "open", "reason": "no route to bolt://a:***@b"}


def test_not_ready_before_the_migration(empty_database_url: str) -> None:
    """And the JSON says what to do."""
    app = Application(settings_for(empty_database_url))
    with serving(app) as site:
        ready, overview, alive = (site.get(p) for p in ("/readyz", "/api/overview", "/healthz"))
    app.close()
    assert (ready.status, "altsync migrate" in ready.json["database"]) == (503, True)
    assert (overview.status, "altsync migrate" in overview.json["error"]) == (503, True)
    assert alive.status == 200


def test_not_ready_without_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is up, and says so; the password in the URL is not shown."""
    monkeypatch.setattr(db, "CONNECT_TIMEOUT", SHORT)
    app = Application(settings_for("postgresql://me:topsecret@127.0.0.1:1/none"))
    with serving(app) as site:
        paths = ("/healthz", "/readyz", "/metrics", "/api/overview")
        with ThreadPoolExecutor(len(paths)) as pool:
            alive, ready, metrics, overview = pool.map(site.get, paths)
    app.close()
    assert (alive.status, ready.status, metrics.status, overview.status) == (200, 503, 200, 503)
    assert "altsync_database_up 0.0" in metrics.text
    assert "topsecret" not in ready.text + overview.text + metrics.text


def test_the_server_ends_when_told(app: Application) -> None:
    """The thread that serves is gone; the port is free."""
    with serving(app) as site:
        port = int(site.host.split(":")[1])
    eventually(lambda: is_free(port, "127.0.0.1"))


def test_a_sink_is_paused_and_resumed(site: Site, pg: DatabaseFixture) -> None:
    """Shown though it is switched off here; twice changes nothing."""
    first = site.post("/api/pause", {"sink": "neo4j", "reason": "moving"}).json
    assert first == {"sink": "neo4j", "paused": True}
    assert site.post("/api/pause", {"sink": "neo4j"}).json["paused"] is False
    shown = site.get("/api/overview").json["sinks"]["neo4j"]
    assert shown["state"] == "paused"
    assert shown["reason"].startswith("by dashboard@")
    assert site.get("/readyz").json["sinks"]["neo4j"]["state"] == "paused"
    assert site.post("/api/resume", {"sink": "neo4j"}).json == {"sink": "neo4j", "resumed": True}
    assert site.post("/api/resume", {"sink": "neo4j"}).json["resumed"] is False


def test_a_right_that_is_missing_is_named(postgres: Postgres, pg: DatabaseFixture) -> None:
    with role_that_lacks(postgres, pg.url, "to write") as role:
        app = Application(settings_for(role.url))
        with serving(app) as site:
            assert site.get("/api/overview").status == 200
            answer = site.post("/api/pause", {"sink": "neo4j"})
        app.close()
    assert answer.status == 403
    assert answer.json["error"] == (
        "permission denied for table sink_state: GRANT SELECT, INSERT, UPDATE, DELETE ON "
        f'sink_state TO "{role.name}"'
    )


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/api/pause", {}, "no sink ''"),
        ("/api/pause", {"sink": "oracle"}, "no sink 'oracle'; there are"),
        ("/api/resume", {"sink": ["neo4j"]}, "sink must be text"),
        ("/api/discard", {"why": "gone"}, "say what to discard"),
        ("/api/discard", {"key": "nfl"}, "say why"),
        ("/api/discard", {"key": "nfl", "why": " "}, "say why"),
    ],
)
def test_what_makes_no_sense_is_refused(
    site: Site, path: str, body: dict[str, Any], said: str
) -> None:
    """With a sentence."""
    answer = site.post(path, body)
    assert answer.status == 400
    assert said in answer.json["error"]


def test_a_group_is_discarded(site: Site, pg: DatabaseFixture) -> None:
    """Errors that differ by numbers are one group; other groups stay."""
    pg.save(*leagues(3))
    dead_letter(pg, {"l000": "410 bytes", "l001": "7000 bytes", "l002": "locked"})
    group = next(g for g in site.get("/api/failures").json["groups"] if g["count"] == 2)
    assert group["reason"] == "… bytes"
    what = {"sink": "neo4j", "group": group["group"], "why": "never"}
    assert site.post("/api/discard", what).json == {"discarded": 2}
    assert site.post("/api/discard", what).json == {"discarded": 0}
    assert pg.counts("neo4j") == {"dead": 1, "discarded": 2}
    (one, two) = site.get("/api/operations", status="discarded").json["operations"]
    assert {one["discarded_why"], two["discarded_why"]} == {"never"}
    assert one["discarded_by"].startswith("dashboard@")
