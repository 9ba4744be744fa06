"""What the page asks for: one method per endpoint, each on a connection of its own."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from altsync import __version__, queries
from altsync.app import Application
from altsync.catalogue.current import current, entity_types
from altsync.circuit import breaker
from altsync.db import Conn
from altsync.entities import EntityType
from altsync.errors import AltsyncError
from altsync.operations import OPERATION_STATUSES
from altsync.queries.neighbourhood import neighbourhood
from altsync.queries.sql import field_values
from altsync.retry import (
    DeadOperation,
    FailureGroup,
    Selection,
    dead_ids,
    discard_dead,
    most_frequent,
    retry_dead,
)
from altsync.status import batches
from altsync.status.batches import Work
from altsync.status.collect import RECENT_SECONDS, collect
from altsync.why import explain as why_explain
from altsync.why import history as why_history
from altsync.why.explain import Unknown
from altsync.why.history import entity_state, suggestions
from altsync.wording import unknown

#: Dead operations per transaction of a retry or discard.
PAGE = 1000

#: Groups of dead operations that the page lists, the most frequent ones. It asks every 2 seconds.
MOST_GROUPS = 100

#: Operations of one page, and the most that may be asked for at once.
OPERATIONS = 50
MOST_OPERATIONS = 500

#: Entities that a search lists.
MATCHES = 25

#: Values of a field that are offered to choose from; of one with more, any may be typed.
CHOICES = 50

#: Where the seed lines are looked for that entities came from.
SEEDS = Path("seeds")

#: Neighbours in the drawing of an entity: more would write over each other.
NEIGHBOURS = 18


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of the plot: ``slices`` slices of ``step`` seconds."""

    step: int
    slices: int


#: Stretches that the page offers, by name; each has about as many slices as a phone can show.
WINDOWS: Mapping[str, Window] = {
    "15m": Window(15, 60),
    "1h": Window(60, 60),
    "6h": Window(300, 72),
    "24h": Window(1200, 72),
    "7d": Window(7200, 84),
}


class BadRequest(AltsyncError):
    """A request that makes no sense, by the page or another client."""


