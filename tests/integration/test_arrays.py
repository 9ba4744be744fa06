"""Lists reach PostgreSQL as they are, by the short way too on which they are made at one go."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from altsync.db import Conn

#: The database is the same for every example, and nothing is written.
same_database = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

#: Texts in which what an array is made of stands for itself.
hostile = st.text(st.sampled_from("{}\",\\ NULLnull\n\t'é🏎")) | st.just("NULL") | st.just("")
texts = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
bigints = st.integers(-(2**63), 2**63 - 1)


def sent(conn: Conn, kind: str, values: list[Any]) -> list[Any]:
    """The list as PostgreSQL has understood it."""
    row = conn.execute(f"SELECT %s::{kind}[]", (values,)).fetchone()
    assert row is not None
    found: list[Any] = row[0]
    return found


@same_database
@given(values=st.lists(hostile | texts))
def test_texts(conn: Conn, values: list[str]) -> None:
    """Quotes, braces, commas, backslashes, and words that mean something."""
    assert sent(conn, "text", values) == values


@same_database
@given(values=st.lists(st.uuids()))
def test_ids(conn: Conn, values: list[UUID]) -> None:
    """All of their bits."""
    assert sent(conn, "uuid", values) == values


@same_database
@given(values=st.lists(bigints))
def test_numbers(conn: Conn, values: list[int]) -> None:
    """The largest and the smallest, too."""
    assert sent(conn, "bigint", values) == values


@same_database
@given(values=st.lists(st.none() | st.booleans()))
def test_flags_and_gaps(conn: Conn, values: list[bool | None]) -> None:
    """Both, or one of them, or none."""
    assert sent(conn, "boolean", values) == values


@same_database
@given(values=st.lists(st.none() | hostile))
def test_texts_with_gaps(conn: Conn, values: list[str | None]) -> None:
    """A gap is no text."""
    assert sent(conn, "text", values) == values


def test_what_cannot_be_stored_is_refused(conn: Conn) -> None:
    """PostgreSQL has no place for it, and nothing is cut off silently."""
    with pytest.raises(psycopg.DataError, match="NUL"):
        sent(conn, "text", ["fine", "to\x00rn"])
