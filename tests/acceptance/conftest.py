"""One embedded stack for the whole folder; every test gets it empty."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.acceptance.stack import Finished, Folders, Running, Stack

#: Batches small enough that a few hundred rows are several; retries at once, and soon given up:
#: faults here are meant to be found, not waited out.
PROCESS_SETTINGS = {
    "ALTSYNC_BATCH_SIZE": "100",
    "ALTSYNC_BACKOFF_SECONDS": "0.05",
    "ALTSYNC_MAX_ATTEMPTS": "3",
}

#: Characters of each log that a failure shows.
LOG_TAIL = 6000


@dataclass(frozen=True)
class Beginning:
    """The results of the commands that set the stack up."""

    up: Finished
    migrate: Finished


@dataclass
class Processes:
    """A relay and a worker for all queues, which tests in a row may share."""

    stack: Stack
    running: list[Running] = field(default_factory=list)

    @property
    def relay(self) -> Running:
        """The relay."""
        return self.running[0]

    @property
    def worker(self) -> Running:
        """The worker."""
        return self.running[1]

    def start(self) -> None:
        """Start it unless it runs; it need not be ready yet."""
        if not self.running:
            worker = self.stack.start_worker(size=3, settings=PROCESS_SETTINGS)
            self.running = [self.stack.start_relay(PROCESS_SETTINGS), worker]

    def is_idle(self) -> bool:
        """Return whether all of it runs and has nothing to do, ready for the next test."""
        alive = bool(self.running) and all(process.alive for process in self.running)
        return alive and self.stack.live() == 0 and self.stack.all_recorded()


@pytest.fixture(scope="session")
def beginning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Beginning]]:
    """A stack that commands brought up and migrated, and take down at the end."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As in a shell's background job. Children would inherit it, and never see a Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    root = tmp_path_factory.mktemp("acceptance")
    folders = Folders(root / "home", root / "work", root / "logs")
    folders.work.mkdir()
    folders.logs.mkdir()
    stack = Stack(folders)
    try:
        commands = Beginning(stack.run("local", "up"), stack.run("migrate"))
        stack.remember_clean_state()
        yield stack, commands
    finally:
        stack.kill_all()
        stack.close()
        stack.run("local", "down")


@pytest.fixture(scope="session")
def session_processes(beginning: tuple[Stack, Beginning]) -> Processes:
    """The crew that tests share; it is started by the first that wants it."""
    return Processes(beginning[0])


@pytest.fixture
def stack(
    request: pytest.FixtureRequest, beginning: tuple[Stack, Beginning], session_processes: Processes
) -> Iterator[Stack]:
    """The stack with empty stores. Processes that a test leaves running are killed."""
    stack = beginning[0]
    if not ("processes" in request.fixturenames and session_processes.is_idle()):
        session_processes.running.clear()
    stack.kill_all(spared=session_processes.running)
    stack.reset()
    yield stack
    stack.vectors.clear()
    if not session_processes.is_idle():
        session_processes.running.clear()
    stack.kill_all(spared=session_processes.running)


@pytest.fixture
def processes(stack: Stack, session_processes: Processes) -> Processes:
    """A relay and a worker."""
    session_processes.start()
    return session_processes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty seed folder."""
    path = tmp_path / "seeds"
    path.mkdir()
    return path


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the logs of a failed test's processes."""
    report = yield
    stack = getattr(item, "funcargs", {}).get("stack")
    if report.when == "call" and report.failed and isinstance(stack, Stack):
        for process in stack.running:
            title = f"{process.log.name} ({'alive' if process.alive else 'ended'})"
            report.sections.append((title, process.output[-60000:]))
    return report
