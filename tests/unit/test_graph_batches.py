"""How rows are cut into transactions of the graph, by count and by bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from uuid import uuid4

import pytest

from altsync.entities import Edge, Row
from altsync.sinks.neo4j import write as neo4j
from tests.contract.rows import MODEL, deleted, example, league

#: Bytes of the longest line of a seed, so of the longest text.
LINE = 2**20


@pytest.fixture
def sink() -> Iterator[neo4j.Sink]:
    opened = neo4j.Sink("bolt://127.0.0.1:1", None, database=None, timeout=1.0)
    yield opened
    opened.close()


def sizes(parts: Sequence[Sequence[Row]], rows: Sequence[Row]) -> list[int]:
    """Rows per part; each row is in one of them, in its order."""
    assert [row for part in parts for row in part] == list(rows)
    return [len(part) for part in parts]


def test_five_hundred_long_descriptions_are_many_transactions(sink: neo4j.Sink) -> None:
    one = league(description="x" * LINE)
    rows = [replace(one, key=f"l{n}") for n in range(500)]
    found = sizes(sink.split(rows, MODEL), rows)
    assert max(found) * LINE <= neo4j.MAX_BYTES
    assert len(found) == 167


def test_bytes_count_and_not_characters(sink: neo4j.Sink) -> None:
    rows = [league(f"l{n}", description="\U0001f3c6" * (LINE // 4)) for n in range(8)]
    assert sizes(sink.split(rows, MODEL), rows) == [3, 3, 2]


def test_tags_of_examples_count(sink: neo4j.Sink) -> None:
    rows = [example(f"e{n}", tags=tuple("x" * 1024 for _ in range(1024))) for n in range(8)]
    assert sizes(sink.split(rows, MODEL), rows) == [3, 3, 2]


def test_relationships_count(sink: neo4j.Sink) -> None:
    edges = tuple(Edge(uuid4(), "SIMILAR_TO", f"t{n}", 1, 0.9) for n in range(10_000))
    rows = [replace(league(f"l{n}"), edges=edges) for n in range(4)]
    assert max(sizes(sink.split(rows, MODEL), rows)) == 1


def test_a_row_above_the_limit_goes_alone(sink: neo4j.Sink) -> None:
    rows = [
        league("a"),
        league("b", description="x" * (neo4j.MAX_BYTES + 1)),
        league("c"),
        league("d"),
    ]
    assert sizes(sink.split(rows, MODEL), rows) == [1, 1, 2]


def test_small_rows_are_cut_by_count(sink: neo4j.Sink) -> None:
    rows = [league(f"l{n}") for n in range(1200)]
    assert sizes(sink.split(rows, MODEL), rows) == [500, 500, 200]


def test_deletions_are_cut_by_count(sink: neo4j.Sink) -> None:
    """Of a deleted row only its key is sent, however long its text was."""
    one = deleted(league(description="x" * LINE), 11)
    rows = [replace(one, key=f"l{n}") for n in range(1200)]
    assert sizes(sink.split(rows, MODEL), rows) == [500, 500, 200]


def test_no_rows_are_no_transaction(sink: neo4j.Sink) -> None:
    assert sink.split([], MODEL) == []
