"""Guarantees of the vector sink beyond the contract: namespaces, metadata, sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pinecone import Index as PineconeIndex
from pinecone import ServerlessSpec

from altsync.contract import Written
from altsync.entities import EntityType, Model, Row
from altsync.errors import SinkFailure
from altsync.local.vectors.faults import FaultRule
from altsync.projection import namespace
from altsync.protocols import Held, Match, Reads
from altsync.sinks.pinecone.write import MAX_BYTES, Sink, sent_bytes
from altsync.verify.retry import RetryPolicy
from tests import sports
from tests.contract.harness import PineconeHarness
from tests.contract.rows import HOSTILE, MODEL, archetype, deleted, example, league, vector

#: The host of a test's own index; the local server takes any.
SPEC = ServerlessSpec(cloud="aws", region="us-east-1")

#: The namespace of leagues.
SPACE = namespace(league())

#: Bytes that Pinecone takes in one upsert: "2 MB".
TWO_MEGABYTES = 2_000_000


@pytest.fixture
def sink(pinecone: PineconeHarness) -> Sink:
    """The sink of the harness, set up."""
    shared = pinecone.shared()
    assert isinstance(shared, Sink)
    shared.setup()
    return shared


def upsert(sink: Sink, *rows: Row, model: Model = MODEL) -> list[Any]:
    """Outcomes of one call."""
    return list(sink.upsert(rows, model).outcomes)


def places(pinecone: PineconeHarness, entity_type: EntityType) -> list[tuple[str, str]]:
    """Namespaces and ids of what is stored."""
    return sorted(pinecone.records(entity_type))


# --- what a vector carries --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "metadata"),
    [
        (
            league(),
            {
                "league_name": "Formula 1",
                "sport_name": "Motorsport",
                "sport_archetype": "racing",
                "location": "World",
                "tier": "TIER1",
                "status": "active",
            },
        ),
        (
            archetype(),
            {
                "archetype_name": "racing",
                "display_name": "Racing & Speed",
                "code_pattern": "RaceEvent",
            },
        ),
        (
            example(),
            {
                "category": "triage",
                "sport_archetype": "racing",
                "tags": ["routing", "contracts"],
            },
        ),
        (
            league(location=None, tier=None),
            {
                "league_name": "Formula 1",
                "sport_name": "Motorsport",
                "sport_archetype": "racing",
                "status": "active",
            },
        ),
    ],
    ids=["league", "archetype", "example", "nulls"],
)
def test_metadata(
    pinecone: PineconeHarness, sink: Sink, one: Row, metadata: dict[str, Any]
) -> None:
    """Filters and marks, written by hand; no key is there with null."""
    upsert(sink, one)
    assert pinecone.stored(one.entity_type) == {
        one.key: {
            **metadata,
            "version": 10,
            "model": "wordllama-l2-256",
            "content_hash": one.content_hash,
        }
    }


def test_a_version_comes_back_exactly(pinecone: PineconeHarness, sink: Sink) -> None:
    """Numbers are floats there: microseconds of today and of 2255 are whole numbers still."""
    versions = [1_795_000_000_000_001, 2**53 - 1]
    upsert(sink, *(league(f"l{n}", version) for n, version in enumerate(versions)))
    found = list(sink.versions(sports.LEAGUE))
    assert [marks.version for marks in found] == versions
    assert all(type(marks.version) is int for marks in found)


def test_numbers_of_a_vector_come_back_exactly(pinecone: PineconeHarness, sink: Sink) -> None:
    """Printing them as short as can be loses no bit of a float32."""
    exact = np.array([1 / 3, -1e-7, 3.4028235e38, 1.1754944e-38], "<f4").tobytes()
    upsert(sink, league(), replace(league("extreme"), vector=exact))
    found = pinecone.records(sports.LEAGUE)
    for key, expected in (("formula_1", vector(10)), ("extreme", exact)):
        assert np.array(found["default", key].values, "<f4").tobytes() == expected


def test_the_remote_id_is_the_key(pinecone: PineconeHarness, sink: Sink) -> None:
    """Return the row with the id and the namespace that PostgreSQL has of it."""
    assert upsert(sink, league()) == [Written(league().id, 10, "formula_1", "default")]
    assert upsert(sink, archetype()) == [Written(archetype().id, 10, "racing", "")]
    assert upsert(sink, example()) == [Written(example().id, 10, "triage_001", "triage")]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tags(pinecone: PineconeHarness, sink: Sink, name: str) -> None:
    """Lists of strings are kept as they are, too."""
    upsert(sink, example(tags=(name, "plain")))
    assert pinecone.stored(sports.FEW_SHOT_EXAMPLE)["triage_001"]["tags"] == [name, "plain"]


def test_metadata_as_large_as_seeds_allow(pinecone: PineconeHarness, sink: Sink) -> None:
    """Five hundred characters of four bytes in every name are within 40 KB."""
    name = "🏆" * 500
    one = league(league_name=name, sport_name=name, location=name, tier=name, status=name)
    assert isinstance(upsert(sink, one)[0], Written)


# --- namespaces -------------------------------------------------------------------------------


def test_namespaces_of_each_type(pinecone: PineconeHarness, sink: Sink) -> None:
    """Leagues in one, archetypes in the index's own, examples by category."""
    upsert(sink, league())
    upsert(sink, archetype())
    upsert(sink, example("a", category="triage"))
    upsert(sink, example("b", category="other"))
    assert places(pinecone, sports.LEAGUE) == [("default", "formula_1")]
    assert places(pinecone, sports.SPORT_ARCHETYPE) == [("__default__", "racing")]
    assert places(pinecone, sports.FEW_SHOT_EXAMPLE) == [("other", "b"), ("triage", "a")]
    assert sorted((m.key, m.namespace) for m in sink.versions(sports.FEW_SHOT_EXAMPLE)) == [
        ("a", "triage"),
        ("b", "other"),
    ]
    assert [m.namespace for m in sink.versions(sports.SPORT_ARCHETYPE)] == [""]


