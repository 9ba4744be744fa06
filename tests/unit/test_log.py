"""Nothing secret leaves through the log, in whichever form it turns up."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from altsync import log, redaction
from altsync.app import Application
from altsync.config import read_settings

SECRET = "hunter2-correct-horse"


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Loggers and known secrets are those of before, afterwards."""
    monkeypatch.setattr(redaction, "_secrets", set())
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def _logged(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://altsync:pa55-word@db:5432/x", "postgresql://altsync:***@db:5432/x"),
        ("redis://:pa55-word@cache:6379/0", "redis://:***@cache:6379/0"),
        (
            "at bolt://neo4j:pa55@g and amqp://a:pa55@q/",
            "at bolt://neo4j:***@g and amqp://a:***@q/",
        ),
        ("Incorrect API key provided: sk-proj-pa55pa55pa55.", "Incorrect API key provided: ***."),
        ("api-key: pcsk_pa55pa55_pa55", "api-key: ***"),
        ("Authorization: Bearer eyJhbGciOi.pa55", "Authorization: Bearer ***"),
        ("authorization: bearer pa55pa55pa55", "authorization: bearer ***"),
    ],
)
def test_secrets_are_known_by_their_form(text: str, shown: str) -> None:
    """Passwords in URLs and the providers' keys go, what is around them stays."""
    assert log.redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:5555/tasks",
        "bolt://graph:7687 did not answer",
        "risk-free asks: skip",
        "mail to someone@example.org",
        "a task-sk-1",
        "postgresql://altsync@db/x",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    """Ports, plain hosts and ordinary words are not taken out."""
    assert log.redact(text) == text


def test_known_values_go_wherever_they_stand() -> None:
    """A password without any form of its own is taken out by its value."""
    log.protect([SECRET, None, ""])
    assert log.redact(f"x{SECRET}y {SECRET}") == "x***y ***"


def test_a_secret_that_begins_with_another_leaves_no_end() -> None:
    """The longest goes first; else the shorter one would leave the rest of it behind."""
    longest = "abcdef-ghijkl-mnopqr-stuvwx"
    log.protect(longest[:length] for length in range(6, len(longest) + 1))
    assert log.redact(f"<{longest}>") == "<***>"


def test_short_values_are_not_taken_out_of_ordinary_words() -> None:
    """A password of five letters would redact ordinary words too."""
    log.protect(["neo4j"])
    assert log.redact("neo4j is up") == "neo4j is up"


def test_the_application_protects_every_secret_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each planted secret is gone from a text that holds it alone, without its URL."""
    urls = {
        "DATABASE_URL": "postgresql://u:planted-database@h/db",
        "ALTSYNC_DIRECT_DATABASE_URL": "postgresql://u:planted-direct@h/db",
        "REDIS_URL": "redis://:planted-redis@h",
        "ALTSYNC_BROKER_URL": "amqp://u:planted-broker@h",
    }
    plain = {
        "NEO4J_PASSWORD": "planted-neo4j",
        "PINECONE_API_KEY": "planted-pinecone",
        "OPENAI_API_KEY": "planted-openai",
        "FLOWER_BASIC_AUTH": "someone:planted-flower",
    }
    for name, value in {**urls, **plain}.items():
        monkeypatch.setenv(name, value)
    Application(read_settings())
    bare = [value.split(":")[2].split("@")[0].removeprefix("//") for value in urls.values()]
    shown = [secret for secret in [*bare, *plain.values()] if secret in log.redact(f"? {secret} !")]
    assert shown == []


def test_a_password_is_protected_as_servers_write_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only as the URL has it, where signs of its own are escaped."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:planted%2Fdata%40base@h/db")
    Application(read_settings())
    for form in ("planted%2Fdata%40base", "planted/data@base"):
        assert log.redact(f"password {form} refused") == "password *** refused"


def test_events_are_json_with_what_was_said(capsys: pytest.CaptureFixture[str]) -> None:
    """One line per event on stderr: name, level, time and counts."""
    log.set_up(level="INFO", form="json")
    structlog.get_logger("altsync.test").info("operations.claimed", sink="neo4j", count=3)
    structlog.get_logger("altsync.test").debug("unheard")
    (line,) = _logged(capsys)
    assert line["timestamp"].endswith("Z")
    assert {k: line[k] for k in ("event", "level", "sink", "count")} == {
        "event": "operations.claimed",
        "level": "info",
        "sink": "neo4j",
        "count": 3,
    }


def _raise_and_log(logger: Any) -> None:
    try:
        local = f"not to be shown: {SECRET}"
        raise RuntimeError(f"refused {SECRET}", local)
    except RuntimeError:
        logger.exception("sink.failed", reason=f"because of {SECRET}")


def _log_value(logger: Any) -> None:
    logger.warning("sink.refused", reason=f"because of {SECRET}")


def _log_event(logger: Any) -> None:
    logger.warning(f"the event says {SECRET}")


def _log_error(logger: Any) -> None:
    logger.warning("sink.refused", error=RuntimeError(SECRET))


def _log_nested(logger: Any) -> None:
    logger.warning("sinks.refused", reasons={"neo4j": [f"because of {SECRET}"]})


def _log_standard(_logger: Any) -> None:
    logging.getLogger("some.driver").warning("login with %s failed", SECRET)


def _raise_and_log_standard(_logger: Any) -> None:
    try:
        raise RuntimeError(f"refused {SECRET}")
    except RuntimeError:
        logging.getLogger("some.driver").exception("failed")


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize(
    "say",
    [
        _log_value,
        _log_event,
        _log_error,
        _log_nested,
        _raise_and_log,
        _log_standard,
        _raise_and_log_standard,
    ],
)
def test_a_planted_secret_is_in_no_line(
    capsys: pytest.CaptureFixture[str], form: str, say: Any
) -> None:
    """Values, events, errors, tracebacks and drivers' own logs, for machines and for people."""
    log.protect([SECRET])
    log.set_up(level="INFO", form=form)
    say(structlog.get_logger("altsync.test"))
    printed = capsys.readouterr().err
    assert "***" in printed
    assert SECRET not in printed


def test_tracebacks_show_no_local_variables(capsys: pytest.CaptureFixture[str]) -> None:
    """Locals hold keys and whole records; the traceback names files and lines only."""
    log.set_up(level="INFO", form="json")

    def fail() -> None:
        unprotected = "value-of-a-local"
        raise RuntimeError(str(len(unprotected)))

    try:
        fail()
    except RuntimeError:
        structlog.get_logger("altsync.test").exception("sink.failed")
    (line,) = _logged(capsys)
    assert "RuntimeError: 16" in line["exception"]
    assert "in fail" in line["exception"]
    assert "value-of-a-local" not in line["exception"]


def test_auto_is_json_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file or a pipe gets JSON, a terminal gets text."""
    log.set_up(form="auto")
    structlog.get_logger("altsync.test").info("seed.finished")
    assert _logged(capsys)[0]["event"] == "seed.finished"
    structlog.reset_defaults()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    log.set_up(form="auto")
    structlog.get_logger("altsync.test").info("seed.finished")
    assert not capsys.readouterr().err.startswith("{")


def test_noisy_clients_speak_from_warnings_on(capsys: pytest.CaptureFixture[str]) -> None:
    """Drivers that log every request are kept quiet, whatever the level."""
    log.set_up(level="DEBUG", form="json")
    for name in ("httpx", "httpx2", "httpcore", "openai", "pinecone", "neo4j"):
        logging.getLogger(name).info("one more request")
        logging.getLogger(name).warning("slow")
    assert [line["event"] for line in _logged(capsys)] == ["slow"] * 6
