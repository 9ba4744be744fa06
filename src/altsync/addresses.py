"""Normalize the addresses of services: one function for each kind, so more than 300 lines.

Each function raises ``ValueError``. Its message contains no part of the address.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import quote, unquote_to_bytes, urlencode

from altsync.wording import listing, suggestion

DATABASE_FORM = "write postgresql://user:password@host:5432/database"
REDIS_FORM = "write redis://host:6379/0, rediss://:password@host:6379/0 or unix:///path/to/socket"
NEO4J_FORM = "write bolt://host:7687, neo4j://host:7687 or, with TLS, neo4j+s://host:7687"

#: Advice for characters that must be encoded in a login.
_ENCODE = (
    "a user or password with one of @ : / ? # % or a space must be percent-encoded "
    "(@ is %40, : is %3A, / is %2F, ? is %3F, # is %23, % is %25)"
)

#: Parameters of other programs in PostgreSQL's URL, which libpq would refuse.
_FOREIGN = frozenset(
    {
        # Prisma: https://www.prisma.io/docs/orm/overview/databases/postgresql
        "connection_limit",
        "pgbouncer",
        "pool_timeout",
        "single_use_connections",
        "socket_timeout",
        "sslaccept",
        "sslidentity",
        "statement_cache_size",
        # asyncpg and SQLAlchemy
        "async_fallback",
        "max_overflow",
        "pool_pre_ping",
        "pool_recycle",
        "pool_size",
        "prepared_statement_cache_size",
        "prepared_statement_name_func",
        "server_settings",
        # Supabase
        "supa",
        "workaround",
    }
)

_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

#: ``ssl=…`` of other drivers, as libpq's sslmode.
_SSL = {"true": "require", "false": "disable", "no-verify": "require"}
_SSL |= {mode: mode for mode in _SSL_MODES}

#: Parameters of libpq with few values, and these.
#: https://www.postgresql.org/docs/current/libpq-connect.html
_CHOICES = {
    "channel_binding": ("disable", "prefer", "require"),
    "gssencmode": ("disable", "prefer", "require"),
    "load_balance_hosts": ("disable", "random"),
    "sslmode": _SSL_MODES,
    "sslnegotiation": ("postgres", "direct"),
    "target_session_attrs": (
        *("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
    ),
}

#: Parameters of libpq that are whole numbers.
_NUMBERS = (
    *("connect_timeout", "tcp_user_timeout"),
    *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
)

#: Parameters of redis-py and kombu. Others end in a TypeError at the first connection.
_REDIS_PARAMETERS = (
    *("client_name", "db", "encoding", "encoding_errors", "health_check_interval"),
    *("max_connections", "password", "protocol", "retry_on_timeout", "socket_connect_timeout"),
    *("socket_keepalive", "socket_timeout", "ssl_ca_certs", "ssl_ca_data", "ssl_ca_path"),
    *("ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_ciphers", "ssl_keyfile"),
    *("ssl_min_version", "ssl_password", "timeout", "username", "virtual_host"),
)
_CERTIFICATES = ("none", "optional", "required")

#: Transports of Celery, by the scheme of their URLs.
#: https://docs.celeryq.dev/projects/kombu/en/stable/userguide/connections.html
_BROKERS = (
    *("redis", "rediss", "redis+socket", "unix", "sentinel"),
    *("amqp", "amqps", "pyamqp", "librabbitmq", "sqs", "gcpubsub", "confluentkafka", "qpid"),
    *("azurestoragequeues", "azureservicebus", "mongodb", "zookeeper", "consul", "etcd", "pyro"),
    *("sqlalchemy", "sqla", "slmq", "filesystem", "memory"),
)
_AMQP = ("amqp", "amqps", "pyamqp", "librabbitmq")
_REDIS = ("redis", "rediss", "redis+socket", "unix", "sentinel")

_NEO4J = ("bolt", "bolt+s", "bolt+ssc", "neo4j", "neo4j+s", "neo4j+ssc")

_HOST = re.compile(r"(\[[0-9A-Za-z:.%]+\]|[^\[\]:@/?#\s]*)(?::(\d{0,5}))?")

_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def database_url(text: str) -> tuple[str, list[str]]:
    """Return PostgreSQL's address in libpq's form, with ``?schema=``, and notes.

    It may be a URL of SQLAlchemy, Prisma or Heroku, with several hosts, or libpq's ``name=value``.
    """
    scheme, found, rest = text.partition("://")
    if not found:
        if "=" in text and not re.match(r"[\w+]+:", text):
            return _from_pairs(text), []
        raise ValueError(f"this is not an address of PostgreSQL: {DATABASE_FORM}")
    if not re.fullmatch(r"postgres(ql)?(\+[a-z0-9_]+)?", scheme.lower()):
        raise ValueError(f"this is not an address of PostgreSQL: {DATABASE_FORM}")
    login, hosts, path, query = _split(rest)
    _check_hosts(hosts, _ENCODE)
    parameters, notes = _parameters(query)
    url = f"postgresql://{login}{hosts}{path}" + (f"?{parameters}" if parameters else "")
    _check_by_libpq(url)
    return url, notes


def _split(rest: str) -> tuple[str, str, str, str]:
    """Return login with its ``@``, hosts, path with its slash, and query of a URL."""
    authority = re.split(r"[/?]", rest, maxsplit=1)[0]
    path, _, query = rest[len(authority) :].partition("?")
    login, at, hosts = authority.rpartition("@")
    # libpq ends the login at the first such character, and would show the rest as a host.
    if "@" in login or "@" in path:
        raise ValueError(_ENCODE)
    if any(_BAD_PERCENT.search(part) for part in (login, hosts, path, query)):
        raise ValueError(_ENCODE)
    if re.search(r"\s", rest):
        raise ValueError(f"it contains a space or line break; {_ENCODE}")
    return _encode_login(login) + at, hosts, path, query


def _encode_login(login: str) -> str:
    user, colon, password = login.partition(":")
    encoded = (quote(unquote_to_bytes(part), safe="") for part in (user, password))
    return colon.join(encoded) if colon else next(encoded)


def _check_hosts(hosts: str, advice: str) -> None:
    for host in hosts.split(","):
        found = _HOST.fullmatch(host)
        if found is None:
            raise ValueError(f"the host or its port cannot be read; {advice}")
        if found[2] and not 0 < int(found[2]) <= 65535:
            raise ValueError("the port must be from 1 to 65535")


def _parameters(query: str) -> tuple[str, list[str]]:
    from psycopg import pq

    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()} | {"schema"}
    kept, foreign = [], []
    for part in filter(None, query.split("&")):
        name, is_pair, value = part.partition("=")
        if is_pair and name == "ssl":
            if value not in _SSL:
                raise ValueError(f"ssl must be one of {listing(_SSL)}")
            kept.append(f"sslmode={_SSL[value]}")
        elif is_pair and name in known:
            if "=" in value:
                raise ValueError(f"the value of {name} must be percent-encoded (= is %3D)")
            kept.append(part)
        elif name in _FOREIGN:
            foreign.append(name)
        elif is_pair and "@" not in query and re.fullmatch(r"[A-Za-z_]{2,40}", name):
            near = suggestion(name, known)
            raise ValueError(f"PostgreSQL has no parameter {name!r}{near}")
        else:
            raise ValueError(f"its parameters cannot be read; {_ENCODE}")
    notes = []
    if foreign:
        notes.append(
            f"ignored, because PostgreSQL does not have them: {listing(dict.fromkeys(foreign))}"
        )
    return "&".join(kept), notes


def _from_pairs(text: str) -> str:
    """Return ``host=… dbname=…`` as a URL."""
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        pairs = {name: str(value) for name, value in conninfo_to_dict(text).items()}
    except psycopg.Error:
        pairs = {}
    if not pairs:
        raise ValueError(f"this is not an address of PostgreSQL: {DATABASE_FORM}")
    user, password = pairs.pop("user", ""), pairs.pop("password", None)
    login = quote(user, safe="") + ("" if password is None else ":" + quote(password, safe=""))
    hosts = pairs.get("host", "").split(",")
    ports = pairs.get("port", "").split(",")
    where = ""
    if all(re.fullmatch(r"[\w.-]+", host) for host in hosts) and len(ports) in (1, len(hosts)):
        ports = ports * len(hosts) if len(ports) == 1 else ports
        where = ",".join(
            f"{host}:{port}" if port else host for host, port in zip(hosts, ports, strict=True)
        )
        pairs.pop("host", None)
        pairs.pop("port", None)
        _check_hosts(where, DATABASE_FORM)
    path = quote(pairs.pop("dbname", ""), safe="")
    url = f"postgresql://{login}{'@' if login else ''}{where}/{path}"
    query = urlencode(pairs, quote_via=quote, safe="/,")
    url = f"{url}?{query}" if query else url
    _check_by_libpq(url)
    return url


def _check_by_libpq(url: str) -> None:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        found = conninfo_to_dict(without_schema(url)[0])
    except (psycopg.Error, UnicodeError):
        raise ValueError(f"libpq cannot read it: {DATABASE_FORM}") from None
    for name in found.keys() & set(_NUMBERS):
        if not re.fullmatch(r"-?\d{1,9}", str(found[name])):
            raise ValueError(f"{name} must be a whole number")
    for name in found.keys() & _CHOICES.keys():
        if found[name] not in _CHOICES[name]:
            raise ValueError(f"{name} must be one of {listing(_CHOICES[name])}")
    for port in filter(None, str(found.get("port", "")).split(",")):
        if not (re.fullmatch(r"\d{1,5}", port) and 0 < int(port) <= 65535):
            raise ValueError("the port must be from 1 to 65535")


def without_schema(url: str) -> tuple[str, str | None]:
    """Return a database URL without Prisma's ``?schema=``, which libpq refuses, and the schema."""
    address, _, query = url.partition("?")
    parts = [part for part in query.split("&") if part]
    schemas = [part.partition("=")[2] for part in parts if part.partition("=")[0] == "schema"]
    # The rest stays as it is written: libpq has its own rules for encoding.
    rest = "&".join(part for part in parts if part.partition("=")[0] != "schema")
    schema = unquote_to_bytes(schemas[0]).decode(errors="replace") if schemas else None
    return (f"{address}?{rest}" if rest else address), schema


