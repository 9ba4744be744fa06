"""Reading what the graph holds, for comparisons and views."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import neo4j
from neo4j import ManagedTransaction

from altsync.catalogue.current import entity_types
from altsync.contract import (
    Digest,
    SinkVersion,
)
from altsync.entities import EntityType
from altsync.protocols import Attempt, once
from altsync.sinks.neo4j import client
from altsync.sinks.neo4j.client import Client
from altsync.sinks.neo4j.statements import (
    COUNT_NODES,
    DIGEST_EDGES,
    DIGEST_NODES,
    DIGEST_PARENTS,
    DIGEST_PRIME,
    EDGES_OF,
    FIND_NODE,
    LIST_BUCKETS,
    LIST_STRANGERS,
    LIST_VERSIONS,
    LIST_WITHOUT_KEY,
    NO_VERSION,
    NODES_OF,
    PARENTS_OF,
    RELATIONSHIPS_OF,
    STRANGE,
    STRANGERS_OF,
    TOMBSTONES_OF,
    VERSIONS_OF,
    WEIGHT_PRIME,
    cypher,
)

#: Nodes per page when the graph is listed.
PAGE = 5000

#: Keys per page when some buckets of a digest are listed.
LIST_PAGE = 1000

#: Neighbours that are named when one node is shown; a parent may have thousands.
SAMPLE = 5


@dataclass(frozen=True, slots=True)
class Edges:
    """A node's edges of one type in one ``direction`` (``out`` or ``in``), with a few names."""

    type: str
    direction: str
    count: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """One entity in the graph: a node, a tombstone, or nothing.

    ``version`` is None for a stub, which another node's edge leads to. ``tombstone`` is the
    version of its deletion, as long as that is remembered.
    """

    node_id: str | None = None
    version: int | None = None
    properties: Mapping[str, Any] = field(default_factory=dict)
    edges: tuple[Edges, ...] = ()
    tombstone: int | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """A node that altsync wrote, with its edges.

    ``parents`` are (type, key) of edges to parents, ``edges`` are (type, key of the target, score)
    of relationships. Another program may have changed any value: a version that is no whole number
    is 0, and a key that is no text is shown as it is.
    """

    version: int
    properties: Mapping[str, Any]
    parents: tuple[tuple[str, Any], ...] = ()
    edges: tuple[tuple[str, str, float | None], ...] = ()


class Reader(Client):
    """The reads of a sink. Each raises ``SinkFailure``."""

    def versions(self, entity_type: EntityType) -> Iterator[SinkVersion]:
        """List the nodes of a type that altsync wrote, in the order of keys."""
        kind = entity_type
        after = ""
        while True:
            page = self._run(partial(_page_of_versions, kind=kind, after=after), guarded=False)
            for record in page:
                yield SinkVersion(record["key"], record["version"], record["hash"])
            if len(page) < PAGE:
                return
            after = page[-1]["key"]

    def find(self, entity_type: EntityType, key: str) -> Held:
        """Return the node of an entity, or its tombstone."""
        return self._run(partial(_find, kind=entity_type, key=key), write=False)

    def count(self, entity_type: EntityType) -> int:
        """Count the nodes of a type that altsync wrote."""
        (found,) = self._aggregate(cypher(COUNT_NODES, entity_type))
        return int(found["count"])

    def digest(self, entity_type: EntityType, modulus: int) -> Digest:
        """Return facts of a type's nodes, by ``sync_version`` modulo ``modulus``.

        Runs one statement each for nodes, parents and relationships, whatever their number. Nodes
        without a version or key are in the bucket ``STRANGE``.
        """
        kind = entity_type
        parts = {"node": cypher(DIGEST_NODES, kind)}
        for parent in enumerate(kind.graph_parents):
            parts[f"parent {parent[1].relation}"] = cypher(DIGEST_PARENTS, kind, parent)
        if kind.edges:
            parts["edge"] = cypher(DIGEST_EDGES, kind)
        primes = {"prime": DIGEST_PRIME, "weight": WEIGHT_PRIME}
        numbers = {"modulus": modulus, "strange": STRANGE} | primes
        found: dict[int, set[tuple[Any, ...]]] = defaultdict(set)
        for part, statement in parts.items():
            for record in self._aggregate(statement, **numbers):
                found[record["bucket"]].add((part, *map(_fact, record.values()[1:])))
        return found

    def keys_in(
        self, entity_type: EntityType, modulus: int, buckets: Sequence[int], ask: Attempt = once
    ) -> Iterator[list[str]]:
        """List the keys of nodes in some buckets of a digest; ``ask`` requests each page."""
        statement = cypher(LIST_BUCKETS, entity_type)
        after = ""
        while True:
            numbers = {"modulus": modulus, "strange": STRANGE, "buckets": list(buckets)}
            page = partial(self._aggregate, statement, after=after, limit=LIST_PAGE, **numbers)
            found = ask(page)
            if found:
                yield [record["key"] for record in found]
            if len(found) < LIST_PAGE:
                return
            after = found[-1]["key"]

    def without_key(self, entity_type: EntityType, limit: int) -> list[str]:
        """Return the graph's ids of nodes with a version and no key."""
        found = self._aggregate(cypher(LIST_WITHOUT_KEY, entity_type), limit=limit)
        return [record["id"] for record in found]

    def nodes(self, entity_type: EntityType, keys: Sequence[str]) -> dict[str, Node]:
        """Return the nodes of ``keys`` that altsync wrote."""
        return self._run(partial(_nodes, entity_type=entity_type, keys=list(keys)), write=False)

    def tombstones(self, entity_type: EntityType, keys: Sequence[str]) -> dict[str, int]:
        """Return the versions at which ``keys`` were deleted, while the graph remembers it."""
        work = partial(find_tombstones, kind=entity_type, keys=list(keys))
        return self._run(work, write=False)

    def strangers(self, entity_type: EntityType, after: str) -> list[str]:
        """Return the keys, after ``after``, of a page of nodes that altsync did not write."""
        statement = cypher(LIST_STRANGERS, entity_type)
        found = self._aggregate(statement, after=after, limit=LIST_PAGE)
        return [record["key"] for record in found]

    def query(self, statement: str, **parameters: Any) -> list[neo4j.Record]:
        """Return the records of a statement that reads."""
        work = partial(client.records, statement=statement, **parameters)
        return self._run(work, write=False, follower=True)


