"""Wait until sinks show every change up to a version: read-your-writes.

A sink that lags behind its writes names their positions. Then a query decides, not a guess.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache

from altsync.app import Application
from altsync.contract import EMBEDDING
from altsync.declarations import WITH_STATUS
from altsync.entities import EntityType
from altsync.errors import AltsyncError, ConfigurationError, SinkFailure, WaitFailed, WaitTimeout
from altsync.outbox.marks import read_marks
from altsync.outbox.versions import newest_version, remaining
from altsync.protocols import Lagging
from altsync.seed.changes import Changes
from altsync.wording import plural, unknown

#: Seconds between two polls: the first, and the longest.
POLL, LONGEST_POLL = 0.05, 0.5

#: Greatest share of the time that the polls themselves may take: with 300,000 live operations one
#: takes 0.2 s.
POLL_SHARE = 0.2

#: Seconds that ``altsync.wait`` waits, unless the caller says otherwise.
TIMEOUT = 30.0


#: Why a sink stays confirmed.
SILENT = "the store does not say what its queries show"


class Reached(StrEnum):
    """How far a sink has come with the changes up to a version.

    ``WAITING``: some are not confirmed. ``CONFIRMED``: the sink has them, and queries may not show
    them yet, or the store does not say. ``VISIBLE``: queries show them. ``FAILED``: some are dead
    letters, and the others confirmed.
    """

    WAITING = "waiting"
    CONFIRMED = "confirmed"
    VISIBLE = "visible"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class SinkWait:
    """One sink's part of a wait. ``reason`` says why its queries could not be checked."""

    state: Reached = Reached.WAITING
    waiting: int = 0
    dead: int = 0
    reason: str | None = None


