"""Write rows to PostgreSQL by COPY."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from altsync.db import Conn


def copy_rows(
    conn: Conn, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """COPY rows into columns of a table. Names come from closed sets of the source."""
    statement = f"COPY {table} ({', '.join(columns)}) FROM STDIN"
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)


def fill(conn: Conn, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Replace the rows of a temporary table by COPY.

    ON COMMIT DELETE ROWS is not used: each commit would empty every such table, filled or not.
    """
    conn.execute(f"TRUNCATE {table}")
    copy_rows(conn, table, columns, rows)
