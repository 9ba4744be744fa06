"""Guarantees of every sink: one suite, run over each of them. See ``altsync.protocols``."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from altsync.config import read_settings
from altsync.contract import (
    AlreadyNewer,
    Declaration,
    RecordOutcome,
    SinkVersion,
    Written,
    imported,
)
from altsync.declarations import SINKS
from altsync.entities import EntityType, Row
from altsync.errors import SinkFailure
from altsync.operations import ErrorKind
from altsync.projection import content_hash, text_hash
from altsync.protocols import Sink
from tests import sports
from tests.contract.harness import HARNESSES, FakeVectorStore, Harness
from tests.contract.rows import HOSTILE, MAKERS, archetype, deleted, example, league

#: Tries of a write that met another writer, as delivery would make them.
TRIES = 20

TYPES = list(sports.TYPES)


def write(harness: Harness, sink: Sink, rows: Sequence[Row]) -> dict[str, RecordOutcome]:
    """Upsert rows as delivery does: by type, in the parts that the sink cuts. By key."""
    outcomes: dict[str, RecordOutcome] = {}
    for entity_type in TYPES:
        members = [one for one in rows if one.entity_type is entity_type]
        for part in sink.split(members, harness.model) if members else ():
            answer = sink.upsert(part, harness.model)
            outcomes |= by_key(part, answer.outcomes)
    harness.settle(rows)
    return outcomes


def remove(harness: Harness, sink: Sink, rows: Sequence[Row]) -> dict[str, RecordOutcome]:
    """Delete rows of one type in one call. By key."""
    answer = sink.delete(rows)
    harness.settle(rows)
    return by_key(rows, answer.outcomes)


def by_key(rows: Sequence[Row], outcomes: Sequence[RecordOutcome]) -> dict[str, RecordOutcome]:
    """One outcome for each record, whatever their order."""
    keys = {one.id: one.key for one in rows}
    assert len(outcomes) == len(rows)
    assert {outcome.id for outcome in outcomes} == set(keys)
    return {keys[outcome.id]: outcome for outcome in outcomes}


def held(sink: Sink, entity_type: EntityType = sports.LEAGUE) -> list[SinkVersion]:
    """Return the versions that the sink reports of a type, by key."""
    return sorted(sink.versions(entity_type), key=lambda one: one.key)


def guarded(harness: Harness, sink: Sink) -> bool:
    """Return whether the sink mirrors entities and refuses older versions of them."""
    return harness.mirrors and sink.traits.guarded


# --- the contract itself ----------------------------------------------------------------------


def test_every_sink_has_a_harness() -> None:
    """A new package in sinks/ is tested, or this says what is missing."""
    missing = [name for name in SINKS if name not in HARNESSES]
    gone = HARNESSES.keys() - SINKS.keys() - {"memory"}
    assert not missing, (
        f"sinks/{missing[0]} has no harness: write one in tests/contract/harness.py, name it "
        "in HARNESSES, and give it a fixture of that name in tests/contract/conftest.py"
    )
    assert not gone, f"tests/contract/harness.py names {gone}, and no package declares them"


@pytest.mark.parametrize("one", SINKS.values(), ids=SINKS)
def test_a_sink_is_opened_by_its_setting(
    one: Declaration, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without it there is none."""
    monkeypatch.chdir(tmp_path)
    open_sink = imported(one.open)
    assert open_sink(read_settings(), FakeVectorStore()) is None
    database = one.setting == "PGVECTOR_URL"
    address = "postgresql://127.0.0.1:1/none" if database else "bolt://127.0.0.1:1"
    monkeypatch.setenv(one.setting, address)
    opened = open_sink(read_settings(), FakeVectorStore())
    assert opened.traits is one.traits
    opened.close()


# --- setting up -------------------------------------------------------------------------------


def test_setting_up_again_changes_nothing(harness: Harness, sink: Sink) -> None:
    """Every worker does it, at each start."""
    write(harness, sink, [league()])
    for _ in range(3):
        sink.setup()
    assert held(sink) == [harness.held(league())]


