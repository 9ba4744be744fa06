"""Settling embeddings: entities get their vectors, and what waited for them is woken."""

from __future__ import annotations

from typing import Any

import pytest
from sqlmodel import Session

from altsports import catalogue
from altsync import Entity, db
from altsync.contract import EMBEDDING
from altsync.db import Database
from altsync.entities import Content, EntityType, Model
from altsync.operations import Dead, ErrorKind, Synced
from altsync.projection import embedding_text, text_hash
from tests import sports
from tests.conftest import DIMENSIONS, MODEL
from tests.integration.fakes import FakeEmbedder, FakeIndex, vector_of
from tests.integration.world import (
    EMBEDDER,
    INDEX,
    World,
    archetype,
    deliver,
    delivery,
    embed,
    embedding_sink,
    example,
    id_of,
    key_of,
    league,
    type_of,
)

NFL = league("nfl")
WANTED = Model(MODEL, DIMENSIONS)

MODELS: dict[EntityType, type[Entity]] = {
    sports.LEAGUE: catalogue.League,
    sports.SPORT_ARCHETYPE: catalogue.SportArchetype,
    sports.FEW_SHOT_EXAMPLE: catalogue.FewShotExample,
}


def test_an_entity_gets_its_vector(world: World, database: Database) -> None:
    """With the hash of its text and the model, and its status."""
    world.save(NFL)
    embed(database)
    row = world.row(NFL)
    assert world.vector(NFL) == vector_of(embedding_text(NFL), WANTED)
    assert (row["embedding_text_hash"], row["embedding_model"]) == (text_hash(NFL), MODEL)
    assert row["embedding_sync_status"] == "synced"
    assert row["embedding_updated_at"] is not None


@pytest.mark.parametrize("content", [NFL, archetype("racing"), example("ask")], ids=type_of)
def test_readers_find_a_vector_on_its_entity(
    world: World, database: Database, database_url: str, content: Content
) -> None:
    """Though it is kept once, by what it embeds: in SQL, and as an attribute of the models."""
    world.save(content)
    assert world.vector(content) is None
    embed(database)
    wanted = vector_of(embedding_text(content), WANTED)
    assert world.vector(content) == wanted
    engine = db.engine(database_url)
    with Session(engine) as session:
        entity = session.get_one(MODELS[type_of(content)], id_of(content))
        assert entity.embedding_vector == wanted
    engine.dispose()


def test_the_index_is_asked_in_the_same_transaction(world: World, database: Database) -> None:
    """One operation per vector sink, at the version that the entity has."""
    world.save(NFL, archetype("racing"), example("ask"))
    assert world.ops("pinecone") == []
    embed(database)
    assert {(op.entity_key, op.status, op.origin) for op in world.ops("pinecone")} == {
        ("nfl", "pending", "embedding"),
        ("racing", "pending", "embedding"),
        ("ask", "pending", "embedding"),
    }
    assert world.live("pinecone", "nfl").version == world.version(NFL)


def test_one_text_is_paid_once(world: World, database: Database) -> None:
    """However many entities say it."""
    same: dict[str, Any] = {"league_name": "Premier sports.League"}
    world.save(*(league(key, **same) for key in ("england", "ghana", "singapore")))
    embedder = embed(database)
    assert sum(embedder.paid.values()) == 1
    assert world.counts("pinecone") == {"pending": 3}


def test_a_text_that_comes_back_is_not_paid_again(world: World, database: Database) -> None:
    """Vectors are kept by what they embed, not by whose they were."""
    embedder = FakeEmbedder()
    for description in ("A", "B", "A", "B", "A"):
        world.save(league("nfl", description=description))
        embed(database, embedder)
    assert sorted(embedder.paid.values()) == [1, 1]
    assert world.row(NFL)["embedding_text_hash"] == text_hash(league("nfl", description="A"))


def test_a_change_outside_the_text_keeps_the_paid_vector(world: World, database: Database) -> None:
    """Between reading and settling: the vector is stored, the index asked for the newer row."""
    world.save(NFL)
    newer = league("nfl", tier="TIER1")
    embedder = FakeEmbedder()
    _deliver_embedding(database, embedder, lambda: world.save(newer))
    assert world.row(NFL)["embedding_text_hash"] == text_hash(NFL)
    assert world.live("pinecone", "nfl").version == world.version(newer)
    embed(database, embedder)
    assert sum(embedder.paid.values()) == 1
    assert _status(world, NFL) == "synced"


def test_a_text_that_was_edited_meanwhile_takes_nothing(world: World, database: Database) -> None:
    """Its own newer operation is under way; what was paid is kept for whoever says it again."""
    world.save(NFL)
    newer = league("nfl", description="Newer.")
    embedder = FakeEmbedder()
    _deliver_embedding(database, embedder, lambda: world.save(newer))
    assert world.vector(NFL) is None
    assert _status(world, NFL) == "pending"
    assert world.ops("pinecone") == []
    assert world.live(EMBEDDING, "nfl").version == world.version(newer)
    assert world.scalar("SELECT count(*) FROM embedding") == 1

    embed(database, embedder)
    assert world.row(NFL)["embedding_text_hash"] == text_hash(newer)
    assert _status(world, NFL) == "synced"


def test_a_vector_comes_late_for_a_deleted_entity(world: World, database: Database) -> None:
    """It is kept, but the entity takes nothing and no sink is asked to write it."""
    world.save(NFL)
    _deliver_embedding(database, FakeEmbedder(), lambda: world.delete(NFL))
    assert world.vector(NFL) is None
    assert world.live("pinecone", "nfl").action == "delete"
    assert world.counts(EMBEDDING) == {"synced": 1}


