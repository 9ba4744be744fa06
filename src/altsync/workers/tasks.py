"""The Celery task, which runs ``altsync.delivery``."""

from __future__ import annotations

import os
import threading
from dataclasses import asdict
from typing import Any

from celery import Task, signals

from altsync.app import Application
from altsync.errors import SchemaError
from altsync.workers.app import TASK, app, message

_lock = threading.Lock()
_applications: dict[int, Application] = {}


def application() -> Application:
    """Return the application of this process, built after the fork, at the first task."""
    with _lock:
        pid = os.getpid()
        if pid not in _applications:
            _applications.clear()
            _applications[pid] = Application(serving=True)
        return _applications[pid]


@app.task(bind=True, name=TASK)
def sync_batch(self: Task, sink: str) -> dict[str, Any]:
    """Deliver the due operations of ``sink``; send another wake-up when there are more.

    Only monitors such as Flower read the result.
    """
    result = application().deliver(sink)
    if result.has_more:
        self.apply_async(**message(sink))
    return {"sink": sink, **asdict(result), "seconds": round(result.seconds, 3)}


@signals.worker_init.connect
def _refuse_another_schema(**_: Any) -> None:
    """Exit before the first task if the schema is of another release."""
    application = Application()
    try:
        application.require_schema()
        application.load()
    except SchemaError as error:
        # Celery only logs other exceptions of a signal handler, and the worker would start.
        raise SystemExit(f"altsync: {error}") from None
    finally:
        application.close()


@signals.worker_shutting_down.connect
@signals.worker_process_shutdown.connect
def _finish_batch_and_stop(**_: Any) -> None:
    for running in _applications.values():
        running.stopping.set()
