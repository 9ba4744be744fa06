"""Whose a store is: one mark on it, compared before this process writes or deletes anything.

Two installations on one graph or one index would overwrite and delete each other's records, and
each would call the result synced.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from altsync.contract import Installation
from altsync.entities import EntityType
from altsync.errors import SinkFailure
from altsync.operations import ErrorKind

#: Seconds until the mark is read again, so that a process notices that another took over.
RECHECK = 60.0

#: Keys that are looked up in PostgreSQL when a store holds records and no mark.
SAMPLED = 100

#: Share of the sampled keys that PostgreSQL must have for the store to be this installation's.
#: Not all of them: a restored backup lacks the latest.
KNOWN = 0.5

#: Reads of a mark that was just written, before it counts as not written.
READS = 3

#: Keys that are named when a store is refused.
NAMED = 3


class NotOurs(SinkFailure):
    """A store is another installation's: asking again does not change it."""

    def __init__(self, reason: str) -> None:
        super().__init__(ErrorKind.SINK, reason)


@dataclass(frozen=True, slots=True)
class Ownership:
    """What PostgreSQL says: which installation this is, and which of some keys it has ever had."""

    me: Callable[[], Installation | None]
    known: Callable[[EntityType, Sequence[str]], set[str]]


@dataclass(frozen=True, slots=True)
class Store:
    """How one store is read and marked. ``place`` names it for people.

    ``mark`` writes a mark where there is none, ``replace`` whatever there is; both return False
    where the key may not do so. ``sample`` lists a few keys that altsync has written there.
    """

    sink: str
    place: str
    read: Callable[[], Installation | None]
    mark: Callable[[Installation], bool]
    replace: Callable[[Installation], bool]
    sample: Callable[[], Mapping[EntityType, Sequence[str]]]


class Guard:
    """Lets only the owner of one store write to it. Without an ``ownership`` it lets all."""

    def __init__(self, ownership: Ownership | None, store: Store) -> None:
        self._ownership = ownership
        self._store = store
        self._confirmed_until = 0.0
        self._lock = threading.Lock()

    def require(self) -> None:
        """Return when the store is this installation's; a store without a mark becomes so.

        Raises ``SinkFailure``: it is the sink's failure, so that the breaker opens, no attempt is
        spent, and a later ``altsync adopt`` is noticed.
        """
        if self._ownership is None or time.monotonic() < self._confirmed_until:
            return
        with self._lock:
            if time.monotonic() < self._confirmed_until:
                return
            asked = time.monotonic()
            if self.check(claim=True):
                self._confirmed_until = asked + RECHECK

    def check(self, *, claim: bool = False) -> bool:
        """Compare the mark; with ``claim`` make one where there is none.

        Returns whether this process may write. Raises ``SinkFailure`` for a stranger's store.
        """
        me = self._ownership.me() if self._ownership else None
        if me is None:
            return False
        mark = self._store.read()
        if mark is None:
            self._refuse_unknown_records()
            if not claim:
                return False
            if not self._store.mark(me):
                return True  # without the right to mark, a store without a mark is used
            mark = self._marked()
        if not me.is_same(mark):
            raise NotOurs(refusal(self._store, me, mark))
        return True

    def _marked(self) -> Installation:
        """Read the mark again: where two processes write one, the one that stayed decides."""
        for _ in range(READS):
            mark = self._store.read()
            if mark is not None:
                return mark
        raise SinkFailure(ErrorKind.SINK, f"{self._store.place} does not show its mark yet")

    def adopt(self) -> Installation | None:
        """Make the store this installation's, whatever its mark. Returns a former owner."""
        me = self._ownership.me() if self._ownership else None
        if me is None:
            return None
        former = self._store.read()
        if not self._store.replace(me):
            raise SinkFailure(
                ErrorKind.SINK, f"{self._store.place} cannot be marked: the key lacks the right"
            )
        self._confirmed_until = 0.0
        return None if former is None or me.is_same(former) else former

    def _refuse_unknown_records(self) -> None:
        """Raise ``SinkFailure`` for a store without a mark that holds others' records."""
        assert self._ownership is not None
        sampled = self._store.sample()
        unknown: list[str] = []
        for entity_type, keys in sampled.items():
            known = self._ownership.known(entity_type, keys)
            unknown += [key for key in keys if key not in known]
        total = sum(len(keys) for keys in sampled.values())
        if total and total - len(unknown) < KNOWN * total:
            raise NotOurs(
                f"{self._store.place} holds records of an altsync installation that this database "
                f"does not have ({', '.join(sorted(unknown)[:NAMED])}), and no installation id. "
                f"{_remedy(self._store.sink)}",
            )


def refusal(store: Store, me: Installation, mark: Installation) -> str:
    """Return why a store is refused: whose it is, and what to do."""
    if me.id != mark.id:
        return (
            f"{store.place} belongs to another altsync installation, {mark.id} of the database "
            f"{mark.database!r}, since {mark.since}. {_remedy(store.sink)}"
        )
    where = "elsewhere" if me.database == mark.database else f"the database {me.database!r}"
    return (
        f"{store.place} belongs to the database {mark.database!r}, installation {mark.id} since "
        f"{mark.since}, and this is a copy of it, {where}. {_remedy(store.sink, moved=True)}"
    )


def _remedy(sink: str, *, moved: bool = False) -> str:
    when = "if the database was moved here" if moved else "if it is to be this installation's"
    return (
        "Nothing was written or deleted. Set ALTSYNC_PREFIX to keep both apart, or, "
        f"{when}, run: altsync adopt --sink {sink}"
    )
