"""Operations page by page, and what is known of one entity."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from altsync.db import Database
from altsync.entities import EntityType
from altsync.errors import SinkFailure
from altsync.operations import ErrorKind
from altsync.projection import content_hash, text_hash
from altsync.why.history import OperationRow, RelatedEntity, SinkMark, entity_state, operations
from tests import sports
from tests.conftest import MODEL
from tests.integration.database_fixture import (
    DatabaseFixture,
    archetype,
    deliver,
    embed,
    example,
    id_of,
    league,
    leagues,
)
from tests.integration.fakes import Call, FakeGraph, FakeIndex


def _names(rows: list[OperationRow]) -> list[tuple[str, str]]:
    return [(row.sink, row.entity_key) for row in rows]


def test_operations_come_newest_first(pg: DatabaseFixture) -> None:
    """By id, with every column that people ask for."""
    one, other = league("one"), league("other")
    pg.save(one)
    pg.save(other)
    rows = operations(pg.conn)
    assert _names(rows) == [
        ("neo4j", "other"),
        ("embedding", "other"),
        ("neo4j", "one"),
        ("embedding", "one"),
    ]
    op = pg.live("neo4j", "other")
    created, available = pg.conn.execute(
        "SELECT created_at, available_at FROM sync_operation WHERE id = %s", (op.id,)
    ).fetchall()[0]
    assert rows[0] == OperationRow(
        id=op.id,
        entity_type="league",
        entity_id=id_of(other),
        entity_key="other",
        sink="neo4j",
        action="upsert",
        origin="seed",
        status="pending",
        version=pg.version(other),
        attempts=0,
        error_kind=None,
        last_error=None,
        leased_by=None,
        created_at=created,
        available_at=available,
        finished_at=None,
    )


def test_pages_follow_on_without_gaps(pg: DatabaseFixture, database: Database) -> None:
    """Across live and finished operations alike."""
    pg.save(*leagues(5))
    deliver(database, FakeGraph())
    pages: list[OperationRow] = []
    before = None
    while page := operations(pg.conn, before=before, limit=3):
        assert len(page) <= 3
        pages += page
        before = page[-1].id
    assert [row.id for row in pages] == sorted((op.id for op in pg.ops()), reverse=True)
    assert {row.status for row in pages} == {"pending", "synced"}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (None, {"synced", "dead", "pending"}),
        ("synced", {"synced"}),
        ("dead", {"dead"}),
        ("pending", {"pending"}),
        ("in_progress", set()),
        ("superseded", set()),
    ],
)
def test_operations_by_status(
    pg: DatabaseFixture, database: Database, status: str | None, expected: set[str]
) -> None:
    """Live and finished ones."""
    good, bad = league("good"), league("bad")
    pg.save(good, bad)
    graph = FakeGraph()
    graph.before = _refuse_bad
    deliver(database, graph, max_attempts=1)
    found = operations(pg.conn, status=status)
    assert {row.status for row in found} == expected


def test_operations_by_sink_and_entity(pg: DatabaseFixture, database: Database) -> None:
    """Together, and with the error that one died of."""
    good, bad = league("good"), league("bad")
    pg.save(good, bad)
    graph = FakeGraph()
    graph.before = _refuse_bad
    deliver(database, graph, max_attempts=1)
    (dead,) = operations(pg.conn, sink="neo4j", entity="bad")
    assert (dead.status, dead.error_kind, dead.last_error) == ("dead", "item", "no such thing")
    assert dead.leased_by == "tests"
    assert dead.finished_at is not None
    assert _names(operations(pg.conn, sink="embedding")) == [
        ("embedding", "good"),
        ("embedding", "bad"),
    ] or _names(operations(pg.conn, sink="embedding")) == [
        ("embedding", "bad"),
        ("embedding", "good"),
    ]
    assert operations(pg.conn, sink="nothing") == []
    assert operations(pg.conn, entity="nothing") == []
    assert operations(pg.conn, entity=uuid4()) == []
    assert operations(pg.conn, entity=id_of(bad), sink="neo4j") == [dead]


def test_the_history_of_a_purged_entity_is_found(pg: DatabaseFixture) -> None:
    """By its tag, which the registry keeps, and by its seed id."""
    gone = league("gone")
    pg.save(gone)
    pg.conn.execute("DELETE FROM league")
    pg.conn.execute(
        "INSERT INTO tag_registry (entity_type, seed_id, tag) VALUES ('league', 'gone', 'the_tag')"
    )
    expected = [("neo4j", "gone"), ("embedding", "gone")]
    assert _names(operations(pg.conn, entity="gone")) == expected
    assert _names(operations(pg.conn, entity="the_tag")) == expected
    assert entity_state(pg.conn, "the_tag") is None


def test_a_name_of_two_types_finds_both_histories(pg: DatabaseFixture) -> None:
    """A league may be called as an archetype is."""
    pg.save(archetype("racing"), league("racing"))
    kinds = {row.entity_type for row in operations(pg.conn, entity="racing")}
    assert kinds == {"sport_archetype", "league"}


def test_the_state_of_a_league_that_is_synced(pg: DatabaseFixture, database: Database) -> None:
    """Everything that PostgreSQL knows of it."""
    one = league("one", tier="TIER1", attributes={"founded": 1950})
    pg.save(one)
    embed(database)
    deliver(database, FakeGraph())
    deliver(database, FakeIndex())
    row = pg.row(one)
    state = entity_state(pg.conn, "one")
    assert state is not None
    assert (state.type, state.id, state.key, state.seed_id) == (
        sports.LEAGUE,
        id_of(one),
        "one",
        "one",
    )
    assert (state.version, state.graph_version) == (row["version"], row["graph_version"])
    assert (state.created_at, state.updated_at) == (row["created_at"], row["updated_at"])
    assert state.deleted_at is None
    assert state.content == {
        "league_tag": "one",
        "league_name": "The one",
        "sport_name": "Football",
        "sport_archetype": "team_sport",
        "location": None,
        "tier": "TIER1",
        "status": "active",
        "description": None,
        "attributes": {"founded": 1950},
    }
    assert (state.content_hash, state.text_hash) == (content_hash(one), text_hash(one))
    assert (state.embedding_model, state.embedding_text_hash) == (MODEL, text_hash(one))
    assert state.embedding_updated_at == row["embedding_updated_at"]
    assert state.sinks == {
        "embedding": SinkMark("synced", row["embedding_updated_at"]),
        "neo4j": SinkMark("synced", row["neo4j_synced_at"], "node:one"),
        "pinecone": SinkMark("synced", row["pinecone_synced_at"], "one", "default"),
    }
    assert state.relationships == ()


def test_the_state_of_every_type(pg: DatabaseFixture) -> None:
    """By key, with the columns of its own table."""
    pg.save(archetype("racing"), example("greeting", tags=("a", "b")))
    kind = entity_state(pg.conn, "racing")
    case = entity_state(pg.conn, "greeting")
    assert kind is not None
    assert case is not None
    assert (kind.type, kind.content["code_pattern"]) == (sports.SPORT_ARCHETYPE, "TeamMatch")
    assert (case.type, case.content["tags"]) == (sports.FEW_SHOT_EXAMPLE, ["a", "b"])
    assert case.sinks["pinecone"] == SinkMark("pending")


def test_a_key_goes_before_a_seed_id(pg: DatabaseFixture) -> None:
    """The tag of one league may be the seed id of another; a type narrows it down."""
    pg.save(league("one"), league("other"), archetype("racing"), league("racing"))
    pg.conn.execute("UPDATE league SET league_tag = 'x' WHERE seed_id = 'one'")
    pg.conn.execute("UPDATE league SET league_tag = 'one' WHERE seed_id = 'other'")

    def seed_id(key: str, kind: EntityType | None = None) -> tuple[EntityType, str] | None:
        state = entity_state(pg.conn, key, kind)
        return (state.type, state.seed_id) if state else None

    assert seed_id("one") == (sports.LEAGUE, "other")
    assert seed_id("x") == (sports.LEAGUE, "one")
    assert seed_id("other") == (sports.LEAGUE, "other")
    assert seed_id("racing") == (sports.SPORT_ARCHETYPE, "racing")
    assert seed_id("racing", sports.LEAGUE) == (sports.LEAGUE, "racing")
    assert seed_id("racing", sports.FEW_SHOT_EXAMPLE) is None
    assert seed_id("nothing") is None


def test_a_deleted_entity_says_when(pg: DatabaseFixture) -> None:
    """Its row stays until every sink has confirmed."""
    one = league("one")
    pg.save(one)
    pg.delete(one)
    state = entity_state(pg.conn, "one")
    assert state is not None
    assert state.deleted_at is not None


def test_relationships_show_both_ends(pg: DatabaseFixture) -> None:
    """Outgoing ones first, by type and strength."""
    one, two, three = league("one"), league("two"), league("three")
    pg.save(one, two, three)
    edges: list[tuple[UUID, UUID, str, float | None]] = [
        (id_of(one), id_of(two), "SIMILAR_TO", 0.5),
        (id_of(one), id_of(three), "SIMILAR_TO", 0.75),
        (id_of(one), id_of(two), "COMPETES_WITH", None),
        (id_of(three), id_of(one), "SIMILAR_TO", 0.25),
        (id_of(three), id_of(two), "SIMILAR_TO", 0.125),
    ]
    with pg.conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO league_relationship "
            "(id, source_league_id, target_league_id, relationship_type, strength_score, seed_id) "
            "VALUES (gen_random_uuid(), %s, %s, %s, %s, %s)",
            [(*edge, None if edge[2] == "SIMILAR_TO" else "r1") for edge in edges],
        )
    state = entity_state(pg.conn, "one")
    assert state is not None
    assert state.relationships == (
        RelatedEntity("COMPETES_WITH", "out", "two", "The two", None),
        RelatedEntity("SIMILAR_TO", "out", "three", "The three", 0.75),
        RelatedEntity("SIMILAR_TO", "out", "two", "The two", 0.5),
        RelatedEntity("SIMILAR_TO", "in", "three", "The three", 0.25),
    )
    other = entity_state(pg.conn, "two")
    assert other is not None
    assert replace(other, relationships=()).relationships == ()
    assert {edge.direction for edge in other.relationships} == {"in"}


def _refuse_bad(call: Call) -> None:
    if "bad" in call.keys:
        raise SinkFailure(ErrorKind.ITEM, "no such thing")
