"""Guarantees of the pgvector sink beyond the contract."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import psycopg
import pytest

from altsync.contract import AlreadyNewer, Failed, Installation, Written
from altsync.entities import Model, Row
from altsync.errors import SinkFailure
from altsync.local.services.postgres import Postgres
from altsync.operations import ErrorKind
from altsync.ownership import NotOurs, Ownership
from altsync.protocols import Held, Match, Reads
from altsync.sinks.pgvector import client, read, tables, write
from altsync.sinks.pgvector.client import translate
from altsync.sinks.pgvector.tables import table_name, table_names
from altsync.sinks.pgvector.write import Sink, sent_bytes
from tests import sports
from tests.contract.harness import TIMEOUT, PgvectorHarness
from tests.contract.rows import MODEL, archetype, deleted, example, league, vector
from tests.proxy import Proxy, proxy

LEAGUE = sports.LEAGUE
LEAGUES = table_names("")[LEAGUE]

#: Seconds of a call that is meant to run out of time.
SHORT = 1.5


@pytest.fixture
def sink(pgvector: PgvectorHarness) -> Sink:
    """The sink of the harness, set up."""
    shared = pgvector.shared()
    assert isinstance(shared, Sink)
    shared.setup()
    return shared


@pytest.fixture
def opened() -> Iterator[Callable[[Sink], Sink]]:
    """Closes what a test opens."""
    with ExitStack() as stack:

        def close_later(one: Sink) -> Sink:
            stack.callback(one.close)
            return one

        yield close_later


Opened = Callable[[Sink], Sink]


def failure_of(call: Callable[[], object]) -> SinkFailure:
    """The failure that a call ends with."""
    with pytest.raises(SinkFailure) as caught:
        call()
    return caught.value


def floats(*numbers: float) -> bytes:
    """Numbers as PostgreSQL's rows hold a vector."""
    return np.array(numbers, "<f4").tobytes()


# --- tables -----------------------------------------------------------------------------------


def test_setting_up_makes_one_table_for_each_type(pgvector: PgvectorHarness) -> None:
    pgvector.wipe()
    sink = pgvector.open()
    sink.setup()
    sink.close()
    assert set(pgvector.tables()) == {
        "altsports_archetypes_vectors",
        "altsports_leagues_vectors",
        "altsports_examples_vectors",
        "altsync_pgvector_installation",
    }
    (definition,) = pgvector.ask(
        "SELECT indexdef FROM pg_indexes WHERE indexname = 'altsports_leagues_vectors_embedding'"
    )[0]
    assert "USING hnsw (embedding halfvec_cosine_ops)" in definition


@pytest.mark.parametrize("call", ["upsert", "delete"])
def test_a_table_that_was_dropped_is_made_again(
    pgvector: PgvectorHarness, sink: Sink, call: str
) -> None:
    """One call fails at most, and it is the sink's failure."""
    sink.upsert([league()], MODEL)
    pgvector.wipe()
    failures = []
    for again in (call, "upsert", "upsert"):
        try:
            row = league(version=11)
            sink.delete([deleted(row, 10)]) if again == "delete" else sink.upsert([row], MODEL)
        except SinkFailure as failure:
            failures.append(failure.kind)
    assert failures in ([], [ErrorKind.SINK])
    assert [one.version for one in sink.versions(LEAGUE)] == [11]


def test_reads_make_no_table(pgvector: PgvectorHarness, opened: Opened) -> None:
    pgvector.wipe()
    sink = opened(pgvector.open())
    assert list(sink.versions(LEAGUE)) == []
    assert sink.find(LEAGUE, "a") is None
    assert sink.nearest(LEAGUE, vector(1), top_k=3, space="default") == []
    assert sink.count(LEAGUE, Reads()) == 0
    assert sink.digest(LEAGUE, 7) == {}
    assert sink.tombstones(LEAGUE, ["a"]) == {}
    sink.forget_tombstones()
    assert pgvector.tables() == []


def test_names_fit_into_postgresql_and_differ() -> None:
    """Also those that PostgreSQL would cut to the same name."""
    assert table_name("staging", "altsports-leagues-vectors") == "staging_altsports_leagues_vectors"
    long = [table_name("p" * 24, f"{'x' * 45}-{end}-vectors") for end in "ab"]
    assert long[0] != long[1]
    assert all(len(f"{name}_namespace") <= 63 for name in long)


def test_two_prefixes_share_a_database(pgvector: PgvectorHarness, opened: Opened) -> None:
    pgvector.wipe()
    one, other = (
        opened(Sink(pgvector.url, timeout=TIMEOUT, dimensions=4, prefix=prefix))
        for prefix in ("blue", "green")
    )
    one.upsert([league()], MODEL)
    assert list(other.versions(LEAGUE)) == []
    assert [held.key for held in one.versions(LEAGUE)] == ["formula_1"]
    pgvector.wipe()


