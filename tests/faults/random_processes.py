"""Real processes over a real PostgreSQL, killed at random: every sink equals it at rest.

``python -m tests.faults.random_processes --seconds 60 --seed 7 [--ablate NAME]``
"""

from __future__ import annotations

import argparse
import json
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from altsync import db, schema
from altsync.circuit.sinks import register_sinks
from altsync.contract import EMBEDDING
from altsync.local.services.postgres import start_postgres
from tests.faults import ablations, oracle
from tests.faults.audit_log import speed_up, watch_versions
from tests.faults.drain import drain
from tests.faults.history import history
from tests.faults.process_pool import ProcessPool
from tests.faults.roles import Phase
from tests.faults.sandbox import DIMENSIONS, MODEL, TOPOLOGY, Sandbox
from tests.faults.violations import Problem, Violation, kinds, summary
from tests.faults.workload import Workload

#: Seconds of trouble before everything must come to rest. Short: faults are repaired by
#: the next change of the same entity, so it is seen in the last seconds only.
PHASE = 3.0

#: Seconds between two looks at what must hold at any time.
CHECK_EVERY = 0.5

#: Entities whose whole history is told when something is wrong with them.
HISTORIES = 2

#: Lines of a server's log that tell of one deadlock: both statements and where they were.
DEADLOCK_LINES = 40

#: The least that a second of trouble must bring, or the run proves nothing: a third of what the
#: slowest machine tried has brought.
LEAST_OPERATIONS, LEAST_KILLS = 10.0, 0.5

#: Seconds of trouble that must bring even what is rare.
LONG = 60.0


@dataclass(slots=True)
class Report:
    """The figures of a run, and its violations."""

    seed: int
    ablated: str | None = None
    seconds: float = 0.0
    fault_seconds: float = 0.0
    checks: int = 0
    invariant_checks: int = 0
    kills: int = 0
    crashes: int = 0
    operations: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    confirming_writes: int = 0
    calls: dict[str, dict[str, int]] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    texts: int = 0
    charged_again: int = 0
    violations: list[Violation] = field(default_factory=list)
    histories: list[str] = field(default_factory=list)

    @property
    def found(self) -> set[Problem]:
        """The kinds of what was wrong."""
        return kinds(self.violations)

    def as_json(self) -> dict[str, Any]:
        """Everything, for scripts."""
        return {
            **asdict(self),
            "violations": [[v.what.value, v.where] for v in self.violations],
        }

    def __str__(self) -> str:
        figures = {k: v for k, v in asdict(self).items() if k not in ("violations", "histories")}
        lines = [f"{name:16} {value}" for name, value in figures.items()]
        result = summary(self.violations) or "nothing wrong"
        return "\n".join([*lines, result, *self.histories])


def run(
    url: str,
    folder: Path,
    *,
    seed: int,
    seconds: float,
    ablate: str | None,
    until: Problem | None = None,
) -> Report:
    """Trouble and rest in turns for about ``seconds``, on a migrated database of its own.

    It ends sooner, at rest, when ``until`` was found.
    """
    with ablations.without(ablate) as ablation:
        with psycopg.connect(url) as conn:
            for statement in ablation.statements:
                conn.execute(statement)
        sandbox = Sandbox(url, folder, ablation.rules_off)
        return _Run(sandbox, Workload(seed), Report(seed, ablate)).go(seconds, until)