def broker_url(text: str) -> str:
    """Return the broker's address in Celery's form. Several are separated by semicolons."""
    return ";".join(_one_broker(part.strip()) for part in text.split(";"))


def _one_broker(text: str) -> str:
    scheme, found, rest = text.partition("://")
    scheme = scheme.lower()
    if not found or scheme not in _BROKERS:
        near = "" if found else "the scheme is missing; "
        raise ValueError(f"{near or 'Celery has no such broker; '}{REDIS_FORM}")
    if scheme == "unix":
        path, _, query = rest.partition("?")
        if not path.strip("/"):
            raise ValueError(f"the path of the socket is missing; {REDIS_FORM}")
        database = re.search(r"(?:^|&)db=(\d+)", query)
        return f"redis+socket://{path}?virtual_host={database[1] if database else 0}"
    if scheme in _REDIS and scheme != "redis+socket":
        login, hosts, path, query = _split(rest)
        if not hosts:
            raise ValueError(f"the host is missing; {REDIS_FORM}")
        _check_hosts(hosts, _ENCODE)
        if not re.fullmatch(r"(/\d{0,5})?/?", path):
            raise ValueError("write the number of a database after the host, such as /0")
        _check_redis_parameters(query)
        rest = f"{login}{hosts}{path}" + (f"?{query}" if query else "")
    elif scheme in _AMQP:
        login, hosts, path, query = _split(rest)
        _check_hosts(hosts, _ENCODE)
        rest = f"{login}{hosts}{path}" + (f"?{query}" if query else "")
    return f"{scheme}://{rest}"


