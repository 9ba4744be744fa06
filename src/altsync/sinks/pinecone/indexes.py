"""The indexes of an installation: created, checked, owned, and found by their addresses.

One module, as each of these needs the names, the tags and the clients.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import pinecone

from altsync import deadline
from altsync.catalogue.current import entity_types
from altsync.contract import Installation
from altsync.entities import EntityType
from altsync.errors import SinkFailure
from altsync.operations import ErrorKind
from altsync.ownership import Guard, Ownership, Store
from altsync.sinks.pinecone import SINK
from altsync.sinks.pinecone.client import Client, T, limited, log, without_retries

METRIC = "cosine"

#: Tags of an index that name its owner. It is created with them, so that only one of two creators
#: owns it. A record instead of tags would appear in counts and lists.
OWNER_TAGS = {
    "id": "altsync-id",
    "since": "altsync-since",
    "database": "altsync-database",
    "system": "altsync-system",
}

#: Seconds for which the tags that were read with an index's address are not read again.
TAGS_FRESH = 5.0

#: Seconds between two checks whether a new index is ready.
READY_SECONDS = 0.5

#: Share of a call's time that it waits for new indexes.
WAITING = 0.8


class _Unseen:
    """An index that the key may not describe."""

    tags: Mapping[str, str] | None = None

    class status:
        """Taken as ready: requests to its data show whether it is."""

        ready = True


class Indexes(Client):
    """The indexes of an installation."""

    def belong_to(self, ownership: Ownership | None) -> None:
        """Set the installation. Writes to the indexes of another one are refused."""
        self._ownership = ownership
        self._guards = {kind: Guard(ownership, self._store(kind)) for kind in entity_types()}

    def _store(self, entity_type: EntityType) -> Store:
        name = self._names[entity_type]
        return Store(
            SINK.name,
            f"the index {name}",
            read=partial(self._read_owner, name),
            mark=partial(self._write_owner, name),
            replace=partial(self._write_owner, name, needed=True),
            sample=partial(self._sample, entity_type),
        )

    @abstractmethod
    def _sample(self, entity_type: EntityType) -> dict[EntityType, list[str]]:
        """Return some keys of the type's index."""

    @limited
    def check_owner(self) -> None:
        """Raise ``SinkFailure`` when an index is another installation's. Writes nothing."""
        for guard in self._guards.values():
            guard.check()

    @limited
    def adopt(self) -> list[Installation]:
        """Make every index this installation's; return the former owners.

        Raises ``SinkFailure``.
        """
        self._create_missing()
        former = [guard.adopt() for guard in self._guards.values()]
        return list(dict.fromkeys(one for one in former if one is not None))

    def _read_owner(self, name: str) -> Installation | None:
        """Return an index's owner by its tags; None if it has none or cannot be described.

        Tags that were read with the address less than ``TAGS_FRESH`` ago are not read again.
        """
        at, tags = self._tags.pop(name, (-TAGS_FRESH, {}))
        if time.monotonic() - at >= TAGS_FRESH:
            try:
                with self._translated_errors():
                    tags = self._client.indexes.describe(name).tags or {}
            except SinkFailure as failure:
                if isinstance(failure.__cause__, pinecone.NotFoundError | pinecone.ForbiddenError):
                    return None
                raise
        if OWNER_TAGS["id"] not in tags:
            return None
        return Installation(**{field: tags.get(tag, "") for field, tag in OWNER_TAGS.items()})

    def _write_owner(self, name: str, owner: Installation, *, needed: bool = False) -> bool:
        """Tag an index. If the key lacks the right, return False, or raise if ``needed``."""
        self._tags.pop(name, None)
        try:
            with self._translated_errors():
                self._client.indexes.configure(name, tags=owner_tags(owner))
        except SinkFailure as failure:
            lacks_right = isinstance(
                failure.__cause__, pinecone.ForbiddenError | pinecone.UnauthorizedError
            )
            if needed or not lacks_right:
                raise
            log.warning("index.unmarked", index=name, reason=failure.reason)
            return False
        return True

    @limited
    def remove_indexes(self) -> None:
        """Delete this installation's indexes with all that they hold. Raises ``SinkFailure``."""
        with self._translated_errors():
            existing = self._existing()
        for kind, name in self._names.items():
            if name not in existing:
                continue
            self._guards[kind].check()
            with self._translated_errors(), suppress(pinecone.NotFoundError):
                self._client.indexes.delete(name, timeout=-1)
        self._handles.clear()

    @limited
    def setup(self) -> None:
        """Create the missing indexes, and mark all of them as this installation's."""
        self._create_missing()
        for guard in self._guards.values():
            guard.require()

    def _create_missing(self) -> None:
        """Create the missing indexes, and wait until all are ready.

        Without the right to list or describe indexes, requests to their data show which exist.
        Raises ``SinkFailure`` for the types whose index is still missing or does not fit.
        """
        with self._translated_errors():
            existing = self._existing()
        self._tags |= {name: (time.monotonic(), one.tags or {}) for name, one in existing.items()}
        problems = self._misfits(existing)
        missing = [kind for kind, name in self._names.items() if name not in existing]
        made: list[str] = []
        wait = None
        for position, kind in enumerate(missing):
            try:
                with self._translated_errors():
                    self._create(self._names[kind])
            except SinkFailure as failure:  # the other indexes would most likely fail alike
                reason = f"the index {self._names[kind]} cannot be created: {failure.reason}"
                problems |= dict.fromkeys(missing[position:], reason)
                wait = failure.retry_after
                break
            made.append(self._names[kind])
        ends = time.monotonic() + WAITING * self._timeout
        with self._translated_errors():
            for name in [*made, *(n for n, one in existing.items() if not one.status.ready)]:
                self._wait_until_ready(name, ends)
        if problems:
            reason = "; ".join(dict.fromkeys(problems.values()))
            raise SinkFailure(ErrorKind.SINK, reason, retry_after=wait, only=problems)

    def _existing(self) -> dict[str, Any]:
        """Return the existing indexes by name. One that the key may not describe counts as such."""
        names = set(self._names.values())
        try:
            return {one.name: one for one in self._client.indexes.list() if one.name in names}
        except pinecone.ForbiddenError as error:
            log.debug("indexes.not_listed", reason=str(error))
        existing: dict[str, Any] = {}
        for name in names:
            with suppress(pinecone.NotFoundError):
                try:
                    existing[name] = self._client.indexes.describe(name)
                except pinecone.ForbiddenError:
                    existing[name] = _Unseen()
        return existing

    def check_indexes(self) -> None:
        """Raise ``SinkFailure`` when an existing index cannot hold altsync's vectors."""
        with self._translated_errors():
            problems = self._misfits(self._existing())
        if problems:
            raise SinkFailure(ErrorKind.SINK, "; ".join(problems.values()), only=problems)

    def _misfits(self, existing: Mapping[str, Any]) -> dict[EntityType, str]:
        found = {
            kind: misfit(existing[name], self._dimensions)
            for kind, name in self._names.items()
            if name in existing
        }
        return {kind: problem for kind, problem in found.items() if problem is not None}

    def _create(self, name: str) -> None:
        owner = self._ownership.me() if self._ownership else None
        tags = owner_tags(owner) if owner else None
        deadline.check()
        try:
            self._client.create_index(
                name=name,
                dimension=self._dimensions,
                metric=METRIC,
                spec=self._spec,
                tags=tags,
                timeout=-1,  # do not wait: the SDK's wait has no limit by default
            )
            self._tags[name] = (time.monotonic(), tags or {})
        except pinecone.ConflictError:
            return  # another process was faster
        except pinecone.ForbiddenError as error:
            raise SinkFailure(
                ErrorKind.SINK,
                f"Pinecone has no index {name}, and this key may not create it: create it, or use "
                f"a key that may ({error})",
            ) from error

    def _wait_until_ready(self, name: str, ends: float) -> None:
        while True:
            try:
                if self._client.indexes.describe(name).status.ready:
                    return
            except (pinecone.ForbiddenError, pinecone.NotFoundError) as error:
                # The key may not describe it, or it is too new: requests to its data decide.
                log.debug("index.not_seen", index=name, reason=str(error))
                return
            if time.monotonic() + READY_SECONDS > ends:
                raise SinkFailure(
                    ErrorKind.SINK,
                    f"the index {name} is being made: not ready yet",
                    lock_conflict=True,
                )
            time.sleep(READY_SECONDS)

    @limited
    def _if_present(self, entity_type: EntityType, call: Callable[[pinecone.Index], T]) -> T | None:
        """Return the result of ``call`` on an index; None if index or namespace is missing.

        No index is created. An index that was created again is called at its new address.
        """
        with self._translated_errors(), suppress(pinecone.NotFoundError):
            index = self._handle(entity_type, self._described)
            with suppress(pinecone.NotFoundError):
                return call(index)
            moved = self._moved(entity_type, index)
            return None if moved is None else call(moved)
        return None

    def _moved(self, entity_type: EntityType, index: pinecone.Index) -> pinecone.Index | None:
        """Return the index at its new address; None when the address is the same.

        Raises ``NotFoundError`` when there is no such index.
        """
        try:
            host = self._client.indexes.describe(self._names[entity_type]).host
        except pinecone.ForbiddenError:
            return None  # the key may not read the address
        except pinecone.NotFoundError:
            self._forget(entity_type, index)
            raise
        if host is not None and index.host.endswith(host):
            return None
        self._forget(entity_type, index)
        return self._handle(entity_type, self._described)

    def _forget(self, entity_type: EntityType, index: pinecone.Index) -> None:
        with self._clients.opening:
            if self._handles.get(entity_type) is index:
                del self._handles[entity_type]

    def _index(self, entity_type: EntityType) -> pinecone.Index:
        """Return the index of a type; create it when it is missing."""
        return self._handle(entity_type, self._open_index)

    def _handle(
        self, entity_type: EntityType, opened: Callable[[str], pinecone.Index]
    ) -> pinecone.Index:
        """Return the handle of an index. Concurrent threads request its address once."""
        with self._clients.opening:
            if entity_type not in self._handles:
                self._handles[entity_type] = opened(self._names[entity_type])
            return self._handles[entity_type]

    def _open_index(self, name: str) -> pinecone.Index:
        try:
            return self._described(name)
        except pinecone.NotFoundError:
            self._create_missing()
            return self._described(name)

    def _described(self, name: str) -> pinecone.Index:
        host: str | None = self._hosts.get(name)
        if host is None:
            try:
                found = self._client.indexes.describe(name)
            except pinecone.ForbiddenError as error:
                raise SinkFailure(
                    ErrorKind.SINK,
                    f"this key may not ask for the host of the index {name}: name it in "
                    f"ALTSYNC_PINECONE_HOSTS={name}=… ({error})",
                ) from error
            problem = misfit(found, self._dimensions)
            if problem is not None:
                raise SinkFailure(ErrorKind.SINK, problem)
            host = found.host
            self._tags[name] = (time.monotonic(), found.tags or {})
        if host is None:
            raise SinkFailure(ErrorKind.SINK, f"the index {name} is not ready yet")
        index = pinecone.Index(host=host, api_key=self._api_key, timeout=self._timeout)
        return self._positions.follow(without_retries(index))


def owner_tags(owner: Installation) -> dict[str, str]:
    """Return the tags of an installation's indexes. Pinecone removes a tag without a value."""
    values = {tag: getattr(owner, field) for field, tag in OWNER_TAGS.items()}
    return {tag: value for tag, value in values.items() if value}


def misfit(index: Any, dimensions: int) -> str | None:
    """Return why an index cannot hold altsync's vectors, and what to do; None when it can.

    A fact that the server leaves out is not checked.
    """
    deployment = getattr(index, "deployment", None)
    facts = (
        ("kind", getattr(index, "vector_type", None), "dense"),
        ("dimension", getattr(index, "dimension", None), dimensions),
        ("metric", getattr(index, "metric", None), METRIC),
        ("deployment", "pod" if getattr(deployment, "pod_type", None) else None, "serverless"),
    )
    wrong = [
        f"{what} {found} where altsync needs {needed}"
        for what, found, needed in facts
        if found is not None and found != needed
    ]
    if not wrong:
        return None
    return (
        f"the index {index.name} has {', '.join(wrong)}: set ALTSYNC_EMBEDDING_DIMENSIONS or "
        "ALTSYNC_PREFIX, or delete the index; then run altsync migrate and "
        "altsync backfill --sink pinecone --force"
    )
