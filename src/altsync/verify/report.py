"""The options of a comparison, and its report."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from altsync.contract import Drift
from altsync.declarations import CHARGED, GRAPHS, declaration

#: The name under which PostgreSQL's own rows are reported.
POSTGRESQL = "postgresql"

#: Number of sample keys for each kind of drift.
SAMPLES = 5


def kinds_of(sink: str) -> tuple[Drift, ...]:
    """Return the kinds of drift that a sink can have, in the order of the report."""
    return (Drift.EDITED,) if sink == POSTGRESQL else declaration(sink).drifts


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a comparison.

    ``max_delete`` is the greatest share of a sink's records that may be removed, and of compared
    entities that may be written over although the sink holds a higher version. ``grace`` is the
    time in seconds for which an index may lag behind its writes.
    """

    repair: bool = False
    dry_run: bool = False
    deep: bool = False
    sample: int | None = None
    max_delete: float = 0.05
    grace: float = 5.0

    @property
    def writes(self) -> bool:
        """Return whether repairs are written."""
        return self.repair and not self.dry_run


@dataclass(slots=True)
class Tally:
    """The counts of one sink.

    ``pending`` entities differ while an operation is live for them: no drift. ``edges`` counts
    relationships, ``enqueued`` operations, ``removed`` orphans and vectors in wrong namespaces;
    in a dry run, those that would be. ``given_up`` entities differ because their delivery or
    embedding was given up on; a repair leaves them out. ``problem`` is why the sink could not be
    compared, ``refused`` why nothing is removed or written over a higher version.
    """

    sink: str
    kinds: Counter[Drift] = field(default_factory=Counter)
    samples: dict[Drift, list[str]] = field(default_factory=lambda: defaultdict(list))
    edges: int = 0
    pending: int = 0
    enqueued: int = 0
    removed: int = 0
    requests: int = 0
    read_units: int = 0
    problem: str | None = None
    refused: str | None = None
    given_up: int = 0
    given_up_keys: list[str] = field(default_factory=list)

    def give_up(self, key: str) -> None:
        """Count an entity whose delivery was given up on."""
        self.given_up += 1
        if len(self.given_up_keys) < SAMPLES:
            self.given_up_keys.append(key)

    def note(self, kind: Drift, key: str) -> None:
        """Count an entity that differs."""
        self.kinds[kind] += 1
        if len(self.samples[kind]) < SAMPLES:
            self.samples[kind].append(key)

    @property
    def drifted(self) -> int:
        """Return the number of entities that differ."""
        return sum(self.kinds.values())

    def as_json(self) -> dict[str, int]:
        """Return the counts."""
        body = {kind.value: self.kinds[kind] for kind in kinds_of(self.sink)}
        if self.sink in GRAPHS:
            body["edges"] = self.edges
        body |= {"pending": self.pending, "enqueued": self.enqueued, "removed": self.removed}
        if self.sink in CHARGED:
            body |= {"requests": self.requests, "read_units": self.read_units}
        return body


@dataclass(frozen=True, slots=True)
class Report:
    """The result of one comparison of all sinks.

    ``entities`` counts living ones. ``skipped`` gives the reason for each sink that is switched
    off, ``not_compared`` names every sink that was not compared. ``blocked_sinks`` were compared,
    and their state stops delivery: paused, open, probing or disabled. ``not_saved_reason`` is why
    the result was not stored. ``idle`` names sinks whose due operations no worker claims, with
    the process to start. ``rows`` is the tally of PostgreSQL's own rows.
    """

    entities: int
    tallies: tuple[Tally, ...]
    options: Options
    seconds: float = 0.0
    skipped: dict[str, str] = field(default_factory=dict)
    not_compared: tuple[str, ...] = ()
    blocked_sinks: dict[str, str] = field(default_factory=dict)
    not_saved_reason: str | None = None
    rows: Tally = field(default_factory=lambda: Tally(POSTGRESQL))
    idle: dict[str, str] = field(default_factory=dict)

    @property
    def every(self) -> tuple[Tally, ...]:
        """Return the tallies of PostgreSQL's own rows and of all compared sinks."""
        return (self.rows, *self.tallies)

    @property
    def drifted(self) -> bool:
        """Return whether anything differs."""
        return any(tally.drifted for tally in self.every)

    @property
    def problems(self) -> dict[str, str]:
        """Return the reasons of sinks that could not be compared to the end."""
        return {t.sink: t.problem for t in self.tallies if t.problem is not None}

    @property
    def in_progress(self) -> dict[str, int]:
        """Return the counts of entities that differ while an operation is live, by sink."""
        return {t.sink: t.pending for t in self.tallies if t.pending}

    @property
    def stalled(self) -> bool:
        """Return whether entities differ whose operations no worker claims."""
        return bool(self.in_progress and self.idle)

    @property
    def consistent(self) -> bool:
        """Return whether a sink was compared, and every compared sink agrees."""
        complete = bool(self.tallies) and not self.problems and not self.stalled
        return complete and not self.drifted

    def as_json(self) -> dict[str, Any]:
        """Return the JSON document."""
        return {
            "consistent": self.consistent,
            "entities": self.entities,
            "sinks": {tally.sink: tally.as_json() for tally in self.every},
            "samples": {
                tally.sink: {
                    **{kind.value: keys for kind, keys in tally.samples.items() if keys},
                    **({"given_up": tally.given_up_keys} if tally.given_up else {}),
                }
                for tally in self.every
            },
            "problems": self.problems,
            "refused": {t.sink: t.refused for t in self.every if t.refused is not None},
            "skipped": self.skipped,
            "not_compared": list(self.not_compared),
            "given_up": {t.sink: t.given_up for t in self.every if t.given_up},
            "in_progress": sum(self.in_progress.values()),
            "blocked_sinks": self.blocked_sinks,
            "idle": self.idle,
            "deep": self.options.deep,
            "sample": self.options.sample,
            "dry_run": self.options.dry_run,
            "seconds": round(self.seconds, 3),
        }
