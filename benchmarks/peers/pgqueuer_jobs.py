"""pgqueuer, one job a row: https://pgqueuer.readthedocs.io."""

from __future__ import annotations

import asyncio
import time

import asyncpg
from pgqueuer import AsyncpgPoolDriver, Job, PgQueuer, Queries
from pgqueuer.types import QueueExecutionMode

#: Jobs per dequeue: as many as altsync claims.
BATCH = 500


def drained(url: str, count: int) -> float:
    """Seconds in which one process takes and finishes ``count`` jobs that do nothing."""
    return asyncio.run(_drained(url, count))


async def _drained(url: str, count: int) -> float:
    async with asyncpg.create_pool(url, min_size=2) as pool:
        driver = AsyncpgPoolDriver(pool)
        queries = Queries(driver)
        await queries.install()
        await queries.enqueue(["row"] * count, [None] * count, [0] * count)
        queuer = PgQueuer(driver)
        done = 0

        @queuer.entrypoint("row")
        async def row(job: Job) -> None:
            nonlocal done
            done += 1

        started = time.perf_counter()
        await queuer.qm.run(batch_size=BATCH, mode=QueueExecutionMode.drain)
        seconds = time.perf_counter() - started
    assert done == count, f"pgqueuer did {done} of {count} jobs"
    return seconds
