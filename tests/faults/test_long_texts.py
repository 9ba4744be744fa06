"""Texts over the embedding model's limit: one verdict, no paid call, one status in every view."""

from __future__ import annotations

import pytest

from altsync.db import Database
from altsync.records import EMBEDDING
from tests.integration.fakes import FakeEmbedder
from tests.integration.world import World, archetype, delivery, embedding_sink, example, league

#: 9,000 tokens and some.
LONG = "word " * 9000

SMALL = "text-embedding-3-small"


@pytest.fixture(autouse=True)
def _limited(world: World) -> None:
    """A database whose model has a limit that altsync knows."""
    world.conn.execute(
        "UPDATE sink_state SET config = jsonb_set(config, '{model}', to_jsonb(%s::text)) "
        "WHERE sink = 'embedding'",
        (SMALL,),
    )


def embed(database: Database) -> FakeEmbedder:
    """Embed all that is due."""
    embedder = FakeEmbedder()
    delivery(database, embedding_sink(database, embedder)).drain(10)
    return embedder


# --- delivery ----------------------------------------------------------------------------------


def test_a_text_over_the_limit_dies_at_its_first_attempt_without_a_call(
    world: World, database: Database
) -> None:
    world.save(league("long", description=LONG))
    embedder = embed(database)
    assert embedder.requests == []
    dead = world.last(EMBEDDING, "long")
    assert (dead.status, dead.attempts, dead.error_kind) == ("dead", 1, "item")
    assert dead.last_error == (
        f"the text to embed has 9,009 tokens, and {SMALL} takes 8,192: shorten it"
    )


def test_texts_over_the_limit_keep_no_other_text_from_its_vector(
    world: World, database: Database
) -> None:
    """Many in one batch, of every type: the others are embedded in as few calls as ever."""
    world.save(
        *(league(f"long{n}", description=LONG + str(n)) for n in range(5)),
        archetype("team_sport", description=LONG),
        example("long", output_text=LONG),
        *(league(f"short{n}") for n in range(5)),
    )
    embedder = embed(database)
    assert world.counts(EMBEDDING) == {"dead": 7, "synced": 5}
    assert len(embedder.requests) == 1
    assert world.scalar("SELECT state FROM sink_state WHERE sink = 'embedding'") == "closed"


def test_only_texts_over_the_limit_open_no_breaker(world: World, database: Database) -> None:
    """Nothing has passed since, and none of it says anything of the embedder."""
    world.save(*(league(f"long{n}", description=LONG + str(n)) for n in range(20)))
    assert embed(database).requests == []
    assert world.counts(EMBEDDING) == {"dead": 20}
    assert world.scalar("SELECT state FROM sink_state WHERE sink = 'embedding'") == "closed"


def test_a_text_that_is_shortened_is_embedded_and_closes_the_failure(
    world: World, database: Database
) -> None:
    world.save(league("long", description=LONG))
    embed(database)
    world.save(league("long", description="Short."))
    embed(database)
    assert world.counts(EMBEDDING) == {"superseded": 1, "synced": 1}
