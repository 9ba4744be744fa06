"""Metrics of costs: totals by sink and origin, and the present day with its cap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from altsync.costs.ledger import Spent
from altsync.status.costs import Costs

#: Metric, attribute of ``Spent``, help.
TOTALS = (
    ("altsync_cost_dollars", "dollars", "Dollars by the table of prices."),
    ("altsync_read_units", "read_units", "Read units that a vector index charged."),
    ("altsync_write_units", "write_units", "Write units that a vector index charges."),
)


def cost_families(totals: Sequence[Spent], costs: Costs | None) -> Iterator[Metric]:
    """Yield the metrics of costs; no samples of a cap that is not set."""
    for name, attribute, help_text in TOTALS:
        counter = CounterMetricFamily(name, help_text, labels=["sink", "origin"])
        for one in totals:
            counter.add_metric([one.sink, one.origin], float(getattr(one, attribute)))
        yield counter
    day = GaugeMetricFamily(
        "altsync_cost_day_dollars",
        "Dollars of the present day (UTC): settled, or reserved by calls without an outcome.",
        labels=["state"],
    )
    cap = GaugeMetricFamily("altsync_cost_cap_dollars", "The most dollars of a day.")
    if costs is not None:
        day.add_metric(["settled"], float(costs.day.dollars))
        day.add_metric(["reserved"], float(costs.day.reserved))
        if costs.cap is not None:
            cap.add_metric([], float(costs.cap))
    yield from (day, cap)