def test_a_changed_category_leaves_the_old_namespace(pinecone: PineconeHarness, sink: Sink) -> None:
    """The row says where it was written; the vector is in the new place alone."""
    upsert(sink, example(), example("stays"))
    moved = replace(example(version=11, category="other"), written_namespace="triage")
    answer = sink.upsert([moved], MODEL)
    assert answer.outcomes == (Written(moved.id, 11, "triage_001", "other"),)
    assert answer.calls == 2
    assert places(pinecone, sports.FEW_SHOT_EXAMPLE) == [
        ("other", "triage_001"),
        ("triage", "stays"),
    ]


@pytest.mark.parametrize("written", [None, "triage"])
def test_what_did_not_move_costs_one_call(
    pinecone: PineconeHarness, sink: Sink, written: str | None
) -> None:
    """New, or written to the same place before: nothing is deleted."""
    assert sink.upsert([replace(example(), written_namespace=written)], MODEL).calls == 1
    assert pinecone.server.admin.stats().requests["pinecone.delete"] == 0


def test_many_move_from_many_places(pinecone: PineconeHarness, sink: Sink) -> None:
    """One delete for each place they leave."""
    for space in ("one", "two"):
        upsert(sink, *(example(f"{space}_{n}", category=space) for n in range(3)))
    moved = [
        replace(example(f"{space}_{n}", 11, category="three"), written_namespace=space)
        for space in ("one", "two")
        for n in range(3)
    ]
    assert sink.upsert(moved, MODEL).calls == 3
    assert {space for space, _ in places(pinecone, sports.FEW_SHOT_EXAMPLE)} == {"three"}


def test_a_delete_looks_where_it_was_written_and_where_it_would_be(
    pinecone: PineconeHarness, sink: Sink
) -> None:
    """A category edited just before the delete leaves no vector in either place."""
    upsert(sink, example(category="old"))
    upsert(sink, example(category="new"))
    upsert(sink, example("stays", category="old"))
    gone = replace(deleted(example(category="new"), 12), written_namespace="old")
    answer = sink.delete([gone])
    assert (answer.outcomes, answer.calls) == ((Written(gone.id, 12),), 2)
    assert places(pinecone, sports.FEW_SHOT_EXAMPLE) == [("old", "stays")]


def test_a_delete_in_a_namespace_that_never_was(pinecone: PineconeHarness, sink: Sink) -> None:
    """The service answers 404, which means that nothing of it is there."""
    gone = replace(deleted(example(category="never"), 12), written_namespace="nor_this")
    assert sink.delete([gone]).outcomes == (Written(gone.id, 12),)


def test_a_move_out_of_a_namespace_that_is_gone(pinecone: PineconeHarness, sink: Sink) -> None:
    """The old namespace was removed by hand: the vector is in the new one all the same."""
    moved = replace(example(category="other"), written_namespace="gone")
    assert isinstance(sink.upsert([moved], MODEL).outcomes[0], Written)


