"""An outbox filled to a size, and processes that claim and settle until it is empty."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from uuid import uuid4

import psycopg

from altsync.catalogue.current import current
from altsync.db import Database
from altsync.operations import Operation, Synced
from altsync.outbox.claim import claim
from altsync.outbox.settle import Plan, settle
from benchmarks.bench import TOPOLOGY

#: Operations per claim: what ``ALTSYNC_BATCH_SIZE`` is when nothing else is set.
BATCH = 500

SINK = TOPOLOGY.traits("neo4j")

#: Seconds until every process must have connected.
PATIENCE = 60.0


def fill(url: str, waiting: int, finished: int = 0) -> None:
    """Leagues with one waiting operation each, and a history of finished ones."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(
            """
            INSERT INTO league (id, seed_id, league_tag, league_name, sport_name, sport_archetype,
              description, content_hash, text_hash)
            SELECT gen_random_uuid(), 's' || n, 't' || n, 'League ' || n, 'Football', 'team_sport',
              'Season ' || n || ' of a competition without players.', n, n
            FROM generate_series(1, %s) n
            """,
            (waiting,),
        )
        conn.execute(
            """
            INSERT INTO sync_operation (entity_type, entity_id, entity_key, sink, action, version,
              origin, status, finished_at)
            SELECT 'league', gen_random_uuid(), 't' || n, 'neo4j', 'upsert', 1, 'seed', 'synced',
              now() - make_interval(mins => n)
            FROM generate_series(1, %s) n
            """,
            (finished,),
        )
        conn.execute(
            """
            INSERT INTO sync_operation (entity_type, entity_id, entity_key, sink, action, version,
              origin)
            SELECT 'league', id, league_tag, 'neo4j', 'upsert', version, 'seed' FROM league
            """
        )
        conn.execute("VACUUM ANALYZE")


@dataclass(frozen=True, slots=True)
class DrainResult:
    """Seconds that a drain took, and seconds of processors that its processes took."""

    seconds: float
    computing: float


def drain(url: str, processes: int, size: int = BATCH, latency: float = 0) -> DrainResult:
    """Let so many processes claim and settle all there is.

    ``latency`` are the seconds that a sink would take for each batch of ``size`` rows. Processes
    are started, connected and have read the catalogue before the clock is, which stops at the last
    commit. Raises ``AssertionError`` when an operation or a status is not as it should be at the
    end.
    """
    spawning = multiprocessing.get_context("spawn")
    ready = spawning.Barrier(processes + 1)
    ends: SimpleQueue[tuple[float, float]] = spawning.SimpleQueue()
    arguments = (url, ready, ends, size, latency)
    workers = [spawning.Process(target=_claim_and_settle, args=arguments) for _ in range(processes)]
    for worker in workers:
        worker.start()
    ready.wait(PATIENCE)
    started = time.time()
    for worker in workers:
        worker.join()
    assert not any(worker.exitcode for worker in workers), "a worker died"
    last, computing = zip(*(ends.get() for _ in workers), strict=True)
    with psycopg.connect(url) as conn:
        left = conn.execute(
            "SELECT count(*) FROM sync_operation o JOIN league l ON l.id = o.entity_id "
            "WHERE o.status <> 'synced' OR l.neo4j_sync_status <> 'synced'"
        ).fetchone()
    assert left == (0,), f"{left} operations were not settled"
    return DrainResult(max(last) - started, sum(computing))


def changed_in_place(url: str) -> int:
    """Return the percentage of updates of leagues since ``fill`` that changed no index (HOT)."""
    with psycopg.connect(url) as conn:
        row = conn.execute(
            "SELECT 100 * n_tup_hot_upd / n_tup_upd FROM pg_stat_user_tables "
            "WHERE relname = 'league'"
        ).fetchone()
    assert row is not None
    return int(row[0])


def _claim_and_settle(
    url: str, ready: Barrier, ends: SimpleQueue[tuple[float, float]], size: int, latency: float
) -> None:
    """One worker without its sink: everything that the outbox costs, and how long a call takes.

    Tells when its last batch was committed, as leaving takes a process some tenths of a second,
    and the seconds of a processor that it took until then.
    """
    current()
    database = Database(url)
    with database.autocommit() as conn:
        conn.execute("SELECT 1")
    ready.wait(PATIENCE)
    end, began = 0.0, time.process_time()
    while _one_batch(database, size, latency):
        end = time.time()
    ends.put((end, time.process_time() - began))
    database.close()


def _one_batch(database: Database, size: int, latency: float) -> bool:
    token = uuid4()
    with database.autocommit() as conn:
        operations = claim(
            conn, SINK.name, token=token, worker="bench", limit=size, lease=60, max_attempts=10
        )
    if not operations:
        return False
    time.sleep(latency)  # in the place of the remote call
    outcomes = [_written(op) for op in operations]
    with database.transaction() as conn:
        settle(conn, SINK, token, outcomes, Plan(TOPOLOGY, confirm_after=0.0))
    return True


def _written(op: Operation) -> Synced:
    return Synced(op, op.version, remote_id=f"4:node:{op.id}")
