"""How everything stands: entities per sink, operations, breakers."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from altsync import outbox, store
from altsync.catalogue.current import entity_types
from altsync.db import Conn
from altsync.outbox import SinkHealth
from altsync.records import (
    SIMILARITY,
    SIMILARITY_FOLLOWS,
    BreakerState,
    EntityType,
    Model,
    SyncStatus,
    Topology,
)
from altsync.store import Backlog, Idle, Verification, Work
from altsync.wording import plural

#: Seconds without a claim, while work is due, after which a view says that no worker delivers.
#: A relay wakes a worker within a second, and again every 10 s.
IDLE_SECONDS = 30.0

#: Why a sink is not delivered to that ALTSYNC_SINKS does not name.
TAKEN_OUT = "not among ALTSYNC_SINKS: add it, or altsync discard what is dead of it"

#: Seconds that "now" means for throughput: long enough for one slow batch of every sink.
RECENT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class EntityStatus:
    """Living entities of one type, by sink and status."""

    total: int
    by_sink: dict[str, dict[SyncStatus, int]]


@dataclass(frozen=True, slots=True)
class MatrixRow:
    """Living entities of one type that share both statuses."""

    entity: EntityType
    neo4j_sync_status: str
    pinecone_sync_status: str
    count: int


@dataclass(frozen=True, slots=True)
class SinkStanding:
    """Whether a sink is delivered to, since when, and why not."""

    state: BreakerState
    since: datetime | None
    reason: str | None
    last_claim_at: datetime | None


@dataclass(frozen=True, slots=True)
class ModelStanding:
    """The embedding model that all processes want, and the one that these settings name."""

    database: Model | None
    settings: Model | None

    @property
    def agree(self) -> bool:
        """Return whether they are the same, or one of them is not known."""
        return None in (self.database, self.settings) or self.database == self.settings


@dataclass(frozen=True, slots=True)
class Status:
    """Everything that ``altsync status`` shows. ``recent`` is work of ``RECENT_SECONDS``."""

    entities: dict[EntityType, EntityStatus]
    operations: dict[str, Backlog]
    matrix: tuple[MatrixRow, ...]
    sinks: dict[str, SinkStanding]
    recent: dict[str, Work]
    model: ModelStanding = field(default_factory=lambda: ModelStanding(None, None))
    verified: Verification | None = None
    idle: dict[str, Idle] = field(default_factory=dict)

    @property
    def at_rest(self) -> bool:
        """Return whether nothing waits and nothing failed."""
        return not any(b.pending or b.in_progress or b.dead for b in self.operations.values())

    def as_json(self) -> dict[str, Any]:
        """The shape that scripts read."""
        return {
            "entities": {
                kind.value: {
                    "total": entity.total,
                    **{
                        sink: {s.value: n for s, n in counts.items()}
                        for sink, counts in entity.by_sink.items()
                    },
                }
                for kind, entity in self.entities.items()
            },
            "operations": {sink: asdict(backlog) for sink, backlog in self.operations.items()},
            "matrix": [asdict(row) for row in self.matrix],
            "sinks": {
                sink: {**asdict(standing), "last_minute": asdict(self.recent[sink])}
                for sink, standing in self.sinks.items()
            },
            "model": {**asdict(self.model), "agree": self.model.agree},
            "idle": {
                sink: {"seconds": round(one.seconds, 1), "message": idle_message(sink, one)}
                for sink, one in self.idle.items()
            },
            "verify": None if self.verified is None else asdict(self.verified),
        }


def collect(
    conn: Conn,
    topology: Topology,
    disabled: dict[str, str | None],
    model: Model | None = None,
) -> Status:
    """Return the status now. ``disabled`` says per sink why it is not claimed for, or None.

    ``model`` is the one that the settings name.
    """
    wanted = outbox.wanted_model(conn)
    counts = {kind: store.count_statuses(conn, kind) for kind in entity_types()}
    backlog = store.backlog(conn)
    health = outbox.sink_health(conn)
    recent = store.recent_work(conn, RECENT_SECONDS)
    others = [
        sink
        for sink, one in sorted(backlog.items())
        if sink not in topology.names and (one.pending or one.in_progress or one.dead)
    ]
    names = [*topology.names, *others]
    disabled = {**disabled, **dict.fromkeys(others, TAKEN_OUT)}
    idle = store.idle_sinks(conn, IDLE_SECONDS)
    return Status(
        {
            kind: EntityStatus(
                sum(found.values()),
                {sink: store.status_breakdown(found, sink) for sink in store.SINK_STATUSES},
            )
            for kind, found in counts.items()
        },
        {sink: backlog.get(sink, Backlog()) for sink in names},
        _matrix(counts),
        {sink: _standing(health.get(sink), disabled.get(sink)) for sink in names},
        {sink: recent.get(sink, Work()) for sink in names},
        ModelStanding(Model(*wanted) if wanted else None, model),
        store.last_verification(conn),
        {sink: one for sink, one in idle.items() if disabled.get(sink) is None},
    )


def idle_message(sink: str, idle: Idle) -> str:
    """Say how long no worker has claimed for a sink, and what to start."""
    if idle.relay_silent:
        start = "no relay wakes workers: start altsync relay"
    else:
        queue = SIMILARITY_FOLLOWS if sink == SIMILARITY else sink
        start = f"start a worker: celery -A workers.app worker -Q {queue}"
    return (
        f"nothing has claimed for {idle.seconds:.0f} s, while "
        f"{plural(idle.due, 'operation is', 'operations are')} due; {start}"
    )


def _matrix(counts: dict[EntityType, dict[tuple[str, str, str], int]]) -> tuple[MatrixRow, ...]:
    totals: Counter[tuple[EntityType, str, str]] = Counter()
    for kind, found in counts.items():
        for (_embedding, neo4j, pinecone), count in found.items():
            totals[kind, neo4j, pinecone] += count
    order = list(entity_types())
    rows = [MatrixRow(*key, count) for key, count in totals.items()]
    return tuple(
        sorted(
            rows,
            key=lambda r: (order.index(r.entity), r.neo4j_sync_status, r.pinecone_sync_status),
        )
    )


def _standing(health: SinkHealth | None, disabled: str | None) -> SinkStanding:
    # What a person did goes first: it is what must be undone.
    paused = health is not None and health.state is BreakerState.PAUSED
    if disabled is not None and not paused:
        since = health.since if health and health.state is BreakerState.DISABLED else None
        return SinkStanding(
            BreakerState.DISABLED, since, disabled, health.last_claim_at if health else None
        )
    if health is None:
        return SinkStanding(BreakerState.CLOSED, None, "never set up: run altsync migrate", None)
    return SinkStanding(health.state, health.since, health.reason, health.last_claim_at)