def test_a_batch_of_several_namespaces_is_cut_by_them(
    pinecone: PineconeHarness, sink: Sink
) -> None:
    """One call writes one namespace."""
    rows = [example(f"e{n}", category=f"c{n % 3}") for n in range(30)]
    parts = sink.split(rows, MODEL)
    assert [len(part) for part in parts] == [10, 10, 10]
    for part in parts:
        upsert(sink, *part)
    assert len(places(pinecone, sports.FEW_SHOT_EXAMPLE)) == 30
    assert {m.namespace for m in sink.versions(sports.FEW_SHOT_EXAMPLE)} == {"c0", "c1", "c2"}


# --- sizes ------------------------------------------------------------------------------------


def test_a_batch_is_cut_by_count(sink: Sink) -> None:
    """1,000 vectors go in one call, the next one begins another."""
    parts = sink.split([league(f"l{n}") for n in range(1001)], MODEL)
    assert [len(part) for part in parts] == [1000, 1]


def test_a_batch_of_large_vectors_is_cut_by_bytes(pinecone: PineconeHarness) -> None:
    """1,000 × 1,536 numbers: every body as it arrives is under 2 MB, and few are needed."""
    wide = PineconeHarness(pinecone.server, dimensions=1536)
    wide.wipe()
    sink = wide.open()
    sink.setup()
    rows = [replace(league(f"league_{n:04}", 10 + n), vector=vector(n, 1536)) for n in range(1000)]
    parts = sink.split(rows, Model(MODEL.name, 1536))
    assert sum(len(part) for part in parts) == 1000

    sizes = []
    for part in parts:
        pinecone.server.admin.reset_stats()
        answer = sink.upsert(part, MODEL)
        stats = pinecone.server.admin.stats()
        assert (answer.calls, stats.requests["pinecone.upsert"]) == (1, 1)
        assert stats.records["pinecone.upsert"] == len(part)
        sizes.append(stats.bytes["pinecone.upsert"])
    assert max(sizes) < TWO_MEGABYTES
    assert min(sizes[:-1]) > 0.9 * TWO_MEGABYTES
    held = {marks.key: marks.version for marks in sink.versions(sports.LEAGUE)}
    assert held == {one.key: one.version for one in rows}
    sink.close()
    wide.close()


def test_bytes_are_counted_as_they_are_sent(pinecone: PineconeHarness, sink: Sink) -> None:
    """The sum over the rows is what arrives, but for what frames it."""
    rows = [
        league("plain"),
        league("wide", league_name="🏆" * 400, description="not sent"),
        replace(league("long"), vector=np.array([1 / 3, 1e-30, -2.5, 1e30], "<f4").tobytes()),
    ]
    counted = sum(sent_bytes(one, MODEL) for one in rows)
    pinecone.server.admin.reset_stats()
    upsert(sink, *rows)
    sent = pinecone.server.admin.stats().bytes["pinecone.upsert"]
    assert counted <= MAX_BYTES
    assert sent <= counted + (TWO_MEGABYTES - MAX_BYTES)


# --- indexes ----------------------------------------------------------------------------------


def test_setting_up_makes_one_index_for_each_type(pinecone: PineconeHarness, sink: Sink) -> None:
    """With the dimensions of the settings, and cosine."""
    pinecone.wipe()
    sink.setup()
    found = {one.name: (one.dimension, one.metric) for one in pinecone.client.indexes.list()}
    assert found == {
        "altsports-archetypes": (4, "cosine"),
        "altsports-leagues": (4, "cosine"),
        "altsports-examples": (4, "cosine"),
    }


def test_an_index_that_was_never_made_is_made(pinecone: PineconeHarness) -> None:
    """A worker without its setup writes anyway."""
    pinecone.wipe()
    sink = pinecone.open()
    assert isinstance(upsert(sink, league())[0], Written)
    assert places(pinecone, sports.LEAGUE) == [("default", "formula_1")]
    sink.close()


def test_a_new_sink_lists_and_deletes_without_indexes(pinecone: PineconeHarness) -> None:
    """Nothing is there, and that is no error."""
    pinecone.wipe()
    sink = pinecone.open()
    assert list(sink.versions(sports.LEAGUE)) == []
    assert isinstance(sink.delete([deleted(league(), 11)]).outcomes[0], Written)
    sink.close()


def test_foreign_vectors_are_listed_with_version_0(pinecone: PineconeHarness, sink: Sink) -> None:
    """A vector of another application is listed, without a version."""
    foreign = {"id": "foreign", "values": [1.0, 0.0, 0.0, 0.0]}
    pinecone.index(sports.LEAGUE.index_name).upsert(vectors=[foreign], namespace="x")
    (found,) = sink.versions(sports.LEAGUE)
    assert (found.key, found.version, found.namespace) == ("foreign", 0, "x")
    assert (found.content_hash, found.model) == (None, None)


