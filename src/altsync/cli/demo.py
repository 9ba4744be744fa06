"""``altsync demo``: the main job on the embedded stack, from JSONL lines to three stores."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from altsync.app import Application
from altsync.catalogue.current import current, parts
from altsync.cli.common import command
from altsync.cli.local import open_stack
from altsync.cli.operate import findings_table
from altsync.cli.seed_run import end, find_failed, follow, load, seed_summary
from altsync.cli.status import matrix_table
from altsync.cli.tables import Text
from altsync.cli.terminal import answers, notes
from altsync.config import read_settings
from altsync.doctor import check_services
from altsync.errors import AltsyncError
from altsync.seed.options import SeedOptions
from altsync.status.collect import collect
from altsync.status.run_progress import RunProgress
from altsync.status.sql import remote_calls

if TYPE_CHECKING:
    from altsync.local.stack import ServiceStatus

#: Seconds that relay and worker get to finish their batches and stop.
STOP_TIMEOUT = 30.0

#: Seconds until the demo gives up waiting for the stores.
WAIT_TIMEOUT = 80.0

#: Seconds without a claim until the demo names the missing process.
IDLE_HINT_AFTER = 30.0

#: Variables that would point the demo at real services.
_REAL = (
    "DATABASE_URL",
    "ALTSYNC_DIRECT_DATABASE_URL",
    "REDIS_URL",
    "ALTSYNC_BROKER_URL",
    "NEO4J_URI",
    "NEO4J_USERNAME",
    "NEO4J_PASSWORD",
    "NEO4J_DATABASE",
    "PINECONE_API_KEY",
    "PINECONE_CONTROLLER_HOST",
    "PGVECTOR_URL",
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "ALTSYNC_EMBEDDING_MODEL",
)


def demo(
    folder: Annotated[
        Path | None,
        typer.Option("--dir", help="The seed folder. Default: seeds here, else altsync's own."),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the embedded stack running at the end.")
    ] = False,
) -> None:
    """Seed the embedded stack, wait until all stores agree, and query them.

    Uses the embedded stack whatever else is configured. A second run has nothing to do. Servers
    that ran before stay up.
    """
    with command() as settings, ExitStack() as cleanup:
        folder = folder or _default_seeds()
        if not folder.is_dir():
            raise AltsyncError(f"there is no seed folder {folder}: name one with --dir")
        app = cleanup.enter_context(_on_embedded_stack(settings.altsync_home, keep=keep))
        app.migrate()
        _check(app.set_up_sinks())
        answers.rule("Connected")
        answers.print(findings_table(check_services(app)))
        answers.rule("Seeding")
        before = _remote_calls(app)
        cleanup.enter_context(_processes(app.settings.sink_names))
        conn = cleanup.enter_context(app.connect("altsync-demo"))
        report = load(app, conn, SeedOptions(folder, parts()))
        progress: dict[str, RunProgress] = {}
        arrived = follow(app, conn, progress, WAIT_TIMEOUT, IDLE_HINT_AFTER)
        answers.print(seed_summary(report, progress, app.topology.names))
        _show_stores(app, _remote_calls(app) - before)
        raise typer.Exit(end(report, find_failed(app, conn, progress), arrived=arrived))


def _default_seeds() -> Path:
    """Return ``seeds`` in the working folder, or the seeds that are installed with altsync."""
    here, package = Path("seeds"), Path(__file__).resolve().parents[1]
    checkout = package.parents[1] / "seeds"
    return next((one for one in (here, package / "seeds", checkout) if one.is_dir()), here)


def _check(problems: dict[str, str | None]) -> None:
    for sink, problem in problems.items():
        if problem is not None:
            raise AltsyncError(f"{sink}: {problem}")


@contextmanager
def _on_embedded_stack(home: Path, *, keep: bool) -> Iterator[Application]:
    """Open an application on the embedded stack. At the end, stop the servers it started."""
    stack = open_stack(home)
    answers.rule("Starting the embedded stack")
    running = {s.name for s in stack.status() if s.state == "running"}
    started: list[str] = []
    try:
        services = stack.up(_print_service)
        started += [s.name for s in services if s.name not in running]
        for name in _REAL:
            os.environ.pop(name, None)
        # The relay and the worker inherit these, and so use the same stores.
        os.environ.update(stack.env())
        app = Application(read_settings(dotenv=None))
        try:
            yield app
        finally:
            app.close()
    finally:
        if started and not keep:
            notes.print("Stopping the embedded stack…")
            stack.down(started)


def _print_service(service: ServiceStatus) -> None:
    notes.print(Text("  ").append("up", "green").append(f" {service.name:<11} {service.flavour}"))


@contextmanager
def _processes(sinks: Sequence[str]) -> Iterator[None]:
    """Run the relay, and one worker for all queues, as processes."""
    environment = {**os.environ, "ALTSYNC_LOG_FORMAT": "json"}
    logs = Path(environment.get("ALTSYNC_HOME", ".altsync")) / "demo"
    logs.mkdir(parents=True, exist_ok=True)
    commands = {
        "relay": [sys.executable, "-m", "altsync", "relay"],
        "worker": [
            *(sys.executable, "-m", "celery", "-A", "altsync.workers.app", "worker"),
            *("-Q", ",".join(sinks), "--pool", "threads", "--concurrency", "4"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat", "-n", "demo@%h"),
        ],
    }
    running: list[subprocess.Popen[bytes]] = []
    try:
        for name, arguments in commands.items():
            with (logs / f"{name}.log").open("wb") as log:
                running.append(
                    subprocess.Popen(  # noqa: S603  (our own commands)
                        arguments,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env=environment,
                        start_new_session=True,
                    )
                )
        yield
    finally:
        _end(running)


def _end(running: list[subprocess.Popen[bytes]]) -> None:
    for process in running:
        process.terminate()
    deadline = time.monotonic() + STOP_TIMEOUT
    for process in running:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _remote_calls(app: Application) -> int:
    with app.database.autocommit() as conn:
        return remote_calls(conn)


def _show_stores(app: Application, calls: int) -> None:
    with app.database.autocommit() as conn:
        answers.print(matrix_table(collect(conn, app.topology, {})))
    answers.print(f"Remote calls to the sinks in this run: {calls}")
    _show_questions(app)


def _show_questions(app: Application) -> None:
    """Print the answers to the catalogue's example questions."""
    named = current().questions
    if named is None:
        return
    module, _, name = named.partition(":")
    found = import_module(module)
    answers.rule(getattr(found, "TITLE", "Questions"))
    for table in getattr(found, name)(app):
        answers.print(table)
