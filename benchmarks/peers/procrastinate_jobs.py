"""procrastinate, one job a row: https://procrastinate.readthedocs.io."""

from __future__ import annotations

import asyncio
import time

from procrastinate import App, PsycopgConnector

#: Jobs that the worker runs at once.
CONCURRENCY = 10


def drained(url: str, count: int) -> float:
    """Seconds in which one process takes and finishes ``count`` jobs that do nothing."""
    return asyncio.run(_drained(url, count))


async def _drained(url: str, count: int) -> float:
    app = App(connector=PsycopgConnector(conninfo=url))
    done = 0

    @app.task(name="row")
    async def row(number: int) -> None:
        nonlocal done
        done += 1

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await row.batch_defer_async(*({"number": number} for number in range(count)))
        started = time.perf_counter()
        await app.run_worker_async(
            wait=False, concurrency=CONCURRENCY, install_signal_handlers=False
        )
        seconds = time.perf_counter() - started
    assert done == count, f"procrastinate did {done} of {count} jobs"
    return seconds
