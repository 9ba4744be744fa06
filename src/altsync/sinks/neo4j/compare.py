"""Comparison of the graph: digests first, then only the buckets that differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from altsync.catalogue.current import children_of, entity_types
from altsync.contract import Drift
from altsync.entities import EntityType, Row
from altsync.projection import graph_node
from altsync.sinks.neo4j.read import Node
from altsync.sinks.neo4j.statements import DIGEST_PRIME, STRANGE, WEIGHT_PRIME
from altsync.sinks.neo4j.write import Sink
from altsync.store.reads import missing_parents
from altsync.verify.comparison import Comparison, Difference, ahead_of, check_owner, differing
from altsync.verify.confirm import Observed, confirm
from altsync.verify.digests import graph_digest
from altsync.verify.orphans import find_orphans, remove_orphans
from altsync.verify.pending_repairs import KEPT, Orphan, PendingRepairs
from altsync.verify.report import Tally
from altsync.verify.retry import RetryPolicy, hung
from altsync.verify.sql import deleted_keys

#: The namespace of orphans that have no key: they go by the graph's own ids.
WITHOUT_KEY = "without_key"

#: Digits of a score: what the table keeps of it.
SCORE = 5e-6


@dataclass(frozen=True, slots=True)
class _Found:
    """A node, and the targets of its edges that are deleted entities.

    ``tombstone`` is the version of its deletion, 0 for none. Lower versions are refused, with or
    without a node.
    """

    node: Node | None
    deleted_targets: frozenset[str] = frozenset()
    tombstone: int = 0


def compare(run: Comparison, sink: Sink, tally: Tally) -> None:
    """Compare every type of entity. Raises ``SinkFailure``."""
    check_owner(_retry(run), sink.check_owner)
    pending = PendingRepairs()
    kinds = list(entity_types())
    for done, entity_type in enumerate(kinds):
        run.progress(tally.sink, done, len(kinds))
        if run.sampled is not None:
            _entities(run, sink, tally, pending, entity_type, run.sample_of(entity_type))
            continue
        modulus, buckets = _differing(run, sink, entity_type)
        listed = run.entities(entity_type, sink.traits, modulus, buckets)
        _entities(run, sink, tally, pending, entity_type, listed)
        if buckets:
            for keys in sink.keys_in(entity_type, modulus, buckets, _retry(run)):
                pending.add_orphans(_orphans(run, sink, tally, entity_type, keys))
        if STRANGE in buckets:
            pending.add_orphans(_without_key(run, sink, tally, entity_type))
    if run.sampled is None:
        _stubs(run, tally)
    run.progress(tally.sink, len(kinds), len(kinds))
    _apply(run, sink, tally, pending)


def _stubs(run: Comparison, tally: Tally) -> None:
    """Count parents that entities name and that are not loaded: their nodes stay stubs."""
    with run.database.autocommit() as conn:
        for parent, key in missing_parents(conn):
            by = " and ".join(one.many for one in children_of(parent))
            tally.note(Drift.MISSING, f"{parent.one} {key} (named by {by}, not loaded)")


def _apply(run: Comparison, sink: Sink, tally: Tally, pending: PendingRepairs) -> None:
    """Do the pending repairs, if they are few enough."""

    def reset_versions(kind: EntityType, keys: list[str]) -> None:
        sink.reset_versions(kind, keys, run.highest)

    def remove(kind: EntityType, namespace: str, keys: list[str], version: int) -> None:
        if namespace == WITHOUT_KEY:
            sink.remove_without_key(kind, keys)
            return
        # An invalid version would keep the node, and refuse a later entity of its key.
        sink.reset_versions(kind, keys, run.highest)
        sink.remove(kind, keys, version)

    counted = pending.orphans and run.options.repair
    held = sum(_retry(run)(partial(sink.count, kind)) for kind in entity_types()) if counted else 0
    if run.admits(tally, pending, held):
        run.overwrite(tally, sink.traits, pending.ahead_of_source, reset_versions)
        remove_orphans(run, tally, sink.traits, pending.orphans, remove)


def _retry(run: Comparison) -> RetryPolicy:
    """Return a policy that repeats once what the driver itself does not repeat."""
    return RetryPolicy(run.wait, tries=2, worth=hung)


def _differing(run: Comparison, sink: Sink, entity_type: EntityType) -> tuple[int, list[int]]:
    """Return the number of buckets, and the buckets to list: differing ones, or all if deep."""
    if run.options.deep:
        return 1, [STRANGE, 0]
    modulus = run.modulus(entity_type)
    held = _retry(run)(partial(sink.digest, entity_type, modulus))
    with run.database.autocommit() as conn:
        wanted = graph_digest(conn, entity_type, modulus, prime=DIGEST_PRIME, weight=WEIGHT_PRIME)
    return modulus, differing(wanted, held)


def _entities(
    run: Comparison,
    sink: Sink,
    tally: Tally,
    pending: PendingRepairs,
    entity_type: EntityType,
    listed: Iterator[list[UUID]],
) -> None:
    """Find entities that are missing, stale or ahead."""

    def read(ids: Sequence[UUID]) -> Mapping[UUID, Observed[Row]]:
        return run.observe(entity_type, ids, [tally.sink], with_edges=True)

    for ids in listed:
        found = confirm(
            ids,
            read=read,
            fetch=partial(_fetch, run, sink, entity_type),
            compare=lambda _, row, held: _difference(row, held, run.highest, deep=run.options.deep),
            grace=run.options.grace,
            wait=run.wait,
        )
        tally.pending += found.pending
        run.note(tally, sink.traits, entity_type, found.drift, pending)


def _fetch(
    run: Comparison,
    sink: Sink,
    entity_type: EntityType,
    observed: Mapping[UUID, Observed[Row]],
) -> Mapping[UUID, _Found]:
    rows = {entity: one.fact for entity, one in observed.items() if one.fact is not None}
    keys = [row.key for row in rows.values()]
    nodes = _retry(run)(partial(sink.nodes, entity_type, keys))
    tombstones = _retry(run)(partial(sink.tombstones, entity_type, keys))
    wanted = {edge.target for row in rows.values() for edge in row.edges or ()}
    others = {target for node in nodes.values() for _, target, _ in node.edges} - wanted
    deleted_targets: frozenset[str] = frozenset()
    if others:
        # The edges of a deleted entity are removed with its node, by its own operation.
        with run.database.autocommit() as conn:
            deleted_targets = frozenset(deleted_keys(conn, entity_type, sorted(others)))
    return {
        entity: _Found(nodes.get(row.key), deleted_targets, tombstones.get(row.key, 0))
        for entity, row in rows.items()
    }


def _difference(
    row: Row | None, found: _Found | None, highest: int, *, deep: bool
) -> Difference | None:
    if row is None or row.deleted or found is None:
        return None  # listed as an orphan, if the graph has it
    node = found.node
    # A tombstone above the row refuses it, as a newer node does: PostgreSQL was restored from a
    # backup that is older than the deletion.
    versions = (found.tombstone, node.version if node else 0)
    ahead, invalid_version = ahead_of(row.graph_version, versions, highest)
    if ahead:
        return Difference(Drift.AHEAD, version=ahead, invalid_version=invalid_version)
    if node is None:
        return Difference(Drift.MISSING, invalid_version=invalid_version)
    edges = _wrong_edges(row, node, found.deleted_targets)
    older = node.version < row.graph_version
    if invalid_version or older or edges or _differs(row, node, deep=deep):
        return Difference(Drift.STALE, edges=edges, invalid_version=invalid_version)
    return None


def _wrong_edges(row: Row, node: Node, deleted: frozenset[str]) -> int:
    """Count relationships that are missing, surplus, or of another score."""
    wanted = {(edge.relation, edge.target): edge.score for edge in row.edges or ()}
    held = {(kind, target): score for kind, target, score in node.edges if target not in deleted}
    duplicates = len([edge for edge in node.edges if edge[1] not in deleted]) - len(held)
    scores = sum(not _same_score(wanted[e], held[e]) for e in wanted.keys() & held.keys())
    return len(wanted.keys() ^ held.keys()) + scores + duplicates


def _same_score(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    if not isinstance(other, int | float):
        return False  # written by hand
    return abs(one - other) < SCORE


def _differs(row: Row, node: Node, *, deep: bool) -> bool:
    wanted = graph_node(row)
    relations = (str(parent.relation) for parent in row.entity_type.graph_parents)
    named = zip(relations, wanted.parents, strict=True)
    if sorted(node.parents, key=repr) != sorted((one for one in named if one[1]), key=repr):
        return True
    if deep:
        return any(node.properties.get(name) != value for name, value in wanted.properties.items())
    return node.properties.get("content_hash") != row.content_hash


def _orphans(
    run: Comparison, sink: Sink, tally: Tally, entity_type: EntityType, keys: Sequence[str]
) -> list[Orphan]:
    def fetch(page: Sequence[str]) -> Mapping[str, int]:
        nodes = _retry(run)(partial(sink.nodes, entity_type, page))
        return {key: node.version for key, node in nodes.items()}

    return find_orphans(run, tally, entity_type, keys, fetch, run.options.grace)


def _without_key(
    run: Comparison, sink: Sink, tally: Tally, entity_type: EntityType
) -> list[Orphan]:
    """Return nodes with a version and without a key: altsync did not write them."""
    found = _retry(run)(partial(sink.without_key, entity_type, KEPT))
    for one in found:
        tally.note(Drift.ORPHAN, f"{entity_type.label} {one} without {entity_type.key_property}")
    return [Orphan(entity_type, one, 0, WITHOUT_KEY) for one in found]
