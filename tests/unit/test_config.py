"""Settings: which source wins, what is refused, and that no value ever shows."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import psycopg.conninfo
import pytest

from altsync.addresses import without_schema
from altsync.config import Settings, read_settings
from altsync.db import connect_options
from altsync.entities import Model
from altsync.environment import SERVICE_GROUPS
from altsync.errors import ConfigurationError

LOCAL_ENV = """\
DATABASE_URL=postgresql://local:pw@127.0.0.1:1/altsync
REDIS_URL=redis://127.0.0.1:2
NEO4J_URI=bolt://127.0.0.1:3
NEO4J_USERNAME=root
NEO4J_PASSWORD=local-graph-password
NEO4J_DATABASE=altsync
PINECONE_API_KEY=local-vectors-key
PINECONE_CONTROLLER_HOST=http://127.0.0.1:4
OPENAI_API_KEY=local-vectors-key
OPENAI_BASE_URL=http://127.0.0.1:4/v1
ALTSYNC_EMBEDDING_MODEL=wordllama-l2-256
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of the test's own, so that no .env is found by chance."""
    place = tmp_path / "work"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def local_stack(tmp_path: Path) -> None:
    """The ``local.env`` of a stack in ALTSYNC_HOME."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "local.env").write_text(LOCAL_ENV)


def test_without_any_source_the_defaults_hold() -> None:
    """Nothing is switched on, and the numbers are those of the reference."""
    settings = read_settings()
    assert settings.database_url is None
    assert settings.redis_url is None
    assert settings.neo4j_uri is None
    assert settings.pinecone_api_key is None
    assert settings.openai_api_key is None
    assert settings.sink_names == ["embedding", "neo4j", "pinecone"]
    assert settings.wanted_model == Model("text-embedding-3-small", 1536)
    assert (settings.altsync_lease_seconds, settings.altsync_sink_timeout_seconds) == (30.0, 10.0)
    assert settings.confirm_after_seconds == 40.0
    assert (settings.altsync_batch_size, settings.altsync_max_attempts) == (500, 5)


def test_the_local_stack_fills_what_nothing_names(local_stack: None) -> None:
    """With nothing else set, every service is the local one."""
    settings = read_settings()
    assert settings.require_database_url() == "postgresql://local:pw@127.0.0.1:1/altsync"
    assert settings.broker_url == "redis://127.0.0.1:2"
    assert (settings.neo4j_uri, settings.neo4j_username) == ("bolt://127.0.0.1:3", "root")
    assert settings.neo4j_password.get_secret_value() == "local-graph-password"
    assert settings.neo4j_database == "altsync"
    assert settings.pinecone_controller_host == "http://127.0.0.1:4"
    assert settings.openai_base_url == "http://127.0.0.1:4/v1"
    assert settings.wanted_model.name == "wordllama-l2-256"


@pytest.mark.parametrize(
    ("named", "value"),
    [
        ("DATABASE_URL", "postgresql://real/db"),
        ("ALTSYNC_DIRECT_DATABASE_URL", "postgresql://real/db"),
        ("REDIS_URL", "redis://real"),
        ("ALTSYNC_BROKER_URL", "amqp://real"),
        ("NEO4J_URI", "neo4j+s://real"),
        ("NEO4J_PASSWORD", "a-real-password"),
        ("PINECONE_API_KEY", "a-real-key"),
        ("PINECONE_CONTROLLER_HOST", "https://real"),
        ("OPENAI_API_KEY", "a-real-key"),
        ("OPENAI_BASE_URL", "https://real/v1"),
        ("ALTSYNC_EMBEDDING_MODEL", "text-embedding-3-large"),
    ],
)
@pytest.mark.parametrize("source", ["environment", "dotenv"])
def test_one_named_variable_takes_its_whole_group_from_the_local_stack(
    local_stack: None,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    named: str,
    value: str,
    source: str,
) -> None:
    """A real key never goes to the local stack, nor a local one to a real service."""
    if source == "environment":
        monkeypatch.setenv(named, value)
    else:
        (folder / ".env").write_text(f"{named}={value}\n")
    settings = read_settings()

    bare = Settings.model_fields
    for group in SERVICE_GROUPS:
        for name in group - {named.lower()}:
            found = getattr(settings, name)
            if named.lower() in group:
                assert found == bare[name].default, name
            elif name in {line.split("=")[0].lower() for line in LOCAL_ENV.splitlines()}:
                assert found != bare[name].default, name
    found = getattr(settings, named.lower())
    assert getattr(found, "get_secret_value", lambda: found)() == value


def test_an_empty_variable_names_nothing(
    local_stack: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``OPENAI_API_KEY=`` is no key: the local one is used, with the local address."""
    monkeypatch.setenv("OPENAI_API_KEY", "")
    settings = read_settings()
    assert settings.openai_api_key is not None
    assert settings.openai_api_key.get_secret_value() == "local-vectors-key"
    assert settings.openai_base_url == "http://127.0.0.1:4/v1"