def _page_of_versions(
    tx: ManagedTransaction, *, kind: EntityType, after: str
) -> list[neo4j.Record]:
    return list(client.query(tx, cypher(LIST_VERSIONS, kind), after=after, limit=PAGE))


def _nodes(tx: ManagedTransaction, *, entity_type: EntityType, keys: list[str]) -> dict[str, Node]:
    kind = entity_type
    parents: dict[str, list[tuple[str, Any]]] = defaultdict(list)
    edges: dict[str, list[tuple[str, str, float | None]]] = defaultdict(list)
    for parent in enumerate(kind.graph_parents):
        for record in client.query(tx, cypher(PARENTS_OF, kind, parent), keys=keys):
            parents[record["key"]].append((str(parent[1].relation), record["parent"]))
    if kind.edges:
        for record in client.query(tx, cypher(RELATIONSHIPS_OF, kind), keys=keys):
            target, score = record["target"], record["score"]
            edge = (record["type"], target if isinstance(target, str) else repr(target), score)
            edges[record["key"]].append(edge)
    found: dict[str, Node] = {}
    for record in client.query(tx, cypher(NODES_OF, kind), keys=keys):
        key, properties = record["key"], dict(record["properties"])
        version = whole_version(properties.pop("sync_version"))
        found[key] = Node(version, properties, tuple(parents[key]), tuple(edges[key]))
    return found


def whole_version(version: Any) -> int:
    """Return a version that any program may have written; 0 for an invalid one."""
    return version if isinstance(version, int) and not isinstance(version, bool) else 0


def _fact(value: Any) -> Any:
    """Return a value of a digest that can be hashed; another program may have written a list."""
    return value if isinstance(value, str | int | float | None) else repr(value)


def _find(tx: ManagedTransaction, *, kind: EntityType, key: str) -> Held:
    tombstones = list(client.query(tx, TOMBSTONES_OF, keys=[f"{kind.label}:{key}"]))
    tombstone = tombstones[0]["version"] if tombstones else None
    node = client.query(tx, cypher(FIND_NODE, kind), key=key).single()
    if node is None:
        return Held(tombstone=tombstone)
    edges = [
        Edges(r["type"], direction, r["count"], tuple(r["names"]))
        for direction, tail, head in (("out", "-", "->"), ("in", "<-", "-"))
        for r in client.query(
            tx,
            cypher(EDGES_OF, kind, tail=tail, head=head, keys=_any_key()),
            key=key,
            sample=SAMPLE,
        )
    ]
    properties = dict(node["properties"])
    properties.pop("altsync_stub", None)
    version = (
        whole_version(properties.pop("sync_version")) if "sync_version" in properties else None
    )
    return Held(node["id"], version, properties, tuple(edges), tombstone)


def _any_key() -> str:
    """Return the key properties of all types in Cypher, for a neighbour of any type."""
    names = [kind.key_property for kind in entity_types()]
    names += [parent.key for kind in entity_types() for parent in kind.graph_parents]
    return ", ".join(f"other.{name}" for name in dict.fromkeys(names))


def newer_versions(tx: ManagedTransaction, kind: EntityType, keys: Sequence[str]) -> dict[str, int]:
    """Return the versions of newer nodes and tombstones of ``keys``."""
    nodes = client.query(tx, cypher(VERSIONS_OF, kind), keys=list(keys))
    found = {r["key"]: whole_version(r["version"]) for r in nodes}
    for key, version in find_tombstones(tx, kind, keys).items():
        found[key] = max(version, found.get(key, 0))
    return found


def find_strangers(tx: ManagedTransaction, kind: EntityType, keys: Sequence[str]) -> set[str]:
    """Return the keys that belong to nodes which altsync did not write."""
    found = client.query(tx, cypher(STRANGERS_OF, kind), keys=list(keys))
    return {record["key"] for record in found}


def find_tombstones(
    tx: ManagedTransaction, kind: EntityType, keys: Sequence[str]
) -> dict[str, int]:
    """Return the versions of the tombstones of ``keys``."""
    prefix = f"{kind.label}:"
    stones = client.query(tx, TOMBSTONES_OF, keys=[prefix + key for key in keys])
    return {stone["key"].removeprefix(prefix): _refusing(stone["version"]) for stone in stones}


def _refusing(version: Any) -> int:
    """Return a tombstone's version; an invalid one refuses every row."""
    if isinstance(version, float) and version.is_integer():
        return int(version)
    whole = isinstance(version, int) and not isinstance(version, bool)
    return version if whole else NO_VERSION
