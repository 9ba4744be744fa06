"""Rows of texts reach PostgreSQL by COPY as they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from altsync.arrays import array_of_texts
from altsync.copying import copy_rows
from altsync.db import Conn, connect
from tests import sports
from tests.integration.database_fixture import DatabaseFixture
from tests.integration.seeds import example_line, league_line, seed, short, write

#: The database is the same for every example, and nothing is kept.
same_database = settings(
    max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

#: Texts in which what a line of COPY is made of stands for itself.
hostile = st.text(st.sampled_from("\\\t\n\r\b\f\vNbx0.1\"'{},é🏎 \u2028\x7f\x85"))
storable = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
texts = hostile | storable | st.sampled_from(["", "\\N", "\\.", "\\", "\\\\N", "NULL", "\r\n"])

#: Names and values of an attribute as seeds may give them.
members = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | texts
json = st.dictionaries(texts, st.recursive(members, lambda inner: st.lists(inner, max_size=3)))


def copied(conn: Conn, kind: str, lines: Sequence[Sequence[str | None]]) -> list[tuple[Any, ...]]:
    """The rows as PostgreSQL has understood them, in their order."""
    columns = [f"c{n}" for n in range(len(lines[0]))]
    with conn.transaction(force_rollback=True):
        declared = ", ".join(f"{name} {kind}" for name in columns)
        conn.execute(
            f"CREATE TEMP TABLE copied (place int GENERATED ALWAYS AS IDENTITY, {declared})"
        )
        copy_rows(conn, "copied", columns, lines)
        return conn.execute(f"SELECT {', '.join(columns)} FROM copied ORDER BY place").fetchall()


@same_database
@example([("\\N", None, ""), (None, "\\", "\t"), ("", "", ""), (None, None, None)])
@example([("\\.", "\n", "\r"), ("\\\\N", "a\\", "\\tb")])
@given(st.lists(st.tuples(*[st.none() | texts] * 3), min_size=1))
def test_texts(conn: Conn, lines: list[tuple[str | None, ...]]) -> None:
    """Backslashes, tabs, ends of lines, quotes, emoji, nothing, and what means NULL or the end."""
    assert copied(conn, "text", lines) == lines


@same_database
@example([""])
@example([None])
@example(["\\."])
@given(st.lists(st.none() | texts, min_size=1))
def test_a_single_column(conn: Conn, values: list[str | None]) -> None:
    """A line may be empty, or look like the end of the data."""
    assert copied(conn, "text", [(value,) for value in values]) == [(v,) for v in values]


@same_database
@given(st.lists(json, min_size=1, max_size=5))
def test_json(conn: Conn, values: list[dict[str, Any]]) -> None:
    """JSON has backslashes of its own."""
    lines = [(orjson.dumps(value).decode(),) for value in values]
    assert copied(conn, "jsonb", lines) == [(value,) for value in values]


@same_database
@given(st.lists(st.lists(texts), min_size=1, max_size=5))
def test_arrays(conn: Conn, values: list[list[str]]) -> None:
    """So have arrays."""
    lines = [(array_of_texts(value),) for value in values]
    assert copied(conn, "text[]", lines) == [(value,) for value in values]


def test_another_encoding_of_the_session(database_url: str) -> None:
    """Rows are sent in the encoding of the session."""
    with connect(database_url) as conn:
        conn.execute("SET client_encoding = 'LATIN1'")
        assert copied(conn, "text", [("é",), ("ÿ",)]) == [("é",), ("ÿ",)]


def test_what_cannot_be_stored_is_refused(conn: Conn) -> None:
    """PostgreSQL has no place for it, and nothing is cut off silently."""
    with pytest.raises(psycopg.DataError):
        copied(conn, "text", [("fine",), ("to\x00rn",)])
    with pytest.raises(UnicodeEncodeError):
        copied(conn, "text", [("half \ud83c",)])


def test_hostile_seeds_are_stored_as_they_say(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Ids, names, texts, attributes and tags of examples, from the file to the row."""
    nasty = 'tab\t line\n cr\r quote" \\N \\. back\\slash {a,b} 🏎'
    more = {"note": nasty, nasty: [nasty, None, {"deep": "\\"}], "empty": {}}
    write(tmp_path, "leagues.jsonl", [league_line(nasty, league_name=nasty, tier="\\N", **more)])
    tags = [nasty, "NULL", "\\N", "a,b"]
    write(tmp_path, "examples/x.jsonl", [example_line("e1", tags=tags, output_text=nasty, **more)])
    assert short(seed(pg, tmp_path).parts[sports.LEAGUES]) == (1, 1, 0, 0, 0, 0)
    assert pg.conn.execute(
        "SELECT seed_id, league_name, tier, location, status, attributes FROM league"
    ).fetchall() == [(nasty, nasty, "\\N", None, "active", more)]
    assert pg.conn.execute(
        "SELECT example_id, output_text, sport_archetype, tags, attributes FROM few_shot_example"
    ).fetchall() == [("e1", nasty, None, tags, more)]
    assert short(seed(pg, tmp_path).total) == (2, 0, 0, 2, 0, 0)
