"""The Celery app. Messages are wake-ups: they name a sink and carry no work."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from typing import Any

from celery import Celery, signals
from kombu.entity import Queue
from kombu.exceptions import ChannelError
from kombu.transport.virtual import Channel

from altsync import declarations, log
from altsync.addresses import is_loopback
from altsync.config import Settings, read_settings
from altsync.contract import SIMILARITY
from altsync.errors import AltsyncError, ConfigurationError
from altsync.logins import generated_login
from altsync.sentences import describe
from altsync.wording import one_line, unknown

#: Name of the only task. Its message is a wake-up.
TASK = "altsync.sync_batch"

#: Seconds that a warm or soft shutdown waits for batches in progress.
GRACE = 25.0

#: Pooled connections to the broker in each process.
POOL = 4

#: Seconds that an unreachable broker may delay the relay.
BROKER_TIMEOUT = 5.0


def create(settings: Settings) -> Celery:
    """Return the Celery app for these settings."""
    # A closed channel puts no wake-up back into its queue: the relay sends more.
    Channel.do_restore = False
    app = Celery("altsync", broker=settings.broker_url, include=["altsync.workers.tasks"])
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        result_accept_content=["json"],
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_default_queue=queue_name("embedding", settings.altsync_prefix),
        task_queues=[_queue(name, settings.altsync_prefix) for name in settings.sink_names],
        # Remote control and events use an exchange, which two installations would share.
        control_exchange=queue_name("celery", settings.altsync_prefix),
        event_exchange=queue_name("celeryev", settings.altsync_prefix),
        task_create_missing_queues=False,
        worker_prefetch_multiplier=1,
        worker_soft_shutdown_timeout=GRACE,
        worker_enable_soft_shutdown_on_idle=False,
        worker_send_task_events=True,
        task_send_sent_event=True,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=transport_options(settings),
        broker_pool_limit=POOL,
        # A wake-up that is lost with its process is sent again: the outbox holds the work.
        task_acks_late=False,
    )
    return app


def transport_options(settings: Settings) -> dict[str, Any]:
    """Return the options of Celery's transport."""
    options: dict[str, Any] = {
        "socket_timeout": BROKER_TIMEOUT,
        "socket_connect_timeout": BROKER_TIMEOUT,
        "socket_keepalive": True,
        # No wake-up waits for an acknowledgement: on a lost connection that would end the worker
        # with an error, and the relay sends more.
        "ack_emulation": False,
    }
    if settings.broker_url.startswith("sentinel://"):
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        # Skip an unreachable Sentinel: by default it is tried ten more times.
        limits = {
            "socket_timeout": BROKER_TIMEOUT,
            "socket_connect_timeout": BROKER_TIMEOUT,
            "retry": Retry(NoBackoff(), 0),
        }
        password = settings.altsync_sentinel_password
        options["master_name"] = settings.altsync_sentinel_master
        options["sentinel_kwargs"] = limits | (
            {"password": password.get_secret_value()} if password else {}
        )
    return options


def queue_name(name: str, prefix: str) -> str:
    """Return the broker's name of a queue, with the prefix of the installation."""
    return f"{prefix}-{name}" if prefix else name


def _queue(name: str, prefix: str) -> Queue:
    """Return a queue that ``celery -Q`` selects by its sink's name, whatever the prefix."""
    own = queue_name(name, prefix)
    return Queue(own, routing_key=own, alias=name if prefix else None)


def queue_of(sink: str) -> str:
    """Return the queue of a sink's wake-ups, by the sinks of this process' settings."""
    return declarations.queue_of(sink, _settings.sink_names)


def waiting(app: Celery, queue: str) -> int:
    """Count the wake-ups in a queue."""
    with app.pool.acquire(block=True) as connection:
        connection.ensure_connection(max_retries=1, timeout=BROKER_TIMEOUT)
        with connection.channel() as channel:
            try:
                return int(channel.queue_declare(queue=queue, passive=True).message_count)
            except ChannelError:
                return 0  # the queue is created with its first message


def message(sink: str) -> dict[str, Any]:
    """Return the arguments that send a wake-up. Monitors show it under its sink's name."""
    return {
        "args": [sink],
        "queue": queue_of(sink),
        "shadow": f"{TASK}.{sink}",
        "retry": False,
        "ignore_result": True,
    }


def waker(app: Celery, limit: int) -> Any:
    """Return a ``wake(sink)`` that sends nothing while ``limit`` messages wait in the queue."""

    def wake(sink: str) -> None:
        if waiting(app, app.amqp.queues[queue_of(sink)].name) < limit:
            app.send_task(TASK, **message(sink))

    return wake


def set_flower_defaults(settings: Settings) -> None:
    """Set Flower's FLOWER_* variables: loopback and a password by default.

    Raises ``ConfigurationError`` for an address beyond loopback without a chosen password.
    """
    os.environ.setdefault("FLOWER_ADDRESS", settings.flower_address)
    os.environ.setdefault("FLOWER_PORT", str(free_port(settings.flower_port)))
    if settings.flower_basic_auth is not None:
        os.environ.setdefault("FLOWER_BASIC_AUTH", settings.flower_basic_auth.get_secret_value())
    if os.environ.get("FLOWER_BASIC_AUTH"):
        return
    if not is_loopback(flower_address()):
        raise ConfigurationError(
            "Flower would be reached from other machines: set FLOWER_BASIC_AUTH=user:password"
        )
    os.environ["FLOWER_BASIC_AUTH"] = generated_login(settings.altsync_home / "flower.auth")


def free_port(wanted: int) -> int:
    """Return ``wanted``, or a free port if another program has it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def flower_address() -> str:
    """Return the address that Flower will listen on: its option, or its variable."""
    for index, argument in enumerate(sys.argv):
        if argument.startswith("--address="):
            return argument.partition("=")[2]
        if argument == "--address":
            return "".join(sys.argv[index + 1 : index + 2])
    return os.environ["FLOWER_ADDRESS"]


@signals.celeryd_init.connect
def _refuse_unknown_queues(options: Mapping[str, Any] | None = None, **_: Any) -> None:
    """Exit with one line if a worker is started with unknown queues.

    Celery would end it with a traceback, and the advice to create the queue.
    """
    queues = (options or {}).get("queues") or []
    names = [n.strip() for n in (queues.split(",") if isinstance(queues, str) else queues)]
    known = _settings.sink_names
    for name in names:
        if name in known:
            continue
        text = unknown("queue", name, known)
        if name == SIMILARITY:
            text += f"; did you mean {queue_of(SIMILARITY)!r}?"
        sys.stderr.write(f"altsync: {one_line(text)}\n")
        raise SystemExit(2)


@signals.setup_logging.connect
def _set_up_logging(**_: Any) -> None:
    log.set_up(level=_settings.altsync_log_level, form=_settings.altsync_log_format)


def settings_or_exit() -> Settings:
    """Return the settings, or exit with one line where Celery would show a traceback."""
    try:
        settings = read_settings()
        _ = settings.broker_url
        if "flower" in sys.argv:
            set_flower_defaults(settings)
        return settings
    except (AltsyncError, OSError) as error:
        failure = describe(error)
        sys.stderr.write(f"altsync: {failure.text}\n")
        raise SystemExit(int(failure.exit)) from None


_settings = settings_or_exit()
app = create(_settings)
if "flower" in sys.argv:
    # Flower sends eight requests at the same time, each with two connections. With a pool they
    # would deadlock, and its pages stay empty.
    app.conf.broker_pool_limit = 0
