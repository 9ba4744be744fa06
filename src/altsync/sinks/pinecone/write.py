"""The vector index: one index per type of entity, namespaces as declared.

The index has no conditional write, so an older version could overwrite a newer one when a
call is applied late. Vectors carry their version; the outbox repeats outcome_unknown writes.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, lru_cache, partial, wraps
from importlib import import_module
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar, cast

import httpx
import numpy as np
import orjson
import pinecone
import structlog
from pinecone import RetryConfig, ServerlessSpec

from altsync import deadline
from altsync.catalogue.current import entity_types
from altsync.config import Settings
from altsync.contract import Answer, Installation, RecordOutcome, SinkTraits, SinkVersion, Written
from altsync.deadline import SharedClient
from altsync.entities import EntityType, Model, Row
from altsync.errors import SinkFailure, seconds_of
from altsync.operations import ErrorKind
from altsync.ownership import SAMPLED, Guard, Ownership, Store
from altsync.projection import namespace, vector_metadata
from altsync.protocols import Held, Match, Reads, StoredVector, VectorStore
from altsync.sinks.pinecone import SINK
from altsync.wording import plural

log = structlog.get_logger(__name__)

# Pinecone's SDK imports httpx when its first client is made, OpenAI's looks at whatever httpx
# is there: two threads starting at once would meet half a module if it were not imported above.

__all__ = ["Held", "Match", "Reads", "Sink", "StoredVector", "open_sink"]

T = TypeVar("T")
P = ParamSpec("P")

#: Vectors per upsert, and ids per fetch or delete.
#: https://docs.pinecone.io/reference/api/database-limits
MAX_VECTORS = 1000

#: Bytes of one upsert's body: 2 MB by the same page, less what frames it.
MAX_BYTES = 2_000_000 - 10_000

#: Ids in the URL of one fetch: a URL longer than 8 KB is refused on the way.
FETCH_IDS = 100

METRIC = "cosine"

#: Tags of an index that say whose it is. An index is created with them, so that of two that create
#: it one is the owner; they need no record of their own, which counts and lists would show.
OWNER_TAGS = {
    "id": "altsync-id",
    "since": "altsync-since",
    "database": "altsync-database",
    "system": "altsync-system",
}

#: Seconds for which the tags that came with an index's address need not be asked for again.
TAGS_FRESH = 5.0

#: Modules of the SDK that are not its interface: its kinds of answers, and what parses them.
ANSWERS = (
    "pinecone._internal.adapters.indexes_adapter",
    "pinecone._internal.adapters.vectors_adapter",
)
PARSER = "pinecone._internal.adapters._decode"

#: Held by the one thread that has the SDK's answers looked at.
_KNOWING = threading.Lock()

#: Held during each call where an SDK keeps its answers elsewhere: they cannot be prepared then.
_ONE_AT_A_TIME = threading.Lock()

#: Seconds between two looks at whether a new index is ready.
READY_SECONDS = 0.5

#: Share of a call's time for which a new index is waited for.
WAITING = 0.8


NOT_IN_TIME = "Pinecone did not answer in time"


class _Clients:
    """The SDK's clients: one for indexes, and one for the data of each."""

    def __init__(self, control: pinecone.Pinecone) -> None:
        self.control = control
        self.handles: dict[EntityType, pinecone.Index] = {}
        self.opening = threading.Lock()

    def close(self) -> None:
        for handle in self.handles.values():
            handle.close()
        self.control.close()


