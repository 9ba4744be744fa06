"""Settings, read once from the environment, ``.env`` and the local stack."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from altsync.errors import ConfigurationError
from altsync.records import Model

#: Variables that name one service. The local stack fills a group only when nothing else names
#: any of it, so a real key is never sent to the local stack, nor a local one to a real service.
SERVICE_GROUPS: tuple[frozenset[str], ...] = (
    frozenset({"database_url", "altsync_direct_database_url"}),
    frozenset({"redis_url", "altsync_broker_url"}),
    frozenset({"neo4j_uri", "neo4j_username", "neo4j_password", "neo4j_database"}),
    frozenset({"pinecone_api_key", "pinecone_controller_host"}),
    frozenset({"openai_api_key", "openai_base_url", "altsync_embedding_model"}),
)

#: What Pinecone takes in the name of an index, and Neo4j in a label once hyphens are underscores.
#: https://docs.pinecone.io/troubleshooting/restrictions-on-index-names
PREFIX = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

#: 45 characters of an index's name less "-altsports-archetypes", the longest.
PREFIX_LENGTH = 24


def split_schema(url: str) -> tuple[str, str | None]:
    """A database URL without Prisma's ``?schema=`` parameter, and that schema.

    libpq refuses parameters that it does not know; the described system's URLs carry this one.
    """
    address, _, query = url.partition("?")
    parts = [part for part in query.split("&") if part]
    schemas = [part.partition("=")[2] for part in parts if part.partition("=")[0] == "schema"]
    # The rest is left as it is written: libpq has its own rules for spaces and signs.
    rest = "&".join(part for part in parts if part.partition("=")[0] != "schema")
    schema = unquote(schemas[0]) if schemas else None
    return (f"{address}?{rest}" if rest else address), schema


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches an address, given as a number or as ``localhost``."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address.lower() == "localhost"


class _LocalStackSource(PydanticBaseSettingsSource):
    """``local.env`` of a running local stack, for the services that nothing else names."""

    def __init__(self, settings_cls: type[BaseSettings], *others: PydanticBaseSettingsSource):
        super().__init__(settings_cls)
        self._others = others

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # this source answers as a whole

    def __call__(self) -> dict[str, Any]:
        named: dict[str, Any] = {}
        for source in self._others:
            named = {**source(), **named}
        home = Path(named.get("altsync_home") or Settings.model_fields["altsync_home"].default)
        file = home / "local.env"
        if not file.is_file():
            return {}
        local = DotEnvSettingsSource(self.settings_cls, env_file=file)()
        taken = {name for group in SERVICE_GROUPS if group & named.keys() for name in group}
        return {name: value for name, value in local.items() if name not in taken}


class Settings(BaseSettings):
    """Everything that can be set. Each field is the variable of the same name in capitals."""

    model_config = SettingsConfigDict(
        env_file=".env", extra="ignore", env_ignore_empty=True, validate_default=True
    )

    database_url: SecretStr | None = None
    redis_url: SecretStr | None = None
    neo4j_uri: str | None = None
    neo4j_username: str = "neo4j"
    neo4j_password: SecretStr = SecretStr("")
    neo4j_database: str | None = None
    pinecone_api_key: SecretStr | None = None
    pinecone_controller_host: str | None = None
    openai_api_key: SecretStr | None = None
    #: Always passed on: left to itself, the SDK takes an empty OPENAI_BASE_URL for an address.
    openai_base_url: str = "https://api.openai.com/v1"

    altsync_home: Path = Path(".altsync")
    #: A session connection for LISTEN, COPY to temporary tables and migrations, when
    #: DATABASE_URL goes through a transaction pooler.
    altsync_direct_database_url: SecretStr | None = None
    #: Any Celery broker; it only carries wake-ups.
    altsync_broker_url: SecretStr | None = None
    altsync_sinks: str = "embedding,neo4j,pinecone"
    #: Stands before the names of indexes, labels and queues, so that two installations can share
    #: a Pinecone project, a graph and a broker.
    altsync_prefix: str = ""
    altsync_embedding_model: str = "text-embedding-3-small"
    altsync_embedding_dimensions: int = Field(default=1536, ge=1, le=4096)
    altsync_pinecone_cloud: str = "aws"
    altsync_pinecone_region: str = "us-east-1"
    #: Operations per claim, and rows per write.
    altsync_batch_size: int = Field(default=500, ge=1, le=5000)
    #: Seconds a worker may hold operations before others may take them.
    altsync_lease_seconds: float = Field(default=30.0, gt=0)
    #: Seconds one remote call may take. Must stay under the lease.
    altsync_sink_timeout_seconds: float = Field(default=10.0, gt=0)
    #: Attempts before an error of the record itself buries its operation.
    altsync_max_attempts: int = Field(default=5, ge=1, le=100)
    #: Leases that may run out before an operation is buried.
    altsync_max_lost_leases: int = Field(default=10, ge=1, le=1000)
    #: Seconds between two looks of the relay when nobody notifies it.
    altsync_poll_seconds: float = Field(default=1.0, gt=0)
    #: Wake-ups per sink that may be under way at once: workers that share the drain.
    altsync_wake_limit: int = Field(default=4, ge=1, le=1000)
    #: Seconds a task goes on claiming before it asks for another one.
    altsync_task_seconds: float = Field(default=20.0, gt=0)
    #: First and longest delay of a retry, in seconds.
    altsync_backoff_seconds: float = Field(default=1.0, gt=0)
    altsync_backoff_cap_seconds: float = Field(default=300.0, gt=0)
    #: Longest time that an open breaker waits before it probes, in seconds.
    altsync_breaker_cap_seconds: float = Field(default=30.0, gt=0)
    #: What the provider of embeddings allows in a minute, over all workers; no limit by default.
    altsync_openai_requests_per_minute: int | None = Field(default=None, ge=1)
    altsync_openai_tokens_per_minute: int | None = Field(default=None, ge=1)
    #: Seconds that a deleted row stays before it is removed for good.
    altsync_purge_grace_seconds: float = Field(default=3600.0, gt=0)
    #: Whether leagues' SIMILAR_TO relationships are kept in step with their vectors.
    altsync_similarity: bool = True
    #: Cosine above which a league becomes similar to another, and below which it is no longer:
    #: two numbers, so that one near the threshold does not come and go.
    altsync_similarity_enter: float = Field(default=0.80, ge=-1, le=1)
    altsync_similarity_leave: float = Field(default=0.77, ge=-1, le=1)
    #: Similar leagues that a league keeps at most, the nearest first.
    altsync_similarity_top_k: int = Field(default=10, ge=1, le=1000)
    #: Whether leagues of different archetypes may be similar.
    altsync_similarity_across_archetypes: bool = False
    #: Seconds after a vector was written until its neighbours are looked for.
    altsync_similarity_debounce_seconds: float = Field(default=2.0, ge=0)
    #: Seconds between two comparisons of all stores by the relay; none by itself.
    altsync_verify_every: float | None = Field(default=None, gt=0)
    altsync_log_format: Literal["auto", "json", "console"] = "auto"
    altsync_log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    #: Asked of everybody who opens the dashboard; without it, it stays on loopback.
    altsync_dashboard_password: SecretStr | None = None
    flower_address: str = "127.0.0.1"
    flower_port: int = Field(default=5555, ge=0, le=65535)
    flower_basic_auth: SecretStr | None = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        assert isinstance(env_settings, EnvSettingsSource)
        named = (init_settings, env_settings, dotenv_settings)
        return (*named, _LocalStackSource(settings_cls, *named))

    @field_validator("altsync_sinks")
    @classmethod
    def _sinks_are_names(cls, value: str) -> str:
        names = [name.strip() for name in value.split(",") if name.strip()]
        if not names or any(not name.isidentifier() for name in names):
            raise ValueError("give sink names separated by commas, as embedding,neo4j,pinecone")
        return ",".join(dict.fromkeys(names))

    @field_validator("altsync_prefix")
    @classmethod
    def _prefix_fits_everywhere(cls, value: str) -> str:
        if value and (len(value) > PREFIX_LENGTH or not PREFIX.fullmatch(value)):
            raise ValueError(
                f"give at most {PREFIX_LENGTH} lower-case letters, digits and single hyphens, "
                "beginning with a letter, as staging"
            )
        return value

    @model_validator(mode="after")
    def _timeout_under_lease(self) -> Settings:
        if self.altsync_sink_timeout_seconds >= self.altsync_lease_seconds:
            raise ValueError(
                "ALTSYNC_SINK_TIMEOUT_SECONDS must be under ALTSYNC_LEASE_SECONDS, or a worker "
                "writes after it lost its lease"
            )
        return self

    @model_validator(mode="after")
    def _leave_under_enter(self) -> Settings:
        if self.altsync_similarity_leave > self.altsync_similarity_enter:
            raise ValueError(
                "ALTSYNC_SIMILARITY_LEAVE must not be above ALTSYNC_SIMILARITY_ENTER, or a "
                "relationship would come and go for ever"
            )
        return self

    @property
    def sink_names(self) -> list[str]:
        """The sinks that entities are mirrored to."""
        return self.altsync_sinks.split(",")

    @property
    def wanted_model(self) -> Model:
        """The embedding model that a fresh database is set up for."""
        return Model(self.altsync_embedding_model, self.altsync_embedding_dimensions)

    @property
    def echo_seconds(self) -> float:
        """When an unsure write is repeated: after everything that may still be under way."""
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


def _required(value: SecretStr | None, name: str) -> str:
    if value is None:
        raise ConfigurationError(
            f"{name} is not set. Start the embedded stack with `altsync local up`, or name your "
            f"own server in the environment or in .env."
        )
    return value.get_secret_value()


def read_settings(**overrides: Any) -> Settings:
    """The settings of this process.

    Raises ``ConfigurationError`` that names each wrong variable, and never its value.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in e['loc']).upper() or 'settings'}: {e['msg']}"
            for e in error.errors(include_input=False)
        ]
        raise ConfigurationError("wrong settings: " + "; ".join(lines)) from None