def test_setting_up_at_once(harness: Harness) -> None:
    """Four workers meet an empty store; none of them fails, and it can be written to."""
    harness.wipe()
    sinks = [harness.open() for _ in range(4)]
    barrier = Barrier(len(sinks), timeout=30)

    def set_up(one: Sink) -> None:
        barrier.wait()
        one.setup()

    with ThreadPoolExecutor(len(sinks)) as pool:
        runs = [pool.submit(set_up, one) for one in sinks]
    assert [run.exception() for run in runs] == [None] * len(sinks)
    write(harness, sinks[0], [league()])
    assert held(sinks[1]) == [harness.held(league())]
    for one in sinks:
        one.close()


def test_a_sink_that_was_never_used_can_be_closed(harness: Harness) -> None:
    """No connection is needed for it."""
    harness.open().close()


# --- upserts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("entity_type", TYPES)
def test_a_new_entity(harness: Harness, sink: Sink, entity_type: EntityType) -> None:
    """Written at its version, and held afterwards with its hash."""
    one = MAKERS[entity_type]("new", 10)
    outcome = write(harness, sink, [one])["new"]
    assert isinstance(outcome, Written)
    assert (outcome.id, outcome.version) == (one.id, 10)
    assert held(sink, entity_type) == [harness.held(one)]


@pytest.mark.parametrize("entity_type", TYPES)
def test_types_are_kept_apart(harness: Harness, sink: Sink, entity_type: EntityType) -> None:
    """One key in every type is three entities."""
    rows = {kind: MAKERS[kind]("same", version) for version, kind in enumerate(TYPES, 11)}
    write(harness, sink, list(rows.values()))
    assert held(sink, entity_type) == [harness.held(rows[entity_type])]
    remove(harness, sink, [deleted(rows[entity_type], 20)])
    left = {kind: held(sink, kind) for kind in TYPES}
    assert left == {
        kind: [] if kind is entity_type else [harness.held(one)] for kind, one in rows.items()
    }


def test_nothing_held_is_an_empty_stream(harness: Harness, sink: Sink) -> None:
    """Of every type, right after setting up."""
    assert [held(sink, entity_type) for entity_type in TYPES] == [[], [], []]


def test_the_same_version_again_is_written_again(harness: Harness, sink: Sink) -> None:
    """A damaged record is repaired by the same version again."""
    one = league()
    write(harness, sink, [one])
    before = harness.stored(sports.LEAGUE)
    harness.spoil(one)
    assert harness.stored(sports.LEAGUE) != before
    outcome = write(harness, sink, [one])[one.key]
    assert isinstance(outcome, Written)
    assert outcome.version == 10
    assert harness.stored(sports.LEAGUE) == before
    assert held(sink) == [harness.held(one)]


def test_a_newer_version_replaces(harness: Harness, sink: Sink) -> None:
    """The older content is gone."""
    newer = league(version=11, league_name="Formula One", description="Changed.")
    write(harness, sink, [league()])
    outcome = write(harness, sink, [newer])["formula_1"]
    assert isinstance(outcome, Written)
    assert outcome.version == 11
    assert held(sink) == [harness.held(newer)]


def test_an_older_version_is_refused_or_known_to_pass(harness: Harness, sink: Sink) -> None:
    """A guarded sink keeps the newer one and says its version.

    Pinecone has no conditional write: there the older one passes, which is why the outbox
    repeats outcome_unknown writes. Texts are no versions: an older one is kept beside the newer.
    """
    newer = league(version=20, description="Newer.")
    older = league(version=10, description="Older.")
    write(harness, sink, [newer])
    outcome = write(harness, sink, [older])["formula_1"]
    if guarded(harness, sink):
        assert outcome == AlreadyNewer(older.id, 20)
        assert held(sink) == [harness.held(newer)]
    else:
        assert isinstance(outcome, Written)
        assert held(sink) == [harness.held(older)]


