"""Processes of their own for a moment, which may end as they like."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess

#: Modules that are imported once for all children: those of their targets, and modules that
#: commands import when they need them.
PRELOADED = [
    "altsync.similarity.index",
    "altsync.sinks.neo4j.write",
    "altsync.sinks.pinecone.write",
    "tests.faults.test_killed_commands",
    "tests.faults.test_killed_seeders",
    "tests.faults.test_killing_rows",
    "tests.integration.test_crash_points",
]


def child(target: Callable[..., None], *args: object) -> BaseProcess:
    """A process that is about to run ``target``; the caller starts, joins and closes it."""
    # A fork of this process would inherit its connections and threads; a server without any
    # imports once and forks for each.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context.Process(target=target, args=args)


def exit_code(target: Callable[..., None], *args: object) -> int | None:
    """How a process ends that runs ``target``: its code, or the signal that killed it, negated."""
    process = child(target, *args)
    process.start()
    process.join()
    code = process.exitcode
    process.close()
    return code
