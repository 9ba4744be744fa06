"""Ten times the rows take ten times as long, and no more memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import psycopg

from altsync import log
from altsync.db import Database
from altsync.delivery import Delivery, Policy
from benchmarks import sinks
from benchmarks.bench import LARGE, TOPOLOGY, Bench, until
from benchmarks.loading import seed, seeding, write_leagues
from benchmarks.processes import in_own_process, peak_megabytes
from benchmarks.report import Figure, Gate, Measured
from tests.acceptance.stack import SINKS

NUMBER = 8
TITLE = "Scale"

#: Rows of the series, and what a full run adds.
SIZES, FULL_SIZES = (10_000, 100_000), (1_000_000,)

#: Rows that a full run sends through the embedded stack.
EMBEDDED = 100_000

#: Numbers of a vector here: a million of 1,536 would be 8 GB.
DIMENSIONS = 256

#: How much longer than ten times as long ten times the rows may take.
LINEAR = 1.1

#: Megabytes (of 2^20 bytes) that a seeder and a worker may have resident.
SEEDER_MEGABYTES, WORKER_MEGABYTES = 200, 300

_LEFT_OUT = "A full run adds 1,000,000 rows, and 100,000 through the embedded stack."


def measure(bench: Bench) -> Figure:
    """Seeder and workers in processes of their own, one after the other."""
    sizes = (*SIZES, *(FULL_SIZES if bench.full else ()))
    series = [_through(bench, size) for size in sizes]
    seeded, delivered = [list(steps) for steps in zip(*series, strict=True)]
    embedded = [_embedded(bench)] if bench.full else []
    return Figure(
        NUMBER,
        TITLE,
        [*seeded, *delivered, *embedded],
        [
            Gate("seeding: time against ten times the next smaller", _bend(seeded), LINEAR, False),
            Gate("pipeline: time against the same", _bend(delivered), LINEAR, False),
            Gate("seeder, MB resident at most", _most(seeded), SEEDER_MEGABYTES, False),
            Gate(
                "worker, MB resident at most",
                _most([*delivered, *embedded]),
                WORKER_MEGABYTES,
                False,
            ),
        ],
        [
            f"Delivery is embedding, neo4j and pinecone, each until nothing is due, with sinks in "
            f"the worker's memory that project every row and keep none; vectors of {DIMENSIONS} "
            f"numbers. Resident memory is the largest that a process ever had. Of the embedded "
            "stack it is a whole Celery worker's, with vectors of 1,536 numbers.",
            "PostgreSQL for the series: " + ", ".join(f"{k} = {v}" for k, v in LARGE.items()) + ".",
            *(() if bench.full else (_LEFT_OUT,)),
        ],
    )


def _through(bench: Bench, rows: int) -> tuple[Measured, Measured]:
    """Seeding, then all sinks."""
    folder = bench.folder / f"scale-{rows}"
    write_leagues(folder, rows)
    with bench.database(DIMENSIONS, bench.large_postgres) as url:
        with bench.doing(f"seeding {rows:,} leagues"):
            seconds, megabytes = in_own_process(_seed, url, folder)
        seeded = Measured(f"seeding {rows:,}", rows, seconds, {"MB": megabytes})
        drained = {}
        for sink in SINKS:
            with bench.doing(f"delivering {rows:,} leagues to {sink}"):
                drained[sink] = in_own_process(_deliver, url, sink)
        _assert_synced(url, rows)
    (folder / "leagues/generated.jsonl").unlink()
    delivered = Measured(
        f"embedding, neo4j and pinecone, {rows:,}",
        rows,
        sum(seconds for seconds, _ in drained.values()),
        {
            "MB": max(megabytes for _, megabytes in drained.values()),
            **{f"s {sink}": seconds for sink, (seconds, _) in drained.items()},
        },
    )
    return seeded, delivered


def _seed(url: str, folder: Path) -> tuple[float, float]:
    """Seconds, and megabytes resident at most."""
    log.set_up(level="WARNING", form="json")
    with seeding(url) as conn:
        run = seed(conn, folder)
    return run.seconds, peak_megabytes()


def _deliver(url: str, sink: str) -> tuple[float, float]:
    """Seconds, and megabytes resident at most."""
    log.set_up(level="WARNING", form="json")
    database = Database(url)
    delivery = Delivery(
        database, sinks.open_sink(sink, database), TOPOLOGY, Policy(), worker="bench"
    )
    drained = delivery.drain(float("inf"))
    database.close()
    return drained.seconds, peak_megabytes()


def _assert_synced(url: str, rows: int) -> None:
    with psycopg.connect(url) as conn:
        synced = conn.execute(
            "SELECT count(*) FROM league WHERE embedding_sync_status = 'synced' "
            "AND neo4j_sync_status = 'synced' AND pinecone_sync_status = 'synced'"
        ).fetchone()
    assert synced == (rows,), f"{synced} of {rows} are synced"


def _embedded(bench: Bench) -> Measured:
    """Real processes and clients: relay, a worker for each sink, ArcadeDB, the local Pinecone."""
    stack = bench.stack
    stack.reset()
    folder = bench.folder / "scale-embedded"
    write_leagues(folder, EMBEDDED)
    with bench.doing(f"{EMBEDDED:,} leagues through the embedded stack"):
        stack.start_relay()
        workers = [stack.start_worker(sink) for sink in SINKS]
        stack.seed("--leagues", "--dir", str(folder))
        until(lambda: stack.live() == 0, "the embedded stack", stack.running)
        memory = max(peak_megabytes(worker.pid) for worker in workers)
    nodes = stack.cypher("MATCH (n:League) RETURN count(n) AS n")[0]["n"]
    assert nodes == EMBEDDED, f"{nodes} nodes"
    held = max(index.describe_index_stats().total_vector_count for index in stack.indexes.values())
    assert held == EMBEDDED, f"{held} vectors"
    seconds = stack.rows(
        "SELECT EXTRACT(epoch FROM max(finished_at) - min(created_at))::float8 FROM sync_operation"
    )[0][0]
    stack.kill_all()
    return Measured("JSONL to all stores, embedded stack", EMBEDDED, seconds, {"MB": memory})


def _bend(series: Sequence[Measured]) -> float:
    """How many times longer a row took in the largest run than in the next smaller one."""
    smaller, largest = series[-2:]
    return smaller.rate / largest.rate


def _most(series: Sequence[Measured]) -> float:
    return max(measured.counts["MB"] for measured in series)