def test_the_extension_may_be_in_another_schema(pgvector: PgvectorHarness, opened: Opened) -> None:
    """As providers have it; and altsync's tables in one that the address names."""
    pgvector.wipe()
    pgvector.ask_as_superuser("CREATE SCHEMA extensions")
    pgvector.ask_as_superuser("GRANT USAGE ON SCHEMA extensions TO altsync")
    pgvector.ask_as_superuser("ALTER EXTENSION vector SET SCHEMA extensions")
    pgvector.ask("CREATE SCHEMA mine")
    try:
        sink = opened(pgvector.open_at(f"{pgvector.url}?schema=mine"))
        sink.setup()
        sink.upsert([league()], MODEL)
        found = sink.nearest(LEAGUE, vector(10), top_k=1, space="default")
        assert [match.key for match in found] == ["formula_1"]
        (count,) = pgvector.ask("SELECT count(*) FROM mine.altsports_leagues_vectors")[0]
        assert count == 1
    finally:
        pgvector.ask("DROP SCHEMA mine CASCADE")
        pgvector.ask_as_superuser("ALTER EXTENSION vector SET SCHEMA public")
        pgvector.ask_as_superuser("DROP SCHEMA extensions")


def test_vectors_of_32_bits_come_back_as_they_were(
    pgvector: PgvectorHarness, opened: Opened
) -> None:
    pgvector.wipe()
    sink = opened(pgvector.open_at(pgvector.url, kind="vector"))
    sink.setup()
    sink.upsert([league()], MODEL)
    (one,) = sink.fetch(LEAGUE, "default", ["formula_1"], Reads())
    assert np.asarray(one.values, "<f4").tobytes() == league().vector
    pgvector.wipe()


def test_vectors_of_16_bits_come_back_rounded(sink: Sink) -> None:
    sink.upsert([league()], MODEL)
    (one,) = sink.fetch(LEAGUE, "default", ["formula_1"], Reads())
    wanted = np.frombuffer(league().vector or b"", "<f4").astype(np.float16)
    assert np.array_equal(np.asarray(one.values, np.float16), wanted)


# --- stores that cannot hold what altsync writes ----------------------------------------------


def test_a_table_of_other_dimensions_is_refused_with_what_to_do(
    pgvector: PgvectorHarness, opened: Opened
) -> None:
    """At set-up and at a write; the other types go on."""
    pgvector.wipe()
    opened(pgvector.open()).setup()
    pgvector.ask(f"ALTER TABLE {LEAGUES} ALTER embedding TYPE halfvec(5)")
    sink = opened(pgvector.open())
    for call in (sink.setup, lambda: sink.upsert([league()], MODEL)):
        failure = failure_of(call)
        assert (failure.kind, failure.only) == (ErrorKind.SINK, frozenset({LEAGUE}))
        assert "5 dimensions where altsync needs 4" in failure.reason
        assert "ALTSYNC_EMBEDDING_DIMENSIONS" in failure.reason
        assert "altsync backfill --sink pgvector --force" in failure.reason
    assert isinstance(sink.upsert([archetype()], MODEL).outcomes[0], Written)
    pgvector.wipe()


def test_a_table_of_the_other_type_is_refused_with_the_setting(
    pgvector: PgvectorHarness, sink: Sink, opened: Opened
) -> None:
    other = opened(pgvector.open_at(pgvector.url, kind="vector"))
    failure = failure_of(other.setup)
    assert failure.kind is ErrorKind.SINK
    assert "vectors of type halfvec where altsync needs vector" in failure.reason
    assert "ALTSYNC_PGVECTOR_TYPE" in failure.reason


def test_a_table_of_something_else_is_refused(pgvector: PgvectorHarness, opened: Opened) -> None:
    pgvector.wipe()
    pgvector.ask(f"CREATE TABLE {LEAGUES} (key text, mine int)")
    sink = opened(pgvector.open())
    failure = failure_of(lambda: sink.upsert([league()], MODEL))
    assert failure.kind is ErrorKind.SINK
    assert "lacks the columns namespace, version" in failure.reason
    pgvector.wipe()


def test_more_dimensions_than_an_index_takes_are_refused_before_a_table_is_made(
    pgvector: PgvectorHarness, opened: Opened
) -> None:
    pgvector.wipe()
    wide = Sink(pgvector.url, timeout=TIMEOUT, dimensions=3072, kind="vector")
    failure = failure_of(opened(wide).setup)
    assert failure.kind is ErrorKind.SINK
    assert "at most 2,000 dimensions of vector" in failure.reason
    assert "ALTSYNC_PGVECTOR_TYPE=halfvec" in failure.reason
    assert pgvector.tables() == []
    with psycopg.connect(pgvector.url) as conn, pytest.raises(psycopg.Error, match="2000 dim"):
        conn.execute("CREATE TABLE t (v vector(2001))")
        conn.execute("CREATE INDEX ON t USING hnsw (v vector_cosine_ops)")