def test_the_environment_wins_over_dotenv(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exported variable overrides the one in the folder's file."""
    (folder / ".env").write_text("NEO4J_URI=bolt://dotenv\nNEO4J_DATABASE=kept\n")
    monkeypatch.setenv("NEO4J_URI", "bolt://exported")
    settings = read_settings()
    assert (settings.neo4j_uri, settings.neo4j_database) == ("bolt://exported", "kept")


def test_the_home_of_the_local_stack_may_be_named_in_dotenv(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ALTSYNC_HOME is looked up in all sources before local.env is opened."""
    monkeypatch.delenv("ALTSYNC_HOME")
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "local.env").write_text("REDIS_URL=redis://127.0.0.1:9\n")
    (folder / ".env").write_text("ALTSYNC_HOME=elsewhere\n")
    assert read_settings().broker_url == "redis://127.0.0.1:9"


def test_the_broker_has_a_variable_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """ALTSYNC_BROKER_URL goes before REDIS_URL."""
    monkeypatch.setenv("REDIS_URL", "redis://one")
    monkeypatch.setenv("ALTSYNC_BROKER_URL", "amqp://two")
    assert read_settings().broker_url == "amqp://two"


def test_sessions_use_the_direct_url_when_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """LISTEN and migrations go round a pooler; everything else through it."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://pooler/db")
    assert read_settings().require_database_url(direct=True) == "postgresql://pooler/db"
    monkeypatch.setenv("ALTSYNC_DIRECT_DATABASE_URL", "postgresql://server/db")
    settings = read_settings()
    assert settings.require_database_url(direct=True) == "postgresql://server/db"
    assert settings.require_database_url() == "postgresql://pooler/db"


@pytest.mark.parametrize(
    ("name", "ask"),
    [
        ("DATABASE_URL", lambda settings: settings.require_database_url()),
        ("REDIS_URL", lambda settings: settings.broker_url),
    ],
)
def test_a_missing_url_is_named_with_what_to_do(name: str, ask: Callable[[Settings], str]) -> None:
    """The sentence names the variable and the embedded stack."""
    with pytest.raises(ConfigurationError, match=rf"^{name} is not set\..*altsync local up"):
        ask(read_settings())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALTSYNC_LEASE_SECONDS", "hunter2-lease"),
        ("ALTSYNC_LEASE_SECONDS", "-31337"),
        ("ALTSYNC_BATCH_SIZE", "31337000"),
        ("ALTSYNC_EMBEDDING_DIMENSIONS", "hunter2-dimensions"),
        ("ALTSYNC_LOG_LEVEL", "hunter2-level"),
        ("ALTSYNC_LOG_FORMAT", "hunter2-format"),
        ("ALTSYNC_SINKS", "neo4j,hunter2-sink"),
        ("FLOWER_PORT", "hunter2-port"),
    ],
)
def test_a_wrong_setting_is_named_and_its_value_is_not(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """Values may be secrets that were put under the wrong name."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        read_settings()
    assert name in str(caught.value)
    assert value not in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_all_wrong_settings_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One run says everything that has to be put right."""
    monkeypatch.setenv("ALTSYNC_LEASE_SECONDS", "x")
    monkeypatch.setenv("ALTSYNC_POLL_SECONDS", "y")
    with pytest.raises(ConfigurationError, match=r"ALTSYNC_LEASE_SECONDS.*ALTSYNC_POLL_SECONDS"):
        read_settings()


@pytest.mark.parametrize("timeout", ["30", "31"])
def test_the_timeout_of_a_sink_is_under_the_lease(
    monkeypatch: pytest.MonkeyPatch, timeout: str
) -> None:
    """A call that may outlive its lease could write after another worker."""
    monkeypatch.setenv("ALTSYNC_LEASE_SECONDS", "30")
    monkeypatch.setenv("ALTSYNC_SINK_TIMEOUT_SECONDS", timeout)
    with pytest.raises(
        ConfigurationError,
        match="ALTSYNC_SINK_TIMEOUT_SECONDS must be under ALTSYNC_LEASE_SECONDS",
    ):
        read_settings()
    monkeypatch.setenv("ALTSYNC_SINK_TIMEOUT_SECONDS", "29.9")
    assert read_settings().altsync_sink_timeout_seconds == 29.9


def test_settings_do_not_print_secrets(local_stack: None) -> None:
    """A logged or printed Settings shows none of them."""
    settings = read_settings()
    shown = f"{settings!r} {settings} {settings.model_dump()}"
    for secret in ("local-graph-password", "local-vectors-key", "local:pw"):
        assert secret not in shown


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("neo4j", ["neo4j"]),
        (" neo4j , embedding ,", ["neo4j", "embedding"]),
        ("neo4j,neo4j,embedding", ["neo4j", "embedding"]),
    ],
)
def test_sinks_are_a_list_of_names(
    monkeypatch: pytest.MonkeyPatch, given: str, names: list[str]
) -> None:
    """Spaces, an extra comma and repeats do no harm."""
    monkeypatch.setenv("ALTSYNC_SINKS", given)
    assert read_settings().sink_names == names