class _Run:
    def __init__(self, sandbox: Sandbox, workload: Workload, report: Report) -> None:
        self._sandbox = sandbox
        self._report = report
        self._workload = workload
        self._pool = ProcessPool(sandbox, workload)
        self._next_check = 0.0

    def go(self, seconds: float, until: Problem | None) -> Report:
        began = time.monotonic()
        self._set_up()
        number = 0
        while time.monotonic() - began < seconds and not self._has_found(until):
            self._phase(number)
            number += 1
        self._report.violations += oracle.over_all(self._sandbox)
        self._count()
        self._report.seconds = round(time.monotonic() - began, 1)
        self._report.violations += vacuous(self._report)
        return self._report

    def _set_up(self) -> None:
        self._sandbox.audit_log.follow_log()
        with psycopg.connect(self._sandbox.url, autocommit=True) as conn:
            watch_versions(conn)
            speed_up(conn, deadlock_timeout="200ms")
        with db.connect(self._sandbox.url) as conn:
            seeder = self._sandbox.seeder("first", conn)
            for action in self._workload.everything():
                seeder.do(action)

    def _has_found(self, what: Problem | None) -> bool:
        if what is None:
            return False
        return what in self._report.found | kinds(oracle.over_all(self._sandbox))

    def _phase(self, number: int) -> None:
        self._pool.play(Phase(number, time.time(), PHASE), self._check_invariants)
        self._report.fault_seconds += PHASE
        rest = drain(self._sandbox)
        if rest.live:
            self._add_problem(Problem.LIVE, f"{rest.live} after {rest.seconds:.0f} s of draining")
        if rest.calls_again:
            self._add_problem(Problem.CALLS_AT_REST, f"{rest.calls_again} in a second drain")
        found = oracle.at_rest(self._sandbox)
        keys = dict.fromkeys(violation.key for violation in found if violation.key)
        if not self._report.histories:
            self._report.histories += [
                history(self._sandbox, key) for key in list(keys)[:HISTORIES]
            ]
        self._report.violations += found
        self._report.checks += 1

    def _check_invariants(self) -> None:
        if time.monotonic() >= self._next_check:
            self._report.violations += oracle.at_any_time(self._sandbox)
            self._report.invariant_checks += 1
            self._next_check = time.monotonic() + CHECK_EVERY

    def _add_problem(self, what: Problem, where: str) -> None:
        self._report.violations.append(Violation(what, where))

    def _count(self) -> None:
        report = self._report
        report.kills, report.crashes = self._pool.kills, self._pool.crashes
        for code, count in self._pool.unexpected.items():
            self._add_problem(Problem.ERROR, f"{count} processes ended by themselves with {code}")
        with psycopg.connect(self._sandbox.url) as conn:
            report.outcomes = dict(
                conn.execute("SELECT status, count(*) FROM sync_operation GROUP BY 1").fetchall()
            )
            row = conn.execute(
                "SELECT count(*) FROM sync_operation WHERE origin = 'confirm'"
            ).fetchone()
        report.operations = sum(report.outcomes.values())
        report.confirming_writes = row[0] if row else 0
        report.events = dict(self._sandbox.audit_log.counts())
        for name in TOPOLOGY.names:
            server = self._sandbox.server(name)
            report.calls[name] = server.faults()
            if name == EMBEDDING:
                charges = Counter(charge.text_hash for charge in server.charges())
                report.texts = len(charges)
                report.charged_again = charges.total() - len(charges)
            server.close()


def vacuous(report: Report) -> list[Violation]:
    """Return the planned faults that did not happen: then the run proves nothing."""
    seconds = report.fault_seconds
    floors = {
        "operations": (report.operations, LEAST_OPERATIONS * seconds),
        "kills": (report.kills + report.crashes, LEAST_KILLS * seconds),
        "confirming writes": (report.confirming_writes, 1),
        "texts paid": (report.texts, seconds),
        "leases lost": (report.events.get("operations.lease_lost", 0), seconds >= LONG),
        "checks at rest": (report.checks, 1),
    }
    return [
        Violation(Problem.VACUOUS, f"{reached} {name}, at least {floor:g} were planned")
        for name, (reached, floor) in floors.items()
        if reached < floor
    ]


def deadlocks_in(log: str) -> str:
    """Return the entries of a server's log about sessions that met."""
    lines = log.splitlines()
    starts = [place for place, line in enumerate(lines) if "deadlock detected" in line]
    return "\n".join("\n".join(lines[place : place + DEADLOCK_LINES]) for place in starts)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 when something was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.random_processes")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time")
    parser.add_argument("--ablate", choices=sorted(ablations.ABLATIONS), default=None)
    parser.add_argument("--until", type=Problem, default=None, help="end when this is found")
    parser.add_argument("--json", type=Path, default=None, help="also write the report here")
    parser.add_argument("--database-url", default=None, help="a migrated, empty database")
    options = parser.parse_args(arguments)
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the server is stopped
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="altsync-faults-")))
        url, server = options.database_url, None
        if url is None:
            server = start_postgres(folder / "postgres")
            stack.callback(server.stop)
            url = server.url
            schema.migrate(url)
            with psycopg.connect(url) as conn:
                register_sinks(conn, TOPOLOGY, MODEL, DIMENSIONS)
        report = run(
            url,
            folder,
            seed=seed,
            seconds=options.seconds,
            ablate=options.ablate,
            until=options.until,
        )
        if Problem.DEADLOCK in report.found and server is not None:
            print(deadlocks_in(server.log.read_text(errors="replace")), flush=True)
    print(report, flush=True)
    if options.json:
        options.json.write_text(json.dumps(report.as_json()))
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
