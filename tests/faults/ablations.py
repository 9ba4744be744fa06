"""The rules of the protocol, each of which can be taken away by name.

An ablation edits the source of the product's own functions and statements in this process, and
so in all that it forks. An edit whose text is not there any more is an error: no ablation goes
stale unseen.
"""

from __future__ import annotations
import __future__ as future

import importlib
import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

from altsync.outbox.claim import _FAILURES
from tests.faults.server import Rule


class StaleAblation(Exception):
    """The text that an ablation takes away is not there, or not once."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Replacements in a function or a constant; ``name`` may be ``Class.method``.

    In a mapping of statements they are made in each of them.
    """

    module: str
    name: str
    changes: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Ablation:
    """A rule taken away.

    ``statements`` run on the database first; ``rules_off`` are dropped by the simulated servers.
    """

    rule: str
    edits: tuple[Edit, ...] = ()
    statements: tuple[str, ...] = ()
    rules_off: frozenset[Rule] = frozenset()


def _edit(target: str, *changes: tuple[str, str]) -> Edit:
    module, name = target.split(":")
    return Edit(f"altsync.{module}", name, changes)


_NO_FENCE = "%(token)s::uuid IS NOT NULL"

ABLATIONS: dict[str, Ablation] = {
    "lease_fence": Ablation(
        "a settle changes only what its own token still holds",
        (
            _edit("outbox.ends:_COMPLETE", ("o.lease_token = %(token)s", _NO_FENCE)),
            _edit("outbox.ends:_SUPERSEDE", ("o.lease_token = %(token)s", _NO_FENCE)),
            _edit("outbox.ends:_DEAD_LETTER", ("o.lease_token = %(token)s", _NO_FENCE)),
            _edit("outbox.ends:_RETRY", ("o.lease_token = %(token)s", _NO_FENCE)),
        ),
    ),
    "lease_check_before_calls": Ablation(
        "H23: no call without the lease",
        (_edit("delivery.lease:hold_lease", ("return held", "return True")),),
    ),
    "rerun_requested": Ablation(
        "H5: what was asked again while it was leased gets a follow-up",
        (
            _edit(
                "outbox.settle:_needs_rerun",
                ("return ended.rerun_requested or newer", "return newer"),
            ),
        ),
    ),
    "confirm": Ablation(
        "H10: what an unguarded sink may still apply late is written once more",
        (_edit("outbox.settle:_follow_up", ("and not sink.guarded", "and False")),),
    ),
    "merged_confirm_keeps_unknown": Ablation(
        "H11: a change that merges into a confirming write still owes one",
        (
            _edit(
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
            _edit(
                "outbox.settle:_CLOSE_EARLIER",
                ("OR (o.status = 'superseded' AND o.outcome_unknown)", ""),
            ),
        ),
    ),
    "follow_up_keeps_unknown": Ablation(
        "H11: a follow-up of what was outcome_unknown is outcome_unknown",
        (
            _edit(
                "outbox.settle:_follow_up",
                ("one.origin, 0.0, op_id in unknown", "one.origin, 0.0, False"),
            ),
        ),
    ),
    "lost_lease_is_unknown": Ablation(
        "H10: what a vanished worker may have sent may still land",
        (
            _edit(
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
            _edit(
                "seed.sql.entities:_renew",
                ("version = nextval('entity_version')", "version = excluded.version"),
            ),
        ),
    ),
    "entity_locks": Ablation(
        "H6: whoever writes operations locks the entities first",
        (
            _edit(
                "outbox.settle:settle",
                (
                    "lock_entities(conn, ((o.op.entity_type, o.op.entity_id) for o in outcomes))",
                    "pass",
                ),
            ),
        ),
    ),
    "upsert_order": Ablation(
        "H7: rows are locked in the order of their ids",
        (_edit("seed.sql.entities:upsert_staged", ("ORDER BY s.id", "")),),
    ),
    "claim_weights": Ablation(
        "H9: those whose worker vanished come fewer at a time",
        (
            _edit(
                "outbox.claim:_CLAIM",
                (f"LEAST(1.0, power(10.0::float8, LEAST({_FAILURES}, 6)) / %(n)s)", "1.0 / %(n)s"),
            ),
        ),
    ),
    "status_compare_and_set": Ablation(
        "a status flips only at the version that was written",
        (
            _edit(
                "outbox.settled_entities:_changes",
                ("CASE WHEN r.flips AND l.{version} = r.version", "CASE WHEN r.flips"),
            ),
        ),
    ),
    "text_hash_compare": Ablation(
        "H15: a row is embedded only when the vector of its own text is kept",
        (_edit("outbox.settled_entities:_KEPT", ("AND e.text_hash = l.text_hash", "LIMIT 1")),),
    ),
    "one_live_operation": Ablation(
        "H1: at most one live operation per sink and entity; here claims look at leases instead",
        (
            _edit(
                "outbox.enqueue:MERGE_INTO_LIVE",
                ("ON CONFLICT (entity_id, sink) WHERE finished_at IS NULL", "ON CONFLICT (id)"),
            ),
            _edit(
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
            _edit(
                "delivery.batches:Delivery.deliver_batch",
                (
                    "operations = [] if",
                    """\
from types import SimpleNamespace
        from altsync.catalogue.current import entity_type
        waiting = conn.execute(
            "SELECT entity_type, entity_id FROM sync_operation "
            "WHERE sink = %s AND finished_at IS NULL",
            (self._traits.name,),
        ).fetchall()
        self._early = read_batch(
            self._database,
            self._traits,
            [
                SimpleNamespace(entity_type=entity_type(r[0]), entity_id=r[1], namespaces=())
                for r in waiting
            ],
        )
        self._at("read early")
        operations = [] if""",
                ),
            ),
            _edit(
                "delivery.batches:Delivery._write_and_settle",
                (
                    "rows = read_batch(self._database, self._traits, operations)",
                    "rows = read_batch(self._database, self._traits, operations)\n"
                    "    rows = {i: self._early.get(i, r) for i, r in rows.items()}",
                ),
            ),
        ),
    ),
    "content_addressed_vectors": Ablation(
        "H16: the same text is not embedded twice",
        (
            _edit(
                "store.vectors:EmbeddingCache.known",
                ("return {r[0] for r in rows}", "return set[str]()"),
            ),
        ),
    ),
    "attempts_given_back": Ablation(
        "an outage does not spend attempts",
        (_edit("outbox.ends:_RETRY", ("WHEN r.give_back THEN", "WHEN false THEN")),),
    ),
    "purge_waits": Ablation(
        "H14: an entity stays until every sink has confirmed its deletion",
        (
            _edit(
                "outbox.upkeep:purge_deleted",
                ("AND (o.finished_at IS NULL OR o.status = 'dead')", "AND false"),
            ),
        ),
    ),
    "no_call_in_a_transaction": Ablation(
        "no remote call happens inside an open transaction",
        (
            _edit(
                "delivery.batches:Delivery._write_and_settle",
                (
                    "self._writer.write(ready, deleted, state, model)",
                    "with self._database.transaction():\n"
                    "        self._writer.write(ready, deleted, state, model)",
                ),
            ),
        ),
    ),
    "success_closes_dead": Ablation(
        "a success closes older dead operations",
        (_edit("outbox.settle:_CLOSE_EARLIER", ("WHERE (o.status = 'dead'", "WHERE (false")),),
    ),
    "timeout_count": Ablation(
        "H22: a record that hangs the sink each time is told from an outage",
        (
            _edit(
                "delivery.calls:Calls._note_failure",
                ("op.timeout_count >= TIMEOUTS - 1", "False"),
            ),
        ),
    ),
}


@contextmanager
def without(name: str | None) -> Iterator[Ablation]:
    """Without the rule ``name``, or with all of them. Raises ``StaleAblation``."""
    ablation = ABLATIONS[name] if name else Ablation("every rule holds")
    with ExitStack() as stack:
        for edit in ablation.edits:
            stack.enter_context(_edited(edit))
        yield ablation


@contextmanager
def _edited(edit: Edit) -> Iterator[None]:
    module = importlib.import_module(edit.module)
    target: Any = module
    for part in edit.name.split("."):
        target = getattr(target, part)
    if isinstance(target, str | dict):
        yield from _edited_constant(edit, target)
    else:
        yield from _edited_function(edit, target, module)


def _edited_constant(edit: Edit, value: str | dict[str, str]) -> Iterator[None]:
    """Everywhere that the constant was imported to."""
    holders = [
        module
        for name, module in list(sys.modules.items())
        if name.startswith("altsync") and getattr(module, edit.name, None) is value
    ]
    changed = (
        _changed(edit, value)
        if isinstance(value, str)
        else {key: _changed(edit, text) for key, text in value.items()}
    )
    for module in holders:
        setattr(module, edit.name, changed)
    try:
        yield
    finally:
        for module in holders:
            setattr(module, edit.name, value)


def _edited_function(edit: Edit, function: FunctionType, module: ModuleType) -> Iterator[None]:
    """In place, so that everybody who imported it has the changed one."""
    source = _changed(edit, textwrap.dedent(inspect.getsource(function)))
    flags = future.annotations.compiler_flag
    names = dict(vars(module))
    exec(  # noqa: S102  (the product's own source, a few words changed)
        compile(source, f"<{edit.name} without a rule>", "exec", flags, dont_inherit=True), names
    )
    original = function.__code__
    function.__code__ = names[function.__name__].__code__
    try:
        yield
    finally:
        function.__code__ = original


def _changed(edit: Edit, text: str) -> str:
    for old, new in edit.changes:
        if text.count(old) != 1:
            raise StaleAblation(
                f"{edit.module}.{edit.name} has {text.count(old)} times: {old!r}; say anew what "
                f"this ablation takes away"
            )
        text = text.replace(old, new)
    return text
