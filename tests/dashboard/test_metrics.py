"""The numbers for Prometheus, and what names them: the reference and the Grafana dashboard."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from altsync import silence
from altsync.app import Application
from altsync.dashboard.metrics import BOUNDS, AltsyncCollector
from altsync.dashboard.probes import ANSWER_WITHIN, DatabaseProbe, readiness
from altsync.entities import Model
from altsync.freshness import WINDOWS, bucket_of
from altsync.moves import state
from altsync.operations import BreakerState
from altsync.verify.results import save_verification
from tests.dashboard.site import Site, settings_for
from tests.dashboard.test_api import dead_letter, record
from tests.faults.proxies import relayed
from tests.integration.database_fixture import DatabaseFixture, archetype, eventually, leagues

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference" / "metrics.md"
GRAFANA = ROOT / "ops" / "grafana-dashboard.json"
ALERTS = ROOT / "ops" / "alerts.yml"
RUNBOOKS = ROOT / "docs" / "howto" / "runbooks.md"


def samples(site: Site) -> dict[str, dict[tuple[str, ...], float]]:
    """Values of one scrape, as Prometheus reads them: by name, then by the labels' values.

    Labels are in alphabetical order.
    """
    answer = site.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(answer.text):
        for one in family.samples:
            labels = tuple(value for _, value in sorted(one.labels.items()))
            found.setdefault(one.name, {})[labels] = one.value
    return found


@pytest.fixture
def app(database_url: str) -> Iterator[Application]:
    """An application without any sink that is switched on, whose relay compares daily."""
    app = Application(settings_for(database_url, altsync_verify_every=86_400))
    yield app
    app.close()


@pytest.fixture
def described(app: Application) -> list[Metric]:
    """Every metric of the collector."""
    return AltsyncCollector(app).describe()


def test_gauges_are_the_status(site: Site, pg: DatabaseFixture) -> None:
    """Operations, lag, entities and breakers."""
    pg.save(*leagues(3), archetype("racing"))
    dead_letter(pg, {"l000": "bad"})
    pg.conn.execute("UPDATE sync_operation SET created_at = now() - interval '1 hour'")
    pg.claim("neo4j", limit=1)
    found = samples(site)
    assert found["altsync_database_up"] == {(): 1}
    operations = found["altsync_operations"]
    assert [operations["neo4j", s] for s in ("pending", "in_progress", "dead")] == [2, 1, 1]
    assert 3590 < found["altsync_lag_seconds"]["neo4j",] < 3700
    assert found["altsync_lag_seconds"]["pinecone",] == 0
    entities = found["altsync_entities"]
    assert entities["league", "neo4j", "failed"] == 1
    assert entities["league", "neo4j", "pending"] == 2
    assert entities["sport_archetype", "pinecone", "pending"] == 1
    assert entities["few_shot_example", "neo4j", "synced"] == 0
    states = {state: found["altsync_breaker_state"]["neo4j", state] for state in BreakerState}
    assert states == {s: float(s is BreakerState.DISABLED) for s in BreakerState}


def test_a_silent_database_is_a_number_within_seconds(database_url: str) -> None:
    """Neither the scrape nor a probe waits for a server that acknowledges and never answers."""
    with relayed(database_url) as (proxy, url):
        app = Application(settings_for(url))
        try:
            probe = DatabaseProbe(app)
            collector = AltsyncCollector(app, probe)
            assert _up(collector) == 1
            proxy.half_open = True
            proxy.silence()
            assert _up(collector) == 0
            found = readiness(app, probe)
            assert not found.ready
            # The dashboard's own limit ended it, before the connection's.
            assert found.database == f"no answer: no answer within {ANSWER_WITHIN:g} s"
            assert ANSWER_WITHIN < silence.SILENCE
            proxy.half_open = False
            eventually(lambda: _up(collector) == 1)
        finally:
            app.close()


def _up(collector: AltsyncCollector) -> float:
    first = next(iter(collector.collect()))
    assert first.name == "altsync_database_up"
    return first.samples[0].value


def test_freshness_has_its_objective_and_burn_rates(database_url: str, pg: DatabaseFixture) -> None:
    """A sink without an objective has ages alone; one without changes has no age."""
    minute = "date_trunc('minute', now(), 'UTC')"
    values = f"('neo4j', {minute}, {bucket_of(2.0)}, 3), ('neo4j', {minute}, {bucket_of(9.0)}, 1)"
    pg.conn.execute(
        f"INSERT INTO freshness VALUES {values}, ('embedding', {minute}, {bucket_of(0.1)}, 4)"
    )
    objectives = "neo4j=5s,pinecone=30s"
    app = Application(settings_for(database_url, altsync_freshness_slo=objectives))
    try:
        families = {one.name: one for one in AltsyncCollector(app).collect()}
    finally:
        app.close()
    found = {
        name: {tuple(one.labels.values()): one.value for one in family.samples}
        for name, family in families.items()
        if name.startswith("altsync_freshness")
    }
    assert found["altsync_freshness_objective_seconds"] == {("neo4j",): 5, ("pinecone",): 30}
    assert found["altsync_freshness_share"] == {("neo4j",): 0.75}
    assert found["altsync_freshness_overdue"] == {("neo4j",): 0, ("pinecone",): 0}
    burn = found["altsync_freshness_burn_rate"]
    assert [round(burn["neo4j", window]) for window in WINDOWS] == [25] * 4
    assert {burn["pinecone", window] for window in WINDOWS} == {0}
    ages = found["altsync_freshness_seconds"]
    assert {sink for sink, _ in ages} == {"neo4j", "embedding"}
    assert ages["neo4j", "0.5"] <= 2.0 < ages["neo4j", "0.99"] <= 10.0


def test_counters_add_up_batches(site: Site, pg: DatabaseFixture) -> None:
    """Also the histogram; a sink without batches is at zero."""
    record(pg, "neo4j", 500, 0.2, claimed=9, synced=5, retried=2, dead=1, superseded=1, calls=3)
    record(pg, "neo4j", 1, 0.25, synced=1, calls=1)
    record(pg, "embedding", 1, 40.0, synced=2, calls=1, tokens=77)
    found = samples(site)
    graph = {name: values["neo4j",] for name, values in found.items() if ("neo4j",) in values}
    assert graph["altsync_delivery_batches_total"] == 2
    assert graph["altsync_delivery_attempts_total"] == 10
    assert graph["altsync_delivery_synced_total"] == 6
    assert graph["altsync_delivery_retried_total"] == 2
    assert graph["altsync_delivery_dead_total"] == 1
    assert graph["altsync_delivery_superseded_total"] == 1
    assert graph["altsync_delivery_lost_total"] == 0
    assert graph["altsync_remote_calls_total"] == 4
    assert found["altsync_tokens_total"]["embedding",] == 77
    assert found["altsync_delivery_synced_total"]["pinecone",] == 0
    buckets = found["altsync_batch_duration_seconds_bucket"]
    assert [buckets[repr(b), "neo4j"] for b in BOUNDS] == [0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2]
    assert (buckets["30.0", "embedding"], buckets["+Inf", "embedding"]) == (0, 1)
    assert graph["altsync_batch_duration_seconds_sum"] == pytest.approx(0.45)
    assert graph["altsync_batch_duration_seconds_count"] == 2


def test_counters_never_go_down(site: Site, pg: DatabaseFixture) -> None:
    """Pruned batches stay counted, and new ones are added once, at any number of scrapes."""
    record(pg, "neo4j", 500, synced=5)
    record(pg, "neo4j", 400, synced=7)
    record(pg, "neo4j", 1, synced=1)

    def synced() -> float:
        return samples(site)["altsync_delivery_synced_total"]["neo4j",]

    assert (synced(), synced()) == (13, 13)
    pg.conn.execute("DELETE FROM delivery_batch WHERE finished_at < now() - interval '1 min'")
    record(pg, "neo4j", 0, synced=100)
    assert (synced(), synced()) == (113, 113)
    pg.conn.execute("UPDATE delivery_batch SET finished_at = now() - interval '2 min'")
    assert (synced(), synced()) == (113, 113)


def test_a_batch_that_is_committed_late_is_counted(site: Site, pg: DatabaseFixture) -> None:
    """Its id is lower than that of one that was counted before."""
    record(pg, "neo4j", 1, synced=1)
    record(pg, "neo4j", 1, synced=2)
    (first,) = pg.conn.execute("SELECT min(id) FROM delivery_batch").fetchone() or (0,)
    pg.conn.execute("CREATE TABLE held AS SELECT * FROM delivery_batch WHERE id = %s", (first,))
    try:
        pg.conn.execute("DELETE FROM delivery_batch WHERE id = %s", (first,))
        assert samples(site)["altsync_delivery_synced_total"]["neo4j",] == 2
        pg.conn.execute("INSERT INTO delivery_batch OVERRIDING SYSTEM VALUE SELECT * FROM held")
        assert samples(site)["altsync_delivery_synced_total"]["neo4j",] == 3
    finally:
        pg.conn.execute("DROP TABLE held")


def test_openmetrics_is_spoken_when_asked_for(site: Site) -> None:
    """As newer scrapers ask."""
    answer = site.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def full_names(metric: Metric) -> set[str]:
    """The names under which Prometheus keeps a metric."""
    match metric.type:
        case "counter":
            return {f"{metric.name}_total"}
        case "histogram":
            return {f"{metric.name}_{part}" for part in ("bucket", "sum", "count")}
        case _:
            return {metric.name}


def test_every_scraped_metric_is_described(
    site: Site, pg: DatabaseFixture, described: list[Metric]
) -> None:
    """Also before there is a database; what the last comparison found, after the first one."""
    told = {"altsync_drift", "altsync_verify_problem", "altsync_verify_last_seconds"}
    assert not samples(site).keys() & told
    result = {"sinks": {"neo4j": {"missing": 3, "stale": 0, "orphan": 0, "ahead": 1, "edges": 5}}}
    save_verification(pg.conn, seconds=1.0, consistent=False, result=result)
    record(pg, "embedding", 1, tokens=3)
    pg.conn.execute("INSERT INTO freshness VALUES ('neo4j', now(), 20, 1)")
    with site.app.database.transaction() as conn:
        state.begin(conn, site.app.topology, Model("other", 8), requests=None, tokens=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site.app.settings, "altsync_max_cost_per_day", Decimal(5))
        patch.setattr(site.app.settings, "altsync_freshness_slo", "neo4j=5s")
        found = samples(site)
    assert found["altsync_cost_cap_dollars"][()] == 5
    assert found["altsync_cost_dollars_total"]["seed", "embedding"] == 0
    assert found["altsync_drift"] == {
        ("missing", "neo4j"): 3,
        ("stale", "neo4j"): 0,
        ("orphan", "neo4j"): 0,
        ("ahead", "neo4j"): 1,
    }
    assert found.keys() == {name for metric in described for name in full_names(metric)}


def test_a_sink_that_could_not_be_compared_is_not_called_equal(
    site: Site, pg: DatabaseFixture
) -> None:
    """Zeros would end the alert on drift: what was found is told, and that there is a problem."""
    result = {
        "sinks": {
            "neo4j": {"missing": 0, "stale": 2, "orphan": 0, "ahead": 0},
            "pinecone": {"missing": 0, "stale": 0},
            "embedding": {"missing": 0, "stale": 1},
        },
        "problems": {"pinecone": "away", "neo4j": "away"},
    }
    save_verification(pg.conn, seconds=1.0, consistent=False, result=result)
    record(pg, "embedding", 1, tokens=3)
    pg.conn.execute("INSERT INTO freshness VALUES ('neo4j', now(), 20, 1)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site.app.settings, "altsync_max_cost_per_day", Decimal(5))
        patch.setattr(site.app.settings, "altsync_freshness_slo", "neo4j=5s")
        found = samples(site)
    assert found["altsync_cost_cap_dollars"][()] == 5
    assert found["altsync_cost_dollars_total"]["seed", "embedding"] == 0
    assert found["altsync_drift"] == {
        ("stale", "neo4j"): 2,
        ("missing", "embedding"): 0,
        ("stale", "embedding"): 1,
    }
    assert found["altsync_verify_problem"] == {("neo4j",): 1, ("pinecone",): 1, ("embedding",): 0}


def test_how_often_stores_are_compared_is_told(site: Site, database_url: str) -> None:
    """As the settings say it, so that an alert can tell that a comparison is overdue."""
    assert samples(site)["altsync_verify_every_seconds"] == {(): 86_400}
    app = Application(settings_for(database_url))
    found = {metric.name: metric.samples for metric in AltsyncCollector(app).collect()}
    app.close()
    assert found["altsync_verify_every_seconds"] == []


def test_alerts_on_comparisons_are_there() -> None:
    """On drift, on sinks that could not be compared, and on comparisons that do not come."""
    asked = " ".join(rule["expr"] for rule in rules())
    for name in ("drift", "verify_problem", "verify_last_seconds", "verify_every_seconds"):
        assert f"altsync_{name}" in asked


def test_the_reference_is_complete(described: list[Metric]) -> None:
    """Every metric with type, labels and meaning, and nothing else."""
    documented = {}
    for line in re.findall(r"^\| `altsync_.+\|$", REFERENCE.read_text(), re.MULTILINE):
        name, kind, labels, text = (cell.strip() for cell in line.strip("|").split("|"))
        documented[name.strip("`")] = (kind, re.findall(r"`(\w+)`", labels), bool(text))
    expected = {}
    for metric in described:
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        labels = list(getattr(metric, "_labelnames", ()))
        expected[name] = (metric.type, labels, True)
    assert documented == expected


def test_the_reference_names_every_bound() -> None:
    """The histogram's upper bounds, in order."""
    (line,) = re.findall(
        r"^Upper bounds of the histogram, in seconds: (.+)\.$", REFERENCE.read_text(), re.MULTILINE
    )
    assert [float(bound) for bound in line.split(", ")] == list(BOUNDS)


