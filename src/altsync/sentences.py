"""Describe an exception by one sentence and an exit status."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable

import psycopg

from altsync.errors import AltsyncError, ConfigurationError, SchemaError, SinkFailure
from altsync.exits import Exit, Failure
from altsync.redaction import redact
from altsync.wording import one_line

__all__ = ["Exit", "Failure", "describe"]


def describe(error: BaseException, role: str | None = None) -> Failure:
    """Describe an exception. ``role`` is PostgreSQL's account, for errors that do not have it."""
    text, code = _describe(error, error.__dict__.get("altsync_role", role))
    return Failure(redact(one_line(text)), code)


def _describe(error: BaseException, role: str | None) -> tuple[str, Exit]:
    match error:
        case KeyboardInterrupt():
            return "interrupted", Exit.INTERRUPTED
        case SchemaError():
            return str(error), Exit.SCHEMA
        case ConfigurationError():
            return str(error), Exit.SETTINGS
        case SinkFailure():
            return str(error), Exit.UNAVAILABLE
        case AltsyncError():
            return str(error), Exit.ERROR
        case psycopg.Error():
            return _describe_postgresql(error, role)
        case UnicodeEncodeError():
            return "an argument is not valid UTF-8", Exit.USAGE
        case OSError():
            return _describe_os(error)
        case ModuleNotFoundError():
            return f"the module {error.name!r} is not installed: pip install it", Exit.SETTINGS
        case MemoryError():
            return "there is not enough memory", Exit.ERROR
    orig = getattr(error, "orig", None)  # SQLAlchemy's errors wrap the driver's
    if isinstance(orig, psycopg.Error):
        return _describe_postgresql(orig, role)
    store = _STORES.get(type(error).__module__.partition(".")[0])
    if store is not None:
        return _describe_store(store, error)
    return f"unexpected {_text(error)} (--debug shows where)", Exit.BUG


#: The source of an exception, by the package of its class.
_STORES = {
    "neo4j": "Neo4j",
    "redis": "Redis",
    "kombu": "the broker",
    "amqp": "the broker",
    "openai": "the provider of embeddings",
    "pinecone": "Pinecone",
    "httpx": "an HTTP service",
    "httpcore": "an HTTP service",
}


def _describe_store(store: str, error: BaseException) -> tuple[str, Exit]:
    text = str(error)
    for pattern, sentence, code in _BY_BROKER if store in ("Redis", "the broker") else ():
        found = pattern.search(text)
        if found:
            return sentence.format(**found.groupdict()), code
    return f"{store}: {_text(error)}", Exit.UNAVAILABLE


_NO_LOGIN = (
    r"AuthenticationError|AuthenticationRequired|invalid username-password|WRONGPASS|NOAUTH|"
    r"Authentication required|client already authenticated|without any password configured"
)

#: Errors of Redis and its Sentinels, by redis-py's messages, which contain all options of each
#: Sentinel's client.
_BY_BROKER: tuple[tuple[re.Pattern[str], str, Exit], ...] = (
    (
        re.compile(rf"No master found for .*({_NO_LOGIN})", re.DOTALL),
        "the Sentinels refuse the login: correct ALTSYNC_SENTINEL_PASSWORD",
        Exit.DENIED,
    ),
    (
        re.compile(r"No master found for '(?P<name>[^']*)'"),
        "no Sentinel that answers names a master '{name}' that is up: start it, or correct "
        "ALTSYNC_SENTINEL_MASTER and the hosts of the sentinel:// address",
        Exit.UNAVAILABLE,
    ),
    (
        re.compile(r"unknown command .?SENTINEL"),
        "a Redis answers at the sentinel:// address, and no Sentinel: name the Sentinels, or use "
        "redis://",
        Exit.SETTINGS,
    ),
    (
        re.compile(_NO_LOGIN),
        "Redis refuses the login: correct the user or password of REDIS_URL or ALTSYNC_BROKER_URL",
        Exit.DENIED,
    ),
    (
        re.compile(r"DB index is out of range"),
        "Redis has no database of this number: correct the number at the end of REDIS_URL",
        Exit.SETTINGS,
    ),
)