# --- queries ----------------------------------------------------------------------------------


def test_the_nearest_come_first(pinecone: PineconeHarness, sink: Sink) -> None:
    """By cosine similarity, with what their vectors carry, filtered in the index's language."""
    numbers = {"same": [1, 0, 0, 0], "near": [1, 1, 0, 0], "far": [0, 0, 1, 0]}
    rows = [
        replace(
            league(tag, tier="TIER2" if tag == "near" else "TIER1"),
            vector=np.array(values, "<f4").tobytes(),
        )
        for tag, values in numbers.items()
    ]
    upsert(sink, *rows)
    ask = np.array([2, 0, 0, 0], "<f4").tobytes()
    found = sink.nearest(sports.LEAGUE, ask, top_k=2, space="default")
    assert [match.key for match in found] == ["same", "near"]
    assert [match.score for match in found] == pytest.approx([1.0, 0.7071068])
    assert all(isinstance(match, Match) for match in found)
    assert found[0].metadata["league_name"] == "Formula 1"

    first_tier = sink.nearest(
        sports.LEAGUE, ask, top_k=5, space="default", where={"tier": {"$eq": "TIER1"}}
    )
    assert [match.key for match in first_tier] == ["same", "far"]
    assert sink.nearest(sports.LEAGUE, ask, top_k=5, space="elsewhere") == []


# --- one vector, read back --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "space", "marks"),
    [
        (league(), "default", {"league_name": "Formula 1", "tier": "TIER1"}),
        (archetype(), "", {"display_name": "Racing & Speed"}),
        (example(), "triage", {"tags": ["routing", "contracts"]}),
    ],
    ids=lambda value: value.key if isinstance(value, Row) else None,
)
def test_a_vector_is_found_where_it_was_written(
    sink: Sink, one: Row, space: str, marks: dict[str, Any]
) -> None:
    """With its version, its model and its metadata; in no other namespace."""
    upsert(sink, one)
    held = sink.find(one.entity_type, one.key, space)
    assert held is not None
    assert held == Held(
        index=one.entity_type.index_name,
        namespace=space,
        key=one.key,
        version=10,
        model=MODEL.name,
        content_hash=one.content_hash,
        dimensions=MODEL.dimensions,
        metadata=held.metadata,
    )
    assert marks.items() <= held.metadata.items()
    assert sink.find(one.entity_type, one.key, "elsewhere") is None
    assert sink.find(one.entity_type, "nothing", space) is None


def test_a_vector_of_another_application_has_no_version(
    pinecone: PineconeHarness, sink: Sink
) -> None:
    """It is shown as it is."""
    index = pinecone.index(sports.LEAGUE.index_name)
    index.upsert(vectors=[{"id": "strange", "values": [1.0, 0.0, 0.0, 0.0]}], namespace="default")
    held = sink.find(sports.LEAGUE, "strange", "default")
    assert held is not None
    assert (held.version, held.model, held.metadata) == (None, None, {})


def test_looking_makes_no_index(pinecone: PineconeHarness) -> None:
    """Without an index there are no vectors."""
    pinecone.wipe()
    sink = pinecone.open()
    try:
        assert sink.find(sports.LEAGUE, "formula_1", "default") is None
        assert list(pinecone.client.indexes.list()) == []
    finally:
        sink.close()


# --- a comparison's reads ---------------------------------------------------------------------

#: The requests of a comparison to an index.
READS = ("pinecone.stats", "pinecone.list", "pinecone.fetch")


@pytest.mark.parametrize("scope", READS)
@pytest.mark.parametrize("status", [429, 503])
def test_each_read_is_asked_for_as_the_comparison_says(
    pinecone: PineconeHarness, sink: Sink, scope: str, status: int
) -> None:
    """One that fails once is asked for again alone, and every request is counted."""
    upsert(sink, *(league(f"l{n}") for n in range(3)))
    clean = Reads()
    wanted = list(sink.stored(sports.LEAGUE, clean))
    assert (clean.requests, clean.units) == (3, 2)
    pinecone.server.admin.reset_stats()
    pinecone.server.admin.set_faults([FaultRule(scope, "status", status=status, count=1)])
    reads = Reads(ask=RetryPolicy(lambda _: None))
    assert list(sink.stored(sports.LEAGUE, reads)) == wanted
    assert reads.requests == 4
    assert sum(pinecone.server.admin.stats().requests[one] for one in READS) == 4
    pinecone.server.admin.set_faults([FaultRule(scope, "status", status=status, count=1)])
    with pytest.raises(SinkFailure):
        list(sink.stored(sports.LEAGUE, Reads()))