def limited(
    method: Callable[Concatenate[Sink, P], T],
) -> Callable[Concatenate[Sink, P], T]:
    """Run a method of the sink, with all its requests, within the timeout of one call."""

    @wraps(method)
    def call(self: Sink, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.within_limit(lambda: method(self, *args, **kwargs))

    return cast("Callable[Concatenate[Sink, P], T]", call)


class Sink:
    """Mirrors entities as vectors with metadata to filter on."""

    traits: ClassVar[SinkTraits] = SINK.traits

    def __init__(
        self,
        api_key: str,
        *,
        host: str | None,
        timeout: float,
        dimensions: int,
        cloud: str,
        region: str,
        prefix: str = "",
        hosts: Mapping[str, str] | None = None,
    ) -> None:
        with _KNOWING:
            self._parallel = bool(know_answers())
        self._api_key = api_key
        self._hosts = dict(hosts or {})
        self._timeout = timeout
        self._dimensions = dimensions
        self._spec = ServerlessSpec(cloud=cloud, region=region)

        def clients() -> _Clients:
            # Retries wait in PostgreSQL, where every worker sees them.
            retries = RetryConfig(max_retries=0)
            return _Clients(
                pinecone.Pinecone(api_key=api_key, host=host, timeout=timeout, retry_config=retries)
            )

        self._shared = SharedClient(clients, _Clients.close)
        self._own = threading.local()
        self._names = index_names(prefix)
        self._tags: dict[str, tuple[float, Mapping[str, str]]] = {}
        self.belong_to(None)

    def within_limit(self, work: Callable[[], T]) -> T:
        """Run ``work`` within the timeout. Raises ``SinkFailure`` when it takes longer.

        A part of such work has no limit of its own.
        """
        if getattr(self._own, "clients", None) is not None:
            return work()

        def run(clients: _Clients) -> T:
            self._own.clients = clients  # the thread is this call's alone
            if self._parallel:
                return work()
            with _ONE_AT_A_TIME:
                deadline.check()
                return work()

        try:
            return self._shared.call(self._timeout, run)
        except TimeoutError:
            raise SinkFailure(
                ErrorKind.SINK, NOT_IN_TIME, outcome_unknown=True, timed_out=True
            ) from None

    @property
    def _clients(self) -> _Clients:
        """The clients of this call."""
        clients: _Clients = getattr(self._own, "clients", None) or self._shared.current
        return clients

    @property
    def _handles(self) -> dict[EntityType, pinecone.Index]:
        return self._clients.handles

    @property
    def _client(self) -> pinecone.Pinecone:
        return self._clients.control

    def belong_to(self, ownership: Ownership | None) -> None:
        """Write only to indexes that are, or become, that installation's."""
        self._ownership = ownership
        self._guards = {kind: Guard(ownership, self._store(kind)) for kind in entity_types()}

    def _store(self, entity_type: EntityType) -> Store:
        name = self._names[entity_type]
        return Store(
            self.traits.name,
            f"the index {name}",
            read=partial(self._read_owner, name),
            mark=partial(self._write_owner, name),
            replace=partial(self._write_owner, name, needed=True),
            sample=partial(self._sample, entity_type),
        )

    @limited
    def check_owner(self) -> None:
        """Raise ``SinkFailure`` when an index is another installation's. Writes nothing."""
        for guard in self._guards.values():
            guard.check()

    @limited
    def adopt(self) -> list[Installation]:
        """Make every index this installation's; returns their former owners.

        Raises ``SinkFailure``.
        """
        self._create_missing()
        former = [guard.adopt() for guard in self._guards.values()]
        return list(dict.fromkeys(one for one in former if one is not None))

    def _read_owner(self, name: str) -> Installation | None:
        """Return whose an index is by its tags; None for one without them, or that is not there.

        Tags that came with the address a moment ago are not asked for again.
        """
        at, tags = self._tags.pop(name, (-TAGS_FRESH, {}))
        if time.monotonic() - at >= TAGS_FRESH:
            try:
                with self._door():
                    tags = self._client.indexes.describe(name).tags or {}
            except SinkFailure as failure:
                if isinstance(failure.__cause__, pinecone.NotFoundError | pinecone.ForbiddenError):
                    return None
                raise
        if OWNER_TAGS["id"] not in tags:
            return None
        return Installation(**{field: tags.get(tag, "") for field, tag in OWNER_TAGS.items()})

    def _write_owner(self, name: str, owner: Installation, *, needed: bool = False) -> bool:
        """Tag an index. A key for data alone may not: False, unless it is ``needed``."""
        self._tags.pop(name, None)
        try:
            with self._door():
                self._client.indexes.configure(name, tags=owner_tags(owner))
        except SinkFailure as failure:
            may_not = isinstance(
                failure.__cause__, pinecone.ForbiddenError | pinecone.UnauthorizedError
            )
            if needed or not may_not:
                raise
            log.warning("index.unmarked", index=name, reason=failure.reason)
            return False
        return True

    def _sample(self, entity_type: EntityType) -> dict[EntityType, list[str]]:
        for space in sorted(self._spaces(entity_type, Reads())):
            own = "" if space == "__default__" else space
            for ids in self._listed(entity_type, own, Reads()):
                return {entity_type: ids[:SAMPLED]}
        return {}

    @limited
    def setup(self) -> None:
        """Create the indexes that are not there, and mark all as this installation's."""
        self._create_missing()
        for guard in self._guards.values():
            guard.require()

    def _create_missing(self) -> None:
        """Create the indexes that are not there, and wait a while until all are ready.

        A key for data alone may neither list nor describe: then the data's own answers count.
        Raises ``SinkFailure`` for the types that have no index of theirs afterwards.
        """
        with self._door():
            there = self._there()
        self._tags |= {name: (time.monotonic(), one.tags or {}) for name, one in there.items()}
        problems = self._misfits(there)
        missing = [kind for kind, name in self._names.items() if name not in there]
        made: list[str] = []
        wait = None
        for place, kind in enumerate(missing):
            try:
                with self._door():
                    self._create(self._names[kind])
            except SinkFailure as failure:  # most likely the others are refused alike: one call
                reason = f"the index {self._names[kind]} cannot be created: {failure.reason}"
                problems |= dict.fromkeys(missing[place:], reason)
                wait = failure.retry_after
                break
            made.append(self._names[kind])
        ends = time.monotonic() + WAITING * self._timeout
        with self._door():
            for name in [*made, *(n for n, one in there.items() if not one.status.ready)]:
                self._wait_until_ready(name, ends)
        if problems:
            reason = "; ".join(dict.fromkeys(problems.values()))
            raise SinkFailure(ErrorKind.SINK, reason, retry_after=wait, only=problems)

    def _there(self) -> dict[str, Any]:
        """The sink's indexes by name. One that this key may not see counts as there."""
        names = set(self._names.values())
        try:
            return {one.name: one for one in self._client.indexes.list() if one.name in names}
        except pinecone.ForbiddenError as error:
            log.debug("indexes.not_listed", reason=str(error))
        there: dict[str, Any] = {}
        for name in names:
            with suppress(pinecone.NotFoundError):
                try:
                    there[name] = self._client.indexes.describe(name)
                except pinecone.ForbiddenError:
                    there[name] = _Unseen()
        return there

    def check_indexes(self) -> None:
        """Raise ``SinkFailure`` when an index that is there cannot hold altsync's vectors."""
        with self._door():
            problems = self._misfits(self._there())
        if problems:
            raise SinkFailure(ErrorKind.SINK, "; ".join(problems.values()), only=problems)

    def _misfits(self, there: Mapping[str, Any]) -> dict[EntityType, str]:
        found = {
            kind: misfit(there[name], self._dimensions)
            for kind, name in self._names.items()
            if name in there
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
                timeout=-1,  # the SDK's own wait has no end by default, and whole seconds
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
                # It may not be seen by this key, or not yet: the data's own answer counts.
                log.debug("index.not_seen", index=name, reason=str(error))
                return
            if time.monotonic() + READY_SECONDS > ends:
                raise SinkFailure(
                    ErrorKind.SINK,
                    f"the index {name} is being made: not ready yet",
                    lock_conflict=True,
                )
            time.sleep(READY_SECONDS)

    def split(self, rows: Sequence[Row], model: Model) -> list[Sequence[Row]]:
        """By namespace, count, and bytes as they will be sent."""
        parts: list[Sequence[Row]] = []
        by_namespace: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            by_namespace[namespace(row)].append(row)
        for members in by_namespace.values():
            start = size = 0
            for place, row in enumerate(members):
                more = sent_bytes(row, model)
                if place > start and (size + more > MAX_BYTES or place - start >= MAX_VECTORS):
                    parts.append(members[start:place])
                    start, size = place, 0
                size += more
            parts.append(members[start:])
        return parts

    @limited
    def upsert(self, rows: Sequence[Row], model: Model) -> Answer:
        """Write vectors of one namespace in one request; leave a former namespace."""
        space = namespace(rows[0])
        vectors = [_sent(row, model) for row in rows]
        with self._door():
            index = self._index(rows[0].entity_type)
            self._guards[rows[0].entity_type].require()
            deadline.check()
            answer = index.upsert(vectors=vectors, namespace=space, timeout=self._timeout)
        if answer.has_errors or answer.upserted_count != len(rows):
            raise SinkFailure(
                ErrorKind.UNKNOWN,
                f"Pinecone took {answer.upserted_count} of {plural(len(rows), 'vector')}",
                outcome_unknown=True,
            )
        calls = 1 + self._leave_former_namespaces(rows, space)
        written = (Written(row.id, row.version, row.key, space) for row in rows)
        return Answer(tuple(written), calls=calls)

    def _leave_former_namespaces(self, rows: Sequence[Row], space: str) -> int:
        moved = [row for row in rows if row.written_namespace not in (None, space)]
        return self._delete_keys(moved, lambda row: {row.written_namespace or ""})

    @limited
    def delete(self, rows: Sequence[Row]) -> Answer:
        """Remove vectors by id: from where they are, would be, or may turn up."""
        calls = self._delete_keys(
            rows,
            lambda row: {row.written_namespace, namespace(row), *row.stale_namespaces},
        )
        outcomes: list[RecordOutcome] = [Written(row.id, row.version) for row in rows]
        return Answer(tuple(outcomes), calls=calls)

    def _delete_keys(self, rows: Sequence[Row], spaces_of: Any) -> int:
        """Delete rows from namespaces; returns the number of calls."""
        by_space: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            for space in spaces_of(row) - {None}:
                by_space[space].append(row.key)
        calls = 0
        for space, keys in by_space.items():
            for start in range(0, len(keys), MAX_VECTORS):
                self._delete_page(rows[0].entity_type, space, keys[start : start + MAX_VECTORS])
                calls += 1
        return calls

    def _delete_page(self, entity_type: EntityType, space: str, keys: list[str]) -> None:
        def delete(index: pinecone.Index) -> None:
            self._guards[entity_type].require()
            deadline.check()
            index.delete(ids=keys, namespace=space, timeout=self._timeout)

        self._where_it_is(entity_type, delete)

    def versions(self, entity_type: EntityType) -> Iterator[SinkVersion]:
        """Every vector of the type, over all namespaces. Costs a list and a fetch per page."""
        for page in self.stored(entity_type, Reads()):
            for one in page:
                marks = one.metadata
                yield SinkVersion(
                    one.key,
                    one.version or 0,
                    marks.get("content_hash"),
                    marks.get("model"),
                    one.namespace,
                )

    def count(self, entity_type: EntityType, reads: Reads) -> int:
        """Vectors in the index, over all namespaces, as it counts them. Raises ``SinkFailure``."""
        return sum(int(one.vector_count or 0) for one in self._spaces(entity_type, reads).values())

    def _spaces(self, entity_type: EntityType, reads: Reads) -> Mapping[str, Any]:
        def stats(index: pinecone.Index) -> Mapping[str, Any]:
            reads.described()
            return index.describe_index_stats(timeout=self._timeout).namespaces

        return reads.ask(lambda: self._where_it_is(entity_type, stats)) or {}

    def stored(self, entity_type: EntityType, reads: Reads) -> Iterator[list[StoredVector]]:
        """Everything that the index holds, page by page. Raises ``SinkFailure``."""
        for space in sorted(self._spaces(entity_type, reads)):
            own = "" if space == "__default__" else space
            for ids in self._listed(entity_type, own, reads):
                yield sorted(self.fetch(entity_type, own, ids, reads), key=lambda one: one.key)

    def _listed(self, entity_type: EntityType, space: str, reads: Reads) -> Iterator[list[str]]:
        """Pages of the ids of one namespace."""
        token: str | None = None

        def page(index: pinecone.Index) -> Any:
            reads.listed()
            return index.list_paginated(
                namespace=space, limit=FETCH_IDS, pagination_token=token, timeout=self._timeout
            )

        while True:
            found = reads.ask(lambda: self._where_it_is(entity_type, page))
            if found is None:
                return
            ids = [item.id for item in found.vectors if item.id]
            if ids:
                yield ids
            token = found.pagination.next if found.pagination is not None else None
            if token is None:
                return

    def fetch(
        self, entity_type: EntityType, space: str, keys: Sequence[str], reads: Reads
    ) -> list[StoredVector]:
        """Return those of ``keys`` that one namespace holds. Raises ``SinkFailure``."""
        fetched: list[StoredVector] = []
        for start in range(0, len(keys), FETCH_IDS):
            found = self._fetched(entity_type, space, list(keys[start : start + FETCH_IDS]), reads)
            fetched += [_stored(key, space, one) for key, one in found.items()]
        return fetched

    def _fetched(
        self, entity_type: EntityType, space: str, ids: list[str], reads: Reads
    ) -> Mapping[str, Any]:
        def fetch(index: pinecone.Index) -> Mapping[str, Any]:
            reads.fetched(len(ids))
            return index.fetch(ids=ids, namespace=space, timeout=self._timeout).vectors

        return reads.ask(lambda: self._where_it_is(entity_type, fetch)) or {}

    def remove(self, entity_type: EntityType, space: str, keys: Sequence[str]) -> None:
        """Remove vectors from one namespace by id. Raises ``SinkFailure``."""
        for start in range(0, len(keys), MAX_VECTORS):
            self._delete_page(entity_type, space, list(keys[start : start + MAX_VECTORS]))

    @limited
    def _where_it_is(
        self, entity_type: EntityType, call: Callable[[pinecone.Index], T]
    ) -> T | None:
        """Return what ``call`` makes of an index; None where it, or the namespace, is not there.

        Looking creates none. An index that was deleted and made again may have another address:
        then it is called there.
        """
        with self._door(), suppress(pinecone.NotFoundError):
            index = self._handle(entity_type, self._described)
            with suppress(pinecone.NotFoundError):
                return call(index)
            moved = self._moved(entity_type, index)
            return None if moved is None else call(moved)
        return None

    def _moved(self, entity_type: EntityType, index: pinecone.Index) -> pinecone.Index | None:
        """The index at its new address; None when it is where it was.

        Forgets where it was when it is there no more. Raises ``NotFoundError`` when there is none.
        """
        try:
            host = self._client.indexes.describe(self._names[entity_type]).host
        except pinecone.ForbiddenError:
            return None  # this key is told no other address
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

    def find(self, entity_type: EntityType, key: str, space: str) -> Held | None:
        """What the index holds of one entity in one namespace now. Raises ``SinkFailure``."""
        found = self._fetched(entity_type, space, [key], Reads())
        return _held(self._names[entity_type], space, key, found[key]) if key in found else None

    @limited
    def nearest(
        self,
        entity_type: EntityType,
        vector: bytes,
        *,
        top_k: int,
        space: str,
        where: Mapping[str, Any] | None = None,
        with_metadata: bool = True,
    ) -> list[Match]:
        """The entities nearest to a vector (float32 little-endian), the best first.

        ``where`` is a metadata filter in the index's own language. Without metadata an answer
        is small, and may be long. Raises ``SinkFailure``.
        """
        with self._door():
            answer = self._index(entity_type).query(
                vector=orjson.loads(printed(vector)),
                top_k=top_k,
                namespace=space,
                filter=where,
                include_values=False,
                include_metadata=with_metadata,
                timeout=self._timeout,
            )
        return [Match(m.id, m.score or 0.0, dict(m.metadata or {})) for m in answer.matches]

    def close(self) -> None:
        """Close the connections."""
        self._shared.close()

    def _index(self, entity_type: EntityType) -> pinecone.Index:
        """The index of a type, made when it is not there."""
        return self._handle(entity_type, self._open_index)

    def _handle(
        self, entity_type: EntityType, opened: Callable[[str], pinecone.Index]
    ) -> pinecone.Index:
        """The handle of an index. Asks for its address once, whatever threads come."""
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
        return without_retries(
            pinecone.Index(host=host, api_key=self._api_key, timeout=self._timeout)
        )

    @contextmanager
    def _door(self) -> Iterator[None]:
        """Let nothing of the SDK out but as ``SinkFailure``."""
        try:
            yield
        except pinecone.PineconeError as error:
            if isinstance(error, pinecone.NotFoundError):
                self._handles.clear()  # the index is gone or moved: look it up again
            raise translate(error) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # The SDK does not wrap all of its client's errors: a broken encoding, for one.
            reason = f"Pinecone answered in no known form: {error}"
            raise SinkFailure(ErrorKind.SINK, reason, outcome_unknown=True) from error


class _Unseen:
    """An index that a key may not describe."""

    tags: Mapping[str, str] | None = None

    class status:
        """Whether it is ready is not known; its data answer."""

        ready = True


def index_names(prefix: str) -> dict[EntityType, str]:
    """Return the name of each index behind ``prefix``."""
    return {
        kind: f"{prefix}-{kind.index_name}" if prefix else kind.index_name
        for kind in entity_types()
    }


def owner_tags(owner: Installation) -> dict[str, str]:
    """Return the tags of an installation's indexes. A tag without a value would be none."""
    values = {tag: getattr(owner, field) for field, tag in OWNER_TAGS.items()}
    return {tag: value for tag, value in values.items() if value}


def _stored(key: str, space: str, vector: Any) -> StoredVector:
    metadata = dict(vector.metadata or {})
    version = _whole(metadata.get("version"))
    return StoredVector(key, space, version, metadata, vector.values or ())


def _whole(version: Any) -> int | None:
    """A version, which comes back as a double; None for what is no whole number."""
    if isinstance(version, float) and version.is_integer():
        return int(version)
    return version if isinstance(version, int) and not isinstance(version, bool) else None


def _held(index: str, space: str, key: str, vector: Any) -> Held:
    marks = dict(vector.metadata or {})
    return Held(
        index,
        space,
        key,
        _whole(marks.pop("version", None)),
        marks.pop("model", None),
        marks.pop("content_hash", None),
        len(vector.values or ()),
        marks,
    )


@cache
def know_answers() -> list[str]:
    """Have every kind of the SDK's answers looked at now, by one thread; returns their names.

    The library that parses them prepares a kind when it first meets it, and crashes the process
    when two threads meet it at once (msgspec 0.22: a null pointer in ``StructInfo``). Returns
    none where an SDK keeps them elsewhere: then the sinks of a process call one at a time.
    """
    gone = moved()
    if gone:
        log.warning("pinecone.one_call_at_a_time", missing=gone)
        return []
    decode_response = import_module(PARSER).decode_response
    kinds = {
        one
        for adapter in map(import_module, ANSWERS)
        for one in vars(adapter).values()
        if isinstance(one, type) and hasattr(one, "__struct_fields__")
    }
    for kind in kinds:
        with suppress(pinecone.PineconeError, TypeError):  # some are never parsed
            decode_response(b"{}", kind)
    return sorted(kind.__name__ for kind in kinds)


def moved() -> list[str]:
    """Return what this release of the SDK lacks of what altsync uses beside its interface."""
    gone = []
    for module in (*ANSWERS, PARSER):
        try:
            found = import_module(module)
        except ImportError:
            gone.append(module)
            continue
        if module == PARSER and not hasattr(found, "decode_response"):
            gone.append(f"{module}.decode_response")
    return gone


def without_retries(index: pinecone.Index) -> pinecone.Index:
    """Take the SDK's own retries from an index handle, which no option of it can.

    Three retries of a request that times out would outlive the lease. Where a later SDK keeps
    its transport elsewhere, its retries stay.
    """
    client = getattr(getattr(index, "_http", None), "_client", None)
    transport = getattr(client, "_transport", None)
    if isinstance(getattr(transport, "_config", None), RetryConfig):
        transport._config = RetryConfig(max_retries=0)  # type: ignore[union-attr]
    return index


def _sent(row: Row, model: Model) -> pinecone.Vector:
    """A vector as the SDK passes it on to its printer: the numbers in JSON, never Python's."""
    values: Any = orjson.Fragment(printed(row.vector or b""))
    return pinecone.Vector(id=row.key, values=values, metadata=vector_metadata(row, model.name))


@lru_cache(MAX_VECTORS)
def printed(vector: bytes) -> bytes:
    """Float32 numbers as JSON, each as short as it can be: half the bytes of their doubles.

    Kept for a while: rows are cut by their bytes a moment before they are sent.
    """
    return orjson.dumps(np.frombuffer(vector, "<f4"), option=orjson.OPT_SERIALIZE_NUMPY)


def sent_bytes(row: Row, model: Model) -> int:
    """Bytes that one row takes in the body of an upsert."""
    metadata = orjson.dumps(vector_metadata(row, model.name))
    frame = len('{"id":"","values":,"metadata":},')
    return frame + len(row.key) + len(printed(row.vector or b"")) + len(metadata)


def misfit(index: Any, dimensions: int) -> str | None:
    """Return why an index cannot hold altsync's vectors, and what to do; None when it can.

    What the server does not say is not judged.
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


def translate(error: pinecone.PineconeError) -> SinkFailure:
    """Whose fault an error of the SDK is."""
    match error:
        case pinecone.PineconeTimeoutError():
            return SinkFailure(ErrorKind.SINK, NOT_IN_TIME, outcome_unknown=True, timed_out=True)
        case pinecone.PineconeConnectionError():
            return SinkFailure(
                ErrorKind.SINK, f"no connection to Pinecone: {error}", outcome_unknown=True
            )
        case pinecone.RateLimitError():
            return SinkFailure(
                ErrorKind.SINK, f"Pinecone: {error}", throttled=True, retry_after=_wait(error)
            )
        case pinecone.ServiceError():
            return SinkFailure(
                ErrorKind.SINK,
                f"Pinecone: {error}",
                outcome_unknown=True,
                timed_out=True,
                retry_after=_wait(error),
            )
        case pinecone.ApiError() if error.status_code in (400, 413, 422):
            large = error.status_code == 413
            return SinkFailure(ErrorKind.ITEM, f"Pinecone: {error}", throttled=large)
        case pinecone.ApiError():
            return SinkFailure(ErrorKind.SINK, f"Pinecone: {error}")
        case pinecone.PineconeValueError() | pinecone.PineconeTypeError():
            return SinkFailure(ErrorKind.ITEM, f"Pinecone's client: {error}")
        case _:
            return SinkFailure(
                ErrorKind.UNKNOWN, f"{type(error).__name__}: {error}", outcome_unknown=True
            )


def _wait(error: pinecone.ApiError) -> float | None:
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    return seconds_of(headers.get("retry-after"))


def open_sink(settings: Settings, vectors: VectorStore) -> Sink | None:
    """The sink, or None when no PINECONE_API_KEY is set."""
    if settings.pinecone_api_key is None:
        return None
    return Sink(
        settings.pinecone_api_key.get_secret_value(),
        host=settings.pinecone_controller_host,
        timeout=settings.altsync_sink_timeout_seconds,
        dimensions=settings.altsync_embedding_dimensions,
        cloud=settings.altsync_pinecone_cloud,
        region=settings.altsync_pinecone_region,
        prefix=settings.altsync_prefix,
        hosts=settings.pinecone_hosts,
    )
