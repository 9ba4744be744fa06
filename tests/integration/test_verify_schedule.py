"""Comparing again and again: by one relay at a time, whatever goes wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from structlog.testing import capture_logs

from altsync import db
from altsync.db import Conn, Database
from altsync.verify import results, schedule
from altsync.verify.report import Options, Report, Tally
from altsync.verify.results import Verification, save_verification
from altsync.verify.schedule import Schedule
from tests.integration.database_fixture import DatabaseFixture


def schedule_of(
    pg: DatabaseFixture,
    database: Database,
    compare: Callable[[], Report],
    connect: Callable[[], Conn] | None = None,
) -> Schedule:
    """One relay's."""
    return Schedule(
        database, connect or (lambda: db.connect(pg.url)), 3600.0, lambda wait: compare()
    )


def test_two_relays_compare_once(
    pg: DatabaseFixture, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have seen that it is time: one compares, the other finds that it has been done."""
    met = threading.Barrier(2, timeout=30.0)
    first = threading.local()
    last_verification = results.last_verification
    compared: list[int] = []

    def look(conn: Conn) -> Verification | None:
        found = last_verification(conn)
        if not getattr(first, "met", False):
            first.met = True
            met.wait()
        return found

    def compare() -> Report:
        compared.append(1)
        save_verification(pg.conn, seconds=1.0, consistent=True, result={})
        return Report(0, (Tally("neo4j"),), Options())

    monkeypatch.setattr("altsync.verify.schedule.last_verification", look)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda one: one.step(), [schedule_of(pg, database, compare)] * 2))
    assert compared == [1]


def test_what_another_has_just_compared_is_not_compared_again(
    pg: DatabaseFixture, database: Database
) -> None:
    """It ended between the look and the right to compare."""

    def connect() -> Conn:
        save_verification(pg.conn, seconds=1.0, consistent=True, result={})
        return db.connect(pg.url)

    def never() -> Report:
        raise AssertionError("once more")

    assert 3000 < schedule_of(pg, database, never, connect).step() < 3600


def test_while_one_relay_compares_the_other_waits(pg: DatabaseFixture, database: Database) -> None:
    """However long it takes; one that died with the right to compare leaves it to the next."""
    waits: list[float] = []

    def never() -> Report:
        raise AssertionError("two at once")

    def compare() -> Report:
        waits.append(schedule_of(pg, database, never).step())
        return Report(0, (Tally("neo4j"),), Options())

    one = schedule_of(pg, database, compare)
    assert one.step() == 3600.0
    assert waits == [schedule.RETRY]


def test_an_unexpected_error_ends_no_schedule(pg: DatabaseFixture, database: Database) -> None:
    """It is logged with its traceback, and there is another try."""
    failures = [ZeroDivisionError("unexpected")]

    def compare() -> Report:
        if failures:
            raise failures.pop()
        return Report(0, (Tally("neo4j"),), Options())

    one = schedule_of(pg, database, compare)
    with capture_logs() as log:
        assert one.step() == schedule.RETRY_UNKNOWN
        assert one.step() == 3600.0
    assert [(line["event"], line["log_level"]) for line in log] == [
        ("stores.not_compared", "error"),
        ("stores.compared", "info"),
    ]
    assert log[0]["exc_info"] is True


def test_a_database_that_is_away_is_one_warning(pg: DatabaseFixture, database: Database) -> None:
    """However many tries it takes; the next outage is another one."""
    away = True

    def connect() -> Conn:
        if away:
            raise psycopg.OperationalError("connection refused")
        return db.connect(pg.url)

    def compare() -> Report:
        return Report(0, (Tally("neo4j"),), Options())

    one = schedule_of(pg, database, compare, connect)

    def warnings() -> int:
        with capture_logs() as log:
            assert [one.step() for _ in range(3)] == [schedule.RETRY] * 3
        return sum(line["log_level"] == "warning" for line in log)

    assert warnings() == 1
    away = False
    assert one.step() == 3600.0
    away = True
    assert warnings() == 1


def test_the_whole_report_is_logged_by_the_schedule(
    pg: DatabaseFixture, database: Database
) -> None:
    """A comparison that is not saved as the last one is a warning."""

    def compare() -> Report:
        return Report(
            0, (Tally("neo4j"),), Options(), not_saved_reason="others deliver to pinecone"
        )

    with capture_logs() as log:
        schedule_of(pg, database, compare).step()
    assert log[0]["log_level"] == "warning"
    assert log[0]["not_saved_reason"] == "others deliver to pinecone"
