"""State of one seeding run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from altsync.contract import Topology
from altsync.costs.planner import Planner
from altsync.db import Conn
from altsync.entities import EntityType
from altsync.erased import Erased
from altsync.log import debugging
from altsync.seed.options import SeedOptions
from altsync.seed.report import SeedReport


@dataclass(slots=True)
class Run:
    """A seeding run on one session.

    ``at`` is called with the name of each step, so that tests can stop the process there.
    ``pruned`` are the types that ``--prune`` will delete from. ``renamed`` are the former keys
    of entities that a dry run would rename. ``planner`` gets the changes of a dry run.
    """

    conn: Conn
    topology: Topology
    options: SeedOptions
    report: SeedReport
    at: Callable[[str], None]
    erased: Erased
    pruned: set[EntityType] = field(default_factory=set)
    renamed: set[tuple[EntityType, str]] = field(default_factory=set)
    planner: Planner | None = None

    @property
    def notes_changes(self) -> bool:
        """Return whether the run reads ``changed_in_run`` later."""
        return self.options.followed or debugging()
