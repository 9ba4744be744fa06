"""The result of a comparison that could not see everything, and which results are saved."""

from __future__ import annotations

import json
import logging
from contextlib import closing
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from altsync.app import Application
from altsync.circuit.pause import pause
from altsync.circuit.sinks import set_enabled
from altsync.cli import app as cli
from altsync.cli.status import _collect, verify_note
from altsync.cli.verify import AGREE, CANNOT_TELL, DRIFT
from altsync.doctor import Health, _idle
from altsync.verify import report
from altsync.verify.report import Options, Report, Tally
from tests.conftest import DIMENSIONS, MODEL
from tests.integration.database_fixture import DatabaseFixture, league

#: A password that no message may show.
SECRET = "hunter2hunter2"


@pytest.fixture
def embedding_alone(pg: DatabaseFixture, monkeypatch: pytest.MonkeyPatch) -> DatabaseFixture:
    """One sink is switched on, in settings and shared state; no service is called for it."""
    settings = {
        "DATABASE_URL": pg.url,
        "OPENAI_API_KEY": "not-a-real-key",
        "ALTSYNC_SIMILARITY": "false",
        "ALTSYNC_EMBEDDING_MODEL": MODEL,
        "ALTSYNC_EMBEDDING_DIMENSIONS": str(DIMENSIONS),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    app = Application()
    app.announce()
    app.close()
    return pg


def run(*arguments: str, code: int) -> Any:
    """The command as a user has it."""
    result = CliRunner().invoke(cli, ["verify", *arguments])
    # The command logs to the runner's stderr, which is closed by now.
    logging.root.handlers[:] = [logging.NullHandler()]
    assert result.exit_code == code, result.output
    return result


def said(*arguments: str, code: int) -> str:
    """All that it says, in one line."""
    return " ".join(run(*arguments, code=code).output.split())


def kept(pg: DatabaseFixture) -> int:
    """Results that others see."""
    return int(pg.scalar("SELECT count(*) FROM verify_run"))


def status_line() -> str:
    """Return what ``altsync status`` shows of the last comparison."""
    app = Application()
    try:
        return " ".join(text.plain for text in verify_note(_collect(app)))
    finally:
        app.close()


def lose(pg: DatabaseFixture) -> None:
    """A league that no operation will embed: drift."""
    pg.save(league("lost"))
    pg.conn.execute(
        "UPDATE sync_operation SET status = 'dead', finished_at = now(), last_error = 'x', "
        "error_kind = 'item' WHERE finished_at IS NULL"
    )


def test_a_report_about_nothing_is_not_consistent() -> None:
    """Nothing was compared, so nothing agrees."""
    assert not Report(0, (), Options()).consistent
    assert Report(0, (Tally("neo4j"),), report.Options()).consistent


# --- exit codes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError(f"postgresql://me:{SECRET}@db/altsync"),
        psycopg.errors.InsufficientPrivilege("permission denied for table league"),
        psycopg.errors.NumericValueOutOfRange("bigint out of range"),
    ],
)
@pytest.mark.parametrize(
    "place", ["altsync.verify.run.verify", "altsync.cli.terminal.answers.print"]
)
def test_a_surprise_is_no_drift(
    embedding_alone: DatabaseFixture, monkeypatch: pytest.MonkeyPatch, error: Exception, place: str
) -> None:
    """Exit code 1 says that stores differ: whatever else goes wrong ends with 2, in a sentence."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(place, fail)
    text = said(code=2)
    assert "altsync: could not tell: " in text
    assert str(error).removesuffix(f"postgresql://me:{SECRET}@db/altsync") in text
    assert SECRET not in text
    assert "Traceback" not in text


@pytest.mark.parametrize(("differs", "code"), [(False, 0), (True, 1)])
def test_a_result_that_cannot_be_kept_is_told_all_the_same(
    embedding_alone: DatabaseFixture, monkeypatch: pytest.MonkeyPatch, differs: bool, code: int
) -> None:
    """On a standby, or with a role that may only read: a warning, and the result's own code."""
    if differs:
        lose(embedding_alone)
    monkeypatch.setenv("PGOPTIONS", "-c default_transaction_read_only=on")
    result = run("--json", code=code)
    assert json.loads(result.stdout)["consistent"] is not differs
    assert "not stored as the last result" in " ".join(result.stderr.split())
    assert "read-only transaction" in " ".join(result.stderr.split())
    assert kept(embedding_alone) == 0


# --- what was compared --------------------------------------------------------------------------


