"""The Celery rooms: wake-ups in JSON and nothing else; Flower behind a password on loopback."""

from __future__ import annotations

import importlib
import inspect
import os
import pickle
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from celery import Celery, signals
from celery.backends.base import DisabledBackend
from kombu.exceptions import ContentDisallowed
from kombu.transport import redis, virtual

from altsync import logins
from altsync.app import Application
from altsync.config import read_settings
from altsync.declarations import SINKS
from altsync.errors import ConfigurationError, SchemaError
from tests.contract import memory


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    """The module of the app, which reads its settings when it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", "memory://")
    # Recorded here, so that what the module sets is taken back.
    for name in ("FLOWER_ADDRESS", "FLOWER_PORT", "FLOWER_BASIC_AUTH"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield importlib.import_module("altsync.workers.app")
    for name in ("FLOWER_ADDRESS", "FLOWER_PORT", "FLOWER_BASIC_AUTH"):
        os.environ.pop(name, None)


@pytest.fixture
def app(workers: ModuleType) -> Iterator[Celery]:
    """An app of the test's own, on a broker in memory."""
    created: Celery = workers.create(read_settings(redis_url="memory://"))
    yield created
    with created.connection_for_write() as connection, connection.channel() as channel:
        for name in ("embedding", "neo4j", "pinecone"):
            channel.queue_delete(name)


def test_messages_are_json_and_results_are_not_kept(app: Celery) -> None:
    """The outbox is the truth: a result backend would only cost."""
    assert app.conf.task_serializer == "json"
    assert list(app.conf.accept_content) == ["json"]
    assert list(app.conf.result_accept_content) == ["json"]
    assert app.conf.task_ignore_result is True
    assert app.conf.result_backend is None
    assert isinstance(app.backend, DisabledBackend)


def test_no_message_is_kept_for_a_connection_that_is_lost(app: Celery) -> None:
    """To acknowledge it, or to put it back, kombu would need the broker that is away."""
    assert app.conf.broker_transport_options["ack_emulation"] is False
    assert "ack_emulation" in redis.Channel.from_transport_options
    asked = inspect.getsource(virtual.QoS.restore_unacked_once)
    assert "self.channel.do_restore" in asked
    channels = (virtual.Channel, redis.Channel, redis.SentinelChannel)
    assert not any(channel.do_restore for channel in channels)