def _check_redis_parameters(query: str) -> None:
    for part in filter(None, query.split("&")):
        name, _, value = part.partition("=")
        if name not in _REDIS_PARAMETERS:
            if not re.fullmatch(r"[A-Za-z_]{2,40}", name):
                raise ValueError(f"its parameters cannot be read; {_ENCODE}")
            near = suggestion(name, _REDIS_PARAMETERS)
            raise ValueError(f"Redis has no parameter {name!r}{near}")
        plain = value.lower().removeprefix("cert_")
        if name == "ssl_cert_reqs" and plain not in _CERTIFICATES:
            raise ValueError(f"ssl_cert_reqs must be one of {listing(_CERTIFICATES)}")


def neo4j_uri(text: str) -> str:
    """Return Neo4j's address."""
    scheme, found, rest = text.partition("://")
    if not found:
        raise ValueError(f"the scheme is missing; {NEO4J_FORM}")
    if scheme.lower() in ("http", "https"):
        raise ValueError(f"this is the address of Neo4j's HTTP port; {NEO4J_FORM}")
    if scheme.lower() not in _NEO4J:
        raise ValueError(f"this is not an address of Neo4j; {NEO4J_FORM}")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in rest:
        raise ValueError("user and password go into NEO4J_USERNAME and NEO4J_PASSWORD")
    if not authority or "," in authority:
        raise ValueError(f"give one host; {NEO4J_FORM}")
    _check_hosts(authority, NEO4J_FORM)
    more = rest[len(authority) :]
    if re.match(r"/[^/?#]", more):
        raise ValueError(f"the name of a database goes into NEO4J_DATABASE; {NEO4J_FORM}")
    if re.search(r"[#\s]", more) or ("?" in more and not scheme.lower().startswith("neo4j")):
        raise ValueError(f"after the host and its port comes nothing; {NEO4J_FORM}")
    return f"{scheme.lower()}://{rest}"