def _text(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _describe_os(error: OSError) -> tuple[str, Exit]:
    if isinstance(error, BrokenPipeError):
        return "the reader of the output has ended", Exit.PIPE
    reason = error.strerror or _text(error)
    if error.filename is not None:
        return f"{error.filename!s}: {reason}", Exit.FILE
    if error.errno in (errno.ENOSPC, errno.EIO, errno.EBADF, errno.EDQUOT, errno.EFBIG):
        return f"the output cannot be written: {reason}", Exit.FILE
    return f"the system refused: {reason}", Exit.UNAVAILABLE


def _describe_postgresql(error: psycopg.Error, role: str | None) -> tuple[str, Exit]:
    text = one_line(error.diag.message_primary or error) or type(error).__name__
    for kinds, sentence, code in _BY_CLASS:
        if isinstance(error, kinds):
            return sentence(text, role), code
    if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
        # libpq gives no code for errors of a login, only a text.
        for pattern, advice, code in _BY_TEXT:
            found = pattern.search(text)
            if found:
                action = advice.format(role=_grantee(role), **found.groupdict())
                return f"no connection to PostgreSQL: {_without_attempt(text)}; {action}", code
        return f"no connection to PostgreSQL: {text}", Exit.UNAVAILABLE
    return f"PostgreSQL refused a statement: {text}", Exit.ERROR


def _without_attempt(text: str) -> str:
    """Return the server's message without libpq's description of the attempt."""
    return re.sub(r"^.*?\b(?:FATAL|ERROR): +", "", text).partition(" DETAIL:")[0]


def _grantee(role: str | None) -> str:
    return f'"{role}"' if role else "<role>"


def _missing_right(text: str, role: str | None) -> str:
    grantee = _grantee(role)
    found = re.search(r"permission denied for (\w+) (\S+(?:, \S+)*)", text)
    if found is None or found[1] not in _GRANTS:
        if "temporary tables" in text:
            database = text.rpartition("database ")[2]
            return f"{text}: GRANT TEMPORARY ON DATABASE {database} TO {grantee}"
        if "must be owner" in text:
            return f"{text}: run altsync migrate as the role that owns the tables"
        return f"{text}: the role {grantee} lacks a right"
    grant = _GRANTS[found[1]].format(name=found[2], role=grantee)
    return f"{text}: {grant}"


_GRANTS = {
    "table": "GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO {role}",
    "relation": "GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO {role}",
    "view": "GRANT SELECT ON {name} TO {role}",
    "sequence": "GRANT USAGE, SELECT, UPDATE ON SEQUENCE {name} TO {role}",
    "schema": "GRANT USAGE, CREATE ON SCHEMA {name} TO {role}",
    "database": "GRANT CONNECT, CREATE, TEMPORARY ON DATABASE {name} TO {role}",
    "function": "GRANT EXECUTE ON FUNCTION {name} TO {role}",
}

_Kinds = type[psycopg.Error] | tuple[type[psycopg.Error], ...]
_e = psycopg.errors

#: Errors of statements, by their class.
_BY_CLASS: tuple[tuple[_Kinds, Callable[[str, str | None], str], Exit], ...] = (
    (_e.InsufficientPrivilege, _missing_right, Exit.DENIED),
    (
        _e.ReadOnlySqlTransaction,
        lambda text, _: (
            f"{text}: the database accepts no changes; name its primary server in DATABASE_URL, or "
            "end default_transaction_read_only"
        ),
        Exit.DENIED,
    ),
    (
        _e.UndefinedTable,
        lambda text, _: f"the database has no altsync tables ({text}): run altsync migrate",
        Exit.SCHEMA,
    ),
    (
        _e.InvalidSchemaName,
        lambda text, role: (
            f"{text}: GRANT USAGE, CREATE ON SCHEMA public TO {_grantee(role)}, or name another "
            "schema by ?schema= in DATABASE_URL"
        ),
        Exit.DENIED,
    ),
    (
        (_e.UndefinedColumn, _e.UndefinedFunction, _e.UndefinedObject),
        lambda text, _: f"the schema is not that of this release ({text}): run altsync migrate",
        Exit.SCHEMA,
    ),
    (
        (_e.CharacterNotInRepertoire, _e.UntranslatableCharacter),
        lambda text, _: f"the database cannot hold this text ({text}): its encoding must be UTF8",
        Exit.SCHEMA,
    ),
    (
        _e.QueryCanceled,
        lambda text, _: f"PostgreSQL ended a statement: {text}; try again when it has less to do",
        Exit.BUSY,
    ),
    (
        (_e.LockNotAvailable, _e.DeadlockDetected, _e.SerializationFailure),
        lambda text, _: f"another session holds what this one needs: {text}; try again",
        Exit.BUSY,
    ),
    (
        (_e.DiskFull, _e.OutOfMemory, _e.ConfigurationLimitExceeded, _e.InsufficientResources),
        lambda text, _: f"PostgreSQL has no space or memory left: {text}",
        Exit.BUSY,
    ),
    (
        _e.TooManyConnections,
        lambda text, _: f"PostgreSQL admits no more connections: {text}",
        Exit.BUSY,
    ),
)

_LOGIN = "correct the user or password of DATABASE_URL"

#: Errors of a new connection, by libpq's messages.
_BY_TEXT: tuple[tuple[re.Pattern[str], str, Exit], ...] = (
    (re.compile(r"(password|\w+) authentication failed"), _LOGIN, Exit.DENIED),
    (re.compile(r"no password supplied"), "DATABASE_URL holds no password", Exit.DENIED),
    (re.compile(r'role "[^"]*" does not exist'), _LOGIN, Exit.DENIED),
    (re.compile(r"is not permitted to log in"), "ALTER ROLE {role} LOGIN", Exit.DENIED),
    (
        re.compile(r"permission denied for database (?P<name>\S+)"),
        "GRANT CONNECT ON DATABASE {name} TO {role}",
        Exit.DENIED,
    ),
    (
        re.compile(r"pg_hba\.conf.*(no encryption|SSL off)"),
        "the server may want TLS: add ?sslmode=require to DATABASE_URL",
        Exit.DENIED,
    ),
    (re.compile(r"pg_hba\.conf"), "pg_hba.conf of the server admits no such login", Exit.DENIED),
    (
        re.compile(r"server does not support SSL"),
        "change sslmode in DATABASE_URL, or switch TLS on in the server",
        Exit.SETTINGS,
    ),
    (
        re.compile(
            r"connection is bad: (invalid|definition of service|could not parse network address)"
            r"|invalid (integer )?value .*for (connection option|parameter)"
        ),
        "correct the parameters of DATABASE_URL",
        Exit.SETTINGS,
    ),
    (
        re.compile(r"certificate|sslmode|sslrootcert"),
        "correct sslmode, sslrootcert, sslcert or sslkey in DATABASE_URL",
        Exit.SETTINGS,
    ),
    (
        re.compile(r'database "[^"]*" does not exist'),
        "create it, or correct DATABASE_URL",
        Exit.SETTINGS,
    ),
    (
        re.compile(r"connection slots|too many (clients|connections)"),
        "PostgreSQL admits no more connections: end some, or raise max_connections",
        Exit.BUSY,
    ),
    (
        re.compile(r"could not translate host name|failed to resolve host"),
        "correct the host of DATABASE_URL",
        Exit.UNAVAILABLE,
    ),
)
