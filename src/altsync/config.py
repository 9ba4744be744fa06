"""Settings, read once from the environment, ``.env`` and the local stack."""

from __future__ import annotations

import io
import ipaddress
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from altsync import addresses
from altsync.addresses import without_schema as split_schema
from altsync.contract import EMBEDDING, SIMILARITY
from altsync.declarations import SINKS, not_installed
from altsync.entities import Model
from altsync.errors import ConfigurationError
from altsync.redaction import protect, protect_address
from altsync.wording import one_line

__all__ = [
    "SERVICE_GROUPS",
    "Settings",
    "is_loopback",
    "protect_settings",
    "read_settings",
    "split_schema",
]

#: Variables that name one service. The local stack fills a group only when nothing else names
#: any of it, so a real key is never sent to the local stack, nor a local one to a real service.
SERVICE_GROUPS: tuple[frozenset[str], ...] = (
    frozenset({"database_url", "altsync_direct_database_url"}),
    frozenset({"redis_url", "altsync_broker_url"}),
    frozenset({"neo4j_uri", "neo4j_username", "neo4j_password", "neo4j_database"}),
    frozenset({"pinecone_api_key", "pinecone_controller_host"}),
    frozenset({"pgvector_url"}),
    frozenset({"openai_api_key", "openai_base_url", "altsync_embedding_model"}),
)

#: What Pinecone takes in the name of an index, and Neo4j in a label once hyphens are underscores.
#: https://docs.pinecone.io/troubleshooting/restrictions-on-index-names
PREFIX = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

#: 45 characters of an index's name less a hyphen and the 20 that a catalogue may give it.
PREFIX_LENGTH = 24


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches an address, given as a number or as ``localhost``."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address.lower() == "localhost"


#: Signs around a value that belong to the file or shell that it came from.
_INVISIBLE = "\ufeff\u200b\u2060"

#: Longest time of a setting, in seconds: PostgreSQL's intervals hold it, and so does a timer.
_YEAR = 365 * 86_400.0


def _unwrap(name: str, value: str) -> str:
    """Return a value without spaces, byte order marks and quotes around it.

    A password is only freed of its line break: all else may be part of it.
    """
    if name in (
        "neo4j_password",
        "altsync_dashboard_password",
        "altsync_sentinel_password",
        "flower_basic_auth",
    ):
        return value.strip("\r\n").strip(_INVISIBLE)
    value = value.strip().strip(_INVISIBLE).strip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1].strip()
    return value


def _read_values(values: Mapping[str, str | None], names: Mapping[str, Any]) -> dict[str, str]:
    """Return the values that name a setting and are not empty, by the setting's name."""
    found = {}
    for variable, value in values.items():
        name = variable.lower()
        if name in names and value and (unwrapped := _unwrap(name, value)):
            found[name] = unwrapped
            if name in _SECRET_ADDRESSES:
                protect_address(value)
            elif name in _SECRETS:
                protect([value, unwrapped])
    return found


def _read_file(path: Path) -> dict[str, str | None]:
    """Return the lines ``NAME=value`` of a file. Raises ``ConfigurationError``."""
    from dotenv import dotenv_values
    from dotenv.parser import parse_stream

    if not path.exists():
        return {}
    if not path.is_file():
        raise ConfigurationError(f"{path} is no file: write NAME=value lines into it, or remove it")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigurationError(f"{path} is UTF-16 text: save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(
            f"{path}: line {line} is not UTF-8 text: save it as UTF-8"
        ) from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            line = binding.original.line + binding.original.string.count(
                "\n", 0, len(binding.original.string) - len(binding.original.string.lstrip("\n"))
            )
            raise ConfigurationError(f"{path}: line {line} cannot be read: write NAME=value")
    return dotenv_values(stream=io.StringIO(text))


def file_value(variable: str) -> str | None:
    """Return the value that the working folder's ``.env`` gives a variable, if any."""
    file = _dotenv.get()
    return (_read_file(file).get(variable) or None) if file else None


#: The file of the working folder; None leaves it out.
_dotenv: ContextVar[Path | None] = ContextVar("_dotenv", default=Path(".env"))