def http_url(text: str, form: str) -> str:
    """Return the address of an HTTP service. A missing scheme is https for a name with a dot."""
    scheme, found, rest = text.partition("://")
    if not found:
        if not re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+\.?(:\d+)?(/\S*)?", text):
            raise ValueError(f"the scheme is missing; {form}")
        if re.match(r"[\d.]+(:|/|$)", text):
            raise ValueError(f"the scheme is missing; {form}")
        scheme, rest = "https", text
    if scheme.lower() not in ("http", "https"):
        raise ValueError(f"this is not an address of an HTTP service; {form}")
    authority, _, path = rest.partition("/")
    if "@" in authority or re.search(r"[?#\s]", rest):
        raise ValueError(f"it must not have a login, parameters or spaces; {form}")
    if not authority or "," in authority:
        raise ValueError(f"give one host; {form}")
    _check_hosts(authority, form)
    return f"{scheme.lower()}://{authority}" + (f"/{path}" if path else "")


def openai_base_url(text: str) -> str:
    """Return the base URL of OpenAI's API, without ``/embeddings``."""
    form = "write https://host/v1: altsync adds /embeddings"
    url = http_url(text, form).rstrip("/")
    _, _, path = url.partition("://")[2].partition("/")
    if not path:
        raise ValueError(f"the path is missing; {form}")
    for end in ("embeddings", "completions", "responses", "models"):
        if path.endswith(end):
            raise ValueError(f"it must not end with /{end}; {form}")
    return url


def pinecone_host(text: str) -> str:
    """Return the address of Pinecone's control plane."""
    form = "write https://api.pinecone.io, or leave it out"
    url = http_url(text, form)
    if ".svc." in url:
        raise ValueError(f"this is the address of an index; {form}")
    return url


def api_key(text: str) -> str:
    """Return a key that is valid in an HTTP header."""
    if re.match(r"[A-Z][A-Z0-9_]*=", text):
        raise ValueError("it begins with NAME=: copy the key alone")
    for position, sign in enumerate(text, 1):
        kind = None
        if not "!" <= sign <= "~":
            kind = "a space or line break" if sign.isspace() else "not ASCII"
        elif sign in "\"'":
            kind = "a quote"
        if kind:
            raise ValueError(f"character {position} of {len(text)} is {kind}: copy the key again")
    return text


def is_loopback(address: str) -> bool:
    """Return whether an address, a number or ``localhost``, is reached by this machine alone."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address.lower() == "localhost"
