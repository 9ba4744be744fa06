"""Type the commands of README, tutorial and how-tos, and compare the output that they show."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from tests.acceptance.stack import Running, Stack
from tests.docs_blocks.blocks import ROOT, Block, blocks_of, commands_of
from tests.docs_blocks.front import write_clients
from tests.docs_blocks.loosely import first_missing
from tests.docs_blocks.shell import Shell

pytestmark = pytest.mark.slow

#: As for users, but retries and breakers are quick: pages show how faults are repaired.
SETTINGS = {
    "ALTSYNC_SIMILARITY": "true",
    "ALTSYNC_BACKOFF_SECONDS": "0.05",
}

#: Width of the tables on all pages.
COLUMNS = "110"

HOWTO = ROOT / "docs" / "howto"

#: Pages for a reader who has loaded the seeds of the repository, in an order that fits:
#: those that only look come first.
ON_REAL_SEEDS = [
    ROOT / "README.md",
    HOWTO / "queries.md",
    ROOT / "docs" / "reference" / "python.md",
    ROOT / "docs" / "architecture.md",
    HOWTO / "monitor.md",
    HOWTO / "plan-costs.md",
    HOWTO / "operate.md",
    HOWTO / "recover.md",
    HOWTO / "rotate-keys.md",
    HOWTO / "configure-sinks.md",
    HOWTO / "production.md",
    HOWTO / "freshness.md",
    HOWTO / "read-your-writes.md",
    HOWTO / "write-from-code.md",
    HOWTO / "seeds-of-your-own.md",
    HOWTO / "pgvector.md",
]


class Reader:
    """A reader in a checkout of their own, who types what a page shows."""

    def __init__(self, stack: Stack, scratch: Path, front: Path) -> None:
        self._stack = stack
        self._scratch = scratch
        self.checkout = scratch / "checkout"
        for folder in ("seeds", "workers"):
            shutil.copytree(ROOT / folder, self.checkout / folder)
        shutil.copy(ROOT / ".env.example", self.checkout)
        (self.checkout / ".altsync").symlink_to(stack.folders.home)
        programs = self.checkout / ".venv" / "bin"
        write_clients(programs, front)
        (programs / "activate").write_text(f"export PATH={programs}:$PATH\n")
        (scratch / "tmp").mkdir()
        (scratch / "tmp" / "altsync-tutorial").symlink_to(stack.folders.home)

    @property
    def env(self) -> dict[str, str]:
        """A terminal's, in which the programs are found."""
        env = {**self._stack.bare_env, **SETTINGS, "COLUMNS": COLUMNS, "NO_COLOR": "1"}
        env["PATH"] = f"{self.checkout / '.venv' / 'bin'}:{env['PATH']}"
        env["BLOCK"] = str(self._scratch / "block.py")
        del env["ALTSYNC_HOME"]
        return env

    def read(self, page: Path) -> list[str]:
        """Type every command of a page in one terminal; what did not come out as shown."""
        shell = Shell(self.env, self.checkout, self._scratch)
        try:
            return [wrong for wrong in self._problems(shell, blocks_of(page)) if wrong]
        finally:
            shell.close()

    def _problems(self, shell: Shell, blocks: Sequence[Block]) -> Iterator[str | None]:
        for block, after in pairwise([*blocks, None]):
            assert block is not None
            if block.not_run is not None:
                continue
            match block.language:
                case "sh" | "console":
                    shown = after if after and after.follows and after.language == "text" else None
                    yield from (self._typed(shell, block, shown))
                case "python":
                    (self._scratch / "block.py").write_text(block.body)
                    said = shell.run('python "$BLOCK"')
                    yield f"{block.place}\n{said.output}" if said.code else None
                case "sql":
                    self._ask_postgres(block)
                case "cypher":
                    self._ask_graph(block)

    def _typed(self, shell: Shell, block: Block, shown: Block | None) -> Iterator[str]:
        for command in commands_of(block, shown):
            said = shell.run(command.code)
            missing = first_missing(command.expected, said.output)
            fails = said.code and not any("altsync: " in line for line in command.expected)
            if missing is not None or fails:
                yield (
                    f"{command.place}: $ {command.code.strip()}\n"
                    f"ended with {said.code}; missing: {missing!r}; it said:\n{said.output}"
                )

    def _ask_postgres(self, block: Block) -> None:
        """Run the statements, and undo them."""
        with self._stack.postgres.transaction(force_rollback=True):
            self._stack.postgres.execute(block.body.encode())

    def _ask_graph(self, block: Block) -> None:
        """Run the statements, and undo them."""
        with (
            self._stack.graph.session(database=self._stack.addresses["NEO4J_DATABASE"]) as session,
            session.begin_transaction() as tx,
        ):
            for statement in block.body.split(";"):
                if statement.strip():
                    tx.run(statement).consume()
            tx.rollback()


@pytest.fixture(scope="module")
def front() -> Iterator[Path]:
    """The address of a process that runs commands without their time to import."""
    folder = Path(tempfile.mkdtemp(prefix="altsync-docs-"))  # short, as a socket's address is
    address = folder / "front"
    env = {"COLUMNS": COLUMNS, "NO_COLOR": "1", "LC_ALL": "C.UTF-8", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.docs_blocks.front", str(address)]
    process = Running("front", command, env, folder, folder / "log")
    yield address
    process.kill()
    shutil.rmtree(folder)


@pytest.fixture
def reader(stack: Stack, front: Path) -> Iterator[Reader]:
    """A reader on empty stores, with a relay and a worker that run."""
    stack.start_relay(SETTINGS)
    stack.start_worker(size=3, settings=SETTINGS)
    stack.until(front.exists, "a front for commands")
    with tempfile.TemporaryDirectory(prefix="altsync-docs-") as scratch:  # short, as above
        yield Reader(stack, Path(scratch), front)


def test_the_tutorial(reader: Reader) -> None:
    """From an empty folder to the end, every command prints what the page shows."""
    assert "\n\n".join(reader.read(ROOT / "docs" / "tutorial.md")) == ""


def test_pages_on_the_seeds_of_the_repository(stack: Stack, reader: Reader) -> None:
    """Every command of README and how-tos that can run here works, and prints what is shown."""
    env = {**stack.env, **SETTINGS}
    stack.seed("--all", "--dir", str(reader.checkout / "seeds"), "--wait", env=env)
    problems = [problem for page in ON_REAL_SEEDS if page.exists() for problem in reader.read(page)]

    assert "\n\n".join(problems) == ""


def test_every_page_with_commands_is_read() -> None:
    """No page can show a command that no test runs."""
    # Classes of catalogues are made by tests/unit/test_docs_catalogue.py.
    # tests/contract/test_documented_sink.py installs the package of add-a-sink.md.
    declared = {
        HOWTO / name for name in ("add-a-field.md", "add-an-entity-type.md", "add-a-sink.md")
    }
    read = {ROOT / "docs" / "tutorial.md", *ON_REAL_SEEDS, *declared}
    unread = {
        block.place
        for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
        for block in blocks_of(page)
        if page not in read
        and block.language in {"sh", "console", "python", "sql", "cypher"}
        and block.not_run is None
    }

    assert unread == set()