def test_a_page_in_the_middle_is_asked_for_again(
    pinecone: PineconeHarness, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No page is lost, and none comes twice."""
    pinecone.small_pages(monkeypatch, 2)
    upsert(sink, *(league(f"l{n}") for n in range(7)))
    faults = [
        FaultRule("pinecone.fetch", "status", id="l4", status=503, count=2),
        FaultRule("pinecone.list", "cut", count=1, probability=0.5),
    ]
    pinecone.server.admin.set_faults(faults)
    reads = Reads(ask=RetryPolicy(lambda _: None))
    pages = list(sink.stored(sports.LEAGUE, reads))
    assert [one.key for page in pages for one in page] == [f"l{n}" for n in range(7)]
    assert max(map(len, pages)) == 2


def test_an_index_that_was_made_again_elsewhere(pinecone: PineconeHarness) -> None:
    """A sink that has been there all the time finds it, to read and to delete."""
    elsewhere = pinecone.client.create_index(
        name="elsewhere", dimension=MODEL.dimensions, metric="cosine", spec=SPEC
    )
    sink = pinecone.open()
    try:
        upsert(sink, league("a"), league("b"))
        for look in (
            lambda: list(sink.stored(sports.LEAGUE, Reads())),
            lambda: sink.fetch(sports.LEAGUE, "default", ["a", "b"], Reads()),
            lambda: sink.find(sports.LEAGUE, "a", "default"),
            lambda: sink.count(sports.LEAGUE, Reads()),
        ):
            forget_where_it_is(sink, elsewhere.host)
            if pinecone.client.has_index("elsewhere"):
                pinecone.client.indexes.delete("elsewhere")
            assert look()
        forget_where_it_is(sink, elsewhere.host)
        sink.remove(sports.LEAGUE, "default", ["a"])
        assert places(pinecone, sports.LEAGUE) == [("default", "b")]
    finally:
        sink.close()


def forget_where_it_is(sink: Sink, host: str | None) -> None:
    """Leave a sink with the address that an index had before it was deleted."""
    assert host is not None
    known = sink._handles[sports.LEAGUE]
    sink._handles[sports.LEAGUE] = PineconeIndex(host=host, api_key=sink._api_key, timeout=20.0)
    known.close()


def test_a_namespace_that_never_was_costs_no_new_connection(
    pinecone: PineconeHarness, sink: Sink
) -> None:
    """The index is where it was."""
    upsert(sink, league())
    known = sink._handles[sports.LEAGUE]
    sink.remove(sports.LEAGUE, "never", ["a"])
    assert sink._handles[sports.LEAGUE] is known
    pinecone.client.indexes.delete(sports.LEAGUE.index_name)
    assert sink.find(sports.LEAGUE, "a", "default") is None
    assert sports.LEAGUE not in sink._handles


# --- when a write can be read -------------------------------------------------------------------


def test_a_write_has_the_position_that_a_query_names(pinecone: PineconeHarness, sink: Sink) -> None:
    """So do deletions, whose position the SDK does not return."""
    written = sink.upsert([league("l1")], MODEL).marks[SPACE]
    assert sink.seen(sports.LEAGUE, SPACE) == written
    removed = sink.delete([deleted(league("l1"), 11)]).marks[SPACE]
    assert removed == written + 1
    pinecone.server.admin.set_faults([FaultRule("pinecone.upsert", "lag", seconds=3600)])
    hidden = sink.upsert([league("l1", 12)], MODEL).marks[SPACE]
    assert sink.seen(sports.LEAGUE, SPACE) == removed
    assert sink.nearest(sports.LEAGUE, vector(1), top_k=1, space=SPACE).mark == removed
    pinecone.server.admin.flush()
    assert sink.nearest(sports.LEAGUE, vector(1), top_k=1, space=SPACE).mark == hidden


def test_a_move_has_positions_in_both_namespaces(sink: Sink) -> None:
    sink.upsert([example("e1")], MODEL)
    moved = replace(example("e1", 11, category="other"), written_namespace="triage")
    marks = sink.upsert([moved], MODEL).marks
    assert set(marks) == {"other", "triage"}


def test_a_server_without_positions_gives_no_marks(pinecone: PineconeHarness, sink: Sink) -> None:
    pinecone.server.admin.set_faults([FaultRule("pinecone.*", "bare")])
    assert sink.upsert([league("l1")], MODEL).marks == {}
    assert sink.delete([deleted(league("l1"), 11)]).marks == {}
    assert sink.seen(sports.LEAGUE, SPACE) is None
