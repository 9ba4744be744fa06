"""Guarantees of the embedding sink beyond the contract: every text is paid once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from altsync.contract import Failed, Written
from altsync.db import Database
from altsync.embedding import Embedded
from altsync.entities import Model, Row
from altsync.errors import SinkFailure
from altsync.local.vectors.faults import FaultRule
from altsync.openai_embedder import OpenAIEmbedder
from altsync.operations import ErrorKind
from altsync.projection import embedding_text
from altsync.sinks.embedding.write import Sink
from altsync.store.vectors import EmbeddingCache
from tests import sports
from tests.contract.harness import EmbeddingHarness, FakeVectorStore
from tests.contract.rows import deleted, example, league, vector

MODEL = EmbeddingHarness.model


class CountingEmbedder:
    """Answers a vector made of the text's length, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def embed(self, texts: Sequence[str], model: Model) -> Embedded:
        """One request."""
        self.asked.append(list(texts))
        return Embedded(tuple(vector(len(text)) for text in texts), sum(map(len, texts)))


@pytest.fixture
def sink(embedding: EmbeddingHarness) -> Sink:
    """The sink on the vectors server, its counters at zero."""
    shared = embedding.shared()
    assert isinstance(shared, Sink)
    return shared


def requests(embedding: EmbeddingHarness) -> int:
    """Requests that have reached the embedder."""
    return embedding.server.admin.stats().requests["openai.embeddings"]


# --- what is kept -----------------------------------------------------------------------------


def test_vectors_are_kept_by_their_text(embedding: EmbeddingHarness, sink: Sink) -> None:
    """1,536 numbers of float32 under the hash of what was embedded, for this model."""
    one = league()
    answer = sink.upsert([one], MODEL)
    assert answer.outcomes == (Written(one.id, 10),)
    assert answer.calls == 1
    assert answer.tokens == embedding.server.admin.stats().tokens > 0
    assert embedding.store.vectors.keys() == {(MODEL, one.text_hash)}
    numbers = np.frombuffer(embedding.store.vectors[MODEL, one.text_hash], "<f4")
    assert numbers.shape == (1536,)
    assert np.linalg.norm(numbers) == pytest.approx(1, abs=1e-5)


def test_each_text_gets_its_own_vector(embedding: EmbeddingHarness, sink: Sink) -> None:
    """Also when the answer comes in another order: vectors are matched by their index."""
    rows = [league(f"l{n}", description=f"Text number {n}.") for n in range(5)]
    sink.upsert(rows, MODEL)
    straight = dict(embedding.store.vectors)
    assert len(set(straight.values())) == 5

    embedding.store.vectors.clear()
    embedding.server.admin.set_faults([FaultRule("openai.embeddings", "shuffled")])
    sink.upsert(rows, MODEL)
    assert embedding.store.vectors == straight


def test_a_text_is_paid_once(embedding: EmbeddingHarness, sink: Sink) -> None:
    """The same row again, another version of it, another entity with the same text."""
    sink.upsert([league()], MODEL)
    for again in (league(), league(version=11, tier="TIER2"), league("other_tag", 12)):
        answer = sink.upsert([again], MODEL)
        assert answer.outcomes == (Written(again.id, again.version),)
        assert (answer.calls, answer.tokens) == (0, 0)
    assert requests(embedding) == 1


def test_a_text_that_comes_back_is_not_paid_again(embedding: EmbeddingHarness, sink: Sink) -> None:
    """A, then B, then A: two requests."""
    for version, text in enumerate(["A", "B", "A", "B", "A"], 10):
        sink.upsert([league(version=version, description=text)], MODEL)
    assert requests(embedding) == 2


def test_a_delete_costs_nothing_and_forgets_nothing(
    embedding: EmbeddingHarness, sink: Sink
) -> None:
    """An entity that is created again is not paid again."""
    sink.upsert([league()], MODEL)
    answer = sink.delete([deleted(league(), 11)])
    assert (answer.outcomes, answer.calls) == ((Written(league().id, 11),), 0)
    sink.upsert([league(version=12)], MODEL)
    assert requests(embedding) == 1


def test_models_are_kept_apart(embedding: EmbeddingHarness) -> None:
    """Another model, or another length of it, is another vector of the same text."""
    fake = CountingEmbedder()
    sink = Sink(fake, embedding.store)
    for model in (MODEL, replace(MODEL, name="other"), replace(MODEL, dimensions=4)):
        sink.upsert([league()], model)
        sink.upsert([league()], model)
    assert len(fake.asked) == 3
    assert len(embedding.store.vectors) == 3


