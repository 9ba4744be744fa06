"""Checks of each configured service, with short-lived clients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

import psycopg

from altsync import db, log, revisions, rights
from altsync.app import Application
from altsync.catalogue.current import entity_types
from altsync.circuit.sinks import wanted_model
from altsync.config import Settings
from altsync.contract import EMBEDDING, imported
from altsync.deadline import within
from altsync.declarations import SINKS, shown_sinks, title_of
from altsync.entities import Model
from altsync.errors import AltsyncError, ConfigurationError, SchemaError
from altsync.redaction import without_login
from altsync.sentences import describe

#: Seconds for a connection or an answer.
TIMEOUT = 5.0

#: Seconds for a whole check, however slowly its answers arrive.
LIMIT = 20.0


class Health(StrEnum):
    """The result of a check."""

    OK = "ok"
    FAILED = "failed"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class Finding:
    """One service, the result of its check, and what to do after a failure."""

    name: str
    health: Health
    detail: str


#: A service, the reason why it is disabled, and its check.
_Check = tuple[str, str | None, Callable[[Application], str]]


def check_services(
    app: Application, ask_broker: Callable[[str, float], None] | None = None
) -> list[Finding]:
    """Check every configured service. ``ask_broker`` checks brokers other than Redis."""

    def broker(app: Application) -> str:
        return _broker(app, ask_broker)

    named = app.topology.names
    checks: list[_Check] = [
        ("PostgreSQL", None, _postgres),
        ("Schema", None, _schema),
        ("Redis", None, broker),
        *((title_of(s), _reason(app, s), partial(_sink, s)) for s in shown_sinks(named)),
        ("Embedder", _reason(app, EMBEDDING), partial(_sink, EMBEDDING)),
    ]
    return [*(_finding(app, name, disabled, ask) for name, disabled, ask in checks), *_idle(app)]


def _idle(app: Application) -> list[Finding]:
    """Return one finding for each sink whose due work no worker claims."""
    try:
        with db.connect(app.settings.require_database_url()) as conn:
            idle = app.idle(conn)
    except (psycopg.Error, AltsyncError):
        return []  # another finding has the failure
    return [Finding(f"Delivery to {sink}", Health.FAILED, why) for sink, why in idle.items()]


def _reason(app: Application, sink: str) -> str | None:
    if sink not in app.topology.names:
        return "not among ALTSYNC_SINKS"
    return app.disabled_reason(sink)


def _finding(
    app: Application, name: str, disabled: str | None, ask: Callable[[Application], str]
) -> Finding:
    if disabled is not None:
        return Finding(name, Health.DISABLED, disabled)
    try:
        return Finding(name, Health.OK, within(LIMIT, lambda: ask(app)))
    except TimeoutError:
        return Finding(name, Health.FAILED, f"no answer within {LIMIT:g} s")
    except Exception as error:  # noqa: BLE001  (any client; its message is shown)
        return Finding(name, Health.FAILED, describe(error, app.settings.database_role).text)


def _postgres(app: Application) -> str:
    url = app.settings.require_database_url()
    with db.connect(url) as conn:
        row = conn.execute(
            "SELECT current_setting('server_version'), current_setting('transaction_read_only'), "
            "pg_is_in_recovery()"
        ).fetchone()
        # The host that accepted the connection: the address may name several.
        address = f"{conn.info.host}:{conn.info.port}/{conn.info.dbname}"
    assert row is not None
    version, read_only, is_standby = row
    found = f"PostgreSQL {version.split()[0]} at {log.redact(address)}"
    if read_only == "on":
        raise AltsyncError(f"{found}: {_STANDBY if is_standby else _READ_ONLY}")
    return found


_STANDBY = "this is a standby, which accepts no changes; name its primary server in DATABASE_URL"
_READ_ONLY = "the database accepts no changes; end default_transaction_read_only for it or its role"


def _schema(app: Application) -> str:
    from altsync import schema

    with db.connect(app.settings.require_database_url()) as conn:
        head = revisions.check_schema(conn)
        model = wanted_model(conn)
        missing = rights.missing_rights(conn, [*schema.declared().tables])
    wanted = app.settings.wanted_model
    if model is None:
        raise SchemaError("no sink is registered: run altsync migrate")
    if missing:
        raise AltsyncError("; ".join(describe(error).text for error in missing))
    if Model(*model) != wanted:
        return (
            f"at head ({head}); the database wants embeddings by {model[0]} ({model[1]} "
            f"dimensions), the settings say {wanted.name} ({wanted.dimensions}): altsync reembed "
            "shows what a change costs"
        )
    return f"at head ({head})"


def _broker(app: Application, ask: Callable[[str, float], None] | None) -> str:
    import redis

    url = app.settings.broker_url
    if url.startswith("redis+socket://"):
        path, _, number = url.removeprefix("redis+socket://").partition("?virtual_host=")
        url = f"unix://{path}?db={number or 0}"
    if not url.startswith(("redis://", "rediss://", "unix://")):
        if ask is None:
            raise AltsyncError("this broker cannot be checked here")
        ask(url, TIMEOUT)
        return f"{url.split(':')[0]} broker answers"
    client = redis.Redis.from_url(url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT)
    try:
        info = client.info("server")
        if info.get("redis_mode") == "sentinel":
            raise ConfigurationError(
                "a Sentinel answers at the redis:// address: use sentinel:// for it, with "
                "ALTSYNC_SENTINEL_MASTER"
            )
        if client.info("replication").get("role") == "slave":
            raise ConfigurationError(
                "this Redis is a replica, which takes no writes: name the primary in REDIS_URL"
            )
        return f"Redis {info.get('redis_version', '?')} at {without_login(url)}"
    finally:
        client.close()


def check_store(settings: Settings, sink: Any, timeout: float) -> str:
    """Ask a sink that declares no check for one record. Raises ``SinkFailure``."""
    next(sink.versions(entity_types()[0]), None)
    return "answers"


def _sink(name: str, app: Application) -> str:
    """Ask a sink's service; raise when altsync cannot write to it.

    It may be another installation's, too old, or have indexes of another form.
    """
    sink, check = app.sink(name), imported(SINKS[name].check)
    said: str = check(app.settings, sink, TIMEOUT)
    for what in ("check_owner", "check_version", "check_indexes"):
        refuse: Callable[[], None] | None = getattr(sink, what, None)
        if refuse is not None:
            refuse()
    return said
