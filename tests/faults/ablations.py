"""The rules of the protocol, each of which can be switched off by name.

An ablation replaces statements, settings and functions of the product in this process, and so in
all that it forks. A statement without the text to replace is an error: no ablation gets stale
unnoticed.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from types import SimpleNamespace
from typing import Any

from altsync.catalogue.current import entity_type
from altsync.delivery.reading import read_batch
from altsync.outbox.claim import _FAILURES
from tests.faults.server import Rule


class StaleAblation(Exception):
    """The text that an ablation replaces is not there, or not once."""


@dataclass(frozen=True, slots=True)
class Injection:
    """The replacement of ``name`` in a module of altsync; ``name`` may be ``Class.method``."""

    module: str
    name: str
    make: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Ablation:
    """A rule that is switched off.

    ``statements`` run on the database first; ``rules_off`` are dropped by the simulated servers.
    """

    rule: str
    injections: tuple[Injection, ...] = ()
    statements: tuple[str, ...] = ()
    rules_off: frozenset[Rule] = frozenset()


def _swap(target: str, make: Callable[[Any], Any]) -> Injection:
    """Replace a function or a setting by what ``make`` returns for it."""
    module, name = target.split(":")
    return Injection(f"altsync.{module}", name, make)


def _sql(target: str, *changes: tuple[str, str]) -> Injection:
    """Change the text of a statement, or of each one in a mapping."""

    def changed(text: str) -> str:
        for old, new in changes:
            if text.count(old) != 1:
                raise StaleAblation(f"{target} has {text.count(old)} times: {old!r}")
            text = text.replace(old, new)
        return text

    def make(value: str | dict[str, str]) -> str | dict[str, str]:
        if isinstance(value, str):
            return changed(value)
        return {key: changed(text) for key, text in value.items()}

    return _swap(target, make)


class _Rewriting:
    """A connection that changes the statements passed to ``execute``."""

    def __init__(self, conn: Any, change: Callable[[str], str]) -> None:
        self._conn = conn
        self._change = change

    def execute(self, statement: str, *arguments: Any, **options: Any) -> Any:
        """Execute the changed statement."""
        return self._conn.execute(self._change(statement), *arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)


def _sql_of(target: str, pattern: str, new: str) -> Injection:
    """Change the statements that a function executes, or the parts of one that it returns."""

    def change(text: str) -> str:
        return re.sub(pattern, new, text)

    def make(function: Callable[..., Any]) -> Callable[..., Any]:
        if not re.search(pattern, inspect.getsource(function)):
            raise StaleAblation(f"{target} has no text like {pattern!r}")

        @wraps(function)
        def changed(first: Any, *arguments: Any, **options: Any) -> Any:
            if hasattr(first, "execute"):
                first = _Rewriting(first, change)
            result: Any = function(first, *arguments, **options)
            if isinstance(result, str):
                return change(result)
            return map(change, result) if inspect.isgeneratorfunction(function) else result

        return changed

    return _swap(target, make)


def _keep_lease(hold: Callable[..., bool]) -> Callable[..., bool]:
    return lambda *arguments: hold(*arguments) or True


def _forget_requests(needs_rerun: Callable[..., bool]) -> Callable[..., bool]:
    return lambda ended: needs_rerun(replace(ended, rerun_requested=False))


def _confirm_nothing(follow_up: Callable[..., None]) -> Callable[..., None]:
    return lambda conn, sink, *rest: follow_up(conn, replace(sink, guarded=True), *rest)


def _forget_unknown(follow_up: Callable[..., None]) -> Callable[..., None]:
    def changed(
        conn: Any, sink: Any, ended: Any, reruns: set[int], unknown: set[int], plan: Any
    ) -> None:
        follow_up(conn, sink, ended, reruns, unknown - reruns, plan)

    return changed


#: The rows that the delivery under way in a thread has read too early.
_early = threading.local()


def _read_before_claim(waits: Callable[..., bool]) -> Callable[..., bool]:
    """Read the rows of all waiting operations where the claim would come next."""

    def changed(delivery: Any, conn: Any) -> bool:
        waiting = conn.execute(
            "SELECT entity_type, entity_id FROM sync_operation "
            "WHERE sink = %s AND finished_at IS NULL",
            (delivery._traits.name,),
        ).fetchall()
        operations: list[Any] = [
            SimpleNamespace(entity_type=entity_type(row[0]), entity_id=row[1], namespaces=())
            for row in waiting
        ]
        delivery._early = read_batch(delivery._database, delivery._traits, operations)
        delivery._at("read early")
        return waits(delivery, conn)

    return changed


def _remember_early(write_and_settle: Callable[..., Any]) -> Callable[..., Any]:
    def changed(delivery: Any, *arguments: Any) -> Any:
        _early.rows = delivery._early
        return write_and_settle(delivery, *arguments)

    return changed


def _prefer_early(read: Callable[..., dict[Any, Any]]) -> Callable[..., dict[Any, Any]]:
    def changed(*arguments: Any) -> dict[Any, Any]:
        return {key: _early.rows.get(key, row) for key, row in read(*arguments).items()}

    return changed


def _write_in_transaction(write: Callable[..., None]) -> Callable[..., None]:
    def changed(writer: Any, *arguments: Any) -> None:
        with writer._database.transaction():
            write(writer, *arguments)

    return changed


def _nothing(_original: Any) -> Callable[..., None]:
    return lambda *_arguments: None


_NO_FENCE = "%(token)s::uuid IS NOT NULL"

ABLATIONS: dict[str, Ablation] = {
    "lease_fence": Ablation(
        "a settle changes only what its own token still holds",
        (
            _sql("outbox.ends:_COMPLETE", ("o.lease_token = %(token)s", _NO_FENCE)),
            _sql("outbox.ends:_SUPERSEDE", ("o.lease_token = %(token)s", _NO_FENCE)),
            _sql("outbox.ends:_DEAD_LETTER", ("o.lease_token = %(token)s", _NO_FENCE)),
            _sql("outbox.ends:_RETRY", ("o.lease_token = %(token)s", _NO_FENCE)),
        ),
    ),
    "lease_check_before_calls": Ablation(
        "H23: no call without the lease",
        (_swap("delivery.state:hold_lease", _keep_lease),),
    ),
    "rerun_requested": Ablation(
        "H5: a change during a lease gets a follow-up",
        (_swap("outbox.settle:_needs_rerun", _forget_requests),),
    ),
    "confirm": Ablation(
        "H10: a write that an unguarded sink may still apply late is confirmed",
        (_swap("outbox.settle:_follow_up", _confirm_nothing),),
    ),
    "merged_confirm_keeps_unknown": Ablation(
        "H11: a change that merges into a confirming write still owes one",
        (
            _sql(
                "outbox.enqueue:MERGE_INTO_LIVE",
                (
                    "OR (o.status = 'pending' AND o.origin = 'confirm')",
                    "",
                ),
            ),
        ),
    ),
    "confirm_waits_for_embedding": Ablation(
        "H10: an operation that ends waiting for its embedding keeps its unknown outcome",
        (
            _sql(
                "outbox.settle:_CLOSE_EARLIER",
                ("OR (o.status = 'superseded' AND o.outcome_unknown)", ""),
            ),
        ),
    ),
    "follow_up_keeps_unknown": Ablation(
        "H11: a follow-up keeps an unknown outcome",
        (_swap("outbox.settle:_follow_up", _forget_unknown),),
    ),
    "lost_lease_is_unknown": Ablation(
        "H10: what a vanished worker may have sent may still land",
        (
            _sql(
                "outbox.claim:_CLAIM",
                ("o.outcome_unknown OR o.lease_token IS NOT NULL", "o.outcome_unknown"),
            ),
        ),
    ),
    "tombstone_guard": Ablation(
        "H12: a late upsert meets the deletion", rules_off=frozenset({Rule.TOMBSTONE_GUARD})
    ),
    "version_guard": Ablation(
        "a guarded sink refuses older versions", rules_off=frozenset({Rule.VERSION_GUARD})
    ),
    "same_version_again": Ablation(
        "H13: the same version may be written again",
        rules_off=frozenset({Rule.SAME_VERSION_AGAIN}),
    ),
    "version_after_lock": Ablation(
        "H4: a version is drawn after the row's lock",
        (
            _sql_of(
                "seed.sql.entities:_renew",
                r"version = nextval\('entity_version'\)",
                "version = excluded.version",
            ),
        ),
    ),
    "entity_locks": Ablation(
        "H6: a transaction that writes operations locks the entities first",
        (_swap("outbox.settle:lock_entities", _nothing),),
    ),
    "upsert_order": Ablation(
        "H7: rows are locked in the order of their ids",
        (_sql_of("seed.sql.entities:upsert_staged", r"ORDER BY s\.id", ""),),
    ),
    "claim_weights": Ablation(
        "H9: those whose worker vanished come fewer at a time",
        (
            _sql(
                "outbox.claim:_CLAIM",
                (f"LEAST(1.0, power(10.0::float8, LEAST({_FAILURES}, 6)) / %(n)s)", "1.0 / %(n)s"),
            ),
        ),
    ),
    "status_compare_and_set": Ablation(
        "a status flips only at the version that was written",
        (
            _sql_of(
                "outbox.settled_entities:_changes",
                r"WHEN r\.flips AND l\.\S+ = r\.version",
                "WHEN r.flips",
            ),
        ),
    ),
    "text_hash_compare": Ablation(
        "H15: a row is embedded only when the vector of its own text is kept",
        (_sql("outbox.settled_entities:_KEPT", ("AND e.text_hash = l.text_hash", "LIMIT 1")),),
    ),
    "one_live_operation": Ablation(
        "H1: at most one live operation per sink and entity; here claims look at leases instead",
        (
            _sql(
                "outbox.enqueue:MERGE_INTO_LIVE",
                ("ON CONFLICT (entity_id, sink) WHERE finished_at IS NULL", "ON CONFLICT (id)"),
            ),
            _sql(
                "outbox.claim:_CLAIM",
                (
                    "AND (lease_token IS NULL OR attempts < %(max_attempts)s)",
                    """AND NOT EXISTS (
                      SELECT 1 FROM sync_operation x
                      WHERE x.entity_id = sync_operation.entity_id
                        AND x.sink = sync_operation.sink
                        AND x.status = 'in_progress' AND x.available_at > now())""",
                ),
            ),
        ),
        statements=("DROP INDEX sync_operation_live",),
    ),
    "read_after_claim": Ablation(
        "H8: rows are read in a later statement than the claim",
        (
            _swap("delivery.batches:read_batch", _prefer_early),
            _swap("delivery.batches:Delivery._write_and_settle", _remember_early),
            _swap("delivery.batches:Delivery._waits", _read_before_claim),
        ),
    ),
    "content_addressed_vectors": Ablation(
        "H16: the same text is not embedded twice",
        (_swap("store.vectors:EmbeddingCache.known", lambda _known: lambda *_arguments: set()),),
    ),
    "attempts_given_back": Ablation(
        "an outage does not spend attempts",
        (_sql("outbox.ends:_RETRY", ("WHEN r.give_back THEN", "WHEN false THEN")),),
    ),
    "purge_waits": Ablation(
        "H14: an entity stays until every sink has confirmed its deletion",
        (
            _sql_of(
                "outbox.upkeep:purge_deleted",
                r"AND \(o\.finished_at IS NULL OR o\.status = 'dead'\)",
                "AND false",
            ),
        ),
    ),
    "no_call_in_a_transaction": Ablation(
        "no remote call happens inside an open transaction",
        (_swap("delivery.writer:Writer.write", _write_in_transaction),),
    ),
    "success_closes_dead": Ablation(
        "a success closes older dead operations",
        (_sql("outbox.settle:_CLOSE_EARLIER", ("WHERE (o.status = 'dead'", "WHERE (false")),),
    ),
    "timeout_count": Ablation(
        "H22: a record that hangs the sink each time is told from an outage",
        (_swap("delivery.calls:TIMEOUTS", lambda _limit: 1_000_000),),
    ),
}


@contextmanager
def without(name: str | None) -> Iterator[Ablation]:
    """Switch the rule ``name`` off, or none. Raises ``StaleAblation``."""
    ablation = ABLATIONS[name] if name else Ablation("every rule holds")
    with ExitStack() as stack:
        for injection in ablation.injections:
            stack.enter_context(_injected(injection))
        yield ablation


@contextmanager
def _injected(injection: Injection) -> Iterator[None]:
    """Replace the value in its module, and in all that have imported it from there."""
    owner: Any = importlib.import_module(injection.module)
    *path, name = injection.name.split(".")
    for part in path:
        owner = getattr(owner, part)
    value = getattr(owner, name)
    holders = [owner]
    # A setting, or a function imported from elsewhere, changes for this module alone.
    own = getattr(value, "__module__", injection.module) == injection.module
    if not path and own and not isinstance(value, int):
        holders = [
            module
            for imported, module in list(sys.modules.items())
            if imported.startswith(("altsync", "tests")) and getattr(module, name, None) is value
        ]
    changed = injection.make(value)
    for holder in holders:
        setattr(holder, name, changed)
    try:
        yield
    finally:
        for holder in holders:
            setattr(holder, name, value)
