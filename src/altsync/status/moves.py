"""The progress of a move."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from altsync.catalogue.current import entity_types
from altsync.contract import SHADOW, Topology
from altsync.db import Conn
from altsync.errors import SchemaError
from altsync.generations import Generation
from altsync.moves.state import read_move, shadow_backlog
from altsync.outbox.shadow import SHADOW_EMBEDDING
from altsync.status.batches import recent_work
from altsync.store.reads import count_living

#: Seconds of recent work by which the rest is estimated.
RECENT = 300.0


@dataclass(frozen=True, slots=True)
class SinkProgress:
    """The shadow of one sink: ``done`` of ``total`` entities, and live operations."""

    done: int
    total: int
    waiting: int
    per_minute: float
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class Progress:
    """The models of an installation, and how far the one beside the serving one is.

    ``state`` is ``single``, ``filling``, ``ready`` (nothing waits), ``switched`` or ``dropping``.
    """

    serving: Generation
    shadow: Generation | None
    state: str
    since: str | None
    verified: str | None
    exchanged: str | None
    sinks: dict[str, SinkProgress]
    dead: int
    dropping: Generation | None = None

    @property
    def waiting(self) -> int:
        """Return the number of operations that the shadow waits for."""
        return sum(one.waiting for one in self.sinks.values())

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return asdict(self)


def progress(conn: Conn, topology: Topology) -> Progress | None:
    """Return the progress of the move. Cheap: it counts live operations, not vectors.

    None before the first migration.
    """
    try:
        move = read_move(conn)
    except SchemaError:
        return None
    sinks: dict[str, SinkProgress] = {}
    dead = 0
    if move.shadow is not None:
        backlog = shadow_backlog(conn, topology)
        dead = backlog.dead
        total = sum(count_living(conn, kind) for kind in entity_types())
        recent = recent_work(conn, RECENT)
        texts = backlog.live.get(SHADOW_EMBEDDING, 0)
        for name, live in backlog.live.items():
            waiting = live if name == SHADOW_EMBEDDING else live + texts
            rate = (recent[name].synced * 60 / RECENT) if name in recent else 0.0
            left = waiting / rate * 60 if rate and waiting else (None if waiting else 0.0)
            done = max(0, total - waiting) if move.filled else 0
            sinks[name.removeprefix(SHADOW)] = SinkProgress(done, total, waiting, rate, left)
    waiting = sum(one.waiting for one in sinks.values())
    if move.dropping is not None:
        state = "dropping"
    elif move.shadow is None:
        state = "single"
    elif move.exchanged is not None:
        state = "switched"
    else:
        state = "ready" if move.filled and not waiting and not dead else "filling"
    return Progress(
        move.serving,
        move.shadow,
        state,
        move.since,
        move.verified,
        move.exchanged,
        sinks,
        dead,
        move.dropping,
    )
