"""What a repair may not do: too much of it, on too thin a ground, or for too long."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from altsync import store
from altsync.reconcile import Options
from altsync.reconcile.comparison import PAUSE, TRIES
from altsync.records import EntityType
from altsync.sinks import neo4j
from tests.integration.verifying import Site

pytestmark = pytest.mark.slow


# --- how long writers are held up -----------------------------------------------------------------


def test_a_long_transaction_holds_up_no_writer_for_long(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removal waits in short tries, and says what it has done before it gave up."""
    monkeypatch.setattr("altsync.reconcile.comparison.PAGE", 1)
    for key in ("ghost1", "ghost2"):
        site.graph.ask("CREATE (:League {league_tag: $key, sync_version: 7})", key=key)
    pauses: list[float] = []
    writer = psycopg.connect(site.world.url)
    remove = neo4j.Sink.remove

    def hold_after_first(*arguments: Any) -> None:
        remove(*arguments)
        writer.execute("LOCK TABLE league IN ROW EXCLUSIVE MODE")

    monkeypatch.setattr(neo4j.Sink, "remove", hold_after_first)
    report = site.app.verify(Options(repair=True, max_delete=0.2), ["neo4j"], wait=pauses.append)
    writer.rollback()
    (graph,) = report.tallies
    assert graph.removed == 1
    assert "so only 1 could be removed safely: run it again" in str(graph.refused)
    assert pauses == [PAUSE] * (TRIES - 1)
    # A writer that ends between two tries is waited for.
    monkeypatch.setattr(neo4j.Sink, "remove", remove)
    writer.execute("LOCK TABLE league IN ROW EXCLUSIVE MODE")
    again = Options(repair=True, max_delete=0.2)
    report = site.app.verify(again, ["neo4j"], wait=lambda _: writer.rollback())
    writer.close()
    assert (report.tallies[0].removed, report.tallies[0].refused) == (1, None)
    with site.database.transaction() as conn:
        store.hold_still(conn, EntityType.LEAGUE)
        (limit,) = conn.execute("SHOW lock_timeout").fetchone() or ("",)
    assert limit == "1s"