@pytest.mark.parametrize("given", [",", "neo4j;pinecone", "../evil", "a-b"])
def test_sinks_are_nothing_but_names(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    """A name becomes part of a module's name, so it must be one."""
    monkeypatch.setenv("ALTSYNC_SINKS", given)
    with pytest.raises(ConfigurationError, match="ALTSYNC_SINKS"):
        read_settings()


@pytest.mark.parametrize(
    ("url", "rest", "schema"),
    [
        ("postgresql://u:p@h:5432/db?schema=public", "postgresql://u:p@h:5432/db", "public"),
        (
            "postgresql://u@h/db?sslmode=require&schema=app&connect_timeout=3",
            "postgresql://u@h/db?sslmode=require&connect_timeout=3",
            "app",
        ),
        ("postgresql://u@h/db", "postgresql://u@h/db", None),
        ("postgresql://u:p%40%2F@a:1,b:2/db", "postgresql://u:p%40%2F@a:1,b:2/db", None),
        ("postgresql://u@h/db?schema=", "postgresql://u@h/db", ""),
    ],
)
def test_the_schema_parameter_is_taken_out(url: str, rest: str, schema: str | None) -> None:
    """libpq would refuse it; everything else of the URL stays as it is."""
    assert without_schema(url) == (rest, schema)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        (
            "postgresql:///db?host=/var/run/postgresql&schema=app",
            {"dbname": "db", "host": "/var/run/postgresql"},
        ),
        (
            "postgresql://h/db?options=-c%20statement_timeout%3D5s&schema=app",
            {"dbname": "db", "host": "h", "options": "-c statement_timeout=5s"},
        ),
        ("postgresql://h/db?application_name=a%2Bb", {"dbname": "db", "host": "h"}),
    ],
)
def test_libpq_reads_the_rest_of_the_url_as_it_was_meant(url: str, options: dict[str, str]) -> None:
    """A URL without a host, and parameters with spaces, survive taking the schema out."""
    rest, _ = without_schema(url)
    found = psycopg.conninfo.conninfo_to_dict(rest)
    assert {name: found.get(name) for name in options} == options


def test_a_schema_becomes_the_search_path_and_nothing_more() -> None:
    """A value that is no name cannot add an option of its own."""
    conninfo, options = connect_options("postgresql://h/db?schema=app", "me")
    assert conninfo == "postgresql://h/db"
    assert options["options"] == "-c search_path=app"
    assert options["application_name"] == "me"
    _, hostile = connect_options("postgresql://h/db?schema=a%20-c%20x%3Dy", "me")
    assert " -c x" not in hostile["options"]
    _, plain = connect_options("postgresql://h/db", "me")
    assert "options" not in plain


@pytest.mark.parametrize(
    "wrapped",
    ['"{}"', "'{}'", " {} ", "{}\n", "\ufeff{}", "\u200b{}\r\n"],
)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "postgresql://u:p@h/db"),
        ("REDIS_URL", "redis://h:6379/0"),
        ("OPENAI_API_KEY", "sk-123"),
        ("NEO4J_URI", "bolt://h:7687"),
        ("ALTSYNC_BATCH_SIZE", "40"),
        ("ALTSYNC_SIMILARITY", "false"),
    ],
)
def test_what_a_file_or_shell_puts_around_a_value_is_taken_off(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, wrapped: str
) -> None:
    monkeypatch.setenv(name, value)
    plain = getattr(read_settings(), name.lower())
    monkeypatch.setenv(name, wrapped.format(value))
    assert getattr(read_settings(), name.lower()) == plain


def test_a_password_keeps_its_quotes_and_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEO4J_PASSWORD", ' "a b" \n')
    assert read_settings().neo4j_password.get_secret_value() == ' "a b" '


@pytest.mark.parametrize("blank", ["", " ", "\n", '""', "' '", "\ufeff"])
def test_a_blank_value_names_nothing(monkeypatch: pytest.MonkeyPatch, blank: str) -> None:
    monkeypatch.setenv("DATABASE_URL", blank)
    monkeypatch.setenv("ALTSYNC_BATCH_SIZE", blank)
    settings = read_settings()
    assert (settings.database_url, settings.altsync_batch_size) == (None, 500)


