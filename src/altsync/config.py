"""The settings of a process, checked when they are read.

More than 300 lines: every setting is a field of one class, with its check beside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
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
from altsync.contract import EMBEDDING, SIMILARITY
from altsync.declarations import SINKS, not_installed
from altsync.entities import Model
from altsync.environment import (
    SINK_VARIABLES,
    dotenv_file,
    expand_home,
    protect_secrets,
    read_values,
)
from altsync.errors import ConfigurationError
from altsync.freshness import TARGET, read_objectives
from altsync.wording import one_line

#: Valid in names of Pinecone's indexes, and in Neo4j's labels with underscores for hyphens.
#: https://docs.pinecone.io/troubleshooting/restrictions-on-index-names
PREFIX = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

#: 45 characters of an index's name less a hyphen and the 20 that a catalogue may give it.
PREFIX_LENGTH = 24

#: Longest time of a setting, in seconds. PostgreSQL's intervals and timers can hold it.
_YEAR = 365 * 86_400.0

#: Other spellings of ALTSYNC_SIMILARITY's values.
SIMILARITY_MODES = {
    "local": "local",
    "index": "index",
    **dict.fromkeys(("off", "false", "0", "no"), "off"),
    **dict.fromkeys(("on", "true", "1", "yes"), "local"),
}


class _DatabaseUrl(SecretStr):
    """A checked address of PostgreSQL, with notes on its ignored parts."""

    def __init__(self, url: str, notes: Sequence[str] = ()) -> None:
        super().__init__(url)
        self.notes = tuple(notes)


class Settings(BaseModel):
    """All settings. Each field is the variable of the same name in capitals."""

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
    #: Always passed to the SDK, which would use an empty OPENAI_BASE_URL as an address.
    openai_base_url: str = "https://api.openai.com/v1"

    altsync_home: Path = Path(".altsync")
    #: A session connection for LISTEN, COPY to temporary tables and migrations, when
    #: DATABASE_URL goes through a transaction pooler.
    altsync_direct_database_url: SecretStr | None = None
    #: Any Celery broker. It only carries wake-ups.
    altsync_broker_url: SecretStr | None = None
    #: With a broker of ``sentinel://``: Sentinel's name of the Redis to use, and the password of
    #: the Sentinels.
    altsync_sentinel_master: str = "mymaster"
    altsync_sentinel_password: SecretStr | None = None
    #: The catalogue, as module:name; read by ``altsync.catalogue.current``.
    altsync_catalogue: str | None = None
    altsync_sinks: str = "embedding,neo4j,pinecone"
    #: Prefix of the names of indexes, labels and queues. With it, two installations can share a
    #: Pinecone project, a graph and a broker.
    altsync_prefix: str = ""
    altsync_embedding_model: str = "text-embedding-3-small"
    altsync_embedding_dimensions: int = Field(default=1536, ge=1, le=4096)
    altsync_pinecone_cloud: str = "aws"
    altsync_pinecone_region: str = "us-east-1"
    #: Hosts of indexes, as name=host,name=host, for a key that may not read them from Pinecone.
    altsync_pinecone_hosts: str | None = None
    #: pgvector's type of numbers: 16 bits each, or 32.
    altsync_pgvector_type: Literal["halfvec", "vector"] = "halfvec"
    #: Operations per claim, and rows per write.
    altsync_batch_size: int = Field(default=500, ge=1, le=5000)
    #: Seconds that a worker may hold operations before another may claim them.
    altsync_lease_seconds: float = Field(default=30.0, gt=0, le=_YEAR)
    #: Seconds for one remote call. Less than the lease.
    altsync_sink_timeout_seconds: float = Field(default=10.0, gt=0, le=_YEAR)
    #: Attempts until errors of a record make its operation dead.
    altsync_max_attempts: int = Field(default=5, ge=1, le=100)
    #: Leases of an operation that may end before it is dead.
    altsync_max_lost_leases: int = Field(default=10, ge=1, le=1000)
    #: Seconds between two polls of the relay.
    altsync_poll_seconds: float = Field(default=1.0, gt=0, le=_YEAR)
    #: Unanswered wake-ups per sink, so workers that deliver to it in parallel.
    altsync_wake_limit: int = Field(default=4, ge=1, le=1000)
    #: Seconds that a task claims before it enqueues another one.
    altsync_task_seconds: float = Field(default=20.0, gt=0, le=_YEAR)
    #: First and longest delay of a retry, in seconds.
    altsync_backoff_seconds: float = Field(default=1.0, gt=0, le=_YEAR)
    altsync_backoff_cap_seconds: float = Field(default=300.0, gt=0, le=_YEAR)
    #: Longest wait of an open breaker before it probes, in seconds.
    altsync_breaker_cap_seconds: float = Field(default=30.0, gt=0, le=_YEAR)
    #: Limits of the embeddings' provider per minute, over all workers; none by default.
    altsync_openai_requests_per_minute: int | None = Field(default=None, ge=1, le=10**12)
    altsync_openai_tokens_per_minute: int | None = Field(default=None, ge=1, le=10**12)
    #: A table of prices, whose entries replace the packaged ones.
    altsync_prices: Path | None = None
    #: Dollars that all workers may spend in a day of UTC, by the table of prices; none for no cap.
    altsync_max_cost_per_day: Decimal | None = Field(default=None, ge=0, le=10**9)
    #: Texts above the embedding model's limit of tokens: refused, or cut at the end of a token.
    altsync_long_text: Literal["refuse", "cut"] = "refuse"
    #: Seconds that a deleted row stays before it is removed.
    altsync_purge_grace_seconds: float = Field(default=3600.0, gt=0, le=_YEAR)
    #: Days after which the relay removes finished operations and records of batches; 0 for never.
    altsync_retention_days: int = Field(default=30, ge=0, le=36_500)
    #: SIMILAR_TO relationships are computed from the vectors in PostgreSQL, by one query of the
    #: vector index for each changed entity, or not at all.
    altsync_similarity: Literal["local", "index", "off"] = "local"
    #: Seconds between two comparisons of all stores by the relay; none for no comparisons.
    altsync_verify_every: float | None = Field(default=None, gt=0, le=_YEAR)
    #: Objectives of freshness, as neo4j=5s,pinecone=30s: the age that a share of the changes must
    #: not exceed when the sink confirms them. And that share.
    altsync_freshness_slo: str | None = None
    altsync_freshness_target: float = Field(default=TARGET, gt=0, lt=1)
    altsync_log_format: Literal["auto", "json", "console"] = "auto"
    altsync_log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    #: The password of the dashboard, which is required to listen beyond loopback.
    altsync_dashboard_password: SecretStr | None = None
    flower_address: str = "127.0.0.1"
    flower_port: int = Field(default=5555, ge=0, le=65535)
    flower_basic_auth: SecretStr | None = None

    #: Variables of installed sinks that are not fields, by their names in lower case.
    _of_sinks: dict[str, SecretStr] = PrivateAttr(default_factory=dict)

    def __init__(self, **given: Any) -> None:
        fields = Settings.model_fields
        names = SINK_VARIABLES | fields.keys()
        values = read_values(given, names, fields["altsync_home"].default)
        super().__init__(**values)
        for name in SINK_VARIABLES & values.keys() - fields.keys():
            self._of_sinks[name] = SecretStr(values[name])

    def of_sink(self, variable: str) -> Any:
        """Return the value of a sink's variable; None if it is not set.

        It is text, unless altsync declares the variable.
        """
        name = variable.lower()
        if name in Settings.model_fields:
            return getattr(self, name)
        value = self._of_sinks.get(name)
        return value and value.get_secret_value()

    @field_validator(
        *("altsync_log_level", "altsync_log_format"),
        *("altsync_long_text", "altsync_pgvector_type"),
        mode="before",
    )
    @classmethod
    def _ignore_case(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        return value.upper() if info.field_name == "altsync_log_level" else value.lower()

    @field_validator("altsync_home")
    @classmethod
    def _expand_home(cls, value: Path) -> Path:
        return expand_home(value)

    @field_validator("neo4j_uri", "pinecone_controller_host", "openai_base_url")
    @classmethod
    def _normalize_address(cls, value: str | None, info: ValidationInfo) -> str | None:
        return None if value is None else _ADDRESSES[str(info.field_name)](value)

    @field_validator("redis_url", "altsync_broker_url")
    @classmethod
    def _normalize_broker(cls, value: SecretStr | None) -> SecretStr | None:
        return value and SecretStr(addresses.broker_url(value.get_secret_value()))

    @field_validator("pinecone_api_key", "openai_api_key")
    @classmethod
    def _check_key(cls, value: SecretStr | None) -> SecretStr | None:
        return value and SecretStr(addresses.api_key(value.get_secret_value()))

    @field_validator("flower_basic_auth")
    @classmethod
    def _check_login(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not all(value.get_secret_value().partition(":")):
            raise ValueError("write user:password")
        return value

    @field_validator("database_url", "altsync_direct_database_url", "pgvector_url")
    @classmethod
    def _normalize_database(cls, value: SecretStr | None) -> SecretStr | None:
        return value and _DatabaseUrl(*addresses.database_url(value.get_secret_value()))

    @field_validator("altsync_similarity", mode="before")
    @classmethod
    def _normalize_similarity(cls, value: object) -> object:
        return SIMILARITY_MODES.get(str(value).strip().lower(), value)

    @field_validator("altsync_sinks")
    @classmethod
    def _check_sinks(cls, value: str) -> str:
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

    @field_validator("altsync_freshness_slo")
    @classmethod
    def _check_objectives(cls, value: str | None) -> str | None:
        for name in read_objectives(value or ""):
            if name not in SINKS and name != SIMILARITY:
                raise ValueError(not_installed(name))
        return value

    @field_validator("altsync_prefix")
    @classmethod
    def _check_prefix(cls, value: str) -> str:
        if value and (len(value) > PREFIX_LENGTH or not PREFIX.fullmatch(value)):
            raise ValueError(
                f"give at most {PREFIX_LENGTH} lower-case letters, digits and single hyphens, "
                "beginning with a letter, as staging"
            )
        return value

    @field_validator("altsync_pinecone_hosts")
    @classmethod
    def _check_hosts(cls, value: str | None) -> str | None:
        pairs = [pair.partition("=") for pair in (value or "").split(",") if pair.strip()]
        if any(not name.strip() or not host.strip() for name, _, host in pairs):
            raise ValueError("give names and hosts, as shop-products=host,shop-brands=…")
        return value

    @model_validator(mode="after")
    def _check_timeout(self) -> Settings:
        if self.altsync_sink_timeout_seconds >= self.altsync_lease_seconds:
            raise ValueError(
                "ALTSYNC_SINK_TIMEOUT_SECONDS must be under ALTSYNC_LEASE_SECONDS, or a worker "
                "writes after its lease has ended"
            )
        return self

    @property
    def notes(self) -> list[str]:
        """Notes for the operator on ignored parts of values."""
        values = {
            "DATABASE_URL": self.database_url,
            "ALTSYNC_DIRECT_DATABASE_URL": self.altsync_direct_database_url,
            "PGVECTOR_URL": self.pgvector_url,
        }
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
    def sink_names(self) -> list[str]:
        """The sinks of ALTSYNC_SINKS."""
        return self.altsync_sinks.split(",")

    @property
    def cut_long(self) -> bool:
        """Whether texts above the model's limit are cut, and not refused."""
        return self.altsync_long_text == "cut"

    @property
    def freshness_objectives(self) -> dict[str, float]:
        """The objectives of freshness in seconds, by sink."""
        return read_objectives(self.altsync_freshness_slo or "")

    @property
    def pinecone_hosts(self) -> dict[str, str]:
        """The given hosts of indexes, by name."""
        pairs = (pair.partition("=") for pair in (self.altsync_pinecone_hosts or "").split(","))
        return {name.strip(): host.strip() for name, _, host in pairs if host.strip()}

    @property
    def wanted_model(self) -> Model:
        """The embedding model for a new database."""
        return Model(self.altsync_embedding_model, self.altsync_embedding_dimensions)

    @property
    def confirm_after_seconds(self) -> float:
        """Seconds after which a write of unknown outcome is confirmed."""
        return self.altsync_lease_seconds + self.altsync_sink_timeout_seconds

    @property
    def broker_url(self) -> str:
        """The broker's address. Raises ``ConfigurationError`` if it is not set."""
        url = self.altsync_broker_url or self.redis_url
        return _required(url, "REDIS_URL")

    def require_database_url(self, *, direct: bool = False) -> str:
        """Return PostgreSQL's URL; with ``direct``, that of session connections if it is set.

        Raises ``ConfigurationError`` if it is not set.
        """
        url = (self.altsync_direct_database_url if direct else None) or self.database_url
        return _required(url, "DATABASE_URL")


