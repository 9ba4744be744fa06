"""One application in a process that finds the packages installed beside it.

Each line of stdin is a JSON list: a command of altsync, or ``["deliver"]``, ``["queues"]`` or
``["ask", <method of the dashboard's API>, <query>]``. Each is answered with one line of JSON.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any

from typer.testing import CliRunner

from altsync.app import Application
from altsync.cli import app as cli
from altsync.dashboard.api import Api
from altsync.workers.app import create


def answer(arguments: list[Any]) -> Any:
    """Return what one line asks for."""
    match arguments:
        case ["deliver"]:
            return _deliver(Application())
        case ["queues"]:
            return [queue.name for queue in create(Application().settings).conf.task_queues]
        case ["ask", method, query]:
            return getattr(Api(Application()), method)(query)
    result = CliRunner().invoke(cli, arguments)
    logging.root.handlers[:] = [logging.NullHandler()]
    return {"code": result.exit_code, "stdout": result.stdout, "output": result.output}


def _deliver(app: Application) -> list[str]:
    """Deliver to each sink that the relay wakes; return their names."""
    woken: list[str] = []
    app.relay(woken.append).poll(app.enabled)
    for sink in woken:
        app.deliver(sink)
    app.close()
    return woken


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Logs go to stderr.
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line)), default=str), file=answers, flush=True)
