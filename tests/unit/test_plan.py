"""The cost of planned changes, by the vendors' rules."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from altsync.contract import Topology, Usage
from altsync.costs.planner import Planner
from altsync.costs.prices import load_prices
from altsync.costs.units import LEAST_UNITS, record_bytes, units
from altsync.declarations import index_similarity
from altsync.entities import EntityType, Model, Row
from altsync.projection import namespace, vector_metadata
from altsync.sinks.pinecone.estimate import Estimate
from tests.conftest import TOPOLOGY
from tests.contract.rows import example, league

MODEL = Model("text-embedding-3-small", 1536)


def size(row: Row) -> int:
    return record_bytes(row.key, vector_metadata(row, MODEL.name), MODEL.dimensions)


def written(*rows: Row, batch: int = 500) -> Estimate:
    estimate = Estimate(batch)
    for row in rows:
        estimate.write(row, MODEL)
    return estimate


def test_a_new_record_costs_its_size_and_is_kept() -> None:
    row = league("one")
    estimate = written(row)
    assert estimate.usage().write_units == units(size(row)) == 7
    assert estimate.stored_bytes() == size(row)


def test_a_record_over_an_existing_one_costs_both_and_keeps_no_more() -> None:
    row = league("one")
    (space,) = {one[1] for one in written(row)._requests}
    estimate = written(replace(row, written_namespace=space))
    assert estimate.usage().write_units == units(2 * size(row))
    assert estimate.stored_bytes() == 0


@pytest.mark.parametrize("moved", [{"written_namespace": "other"}, {"former_keys": ("old",)}])
def test_a_record_that_moves_is_written_and_the_former_one_removed(moved: Any) -> None:
    row = league("one")
    (space,) = {one[1] for one in written(row)._requests}
    estimate = written(replace(row, **{"written_namespace": space, **moved}))
    assert estimate.usage().write_units == 2 * units(size(row))
    assert estimate.stored_bytes() == 0


def test_a_removal_costs_what_it_removes() -> None:
    rows = [replace(league(f"l{n}"), written_namespace="football") for n in range(3)]
    estimate = Estimate(500)
    for row in rows:
        estimate.remove(row, MODEL)
    assert estimate.usage().write_units == units(sum(map(size, rows)))
    assert estimate.stored_bytes() == -sum(map(size, rows))
    never_written = Estimate(500)
    never_written.remove(league("one"), MODEL)
    assert never_written.usage().write_units == 0


def test_each_request_costs_five_units_at_least() -> None:
    small = Model("small", 2)
    estimate = Estimate(batch=1)
    for n in range(4):
        estimate.write(league(f"l{n}"), small)
    assert estimate.usage().write_units == 4 * LEAST_UNITS


def test_requests_are_cut_by_the_bytes_that_one_may_send() -> None:
    """106 records of 1,536 numbers, each printed in 12 bytes."""
    rows = [league("same")] * 212
    assert written(*rows).usage().write_units == 2 * units(106 * size(rows[0]))


def held(kind: EntityType, sink: str) -> dict[str, int]:
    return {}


def planner(**changes: Any) -> Planner:
    return Planner(TOPOLOGY, MODEL, load_prices(), lambda model, hashes: set(), held, **changes)


def test_a_question_costs_a_quarter_of_a_unit_and_more_in_a_large_namespace() -> None:
    row = league("one")
    estimate = Estimate(500)
    for _ in range(9):
        estimate.ask(row, MODEL)
    assert estimate.usage() == Usage(read_units=3)
    large = Estimate(500)
    large.hold(row.entity_type, {namespace(row): 1_000_000})
    large.ask(row, MODEL)
    assert large.usage().read_units == -(-1_000_000 * size(row) // 10**9) == 7


def test_questions_to_the_index_are_those_of_new_vectors() -> None:
    row = league("one")
    indexed = planner()
    indexed.topology = Topology(
        (*(one for one in TOPOLOGY.sinks if not one.follows), index_similarity("pinecone").traits)
    )
    indexed.write(
        row.entity_type,
        [row, replace(row, embedding_text_hash=row.text_hash, embedding_model=MODEL.name)],
        {},
    )
    writes = {one.sink: (one.writes, one.usage.read_units) for one in indexed.plan().sinks}
    assert (writes["similarity"], writes["pinecone"]) == ((1, 0), (2, 1))


def test_equal_texts_are_paid_once() -> None:
    rows = [league(f"l{n}", description="The same.") for n in range(3)]
    plan = planner()
    plan.write(rows[0].entity_type, rows, {})
    (counts,) = plan.plan().types.values()
    assert (counts.written, counts.texts, counts.stored) == (3, 1, 2)


def test_a_text_with_a_stored_vector_costs_nothing() -> None:
    row = league("one")
    plan = Planner(TOPOLOGY, MODEL, load_prices(), lambda model, hashes: set(hashes), held)
    plan.write(row.entity_type, [row], {})
    found = plan.plan()
    assert (found.usage.tokens, found.types[row.entity_type].stored) == (0, 1)
    assert {one.sink: one.writes for one in found.sinks}["pinecone"] == 1


def test_tokens_of_an_unknown_model_are_an_upper_bound_without_a_price() -> None:
    plan = planner()
    plan.model = Model("of-my-own", 4)
    row = league("one")
    plan.write(row.entity_type, [row], {})
    found = plan.plan()
    assert (found.exact, found.dollars) == (False, None)
    assert found.usage.tokens > 0


@pytest.mark.parametrize("cut", [True, False])
def test_a_text_over_the_limit_is_named_or_cut(cut: bool) -> None:
    row = example("long", input_text="word " * 9000)
    plan = planner(cut_long=cut)
    plan.write(row.entity_type, [row], {})
    found = plan.plan()
    assert found.usage.tokens == (8192 if cut else 0)
    assert [one.key for one in found.too_long] == ([] if cut else ["long"])
    writes = {one.sink: one.writes for one in found.sinks}
    assert writes["pinecone"] == int(cut)
    assert writes["neo4j"] == 1


def test_a_second_model_embeds_and_keeps_each_written_row_too() -> None:
    row = league("one")
    held = replace(row, embedding_text_hash=row.text_hash, embedding_model=MODEL.name)
    plan = planner()
    plan.beside = planner()
    plan.beside.model = Model("text-embedding-3-large", 256)
    plan.write(row.entity_type, [held], {})
    found = {one.sink: one for one in plan.plan().sinks}
    assert (found["embedding"].writes, found["shadow_embedding"].writes) == (0, 1)
    assert (found["pinecone"].writes, found["shadow_pinecone"].writes) == (1, 1)
    tokens = found["shadow_embedding"].usage.tokens
    assert found["shadow_embedding"].dollars == pytest.approx(
        tokens * load_prices().tokens["text-embedding-3-large"]
    )
    assert "shadow_neo4j" not in found


def test_a_backfill_leaves_the_indexes_of_a_second_model() -> None:
    row = league("one")
    plan = planner()
    plan.beside = planner()
    plan.write(row.entity_type, [row], {}, ["pinecone"])
    assert not [one for one in plan.plan().sinks if one.sink.startswith("shadow_")]


def test_a_sink_that_holds_the_row_already_is_not_written() -> None:
    row = league("one")
    row = replace(row, embedding_text_hash=row.text_hash, embedding_model=MODEL.name)
    plan = planner(beside=planner())
    plan.write(row.entity_type, [row], {}, current={row.id: ["pinecone"]})
    found = plan.plan()
    assert {one.sink: one.writes for one in found.sinks if one.writes} == {"neo4j": 1}
    assert not found.usage