class Api:
    """Answers as plain data."""

    def __init__(self, app: Application) -> None:
        self._app = app

    def session(self, token: str) -> dict[str, Any]:
        """Return what the page needs before anything else."""
        return {
            "csrf_token": token,
            "version": __version__,
            "sinks": self._app.topology.names,
            "types": [_type(kind) for kind in entity_types()],
        }

    def overview(self, query: Mapping[str, str]) -> dict[str, Any]:
        """The whole status: matrix, totals, breakers, backlog, the last minute."""
        app = self._app
        disabled = {sink: app.disabled_reason(sink) for sink in app.topology.names}
        with app.database.autocommit() as conn:
            found = collect(conn, app.topology, disabled)
        return {**found.as_json(), "at_rest": found.at_rest, "recent_seconds": RECENT_SECONDS}

    def throughput(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Work over time, for one of ``WINDOWS``."""
        window = _window(query.get("window", "1h"))
        with self._app.database.autocommit() as conn:
            found = batches.throughput(conn, step=window.step, slices=window.slices)
        return {
            "start": found.start,
            "step": found.step,
            "slices": found.slices,
            "sinks": {
                sink: found.sinks.get(sink, (Work(),) * found.slices)
                for sink in [*self._app.topology.names, *sorted(found.sinks)]
            },
        }

    def failures(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Dead operations by error, the most frequent ones, and how many there are in all.

        ``group`` stands for the error when it is retried.
        """
        with self._app.database.autocommit() as conn:
            found = most_frequent(conn, MOST_GROUPS)
        return {
            "groups": [_described(group) for group in found.groups],
            "all_groups": found.all_groups,
            "operations": found.operations,
        }

    def retry(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Try a group again, or one entity of it; says how many operations are due again."""
        topology = self._app.topology
        retried, due = self._each_page(
            body, "retry", lambda conn, dead: retry_dead(conn, dead, topology)
        )
        return {"retried": retried, "due": due}

    def discard(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Give up on a group for good, or on one entity of it; ``why`` is kept."""
        why = _text_of(body, "why")
        if why is None or not why.strip():
            raise BadRequest("say why it will never work")
        by = f"dashboard@{socket.gethostname()}"
        topology = self._app.topology
        _, discarded = self._each_page(
            body,
            "discard",
            lambda conn, dead: discard_dead(conn, dead, topology, by=by, why=why),
        )
        return {"discarded": discarded}

    def _each_page(
        self,
        body: Mapping[str, Any],
        verb: str,
        do: Callable[[Conn, list[DeadOperation]], int],
    ) -> tuple[int, int]:
        """Do something to the dead operations that were named: (found, what it came to)."""
        asked = {name: _text_of(body, name) for name in ("sink", "group", "entity_type", "key")}
        if not (asked["group"] or asked["key"]):
            raise BadRequest(f"say what to {verb}: a group, or the key of an entity")
        which = Selection(
            sink=asked["sink"],
            entity=asked["key"],
            entity_type=_entity_type(asked["entity_type"]),
            group=asked["group"],
            # No worker would deliver what is enqueued for a sink that was taken out.
            among=tuple(self._app.topology.names) if verb == "retry" else None,
        )
        found, done, after = 0, 0, 0
        while True:
            with self._app.database.transaction() as conn:
                dead = dead_ids(conn, which, limit=PAGE, after=after)
                done += do(conn, dead)
            found += len(dead)
            if len(dead) < PAGE:
                return found, done
            after = dead[-1][0]

    def pause(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Stop delivery to a sink; return whether it was not paused before."""
        sink, reason = self._sink_of(body), (_text_of(body, "reason") or "").strip()
        by = f"dashboard@{socket.gethostname()}"
        said = f"{reason} ({by})" if reason else f"by {by}"
        with self._app.database.autocommit() as conn:
            return {"sink": sink, "paused": breaker.pause(conn, sink, said)}

    def resume(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Let a paused sink be delivered to again; says whether it was paused."""
        sink = self._sink_of(body)
        with self._app.database.transaction() as conn:
            return {"sink": sink, "resumed": breaker.resume(conn, sink)}

    def _sink_of(self, body: Mapping[str, Any]) -> str:
        sink, known = _text_of(body, "sink"), self._app.topology.names
        if sink not in known:
            raise BadRequest(unknown("sink", sink or "", known))
        assert sink is not None
        return sink

    def operations(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Operations, the newest first; the next page is ``before`` the last one's id."""
        sink, known = query.get("sink") or None, self._app.topology.names
        with self._app.database.autocommit() as conn:
            # One that was taken out of the settings may have operations still.
            if sink and sink not in known and not why_history.operations(conn, sink=sink, limit=1):
                raise BadRequest(unknown("sink", sink, known))
            found = why_history.operations(
                conn,
                sink=sink,
                status=_status(query.get("status") or None),
                entity=query.get("key") or None,
                before=_number(query, "before"),
                limit=min(_number(query, "limit") or OPERATIONS, MOST_OPERATIONS),
            )
        return {"operations": found}

    def entity(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Return what PostgreSQL knows of an entity: its row, and its latest operations.

        ``confirmed`` is the version that each sink confirmed last.
        """
        key = _required(query, "key")
        with self._app.database.autocommit() as conn:
            state = entity_state(conn, key, _entity_type(query.get("type") or None))
            who = state.id if state else key
            found = why_history.operations(conn, entity=who, limit=OPERATIONS)
            confirmed = {}
            for sink in state.sinks if state else ():
                last = why_history.operations(conn, sink=sink, status="synced", entity=who, limit=1)
                confirmed[sink] = last[0].version if last else None
            near = [] if state else suggestions(conn, key)
        return {"state": state, "operations": found, "confirmed": confirmed, "near": near}

    def stores(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Return what every store holds of an entity, asked now, and why it is where it is."""
        key, kind = _required(query, "key"), _entity_type(query.get("type") or None)
        found = why_explain.explain(self._app, key, SEEDS)
        if isinstance(found, Unknown):
            raise BadRequest(found.reason)
        if kind is not None and found.entity.type is not kind:
            raise BadRequest(f"{key!r} also names a {found.entity.type}, which is found first")
        graph = found.neo4j
        held = {
            "neo4j": [graph.version] if graph and graph.node_id else [],
            **{index: [one.version for one in held] for index, held in found.indexes.items()},
        }
        return {
            "agrees": found.agrees,
            "checks": found.checks,
            "reasons": found.reasons,
            "held": held,
        }

    def search(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The entities nearest in meaning to a text. The embedder is paid for a new text."""
        text = _text_of(body, "text")
        if text is None or not text.strip():
            raise BadRequest("say what to look for")
        kind = _known_type(_text_of(body, "entity"))
        given = body.get("where") or {}
        if not isinstance(given, Mapping):
            raise BadRequest("where must be an object of fields and values")
        where = {name: value for name in given if (value := _text_of(given, name)) is not None}
        try:
            found = queries.search(self._app.stores(), kind, text.strip(), where, top_k=MATCHES)
        except queries.UnknownName as error:
            raise BadRequest(str(error)) from None
        return {"found": [_match(kind, one) for one in found]}

    def choices(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Values to filter entities by; null for a field with more than can be listed."""
        kind = _known_type(query.get("entity"))
        with self._app.database.autocommit() as conn:
            found = {
                name: field_values(conn, kind, name, limit=CHOICES + 1) for name in _filters(kind)
            }
        return {name: values if len(values) <= CHOICES else None for name, values in found.items()}

    def graph(self, query: Mapping[str, str]) -> Any:
        """An entity and those around it."""
        kind, key = _known_type(query.get("entity")), _required(query, "key")
        if kind.edges is None:
            raise BadRequest(f"{kind.value} has no relationships among its own")
        with self._app.database.autocommit() as conn:
            found = neighbourhood(conn, kind, key, limit=NEIGHBOURS)
        if found is None:
            raise BadRequest(f"no {kind.one} with the key {key!r}")
        return found


def _type(kind: EntityType) -> dict[str, Any]:
    """Return what the page must know of a type of entity."""
    return {
        "type": kind.value,
        "one": kind.one,
        "many": kind.many,
        "name_field": kind.name_column,
        "key_field": kind.key_column,
        "filters": _filters(kind),
        "relations": kind.edges.relations if kind.edges else (),
        "within": kind.similar.within if kind.similar else None,
    }


def _filters(kind: EntityType) -> list[str]:
    """Return the fields that the page filters by: keys and names are what people search for."""
    own = (kind.key_column, kind.name_column)
    return [name for name in queries.filter_fields(kind) if name not in own]


def _described(group: FailureGroup) -> dict[str, Any]:
    samples = [key.split(" ", 1) for key in dict.fromkeys(group.sample_keys)]
    return {
        "group": group.group,
        "sink": group.sink,
        "error_kind": group.error_kind,
        "reason": group.reason,
        "sample_reason": group.sample_reason,
        "count": group.count,
        "samples": [{"entity_type": kind, "key": key} for kind, key in samples],
        "oldest": group.oldest,
        "newest": group.newest,
    }


def _text_of(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise BadRequest(f"{name} must be text")
    return value


def _required(query: Mapping[str, str], name: str) -> str:
    value = query.get(name)
    if not value:
        raise BadRequest(f"{name} is missing")
    return value


def _number(query: Mapping[str, str], name: str) -> int | None:
    value = query.get(name)
    if not value:
        return None
    # PostgreSQL's bigint ends here.
    if not (value.isascii() and value.isdigit() and 0 < int(value) < 2**63):
        raise BadRequest(f"{name} must be a whole number above 0")
    return int(value)


def _match(kind: EntityType, found: queries.Found) -> dict[str, Any]:
    fields = {name: found.content[name] for name in _filters(kind)}
    return {"key": found.key, "name": found.name, "score": found.score, "fields": fields}


def _known_type(name: str | None) -> EntityType:
    if not name:
        raise BadRequest("entity is missing")
    kind = _entity_type(name)
    assert kind is not None
    return kind


def _entity_type(name: str | None) -> EntityType | None:
    if name is None:
        return None
    try:
        return current().by_table[name]
    except LookupError:
        raise BadRequest(unknown("entity type", name, entity_types())) from None


def _status(name: str | None) -> str | None:
    if name is not None and name not in OPERATION_STATUSES:
        raise BadRequest(unknown("status", name, OPERATION_STATUSES))
    return name


def _window(name: str) -> Window:
    if name not in WINDOWS:
        raise BadRequest(unknown("window", name, WINDOWS))
    return WINDOWS[name]