NUMBERS = [
    name
    for name, field in Settings.model_fields.items()
    if field.annotation in (int, float, int | None, float | None)
]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "value", ["x", "-1e9", "nan", "inf", "-inf", "1e309", "1e30", "9" * 40, "10 s", "1,5", "0x10"]
)
def test_every_number_has_a_form_and_bounds(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name.upper(), value)
    with pytest.raises(ConfigurationError, match=rf"{name.upper()}: (it must|a (whole )?number)"):
        read_settings()


@pytest.mark.parametrize(
    ("value", "mode"),
    [("local", "local"), ("Index", "index"), ("off", "off"), ("false", "off"), ("true", "local")],
)
def test_similarity_is_a_mode(monkeypatch: pytest.MonkeyPatch, value: str, mode: str) -> None:
    monkeypatch.setenv("ALTSYNC_SIMILARITY", value)
    assert read_settings().altsync_similarity == mode


def test_no_message_is_pydantics(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        if name != "altsync_home":
            monkeypatch.setenv(name.upper(), "hunter2 pw")
    with pytest.raises(ConfigurationError) as caught:
        read_settings()
    said = str(caught.value)
    assert "Value error" not in said
    assert "Input should be" not in said
    assert "hunter2" not in said
    assert said.count("DATABASE_URL: ") == 2


def test_levels_and_forms_may_be_of_any_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALTSYNC_LOG_LEVEL", "debug")
    monkeypatch.setenv("ALTSYNC_LOG_FORMAT", "JSON")
    monkeypatch.setenv("ALTSYNC_LONG_TEXT", "Cut")
    monkeypatch.setenv("ALTSYNC_PGVECTOR_TYPE", "HALFVEC")
    settings = read_settings()
    assert (settings.altsync_log_level, settings.altsync_log_format) == ("DEBUG", "json")
    assert (settings.altsync_long_text, settings.altsync_pgvector_type) == ("cut", "halfvec")


@pytest.mark.parametrize("name", ["DATABASE_URL", "ALTSYNC_DIRECT_DATABASE_URL", "PGVECTOR_URL"])
def test_notes_name_their_variable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "postgres://u:hunter2@h/db?pgbouncer=true")
    (note,) = read_settings().notes
    assert note.startswith(f"{name}: ignored")
    assert note.endswith("pgbouncer")


def test_a_home_of_no_account_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALTSYNC_HOME", "~no-such-account/altsync")
    with pytest.raises(ConfigurationError, match="ALTSYNC_HOME: this machine has no home"):
        read_settings()


@pytest.mark.parametrize(
    "text",
    [
        b"NEO4J_URI=bolt://h:1\nALTSYNC_BATCH_SIZE=7\n",
        b"\xef\xbb\xbfNEO4J_URI=bolt://h:1\nALTSYNC_BATCH_SIZE=7",
        b"NEO4J_URI=bolt://h:1\r\nALTSYNC_BATCH_SIZE=7\r\n",
        b"export NEO4J_URI='bolt://h:1'\nexport ALTSYNC_BATCH_SIZE=\"7\"\n",
        b"# caf\xc3\xa9\n\nneo4j_uri = bolt://h:1 # a note\naltsync_batch_size=7\nOTHER=x\n",
    ],
)
def test_dotenv_is_read_as_editors_write_it(folder: Path, text: bytes) -> None:
    (folder / ".env").write_bytes(text)
    settings = read_settings()
    assert (settings.neo4j_uri, settings.altsync_batch_size) == ("bolt://h:1", 7)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"A=1\nNEO4J_PASSWORD=hunter\xe4\n", r"\.env: line 2 is not UTF-8 text: save it as UTF-8"),
        ("NEO4J_PASSWORD=hunter\n".encode("utf-16"), r"\.env is UTF-16 text: save it as UTF-8"),
        (
            b"A=1\n\nB=2\nNEO4J_PASSWORD 'hunter\n",
            r"\.env: line 4 cannot be read: write NAME=value",
        ),
    ],
)
def test_a_dotenv_that_cannot_be_read_is_named(folder: Path, text: bytes, said: str) -> None:
    (folder / ".env").write_bytes(text)
    with pytest.raises(ConfigurationError, match=said) as caught:
        read_settings()
    assert "hunter" not in str(caught.value)


def test_a_dotenv_that_is_a_folder_is_named(folder: Path) -> None:
    (folder / ".env").mkdir()
    with pytest.raises(ConfigurationError, match=r"\.env is no file"):
        read_settings()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_dotenv_without_permission_is_named(folder: Path) -> None:
    (folder / ".env").write_text("A=1\n")
    (folder / ".env").chmod(0)
    with pytest.raises(ConfigurationError, match=r"\.env cannot be read: Permission denied"):
        read_settings()
