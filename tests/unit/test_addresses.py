"""Addresses of services: every form that means one is read, and no error shows a part of one."""

from __future__ import annotations

import itertools

import pytest
from psycopg.conninfo import conninfo_to_dict

from altsync import addresses, redaction

#: A password, and pieces of it that an error could show.
PASSWORD, PIECES = "hunter2pw", ("hunter", "2pw")


@pytest.fixture(autouse=True)
def _own_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_secrets", set())


@pytest.mark.parametrize(
    "scheme",
    [
        "postgresql",
        "postgres",
        "postgresql+psycopg",
        "postgresql+psycopg2",
        "postgresql+asyncpg",
        "POSTGRES",
    ],
)
def test_every_scheme_of_postgresql_means_the_same(scheme: str) -> None:
    url, notes = addresses.database_url(f"{scheme}://u:{PASSWORD}@h:5432/db?sslmode=require")
    assert url == f"postgresql://u:{PASSWORD}@h:5432/db?sslmode=require"
    assert notes == []


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("host=h port=1 dbname=db user=u password=p", ("h", "1", "db", "u", "p")),
        ("host=a,b port=1,2 dbname=db user=u password=p", ("a,b", "1,2", "db", "u", "p")),
        ("host=/var/run dbname=db user=u", ("/var/run", None, "db", "u", None)),
        ("dbname=db user='o\\'neil' password='a b@/#%?'", (None, None, "db", "o'neil", "a b@/#%?")),
        ("postgresql://u:a%40%2F%25@a:1,b:2/db", ("a,b", "1,2", "db", "u", "a@/%")),
        ("postgres://u:pa#ss:wörd[1]@[::1]:5/db", ("::1", "5", "db", "u", "pa#ss:wörd[1]")),
        ("postgresql:///db?host=/run&user=u@x", ("/run", None, "db", "u@x", None)),
        ("postgresql://u@%2Fvar%2Frun/db", ("/var/run", None, "db", "u", None)),
    ],
)
def test_libpq_reads_what_was_meant(text: str, meant: tuple[str | None, ...]) -> None:
    url, _ = addresses.database_url(text)
    found = conninfo_to_dict(url)
    assert tuple(found.get(k) for k in ("host", "port", "dbname", "user", "password")) == meant


def test_parameters_of_prisma_are_left_out_with_a_note() -> None:
    foreign = "connection_limit=5&pgbouncer=true&pool_timeout=3&sslidentity=a&sslaccept=strict"
    url, (note,) = addresses.database_url(f"postgres://u@h/db?schema=public&{foreign}")
    assert url == "postgresql://u@h/db?schema=public"
    for name in ("connection_limit", "pgbouncer", "pool_timeout", "sslidentity", "sslaccept"):
        assert name in note


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("ssl=true", "sslmode=require"),
        ("ssl=require", "sslmode=require"),
        ("ssl=false", "sslmode=disable"),
        ("channel_binding=require&sslmode=require", "channel_binding=require&sslmode=require"),
    ],
)
def test_parameters_on_tls_are_never_lost(given: str, kept: str) -> None:
    assert addresses.database_url(f"postgres://h/db?{given}")[0] == f"postgresql://h/db?{kept}"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("sslmod=require", "no parameter 'sslmod'; did you mean 'sslmode'?"),
        ("sslmode=requir", "sslmode must be one of disable, allow"),
        ("connect_timeout=soon", "connect_timeout must be a whole number"),
        ("keepalives=yes", "keepalives must be a whole number"),
        ("port=abc", "the port must be from 1 to 65535"),
        ("ssl=1", "ssl must be one of true, false"),
        ("target_session_attrs=writable", "target_session_attrs must be one of any, read-write"),
        ("load_balance_hosts=yes", "load_balance_hosts must be one of disable, random"),
        ("channel_binding=on", "channel_binding must be one of disable, prefer"),
        ("gssencmode=off", "gssencmode must be one of disable, prefer"),
        ("options=-cwork_mem=64MB", "the value of options must be percent-encoded"),
    ],
)
def test_a_mistyped_parameter_is_named(query: str, said: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        addresses.database_url(f"postgresql://u:{PASSWORD}@h/db?{query}")
    assert said in str(caught.value)


BROKEN = [
    "mysql://u:{p}@h/db",
    "postgres:/u:{p}@h/db",
    "postgresql:u:{p}@h/db",
    "postgresql//u:{p}@h/db",
    "postgresq://u:{p}@h/db",
    "jdbc:postgresql://h/db?user=u&password={p}",
    "u:{p}@h/db",
    "{p}",
    "hello {p}",
    "host=h passwort={p}",
    "postgresql://u:{p}@h:port/db",
    "postgresql://u:{p}@h:99999/db",
    "postgresql://u:{p}@h /db",
    "postgresql://u:{p}@h/db?{p}",
    "postgresql://u:{p}@h/db?sslmode={p}",
    "postgresql://u:{p}@h,:x/db",
]

SIGNS = ["@", "/", "?", "%", "%zz", " ", "\n", "?a=b&", "/x@", "@h:1/"]


@pytest.mark.parametrize(
    ("form", "sign"),
    [
        *itertools.product(BROKEN, ["", "#"]),
        *itertools.product(
            ["postgresql://u:{p}@h/db", "postgres+psycopg://u:{p}@h:1,i:2/db"], SIGNS
        ),
    ],
)
def test_no_error_shows_a_part_of_a_database_url(form: str, sign: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        addresses.database_url(form.format(p=f"hunter{sign}2pw"))
    assert not [piece for piece in PIECES if piece in str(caught.value)]
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("REDISS://:p@h", "rediss://:p@h"),
        ("redis://:a#b%2F@h/3", "redis://:a%23b%2F@h/3"),
        ("unix:///run/redis.sock?db=2", "redis+socket:///run/redis.sock?virtual_host=2"),
        ("sentinel://a:1;sentinel://b:1", "sentinel://a:1;sentinel://b:1"),
        ("amqp://u:p@h//", "amqp://u:p@h//"),
    ],
)
def test_brokers_are_read(given: str, read: str) -> None:
    assert addresses.broker_url(given) == read


