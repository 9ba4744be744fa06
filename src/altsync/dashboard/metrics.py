"""Metrics for Prometheus, read from the database at every scrape."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import add

import psycopg
import psycopg_pool
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from altsync.app import Application
from altsync.costs.ledger import Spent, spent
from altsync.dashboard.cost_metrics import cost_families
from altsync.dashboard.model_metrics import model_families
from altsync.dashboard.probes import DatabaseProbe
from altsync.db import Conn
from altsync.freshness import Freshness
from altsync.operations import BreakerState
from altsync.status.batches import BatchTotals, Work, batch_totals, last_settled_batch
from altsync.status.collect import Status
from altsync.verify.report import kinds_of
from altsync.verify.results import Verification

logger = structlog.get_logger(__name__)

#: Upper bounds of the histogram, in seconds: from a batch without a remote call to a full lease.
BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

#: Seconds after which no older batch appears. The transaction that records one is short, and ends
#: within the worker's lease.
SETTLED_AFTER = 60.0

#: Metric, attribute of ``Work``, help.
COUNTERS = (
    ("altsync_delivery_batches", "batches", "Batches that workers claimed."),
    ("altsync_delivery_attempts", "claimed", "Operations that were claimed: attempts."),
    ("altsync_delivery_synced", "synced", "Operations that the sink confirmed."),
    ("altsync_delivery_superseded", "superseded", "Operations that a newer version replaced."),
    ("altsync_delivery_retried", "retried", "Attempts that failed and will be retried."),
    ("altsync_delivery_dead", "dead", "Operations that became dead letters."),
    ("altsync_delivery_lost", "lost", "Operations that another worker took over."),
    ("altsync_remote_calls", "remote_calls", "Calls to the sink."),
    ("altsync_tokens", "tokens", "Tokens that the embedder counted."),
)

_NOTHING = BatchTotals(Work(), 0.0, (0,) * len(BOUNDS))


class AltsyncCollector(Collector):
    """The collector of all metrics. Safe to use from several threads."""

    def __init__(self, app: Application, probe: DatabaseProbe | None = None) -> None:
        self._app = app
        self._probe = probe or DatabaseProbe(app)
        self._tally = _Tally()

    def describe(self) -> list[Metric]:
        """Return each metric without a sample, so that registering does not query the database."""
        return [_database_up(None), *_families(_Reading({}, {}, None, None, ()))]

    def collect(self) -> Iterator[Metric]:
        """Yield the present metrics. For a silent database, yield a metric instead of an error."""
        try:
            self._probe.check()
            reading = self._read()
        except (psycopg.Error, psycopg_pool.PoolTimeout) as error:
            logger.warning("metrics.unread", error=error)
            yield _database_up(0)
            return
        yield _database_up(1)
        yield from _families(reading)

    def _read(self) -> _Reading:
        app = self._app
        with app.database.autocommit() as conn:
            found = app.status(conn)
            totals = self._tally.totals(conn)
            costs = spent(conn, None)
        sinks = {sink: totals.get(sink, _NOTHING) for sink in found.sinks}
        every = app.settings.altsync_verify_every
        return _Reading({**totals, **sinks}, app.disabled_reasons, found, every, costs)


@dataclass(frozen=True, slots=True)
class _Reading:
    totals: Mapping[str, BatchTotals]
    disabled: Mapping[str, str | None]
    status: Status | None
    verify_every: float | None
    spent: Sequence[Spent]


class _Tally:
    """Totals over all batches: they never go down while the process runs.

    Old batches are added up once. A scrape reads only newer ones, and pruned ones stay counted.
    """

    def __init__(self) -> None:
        self._settled: dict[str, BatchTotals] = {}
        self._until = 0
        self._lock = threading.Lock()

    def totals(self, conn: Conn) -> dict[str, BatchTotals]:
        """Return the totals by sink."""
        with self._lock:
            until = last_settled_batch(conn, SETTLED_AFTER)
            if until > self._until:
                new = batch_totals(conn, BOUNDS, after=self._until, until=until)
                self._settled = _sum(self._settled, new)
                self._until = until
            return _sum(self._settled, batch_totals(conn, BOUNDS, after=self._until))


def _sum(
    one: Mapping[str, BatchTotals], other: Mapping[str, BatchTotals]
) -> dict[str, BatchTotals]:
    return {
        sink: _added(one.get(sink, _NOTHING), other.get(sink, _NOTHING))
        for sink in one.keys() | other.keys()
    }


def _added(one: BatchTotals, other: BatchTotals) -> BatchTotals:
    work = Work(*(getattr(one.work, f.name) + getattr(other.work, f.name) for f in fields(Work)))
    at_most = tuple(map(add, one.at_most, other.at_most))
    return BatchTotals(work, one.seconds + other.seconds, at_most)


def _families(reading: _Reading) -> Iterator[Metric]:
    yield from _gauges(reading.status)
    verified = reading.status.verified if reading.status is not None else None
    yield from _verified(verified, reading.verify_every)
    yield from _fresh(reading.status.freshness if reading.status is not None else {})
    for name, attribute, help_text in COUNTERS:
        counter = CounterMetricFamily(name, help_text, labels=["sink"])
        for sink, totals in sorted(reading.totals.items()):
            counter.add_metric([sink], getattr(totals.work, attribute))
        yield counter
    yield _durations(reading.totals)
    yield from model_families(reading.status.models if reading.status else None)
    yield from cost_families(reading.spent, reading.status.costs if reading.status else None)


def _database_up(value: int | None) -> Metric:
    return GaugeMetricFamily(
        "altsync_database_up", "1 when PostgreSQL answered this scrape, else 0.", value=value
    )


def _gauges(found: Status | None) -> Iterator[Metric]:
    operations = GaugeMetricFamily(
        "altsync_operations",
        "Operations that are pending, in progress, dead or discarded.",
        labels=["sink", "status"],
    )
    lag = GaugeMetricFamily(
        "altsync_lag_seconds",
        "Age of the oldest pending operation; 0 when there is none.",
        labels=["sink"],
    )
    entities = GaugeMetricFamily(
        "altsync_entities", "Living entities.", labels=["entity_type", "sink", "status"]
    )
    breaker = GaugeMetricFamily(
        "altsync_breaker_state",
        "1 for the state that the sink's breaker is in, else 0.",
        labels=["sink", "state"],
    )
    if found is not None:
        for sink, backlog in found.operations.items():
            for name in ("pending", "in_progress", "dead", "discarded"):
                operations.add_metric([sink, name], getattr(backlog, name))
            lag.add_metric([sink], max(0.0, backlog.oldest_pending_seconds or 0.0))
        for kind, entity in found.entities.items():
            for sink, counts in entity.by_sink.items():
                for state, count in counts.items():
                    entities.add_metric([kind.value, sink, state.value], count)
        for sink, health in found.sinks.items():
            for one in BreakerState:
                breaker.add_metric([sink, one.value], int(health.state is one))
    yield from (operations, lag, entities, breaker)


def _verified(last: Verification | None, every: float | None) -> Iterator[Metric]:
    """Yield the results of the last comparison; no samples before the first one.

    A sink whose comparison did not finish gets no sample of 0: its drift is unknown.
    """
    drift = GaugeMetricFamily(
        "altsync_drift",
        "Entities that differed from PostgreSQL when all stores were last compared.",
        labels=["sink", "kind"],
    )
    problem = GaugeMetricFamily(
        "altsync_verify_problem",
        "1 for a sink that the last comparison could not compare, else 0.",
        labels=["sink"],
    )
    age = GaugeMetricFamily(
        "altsync_verify_last_seconds", "Age of the last comparison of all stores."
    )
    period = GaugeMetricFamily(
        "altsync_verify_every_seconds", "Seconds between two comparisons, as the settings say."
    )
    if last is not None:
        problems = last.result.get("problems") or {}
        for sink, numbers in last.result.get("sinks", {}).items():
            problem.add_metric([sink], int(sink in problems))
            for kind in kinds_of(sink):
                count = numbers.get(kind.value, 0)
                if count or sink not in problems:
                    drift.add_metric([sink, kind.value], count)
        age.add_metric([], max(0.0, last.age))
    if every is not None:
        period.add_metric([], every)
    yield from (drift, problem, age, period)


def _fresh(by_sink: Mapping[str, Freshness]) -> Iterator[Metric]:
    """Yield ages and objectives; no samples for a sink without a change or an objective."""
    ages = GaugeMetricFamily(
        "altsync_freshness_seconds",
        "Age of changes when the sink confirmed them, by quantile of the last hour.",
        labels=["sink", "quantile"],
    )
    objective = GaugeMetricFamily(
        "altsync_freshness_objective_seconds",
        "Age that changes must not exceed, as the settings say.",
        labels=["sink"],
    )
    share = GaugeMetricFamily(
        "altsync_freshness_share",
        "Share of the changes of the last hour that met the objective.",
        labels=["sink"],
    )
    overdue = GaugeMetricFamily(
        "altsync_freshness_overdue",
        "Changes that wait and are older than the objective.",
        labels=["sink"],
    )
    burn = GaugeMetricFamily(
        "altsync_freshness_burn_rate",
        "How many times faster than allowed the error budget is used, by window.",
        labels=["sink", "window"],
    )
    for sink, one in by_sink.items():
        for quantile, value in (("0.5", one.p50), ("0.95", one.p95), ("0.99", one.p99)):
            if value is not None:
                ages.add_metric([sink, quantile], value)
        if one.objective is not None:
            objective.add_metric([sink], one.objective)
            overdue.add_metric([sink], one.overdue)
            for window, rate in (one.burn or {}).items():
                burn.add_metric([sink, window], rate)
        if one.share is not None:
            share.add_metric([sink], one.share)
    yield from (ages, objective, share, overdue, burn)


def _durations(all_totals: Mapping[str, BatchTotals]) -> Metric:
    histogram = HistogramMetricFamily(
        "altsync_batch_duration_seconds", "How long batches took.", labels=["sink"]
    )
    for sink, totals in sorted(all_totals.items()):
        bounds = [(repr(b), float(n)) for b, n in zip(BOUNDS, totals.at_most, strict=True)]
        histogram.add_metric([sink], [*bounds, ("+Inf", totals.work.batches)], totals.seconds)
    return histogram


def registry_of(app: Application, probe: DatabaseProbe) -> CollectorRegistry:
    """Return a registry that holds altsync's metrics only."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(AltsyncCollector(app, probe))
    return registry


def exposition(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """Return the metrics in the format that ``accept`` wants, and its content type."""
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