def _from_everywhere(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is given, and for what is not: the environment, ``.env``, the local stack.

    ``local.env`` of a running local stack counts for the services that nothing else names.
    """
    names: Mapping[str, Any] = {**dict.fromkeys(SINK_VARIABLES), **Settings.model_fields}
    file = _dotenv.get()
    dotenv = _read_values(_read_file(file), names) if file else {}
    named = {**dotenv, **_read_values(os.environ, names), **given}
    home = Path(named.get("altsync_home") or names["altsync_home"].default)
    local = _read_values(_read_file(home.expanduser() / "local.env"), names)
    taken = {name for group in SERVICE_GROUPS if group & named.keys() for name in group}
    return {name: value for name, value in local.items() if name not in taken} | named


class _DatabaseUrl(SecretStr):
    """A checked address of PostgreSQL, and what was left out of it."""

    def __init__(self, url: str, notes: Sequence[str] = ()) -> None:
        super().__init__(url)
        self.notes = tuple(notes)


#: Variables that installed sinks declare, in small letters.
SINK_VARIABLES = frozenset(
    name.lower() for one in SINKS.values() for name in (one.setting, *one.settings) if name
)

#: Seconds after an entity got its vector until it is compared with others in PostgreSQL, so that
#: entities that are embedded together share a pass.
LOCAL_DEBOUNCE = 0.2

#: Other spellings of ALTSYNC_SIMILARITY's values.
SIMILARITY_MODES = {
    "local": "local",
    "index": "index",
    **dict.fromkeys(("off", "false", "0", "no"), "off"),
    **dict.fromkeys(("on", "true", "1", "yes"), "local"),
}


class Settings(BaseModel):
    """Everything that can be set. Each field is the variable of the same name in capitals."""

    model_config = ConfigDict(extra="ignore", validate_default=True, hide_input_in_errors=True)

    database_url: SecretStr | None = None
    redis_url: SecretStr | None = None
    neo4j_uri: str | None = None
    neo4j_username: str = "neo4j"
    neo4j_password: SecretStr = SecretStr("")
    neo4j_database: str | None = None
    pinecone_api_key: SecretStr | None = None
    pinecone_controller_host: str | None = None
    #: The PostgreSQL of pgvector's tables: the one of DATABASE_URL, or another.
    pgvector_url: SecretStr | None = None
    openai_api_key: SecretStr | None = None
    #: Always passed on: left to itself, the SDK takes an empty OPENAI_BASE_URL for an address.
    openai_base_url: str = "https://api.openai.com/v1"

    altsync_home: Path = Path(".altsync")
    #: A session connection for LISTEN, COPY to temporary tables and migrations, when
    #: DATABASE_URL goes through a transaction pooler.
    altsync_direct_database_url: SecretStr | None = None
    #: Any Celery broker; it only carries wake-ups.
    altsync_broker_url: SecretStr | None = None
    #: With a broker of ``sentinel://``: what Sentinel calls the Redis to use, and the password of
    #: the Sentinels themselves.
    altsync_sentinel_master: str = "mymaster"
    altsync_sentinel_password: SecretStr | None = None
    #: The catalogue, as module:name; read by ``altsync.catalogue.current``.
    altsync_catalogue: str | None = None
    altsync_sinks: str = "embedding,neo4j,pinecone"
    #: Stands before the names of indexes, labels and queues, so that two installations can share
    #: a Pinecone project, a graph and a broker.
    altsync_prefix: str = ""
    altsync_embedding_model: str = "text-embedding-3-small"
    altsync_embedding_dimensions: int = Field(default=1536, ge=1, le=4096)
    altsync_pinecone_cloud: str = "aws"
    altsync_pinecone_region: str = "us-east-1"
    #: Hosts of indexes, as name=host,name=host: for a key that may not ask Pinecone for them.
    altsync_pinecone_hosts: str | None = None
    #: How pgvector keeps numbers: 16 bits each, or 32.
    altsync_pgvector_type: Literal["halfvec", "vector"] = "halfvec"
    #: Operations per claim, and rows per write.
    altsync_batch_size: int = Field(default=500, ge=1, le=5000)
    #: Seconds a worker may hold operations before others may take them.
    altsync_lease_seconds: float = Field(default=30.0, gt=0, le=_YEAR)
    #: Seconds one remote call may take. Must stay under the lease.
    altsync_sink_timeout_seconds: float = Field(default=10.0, gt=0, le=_YEAR)
    #: Attempts before an error of the record itself makes its operation dead.
    altsync_max_attempts: int = Field(default=5, ge=1, le=100)
    #: Leases that may run out before an operation is dead.
    altsync_max_lost_leases: int = Field(default=10, ge=1, le=1000)
    #: Seconds between two looks of the relay when no notification arrives.
    altsync_poll_seconds: float = Field(default=1.0, gt=0, le=_YEAR)
    #: Wake-ups per sink that may be under way at once: workers that share the drain.
    altsync_wake_limit: int = Field(default=4, ge=1, le=1000)
    #: Seconds a task goes on claiming before it asks for another one.
    altsync_task_seconds: float = Field(default=20.0, gt=0, le=_YEAR)
    #: First and longest delay of a retry, in seconds.
    altsync_backoff_seconds: float = Field(default=1.0, gt=0, le=_YEAR)
    altsync_backoff_cap_seconds: float = Field(default=300.0, gt=0, le=_YEAR)
    #: Longest time that an open breaker waits before it probes, in seconds.
    altsync_breaker_cap_seconds: float = Field(default=30.0, gt=0, le=_YEAR)
    #: What the provider of embeddings allows in a minute, over all workers; no limit by default.
    altsync_openai_requests_per_minute: int | None = Field(default=None, ge=1, le=10**12)
    altsync_openai_tokens_per_minute: int | None = Field(default=None, ge=1, le=10**12)
    #: Texts over the embedding model's limit of tokens: refused, or cut where a token ends.
    altsync_long_text: Literal["refuse", "cut"] = "refuse"
    #: Seconds that a deleted row stays before it is removed for good.
    altsync_purge_grace_seconds: float = Field(default=3600.0, gt=0, le=_YEAR)
    #: Days after which the relay removes finished operations and records of batches; 0 for never.
    altsync_retention_days: int = Field(default=30, ge=0, le=36_500)
    #: How entities' SIMILAR_TO relationships are kept in step with their vectors: from the vectors
    #: in PostgreSQL, by one query to the vector index for each changed entity, or not at all.
    altsync_similarity: Literal["local", "index", "off"] = "local"
    #: Seconds after a vector was written until the index is asked for its neighbours.
    altsync_similarity_debounce_seconds: float = Field(default=2.0, ge=0, le=_YEAR)
    #: Seconds between two comparisons of all stores by the relay; none by itself.
    altsync_verify_every: float | None = Field(default=None, gt=0, le=_YEAR)
    altsync_log_format: Literal["auto", "json", "console"] = "auto"
    altsync_log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    #: Asked of every client of the dashboard; without it, it stays on loopback.
    altsync_dashboard_password: SecretStr | None = None
    flower_address: str = "127.0.0.1"
    flower_port: int = Field(default=5555, ge=0, le=65535)
    flower_basic_auth: SecretStr | None = None

    #: Variables of installed sinks that are no fields here, by their names in small letters.
    _of_sinks: dict[str, SecretStr] = PrivateAttr(default_factory=dict)

    def __init__(self, **given: Any) -> None:
        values = _from_everywhere(given)
        super().__init__(**values)
        for name in SINK_VARIABLES & values.keys() - Settings.model_fields.keys():
            self._of_sinks[name] = SecretStr(values[name])

    def of_sink(self, variable: str) -> Any:
        """Return the value of a sink's variable; None while it is not set.

        It is text, unless altsync declares the variable itself.
        """
        name = variable.lower()
        if name in Settings.model_fields:
            return getattr(self, name)
        value = self._of_sinks.get(name)
        return value and value.get_secret_value()

    @field_validator("altsync_log_level", "altsync_log_format", mode="before")
    @classmethod
    def _letters_of_any_size(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        return value.upper() if info.field_name == "altsync_log_level" else value.lower()

    @field_validator("altsync_home")
    @classmethod
    def _home_of_the_account(cls, value: Path) -> Path:
        return value.expanduser()

    @field_validator("neo4j_uri", "pinecone_controller_host", "openai_base_url")
    @classmethod
    def _addresses_are_read(cls, value: str | None, info: ValidationInfo) -> str | None:
        return None if value is None else _ADDRESSES[str(info.field_name)](value)

    @field_validator("redis_url", "altsync_broker_url")
    @classmethod
    def _brokers_are_read(cls, value: SecretStr | None) -> SecretStr | None:
        return value and SecretStr(addresses.broker_url(value.get_secret_value()))

    @field_validator("pinecone_api_key", "openai_api_key")
    @classmethod
    def _keys_fit_into_headers(cls, value: SecretStr | None) -> SecretStr | None:
        return value and SecretStr(addresses.api_key(value.get_secret_value()))

    @field_validator("flower_basic_auth")
    @classmethod
    def _logins_have_two_parts(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not all(value.get_secret_value().partition(":")):
            raise ValueError("write user:password")
        return value

    @field_validator("database_url", "altsync_direct_database_url", "pgvector_url")
    @classmethod
    def _databases_are_read(cls, value: SecretStr | None) -> SecretStr | None:
        return value and _DatabaseUrl(*addresses.database_url(value.get_secret_value()))

    @field_validator("altsync_similarity", mode="before")
    @classmethod
    def _similarity_is_a_mode(cls, value: object) -> object:
        return SIMILARITY_MODES.get(str(value).strip().lower(), value)

    @field_validator("altsync_sinks")
    @classmethod
    def _sinks_are_names(cls, value: str) -> str:
        names = list(dict.fromkeys(n.strip() for n in value.split(",") if n.strip()))
        if not names or any(not name.isidentifier() for name in names):
            raise ValueError("give sink names separated by commas, as embedding,neo4j,pinecone")
        for name in names:
            _check_sink(name)
        for name in names:
            needs = name in SINKS and SINKS[name].traits.needs_embedding
            if needs and EMBEDDING not in names:
                raise ValueError(
                    f"{name} needs the sink embedding, which makes its vectors: add embedding, or "
                    f"take {name} out"
                )
        return ",".join(names)

    @field_validator("altsync_prefix")
    @classmethod
    def _prefix_fits_everywhere(cls, value: str) -> str:
        if value and (len(value) > PREFIX_LENGTH or not PREFIX.fullmatch(value)):
            raise ValueError(
                f"give at most {PREFIX_LENGTH} lower-case letters, digits and single hyphens, "
                "beginning with a letter, as staging"
            )
        return value

    @field_validator("altsync_pinecone_hosts")
    @classmethod
    def _hosts_are_pairs(cls, value: str | None) -> str | None:
        pairs = [pair.partition("=") for pair in (value or "").split(",") if pair.strip()]
        if any(not name.strip() or not host.strip() for name, _, host in pairs):
            raise ValueError("give names and hosts, as shop-products=host,shop-brands=…")
        return value

    @model_validator(mode="after")
    def _timeout_under_lease(self) -> Settings:
        if self.altsync_sink_timeout_seconds >= self.altsync_lease_seconds:
            raise ValueError(
                "ALTSYNC_SINK_TIMEOUT_SECONDS must be under ALTSYNC_LEASE_SECONDS, or a worker "
                "writes after it lost its lease"
            )
        return self

    @property
    def notes(self) -> list[str]:
        """Return what was left out of a value, for the operator."""
        values = {"DATABASE_URL": self.database_url}
        values["ALTSYNC_DIRECT_DATABASE_URL"] = self.altsync_direct_database_url
        return [
            f"{name}: {note}"
            for name, value in values.items()
            if isinstance(value, _DatabaseUrl)
            for note in value.notes
        ]

    @property
    def database_role(self) -> str | None:
        """The account of DATABASE_URL, if it names one."""
        if self.database_url is None:
            return None
        authority = self.database_url.get_secret_value().partition("://")[2].partition("/")[0]
        login, at, _ = authority.rpartition("@")
        return unquote(login.partition(":")[0]) if at else None

    @property
    def similarity_debounce(self) -> float:
        """Seconds after an entity got its vector until its neighbours are searched."""
        if self.altsync_similarity == "index":
            return self.altsync_similarity_debounce_seconds
        return LOCAL_DEBOUNCE

    @property
    def sink_names(self) -> list[str]:
        """The sinks that entities are mirrored to."""
        return self.altsync_sinks.split(",")

    @property
    def pinecone_hosts(self) -> dict[str, str]:
        """Hosts of indexes by their names, for those that are given."""
        pairs = (pair.partition("=") for pair in (self.altsync_pinecone_hosts or "").split(","))
        return {name.strip(): host.strip() for name, _, host in pairs if host.strip()}

    @property
    def wanted_model(self) -> Model:
        """The embedding model that a fresh database is set up for."""
        return Model(self.altsync_embedding_model, self.altsync_embedding_dimensions)

    @property
    def confirm_after_seconds(self) -> float:
        """Return the seconds after which a write of unknown outcome is confirmed."""
        return self.altsync_lease_seconds + self.altsync_sink_timeout_seconds

    @property
    def broker_url(self) -> str:
        """Where Celery's messages go. Raises ``ConfigurationError`` when nothing names it."""
        url = self.altsync_broker_url or self.redis_url
        return _required(url, "REDIS_URL")

    def require_database_url(self, *, direct: bool = False) -> str:
        """PostgreSQL's URL; ``direct`` asks for the session connection when one is set.

        Raises ``ConfigurationError`` when nothing names it.
        """
        url = (self.altsync_direct_database_url if direct else None) or self.database_url
        return _required(url, "DATABASE_URL")


def _check_sink(name: str) -> None:
    """Raise ``ValueError`` for a name that is no sink, with the name that may be meant."""
    if name == SIMILARITY:
        raise ValueError("similarity comes with the vectors: set ALTSYNC_SIMILARITY instead")
    if name not in SINKS:
        raise ValueError(not_installed(name))


def _required(value: SecretStr | None, name: str) -> str:
    if value is None:
        raise ConfigurationError(
            f"{name} is not set. Start the embedded stack with `altsync local up`, or name your "
            f"own server in the environment or in .env."
        )
    return value.get_secret_value()


_SECRET_ADDRESSES = frozenset(
    {
        "database_url",
        "altsync_direct_database_url",
        "pgvector_url",
        "redis_url",
        "altsync_broker_url",
    }
)
_SECRETS = frozenset(
    {
        "neo4j_password",
        "pinecone_api_key",
        "openai_api_key",
        "flower_basic_auth",
        "altsync_sentinel_password",
        "altsync_dashboard_password",
    }
).union(name.lower() for one in SINKS.values() for name in one.secrets)

_ADDRESSES: dict[str, Callable[[str], str]] = {
    "neo4j_uri": addresses.neo4j_uri,
    "pinecone_controller_host": addresses.pinecone_host,
    "openai_base_url": addresses.openai_base_url,
}


def read_settings(*, dotenv: str | None = ".env", **overrides: Any) -> Settings:
    """Return the settings of this process. ``dotenv`` is the file beside the environment.

    Raises ``ConfigurationError`` that names each wrong variable, and never its value.
    """
    protect_settings(overrides)
    token = _dotenv.set(Path(dotenv) if dotenv else None)
    try:
        return Settings(**overrides)
    except ValidationError as error:
        lines = [_sentence(one) for one in error.errors(include_input=False, include_url=False)]
        raise ConfigurationError("wrong settings: " + "; ".join(lines)) from None
    finally:
        _dotenv.reset(token)


def protect_settings(values: Mapping[str, Any]) -> None:
    """Take these settings' secrets out of every text from now on."""
    for name, value in values.items():
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if isinstance(text, str) and name in _SECRET_ADDRESSES:
            protect_address(text)
        elif isinstance(text, str) and name in _SECRETS:
            protect([text])


def _sentence(error: ErrorDetails) -> str:
    name = ".".join(str(part) for part in error["loc"]).upper()
    context: dict[str, Any] = error.get("ctx", {})
    match error["type"]:
        case "value_error":
            text = str(context["error"])
        case "int_parsing" | "int_type" | "int_from_float" | "int_parsing_size":
            text = "a whole number is wanted, as 10"
        case "float_parsing" | "float_type" | "finite_number":
            text = "a number is wanted, as 10 or 0.5, without a unit"
        case "bool_parsing" | "bool_type":
            text = "true or false is wanted"
        case "greater_than":
            text = f"it must be above {context['gt']:g}"
        case "greater_than_equal":
            text = f"it must be at least {context['ge']:,g}"
        case "less_than_equal":
            text = f"it must be at most {context['le']:,.10g}"
        case "literal_error":
            text = f"it must be {context['expected']}".replace("'", "")
        case _:
            text = one_line(error["msg"]).removeprefix("Value error, ")
    return f"{name}: {text}" if name else text