@pytest.mark.parametrize(
    "given",
    [
        *("localhost:6379", "http://h:6379", "hunter2pw", "redis:/h", "redis://", "redis:///0"),
        *("redis://h:x", "redis://h:0", "redis://h/zero", "tcp://h:6379", "redis://:hunter@2pw@h"),
        *("redis://:hunter/2pw@h", "redis://:hunter%2pw@h", "sentinel://a:1;b:1"),
        *("unix://", "amqp://u:hunter#2pw@h:x//", "amqp://u:hunter@2pw@h//", "amqp://h:x//"),
    ],
)
def test_no_error_shows_a_part_of_a_broker(given: str) -> None:
    with pytest.raises(ValueError, match=r"redis://|percent-encoded|port|number") as caught:
        addresses.broker_url(given)
    assert not [piece for piece in PIECES if piece in str(caught.value)]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("socket_timout=5", "no parameter 'socket_timout'; did you mean 'socket_timeout'"),
        ("ssl_cert_reqs=on", "ssl_cert_reqs must be one of none, optional, required"),
        ("hunter@2pw", "percent-encoded"),
    ],
)
def test_a_mistyped_parameter_of_redis_is_named(query: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        addresses.broker_url(f"rediss://h:1/0?{query}")
    url = "rediss://h:1/0?ssl_cert_reqs=CERT_NONE"
    assert addresses.broker_url(url) == url


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("neo4j://h/sports", "goes into NEO4J_DATABASE"),
        ("bolt://h?policy=eu", "comes nothing"),
        ("bolt://h#x", "comes nothing"),
        ("http://h:7474", "HTTP port"),
        ("https://h", "HTTP port"),
        ("localhost:7687", "the scheme is missing"),
        ("neo4j+s//h", "the scheme is missing"),
        ("postgres://h", "not an address of Neo4j"),
        ("bolt://u:hunter2pw@h", "NEO4J_USERNAME and NEO4J_PASSWORD"),
        ("bolt://", "one host"),
        ("neo4j://a:1,b:2", "one host"),
        ("bolt://h:x", "port"),
        ("bolt://h:70000", "port"),
    ],
)
def test_a_wrong_uri_of_neo4j_says_which_form_is_wanted(given: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        addresses.neo4j_uri(given)
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["bolt", "bolt+s", "bolt+ssc", "neo4j", "neo4j+s", "neo4j+ssc"])
def test_every_scheme_of_neo4j_is_read(scheme: str) -> None:
    assert addresses.neo4j_uri(f"{scheme}://h/") == f"{scheme}://h/"
    assert addresses.neo4j_uri(f"{scheme.upper()}://h:7687") == f"{scheme}://h:7687"


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("https://api.openai.com/v1/", "https://api.openai.com/v1"),
        ("api.openai.com/v1", "https://api.openai.com/v1"),
        ("http://localhost:11434/v1", "http://localhost:11434/v1"),
        ("https://x.googleapis.com/v1beta/openai", "https://x.googleapis.com/v1beta/openai"),
    ],
)
def test_base_urls_are_read(given: str, read: str) -> None:
    assert addresses.openai_base_url(given) == read


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("https://api.openai.com", "the path is missing"),
        ("https://api.openai.com/", "the path is missing"),
        ("https://h/v1/embeddings", "/embeddings"),
        ("https://h/v1/chat/completions", "/completions"),
        ("https://h/v1/models/", "/models"),
        ("localhost:11434/v1", "the scheme is missing"),
        ("ftp://h/v1", "not an address of an HTTP service"),
        ("https://u:hunter2pw@h/v1", "a login"),
        ("https://h/v1?key=hunter2pw", "parameters"),
        ("https://h:x/v1", "port"),
        ("https:///v1", "one host"),
    ],
)
def test_a_wrong_base_url_says_which_form_is_wanted(given: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        addresses.openai_base_url(given)
    assert "https://host/v1" in str(caught.value)
    assert "hunter" not in str(caught.value)


def test_the_address_of_an_index_is_not_that_of_pinecone() -> None:
    assert addresses.pinecone_host("api.pinecone.io") == "https://api.pinecone.io"
    with pytest.raises(ValueError, match="address of an index"):
        addresses.pinecone_host("https://leagues-abc.svc.aped-1.pinecone.io")


@pytest.mark.parametrize("sign", ["\n", " ", "\t", "ä", "“", "\u200b", '"', "'", "\x00", "\x7f"])
def test_a_key_is_what_a_header_can_carry(sign: str) -> None:
    with pytest.raises(ValueError, match="character 7 of 10") as caught:
        addresses.api_key(f"hunter{sign}2pw")
    assert "hunter" not in str(caught.value)


def test_a_key_that_was_copied_with_its_name_is_refused() -> None:
    with pytest.raises(ValueError, match="copy the key alone"):
        addresses.api_key("OPENAI_API_KEY=sk-1")


def test_each_sentinel_hides_its_password_and_shows_its_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redaction, "_secrets", set())
    redaction.protect_address(
        "sentinel://:first-7f3a9c@broker-1.internal:26379;"
        "sentinel://u:second-7f3a9c@broker-2.internal:26379"
    )
    shown = redaction.redact("first-7f3a9c second-7f3a9c broker-1.internal broker-2.internal:26379")
    assert shown == "*** *** broker-1.internal broker-2.internal:26379"
