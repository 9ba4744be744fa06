"""The table of finished operations by month that ``docs/scaling.md`` tells of."""

from __future__ import annotations

import pytest

from altsync.db import Database
from tests.docs_blocks.blocks import ROOT, blocks_of
from tests.integration.database_fixture import DatabaseFixture, embed, league

#: The recipe is the page's only SQL.
(RECIPE,) = [b.body for b in blocks_of(ROOT / "docs" / "scaling.md") if b.language == "sql"]

#: Finished in one month, in the next, and in one that had been copied before.
ENDS = ("2026-11-15", "2026-12-03", "2026-10-31")


@pytest.fixture
def finished(pg: DatabaseFixture, database: Database) -> int:
    """Embedded leagues: one finished operation each, in the months above, others still live."""
    pg.save(*(league(f"l{number}") for number in range(len(ENDS))))
    embed(database)
    pg.conn.execute(
        """
        UPDATE sync_operation o SET finished_at = e.at::timestamptz
        FROM unnest(%s::text[], %s::text[]) AS e(at, key)
        WHERE o.entity_key = e.key AND o.finished_at IS NOT NULL
        """,
        (list(ENDS), [f"l{number}" for number in range(len(ENDS))]),
    )
    return len(ENDS)


def test_history_is_copied_once_however_often(pg: DatabaseFixture, finished: int) -> None:
    """Live operations are left out, and existing rows stay as they are."""
    made, copying = RECIPE.split("INSERT", 1)
    with pg.conn.transaction():
        for statement in made.split(";"):
            if statement.strip():
                pg.conn.execute(statement)
    try:
        counts = []
        for _ in range(2):
            pg.conn.execute(f"INSERT{copying}")
            row = pg.conn.execute(
                "SELECT count(*), count(*) FILTER (WHERE status = 'synced') FROM sync_history"
            ).fetchone()
            counts.append(row)
        assert counts == [(finished - 1, finished - 1)] * 2
    finally:
        pg.conn.execute("DROP TABLE sync_history")
