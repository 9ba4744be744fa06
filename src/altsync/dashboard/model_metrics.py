"""The metrics of a move from one embedding model to another."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric

from altsync.status.moves import Progress


def model_families(found: Progress | None) -> Iterator[Metric]:
    """Yield the metrics of the model beside the serving one; no samples without one."""
    waiting = GaugeMetricFamily(
        "altsync_move_waiting",
        "Operations that the model beside the serving one waits for.",
        labels=["sink"],
    )
    done = GaugeMetricFamily(
        "altsync_move_done",
        "Entities that the indexes of the model beside the serving one hold.",
        labels=["sink"],
    )
    rate = GaugeMetricFamily(
        "altsync_move_rate",
        "Operations that it has delivered a second, in the last five minutes.",
        labels=["sink"],
    )
    dead = GaugeMetricFamily("altsync_move_dead", "Dead operations of that model.")
    if found is not None and found.shadow is not None:
        for sink, one in found.sinks.items():
            waiting.add_metric([sink], one.waiting)
            done.add_metric([sink], one.done)
            rate.add_metric([sink], one.per_minute / 60)
        dead.add_metric([], found.dead)
    yield from (waiting, done, rate, dead)
