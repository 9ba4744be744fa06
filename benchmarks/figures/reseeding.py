"""Seed the same files again: unchanged lines cost a read, changed ones their operations."""

from __future__ import annotations

from pathlib import Path

from altsync.db import Conn
from benchmarks.bench import Bench, medians
from benchmarks.loading import copied, seed, seeding, write_leagues
from benchmarks.report import Figure, Gate, Measured

NUMBER = 2
TITLE = "Seeding again"

ROWS = 20_000

#: One in a hundred, spread over the file.
EDITED = frozenset(range(0, ROWS, 100))


def measure(bench: Bench) -> Figure:
    """Medians of nine short runs over rows that are there already."""
    same, edited = bench.folder / "same", bench.folder / "edited"
    write_leagues(same, ROWS)
    write_leagues(edited, ROWS, EDITED)
    with bench.database() as url, seeding(url) as conn:
        with bench.doing(f"seeding {ROWS:,} leagues"):
            seed(conn, same)
        conn.execute("VACUUM ANALYZE")
        with bench.doing("COPY, and seeding them again, by turns"):
            copy, unchanged = medians(
                lambda: copied(url, ROWS, indexed=True),
                lambda: _again(conn, same, "altsync: nothing changed"),
                times=9,
            )
        with bench.doing("seeding with 1 % edited"):
            changed = _again(conn, edited, "altsync: 1 % edited")
    operations = changed.counts["operations"]
    return Figure(
        NUMBER,
        TITLE,
        [copy, unchanged, changed],
        [
            Gate("unchanged, rate against raw COPY", unchanged.rate / copy.rate, 0.6),
            Gate("unchanged, operations", unchanged.counts["operations"], 0, at_least=False),
            Gate("1 % edited, operations beyond those of edited rows", _off(operations), 0, False),
        ],
        [
            "Every operation that is not there is a remote call that is not made.",
            f"An edited row has {_PER_ROW} operations: neo4j, and embedding as its text is new.",
        ],
    )


#: Operations of a row whose text changed.
_PER_ROW = 2


def _off(operations: float) -> float:
    return abs(operations - _PER_ROW * len(EDITED))


def _again(conn: Conn, folder: Path, what: str) -> Measured:
    enqueued = _newest(conn)
    run = seed(conn, folder)
    total = run.report.total
    counts = {
        "operations": total.operations,
        "updated": total.updated,
        "Python µs a line": run.microseconds,
    }
    if counts["operations"] == 0 and _newest(conn) != enqueued:
        raise AssertionError("the report tells of no operation, but the outbox has a new one")
    return Measured(what, total.processed, run.seconds, counts)


def _newest(conn: Conn) -> int:
    row = conn.execute("SELECT max(id) FROM sync_operation").fetchone()
    assert row is not None
    return int(row[0])
