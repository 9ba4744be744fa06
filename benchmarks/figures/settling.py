"""Claiming and settling with statuses on the entities, beside one task or job for each row."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psycopg

from benchmarks.bench import Bench, medians, until
from benchmarks.outboxes import changed_in_place, drain, fill
from benchmarks.peers import celery_rows
from benchmarks.processors import server_seconds
from benchmarks.report import Figure, Gate, Measured
from tests.acceptance.stack import Running

NUMBER = 3
TITLE = "Claim and settle"

ROWS = 20_000

#: Finished operations in the way of those that wait.
HISTORY = 300_000

#: Rows for those that take seconds for a thousand.
PEER_ROWS = 3_000


def measure(bench: Bench) -> Figure:
    """Medians of three runs of altsync and of Celery, by turns; one run of the other peers."""
    from benchmarks.peers import pgqueuer_jobs, procrastinate_jobs  # in their own environment

    celery, celery_four, one, four, crowded = medians(
        lambda: _celery(bench, 1),
        lambda: _celery(bench, 4),
        lambda: _drained(bench, 1),
        lambda: _drained(bench, 4),
        lambda: _drained(bench, 1, HISTORY),
    )
    with bench.doing(f"pgqueuer, {ROWS:,} jobs"), bench.database() as url:
        pgqueuer = Measured("pgqueuer, one process", ROWS, pgqueuer_jobs.drained(url, ROWS))
    with bench.doing(f"procrastinate, {PEER_ROWS:,} jobs"), bench.database() as url:
        seconds = procrastinate_jobs.drained(url, PEER_ROWS)
        procrastinate = Measured("procrastinate, one process", PEER_ROWS, seconds)
    return Figure(
        NUMBER,
        TITLE,
        [celery, celery_four, pgqueuer, procrastinate, one, four, crowded],
        [
            Gate("1 process against one Celery task a row", one.rate / celery.rate, 30),
            Gate("4 processes against one Celery task a row", four.rate / celery.rate, 50),
            Gate("300,000 finished rows, times slower", one.rate / crowded.rate, 1.3, False),
        ],
        [
            "altsync leases, settles under the lease, and flips the entity's status if its version "
            "still is the one that was written. The Celery task sets the same columns in one "
            "statement; jobs of pgqueuer and procrastinate do nothing at all.",
            "Celery is timed from its first row to its last, with all messages sent beforehand.",
            "µs a row are of processors: PostgreSQL's with all that it does in the background, and "
            "those of the processes that claim and settle.",
        ],
    )


def _drained(bench: Bench, processes: int, finished: int = 0) -> Measured:
    what = f"altsync, {processes} process{'es' if processes > 1 else ''}"
    what += f", {finished:,} finished rows" if finished else ""
    with bench.doing(f"{what}, {ROWS:,} rows"), bench.database() as url:
        fill(url, ROWS, finished)
        before = server_seconds(url)
        drained = drain(url, processes)
        server = server_seconds(url) - before
        counts = {
            "% HOT": changed_in_place(url),
            "µs a row PostgreSQL": round(1e6 * server / ROWS),
            "µs a row processes": round(1e6 * drained.computing / ROWS),
        }
        return Measured(what, ROWS, drained.seconds, counts)


def _celery(bench: Bench, processes: int) -> Measured:
    """A real worker of forked processes on a real Redis."""
    what = f"Celery, one task a row, {processes} process{'es' if processes > 1 else ''}"
    with bench.doing(f"{what}, {PEER_ROWS:,} rows"), bench.database() as url:
        fill(url, PEER_ROWS)
        with psycopg.connect(url, autocommit=True) as conn:
            _send(bench, [row[0] for row in conn.execute("SELECT id FROM sync_operation")])
            worker = _worker(bench, url, processes)
            try:
                until(lambda: _left(conn) == 0, "every row", [worker])
            finally:
                worker.kill()
            seconds = conn.execute(
                "SELECT EXTRACT(epoch FROM max(finished_at) - min(finished_at))::float8 "
                "FROM sync_operation"
            ).fetchone()
    assert seconds is not None
    return Measured(what, PEER_ROWS, seconds[0])


def _send(bench: Bench, operations: list[int]) -> None:
    celery_rows.app.conf.broker_url = bench.redis.url
    for operation in operations:
        celery_rows.settle_row.delay(operation)


def _worker(bench: Bench, url: str, processes: int) -> Running:
    addresses = {celery_rows.DATABASE: url, celery_rows.BROKER: bench.redis.url}
    command = [
        *(sys.executable, "-m", "celery", "-A", "benchmarks.peers.celery_rows", "worker"),
        *("--pool", "prefork", "--concurrency", str(processes), "-Q", celery_rows.QUEUE),
        *("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"),
    ]
    log = bench.folder / f"celery-{processes}.log"
    return Running("celery", command, {**os.environ, **addresses}, Path.cwd(), log)


def _left(conn: psycopg.Connection) -> int:
    row = conn.execute("SELECT count(*) FROM sync_operation WHERE finished_at IS NULL").fetchone()
    assert row is not None
    return int(row[0])
