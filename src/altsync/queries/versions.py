"""Tell which version each store had when a question was answered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from altsync.contract import Topology
from altsync.declarations import SINKS
from altsync.entities import EntityType
from altsync.outbox.marks import read_marks
from altsync.outbox.versions import confirmed_versions
from altsync.queries.stores import Stores

T = TypeVar("T")

#: The name of PostgreSQL among the stores.
POSTGRESQL = "postgresql"

#: Versions by store: the answer holds every change up to this one that was committed before the
#: question. None where the store did not answer, its index lagged, or too many operations wait.
Versions = Mapping[str, int | None]


class Answers(list[T]):
    """A list of answers, with the version that each store had."""

    def __init__(self, answers: Iterable[T] = (), versions: Versions | None = None) -> None:
        super().__init__(answers)
        self.versions: Versions = versions or {}


@dataclass(slots=True)
class Asked:
    """The versions of stores before they were asked, and the positions of the index's writes."""

    versions: dict[str, int | None]
    marks: Mapping[tuple[EntityType, str], int]

    def unavailable(self, store: str) -> None:
        """Record that a store did not answer."""
        if store in self.versions:
            self.versions[store] = None

    def note(self, index: str, kind: EntityType, space: str, matches: Any) -> None:
        """Record what a query of the index has seen; an index that does not say is trusted."""
        wanted, seen = self.marks.get((kind, space)), getattr(matches, "mark", None)
        if wanted is not None and seen is not None and seen < wanted:
            self.versions[index] = None


def ask(stores: Stores, *sinks: str) -> Asked:
    """Read the versions of PostgreSQL and of the configured ones of ``sinks``, before a question.

    Before, so that they are never too high. Costs one statement for the versions, and one for the
    positions of an index.
    """
    known = [sink for sink in dict.fromkeys(sinks) if sink in stores.sinks and sink in SINKS]
    topology = Topology(tuple(SINKS[sink].traits for sink in stores.sinks if sink in SINKS))
    indexes = [sink for sink in known if SINKS[sink].is_index]
    with stores.database.autocommit() as conn:
        newest, confirmed = confirmed_versions(conn, topology, known)
        marks = read_marks(conn, indexes) if indexes else {}
    found = {place: mark for of_sink in marks.values() for place, mark in of_sink.items()}
    return Asked({POSTGRESQL: newest, **confirmed}, found)