def test_the_most_dimensions_of_each_type_can_be_indexed(
    pgvector: PgvectorHarness, opened: Opened
) -> None:
    for kind, dimensions in tables.MOST_DIMENSIONS.items():
        pgvector.wipe()
        opened(Sink(pgvector.url, timeout=TIMEOUT, dimensions=dimensions, kind=kind)).setup()
    pgvector.wipe()


def test_a_role_that_may_not_create_the_extension_gets_the_command(
    pgvector: PgvectorHarness, opened: Opened
) -> None:
    pgvector.wipe()
    pgvector.ask_as_superuser("DROP EXTENSION vector")
    try:
        sink = opened(pgvector.open())
        failure = failure_of(sink.setup)
        assert (failure.kind, failure.outcome_unknown) == (ErrorKind.SINK, False)
        assert "the role altsync may not create it: run CREATE EXTENSION vector" in failure.reason
        assert failure_of(lambda: sink.upsert([league()], MODEL)).kind is ErrorKind.SINK
    finally:
        pgvector.ask_as_superuser("CREATE EXTENSION vector")
    assert isinstance(sink.upsert([league()], MODEL).outcomes[0], Written)


def test_a_pgvector_that_is_too_old_is_refused_with_the_command(
    pgvector: PgvectorHarness, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "OLDEST", (99, 0))
    failure = failure_of(opened(pgvector.open()).setup)
    assert failure.kind is ErrorKind.SINK
    assert "needs 99.0 or later" in failure.reason
    assert "ALTER EXTENSION vector UPDATE" in failure.reason


def test_a_role_without_rights_gets_the_grant(pgvector: PgvectorHarness, opened: Opened) -> None:
    """It may neither create tables nor write to those that exist."""
    opened(pgvector.open()).setup()
    pgvector.ask_as_superuser("CREATE ROLE reader LOGIN PASSWORD 'reader'")
    address = pgvector.url.rpartition("@")[2]
    reader = opened(pgvector.open_at(f"postgresql://reader:reader@{address}"))
    try:
        failure = failure_of(lambda: reader.upsert([league()], MODEL))
        assert (failure.kind, failure.outcome_unknown) == (ErrorKind.SINK, False)
        assert "GRANT SELECT, INSERT, UPDATE, DELETE ON" in failure.reason
        pgvector.wipe()
        reader = opened(pgvector.open_at(f"postgresql://reader:reader@{address}"))
        failure = failure_of(lambda: reader.upsert([league()], MODEL))
        assert 'GRANT USAGE, CREATE ON SCHEMA public TO "reader"' in failure.reason
    finally:
        pgvector.ask_as_superuser("DROP ROLE reader")


def test_a_process_with_other_dimensions_than_the_model_is_refused(sink: Sink) -> None:
    """Its settings are older than the model that the database wants: no record is at fault."""
    failure = failure_of(lambda: sink.upsert([league()], Model(MODEL.name, 8)))
    assert failure.kind is ErrorKind.SINK
    assert "ALTSYNC_EMBEDDING_DIMENSIONS" in failure.reason


# --- records ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (replace(league("wide"), vector=vector(1, 5)), "5 dimensions"),
        (replace(league("none"), vector=None), "0 dimensions"),
        (replace(league("zero"), vector=floats(0, 0, 0, 0)), "no direction"),
        (replace(league("nan"), vector=b"\0\0\xc0\x7f" * 4), "no direction"),
    ],
    ids=lambda value: value.key if isinstance(value, Row) else "",
)
def test_a_vector_that_cannot_be_found_again_fails_alone(sink: Sink, bad: Row, said: str) -> None:
    outcomes = sink.upsert([league("fine"), bad], MODEL).outcomes
    assert isinstance(outcomes[0], Written)
    assert isinstance(outcomes[1], Failed)
    assert (outcomes[1].id, outcomes[1].kind, outcomes[1].final) == (bad.id, ErrorKind.ITEM, True)
    assert said in outcomes[1].reason
    assert [one.key for one in sink.versions(LEAGUE)] == ["fine"]


def test_a_number_too_large_for_16_bits_is_the_records_fault(sink: Sink) -> None:
    bad = replace(league("huge"), vector=floats(1e6, 1, 1, 1))
    failure = failure_of(lambda: sink.upsert([league("fine"), bad], MODEL))
    assert (failure.kind, failure.outcome_unknown) == (ErrorKind.ITEM, False)
    assert list(sink.versions(LEAGUE)) == []


