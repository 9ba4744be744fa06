"""A database of the first release is brought up to date in place, with all that it holds."""

from __future__ import annotations

from pathlib import Path

from psycopg import sql

from altsync import db, revisions, schema
from altsync.seed.loader import Loader
from altsync.seed.options import SeedOptions
from altsync.seed.report import SeedReport
from tests import sports
from tests.conftest import TOPOLOGY

SEEDS = Path(__file__).parents[2] / "seeds"

#: Tables of the first revision that seeding fills, parents first.
TABLES = (
    *("sport_archetype", "league", "few_shot_example", "league_relationship"),
    *("document", "contract", "tag_registry", "sink_state"),
)

#: Columns of entities that had another name at the first revision.
RENAMED = {"neighbours_of": "neighbours_input_hash"}


def seed(url: str) -> SeedReport:
    """Load the shipped seeds."""
    report = SeedReport(None)
    with db.connect(url) as conn:
        Loader(conn, TOPOLOGY, SeedOptions(SEEDS, sports.PARTS), report).run()
    return report


def columns(conn: db.Conn, table: str) -> list[str]:
    """Columns that hold a value of their own, in their order."""
    rows = conn.execute(
        """
        SELECT attname FROM pg_attribute
        WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
        ORDER BY attnum
        """,
        (table,),
    )
    return [row[0] for row in rows]


def copy_into(source: db.Conn, target: db.Conn, table: str) -> None:
    """Copy a table's rows, as far as both tables have their columns."""
    kept = columns(source, table)
    older = [name for name in columns(target, table) if RENAMED.get(name, name) in kept]
    names = sql.SQL(", ").join(map(sql.Identifier, older))
    now = sql.SQL(", ").join(sql.Identifier(RENAMED.get(name, name)) for name in older)
    out = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT").format(now, sql.Identifier(table))
    into = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), names)
    with (
        source.cursor() as reader,
        target.cursor() as writer,
        reader.copy(out) as read,
        writer.copy(into) as write,
    ):
        for block in read:
            write.write(block)


def test_a_database_of_the_first_revision_keeps_its_rows(
    database_url: str, empty_database_url: str
) -> None:
    """Not one line of the shipped seeds is new to it, and nothing is sent again."""
    seed(database_url)
    revisions.migrate(empty_database_url, "0001")
    with db.connect(database_url) as source, db.connect(empty_database_url) as target:
        for table in TABLES:
            copy_into(source, target, table)
    done = schema.migrate(empty_database_url)
    assert (done.refused, done.notes) == ((), ())
    assert not any("CREATE TABLE" in one for one in done.statements)
    assert schema.plan(empty_database_url).statements == ()
    total = seed(empty_database_url).total
    assert (total.created, total.updated, total.operations, total.rejected) == (0, 0, 0, 0)
    assert total.unchanged == total.processed
