"""Erase an entity: delete it everywhere, remove its rows, and read every store.

Each step may be interrupted: the same call goes on where the last one ended. Until the row is
removed, the outbox deletes from the sinks. Afterwards the erasure itself has the names.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from altsync import erased
from altsync.app import Application
from altsync.catalogue.current import part_of
from altsync.contract import SHADOW, Declaration, imported
from altsync.db import Conn
from altsync.declarations import MIRRORS, SINKS
from altsync.entities import Row
from altsync.erase import receipt, sql
from altsync.erase.receipt import Receipt, Store
from altsync.erase.sql import Target, Unfinished
from altsync.errors import AltsyncError, SinkFailure
from altsync.installation import installation_id
from altsync.log import redact
from altsync.operations import Origin
from altsync.outbox.versions import newest_version
from altsync.queries.kinds import entity_named
from altsync.seed.reader import find as find_lines
from altsync.seed.sql.deletion import tombstone

#: Seconds between two looks at the operations.
POLL = 0.2


@dataclass(frozen=True, slots=True)
class Request:
    """A request to erase one entity, by its key or seed id.

    ``timeout`` is in seconds: how long to wait for the workers.
    """

    entity: str
    name: str
    reason: str | None
    requested_by: str
    timeout: float = 60.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """An erasure that is not complete: why, by sink. The same request goes on with it."""

    reasons: tuple[str, ...]
    is_dead: bool = False


def erase(
    app: Application,
    request: Request,
    *,
    wait: Callable[[float], object] = time.sleep,
    at: Callable[[str], None] = lambda point: None,
) -> Receipt | Waiting:
    """Erase an entity from every store. Return the receipt, or what it waits for.

    Raises ``AltsyncError`` for an unknown entity, and for a parent that others still name.
    """
    begun = _begin(app, request)
    at("requested")
    target = Target.from_json(begun.target or {})
    if not begun.is_purged:
        blocked = _await(app, target, request.timeout, wait)
        if blocked:
            return blocked
        at("deleted")
        with app.database.transaction() as conn:
            # An operation may be new since: a repair, or a program that loads it again.
            if sql.is_living(conn, target):
                raise AltsyncError(f"{target.kind} {request.name!r} was loaded again meanwhile")
            found = sql.unfinished(conn, target, app.settings.confirm_after_seconds)
            if found:
                return _blocked(app, conn, found)
            sql.purge(conn, target, begun.id)
            at("purging")
        at("purged")
    stores = list(_clear(app, target))
    at("cleared")
    left = [f"{one.name}: {'; '.join(one.found) or one.not_read}" for one in stores if not one.ok]
    if left:
        return Waiting(tuple(left))
    made = receipt.make(
        installation=_installation(app),
        erasure=begun.id,
        target=target,
        reason=begun.reason,
        requested_by=begun.requested_by,
        requested_at=begun.requested_at,
        read_at=datetime.now(UTC),
        stores=stores,
    )
    with app.database.transaction() as conn:
        erased.complete(conn, begun.id, made.hash)
    at("completed")
    return made


def _begin(app: Application, request: Request) -> erased.Begun:
    """Delete the entity and record the erasure in one transaction, or find the one begun."""
    kind = entity_named(request.entity)
    with app.database.transaction() as conn:
        target = sql.find_target(conn, kind, request.name, app.topology.names)
        if target is not None:
            named = sql.children_named(conn, target)
            if named:
                raise AltsyncError(
                    f"{kind} {request.name!r} cannot be erased: {named}. Erase or change them first"
                )
            if sql.is_living(conn, target):
                tombstone(conn, kind, [target.id], app.topology, noted=False, origin=Origin.UPDATE)
            erased.record(
                conn,
                kind,
                target.seed_id,
                target.keys,
                request.reason,
                request.requested_by,
                target.as_json(),
            )
        begun = erased.find(conn, kind, request.name)
    if begun is None:
        raise AltsyncError(f"there is no {kind} {request.name!r}, by its key or seed id")
    if begun.target is None:
        raise AltsyncError(
            f"{kind} {request.name!r} was erased on {begun.requested_at:%Y-%m-%d}: "
            "altsync erase --check RECEIPT reads every store again"
        )
    return begun


def _await(
    app: Application, target: Target, timeout: float, wait: Callable[[float], object]
) -> Waiting | None:
    """Wait until no operation may write the entity any more. Return why one still may."""
    deadline = time.monotonic() + timeout
    while True:
        with app.database.autocommit() as conn:
            found = sql.unfinished(conn, target, app.settings.confirm_after_seconds)
            if not found:
                return None
            if any(one.is_dead for one in found) or time.monotonic() >= deadline:
                return _blocked(app, conn, found)
        wait(POLL)


def _blocked(app: Application, conn: Conn, found: Sequence[Unfinished]) -> Waiting:
    """Return why operations may still write the entity."""
    idle = app.idle(conn)
    reasons = [_why_unfinished(app, one, idle.get(one.sink)) for one in found]
    return Waiting(tuple(dict.fromkeys(reasons)), any(one.is_dead for one in found))


def _why_unfinished(app: Application, one: Unfinished, idle: str | None) -> str:
    if one.sink.removeprefix(SHADOW) not in app.topology.names:
        return f"{one.sink}: not among ALTSYNC_SINKS"
    if one.is_dead:
        return f"{one.sink}: given up on: {one.reason}: run altsync retry --sink {one.sink}"
    disabled = app.disabled_reason(one.sink.removeprefix(SHADOW))
    return f"{one.sink}: {f'switched off: {disabled}' if disabled else idle or one.reason}"


def blank_row(target: Target, key: str, namespace: str | None, version: int) -> Row:
    """Return the row of a deleted entity without its content, as a sink looks for it."""
    kind = target.kind
    fields = dict.fromkeys(kind.columns)
    if kind.namespace_column:
        fields[kind.namespace_column] = namespace
    fields[kind.key_column] = key
    return Row(
        kind,
        target.id,
        key,
        version,
        version,
        True,
        kind.content(**fields),
        content_hash="",
        text_hash="",
        written_namespace=namespace,
        stale_namespaces=target.namespaces,
    )


def _clear(app: Application, target: Target) -> Iterator[Store]:
    """Delete once more from each sink, forget the deletion, and read the store."""
    with app.database.autocommit() as conn:
        version = newest_version(conn)
        sql.remove_from_texts(conn, target)
    for name in _mirrors(app):
        sink = app.sink(name)
        if sink is None:
            yield _switched_off(app, name)
            continue
        forget = _declaration(name).forget
        try:
            for key in target.keys:
                row = blank_row(target, key, next(iter(target.namespaces), None), version)
                sink.delete([row])
                if forget:
                    imported(forget)(sink, row)
        except SinkFailure as failure:
            yield Store(name, not_read=f"no answer: {redact(failure.reason)}")
            continue
        yield look(app, target, name)
    yield look_in_postgresql(app, target)


def _mirrors(app: Application) -> list[str]:
    """Return the sinks to read, and those of a model beside the serving one."""
    found = app.generations()
    shadows = app.topology.vector if found is not None and found.shadow is not None else ()
    named = [name for name in MIRRORS if name in app.topology.names]
    return [*named, *(SHADOW + name for name in shadows)]


def _declaration(name: str) -> Declaration:
    return SINKS[name.removeprefix(SHADOW)]


def _switched_off(app: Application, name: str) -> Store:
    reason = app.disabled_reason(name.removeprefix(SHADOW))
    return Store(name, not_read=f"switched off: {reason}")


def read_stores(app: Application, target: Target) -> Iterator[Store]:
    """Read every store by its own client. Change nothing."""
    for name in _mirrors(app):
        yield look(app, target, name)
    yield look_in_postgresql(app, target)


def look(app: Application, target: Target, name: str) -> Store:
    """Read what a sink holds of an entity, by each of its keys and namespaces."""
    sink = app.sink(name)
    if sink is None:
        return _switched_off(app, name)
    found: dict[str, None] = {}
    try:
        for key in target.keys:
            for space in target.namespaces or ("",):
                shown = imported(_declaration(name).show)(sink, blank_row(target, key, space, 1))
                if shown.agrees is None:
                    return Store(name, not_read=shown.detail)
                if not shown.agrees or shown.lines:
                    found.update(dict.fromkeys(shown.lines or (shown.detail,)))
    except SinkFailure as failure:
        return Store(name, not_read=f"no answer: {redact(failure.reason)}")
    return Store(name, tuple(found))


def look_in_postgresql(app: Application, target: Target) -> Store:
    """Count what PostgreSQL holds of an entity."""
    with app.database.autocommit() as conn:
        counts = sql.remains(conn, target)
    return Store("postgresql", tuple(f"{n:,} in {table}" for table, n in counts.items() if n))


def _installation(app: Application) -> str:
    with app.database.autocommit() as conn:
        return installation_id(conn)


def lines_of(folder: Path, target: Target) -> list[str]:
    """Return the places of seed lines that would bring the entity back."""
    try:
        found = list(find_lines(folder, part_of(target.kind), target.seed_id))
    except AltsyncError:
        return []
    return [f"{folder}/{one.file}:{one.number}" for one in found]


def refused_lines(runs: Path, names: Sequence[str]) -> list[str]:
    """Return the files of refused lines of earlier runs that hold one of the names."""
    needles = [name.encode() for name in names]
    return [
        str(file)
        for file in sorted(runs.glob("*/rejects.jsonl"))
        if any(needle in file.read_bytes() for needle in needles)
    ]
