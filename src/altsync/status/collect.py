"""The status: entities by sink, operations, breakers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from altsync.catalogue.current import entity_types
from altsync.circuit.sinks import SinkHealth, sink_health
from altsync.contract import SHADOW, Topology
from altsync.db import Conn
from altsync.declarations import INDEXES, MIRRORS, WITH_STATUS, columns_of, queue_of
from altsync.entities import EntityType, Model, SyncStatus
from altsync.freshness import TARGET, Freshness
from altsync.operations import BreakerState
from altsync.outbox.freshness import freshness
from altsync.status import sql as status_sql
from altsync.status.batches import Work, recent_work
from altsync.status.costs import Costs, costs_today
from altsync.status.moves import Progress, progress
from altsync.status.sql import (
    Backlog,
    Counts,
    Idle,
    Leftover,
    count_statuses,
    idle_sinks,
    status_breakdown,
)
from altsync.verify.results import Verification, last_verification
from altsync.wording import plural

#: Seconds without a claim, while work is due, after which a sink counts as idle. A relay wakes a
#: worker within a second, and again every 10 s.
IDLE_SECONDS = 30.0

#: Why nothing is delivered to a sink that ALTSYNC_SINKS does not name.
TAKEN_OUT = "not among ALTSYNC_SINKS: add it, or altsync discard what is dead of it"

#: Seconds of recent throughput: long enough for one slow batch of every sink.
RECENT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class EntityStatus:
    """Living entities of one type, by sink and status."""

    total: int
    by_sink: dict[str, dict[SyncStatus, int]]


@dataclass(frozen=True, slots=True)
class MatrixRow:
    """A count of living entities of one type with the same statuses, by column."""

    entity: EntityType
    statuses: dict[str, str]
    count: int

    def as_json(self) -> dict[str, Any]:
        """Return a flat object, like a row of SQL."""
        return {"entity": self.entity, **self.statuses, "count": self.count}


@dataclass(frozen=True, slots=True)
class SinkState:
    """The state of a sink's delivery, its beginning, and its reason."""

    state: BreakerState
    since: datetime | None
    reason: str | None
    last_claim_at: datetime | None


@dataclass(frozen=True, slots=True)
class ModelState:
    """The embedding model of the database, and the one of these settings."""

    database: Model | None
    settings: Model | None

    @property
    def agree(self) -> bool:
        """Return whether both are the same, or one is unknown."""
        return None in (self.database, self.settings) or self.database == self.settings


@dataclass(frozen=True, slots=True)
class Status:
    """The data of ``altsync status``. ``recent`` is the work of the last ``RECENT_SECONDS``."""

    entities: dict[EntityType, EntityStatus]
    operations: dict[str, Backlog]
    matrix: tuple[MatrixRow, ...]
    sinks: dict[str, SinkState]
    recent: dict[str, Work]
    model: ModelState = field(default_factory=lambda: ModelState(None, None))
    verified: Verification | None = None
    idle: dict[str, Idle] = field(default_factory=dict)
    leftovers: dict[str, Leftover] = field(default_factory=dict)
    freshness: dict[str, Freshness] = field(default_factory=dict)
    costs: Costs | None = None
    models: Progress | None = None

    @property
    def matrix_sinks(self) -> list[str]:
        """Return the sinks of the matrix."""
        return [sink for sink in MIRRORS if sink in self.sinks]

    @property
    def at_rest(self) -> bool:
        """Return whether nothing waits and nothing failed."""
        return not any(b.pending or b.in_progress or b.dead for b in self.operations.values())

    def as_json(self) -> dict[str, Any]:
        """Return the JSON document."""
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
            "matrix": [row.as_json() for row in self.matrix],
            "sinks": {
                sink: {**asdict(state), "last_minute": asdict(self.recent[sink])}
                for sink, state in self.sinks.items()
            },
            "model": {**asdict(self.model), "agree": self.model.agree},
            "idle": {
                sink: {
                    "seconds": round(one.seconds, 1),
                    "message": idle_message(sink, one, list(self.sinks)),
                }
                for sink, one in self.idle.items()
            },
            "freshness": {
                sink: {**asdict(one), "alerting": one.alerting}
                for sink, one in self.freshness.items()
            },
            "costs": None if self.costs is None else self.costs.as_json(),
            "models": None if self.models is None else self.models.as_json(),
            "verify": None if self.verified is None else asdict(self.verified),
            "leftovers": {name: asdict(one) for name, one in self.leftovers.items()},
        }