def test_one_old_record_does_not_hold_up_the_others(harness: Harness, sink: Sink) -> None:
    """Each record of a call has an outcome of its own."""
    write(harness, sink, [league("b", 20), league("d", 5)])
    outcomes = write(harness, sink, [league(key, 10) for key in "dcba"])
    expected = dict.fromkeys("abcd", 10)
    if guarded(harness, sink):
        expected["b"] = 20
        assert outcomes.pop("b") == AlreadyNewer(league("b").id, 20)
    assert {outcome.version for outcome in outcomes.values() if isinstance(outcome, Written)} == {
        10
    }
    assert all(isinstance(outcome, Written) for outcome in outcomes.values())
    assert {one.key: one.version for one in held(sink)} == expected


def test_what_is_gone_from_a_row_is_gone_from_the_sink(harness: Harness, sink: Sink) -> None:
    """Properties that became null disappear; what was never there does not appear."""
    bare = league(version=11, location=None, tier=None, description=None)
    write(harness, sink, [league()])
    write(harness, sink, [bare])
    stored = harness.stored(sports.LEAGUE)["formula_1"]
    for name in ("location", "tier", "description"):
        assert stored.get(name) is None
    write(harness, sink, [league(version=12)])
    if harness.mirrors:
        assert harness.stored(sports.LEAGUE)["formula_1"]["tier"] == "TIER1"


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_stored_as_they_are(harness: Harness, sink: Sink, name: str) -> None:
    """No character of a value means anything to a sink."""
    one = league(
        league_name=name, sport_name=name, location=name, tier=name, status=name, description=name
    )
    healthy = league("healthy")
    write(harness, sink, [healthy, one])
    assert held(sink) == [harness.held(one), harness.held(healthy)]
    if harness.mirrors:
        stored = harness.stored(sports.LEAGUE)
        assert [stored["formula_1"][field] for field in ("league_name", "tier")] == [name, name]
        assert stored["healthy"]["league_name"] == "Formula 1"


@pytest.mark.parametrize("key", ["A.b:c-d_E", "0", "x" * 200, "a:b", "League:a", "_"])
def test_every_tag_can_be_a_key(harness: Harness, sink: Sink, key: str) -> None:
    """Whatever the seeder lets through: written, found again, deleted."""
    one = league(key)
    write(harness, sink, [one, league("other")])
    assert harness.held(one) in held(sink)
    remove(harness, sink, [deleted(one, 11)])
    assert held(sink) == [harness.held(league("other"))]


# --- deletes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("entity_type", TYPES)
def test_a_deleted_entity_is_gone(harness: Harness, sink: Sink, entity_type: EntityType) -> None:
    """And the others of its type are not."""
    one, other = MAKERS[entity_type]("one", 10), MAKERS[entity_type]("other", 10)
    write(harness, sink, [one, other])
    outcome = remove(harness, sink, [deleted(one, 11)])["one"]
    assert isinstance(outcome, Written)
    assert outcome.version == 11
    assert held(sink, entity_type) == [harness.held(other)]


@pytest.mark.parametrize("entity_type", TYPES)
def test_deleting_what_is_not_there_is_fine(
    harness: Harness, sink: Sink, entity_type: EntityType
) -> None:
    """Deleted twice, or never written at all: the same answer."""
    one, never = MAKERS[entity_type]("one", 10), MAKERS[entity_type]("never", 10)
    write(harness, sink, [one])
    for _ in range(2):
        outcomes = remove(harness, sink, [deleted(one, 11), deleted(never, 12)])
        assert all(isinstance(outcome, Written) for outcome in outcomes.values())
    assert held(sink, entity_type) == []


def test_a_late_upsert_does_not_resurrect(harness: Harness, sink: Sink) -> None:
    """A guarded sink remembers the deletion and says its version; Pinecone cannot.

    That includes the version that was written before, and one that never arrived.
    """
    write(harness, sink, [league(version=10)])
    remove(harness, sink, [deleted(league(), 20)])
    for late in (league(version=10), league(version=15)):
        outcome = write(harness, sink, [late])["formula_1"]
        if guarded(harness, sink):
            assert outcome == AlreadyNewer(late.id, 20)
            assert held(sink) == []
        else:
            assert isinstance(outcome, Written)