def test_a_batch_asks_for_each_text_once(embedding: EmbeddingHarness) -> None:
    """Known texts are left out, equal ones are asked for once, and every row is answered."""
    fake = CountingEmbedder()
    sink = Sink(fake, embedding.store)
    sink.upsert([league("known", description="Known.")], MODEL)
    fake.asked.clear()
    rows = [
        league("known", 11, description="Known."),
        league("a", description="New."),
        league("b", description="New."),
        league("c", description="Newer."),
    ]
    answer = sink.upsert(rows, MODEL)
    assert {outcome.id for outcome in answer.outcomes} == {one.id for one in rows}
    assert all(isinstance(outcome, Written) for outcome in answer.outcomes)
    assert [sorted(asked) for asked in fake.asked] == [
        sorted(
            [
                "Formula 1: Motorsport (racing) in World. New.",
                "Formula 1: Motorsport (racing) in World. Newer.",
            ]
        )
    ]


def test_vectors_are_kept_before_anything_else_can_fail(embedding: EmbeddingHarness) -> None:
    """One request fails: what an earlier one has paid stays, and is not asked for again."""
    fake = CountingEmbedder()
    sink = Sink(fake, embedding.store)
    first, second = league("a", description="First."), league("b", description="Second.")
    sink.upsert([first], MODEL)
    embedding.server.admin.set_faults([FaultRule("openai.embeddings", "status", status=503)])
    with pytest.raises(SinkFailure):
        embedding.shared().upsert([first, second], MODEL)
    assert embedding.store.vectors.keys() == {(MODEL, first.text_hash)}


def test_a_row_of_another_rule_is_told_apart(embedding: EmbeddingHarness) -> None:
    """A release that embeds other texts must not store them under the old hash."""
    fake = CountingEmbedder()
    sink = Sink(fake, embedding.store)
    stale, fine = replace(league("stale"), text_hash="of another rule"), league("fine")
    outcomes = {o.id: o for o in sink.upsert([stale, fine], MODEL).outcomes}
    assert outcomes[fine.id] == Written(fine.id, 10)
    refused = outcomes[stale.id]
    assert isinstance(refused, Failed)
    assert refused.kind is ErrorKind.ITEM
    assert "altsync seed restores the seed's values" in refused.reason
    assert fake.asked == [[embedding_text(fine.content)]]
    assert embedding.store.vectors.keys() == {(MODEL, fine.text_hash)}


# --- requests ---------------------------------------------------------------------------------


def test_what_is_known_goes_first_and_free(embedding: EmbeddingHarness) -> None:
    """Known texts are one part of their own, which needs no request."""
    fake = CountingEmbedder()
    sink = Sink(fake, embedding.store)
    known = [league(f"known_{n}", description="Known.") for n in range(3)]
    sink.upsert(known, MODEL)
    new = [league(f"new_{n}", description=f"New {n}.") for n in range(3)]
    parts = sink.split([new[0], known[0], new[1], known[1], new[2], known[2]], MODEL)
    assert [one.key for one in parts[0]] == ["known_0", "known_1", "known_2"]
    assert sorted(one.key for one in parts[1]) == ["new_0", "new_1", "new_2"]
    assert sink.upsert(parts[0], MODEL).calls == 0