def _check_sink(name: str) -> None:
    """Raise ``ValueError`` for an unknown sink, with a similar name."""
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


_ADDRESSES: dict[str, Callable[[str], str]] = {
    "neo4j_uri": addresses.neo4j_uri,
    "pinecone_controller_host": addresses.pinecone_host,
    "openai_base_url": addresses.openai_base_url,
}


def read_settings(*, dotenv: str | None = ".env", **overrides: Any) -> Settings:
    """Return the settings of this process. ``dotenv`` is the path of ``.env``, or None.

    Raises ``ConfigurationError``, which names each wrong variable without its value.
    """
    protect_settings(overrides)
    token = dotenv_file.set(Path(dotenv) if dotenv else None)
    try:
        return Settings(**overrides)
    except ValidationError as error:
        lines = [_sentence(one) for one in error.errors(include_input=False, include_url=False)]
        raise ConfigurationError("wrong settings: " + "; ".join(lines)) from None
    finally:
        dotenv_file.reset(token)


def protect_settings(values: Mapping[str, Any]) -> None:
    """Remove these settings' secrets from every text from now on."""
    texts = {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in values.items()
    }
    protect_secrets({name: text for name, text in texts.items() if isinstance(text, str)})


def _sentence(error: ErrorDetails) -> str:
    name = ".".join(str(part) for part in error["loc"]).upper()
    context: dict[str, Any] = error.get("ctx", {})
    match error["type"]:
        case "value_error":
            text = str(context["error"])
        case "int_parsing" | "int_type" | "int_from_float" | "int_parsing_size":
            text = "it must be a whole number, such as 10"
        case "float_parsing" | "float_type" | "finite_number" | "decimal_parsing" | "decimal_type":
            text = "it must be a number without a unit, such as 10 or 0.5"
        case "bool_parsing" | "bool_type":
            text = "it must be true or false"
        case "greater_than":
            text = f"it must be above {context['gt']:g}"
        case "less_than":
            text = f"it must be below {context['lt']:g}"
        case "greater_than_equal":
            text = f"it must be at least {context['ge']:,g}"
        case "less_than_equal":
            text = f"it must be at most {context['le']:,.10g}"
        case "literal_error":
            text = f"it must be {context['expected']}".replace("'", "")
        case _:
            text = one_line(error["msg"]).removeprefix("Value error, ")
    return f"{name}: {text}" if name else text
