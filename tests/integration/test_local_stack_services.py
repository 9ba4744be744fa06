"""Single services of the embedded stack."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psycopg
import pytest
import redis

from altsync.local import ports, processes
from altsync.local.errors import LocalStackError
from altsync.local.records import Record, RecordBook
from altsync.local.services.broker import Broker, start_redis
from altsync.local.services.postgres import Postgres, start_postgres

pytestmark = pytest.mark.slow


def test_two_services_of_a_kind_side_by_side(tmp_path: Path) -> None:
    """Each has its own folder, port and data."""
    with start_redis(tmp_path / "one") as one, start_redis(tmp_path / "two") as two:
        assert one.port != two.port
        with redis.Redis.from_url(one.url) as first, redis.Redis.from_url(two.url) as second:
            first.set("key", "value")
            assert second.get("key") is None
    assert not one.running
    assert not two.running


def test_a_busy_port_is_left_for_another(tmp_path: Path) -> None:
    """When the port is taken meanwhile, the service moves."""
    service = start_redis(tmp_path)
    port = service.port
    service.stop()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with service:
            assert service.port != port


def test_redis_in_memory_serves_where_there_is_no_other(tmp_path: Path) -> None:
    """The fake server runs in a process of its own and knows scripts."""
    with start_redis(tmp_path, kind="fakeredis") as service:
        assert service.flavour.startswith("fakeredis")
        with redis.Redis.from_url(service.url, decode_responses=True) as client:
            client.rpush("queue", "wake")
            assert client.eval("return redis.call('LPOP', KEYS[1])", 1, "queue") == "wake"


def test_redis_keeps_its_data(tmp_path: Path) -> None:
    """Written data are there after an orderly end."""
    with start_redis(tmp_path) as service, redis.Redis.from_url(service.url) as client:
        client.set("key", "value")
    with (
        start_redis(tmp_path) as service,
        redis.Redis.from_url(service.url, decode_responses=True) as client,
    ):
        assert client.get("key") == "value"
        assert client.info("memory")["maxmemory_policy"] == "noeviction"


def test_postgresql_starts_again_over_a_lock_that_names_a_stranger(tmp_path: Path) -> None:
    """The password belongs to the folder, and an old process number may be another program's."""
    with start_postgres(tmp_path) as service, psycopg.connect(service.url) as session:
        session.execute("CREATE TABLE kept AS SELECT 1 AS one")
    lock = service.data / "postmaster.pid"
    lock.write_text(f"{os.getpid()}\n{service.data}\n1\n{service.port}\n\n127.0.0.1\n0 0\nready\n")
    with start_postgres(tmp_path) as service, psycopg.connect(service.url) as session:
        assert session.execute("SELECT one FROM kept").fetchone() == (1,)


def test_an_interrupted_first_start_in_a_closed_folder(tmp_path: Path) -> None:
    """A half-made cluster is made again, and a private folder stays private, even for root."""
    private = tmp_path / "private"
    leftover = private / "postgresql" / "data.partial" / "PG_VERSION"
    leftover.parent.mkdir(parents=True)
    leftover.write_text("18\n")
    private.chmod(0o700)
    above = tmp_path.stat().st_mode
    with (
        start_postgres(private / "postgresql") as service,
        psycopg.connect(service.url) as session,
    ):
        assert session.execute("SELECT 1").fetchone() == (1,)
        assert private.stat().st_mode & 0o777 == 0o700
        assert tmp_path.stat().st_mode == above


def test_postgresql_of_another_version_is_not_touched(tmp_path: Path) -> None:
    """A cluster that the installed binaries cannot run is named, not ruined."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(LocalStackError, match="was made by PostgreSQL 9"):
        start_postgres(tmp_path)


def test_a_server_whose_record_is_lost_is_stopped(tmp_path: Path) -> None:
    """The lock that a server holds tells which processes work in its folder."""
    lost = start_redis(tmp_path)
    (tmp_path / "service.json").unlink()
    assert [one.pid for one in processes.servers_of(tmp_path)] == [lost.pid]
    Broker(tmp_path).stop()
    assert processes.servers_of(tmp_path) == []
    assert lost.status().state == "crashed"


def test_servers_inherit_no_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real key in the environment does not live on in a server's."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-real")
    with start_redis(tmp_path) as service:
        identity = processes.identity_of(service.pid or 0)
        assert identity is not None
        process = processes.find(identity)
        assert process is not None
        assert "OPENAI_API_KEY" not in process.environ()


def test_ports_are_free_different_and_out_of_the_ephemeral_range() -> None:
    """A client that keeps trying must not be able to take the port itself."""
    found = ports.free_ports(20, "127.0.0.1")
    assert len(set(found)) == 20
    assert all(port in ports.PORT_RANGE for port in found)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", found[0]))
        taken.listen()
        assert not ports.is_free(found[0], "127.0.0.1")
        assert ports.accepts(found[0], "127.0.0.1")
    assert not ports.accepts(found[1], "127.0.0.1")


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    """A damaged state file gives an error that says which file."""
    book = RecordBook(tmp_path / "local.json")
    book.save("redis", Record((1,), "secret"))
    assert book.load("redis") == Record((1,), "secret")
    (tmp_path / "local.json").write_text("{")
    with pytest.raises(LocalStackError, match=r"local\.json"):
        Broker(tmp_path / "redis", book)


def test_a_service_that_was_never_started_has_no_address(tmp_path: Path) -> None:
    """A request that comes too early gets an error that says so."""
    service = Postgres(tmp_path)
    assert (service.status().state, service.status().address) == ("stopped", "")
    with pytest.raises(LocalStackError, match="never started"):
        _ = service.url