def expressions(node: Any) -> Iterator[str]:
    """Every query of a Grafana dashboard."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name in ("expr", "query") and isinstance(value, str):
                yield value
            else:
                yield from expressions(value)
    elif isinstance(node, list):
        for member in node:
            yield from expressions(member)


def test_grafana_asks_for_what_there_is(described: list[Metric]) -> None:
    """Every metric and label it names exists, and every metric is on it."""
    found = json.loads(GRAFANA.read_text())
    text = " ".join(e for e in expressions(found) if "altsync_" in e)
    there = {name: metric for metric in described for name in full_names(metric)}
    named = set(re.findall(r"\baltsync_\w+", text))
    assert named <= there.keys()
    assert {metric.name for metric in described} == {there[name].name for name in named}
    labels = {label for metric in described for label in getattr(metric, "_labelnames", ())}
    used = set(re.findall(r"by \(([\w, ]+)\)", text))
    assert {one.strip() for group in used for one in group.split(",")} <= labels | {"le"}


def rules() -> list[dict[str, Any]]:
    """The alert rules that are shipped."""
    found = yaml.safe_load(ALERTS.read_text())
    return [rule for group in found["groups"] for rule in group["rules"]]


def test_alerts_ask_for_what_there_is(described: list[Metric]) -> None:
    """Every metric, label and label's value of a rule exists."""
    there = {name: metric for metric in described for name in full_names(metric)}
    values = {
        "state": {state.value for state in BreakerState},
        "status": {"pending", "in_progress", "dead", "discarded"},
        "window": set(WINDOWS),
    }
    assert rules()
    for rule in rules():
        asked = re.findall(r"\b(altsync_\w+)(?:\{([^}]*)\})?", rule["expr"])
        assert asked, rule["alert"]
        for name, selector in asked:
            assert name in there, rule["alert"]
            for label, value in re.findall(r'(\w+)=~?"([^"]*)"', selector):
                assert label in getattr(there[name], "_labelnames", ()), rule["alert"]
                assert set(value.split("|")) <= values[label], rule["alert"]
        for opening, closing in ("()", "{}", "[]"):
            assert rule["expr"].count(opening) == rule["expr"].count(closing), rule["alert"]


def test_a_breaker_that_holds_up_nothing_raises_no_alert() -> None:
    """It stays open until there is something to try: that is no reason to wake anybody."""
    (rule,) = (rule for rule in rules() if rule["alert"] == "AltsyncSinkStandsStill")
    stands, waits = rule["expr"].split(" and on (sink) ")
    assert "altsync_breaker_state" in stands
    assert waits == 'max by (sink) (altsync_operations{status=~"pending|in_progress"}) > 0'


def test_every_alert_has_its_runbook() -> None:
    """The page has the section that a rule names, and the section names the rule."""
    page = RUNBOOKS.read_text()
    for rule in rules():
        assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}
        path, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert ROOT / path == RUNBOOKS
        sections = {
            part.partition("\n")[0].lower().replace(" ", "-"): part
            for part in page.split("\n## ")[1:]
        }
        assert f"*{rule['alert']}:" in sections[anchor]