def test_a_late_upsert_of_what_was_deleted_unseen_is_refused(harness: Harness, sink: Sink) -> None:
    """The delete overtook the first upsert: it stays deleted."""
    remove(harness, sink, [deleted(league(), 20)])
    outcome = write(harness, sink, [league(version=10)])["formula_1"]
    if guarded(harness, sink):
        assert outcome == AlreadyNewer(league().id, 20)
        assert held(sink) == []


def test_created_again_after_a_delete(harness: Harness, sink: Sink) -> None:
    """A newer version lives, and the older deletion cannot take it away any more."""
    write(harness, sink, [league(version=10)])
    remove(harness, sink, [deleted(league(), 20)])
    again = league(version=30, description="Back again.")
    assert isinstance(write(harness, sink, [again])["formula_1"], Written)
    assert held(sink) == [harness.held(again)]
    if not guarded(harness, sink):
        return
    assert remove(harness, sink, [deleted(league(), 20)])["formula_1"] == AlreadyNewer(again.id, 30)
    assert held(sink) == [harness.held(again)]
    newest = league(version=31)
    assert isinstance(write(harness, sink, [newest])["formula_1"], Written)
    assert held(sink) == [harness.held(newest)]


def test_a_late_delete_is_refused(harness: Harness, sink: Sink) -> None:
    """A guarded sink keeps what is newer than the deletion, and says its version."""
    write(harness, sink, [league(version=30)])
    outcome = remove(harness, sink, [deleted(league(), 20)])["formula_1"]
    if guarded(harness, sink):
        assert outcome == AlreadyNewer(league().id, 30)
        assert held(sink) == [harness.held(league(version=30))]


def test_a_deletion_of_one_type_is_none_of_another(harness: Harness, sink: Sink) -> None:
    """An archetype and a league may share a key; tombstones do not mix them up."""
    remove(harness, sink, [deleted(league("racing"), 50)])
    assert isinstance(write(harness, sink, [archetype("racing", 10)])["racing"], Written)
    assert held(sink, sports.SPORT_ARCHETYPE) == [harness.held(archetype("racing", 10))]


# --- many -------------------------------------------------------------------------------------


def test_a_batch_of_500(harness: Harness, sink: Sink) -> None:
    """As many as delivery claims at once, mixed: every record has one outcome."""
    rows = [league(f"league_{n:03}", 100 + n, description=f"Number {n}.") for n in range(500)]
    random.Random(7).shuffle(rows)
    outcomes = write(harness, sink, rows)
    assert len(outcomes) == 500
    assert {key: o.version for key, o in outcomes.items() if isinstance(o, Written)} == {
        one.key: one.version for one in rows
    }
    assert held(sink) == sorted((harness.held(one) for one in rows), key=lambda one: one.key)

    half = [deleted(one, 1000 + n) for n, one in enumerate(rows[:250])]
    assert len(remove(harness, sink, half)) == 250
    left = sorted((harness.held(one) for one in rows[250:]), key=lambda one: one.key)
    assert held(sink) == left


def test_splitting_loses_and_doubles_nothing(harness: Harness, sink: Sink) -> None:
    """Every row is in exactly one part, and no part is empty."""
    rows = [example(f"e{n}", category=f"category_{n % 3}") for n in range(1201)]
    parts = sink.split(rows, harness.model)
    assert sorted(one.key for part in parts for one in part) == sorted(one.key for one in rows)
    assert all(parts)
    assert sink.split([], harness.model) == []


