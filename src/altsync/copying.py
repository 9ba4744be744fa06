"""Write rows to PostgreSQL by COPY."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from altsync.db import Conn

#: Characters with a meaning of their own in COPY, and how a value holds them.
#: https://www.postgresql.org/docs/current/sql-copy.html, "Text Format"
_ESCAPED = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
_NULL = r"\N"


def copy_rows(
    conn: Conn, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """COPY rows into columns of a table. Names come from closed sets of the source."""
    statement = f"COPY {table} ({', '.join(columns)}) FROM STDIN"
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)


def copy_line(values: Sequence[str | None]) -> bytes:
    """Return a row in COPY's text format. Each value is in the text form of its column's type.

    It is a few times as fast as psycopg, and needs no connection, so another thread may call it.
    """
    line = "\t".join([_NULL if value is None else value for value in values])
    # Escape only the few rows that hold such a character beyond separators and NULL.
    if (
        line.count("\\") != values.count(None)
        or line.count("\t") != len(values) - 1
        or "\n" in line
        or "\r" in line
    ):
        line = "\t".join([_NULL if v is None else v.translate(_ESCAPED) for v in values])
    return f"{line}\n".encode()


def copy_lines(conn: Conn, table: str, columns: Sequence[str], lines: Iterable[bytes]) -> None:
    """COPY lines into columns of a table. Names come from closed sets of the source."""
    statement = f"COPY {table} ({', '.join(columns)}) FROM STDIN (ENCODING 'UTF8')"
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(b"".join(lines))


def fill(conn: Conn, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Replace the rows of a temporary table by COPY.

    ON COMMIT DELETE ROWS is not used: each commit would empty every such table, filled or not.
    """
    conn.execute(f"TRUNCATE {table}")
    copy_rows(conn, table, columns, rows)


def fill_lines(conn: Conn, table: str, columns: Sequence[str], lines: Iterable[bytes]) -> None:
    """Replace the rows of a temporary table by COPY of lines."""
    conn.execute(f"TRUNCATE {table}")
    copy_lines(conn, table, columns, lines)
