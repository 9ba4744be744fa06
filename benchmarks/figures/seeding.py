"""New leagues from JSONL to rows and operations, beside COPY and beside a script with an ORM."""

from __future__ import annotations

from pathlib import Path

from benchmarks.bench import Bench, medians
from benchmarks.loading import copied, copied_whole, one_by_one, seed, seeding, write_leagues
from benchmarks.report import Figure, Gate, Measured

NUMBER = 1
TITLE = "Seeding with the outbox"

ROWS = 20_000

#: Rows that the ORM gets: enough for a rate, in seconds instead of minutes.
ORM_ROWS = 1_000


def measure(bench: Bench) -> Figure:
    """Medians of five runs, each into an empty database."""
    folder = bench.folder / "seeding"
    write_leagues(folder, ROWS)
    with bench.doing(f"COPY and seeding of {ROWS:,} leagues by turns"), bench.database() as url:
        copy, bare, whole, seeded = medians(
            lambda: copied(url, ROWS, indexed=True),
            lambda: copied(url, ROWS, indexed=False),
            lambda: copied_whole(url, ROWS),
            lambda: _seeded(bench, folder),
            times=5,
        )
    with bench.doing(f"{ORM_ROWS:,} rows through the ORM"), bench.database() as url:
        orm = one_by_one(url, ORM_ROWS)
    return Figure(
        NUMBER,
        TITLE,
        [copy, bare, whole, seeded, orm],
        [
            Gate("rate against raw COPY", seeded.rate / copy.rate, 0.5),
            Gate("rate against the ORM", seeded.rate / orm.rate, 100),
            Gate("operations per league", seeded.counts["operations"] / ROWS, 2),
        ],
        [
            "altsync reads and checks JSONL, hashes, gives tags, upserts and enqueues two "
            "operations a row; COPY gets bytes that are ready.",
            f"Nothing that writes all of it can pass {whole.rate / copy.rate:.2f} of raw COPY on "
            f"one connection; seeding reaches {seeded.rate / whole.rate:.2f} of that.",
        ],
    )


def _seeded(bench: Bench, folder: Path) -> Measured:
    with bench.database() as url, seeding(url) as conn:
        run = seed(conn, folder)
    return Measured(
        "altsync: JSONL to rows and operations",
        run.report.total.created,
        run.seconds,
        {"operations": run.report.total.operations, "Python µs a line": run.microseconds},
    )
