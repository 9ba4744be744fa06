"""Bytes of a league on PostgreSQL's disk, and in its write-ahead log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from altsync.db import Database
from altsync.delivery import Delivery, Policy
from benchmarks import sinks
from benchmarks.bench import DIMENSIONS, TOPOLOGY, Bench
from benchmarks.loading import seed, seeding, write_leagues
from benchmarks.report import Figure, Measured
from tests.acceptance.stack import SINKS

NUMBER = 10
TITLE = "What a league takes"

ROWS = 20_000

#: Data of a league, by table.
KEPT = {
    "league": "the league",
    "tag_registry": "its tag",
    "sync_operation": "its three operations",
    "embedding": "its vector",
}


def measure(bench: Bench) -> Figure:
    """New leagues with short texts, seeded and then delivered to sinks that keep nothing."""
    folder = bench.folder / "sizes"
    write_leagues(folder, ROWS)
    measured: list[Measured] = []
    with (
        bench.database() as url,
        psycopg.connect(url, autocommit=True) as conn,
        psycopg.connect(bench.postgres.superuser_url, autocommit=True) as superuser,
    ):
        seeded = seeding(url)
        logging = _logging(superuser, "seeding", measured)
        with bench.doing("seeding"), logging, seeded as session:
            seed(session, folder)
        for sink in SINKS:
            with bench.doing(f"delivering to {sink}"), _logging(superuser, sink, measured):
                _deliver(url, sink)
        conn.execute("VACUUM")
        measured += [_kept(conn, table, what) for table, what in KEPT.items()]
    return Figure(
        NUMBER,
        TITLE,
        measured,
        [],
        [
            f"Bytes a league, indexes and what is free in their pages included; vectors of "
            f"{DIMENSIONS:,} numbers. Each step's log begins after a checkpoint, so it holds every "
            "page that was touched once as a whole.",
        ],
    )


@contextmanager
def _logging(conn: psycopg.Connection, step: str, measured: list[Measured]) -> Iterator[None]:
    """Measure the log of the block."""
    conn.execute("CHECKPOINT")
    begin = conn.execute("SELECT pg_current_wal_lsn()").fetchone()
    yield
    row = conn.execute("SELECT pg_current_wal_lsn() - %s::pg_lsn", begin).fetchone()
    assert row is not None
    measured.append(Measured(f"log of {step}", ROWS, 0, {"bytes": round(float(row[0]) / ROWS)}))


def _deliver(url: str, sink: str) -> None:
    database = Database(url)
    opened = sinks.open_sink(sink, database)
    Delivery(database, opened, TOPOLOGY, Policy(), worker="bench").drain(float("inf"))
    database.close()


def _kept(conn: psycopg.Connection, table: str, what: str) -> Measured:
    row = conn.execute("SELECT pg_total_relation_size(%s)", (table,)).fetchone()
    assert row is not None
    return Measured(what, ROWS, 0, {"bytes": round(row[0] / ROWS)})