@pytest.mark.parametrize("size", [1, 3, 7])
def test_versions_are_streamed_page_by_page(
    harness: Harness, sink: Sink, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Exactly what is held, none twice, over any number of pages and kinds of keys."""
    keys = ["a", "A", "B", "b.1", "b:1", "b-1", "b_1", "0", "10", "9", "Zz", "zZ", "a0", "x" * 200]
    rows = [league(key, 10 + n, description=key) for n, key in enumerate(keys)]
    write(harness, sink, rows)
    harness.small_pages(monkeypatch, size)
    stream = sink.versions(sports.LEAGUE)
    assert isinstance(stream, Iterator)
    found = list(stream)
    assert sorted(found, key=lambda one: one.key) == sorted(
        (harness.held(one) for one in rows), key=lambda one: one.key
    )


def test_a_stream_that_is_not_read_to_its_end_does_no_harm(
    harness: Harness, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader may stop early; the sink works on."""
    write(harness, sink, [league(f"l{n}", 10) for n in range(5)])
    harness.small_pages(monkeypatch, 2)
    stream = sink.versions(sports.LEAGUE)
    next(stream)
    write(harness, sink, [league("l1", 11)])
    del stream
    assert len(held(sink)) == 5


# --- at once ----------------------------------------------------------------------------------


def test_two_writers_of_the_same_new_entities(harness: Harness) -> None:
    """One entity each afterwards, at the newer version, in either order.

    A writer that met the other may be refused for it (never as the record's fault for good),
    and tries again as delivery does.
    """
    keys = [f"both_{n:02}" for n in range(20)]
    sinks = [harness.open() for _ in range(4)]
    sinks[0].setup()
    barrier = Barrier(len(sinks), timeout=30)

    def write_all(number: int) -> None:
        rows = [league(key, 10 + number % 2, description=key) for key in keys]
        rows = rows if number < 2 else rows[::-1]
        barrier.wait()
        for _ in range(TRIES):
            try:
                for part in sinks[number].split(rows, harness.model):
                    sinks[number].upsert(part, harness.model)
            except SinkFailure as failure:
                assert failure.kind is ErrorKind.UNKNOWN, failure.reason
            else:
                return
        raise AssertionError("never written")

    with ThreadPoolExecutor(len(sinks)) as pool:
        runs = [pool.submit(write_all, number) for number in range(len(sinks))]
    assert [run.exception() for run in runs] == [None] * len(sinks)
    harness.settle([league(key, 11, description=key) for key in keys])

    found = held(sinks[0])
    assert [one.key for one in found] == keys
    if guarded(harness, sinks[0]):
        assert {one.version for one in found} == {11}
    assert sorted(harness.stored(sports.LEAGUE)) == keys
    for one in sinks:
        one.close()


# --- what reconciliation relies on ------------------------------------------------------------


def test_a_changed_hash_is_seen(harness: Harness, sink: Sink) -> None:
    """Two rows that differ in what the sink stores have different marks."""
    one = league()
    write(harness, sink, [one])
    (first,) = held(sink)
    changed: dict[str, Any] = {"description": "Something else."}
    other = league(version=11, **changed)
    assert (content_hash(one.content), text_hash(one.content)) != (
        content_hash(other.content),
        text_hash(other.content),
    )
    write(harness, sink, [other])
    (second,) = held(sink)
    assert first.content_hash != second.content_hash


def test_outcomes_name_the_row_and_not_its_place(harness: Harness, sink: Sink) -> None:
    """The order of outcomes is free; the id says whose each is."""
    rows = [league(key, version) for version, key in enumerate("zmka", 10)]
    expected = {one.id: one.version for one in rows}
    (part,) = sink.split(rows, harness.model)
    for order in (part, part[::-1]):
        outcomes = sink.upsert(order, harness.model).outcomes
        found = {o.id: o.version for o in outcomes if isinstance(o, Written)}
        assert found == expected


def test_a_row_is_not_changed_by_being_written(harness: Harness, sink: Sink) -> None:
    """Rows are shared between sinks; the attributes of one stay what they were."""
    attributes = {"nested": {"list": [1, None]}}
    one = league(attributes=attributes)
    copy = replace(one)
    write(harness, sink, [one])
    remove(harness, sink, [deleted(one, 11)])
    assert one == copy
    assert attributes == {"nested": {"list": [1, None]}}
