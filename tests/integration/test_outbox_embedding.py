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
from tests.integration.database_fixture import (
    EMBEDDER,
    INDEX,
    DatabaseFixture,
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
from tests.integration.fakes import FakeEmbedder, FakeIndex, vector_of

NFL = league("nfl")
WANTED = Model(MODEL, DIMENSIONS)

MODELS: dict[EntityType, type[Entity]] = {
    sports.LEAGUE: catalogue.League,
    sports.SPORT_ARCHETYPE: catalogue.SportArchetype,
    sports.FEW_SHOT_EXAMPLE: catalogue.FewShotExample,
}


def test_an_entity_gets_its_vector(pg: DatabaseFixture, database: Database) -> None:
    """With the hash of its text and the model, and its status."""
    pg.save(NFL)
    embed(database)
    row = pg.row(NFL)
    assert pg.vector(NFL) == vector_of(embedding_text(NFL), WANTED)
    assert (row["embedding_text_hash"], row["embedding_model"]) == (text_hash(NFL), MODEL)
    assert row["embedding_sync_status"] == "synced"
    assert row["embedding_updated_at"] is not None


@pytest.mark.parametrize("content", [NFL, archetype("racing"), example("ask")], ids=type_of)
def test_readers_find_a_vector_on_its_entity(
    pg: DatabaseFixture, database: Database, database_url: str, content: Content
) -> None:
    """Though it is kept once, by what it embeds: in SQL, and as an attribute of the models."""
    pg.save(content)
    assert pg.vector(content) is None
    embed(database)
    wanted = vector_of(embedding_text(content), WANTED)
    assert pg.vector(content) == wanted
    engine = db.engine(database_url)
    with Session(engine) as session:
        entity = session.get_one(MODELS[type_of(content)], id_of(content))
        assert entity.embedding_vector == wanted
    engine.dispose()


def test_the_index_is_asked_in_the_same_transaction(
    pg: DatabaseFixture, database: Database
) -> None:
    """One operation per vector sink, at the version that the entity has."""
    pg.save(NFL, archetype("racing"), example("ask"))
    assert pg.ops("pinecone") == []
    embed(database)
    assert {(op.entity_key, op.status, op.origin) for op in pg.ops("pinecone")} == {
        ("nfl", "pending", "embedding"),
        ("racing", "pending", "embedding"),
        ("ask", "pending", "embedding"),
    }
    assert pg.live("pinecone", "nfl").version == pg.version(NFL)


def test_one_text_is_paid_once(pg: DatabaseFixture, database: Database) -> None:
    """However many entities say it."""
    same: dict[str, Any] = {"league_name": "Premier sports.League"}
    pg.save(*(league(key, **same) for key in ("england", "ghana", "singapore")))
    embedder = embed(database)
    assert sum(embedder.paid.values()) == 1
    assert pg.counts("pinecone") == {"pending": 3}


def test_a_text_that_comes_back_is_not_paid_again(pg: DatabaseFixture, database: Database) -> None:
    """Vectors are kept by what they embed, not by whose they were."""
    embedder = FakeEmbedder()
    for description in ("A", "B", "A", "B", "A"):
        pg.save(league("nfl", description=description))
        embed(database, embedder)
    assert sorted(embedder.paid.values()) == [1, 1]
    assert pg.row(NFL)["embedding_text_hash"] == text_hash(league("nfl", description="A"))


def test_a_change_outside_the_text_keeps_the_paid_vector(
    pg: DatabaseFixture, database: Database
) -> None:
    """Between reading and settling: the vector is stored, the index asked for the newer row."""
    pg.save(NFL)
    newer = league("nfl", tier="TIER1")
    embedder = FakeEmbedder()
    _deliver_embedding(database, embedder, lambda: pg.save(newer))
    assert pg.row(NFL)["embedding_text_hash"] == text_hash(NFL)
    assert pg.live("pinecone", "nfl").version == pg.version(newer)
    embed(database, embedder)
    assert sum(embedder.paid.values()) == 1
    assert _status(pg, NFL) == "synced"


def test_a_text_that_was_edited_meanwhile_takes_nothing(
    pg: DatabaseFixture, database: Database
) -> None:
    """Its own newer operation is live; the charged vector is kept for the same text."""
    pg.save(NFL)
    newer = league("nfl", description="Newer.")
    embedder = FakeEmbedder()
    _deliver_embedding(database, embedder, lambda: pg.save(newer))
    assert pg.vector(NFL) is None
    assert _status(pg, NFL) == "pending"
    assert pg.ops("pinecone") == []
    assert pg.live(EMBEDDING, "nfl").version == pg.version(newer)
    assert pg.scalar("SELECT count(*) FROM embedding") == 1

    embed(database, embedder)
    assert pg.row(NFL)["embedding_text_hash"] == text_hash(newer)
    assert _status(pg, NFL) == "synced"


def test_a_vector_comes_late_for_a_deleted_entity(pg: DatabaseFixture, database: Database) -> None:
    """It is kept, but the entity takes nothing and no sink is asked to write it."""
    pg.save(NFL)
    _deliver_embedding(database, FakeEmbedder(), lambda: pg.delete(NFL))
    assert pg.vector(NFL) is None
    assert pg.live("pinecone", "nfl").action == "delete"
    assert pg.counts(EMBEDDING) == {"synced": 1}


def test_what_waits_to_be_embedded_is_dropped_with_its_entity(
    pg: DatabaseFixture, database: Database
) -> None:
    """Nothing is paid for what is gone."""
    pg.save(NFL)
    pg.delete(NFL)
    assert embed(database).requests == []
    op = pg.last(EMBEDDING, "nfl")
    assert (op.status, op.last_error) == ("superseded", "the row is deleted")


def test_a_lost_lease_does_not_lose_the_vector(pg: DatabaseFixture, database: Database) -> None:
    """The charged vector is committed before settling: the next worker finds it."""
    pg.save(NFL)
    embedder = FakeEmbedder()

    def lose() -> None:
        pg.expire_leases()
        pg.claim(EMBEDDING)

    _deliver_embedding(database, embedder, lose)
    assert pg.vector(NFL) is None
    pg.expire_leases()
    embed(database, embedder)
    assert sum(embedder.paid.values()) == 1
    assert _status(pg, NFL) == "synced"


def test_a_vector_of_another_model_is_not_taken(pg: DatabaseFixture) -> None:
    """Nor one of another length."""
    pg.save(NFL)
    for model, dimensions in (("another", DIMENSIONS), (MODEL, DIMENSIONS + 1)):
        pg.conn.execute(
            "INSERT INTO embedding (model, dimensions, text_hash, vector) VALUES (%s, %s, %s, %s)",
            (model, dimensions, text_hash(NFL), b"\0"),
        )
    token, (op,) = pg.claim(EMBEDDING)
    pg.settle(EMBEDDER, token, [Synced(op, op.version)])
    assert pg.vector(NFL) is None
    assert pg.ops("pinecone") == []


def test_an_entity_embedded_by_another_model_is_embedded_anew(
    pg: DatabaseFixture, database: Database
) -> None:
    """The wanted model is in the database; the next change goes through the embedder."""
    pg.save(NFL)
    embed(database)
    pg.conn.execute(
        'UPDATE sink_state SET config = config || \'{"model": "newer-model"}\' WHERE sink = %s',
        (EMBEDDING,),
    )
    pg.save(league("nfl", tier="TIER1"))
    assert _status(pg, NFL) == "pending"
    embed(database)
    assert pg.row(NFL)["embedding_model"] == "newer-model"


def test_what_is_embedded_by_another_model_waits(pg: DatabaseFixture, database: Database) -> None:
    """The index never gets vectors of two models."""
    pg.save(NFL)
    embed(database)
    pg.conn.execute("UPDATE league SET embedding_model = 'older-model'")
    index = FakeIndex()
    deliver(database, index)
    assert index.calls == []
    op = pg.last("pinecone", "nfl")
    assert (op.status, op.last_error) == ("superseded", "waits for its embedding")


def test_a_dead_embedding_marks_the_entity(pg: DatabaseFixture) -> None:
    """Only the version that failed."""
    pg.save(NFL, example("ask"))
    token, operations = pg.claim(EMBEDDING)
    pg.save(league("nfl", tier="TIER1"))
    pg.settle(
        EMBEDDER, token, [Dead(op, op.version, ErrorKind.ITEM, "refused") for op in operations]
    )
    assert _status(pg, NFL) == "pending"
    assert _status(pg, example("ask")) == "failed"


def test_a_dead_embedding_is_closed_by_a_text_that_needs_none(
    pg: DatabaseFixture, database: Database
) -> None:
    """The text that cannot be embedded is gone, and so is the failure."""
    index = FakeIndex()
    pg.save(NFL)
    embed(database)
    pg.save(league("nfl", description="Refused."))
    _dead_letter(pg)
    pg.save(NFL)
    delivery(database, index).drain(10)
    assert set(pg.statuses(NFL).values()) == {"synced", "pending"}
    assert pg.counts(EMBEDDING) == {"synced": 1, "superseded": 1}


def test_a_vector_of_an_older_text_does_not_close_a_newer_failure(
    pg: DatabaseFixture, database: Database
) -> None:
    """The older text was under way to the index when the newer one was given up on."""
    pg.save(NFL)
    embed(database)
    token, (op,) = pg.claim("pinecone")
    pg.save(league("nfl", description="Refused."))
    _dead_letter(pg)
    pg.settle(INDEX, token, [Synced(op, op.version, "nfl", "default")])
    assert pg.counts(EMBEDDING) == {"synced": 1, "dead": 1}
    assert _status(pg, NFL) == "failed"


def test_a_dead_embedding_is_closed_by_the_deletion(
    pg: DatabaseFixture, database: Database
) -> None:
    """Nothing is left to embed; and a dead operation would keep the row from being purged."""
    pg.save(NFL)
    _dead_letter(pg)
    pg.delete(NFL)
    delivery(database, FakeIndex()).drain(10)
    assert pg.counts(EMBEDDING) == {"superseded": 1}


@pytest.mark.parametrize("content", [NFL, example("ask")], ids=["league", "example"])
def test_a_deleted_and_recreated_entity_is_not_paid_again(
    pg: DatabaseFixture, database: Database, content: sports.League | sports.FewShotExample
) -> None:
    """Its vector stayed with the row."""
    pg.save(content)
    embedder = embed(database)
    pg.delete(content)
    pg.save(content)
    embed(database, embedder)
    assert sum(embedder.paid.values()) == 1
    assert _status(pg, content) == "synced"
    assert pg.live("pinecone", key_of(content)).version == pg.version(content)


def _status(pg: DatabaseFixture, content: sports.League | sports.FewShotExample) -> str:
    return pg.statuses(content)[EMBEDDING]


def _deliver_embedding(database: Database, embedder: FakeEmbedder, meanwhile: Any) -> None:
    """Deliver a batch with something happening between writing and settling."""

    def at(point: str) -> None:
        if point == "written":
            meanwhile()

    delivery(database, embedding_sink(database, embedder), at).deliver_batch()


def _dead_letter(pg: DatabaseFixture) -> None:
    token, operations = pg.claim(EMBEDDING)
    assert operations
    pg.settle(
        EMBEDDER, token, [Dead(op, op.version, ErrorKind.ITEM, "refused") for op in operations]
    )