@dataclass(slots=True)
class Wait:
    """The state of a wait for a version, by sink."""

    version: int
    sinks: dict[str, SinkWait]
    timed_out: bool = False
    #: Positions that a query has not named yet.
    unseen: dict[str, dict[tuple[EntityType, str], int]] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Return whether a sink has dead letters."""
        return any(one.state is Reached.FAILED for one in self.sinks.values())

    @property
    def over(self) -> bool:
        """Return whether nothing is left to wait for."""
        waiting = any(one.state is Reached.WAITING for one in self.sinks.values())
        return not (waiting or self.unseen)


def awaited_sinks(app: Application, names: Sequence[str] = ()) -> list[str]:
    """Return the sinks to wait for: ``names``, or all that can be reached and have a status.

    Raises ``ConfigurationError`` for one that is not configured.
    """
    for name in names:
        if name not in app.topology.names:
            raise ConfigurationError(unknown("sink", name, app.topology.names))
        if (reason := app.disabled_reason(name)) is not None:
            raise ConfigurationError(f"{name} cannot be waited for: {reason}")
    embeds = EMBEDDING in app.enabled
    return list(names) or [
        name
        for name in app.enabled
        if name in WITH_STATUS and (embeds or not app.topology.traits(name).needs_embedding)
    ]


def wait_for(
    app: Application,
    version: int,
    sinks: Sequence[str],
    *,
    timeout: float | None = None,
    show: Callable[[Wait], None] = lambda wait: None,
    sleep: Callable[[float], object] = time.sleep,
) -> Wait:
    """Wait until ``sinks`` show every change up to ``version``, or have given up on some.

    ``timeout`` is in seconds; ``show`` gets the state after each poll. Raises ``AltsyncError`` for
    a version that does not exist yet.
    """
    with app.database.autocommit() as conn:
        newest = newest_version(conn)
    if version > newest:
        raise AltsyncError(f"there is no version {version} yet: the newest is {newest}")
    wait = Wait(version, dict.fromkeys(sinks, SinkWait()))
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = POLL
    while True:
        started = time.monotonic()
        _poll(app, wait)
        took = time.monotonic() - started
        show(wait)
        left = None if deadline is None else deadline - time.monotonic()
        if wait.over or (left is not None and left <= 0):
            wait.timed_out = not wait.over
            return wait
        rest = max(pause, took / POLL_SHARE)
        sleep(rest if left is None else min(rest, left))
        pause = min(pause * 2, LONGEST_POLL)


def _poll(app: Application, wait: Wait) -> None:
    """Bring the state up to date: what is confirmed, then what queries show."""
    waiting = [name for name, one in wait.sinks.items() if one.state is Reached.WAITING]
    if waiting:
        with app.database.autocommit() as conn:
            found = remaining(conn, app.topology, waiting, wait.version)
            # A later statement: positions are written with the settlement of their writes.
            marks = read_marks(conn, waiting)
        for name, left in found.items():
            if left.waiting:
                wait.sinks[name] = SinkWait(Reached.WAITING, left.waiting, left.dead)
            elif left.dead:
                wait.sinks[name] = SinkWait(Reached.FAILED, 0, left.dead)
            elif not isinstance(app.sink(name), Lagging):
                wait.sinks[name] = SinkWait(Reached.VISIBLE)
            elif name not in marks:
                wait.sinks[name] = SinkWait(Reached.CONFIRMED, reason=SILENT)
            else:
                wait.sinks[name] = SinkWait(Reached.CONFIRMED)
                wait.unseen[name] = marks[name]
    for name in list(wait.unseen):
        _look(app, wait, name)


def _look(app: Application, wait: Wait, name: str) -> None:
    """Ask a lagging sink which positions its queries show."""
    sink = app.sink(name)
    assert isinstance(sink, Lagging)
    unseen = wait.unseen[name]
    try:
        for (kind, space), mark in list(unseen.items()):
            seen = sink.seen(kind, space)
            if seen is None:
                del wait.unseen[name]
                wait.sinks[name] = replace(wait.sinks[name], reason=SILENT)
                return
            if seen < mark:
                return
            del unseen[kind, space]
    except SinkFailure as failure:
        wait.sinks[name] = replace(wait.sinks[name], reason=failure.reason)
        return
    del wait.unseen[name]
    wait.sinks[name] = SinkWait(Reached.VISIBLE)


def wait(
    version: int | Changes, *, sinks: Sequence[str] = (), timeout: float = TIMEOUT
) -> Mapping[str, str]:
    """Wait until queries of ``sinks`` show every change up to a version; return each sink's state.

    ``version`` is that of the changes, or what ``altsync.save`` returned, after the caller has
    committed. ``sinks`` are all that have a status, unless given. ``timeout`` is in seconds. The
    state is ``visible``, or ``confirmed`` where the store does not say what its queries show.
    Raises ``WaitTimeout``, ``WaitFailed`` for dead letters at or below the version, and
    ``ConfigurationError`` for a sink that is not configured.
    """
    app = _application()
    wanted = version.version if isinstance(version, Changes) else version
    done = wait_for(app, wanted, awaited_sinks(app, sinks), timeout=timeout)
    if done.timed_out:
        raise WaitTimeout(f"version {wanted} was not reached within {timeout:g} s: {summary(done)}")
    if done.failed:
        raise WaitFailed(f"version {wanted} was not reached: {summary(done)}")
    return {name: one.state.value for name, one in done.sinks.items()}


def summary(wait: Wait) -> str:
    """Return what is left of a wait, by sink."""
    parts = []
    for name, one in wait.sinks.items():
        if one.state is Reached.WAITING:
            parts.append(f"{name}: {plural(one.waiting, 'operation waits', 'operations wait')}")
        elif one.state is Reached.FAILED:
            parts.append(f"{name}: {plural(one.dead, 'dead letter')}, see altsync failures")
        elif name in wait.unseen:
            parts.append(f"{name}: {one.reason or 'its queries do not show the last writes yet'}")
    return "; ".join(parts)


@cache
def _application() -> Application:
    """Return the application of the settings, read once."""
    return Application()