def test_equal_texts_meet_in_one_request(
    embedding: EmbeddingHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However a batch is mixed: requests may be under way at once, and none repeats a text."""
    monkeypatch.setattr("altsync.embedding.MAX_INPUTS", 3)
    rows = [league(f"l{n}", description=f"Text {n % 4}.") for n in range(16)]
    sink = Sink(CountingEmbedder(), embedding.store)
    parts = sink.split(rows, MODEL)
    texts = [{one.text_hash for one in part} for part in parts]
    assert [(len(part), len(one)) for part, one in zip(parts, texts, strict=True)] == [
        (12, 3),
        (4, 1),
    ]
    assert texts[0].isdisjoint(texts[1])


def test_a_batch_is_cut_by_the_providers_limits(embedding: EmbeddingHarness) -> None:
    """2,048 texts, or 300,000 tokens: a text over the model's limit counts as the limit."""
    sink = Sink(CountingEmbedder(), embedding.store)
    short = [example(f"e{n}", input_text=f"text {n}") for n in range(2049)]
    assert [len(part) for part in sink.split(short, MODEL)] == [2048, 1]
    long = [league(f"l{n}", description=f"{n}" + " x" * 9000) for n in range(37)]
    assert [len(part) for part in sink.split(long, MODEL)] == [36, 1]


def test_a_whole_batch_is_one_request(embedding: EmbeddingHarness, sink: Sink) -> None:
    """One batch costs one call."""
    rows = [league(f"l{n}", description=f"Text {n}.") for n in range(500)]
    (part,) = sink.split(rows, MODEL)
    answer = sink.upsert(part, MODEL)
    assert (len(answer.outcomes), answer.calls) == (500, 1)
    assert requests(embedding) == 1
    assert len(embedding.store.vectors) == 500


# --- stores -----------------------------------------------------------------------------------


@pytest.fixture(params=["fake", "postgresql"])
def store(request: pytest.FixtureRequest) -> FakeVectorStore | EmbeddingCache:
    """The store of these tests, and the real one: they must not differ."""
    if request.param == "fake":
        return FakeVectorStore()
    return EmbeddingCache(request.getfixturevalue("database"))


def test_a_store_knows_what_it_was_given(store: FakeVectorStore | EmbeddingCache) -> None:
    """By model and hash; the first vector of a text stays; forgetting is for every model."""
    other = replace(MODEL, name="other")
    store.keep(MODEL, {"a": b"1111", "b": b"2222"})
    store.keep(other, {"a": b"3333"})
    store.keep(MODEL, {"a": b"4444", "c": b"5555"})
    store.keep(MODEL, {})
    assert store.known(MODEL, ["a", "b", "c", "d"]) == {"a", "b", "c"}
    assert store.known(other, ["a", "b"]) == {"a"}
    assert store.known(replace(MODEL, dimensions=4), ["a"]) == set()
    assert store.known(MODEL, []) == set()
    store.forget(["a", "nothing"])
    assert store.known(MODEL, ["a", "b"]) == {"b"}
    assert store.known(other, ["a"]) == set()


def test_the_first_vector_of_a_text_stays(database: Database) -> None:
    """Two workers embedded the same text at once: one vector is kept, whole."""
    cache = EmbeddingCache(database)
    cache.keep(MODEL, {"a": b"1111"})
    cache.keep(MODEL, {"a": b"2222"})
    with database.autocommit() as conn:
        assert conn.execute("SELECT vector FROM embedding").fetchall() == [(b"1111",)]


def test_workers_share_what_was_paid(embedding: EmbeddingHarness, database: Database) -> None:
    """Through PostgreSQL, over processes and restarts: the second sink asks for nothing."""
    rows = [league(f"l{n}", description=f"Text {n}.") for n in range(3)]
    for _ in range(2):
        embedder = OpenAIEmbedder(
            embedding.server.secret, base_url=embedding.server.openai_url, timeout=20.0
        )
        sink = Sink(embedder, EmbeddingCache(database))
        outcomes = sink.upsert(rows, MODEL).outcomes
        assert all(isinstance(outcome, Written) for outcome in outcomes)
        sink.close()
    assert requests(embedding) == 1
    with database.autocommit() as conn:
        found = conn.execute(
            "SELECT text_hash, model, dimensions, length(vector) FROM embedding ORDER BY 1"
        ).fetchall()
    assert found == sorted((one.text_hash, MODEL.name, 1536, 4 * 1536) for one in rows)


def _seeded(database: Database, count: int) -> list[Row]:
    rows = [league(f"l{n:05}", n + 1) for n in range(count)]
    with database.transaction() as conn, conn.cursor() as cursor:
        cursor.executemany(
            """
            INSERT INTO league (id, seed_id, league_tag, league_name, sport_name, sport_archetype,
                                content_hash, text_hash, version)
            VALUES (%s, %s, %s, 'n', 's', 'racing', 'c', %s, %s)
            """,
            [(one.id, one.key, one.key, one.text_hash, one.version) for one in rows],
        )
    return rows


def test_what_entities_have_embedded_is_streamed(database: Database) -> None:
    """Page by page: living entities that have a vector, with its text's hash and its model."""
    rows = _seeded(database, 2300)
    with database.transaction() as conn:
        conn.execute("UPDATE league SET embedding_text_hash = 'h', embedding_model = 'm'")
        conn.execute("UPDATE league SET embedding_text_hash = NULL WHERE version <= 200")
        conn.execute("UPDATE league SET deleted_at = now() WHERE version BETWEEN 201 AND 250")
    sink = Sink(CountingEmbedder(), EmbeddingCache(database))
    found = sorted(sink.versions(sports.LEAGUE), key=lambda one: one.key)
    assert [(one.key, one.version) for one in found] == [
        (one.key, one.version) for one in rows[250:]
    ]
    assert {(one.content_hash, one.model, one.namespace) for one in found} == {("h", "m", None)}
    assert list(sink.versions(sports.SPORT_ARCHETYPE)) == []


def test_no_connection_is_held_between_pages(database: Database) -> None:
    """A slow reader keeps no snapshot open, which would stop vacuum."""
    _seeded(database, 1100)
    with database.transaction() as conn:
        conn.execute("UPDATE league SET embedding_text_hash = 'h', embedding_model = 'm'")
    stream = EmbeddingCache(database).versions(sports.LEAGUE)
    next(stream)
    with database.autocommit() as conn:
        others = conn.execute(
            """
            SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
              AND pid <> pg_backend_pid() AND state <> 'idle' AND backend_type = 'client backend'
            """
        ).fetchone()
    assert others == (0,)
    assert len(list(stream)) == 1099
