"""Profile the time of a row: PostgreSQL's by statement, the client's by function.

``make bench-profile``. The server's is by the clock, so it means something only where nothing
else is at work; the client's is what its thread computed, in functions and what they call in C.
"""

from __future__ import annotations

import cProfile
import pstats
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path

import psycopg
from rich.console import Console
from rich.table import Table

from altsync import log
from altsync.db import Database
from altsync.delivery import Delivery, Policy
from benchmarks import sinks
from benchmarks.bench import TOPOLOGY, Bench
from benchmarks.loading import seed, seeding, write_leagues
from benchmarks.machine import this_machine
from tests.acceptance.stack import SINKS

ROWS = 20_000

#: Statements and functions that are shown: those that take the most.
SHOWN = 12

#: Characters by which a statement is known, and of the whole table.
NAME, WIDTH = 100, 140

#: The begin of an entry of the server's log. Its text may have many lines.
_ENTRY = re.compile(r"^\d{4}-\d\d-\d\d .*? (?:LOG|DETAIL):  ", re.MULTILINE)

#: One step of a statement, and the statement.
_STEP = re.compile(r"duration: ([0-9.]+) ms (?:statement|(?:parse|bind|execute) [^:]*): (.*)")


@dataclass(frozen=True, slots=True)
class Profile:
    """The microseconds of one row: the server's statements, the client's functions.

    ``process`` is what all threads of the client computed, profiling included.
    """

    what: str
    statements: Mapping[str, float]
    functions: Mapping[str, float]
    process: float


def main() -> None:
    """Print one table for seeding, and one for the delivery to each sink."""
    log.set_up(level="WARNING", form="json")
    answers = Console(highlight=False, width=WIDTH)
    with tempfile.TemporaryDirectory(prefix="altsync-profile-") as folder:
        Path(folder).chmod(0o755)  # PostgreSQL may run as another account
        with Bench(Path(folder)) as bench:
            for profile in _profiles(bench):
                answers.print(_table(profile))
            answers.print(str(this_machine(bench.postgres.flavour)))


def _profiles(bench: Bench) -> Iterator[Profile]:
    folder = bench.folder / "leagues"
    write_leagues(folder, ROWS)
    with bench.database() as url:
        yield _profiled(bench, url, f"seeding {ROWS:,} leagues", partial(_seed, url, folder))
        for sink in SINKS:
            what = f"delivering {ROWS:,} leagues to {sink}, which keeps nothing"
            yield _profiled(bench, url, what, partial(_deliver, url, sink))


def _seed(url: str, folder: Path) -> None:
    with seeding(url) as conn:
        seed(conn, folder)


def _deliver(url: str, sink: str) -> None:
    database = Database(url)
    opened = sinks.open_sink(sink, database)
    Delivery(database, opened, TOPOLOGY, Policy(), worker="profile").drain(float("inf"))
    database.close()


def _profiled(bench: Bench, url: str, what: str, work: Callable[[], None]) -> Profile:
    """The server logs what each statement took; Python counts for itself."""
    profiler = cProfile.Profile(time.thread_time)
    with bench.doing(what), _logged(bench, url) as statements:
        before = time.process_time()
        profiler.runcall(work)
        process = (time.process_time() - before) * 1e6 / ROWS
    return Profile(what, statements, _functions(profiler), process)


@contextmanager
def _logged(bench: Bench, url: str) -> Iterator[dict[str, float]]:
    """Microseconds a row of each statement that sessions begun in the block have sent."""
    name = url.rsplit("/", 1)[1]
    file = bench.postgres.log
    begin = file.stat().st_size
    statements: dict[str, float] = {}
    with psycopg.connect(bench.postgres.superuser_url, autocommit=True) as conn:
        for setting in ("log_min_duration_statement", "log_parameter_max_length"):
            conn.execute(f"ALTER DATABASE {name} SET {setting} = 0")
        yield statements
        conn.execute(f"ALTER DATABASE {name} RESET ALL")
    with file.open(encoding="utf-8", errors="replace") as lines:
        lines.seek(begin)
        statements.update(_read(lines.read()))


def _read(entries: str) -> Mapping[str, float]:
    microseconds: defaultdict[str, float] = defaultdict(float)
    for entry in _ENTRY.split(entries):
        if step := _STEP.match(" ".join(entry.split())):
            microseconds[step[2][:NAME]] += float(step[1]) * 1000 / ROWS
    return microseconds


def _functions(profiler: cProfile.Profile) -> Mapping[str, float]:
    """Microseconds a row inside each function, without the functions that it calls."""
    functions: defaultdict[str, float] = defaultdict(float)
    for (file, line, name), entry in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        where = f"{Path(file).name}:{line} {name}" if line else name
        functions[where] += entry[2] * 1e6 / ROWS
    return functions


def _table(profile: Profile) -> Table:
    table = Table(
        "µs a row", "PostgreSQL", "µs a row", "client", title=profile.what, title_justify="left"
    )
    most = zip(_most(profile.statements), _most(profile.functions), strict=False)
    for (statement, server), (function, client) in most:
        table.add_row(f"{server:.1f}", statement, f"{client:.1f}", function)
    server, client = sum(profile.statements.values()), sum(profile.functions.values())
    threads = f"this thread; all threads {profile.process:.0f}"
    table.add_row(f"{server:.0f}", "all", f"{client:.0f}", threads)
    return table


def _most(parts: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(parts.items(), key=itemgetter(1), reverse=True)[:SHOWN]


if __name__ == "__main__":
    main()