def collect(
    conn: Conn,
    topology: Topology,
    disabled: dict[str, str | None],
    model: Model | None = None,
    objectives: Mapping[str, float] | None = None,
    target: float = TARGET,
    cap: Decimal | None = None,
) -> Status:
    """Return the status now. ``disabled`` holds the reason of each disabled sink, None for others.

    ``model`` is the model of the settings, ``objectives`` are those of freshness in seconds, by
    sink, and ``target`` is the share of changes that must meet them. ``cap`` is in dollars a day.
    """
    models = progress(conn, topology)
    wanted = None if models is None else models.serving.model
    with_status = [sink for sink in WITH_STATUS if sink in topology.names]
    counts = {kind: count_statuses(conn, kind) for kind in entity_types()}
    objectives = objectives or {}
    backlog, late = status_sql.backlog_and_late(conn, list(dict.fromkeys(objectives.values())))
    health = sink_health(conn)
    recent = recent_work(conn, RECENT_SECONDS)
    others = [
        sink
        for sink, one in sorted(backlog.items())
        if sink not in topology.names
        and not sink.startswith(SHADOW)
        and (one.pending or one.in_progress or one.dead)
    ]
    names = [*topology.names, *others]
    disabled = {**disabled, **dict.fromkeys(others, TAKEN_OUT)}
    idle = idle_sinks(conn, IDLE_SECONDS)
    fresh = freshness(conn, objectives, target, late)
    return Status(
        {
            kind: EntityStatus(
                sum(found.values()),
                {sink: status_breakdown(found, sink) for sink in with_status},
            )
            for kind, found in counts.items()
        },
        {sink: backlog.get(sink, Backlog()) for sink in names},
        _matrix(counts, [sink for sink in MIRRORS if sink in topology.names]),
        {sink: _sink_state(health.get(sink), disabled.get(sink)) for sink in names},
        {sink: recent.get(sink, Work()) for sink in names},
        ModelState(wanted, model),
        last_verification(conn),
        {sink: idle[sink] for sink in names if sink in idle and disabled.get(sink) is None},
        status_sql.leftovers(conn, list(counts)),
        {sink: fresh[sink] for sink in names if sink in fresh},
        costs_today(conn, cap),
        models=models,
    )


def idle_message(sink: str, idle: Idle, sinks: Sequence[str] = INDEXES) -> str:
    """Return a sentence: how long no worker has claimed for a sink, and the process to start.

    ``sinks`` are those of the settings.
    """
    if idle.relay_silent:
        start = "no relay wakes workers: start altsync relay"
    else:
        start = f"start a worker: celery -A workers.app worker -Q {queue_of(sink, sinks)}"
    return (
        f"nothing has claimed for {idle.seconds:.0f} s, while "
        f"{plural(idle.due, 'operation is', 'operations are')} due; {start}"
    )


def _matrix(counts: Mapping[EntityType, Counts], sinks: Sequence[str]) -> tuple[MatrixRow, ...]:
    positions = [WITH_STATUS.index(sink) for sink in sinks]
    totals: Counter[tuple[EntityType, tuple[str, ...]]] = Counter()
    for kind, found in counts.items():
        for statuses, count in found.items():
            totals[kind, tuple(statuses[position] for position in positions)] += count
    order = list(entity_types())
    columns = [one.status for sink in sinks if (one := columns_of(sink))]
    found_rows = sorted(totals.items(), key=lambda item: (order.index(item[0][0]), item[0][1]))
    return tuple(
        MatrixRow(kind, dict(zip(columns, statuses, strict=True)), count)
        for (kind, statuses), count in found_rows
    )


def _sink_state(health: SinkHealth | None, disabled: str | None) -> SinkState:
    # A pause hides other states, as only the operator ends it.
    paused = health is not None and health.state is BreakerState.PAUSED
    if disabled is not None and not paused:
        since = health.since if health and health.state is BreakerState.DISABLED else None
        return SinkState(
            BreakerState.DISABLED, since, disabled, health.last_claim_at if health else None
        )
    if health is None:
        return SinkState(BreakerState.CLOSED, None, "never set up: run altsync migrate", None)
    return SinkState(health.state, health.since, health.reason, health.last_claim_at)
