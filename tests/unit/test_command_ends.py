"""How commands end: a sentence for any error, whatever the terminal, and JSON with --json."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from altsync import redaction
from altsync.cli import app, status
from altsync.cli.ending import Group
from altsync.errors import SchemaError, SeedError
from altsync.sentences import Exit, describe

#: A password whose every piece would be noticed.
SECRET = "planted-7f3a9c"

#: Commands of every kind: with JSON, without, with and without a database.
COMMANDS = (
    ("migrate", "--json"),
    ("seed", "--all", "--json"),
    ("relay",),
    ("status", "--json"),
    ("why", "x"),
    ("failures", "--json"),
    ("search", "x", "--json"),
    ("verify", "--json"),
    ("doctor", "--json"),
    ("dashboard",),
    ("local", "status", "--json"),
)

#: Settings that are wrong around a secret.
BROKEN = [
    {"DATABASE_URL": f"postgresql+psycopg://u:{SECRET}%@h/db"},
    {"DATABASE_URL": f"mysql://u:{SECRET}@h/db"},
    {"DATABASE_URL": f"postgresql://u:planted@7f3a9c-{SECRET}@h/db"},
    {"DATABASE_URL": f"postgresql://u:{SECRET}/x@h/db"},
    {"ALTSYNC_DIRECT_DATABASE_URL": f"postgres:/u:{SECRET}@h/db"},
    {"REDIS_URL": f"redis://:{SECRET}@x@h:6379/0"},
    {"REDIS_URL": f"http://:{SECRET}@h"},
    {"ALTSYNC_BROKER_URL": f":{SECRET}@h"},
    {"NEO4J_URI": f"bolt://neo4j:{SECRET}@h"},
    {"PINECONE_API_KEY": f"{SECRET} x"},
    {"OPENAI_API_KEY": f"sk-{SECRET}\nx"},
    {"OPENAI_BASE_URL": f"https://u:{SECRET}@h/v1"},
    {"PINECONE_CONTROLLER_HOST": f"https://h?key={SECRET}"},
    {"FLOWER_BASIC_AUTH": SECRET},
    {"ALTSYNC_LEASE_SECONDS": SECRET},
    {"ALTSYNC_SINKS": f"neo4j,{SECRET}"},
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(redaction, "_secrets", set())
    return tmp_path


@pytest.mark.parametrize("debug", [(), ("--debug",)], ids=["plain", "debug"])
@pytest.mark.parametrize("settings", BROKEN, ids=lambda one: next(iter(one)))
def test_no_command_shows_a_secret_of_a_broken_setting(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], debug: tuple[str, ...]
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    for command in COMMANDS:
        result = CliRunner().invoke(app, [*command, *debug])
        code = 2 if command[0] == "verify" else Exit.SETTINGS
        assert result.exit_code == code, (command, result.output)
        assert next(iter(settings)) in result.stderr
        assert "7f3a9c" not in result.output, command
        assert ("Traceback" in result.stderr) is bool(debug)
        assert sum(line.startswith("altsync: ") for line in result.stderr.splitlines()) == 1
        if "--json" in command:
            assert json.loads(result.stdout)["exit"] == code
        else:
            assert result.stdout == ""


def surprise(error: BaseException) -> Callable[[], None]:
    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            RuntimeError("odd\x1b[31m\nthing"),
            Exit.BUG,
            r"unexpected RuntimeError: odd\x1b[31m thing",
        ),
        (SeedError("no such folder"), Exit.ERROR, "no such folder"),
        (SchemaError("install altsync 2"), Exit.SCHEMA, "install altsync 2"),
        (PermissionError(13, "Permission denied", "/x/y"), Exit.FILE, "/x/y: Permission denied"),
        (OSError(28, "No space left on device"), Exit.FILE, "No space left on device"),
        (MemoryError(), Exit.ERROR, "not enough memory"),
        (
            psycopg.errors.InsufficientPrivilege("permission denied for table league"),
            Exit.DENIED,
            "permission denied for table league: GRANT SELECT, INSERT, UPDATE, DELETE ON league TO",
        ),
    ],
)
def test_any_error_is_one_line_and_one_document(
    monkeypatch: pytest.MonkeyPatch, error: Exception, code: Exit, said: str
) -> None:
    monkeypatch.setattr(status, "application", surprise(error))
    result = CliRunner().invoke(app, ["status", "--json"])
    assert result.exit_code == code
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("altsync: ")
    assert said in result.stderr
    body = json.loads(result.stdout)
    assert (body["kind"], body["exit"]) == (code.name.lower(), code)
    assert "interrupted" not in body


def test_an_interrupted_command_says_so_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "application", surprise(KeyboardInterrupt()))
    result = CliRunner().invoke(app, ["status", "--json"])
    assert (result.exit_code, result.stderr) == (130, "altsync: interrupted\n")
    assert json.loads(result.stdout) == {
        "error": "interrupted",
        "kind": "interrupted",
        "exit": 130,
        "interrupted": True,
    }


def test_an_interrupt_while_arguments_are_read_is_no_silent_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: object, **_more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Group, "make_context", interrupt)
    result = CliRunner().invoke(app, ["status", "--json"])
    assert (result.exit_code, result.stderr) == (130, "altsync: interrupted\n")
    assert json.loads(result.stdout)["interrupted"] is True


def test_an_import_that_turns_ctrl_c_into_another_error_still_ends_as_interrupted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def import_half() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("half a module") from None

    monkeypatch.setattr(status, "application", import_half)
    result = CliRunner().invoke(app, ["status"])
    assert (result.exit_code, result.stderr) == (130, "altsync: interrupted\n")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_wrong_usage_is_one_line_and_one_document() -> None:
    result = CliRunner().invoke(app, ["failures", "--kind", "itm", "--json"])
    assert result.exit_code == Exit.USAGE
    assert result.stderr.count("\n") == 1
    assert "did you mean 'item'?" in result.stderr
    assert json.loads(result.stdout)["kind"] == "usage"
    result = CliRunner().invoke(app, ["statsu"])
    assert "Did you mean 'status'" in result.stderr
    result = CliRunner().invoke(app, ["seed", "--archetyps"])
    assert "--archetypes" in result.stderr


SENTENCES = [
    (psycopg.errors.UndefinedTable('relation "league" does not exist'), Exit.SCHEMA, "migrate"),
    (psycopg.errors.UndefinedColumn('column "x" does not exist'), Exit.SCHEMA, "migrate"),
    (psycopg.errors.QueryCanceled("due to statement timeout"), Exit.BUSY, "statement timeout"),
    (psycopg.errors.LockNotAvailable("due to lock timeout"), Exit.BUSY, "try again"),
    (psycopg.errors.DiskFull("could not extend file"), Exit.BUSY, "no space or memory left"),
    (psycopg.errors.TooManyConnections("sorry"), Exit.BUSY, "no more connections"),
    (psycopg.errors.ReadOnlySqlTransaction("cannot execute INSERT"), Exit.DENIED, "primary"),
    (
        psycopg.OperationalError('FATAL:  password authentication failed for user "u"'),
        Exit.DENIED,
        "correct the user or password of DATABASE_URL",
    ),
    (psycopg.OperationalError('FATAL:  role "u" does not exist'), Exit.DENIED, "DATABASE_URL"),
    (psycopg.OperationalError('FATAL:  database "d" does not exist'), Exit.SETTINGS, "create it"),
    (
        psycopg.OperationalError('no pg_hba.conf entry for host "h", no encryption'),
        Exit.DENIED,
        "sslmode=require",
    ),
    (
        psycopg.OperationalError("server does not support SSL, but SSL was required"),
        Exit.SETTINGS,
        "sslmode",
    ),
    (
        psycopg.OperationalError('connection is bad: invalid require_auth value: "foo"'),
        Exit.SETTINGS,
        "parameters of DATABASE_URL",
    ),
    (
        psycopg.OperationalError('FATAL:  invalid value for parameter "client_encoding": "foo"'),
        Exit.SETTINGS,
        "parameters of DATABASE_URL",
    ),
    (
        psycopg.OperationalError('connection is bad: definition of service "foo" not found'),
        Exit.SETTINGS,
        "parameters of DATABASE_URL",
    ),
    (
        ModuleNotFoundError("No module named 'botocore'", name="botocore"),
        Exit.SETTINGS,
        "the module 'botocore' is not installed",
    ),
    (
        psycopg.OperationalError("FATAL:  sorry, too many clients already"),
        Exit.BUSY,
        "max_connections",
    ),
    (
        psycopg.OperationalError("connection failed: Connection refused"),
        Exit.UNAVAILABLE,
        "no connection to PostgreSQL",
    ),
    (
        psycopg.errors.InsufficientPrivilege("permission denied for sequence version_seq"),
        Exit.DENIED,
        'GRANT USAGE, SELECT, UPDATE ON SEQUENCE version_seq TO "reader"',
    ),
    (
        psycopg.errors.InsufficientPrivilege("permission denied for schema public"),
        Exit.DENIED,
        'GRANT USAGE, CREATE ON SCHEMA public TO "reader"',
    ),
]


@pytest.mark.parametrize(("error", "code", "said"), SENTENCES, ids=lambda one: type(one).__name__)
def test_errors_of_postgresql_say_what_to_do(error: Exception, code: Exit, said: str) -> None:
    failure = describe(error, "reader")
    assert failure.exit == code
    assert said in failure.text


def run(
    *arguments: str,
    stdout: int | None = subprocess.PIPE,
    module: str = "altsync",
    **environment: str,
) -> subprocess.CompletedProcess[bytes]:
    """A process of its own, with its own streams."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        check=False,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
        timeout=120,
    )


