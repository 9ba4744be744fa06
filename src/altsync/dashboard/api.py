"""The endpoints of the dashboard: one method each, on a connection of its own."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from altsync import __version__, queries
from altsync.app import Application
from altsync.catalogue.current import entity_types
from altsync.circuit import pause as pauses
from altsync.dashboard.parameters import (
    BadRequest,
    optional_type,
    required,
    required_type,
    status_of,
    text_of,
    whole_number,
    window_of,
)
from altsync.dashboard.views import filters_of, group_view, match_view, type_view
from altsync.db import Conn
from altsync.declarations import MIRRORS, title_of
from altsync.queries.neighbourhood import neighbourhood
from altsync.queries.sql import field_values
from altsync.retry import (
    DeadOperation,
    Selection,
    dead_ids,
    discard_dead,
    most_frequent,
    retry_dead,
)
from altsync.status import batches
from altsync.status.batches import Work
from altsync.status.collect import RECENT_SECONDS
from altsync.why import explain as why_explain
from altsync.why import history as why_history
from altsync.why.explanation import Unknown
from altsync.why.history import entity_state, suggestions
from altsync.wording import unknown

#: Dead operations per transaction of a retry or discard.
PAGE = 1000

#: Greatest number of groups of dead operations in one answer. The page asks every 2 seconds.
MOST_GROUPS = 100

#: Operations in one answer: the default and the maximum.
OPERATIONS = 50
MOST_OPERATIONS = 500

#: Greatest number of entities that a search returns.
MATCHES = 25

#: Greatest number of values offered for a filter. A field with more has a text box.
CHOICES = 50

#: The folder of the seed files.
SEEDS = Path("seeds")

#: Neighbours in the drawing of an entity. More labels would overlap.
NEIGHBOURS = 18


class Api:
    """The answers of the endpoints, as plain data."""

    def __init__(self, app: Application) -> None:
        self._app = app

    def session(self, token: str) -> dict[str, Any]:
        """Return the parts of the page that do not change."""
        return {
            "csrf_token": token,
            "version": __version__,
            "sinks": self._app.topology.names,
            "mirrors": {sink: title_of(sink) for sink in MIRRORS},
            "graphs": self._app.topology.graph,
            "types": [type_view(kind) for kind in entity_types()],
        }

    def overview(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Return the status: matrix, totals, breakers, backlog, the last minute."""
        with self._app.database.autocommit() as conn:
            found = self._app.status(conn)
        return {**found.as_json(), "at_rest": found.at_rest, "recent_seconds": RECENT_SECONDS}

    def throughput(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Return the work of the sinks over one of ``WINDOWS``."""
        window = window_of(query.get("window", "1h"))
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
        """Return dead operations by error, the most frequent errors first.

        ``group`` identifies the error in a request to retry or discard.
        """
        with self._app.database.autocommit() as conn:
            found = most_frequent(conn, MOST_GROUPS)
        return {
            "groups": [group_view(group) for group in found.groups],
            "all_groups": found.all_groups,
            "operations": found.operations,
        }

    def retry(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Retry a group, or one entity of it; return how many operations are due again."""
        topology = self._app.topology
        retried, due = self._each_page(
            body, "retry", lambda conn, dead: retry_dead(conn, dead, topology)
        )
        return {"retried": retried, "due": due}

    def discard(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Discard a group, or one entity of it. ``why`` is recorded."""
        why = text_of(body, "why")
        if why is None or not why.strip():
            raise BadRequest("why is missing: say why it will never work")
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
        """Call ``do`` for each page of operations; return their count and the sum of results."""
        fields = {name: text_of(body, name) for name in ("sink", "group", "entity_type", "key")}
        if not (fields["group"] or fields["key"]):
            raise BadRequest(f"say what to {verb}: a group, or the key of an entity")
        which = Selection(
            sink=fields["sink"],
            entity=fields["key"],
            entity_type=optional_type(fields["entity_type"]),
            group=fields["group"],
            # No worker claims operations of a sink that the settings do not name.
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
        sink, reason = self._sink_of(body), (text_of(body, "reason") or "").strip()
        by = f"dashboard@{socket.gethostname()}"
        shown_reason = f"{reason} ({by})" if reason else f"by {by}"
        with self._app.database.autocommit() as conn:
            return {"sink": sink, "paused": pauses.pause(conn, sink, shown_reason)}

    def resume(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """End the pause of a sink; return whether it was paused."""
        sink = self._sink_of(body)
        with self._app.database.transaction() as conn:
            return {"sink": sink, "resumed": pauses.resume(conn, sink)}

    def _sink_of(self, body: Mapping[str, Any]) -> str:
        sink, known = text_of(body, "sink"), self._app.topology.names
        if sink not in known:
            raise BadRequest(unknown("sink", sink or "", known))
        assert sink is not None
        return sink

    def operations(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Return operations, the newest first. The next page is ``before`` the last id."""
        sink, known = query.get("sink") or None, self._app.topology.names
        with self._app.database.autocommit() as conn:
            # A sink that the settings no longer name may still have operations.
            if sink and sink not in known and not why_history.operations(conn, sink=sink, limit=1):
                raise BadRequest(unknown("sink", sink, known))
            found = why_history.operations(
                conn,
                sink=sink,
                status=status_of(query.get("status") or None),
                entity=query.get("key") or None,
                before=whole_number(query, "before"),
                limit=min(whole_number(query, "limit") or OPERATIONS, MOST_OPERATIONS),
            )
        return {"operations": found}

    def entity(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Return the row of an entity, and its latest operations.

        ``confirmed`` is the version that each sink confirmed last.
        """
        key = required(query, "key")
        with self._app.database.autocommit() as conn:
            state = entity_state(conn, key, optional_type(query.get("type") or None))
            entity = state.id if state else key
            found = why_history.operations(conn, entity=entity, limit=OPERATIONS)
            confirmed = {}
            for sink in state.sinks if state else ():
                last = why_history.operations(
                    conn, sink=sink, status="synced", entity=entity, limit=1
                )
                confirmed[sink] = last[0].version if last else None
            near = [] if state else suggestions(conn, key)
        return {"state": state, "operations": found, "confirmed": confirmed, "near": near}

    def stores(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Return the entity as each store holds it now, and the reason of each difference."""
        key, kind = required(query, "key"), optional_type(query.get("type") or None)
        found = why_explain.explain(self._app, key, SEEDS)
        if isinstance(found, Unknown):
            raise BadRequest(found.reason)
        if kind is not None and found.entity.type is not kind:
            raise BadRequest(f"{key!r} also names a {found.entity.type}, which is found first")
        held = {name: shown.versions for name, shown in found.stores.items()}
        return {
            "agrees": found.agrees,
            "checks": found.checks,
            "reasons": found.reasons,
            "held": held,
        }

    def search(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the entities nearest in meaning to a text. A new text is embedded, at a cost."""
        text = text_of(body, "text")
        if text is None or not text.strip():
            raise BadRequest("text is missing: say what to look for")
        kind = required_type(text_of(body, "entity"))
        given = body.get("where") or {}
        if not isinstance(given, Mapping):
            raise BadRequest("where must be an object of fields and values")
        where = {name: value for name in given if (value := text_of(given, name)) is not None}
        try:
            found = queries.search(self._app.stores(), kind, text.strip(), where, top_k=MATCHES)
        except queries.UnknownName as error:
            raise BadRequest(str(error)) from None
        return {"found": [match_view(kind, one) for one in found]}

    def choices(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Return the values of each filter; None for a field with more than ``CHOICES``."""
        kind = required_type(query.get("entity"))
        with self._app.database.autocommit() as conn:
            found = {
                name: field_values(conn, kind, name, limit=CHOICES + 1) for name in filters_of(kind)
            }
        return {name: values if len(values) <= CHOICES else None for name, values in found.items()}

    def graph(self, query: Mapping[str, str]) -> Any:
        """Return an entity and its neighbours."""
        kind, key = required_type(query.get("entity")), required(query, "key")
        if kind.edges is None:
            raise BadRequest(f"{kind.value} has no relationships among its own")
        with self._app.database.autocommit() as conn:
            found = neighbourhood(conn, kind, key, limit=NEIGHBOURS)
        if found is None:
            raise BadRequest(f"no {kind.one} with the key {key!r}")
        return found