def test_nothing_compared_is_no_agreement(
    pg: DatabaseFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a database alone nothing is compared, and agreement is not reported."""
    monkeypatch.setenv("DATABASE_URL", pg.url)
    body = json.loads(run("--json", code=2).stdout)
    assert (body["consistent"], list(body["sinks"])) == (False, ["postgresql"])
    text = said(code=2)
    assert "nothing was compared" in text
    for name in ("OPENAI_API_KEY", "NEO4J_URI", "PINECONE_API_KEY"):
        assert f"{name} is not set" in text
    assert "agrees" not in text
    assert (kept(pg), status_line()) == (0, "")


def test_what_was_left_out_is_named(embedding_alone: DatabaseFixture) -> None:
    """Agreement is about what was compared, in the answer and in the status."""
    text = said(code=0)
    left = "neo4j, pinecone"
    assert f"Every compared store agrees (0 entities). Not compared: {left}." in text
    assert "NEO4J_URI is not set" in text
    assert f"every compared store agreed (0 entities). Not compared: {left}." in status_line()
    assert json.loads(run("--json", code=0).stdout)["not_compared"] == ["neo4j", "pinecone"]


def test_one_sink_is_not_every_store(embedding_alone: DatabaseFixture) -> None:
    """A comparison of one sink reports nothing of the others."""
    assert "Every compared store agrees" in said("--sink", "embedding", code=0)
    assert kept(embedding_alone) == 0


@pytest.mark.parametrize("paused", [False, True])
def test_a_result_without_what_others_deliver_to_is_not_kept(
    embedding_alone: DatabaseFixture, paused: bool
) -> None:
    """The relay has the graph switched on: a command without its setting does not report on it."""
    set_enabled(embedding_alone.conn, "neo4j", None)
    if paused:
        pause(embedding_alone.conn, "neo4j", "moved")
        pause(embedding_alone.conn, "pinecone", "disabled all the same")
    text = said(code=0)
    assert "not stored as the last result: others deliver to neo4j, which was not compared" in text
    assert kept(embedding_alone) == 0
    set_enabled(embedding_alone.conn, "neo4j", "NEO4J_URI is not set")
    assert "not kept" not in said(code=0)
    assert kept(embedding_alone) == 1


def test_a_sink_that_does_not_open_is_named(
    embedding_alone: DatabaseFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its setting is there, and it is not: agreement is not reported."""
    monkeypatch.setattr("altsync.sinks.embedding.write.open_sink", lambda settings, vectors: None)
    assert "nothing was compared" in said(code=2)


# --- what is under way --------------------------------------------------------------------------


def test_what_waits_is_not_called_agreement(embedding_alone: DatabaseFixture) -> None:
    """Nothing differs, and that is all that can be said; who stands still is named."""
    embedding_alone.save(league("one"), league("two"))
    text = said(code=0)
    assert "Nothing differs (2 entities); in progress: embedding (2)." in text
    assert "agrees" not in text
    assert "embedding is" not in text
    pause(embedding_alone.conn, "embedding", "moved")
    assert "embedding is paused: its operations may wait for long." in said(code=0)
    body = json.loads(run("--json", code=0).stdout)
    assert (body["consistent"], body["in_progress"]) == (True, 2)
    assert body["blocked_sinks"] == {"embedding": "paused"}
    assert body["sinks"]["embedding"]["pending"] == 2
    assert "nothing differed (2 entities); in progress: 2." in status_line()


def test_work_that_no_worker_claims_is_no_agreement(embedding_alone: DatabaseFixture) -> None:
    """Verify says what to start, and ends with 2: nothing is under way."""
    embedding_alone.save(league("nfl"))
    assert "in progress: embedding (1)" in said(code=AGREE)
    embedding_alone.conn.execute("UPDATE sync_operation SET available_at = now() - interval '40 s'")
    told = said(code=CANNOT_TELL)
    assert "nothing has claimed for 4" in told
    assert "start altsync relay" in told
    assert "Could not tell: no worker claims the operations of embedding (1)." in told
    body = json.loads(run("--json", code=CANNOT_TELL).stdout)
    assert body["consistent"] is False
    assert list(body["idle"]) == ["embedding"]
    embedding_alone.conn.execute("UPDATE sink_state SET last_wake_at = now()")
    assert "celery -A workers.app worker -Q embedding" in said(code=CANNOT_TELL)
    embedding_alone.conn.execute("UPDATE sink_state SET last_claim_at = now()")
    assert "in progress: embedding (1)" in said(code=AGREE)


def test_drift_beside_work_that_no_worker_claims_is_drift(embedding_alone: DatabaseFixture) -> None:
    lose(embedding_alone)
    embedding_alone.save(league("nfl"))
    embedding_alone.conn.execute("UPDATE sync_operation SET available_at = now() - interval '40 s'")
    assert "nothing has claimed for 4" in said(code=DRIFT)


def test_doctor_names_work_that_no_worker_claims(embedding_alone: DatabaseFixture) -> None:
    embedding_alone.save(league("nfl"))
    with closing(Application()) as app:
        assert _idle(app) == []
        embedding_alone.conn.execute(
            "UPDATE sync_operation SET available_at = now() - interval '40 s'"
        )
        (finding,) = _idle(app)
    assert (finding.name, finding.health) == ("Delivery to embedding", Health.FAILED)
    assert "start altsync relay" in finding.detail
