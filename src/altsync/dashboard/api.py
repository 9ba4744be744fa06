"""What the page asks for: one method per endpoint, each on a connection of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from altsync import __version__, outbox, status, store
from altsync.app import Application
from altsync.errors import AltsyncError
from altsync.outbox import FailureGroup
from altsync.records import EntityType
from altsync.status import RECENT_SECONDS

#: Dead operations per transaction of a retry.
RETRY_PAGE = 1000

#: Neighbours in the drawing of a league: more would write over each other.
NEIGHBOURS = 18


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of the plot: ``slices`` slices of ``step`` seconds."""

    step: int
    slices: int


#: Stretches that the page offers, by name; each has about as many slices as a phone has room for.
WINDOWS: Mapping[str, Window] = {
    "15m": Window(15, 60),
    "1h": Window(60, 60),
    "6h": Window(300, 72),
    "24h": Window(1200, 72),
    "7d": Window(7200, 84),
}


class BadRequest(AltsyncError):
    """The page, or whoever speaks for it, asked for what makes no sense."""


class Api:
    """Answers as plain data."""

    def __init__(self, app: Application) -> None:
        self._app = app

    def session(self, token: str) -> dict[str, Any]:
        """What the page needs before anything else."""
        return {"csrf_token": token, "version": __version__, "sinks": self._app.topology.names}

    def overview(self, query: Mapping[str, str]) -> dict[str, Any]:
        """The whole status: matrix, totals, breakers, backlog, the last minute."""
        app = self._app
        disabled = {sink: app.disabled_reason(sink) for sink in app.topology.names}
        with app.database.autocommit() as conn:
            found = status.collect(conn, app.topology, disabled)
        return {**found.as_json(), "at_rest": found.at_rest, "recent_seconds": RECENT_SECONDS}

    def throughput(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Work over time, for one of ``WINDOWS``."""
        window = _window(query.get("window", "1h"))
        with self._app.database.autocommit() as conn:
            found = store.throughput(conn, step=window.step, slices=window.slices)
        return {
            "start": found.start,
            "step": found.step,
            "slices": found.slices,
            "sinks": {
                sink: found.sinks.get(sink, (store.Work(),) * found.slices)
                for sink in [*self._app.topology.names, *sorted(found.sinks)]
            },
        }

    def failures(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Dead operations by error. ``group`` stands for the error when it is retried."""
        with self._app.database.autocommit() as conn:
            groups = outbox.failures(conn)
        return {"groups": [_described(group) for group in groups]}

    def retry(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Try a group again, or one entity of it; says how many operations are due again."""
        asked = {name: _text_of(body, name) for name in ("sink", "group", "entity_type", "key")}
        if not (asked["group"] or asked["key"]):
            raise BadRequest("say what to retry: a group, or the key of an entity")
        kind = _entity_type(asked["entity_type"])
        retried, due = 0, 0
        while True:
            with self._app.database.transaction() as conn:
                error = self._error_of(conn, asked["sink"], asked["group"])
                if error is None and asked["group"]:
                    break  # it is empty by now
                dead = outbox.dead_ids(
                    conn,
                    sink=error.sink if error else asked["sink"],
                    entity=asked["key"],
                    entity_type=kind,
                    error_kind=error.error_kind if error else None,
                    reason=error.reason if error else None,
                    limit=RETRY_PAGE,
                )
                due += outbox.retry_dead(conn, dead, self._app.topology)
                retried += len(dead)
            if len(dead) < RETRY_PAGE:
                break
        return {"retried": retried, "due": due}

    def _error_of(self, conn: Any, sink: str | None, group: str | None) -> FailureGroup | None:
        if group is None:
            return None
        return next((g for g in outbox.failures(conn, sink) if _name_of(g) == group), None)

    def choices(self, query: Mapping[str, str]) -> Any:
        """Values to filter leagues by."""
        with self._app.database.autocommit() as conn:
            return store.league_choices(conn)

    def graph(self, query: Mapping[str, str]) -> Any:
        """A league and those around it."""
        tag = query.get("league", "")
        with self._app.database.autocommit() as conn:
            found = store.neighbourhood(conn, tag, limit=NEIGHBOURS)
        if found is None:
            raise BadRequest(f"no league with the tag {tag!r}")
        return found


def _described(group: FailureGroup) -> dict[str, Any]:
    samples = [key.split(" ", 1) for key in dict.fromkeys(group.sample_keys)]
    return {
        "group": _name_of(group),
        "sink": group.sink,
        "error_kind": group.error_kind,
        "reason": group.reason,
        "count": group.count,
        "samples": [{"entity_type": kind, "key": key} for kind, key in samples],
        "oldest": group.oldest,
        "newest": group.newest,
    }


def _name_of(group: FailureGroup) -> str:
    """A name for an error that does not repeat its text, which may be shown redacted."""
    parts = "\0".join((group.sink, group.error_kind, group.reason))
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


def _text_of(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise BadRequest(f"{name} must be text")
    return value


def _entity_type(name: str | None) -> EntityType | None:
    if name is None:
        return None
    try:
        return EntityType(name)
    except ValueError:
        raise BadRequest(f"no entity type {name!r}; there are {', '.join(EntityType)}") from None


def _window(name: str) -> Window:
    if name not in WINDOWS:
        raise BadRequest(f"window must be one of {', '.join(WINDOWS)}")
    return WINDOWS[name]
