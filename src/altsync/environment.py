"""Read the values of settings: the environment, ``.env``, and the embedded stack's addresses."""

from __future__ import annotations

import io
import os
from collections.abc import Collection, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from altsync.declarations import SINKS
from altsync.errors import ConfigurationError
from altsync.redaction import protect, protect_address

#: Variables that name one service. ``local.env`` fills a group only if nothing else names one of
#: it. So no real key is sent to the embedded stack, and no local key to a real service.
SERVICE_GROUPS: tuple[frozenset[str], ...] = (
    frozenset({"database_url", "altsync_direct_database_url"}),
    frozenset({"redis_url", "altsync_broker_url"}),
    frozenset({"neo4j_uri", "neo4j_username", "neo4j_password", "neo4j_database"}),
    frozenset({"pinecone_api_key", "pinecone_controller_host"}),
    frozenset({"pgvector_url"}),
    frozenset({"openai_api_key", "openai_base_url", "altsync_embedding_model"}),
)

#: Settings that are secret, and addresses that contain a secret.
_PASSWORDS = frozenset(
    {
        "neo4j_password",
        "flower_basic_auth",
        "altsync_sentinel_password",
        "altsync_dashboard_password",
    }
)
_SECRETS = (_PASSWORDS | {"pinecone_api_key", "openai_api_key"}).union(
    name.lower() for one in SINKS.values() for name in one.secrets
)
_SECRET_ADDRESSES = frozenset(
    {
        "database_url",
        "altsync_direct_database_url",
        "pgvector_url",
        "redis_url",
        "altsync_broker_url",
    }
)

#: Variables that installed sinks declare, in lower case.
SINK_VARIABLES = frozenset(
    name.lower() for one in SINKS.values() for name in (one.setting, *one.settings) if name
)

#: Characters around a value that come from the file or shell.
_INVISIBLE = "\ufeff\u200b\u2060"

#: The ``.env`` of this process; None for none.
dotenv_file: ContextVar[Path | None] = ContextVar("dotenv_file", default=Path(".env"))


def expand_home(home: Path) -> Path:
    """Return a folder with ``~`` resolved. Raises ``ConfigurationError``."""
    try:
        return home.expanduser()
    except RuntimeError:
        raise ConfigurationError(
            "wrong settings: ALTSYNC_HOME: this machine has no home of the name after ~"
        ) from None


def read_values(given: Mapping[str, Any], names: Collection[str], home: Path) -> dict[str, Any]:
    """Return the given values, and for other names those of the environment and files.

    The order is: given, the environment, ``.env``, and ``local.env`` of the embedded stack, for
    the services that nothing else names. ``home`` is the default of ``ALTSYNC_HOME``. Raises
    ``ConfigurationError``.
    """
    file = dotenv_file.get()
    dotenv = _named(_read_file(file), names) if file else {}
    found = {**dotenv, **_named(os.environ, names), **given}
    home = Path(found.get("altsync_home") or home)
    local = _named(_read_file(expand_home(home) / "local.env"), names)
    taken = {name for group in SERVICE_GROUPS if group & found.keys() for name in group}
    return {name: value for name, value in local.items() if name not in taken} | found


def file_value(variable: str) -> str | None:
    """Return the value of a variable in ``.env``, if any. Raises ``ConfigurationError``."""
    file = dotenv_file.get()
    return (_read_file(file).get(variable) or None) if file else None


def protect_secrets(values: Mapping[str, str]) -> None:
    """Remove these settings' secrets from every text from now on."""
    for name, value in values.items():
        if name in _SECRET_ADDRESSES:
            protect_address(value)
        elif name in _SECRETS:
            protect([value])


def _named(values: Mapping[str, str | None], names: Collection[str]) -> dict[str, str]:
    """Return the values that are not empty, by the name of their setting."""
    found = {}
    for variable, value in values.items():
        name = variable.lower()
        if name in names and value and (unwrapped := _unwrap(name, value)):
            found[name] = unwrapped
            protect_secrets({name: value})
            protect_secrets({name: unwrapped})
    return found


def _unwrap(name: str, value: str) -> str:
    """Return a value without spaces, byte order marks and quotes around it.

    Of a password only line breaks are removed: other characters may be part of it.
    """
    if name in _PASSWORDS:
        return value.strip("\r\n").strip(_INVISIBLE)
    value = value.strip().strip(_INVISIBLE).strip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1].strip()
    return value


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