def test_what_waits_to_be_embedded_is_dropped_with_its_entity(
    world: World, database: Database
) -> None:
    """Nothing is paid for what is gone."""
    world.save(NFL)
    world.delete(NFL)
    assert embed(database).requests == []
    op = world.last(EMBEDDING, "nfl")
    assert (op.status, op.last_error) == ("superseded", "the row is deleted")


def test_a_lost_lease_does_not_lose_the_vector(world: World, database: Database) -> None:
    """What was paid is committed before settling: the next worker finds it."""
    world.save(NFL)
    embedder = FakeEmbedder()

    def lose() -> None:
        world.end_leases()
        world.claim(EMBEDDING)

    _deliver_embedding(database, embedder, lose)
    assert world.vector(NFL) is None
    world.end_leases()
    embed(database, embedder)
    assert sum(embedder.paid.values()) == 1
    assert _status(world, NFL) == "synced"


def test_a_vector_of_another_model_is_not_taken(world: World) -> None:
    """Nor one of another length."""
    world.save(NFL)
    for model, dimensions in (("another", DIMENSIONS), (MODEL, DIMENSIONS + 1)):
        world.conn.execute(
            "INSERT INTO embedding (model, dimensions, text_hash, vector) VALUES (%s, %s, %s, %s)",
            (model, dimensions, text_hash(NFL), b"\0"),
        )
    token, (op,) = world.claim(EMBEDDING)
    world.settle(EMBEDDER, token, [Synced(op, op.version)])
    assert world.vector(NFL) is None
    assert world.ops("pinecone") == []


def test_an_entity_embedded_by_another_model_is_embedded_anew(
    world: World, database: Database
) -> None:
    """What is wanted is said by the database; the next change goes through the embedder."""
    world.save(NFL)
    embed(database)
    world.conn.execute(
        'UPDATE sink_state SET config = config || \'{"model": "newer-model"}\' WHERE sink = %s',
        (EMBEDDING,),
    )
    world.save(league("nfl", tier="TIER1"))
    assert _status(world, NFL) == "pending"
    embed(database)
    assert world.row(NFL)["embedding_model"] == "newer-model"


def test_what_is_embedded_by_another_model_waits(world: World, database: Database) -> None:
    """The index never gets vectors of two models."""
    world.save(NFL)
    embed(database)
    world.conn.execute("UPDATE league SET embedding_model = 'older-model'")
    index = FakeIndex()
    deliver(database, index)
    assert index.calls == []
    op = world.last("pinecone", "nfl")
    assert (op.status, op.last_error) == ("superseded", "waits for its embedding")


def test_a_dead_embedding_marks_the_entity(world: World) -> None:
    """Only the version that failed."""
    world.save(NFL, example("ask"))
    token, operations = world.claim(EMBEDDING)
    world.save(league("nfl", tier="TIER1"))
    world.settle(
        EMBEDDER, token, [Dead(op, op.version, ErrorKind.ITEM, "refused") for op in operations]
    )
    assert _status(world, NFL) == "pending"
    assert _status(world, example("ask")) == "failed"


def test_a_dead_embedding_is_closed_by_a_text_that_needs_none(
    world: World, database: Database
) -> None:
    """The text that nobody can embed is gone, and so is the failure."""
    index = FakeIndex()
    world.save(NFL)
    embed(database)
    world.save(league("nfl", description="Refused."))
    _bury(world)
    world.save(NFL)
    delivery(database, index).drain(10)
    assert set(world.statuses(NFL).values()) == {"synced", "pending"}
    assert world.counts(EMBEDDING) == {"synced": 1, "superseded": 1}


def test_a_vector_of_an_older_text_does_not_close_a_newer_failure(
    world: World, database: Database
) -> None:
    """The older text was under way to the index when the newer one was given up on."""
    world.save(NFL)
    embed(database)
    token, (op,) = world.claim("pinecone")
    world.save(league("nfl", description="Refused."))
    _bury(world)
    world.settle(INDEX, token, [Synced(op, op.version, "nfl", "default")])
    assert world.counts(EMBEDDING) == {"synced": 1, "dead": 1}
    assert _status(world, NFL) == "failed"


def test_a_dead_embedding_is_closed_by_the_deletion(world: World, database: Database) -> None:
    """Nothing is left to embed; and a dead operation would keep the row from being purged."""
    world.save(NFL)
    _bury(world)
    world.delete(NFL)
    delivery(database, FakeIndex()).drain(10)
    assert world.counts(EMBEDDING) == {"superseded": 1}


@pytest.mark.parametrize("content", [NFL, example("ask")], ids=["league", "example"])
def test_a_deleted_and_recreated_entity_is_not_paid_again(
    world: World, database: Database, content: sports.League | sports.FewShotExample
) -> None:
    """Its vector stayed with the row."""
    world.save(content)
    embedder = embed(database)
    world.delete(content)
    world.save(content)
    embed(database, embedder)
    assert sum(embedder.paid.values()) == 1
    assert _status(world, content) == "synced"
    assert world.live("pinecone", key_of(content)).version == world.version(content)


def _status(world: World, content: sports.League | sports.FewShotExample) -> str:
    return world.statuses(content)[EMBEDDING]


def _deliver_embedding(database: Database, embedder: FakeEmbedder, meanwhile: Any) -> None:
    """Deliver a batch with something happening between writing and settling."""

    def at(point: str) -> None:
        if point == "written":
            meanwhile()

    delivery(database, embedding_sink(database, embedder), at).deliver_batch()


def _bury(world: World) -> None:
    token, operations = world.claim(EMBEDDING)
    assert operations
    world.settle(
        EMBEDDER, token, [Dead(op, op.version, ErrorKind.ITEM, "refused") for op in operations]
    )