#: Commands that print: help, an answer in JSON, an answer for people, an error in JSON.
PRINTING = (
    ("altsync", "--help"),
    ("altsync", "--version"),
    ("altsync", "seed", "--help"),
    ("altsync.seed", "--help"),
    ("altsync", "local", "status", "--json"),
    ("altsync", "doctor"),
    ("altsync", "doctor", "--json"),
)


@pytest.mark.parametrize("command", PRINTING, ids=" ".join)
def test_a_full_device_is_one_line(command: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        ended = run(*command[1:], module=command[0], stdout=full.fileno())
    assert ended.returncode == Exit.FILE
    assert ended.stderr.decode().startswith("altsync: the output cannot be written: No space left")
    assert ended.stderr.count(b"\n") == 1


@pytest.mark.parametrize("command", PRINTING, ids=" ".join)
def test_a_reader_that_has_ended_is_no_error(command: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = run(*command[1:], module=command[0], stdout=writer)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (Exit.PIPE, b"")


@pytest.mark.parametrize("command", [("altsync", "status", "--json"), ("altsync", "migrate")])
def test_an_error_without_a_reader_is_said_on_stderr(command: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = run(*command[1:], module=command[0], stdout=writer)
    os.close(writer)
    assert ended.returncode in (Exit.SETTINGS, Exit.PIPE)
    assert ended.stderr.startswith(b"altsync: DATABASE_URL is not set")
    assert ended.stderr.count(b"\n") == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_output_of_any_encoding_is_written(encoding: str) -> None:
    ended = run("why", "Ω", "--json", "--dir", "é\udcff", PYTHONIOENCODING=encoding)
    assert ended.returncode in (Exit.SETTINGS, Exit.USAGE)
    assert b"Traceback" not in ended.stderr
    assert json.loads(ended.stdout.decode(encoding))["exit"] == ended.returncode


def test_celery_ends_with_a_sentence_for_a_wrong_setting() -> None:
    environment = {**os.environ, "REDIS_URL": f"http://:{SECRET}@h"}
    ended = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "altsync.workers.app", "worker"],
        check=False,
        capture_output=True,
        env={**environment, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        timeout=120,
    )
    assert ended.returncode == Exit.SETTINGS
    said = ended.stderr.decode()
    assert said.startswith("altsync: wrong settings: REDIS_URL: ")
    assert said.count("\n") == 1
    assert SECRET not in said + ended.stdout.decode()


def test_a_traceback_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"postgresql://u:{SECRET}@h/db"
    monkeypatch.setenv("DATABASE_URL", url)

    def fail(*_: object) -> None:
        try:
            raise RuntimeError(f"password={SECRET}")
        except RuntimeError as error:
            raise ValueError(url) from error

    monkeypatch.setattr("altsync.cli.operate.check_services", fail)
    result = CliRunner().invoke(app, ["doctor", "--debug"])
    assert result.exit_code == Exit.BUG
    assert "Traceback" in result.stderr
    assert "RuntimeError" in result.stderr
    assert SECRET not in result.output
