"""Lists on their way to PostgreSQL: what is sent is what was meant."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from altsync import db

ONE, TWO = UUID(int=1), UUID(int=2**128 - 1)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("text", ['"', "\\", '\\"', "{a,b}", "a,b", "NULL", "null", "", " ", "\n", "ü🏆", "%s"]),
        ("text", ["there", None]),
        ("text", [None, None]),
        ("text", []),
        ("uuid", [ONE, TWO]),
        ("uuid", [ONE, None]),
        ("bigint", [0, -1, 2**62]),
        ("bool", [True, False]),
        ("float8", [0.1, 1e300]),
    ],
)
def test_arrays_arrive(conn: db.Conn, kind: str, values: list[Any]) -> None:
    """Of every type that statements of this project get."""
    assert conn.execute(f"SELECT %s::{kind}[]", (values,)).fetchone() == (values,)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))))
def test_any_texts(conn: db.Conn, values: list[str]) -> None:
    """Whatever is in them."""
    assert conn.execute("SELECT %s::text[]", (values,)).fetchone() == (values,)


def test_what_no_text_may_hold_is_refused(conn: db.Conn) -> None:
    """As it is alone."""
    with pytest.raises(psycopg.DataError):
        conn.execute("SELECT %s::text[]", (["a\x00b"],))
