"""Processes of their own for a moment, which may end as they like."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess

#: What a child imports once for all of them: each is there at once then.
PRELOADED = ["tests.integration.fakes", "tests.integration.world", "altsync.cli"]


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
