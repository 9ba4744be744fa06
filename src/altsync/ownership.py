"""The mark of a store's owner, which is compared before a process writes or deletes.

Two installations on one graph or index would replace and delete each other's records, and each
would report them as synced.
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

#: Seconds until the mark is read again, so that a process finds a new owner.
RECHECK = 60.0

#: Keys that are read in PostgreSQL if a store has records and no mark.
SAMPLED = 100

#: Share of the sampled keys that PostgreSQL must have, so that the store is this installation's.
#: It is below 1 because a restored backup lacks the latest keys.
KNOWN = 0.5

#: Reads of a new mark before it counts as not written.
READS = 3

#: Keys in the message of a refused store.
NAMED = 3


class NotOurs(SinkFailure):
    """A store belongs to another installation. Retrying does not change it."""

    def __init__(self, reason: str) -> None:
        super().__init__(ErrorKind.SINK, reason)


@dataclass(frozen=True, slots=True)
class Ownership:
    """This installation, and the given keys that its PostgreSQL has or had."""

    me: Callable[[], Installation | None]
    known: Callable[[EntityType, Sequence[str]], set[str]]


@dataclass(frozen=True, slots=True)
class Store:
    """Functions that read and mark one store. ``place`` is its name in messages.

    ``mark`` writes a mark if there is none, ``replace`` in any case. Both return False if the
    store's key lacks the right. ``sample`` lists a few keys that altsync has written.
    """

    sink: str
    place: str
    read: Callable[[], Installation | None]
    mark: Callable[[Installation], bool]
    replace: Callable[[Installation], bool]
    sample: Callable[[], Mapping[EntityType, Sequence[str]]]


class Guard:
    """Prevents writes to another installation's store. Without ``ownership`` it prevents none."""

    def __init__(self, ownership: Ownership | None, store: Store) -> None:
        self._ownership = ownership
        self._store = store
        self._confirmed_until = 0.0
        self._lock = threading.Lock()

    def require(self) -> None:
        """Check that this installation owns the store, and mark a store without a mark.

        Raises ``SinkFailure`` of the sink: the breaker opens, no attempt is spent, and its probe
        finds a later ``altsync adopt``.
        """
        if self._ownership is None or time.monotonic() < self._confirmed_until:
            return
        with self._lock:
            if time.monotonic() < self._confirmed_until:
                return
            begin = time.monotonic()
            if self.check(claim=True):
                self._confirmed_until = begin + RECHECK

    def check(self, *, claim: bool = False) -> bool:
        """Compare the mark, and with ``claim`` write one if there is none.

        Return whether this process may write. Raises ``SinkFailure`` for another owner's store.
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
                return True  # the key may not write marks: the store is used without one
            mark = self._marked()
        if not me.is_same(mark):
            raise NotOurs(refusal(self._store, me, mark))
        return True

    def _marked(self) -> Installation:
        """Read the mark again: if two processes write one, the later mark is the owner's."""
        for _ in range(READS):
            mark = self._store.read()
            if mark is not None:
                return mark
        raise SinkFailure(ErrorKind.SINK, f"{self._store.place} does not show its mark yet")

    def adopt(self) -> Installation | None:
        """Make this installation the store's owner. Return the former owner, if any."""
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
        """Raise ``SinkFailure`` for a store without a mark that has another owner's records."""
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
    """Return the message of a refused store: its owner, and the command to run."""
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
