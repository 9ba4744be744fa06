"""One Celery task for each row, as most projects begin: the worker's module, and who feeds it."""

from __future__ import annotations

import os
from functools import cache

import psycopg
from celery import Celery

#: The variables by which the worker finds its database and broker.
DATABASE, BROKER = "BENCH_DATABASE_URL", "BENCH_BROKER_URL"

QUEUE = "rows"

app = Celery("rows", broker=os.environ.get(BROKER))
app.conf.update(
    task_default_queue=QUEUE,
    task_ignore_result=True,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
)


@cache
def _connection() -> psycopg.Connection:
    """This process' connection, opened at its first task, after the fork."""
    return psycopg.connect(os.environ[DATABASE], autocommit=True)


@app.task
def settle_row(operation: int) -> None:
    """Settle one row as altsync does, in one statement and one commit."""
    _connection().execute(
        """
        WITH done AS (
          UPDATE sync_operation SET status = 'synced', finished_at = clock_timestamp()
          WHERE id = %s AND finished_at IS NULL RETURNING entity_id, version)
        UPDATE league l SET neo4j_sync_status = 'synced', neo4j_node_id = l.league_tag,
          neo4j_synced_at = now()
        FROM done WHERE l.id = done.entity_id AND l.graph_version = done.version
        """,
        (operation,),
    )