def test_every_sink_has_a_queue_of_its_own(
    workers: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead sink never holds up another; an unknown queue is not made by a misspelling."""
    monkeypatch.setitem(SINKS, "memory", memory.SINK)
    app = workers.create(read_settings(redis_url="memory://", altsync_sinks="neo4j,memory"))
    assert [queue.name for queue in app.conf.task_queues] == ["neo4j", "memory"]
    assert app.conf.task_create_missing_queues is False


def test_queues_behind_a_prefix_are_found_by_their_sinks(workers: ModuleType) -> None:
    """Two installations on one broker share no queue and no exchange; ``-Q neo4j`` goes on."""
    plain = workers.create(read_settings(redis_url="memory://"))
    app = workers.create(read_settings(redis_url="memory://", altsync_prefix="staging"))
    names = {queue.name for queue in app.conf.task_queues}
    assert names == {"staging-embedding", "staging-neo4j", "staging-pinecone"}
    assert {queue.name for queue in plain.conf.task_queues} == {"embedding", "neo4j", "pinecone"}
    for setting in ("task_default_queue", "control_exchange", "event_exchange"):
        assert app.conf[setting] == f"staging-{plain.conf[setting]}"
    app.amqp.queues.select(["neo4j"])
    assert set(app.amqp.queues.consume_from) == {"staging-neo4j"}
    workers.waker(app, 2)("similarity")
    assert workers.waiting(app, "staging-pinecone") == 1
    assert workers.waiting(plain, "pinecone") == 0


def test_a_dead_broker_blocks_no_caller_for_long(app: Celery) -> None:
    """Socket timeouts are set, and a worker waits for its broker at the start."""
    options = app.conf.broker_transport_options
    assert 0 < options["socket_timeout"] <= 10
    assert 0 < options["socket_connect_timeout"] <= 10
    assert app.conf.broker_connection_retry_on_startup is True
    assert app.conf.broker_connection_max_retries is None


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


def _consume(app: Celery) -> tuple[list[Any], list[Exception]]:
    """Everything in the neo4j queue as a worker takes it: bodies, and what was refused."""
    taken: list[Any] = []
    refused: list[Exception] = []

    def refuse(message: Any, error: Exception) -> None:
        refused.append(error)
        message.ack()

    with app.connection_for_read() as connection, connection.channel() as channel:
        queue = next(queue for queue in app.conf.task_queues if queue.name == "neo4j")
        consumer = app.amqp.TaskConsumer(
            channel,
            queues=[queue],
            callbacks=[lambda body, _message: taken.append(body)],
            on_decode_error=refuse,
            no_ack=False,
        )
        with consumer:
            while channel.queue_declare(queue="neo4j", passive=True).message_count:
                connection.drain_events(timeout=5)
    return taken, refused


@pytest.mark.parametrize(
    ("content_type", "encoding"),
    [
        ("application/x-python-serialize", "binary"),
        ("application/x-yaml", "utf-8"),
        ("application/x-msgpack", "binary"),
    ],
)
def test_a_pickle_in_the_queue_is_refused_and_not_run(
    app: Celery, tmp_path: Path, content_type: str, encoding: str
) -> None:
    """A client of the broker cannot control the worker; wake-ups behind its message are taken."""
    ran = tmp_path / "ran"
    body = pickle.dumps(Trap(ran))
    with app.connection_for_write() as connection, connection.Producer() as producer:
        queue = next(queue for queue in app.conf.task_queues if queue.name == "neo4j")
        producer.publish(
            body,
            routing_key="neo4j",
            declare=[queue],
            content_type=content_type,
            content_encoding=encoding,
        )
    app.send_task("altsync.sync_batch", args=["neo4j"], queue="neo4j")

    taken, refused = _consume(app)
    assert [type(error) for error in refused] == [ContentDisallowed]
    assert not ran.exists()
    assert [body[0] for body in taken] == [["neo4j"]]

    pickle.loads(body)  # noqa: S301  (the trap works, or this test would show nothing)
    assert ran.exists()


def test_wake_ups_stop_at_the_limit(workers: ModuleType, app: Celery) -> None:
    """A queue without a consumer is never flooded; each sink has its own limit."""
    assert workers.waiting(app, "neo4j") == 0
    wake = workers.waker(app, 3)
    for _ in range(10):
        wake("neo4j")
    wake("pinecone")
    assert workers.waiting(app, "neo4j") == 3
    assert workers.waiting(app, "pinecone") == 1
    taken, _ = _consume(app)
    assert [body[0] for body in taken] == [["neo4j"]] * 3


def test_wake_ups_carry_a_name_and_nothing_else(workers: ModuleType, app: Celery) -> None:
    """No id, no payload, no secret: losing or repeating one costs nothing."""
    workers.waker(app, 1)("neo4j")
    with app.connection_for_read() as connection, connection.channel() as channel:
        message = channel.basic_get("neo4j")
        assert message.content_type == "application/json"
        arguments, keywords, _embed = message.payload
        assert (arguments, keywords) == (["neo4j"], {})
        assert message.headers["task"] == "altsync.sync_batch"
        assert message.headers["shadow"] == "altsync.sync_batch.neo4j"
        message.ack()


def test_flower_is_on_loopback_with_a_password(workers: ModuleType, tmp_path: Path) -> None:
    """Nothing set: only this machine reaches it, and only with the login that was made up."""
    workers.set_flower_defaults(read_settings())
    assert os.environ["FLOWER_ADDRESS"] == "127.0.0.1"
    assert os.environ["FLOWER_PORT"] == "5555"
    user, _, password = os.environ["FLOWER_BASIC_AUTH"].partition(":")
    assert user == "altsync"
    assert len(password) >= 20
    file = tmp_path / "home" / "flower.auth"
    assert file.read_text().strip() == f"{user}:{password}"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_generated_login_stays_the_same(tmp_path: Path) -> None:
    """A restart does not lock people out, and two machines have different ones."""
    home = tmp_path / "one"
    assert logins.generated_login(home / "flower.auth") == logins.generated_login(
        home / "flower.auth"
    )
    assert logins.generated_login(home / "flower.auth") != logins.generated_login(tmp_path / "two")


def test_flowers_settings_can_be_chosen(
    workers: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond loopback with a login of one's own."""
    monkeypatch.setenv("FLOWER_ADDRESS", "0.0.0.0")  # noqa: S104
    workers.set_flower_defaults(read_settings(flower_basic_auth="me:my-own-password"))
    assert os.environ["FLOWER_ADDRESS"] == "0.0.0.0"  # noqa: S104
    assert os.environ["FLOWER_BASIC_AUTH"] == "me:my-own-password"


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "", "192.0.2.7", "flower.example.org"])  # noqa: S104
@pytest.mark.parametrize("way", ["variable", "option", "option="])
def test_beyond_loopback_a_password_must_be_chosen(
    workers: ModuleType, monkeypatch: pytest.MonkeyPatch, address: str, way: str
) -> None:
    """Wherever it is to listen and however it is told; an empty password is none."""
    match way:
        case "variable":
            monkeypatch.setenv("FLOWER_ADDRESS", address)
        case "option":
            monkeypatch.setattr(sys, "argv", ["celery", "flower", "--address", address])
        case _:
            monkeypatch.setattr(sys, "argv", ["celery", "flower", f"--address={address}"])
    monkeypatch.setenv("FLOWER_BASIC_AUTH", "")
    with pytest.raises(ConfigurationError, match="set FLOWER_BASIC_AUTH=user:password"):
        workers.set_flower_defaults(read_settings())
    assert not os.environ["FLOWER_BASIC_AUTH"]


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_every_loopback_address_is_one(workers: ModuleType, address: str) -> None:
    """Names and numbers by which only this machine is reached."""
    assert workers.is_loopback(address)


@pytest.mark.usefixtures("workers")
def test_a_worker_does_not_start_on_another_releases_schema(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Celery would log an exception of its signal, and go on."""
    importlib.import_module("altsync.workers.tasks")

    def refuse(self: Application) -> None:
        raise SchemaError("the database was migrated by altsync 9, to revision 9999")

    monkeypatch.setattr(Application, "require_schema", refuse)
    with pytest.raises(SystemExit, match="altsync: the database was migrated by altsync 9"):
        signals.worker_init.send(sender=None)