def test_a_changed_namespace_takes_the_vector_along(sink: Sink) -> None:
    sink.upsert([example()], MODEL)
    sink.upsert([example(version=11, category="other")], MODEL)
    assert [(one.key, one.namespace) for one in sink.versions(sports.FEW_SHOT_EXAMPLE)] == [
        ("triage_001", "other")
    ]


def test_a_batch_is_cut_by_count_and_by_bytes(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [league(f"l{n:03}") for n in range(250)]
    assert [len(part) for part in sink.split(rows, MODEL)] == [100, 100, 50]
    size = sent_bytes(rows[0], MODEL)
    monkeypatch.setattr(write, "MAX_BYTES", 10 * size)
    assert [len(part) for part in sink.split(rows[:25], MODEL)] == [10, 10, 5]


def test_a_change_beside_the_vector_leaves_the_graph_of_neighbours_alone(
    pgvector: PgvectorHarness, sink: Sink
) -> None:
    """PostgreSQL counts such an update as heap-only: no index gets a new entry."""
    pgvector.ask_as_superuser("SELECT pg_stat_reset()")
    writer = pgvector.open()
    writer.upsert([league()], MODEL)
    changed = replace(league(version=11, tier="TIER2"), vector=league().vector)
    writer.upsert([changed], MODEL)
    writer.close()  # a session that ends reports what it has counted
    updates = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = %s"
    found = [(0, 0)]
    while found == [(0, 0)]:
        found = pgvector.ask(updates, LEAGUES)
    assert found == [(1, 1)]


# --- queries ----------------------------------------------------------------------------------


def test_the_nearest_come_first_with_what_they_carry(sink: Sink) -> None:
    numbers = {"same": (1, 0, 0, 0), "near": (1, 1, 0, 0), "far": (0, 0, 1, 0)}
    for tag, values in numbers.items():
        tier = "TIER2" if tag == "near" else "TIER1"
        sink.upsert([replace(league(tag, tier=tier), vector=floats(*values))], MODEL)
    ask = floats(2, 0, 0, 0)
    found = sink.nearest(LEAGUE, ask, top_k=2, space="default")
    assert [match.key for match in found] == ["same", "near"]
    assert [match.score for match in found] == pytest.approx([1.0, 0.7071068], abs=1e-3)
    assert all(isinstance(match, Match) for match in found)
    assert found[0].metadata["league_name"] == "Formula 1"
    assert (found[0].metadata["version"], found[0].metadata["model"]) == (10, MODEL.name)
    bare = sink.nearest(LEAGUE, ask, top_k=1, space="default", with_metadata=False)
    assert bare[0].metadata == {}
    assert sink.nearest(LEAGUE, ask, top_k=5, space="elsewhere") == []


@pytest.mark.parametrize(
    ("where", "keys"),
    [
        ({}, ["a", "b", "c"]),
        ({"category": "one"}, ["a", "b"]),
        ({"category": {"$eq": "one"}}, ["a", "b"]),
        ({"category": {"$in": ["two", "three"]}}, ["c"]),
        ({"category": {"$in": []}}, []),
        ({"tags": "x"}, ["a", "c"]),
        ({"tags": {"$in": ["y", "z"]}}, ["b", "c"]),
        ({"category": "one", "tags": "x"}, ["a"]),
        ({"$and": [{"category": "one"}, {"tags": {"$eq": "y"}}]}, ["b"]),
        ({"model": MODEL.name}, ["a", "b", "c"]),
        ({"model": "another"}, []),
        ({"version": 12}, ["c"]),
        ({"missing": "x"}, []),
        ({"category": "one' OR true --"}, []),
        ({'category" OR true --': "x"}, []),
    ],
)
def test_filters_mean_what_they_mean_to_pinecone(
    sink: Sink, monkeypatch: pytest.MonkeyPatch, where: dict[str, Any], keys: list[str]
) -> None:
    monkeypatch.setattr(write, "namespace", lambda row: "here")
    rows = [
        example("a", 10, category="one", tags=("x",)),
        example("b", 11, category="one", tags=("y",)),
        example("c", 12, category="two", tags=("x", "z")),
    ]
    sink.upsert(rows, MODEL)
    found = sink.nearest(sports.FEW_SHOT_EXAMPLE, vector(1), top_k=9, space="here", where=where)
    assert sorted(match.key for match in found) == keys


@pytest.mark.parametrize("where", [{"tier": {"$gt": 1}}, {"$or": []}, {"$nor": [{}]}])
def test_an_unknown_operator_is_refused_and_not_ignored(sink: Sink, where: Any) -> None:
    failure = failure_of(
        lambda: sink.nearest(LEAGUE, vector(1), top_k=1, space="default", where=where)
    )
    assert failure.kind is ErrorKind.ITEM


Many = tuple[PgvectorHarness, Sink, np.ndarray]


@pytest.fixture(scope="module")
def thousands(postgres: Postgres) -> Iterator[Many]:
    """3,000 leagues of 32 dimensions, of 300 tiers, analyzed; the vectors are normal at random."""
    harness = PgvectorHarness(postgres, 32)
    sink = harness.open(timeout=60.0)
    numbers = np.random.default_rng(3).normal(size=(3000, 32)).astype("<f4")
    numbers /= np.linalg.norm(numbers, axis=1, keepdims=True)
    rows = [
        replace(league(f"l{n:04}", 10 + n, tier=f"T{n % 300}"), vector=numbers[n].tobytes())
        for n in range(len(numbers))
    ]
    model = Model(MODEL.name, 32)
    for part in sink.split(rows, model):
        sink.upsert(part, model)
    harness.ask(f"ANALYZE {LEAGUES}")
    yield harness, sink, numbers
    sink.close()


def test_a_search_by_the_graph_finds_nearly_all_of_the_nearest(
    thousands: Many,
) -> None:
    harness, sink, numbers = thousands
    plan = harness.ask(
        f"EXPLAIN SELECT key FROM {LEAGUES} WHERE deleted_at IS NULL "
        f"AND namespace = 'default' ORDER BY embedding <=> '{numbers[0].tolist()}' LIMIT 10"
    )
    assert f"{LEAGUES}_embedding" in str(plan)
    hits = 0
    for n in range(0, 200, 4):
        found = sink.nearest(LEAGUE, numbers[n].tobytes(), top_k=10, space="default")
        wanted = np.argsort(-(numbers @ numbers[n]))[:10]
        hits += len({match.key for match in found} & {f"l{i:04}" for i in wanted})
        scores = [match.score for match in found]
        assert scores == sorted(scores, reverse=True)
    assert hits >= 0.97 * 500


def test_a_rare_filter_loses_no_neighbour(thousands: Many, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the HNSW graph ends early, the table is searched without it."""
    _, sink, numbers = thousands
    monkeypatch.setattr(read, "SCANNED", 1)
    for tier in range(0, 300, 30):
        ask = numbers[tier + 1]
        found = sink.nearest(
            LEAGUE, ask.tobytes(), top_k=10, space="default", where={"tier": f"T{tier}"}
        )
        own = np.arange(tier, len(numbers), 300)
        wanted = own[np.argsort(-(numbers[own] @ ask))]
        assert {match.key for match in found} == {f"l{i:04}" for i in wanted}


def test_more_neighbours_than_the_graph_keeps_are_found(
    thousands: Many,
) -> None:
    _, sink, numbers = thousands
    found = sink.nearest(LEAGUE, numbers[0].tobytes(), top_k=3000, space="default")
    assert len({match.key for match in found}) == 3000


def test_a_row_is_shown_as_it_is_stored(sink: Sink) -> None:
    sink.upsert([example()], MODEL)
    held = sink.find(sports.FEW_SHOT_EXAMPLE, "triage_001")
    assert held == Held(
        index="altsports_examples_vectors",
        namespace="triage",
        key="triage_001",
        version=10,
        model=MODEL.name,
        content_hash=example().content_hash,
        dimensions=4,
        metadata={
            "category": "triage",
            "sport_archetype": "racing",
            "tags": ["routing", "contracts"],
        },
    )
    assert sink.find(sports.FEW_SHOT_EXAMPLE, "triage_001", "triage") == held
    assert sink.find(sports.FEW_SHOT_EXAMPLE, "triage_001", "elsewhere") is None


# --- what a comparison reads ------------------------------------------------------------------

CHANGES = [
    "DELETE FROM {t} WHERE key = 'a'",
    "UPDATE {t} SET version = 11 WHERE key = 'a'",
    "UPDATE {t} SET version = 17 WHERE key = 'a'",
    "UPDATE {t} SET version = -4 WHERE key = 'a'",
    "UPDATE {t} SET key = 'b' WHERE key = 'a'",
    "UPDATE {t} SET content_hash = 'x' WHERE key = 'a'",
    "UPDATE {t} SET content_hash = NULL WHERE key = 'a'",
    "UPDATE {t} SET model = 'x' WHERE key = 'a'",
    "UPDATE {t} SET namespace = 'x' WHERE key = 'a'",
    "UPDATE {t} SET embedding = NULL, deleted_at = now() WHERE key = 'a'",
    "INSERT INTO {t} SELECT 'g', namespace, 9, model, content_hash, metadata, embedding FROM {t} "
    "WHERE key = 'a'",
    "UPDATE {t} SET content_hash = (SELECT content_hash FROM {t} o WHERE o.key <> {t}.key)",
]


@pytest.mark.parametrize("change", CHANGES)
def test_every_difference_shows_in_the_digest(
    pgvector: PgvectorHarness, sink: Sink, change: str
) -> None:
    sink.upsert([league("a", 10), league("z", 10 + 7, description="Other.")], MODEL)
    before = sink.digest(LEAGUE, 7)
    assert sink.digest(LEAGUE, 7) == before
    pgvector.ask(change.format(t=LEAGUES))
    assert sink.digest(LEAGUE, 7) != before


def test_large_versions_do_not_overflow(sink: Sink) -> None:
    sink.upsert([league(f"l{n}", 2**63 - 1 - n) for n in range(40)], MODEL)
    assert sum(count for facts in sink.digest(LEAGUE, 7).values() for count, _ in facts) == 40


def test_buckets_are_listed_by_pages(
    pgvector: PgvectorHarness, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    pgvector.small_pages(monkeypatch, 3)
    sink.upsert([league(f"l{n:02}", 100 + n) for n in range(20)], MODEL)
    reads = Reads()
    pages = list(sink.stored(LEAGUE, reads, modulus=7, buckets=[2, 4]))
    wanted = [f"l{n:02}" for n in range(20) if (100 + n) % 7 in (2, 4)]
    assert [one.key for page in pages for one in page] == wanted
    assert max(map(len, pages)) == 3
    assert reads.requests == len(pages) + (len(pages[-1]) == 3)


def test_rows_are_read_by_their_keys(sink: Sink) -> None:
    sink.upsert([league("a"), league("b")], MODEL)
    sink.delete([deleted(league("b"), 11)])
    found = sink.rows(LEAGUE, ["a", "b", "unknown"])
    assert set(found) == {"a"}
    assert (found["a"].version, found["a"].metadata["tier"]) == (10, "TIER1")
    assert found["a"].is_ours
    assert sink.tombstones(LEAGUE, ["a", "b", "unknown"]) == {"b": 11}


# --- versions and tombstones ------------------------------------------------------------------


def test_removal_stops_at_newer_rows_and_is_remembered(sink: Sink) -> None:
    sink.upsert([league("a", 10), league("b", 30)], MODEL)
    sink.remove(LEAGUE, ["a", "b"], 20)
    assert set(sink.rows(LEAGUE, ["a", "b"])) == {"b"}
    assert sink.upsert([league("a", 15)], MODEL).outcomes == (AlreadyNewer(league("a").id, 20),)
    assert isinstance(sink.upsert([league("a", 21)], MODEL).outcomes[0], Written)


@pytest.mark.parametrize("version", [10**18, 2**63 - 1])
def test_an_invalid_version_refuses_writes_until_it_is_reset(
    pgvector: PgvectorHarness, sink: Sink, version: int
) -> None:
    sink.upsert([league("living", 7)], MODEL)
    sink.delete([deleted(league("gone"), 7)])
    pgvector.ask(f"UPDATE {LEAGUES} SET version = %s", version)
    rows = [league("living", 8), league("gone", 8)]
    assert [type(one) for one in sink.upsert(rows, MODEL).outcomes] == [AlreadyNewer] * 2
    sink.reset_versions(LEAGUE, ["another"], 1000)
    assert [type(one) for one in sink.upsert(rows, MODEL).outcomes] == [AlreadyNewer] * 2
    sink.reset_versions(LEAGUE, ["living", "gone"], 1000)
    assert [type(one) for one in sink.upsert(rows, MODEL).outcomes] == [Written] * 2


def test_valid_versions_are_not_reset(sink: Sink) -> None:
    sink.upsert([league("living", 1000)], MODEL)
    sink.delete([deleted(league("gone"), 1000)])
    sink.reset_versions(LEAGUE, ["living", "gone"], 1000)
    rows = [league("living", 999), league("gone", 999)]
    assert [type(one) for one in sink.upsert(rows, MODEL).outcomes] == [AlreadyNewer] * 2


def test_a_tombstone_is_forgotten_after_a_day_and_not_before(
    pgvector: PgvectorHarness, sink: Sink
) -> None:
    sink.delete([deleted(league(key), 20) for key in ("old", "new")])
    sink.upsert([league("living")], MODEL)
    pgvector.ask(
        f"UPDATE {LEAGUES} SET deleted_at = now() - interval '24 hours 1 second' WHERE key = 'old'"
    )
    sink.forget_tombstones()
    assert sink.tombstones(LEAGUE, ["old", "new"]) == {"new": 20}
    assert set(sink.rows(LEAGUE, ["living"])) == {"living"}


def test_a_tombstone_holds_nothing_of_the_entity(pgvector: PgvectorHarness, sink: Sink) -> None:
    """A deleted row keeps only its key and version."""
    sink.upsert([league()], MODEL)
    sink.delete([deleted(league(), 11)])
    (found,) = pgvector.ask(f"SELECT to_jsonb(t) FROM {LEAGUES} t")
    one = found[0]
    assert (one["key"], one["version"], one["namespace"]) == ("formula_1", 11, "")
    names = ("embedding", "metadata", "model", "content_hash")
    assert {one[name] for name in names} == {None}, json.dumps(one)


# --- whose tables -----------------------------------------------------------------------------

ME = Installation("one", "2026-01-01T00:00:00Z", "mine", "1")
OTHER = Installation("two", "2026-01-02T00:00:00Z", "theirs", "2")


def belonging(sink: Sink, owner: Installation, known: bool = True) -> Sink:
    """The sink of an installation that has had every key, or none."""
    sink.belong_to(Ownership(lambda: owner, lambda kind, keys: set(keys) if known else set()))
    return sink


def test_tables_of_another_installation_are_refused_until_they_are_adopted(
    pgvector: PgvectorHarness, opened: Opened
) -> None:
    pgvector.wipe()
    mine = belonging(opened(pgvector.open()), ME)
    mine.setup()
    mine.upsert([league()], MODEL)
    theirs = belonging(opened(pgvector.open()), OTHER)
    calls: list[Callable[[], object]] = [
        theirs.setup,
        theirs.check_owner,
        lambda: theirs.upsert([league(version=11)], MODEL),
        lambda: theirs.delete([deleted(league(), 11)]),
        lambda: theirs.remove(LEAGUE, ["formula_1"], 11),
        lambda: theirs.reset_versions(LEAGUE, ["formula_1"], 1),
        theirs.forget_tombstones,
    ]
    for call in calls:
        failure = failure_of(call)
        assert isinstance(failure, NotOurs)
        assert "altsync adopt --sink pgvector" in failure.reason
    assert [one.version for one in mine.versions(LEAGUE)] == [10]
    assert theirs.adopt() == [ME]
    assert isinstance(theirs.upsert([league(version=11)], MODEL).outcomes[0], Written)
    pgvector.wipe()


def test_unmarked_tables_with_unknown_records_are_refused(
    pgvector: PgvectorHarness, opened: Opened
) -> None:
    pgvector.wipe()
    opened(pgvector.open()).upsert([league("theirs")], MODEL)
    stranger = belonging(opened(pgvector.open()), ME, known=False)
    failure = failure_of(lambda: stranger.upsert([league()], MODEL))
    assert isinstance(failure, NotOurs)
    assert "theirs" in failure.reason
    pgvector.wipe()


# --- failures ---------------------------------------------------------------------------------


@pytest.fixture
def relay(pgvector: PgvectorHarness) -> Iterator[Proxy]:
    """A relay in front of the server."""
    host, _, port = pgvector.url.rpartition("@")[2].partition("/")[0].partition(":")
    with proxy(host, int(port)) as running:
        yield running


def _through(pgvector: PgvectorHarness, relay: Proxy) -> Sink:
    login, _, place = pgvector.url.rpartition("@")
    return pgvector.open_at(f"{login}@127.0.0.1:{relay.port}/{place.partition('/')[2]}")


def test_a_server_that_falls_silent_ends_the_call_in_time(
    pgvector: PgvectorHarness, sink: Sink, relay: Proxy, opened: Opened
) -> None:
    """Afterwards the same sink works again."""
    through = opened(_through(pgvector, relay))
    through.upsert([league()], MODEL)
    relay.stalled = True
    through._timeout = SHORT
    failure = failure_of(lambda: through.upsert([league(version=11)], MODEL))
    assert (failure.kind, failure.outcome_unknown, failure.timed_out) == (
        ErrorKind.SINK,
        True,
        True,
    )
    relay.cut()
    relay.stalled = False
    through._timeout = TIMEOUT
    through.upsert([league(version=12)], MODEL)
    assert [one.version for one in through.versions(LEAGUE)] == [12]


def test_an_answer_that_trickles_ends_in_time(
    pgvector: PgvectorHarness, sink: Sink, relay: Proxy, opened: Opened
) -> None:
    through = opened(_through(pgvector, relay))
    through.upsert([league(f"l{n}") for n in range(50)], MODEL)
    relay.bytes_per_second = 50
    through._timeout = SHORT
    failure = failure_of(lambda: list(through.versions(LEAGUE)))
    assert (failure.kind, failure.timed_out) == (ErrorKind.SINK, True)


def test_a_server_that_hangs_up_leaves_the_outcome_unknown_and_counts_no_timeout(
    pgvector: PgvectorHarness, sink: Sink, relay: Proxy, opened: Opened
) -> None:
    through = opened(_through(pgvector, relay))
    through.upsert([league()], MODEL)
    relay.cuts_on_request = True
    failure = failure_of(lambda: through.upsert([league(version=11)], MODEL))
    assert (failure.kind, failure.outcome_unknown, failure.timed_out) == (
        ErrorKind.SINK,
        True,
        False,
    )
    relay.cuts_on_request = False
    through.upsert([league(version=12)], MODEL)
    assert [one.version for one in through.versions(LEAGUE)] == [12]


def test_idle_connections_that_were_cut_fail_no_call(
    pgvector: PgvectorHarness,
    sink: Sink,
    relay: Proxy,
    opened: Opened,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "FRESH_SECONDS", 0.0)
    through = opened(_through(pgvector, relay))
    through.upsert([league()], MODEL)
    relay.cut()
    assert isinstance(through.upsert([league(version=11)], MODEL).outcomes[0], Written)


def test_a_lock_that_is_not_released_is_the_sinks_and_nothing_was_written(
    pgvector: PgvectorHarness, sink: Sink, opened: Opened
) -> None:
    """PostgreSQL ends the statement; the guard of a later write sees the old version."""
    short = opened(pgvector.open())
    short.upsert([league()], MODEL)
    with psycopg.connect(pgvector.url) as holder:
        holder.execute(f"UPDATE {LEAGUES} SET version = version WHERE key = 'formula_1'")
        short._timeout = SHORT
        failure = failure_of(lambda: short.upsert([league(version=11)], MODEL))
        holder.rollback()
    assert (failure.kind, failure.timed_out) == (ErrorKind.SINK, True)
    assert [one.version for one in sink.versions(LEAGUE)] == [10]


def test_a_backend_that_is_ended_in_the_middle_is_the_sinks(
    pgvector: PgvectorHarness, sink: Sink
) -> None:
    sink.upsert([league()], MODEL)
    with psycopg.connect(pgvector.url) as holder:
        holder.execute(f"UPDATE {LEAGUES} SET version = version WHERE key = 'formula_1'")
        failures: list[SinkFailure] = []

        def write() -> None:
            failures.append(failure_of(lambda: sink.upsert([league(version=11)], MODEL)))

        writer = threading.Thread(target=write)
        writer.start()
        waiting = (
            "SELECT pid FROM pg_stat_activity "
            "WHERE wait_event_type = 'Lock' AND backend_type = 'client backend'"
        )
        with psycopg.connect(pgvector.superuser_url, autocommit=True) as admin:
            while not (found := admin.execute(waiting).fetchall()):
                writer.join(0.01)
            admin.execute("SELECT pg_terminate_backend(%s)", found[0])
        writer.join()
        holder.rollback()
    assert [(one.kind, one.timed_out) for one in failures] == [(ErrorKind.SINK, False)]
    assert isinstance(sink.upsert([league(version=12)], MODEL).outcomes[0], Written)


@pytest.mark.parametrize(
    ("error", "kind", "marks"),
    [
        (psycopg.errors.DeadlockDetected, ErrorKind.UNKNOWN, {"lock_conflict"}),
        (psycopg.errors.SerializationFailure, ErrorKind.UNKNOWN, {"lock_conflict"}),
        (psycopg.errors.TooManyConnections, ErrorKind.SINK, {"throttled"}),
        (psycopg.errors.OutOfMemory, ErrorKind.SINK, {"timed_out"}),
        (psycopg.errors.DiskFull, ErrorKind.SINK, {"timed_out"}),
        (psycopg.errors.AdminShutdown, ErrorKind.SINK, {"outcome_unknown"}),
        (psycopg.errors.CannotConnectNow, ErrorKind.SINK, {"outcome_unknown"}),
        (psycopg.errors.ReadOnlySqlTransaction, ErrorKind.SINK, set()),
        (psycopg.errors.InvalidPassword, ErrorKind.SINK, set()),
        (psycopg.errors.UndefinedTable, ErrorKind.SINK, set()),
        (psycopg.errors.NumericValueOutOfRange, ErrorKind.ITEM, set()),
        (psycopg.errors.ProgramLimitExceeded, ErrorKind.ITEM, set()),
        (psycopg.errors.InternalError_, ErrorKind.SINK, {"outcome_unknown", "timed_out"}),
        (psycopg.OperationalError, ErrorKind.SINK, {"outcome_unknown"}),
        (psycopg.ProgrammingError, ErrorKind.UNKNOWN, {"outcome_unknown"}),
    ],
)
def test_each_kind_of_error_has_its_price(
    error: type[psycopg.Error], kind: ErrorKind, marks: set[str]
) -> None:
    failure = translate(error("said"))
    names = ("outcome_unknown", "timed_out", "lock_conflict", "throttled")
    assert failure.kind is kind
    assert {name for name in names if getattr(failure, name)} == marks
    assert "DATABASE_URL" not in failure.reason
