"""The graph: nodes with the edges to their parents, guarded by version."""

from __future__ import annotations

import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from typing import Any, ClassVar, LiteralString, TypeVar, cast
from uuid import UUID

import neo4j
import structlog
from neo4j import GraphDatabase, ManagedTransaction
from neo4j import exceptions as errors

from altsync.catalogue.current import entity_types
from altsync.config import Settings
from altsync.contract import (
    AlreadyNewer,
    Answer,
    Digest,
    Failed,
    Installation,
    RecordOutcome,
    SinkTraits,
    SinkVersion,
    Written,
)
from altsync.deadline import SharedClient
from altsync.entities import Edge, EntityType, Model, ParentEdge, Row
from altsync.errors import ConfigurationError, SinkFailure
from altsync.operations import ErrorKind
from altsync.ownership import SAMPLED, Guard, Ownership, Store
from altsync.projection import graph_node
from altsync.protocols import Ask, VectorStore, once
from altsync.sinks.neo4j import SINK

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: Rows per transaction: within the 500 to 5,000 where UNWIND + MERGE runs best, and small
#: enough that one call stays far below its timeout.
BATCH = 500

#: Bytes of keys, texts and relationships per transaction: a row has 1 MiB at most, and a server
#: keeps all of a transaction in memory until it commits.
MAX_BYTES = 4_000_000

#: Bytes that one relationship takes in a transaction, about.
EDGE_BYTES = 200

#: Seconds after which an idle connection is asked whether it still is one.
LIVENESS_SECONDS = 20.0

#: Errors of a call of which nothing was sent: no connection was to be had.
NOT_SENT = (errors.ConnectionAcquisitionTimeoutError,)

#: Codes of a CREATE … IF NOT EXISTS that met another process' own in the same moment.
ALREADY_THERE = {
    "Neo.ClientError.Schema.EquivalentSchemaRuleAlreadyExists",
    "Neo.ClientError.Schema.ConstraintAlreadyExists",
    "Neo.ClientError.Schema.IndexAlreadyExists",
}

#: Seconds that a statement gets at least.
MOMENT = 0.01

#: Hours that a deletion is remembered, so that a late upsert finds it.
TOMBSTONE_HOURS = 24

#: Nodes per page when the graph is listed.
PAGE = 5000

#: Keys per page when some buckets of a digest are listed.
LIST_PAGE = 1000

#: Seconds that a statement over all nodes of a type may take; 100,000 nodes take one or two.
AGGREGATE_SECONDS = 60.0

#: Neighbours that are named when one node is shown; a parent may have thousands.
SAMPLE = 5

#: Nodes that one statement writes by itself. Among larger ones, two would meet more often, and the
#: round trips that it saves are a small part of their time.
FEW = 50

#: Code of a constraint that refuses a value: another node has it, or another writer met this one.
CONSTRAINT_VIOLATED = "Neo.ClientError.Schema.ConstraintValidationFailed"

#: Codes of two transactions that met on one key or lock: the same call passes when the other is
#: done. https://neo4j.com/docs/status-codes/current/errors/all-errors/
MET = (
    CONSTRAINT_VIOLATED,
    "Neo.TransientError.Transaction.DeadlockDetected",
    "Neo.TransientError.Transaction.LockAcquisitionTimeout",
    "Neo.TransientError.Transaction.ConstraintsChanged",
    "Neo.TransientError.Transaction.Outdated",
    "Neo.TransientError.Statement.EntityNotFound",
)

#: Part of a call's time in which it is repeated when it met another writer or an old connection,
#: and seconds between two tries at most.
REPEATED, REPEAT_PAUSE = 0.25, 0.5

#: Codes that every record would get: rights, a missing database, a statement that the server does
#: not know, a server that shuts down or lacks memory or disk. They are the sink's at once.
FOR_EVERY_RECORD = (
    "Neo.ClientError.Security.",
    "Neo.ClientError.Database.",
    "Neo.ClientError.Cluster.",
    "Neo.ClientError.General.",
    "Neo.ClientError.Procedure.",
    "Neo.ClientError.Routing.",
    "Neo.ClientError.Schema.",
    "Neo.ClientError.Request.",
    "Neo.ClientError.Statement.SyntaxError",
    "Neo.ClientError.Statement.AccessMode",
    "Neo.ClientError.Statement.NotSystemDatabaseError",
    "Neo.ClientError.Statement.RuntimeUnsupportedError",
    "Neo.ClientError.Statement.UnsupportedOperationError",
    "Neo.ClientError.Transaction.",
    "Neo.TransientError.General.DatabaseUnavailable",
    "Neo.TransientError.General.ForbiddenOnReadOnlyDatabase",
    "Neo.TransientError.Security.",
    "Neo.TransientError.Cluster.",
    "Neo.TransientError.Request.",
    "Neo.TransientError.Transaction.Bookmark",
    "Neo.TransientError.Transaction.Terminated",
    "Neo.TransientError.Transaction.LockClientStopped",
)

#: Codes of the above that one record may cause: a statement that ran too long.
TIMED_OUT = ("Neo.ClientError.Transaction.TransactionTimedOut",)

#: The oldest release whose Cypher knows what altsync writes (``IS :: INTEGER NOT NULL``).
OLDEST = (5, 10)


@dataclass(frozen=True, slots=True)
class _Upserted:
    """What an upsert came to: ids of nodes and edges, and what stood in the way.

    ``newer`` are versions by key, ``strangers`` keys of nodes that altsync neither wrote nor made.
    """

    nodes: Mapping[str, str]
    edges: Mapping[UUID, str]
    newer: Mapping[str, int]
    strangers: Set[str]


#: Of a relationship to a deleted entity: that its source was written after the deletion, so that
#: it means the entity that came back since. A deletion enqueues all that pointed to the entity, so
#: what they held of it before goes.
TO_THE_NEXT_LIFE = (
    "type(old) IN {relations} "
    "AND CASE WHEN o.sync_version IS :: INTEGER NOT NULL THEN o.sync_version ELSE -1 END "
    "> row.version"
)


@lru_cache
def outlives(kind: EntityType) -> str:
    """When an edge ``old`` between a node and its neighbour ``o`` outlives the node's deletion."""
    if kind.edges is None and not children(kind):
        return "false"
    reasons = []
    if kind.edges is not None:
        relations = ", ".join(f"'{one}'" for one in kind.edges.relations)
        reasons.append(TO_THE_NEXT_LIFE.format(relations=f"[{relations}]"))
    if children(kind):
        relations = ", ".join(f"'{one}'" for one in children(kind))
        reasons.append(f"type(old) IN [{relations}]")
    return f"startNode(old) = o AND (({') OR ('.join(reasons)}))"


@lru_cache
def children(kind: EntityType) -> tuple[str, ...]:
    """The types of relationships by which other entities hang on those of a type."""
    found = {p.relation for one in entity_types() for p in one.graph_parents if p.parent == kind}
    return tuple(sorted(str(relation) for relation in found))


def required_parents(kind: EntityType) -> list[tuple[int, ParentEdge]]:
    """Parents that each entity has, with their places among all."""
    return [(i, p) for i, p in enumerate(kind.graph_parents) if p.column not in kind.nullable]


def optional_parents(kind: EntityType) -> list[tuple[int, ParentEdge]]:
    """Parents that an entity may lack, with their places among all."""
    return [(i, p) for i, p in enumerate(kind.graph_parents) if p.column in kind.nullable]


def constraints() -> tuple[str, ...]:
    """The constraints and indexes of the graph; a name stands for one of them."""
    unique = "CREATE CONSTRAINT {name} IF NOT EXISTS FOR (n:{label}) REQUIRE n.{key} IS UNIQUE"
    columns = [kind.key_column for kind in entity_types()]
    found: dict[tuple[str, str], str] = {}
    for kind in entity_types():
        twice = columns.count(kind.key_column) > 1
        name = f"{kind}_{kind.key_column}" if twice else kind.key_column
        found[kind.label, kind.key_property] = f"{name}_unique"
    for kind in entity_types():
        for parent in kind.graph_parents:
            name = f"{parent.column}_{parent.key}_unique"
            found.setdefault((parent.label, parent.key), name)
    found["AltsyncTombstone", "key"] = "tombstone_key_unique"
    found["AltsyncInstallation", "key"] = "installation_key_unique"
    statements = [unique.format(name=n, label=la, key=k) for (la, k), n in found.items()]
    # Names repeat in real data (a Main Street in many towns): an index, no constraint.
    statements += [
        f"CREATE INDEX {kind.name_column}_index IF NOT EXISTS "
        f"FOR (n:{kind.label}) ON (n.{kind.name_column})"
        for kind in entity_types()
        if kind.key_made_from
    ]
    return tuple(statements)


def stub_labels() -> tuple[str, ...]:
    """Labels of nodes that may be stubs: ends of relationships."""
    found = [kind.label for kind in entity_types() if kind.edges]
    found += [parent.label for kind in entity_types() for parent in kind.graph_parents]
    return tuple(dict.fromkeys(found))


#: Label and key of a constraint.
UNIQUE = re.compile(r"FOR \(n:(\w+)\) REQUIRE n\.(\w+) IS UNIQUE")


@lru_cache
def _labels(catalogue: tuple[EntityType, ...]) -> re.Pattern[str]:
    """Where a statement names a label that altsync writes: what a prefix has to tell apart."""
    names = {kind.label for kind in catalogue}
    names |= {parent.label for kind in catalogue for parent in kind.graph_parents}
    names |= {"AltsyncTombstone", "AltsyncInstallation"}
    return re.compile(rf"(?<=:)(?=(?:{'|'.join(sorted(names))})\b)")


#: The names that belong to a database as a whole.
SCHEMA_NAMES = re.compile(r"(?<=CONSTRAINT )(?=\w)|(?<=INDEX )(?=\w)")

#: The node that says whose the graph is. The constraint on its key lets only one be made.
READ_INSTALLATION = """
MATCH (i:AltsyncInstallation {key: 'owner'})
RETURN i.id AS id, i.since AS since, i.database AS database, i.system AS system
"""

MARK_INSTALLATION = """
MERGE (i:AltsyncInstallation {key: 'owner'})
ON CREATE SET i.id = $id, i.since = $since, i.database = $database, i.system = $system
"""

REPLACE_INSTALLATION = """
MERGE (i:AltsyncInstallation {key: 'owner'})
SET i.id = $id, i.since = $since, i.database = $database, i.system = $system
"""

SAMPLE_KEYS = """
MATCH (n:{label}) WHERE {written} RETURN n.{key} AS key LIMIT $limit
"""

#: A value written into a node by hand is no version unless it is a whole number.
WHOLE = "CASE WHEN n.sync_version IS :: INTEGER NOT NULL THEN n.sync_version ELSE -1 END"

#: A node as altsync writes it, by its version and key; to be filled by ``cypher``. No text is
#: below the empty one, and what is no text is nothing beside it.
WRITTEN = "n.sync_version IS :: INTEGER NOT NULL AND n.sync_version >= 0 AND n.{key} >= ''"

#: A node that altsync wrote, or made for a relationship. Others' nodes have neither mark.
OURS = "(n.sync_version IS NOT NULL OR n.altsync_stub = true)"

#: A node that an upsert may write over: also one of altsync's whose version was removed.
WRITABLE = "(n.sync_version IS NOT NULL OR n.altsync_stub = true OR n.content_hash IS NOT NULL)"

UPSERT_NODE = """
UNWIND $rows AS row
OPTIONAL MATCH (t:AltsyncTombstone {{key: '{label}:' + row.key}})
WITH row, t WHERE t IS NULL OR t.version < row.version
MERGE (n:{label} {{{key}: row.key}}) ON CREATE SET n.sync_version = -1
WITH n, row WHERE {writable} AND {whole} <= row.version
SET n += row.properties, n.sync_version = row.version, n.altsync_stub = null
"""

# The parent may not be there yet: a stub, until its own operation fills it.
MOVE_TO_PARENT = """
WITH n, row
OPTIONAL MATCH (n)-[old:{edge}]->(o:{parent_label})
WHERE NOT coalesce(o.{parent_key} = row.parent{place}, false)
DELETE old
WITH DISTINCT n, row
MERGE (p{place}:{parent_label} {{{parent_key}: row.parent{place}}})
  ON CREATE SET p{place}.altsync_stub = true
MERGE (n)-[:{edge}]->(p{place})
"""

# Parents that a node may lack.
LEAVE_PARENT = """
UNWIND $rows AS row
MATCH (n:{label} {{{key}: row.key}})-[old:{edge}]->(o:{parent_label})
WHERE NOT coalesce(o.{parent_key} = row.parent{place}, false)
DELETE old
"""

JOIN_PARENT = """
UNWIND $rows AS row
MATCH (n:{label} {{{key}: row.key}})
MERGE (p:{parent_label} {{{parent_key}: row.parent{place}}}) ON CREATE SET p.altsync_stub = true
MERGE (n)-[:{edge}]->(p)
"""

RETURN_WRITTEN = """
RETURN row.key AS key, elementId(n) AS id
"""

# What is no longer wanted of the relationships that altsync keeps; others' are left alone.
REMOVE_EDGES = """
UNWIND $rows AS row
MATCH (n:{label} {{{key}: row.key}})-[old:{relations}]->(o:{label})
WHERE NOT coalesce((type(old) + ' ' + o.{key}) IN row.wanted, false)
DELETE old
"""

# The relationships that altsync keeps of entities, whose nodes this transaction has locked.
READ_EDGES = """
UNWIND $keys AS key
MATCH (n:{label} {{{key}: key}})-[r:{relations}]->(o:{label})
RETURN key, type(r) AS type, o.{key} AS target, r.score AS score, elementId(r) AS id
"""

# The other entity may not be there yet: a stub, until its own operation fills it. One that was
# deleted after the edge was read stays away, and its edges with it. Only who has locked the source
# draws edges from it, and has read those that are there: CREATE costs half of a MERGE.
CREATE_EDGES = """
UNWIND $edges AS edge
MATCH (n:{label} {{{key}: edge.source}})
OPTIONAL MATCH (t:AltsyncTombstone {{key: '{label}:' + edge.target}})
WITH n, edge, t WHERE t IS NULL OR t.version < edge.target_version
MERGE (o:{label} {{{key}: edge.target}}) ON CREATE SET o.altsync_stub = true
CREATE (n)-[r:{relation} {{score: edge.score}}]->(o)
RETURN edge.id AS id, elementId(r) AS remote
"""

SET_SCORES = """
UNWIND $edges AS edge
MATCH (n:{label} {{{key}: edge.source}})-[r:{relation}]->(o:{label} {{{key}: edge.target}})
SET r.score = edge.score
"""

# Of relationships of one type between the same two nodes, all but one. A MERGE matches each and
# answers once for each: only who was answered twice is asked for here.
REMOVE_DUPLICATES = """
UNWIND $keys AS key
MATCH (n:{label} {{{key}: key}})-[one:{types}]->(o:{target})
WITH n, o, one ORDER BY elementId(one)
WITH n, o, type(one) AS type, collect(one) AS duplicates
UNWIND duplicates[1..] AS duplicate
DELETE duplicate
"""

# An emptied node stays, as the stub that edges make where none is yet, as long as edges lead to it
# that are not of the life that ends here. Emptying comes first: it locks the node, so that nothing
# is drawn to it between looking and deleting. The keys of the nodes that went come back. Nothing
# else may be read in the same transaction: where Neo4j 2026 reads by label, it meets the deleted
# nodes, and refuses.
DELETE_NODE = """
UNWIND $rows AS row
MERGE (t:AltsyncTombstone {{key: '{label}:' + row.key}})
SET t.version = CASE WHEN coalesce(t.version, -1) < row.version
                     THEN row.version ELSE t.version END, t.at = timestamp()
WITH row
MATCH (n:{label} {{{key}: row.key}})
WHERE {ours} AND {whole} <= row.version
SET n = {{{key}: row.key, altsync_stub: true}}
WITH n, row
OPTIONAL MATCH (n)-[old]-(o) WHERE NOT ({outlives})
DELETE old
WITH DISTINCT n, row.key AS key
OPTIONAL MATCH (n)-[kept]-()
WITH n, key, count(kept) AS kept WHERE kept = 0
DELETE n
RETURN key
"""

# An invalid version would block every later write. 0 is below every version, so that the next
# upsert succeeds.
RESET_NODE_VERSIONS = """
MATCH (n:{label}) WHERE n.{key} IN $keys AND n.sync_version IS NOT NULL
  AND NOT coalesce(n.sync_version = toIntegerOrNull(n.sync_version)
                   AND n.sync_version <= $highest, false)
SET n.sync_version = 0
"""

RESET_TOMBSTONE_VERSIONS = """
MATCH (t:AltsyncTombstone) WHERE t.key IN $keys
  AND NOT coalesce(t.version = toIntegerOrNull(t.version) AND t.version <= $highest, false)
DELETE t
"""

VERSIONS_OF = """
MATCH (n:{label}) WHERE n.{key} IN $keys AND {written}
RETURN n.{key} AS key, n.sync_version AS version
"""

STRANGERS_OF = """
MATCH (n:{label}) WHERE n.{key} IN $keys AND NOT coalesce({writable}, false)
RETURN DISTINCT n.{key} AS key
"""

LIST_STRANGERS = """
MATCH (n:{label}) WHERE n.{key} > $after AND NOT coalesce({writable}, false)
RETURN DISTINCT n.{key} AS key ORDER BY key LIMIT $limit
"""

# Version 0 is below every version, so that the next upsert succeeds. No mark of a stub: that would
# let housekeeping remove a node that no edge leads to.
ADOPT_NODES = """
MATCH (n:{label}) WHERE n.{key} IN $keys AND NOT coalesce({writable}, false)
SET n.sync_version = 0
RETURN count(n) AS count
"""

DUPLICATES_OF = """
MATCH (n:{label}) WHERE n.{key} IS NOT NULL
WITH n.{key} AS key, count(*) AS count WHERE count > 1
RETURN key, count ORDER BY count DESC LIMIT 1
"""

TOMBSTONES_OF = """
MATCH (t:AltsyncTombstone) WHERE t.key IN $keys RETURN t.key AS key, t.version AS version
"""

LIST_VERSIONS = """
MATCH (n:{label}) WHERE n.{key} > $after AND {written}
RETURN n.{key} AS key, n.sync_version AS version, n.content_hash AS hash
ORDER BY n.{key} LIMIT $limit
"""

#: Sums over versions stay within 64 bits: a version itself has 51.
DIGEST_PRIME = 1_000_000_007

#: The bucket of nodes that altsync cannot have written so.
STRANGE = -1

#: Tells keys of different length, and the ends of edges, apart in a digest, without a product
#: that could overflow.
WEIGHT_PRIME = 8191

#: A tombstone's version that is no whole number: above all of them, as it refuses them all.
NO_VERSION = 2**63

# Agreement by numbers alone: a version belongs to one state of one entity, so equal counts and
# sums of versions mean equal nodes, as long as nodes are not edited by hand. Some of that shows in
# the keys' lengths and the least and greatest key and hash. Nodes whose version is no number or
# whose key is no text are a bucket of their own, which PostgreSQL never has.
DIGEST_NODES = """
MATCH (n:{label}) WHERE n.sync_version IS NOT NULL
WITH n, CASE WHEN {written} THEN n.sync_version END AS version
WITH n, version, CASE WHEN version IS NOT NULL THEN n.{key} END AS key
RETURN coalesce(version % $modulus, $strange) AS bucket, count(*) AS count,
       sum(version % $prime) AS versions,
       sum((version % $weight) * size(key)) AS keys,
       min(key) AS first, max(key) AS last,
       min(n.content_hash) AS least, max(n.content_hash) AS greatest
"""

DIGEST_PARENTS = """
MATCH (n:{label})-[r:{edge}]->(p:{parent_label}) WHERE {written}
RETURN n.sync_version % $modulus AS bucket, p.{parent_key} AS parent, count(r) AS count,
       sum(n.sync_version % $prime) AS versions
"""

# Edges from a node, told by the versions of both ends: two that swap their targets or scores
# make other sums. A stub counts as 0, a score that PostgreSQL cannot hold as -11. Sums stay
# within 64 bits for a million edges.
DIGEST_EDGES = """
MATCH (n:{label})-[r:{relations}]->(o:{label})
WHERE {written}
WITH n.sync_version AS source, r,
     CASE WHEN o.sync_version IS :: INTEGER NOT NULL THEN o.sync_version ELSE 0 END AS target,
     CASE WHEN r.score IS NULL THEN -1.0
          WHEN r.score > -10 AND r.score < 10 THEN r.score ELSE -11.0 END AS score
RETURN source % $modulus AS bucket, type(r) AS type, count(r) AS count,
       sum((source % $weight) * (target % $prime)) AS ends,
       sum(toInteger(round(score * 100000)) * (source % $weight + target % $weight)) AS scores
"""

COUNT_NODES = """
MATCH (n:{label}) WHERE n.sync_version IS NOT NULL RETURN count(n) AS count
"""

LIST_BUCKETS = """
MATCH (n:{label})
WHERE n.{key} > $after AND n.sync_version IS NOT NULL
  AND CASE WHEN {written} THEN n.sync_version % $modulus ELSE $strange END IN $buckets
RETURN n.{key} AS key ORDER BY n.{key} LIMIT $limit
"""

# No key leads to these: they were written by hand.
LIST_WITHOUT_KEY = """
MATCH (n:{label}) WHERE n.sync_version IS NOT NULL AND NOT coalesce(n.{key} >= '', false)
RETURN elementId(n) AS id ORDER BY id LIMIT $limit
"""

DELETE_WITHOUT_KEY = """
MATCH (n:{label})
WHERE elementId(n) IN $ids AND n.sync_version IS NOT NULL AND NOT coalesce(n.{key} >= '', false)
DETACH DELETE n
"""

NODES_OF = """
MATCH (n:{label}) WHERE n.{key} IN $keys AND n.sync_version IS NOT NULL
RETURN n.{key} AS key, properties(n) AS properties
"""

PARENTS_OF = """
MATCH (n:{label})-[r:{edge}]->(p:{parent_label}) WHERE n.{key} IN $keys
RETURN n.{key} AS key, p.{parent_key} AS parent
"""

RELATIONSHIPS_OF = """
MATCH (n:{label})-[r:{relations}]->(o:{label})
WHERE n.{key} IN $keys
RETURN n.{key} AS key, type(r) AS type, o.{key} AS target, r.score AS score
"""

FIND_NODE = """
MATCH (n:{label} {{{key}: $key}}) RETURN properties(n) AS properties, elementId(n) AS id
"""

# Neighbours are named by whatever their kind is named by.
EDGES_OF = """
MATCH (n:{label} {{{key}: $key}}){tail}[r]{head}(other)
WITH type(r) AS type, coalesce({keys}) AS name
ORDER BY type, name
WITH type, count(*) AS count, collect(name) AS names
RETURN type, count, names[..$sample] AS names ORDER BY type
"""

FORGET_TOMBSTONES = """
MATCH (t:AltsyncTombstone) WHERE t.at < timestamp() - $milliseconds
WITH t LIMIT 10000 DELETE t
"""

# Nodes that altsync made for an edge to lead to, and that no edge leads to any more: parents that
# were left, or deleted before their children were. Others' nodes have no mark,
# and one that was marked by hand has properties of its own.
FORGET_STUBS = """
MATCH (n:{label}) WHERE n.altsync_stub = true AND n.sync_version IS NULL
  AND size(keys(n)) = 2
OPTIONAL MATCH (n)-[kept]-()
WITH n, count(kept) AS kept WHERE kept = 0
DELETE n
RETURN count(*) AS count
"""


@dataclass(frozen=True, slots=True)
class Edges:
    """A node's edges of one type in one ``direction`` (``out`` or ``in``), with a few names."""

    type: str
    direction: str
    count: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """What the graph holds of one entity: a node, a tombstone, or nothing.

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
    """A node that altsync wrote: its version, and what hangs on it.

    ``parents`` are (type, key) of edges to parents, ``edges`` are (type, key of the target, score)
    of relationships that altsync keeps. What
    another program wrote may be of any type: a version that is no whole number is 0, the key of a
    node without one is shown as it is.
    """

    version: int
    properties: Mapping[str, Any]
    parents: tuple[tuple[str, Any], ...] = ()
    edges: tuple[tuple[str, str, float | None], ...] = ()


def cypher(
    template: str, kind: EntityType, parent: tuple[int, ParentEdge] | None = None, **more: str
) -> str:
    """A statement for one type. Its names are the catalogue's, which are checked: no injection.

    ``parent`` is one of its parents, with its place among all.
    """
    place, edge = parent or (0, None)
    return template.format(
        whole=WHOLE,
        ours=OURS,
        writable=WRITABLE,
        written=WRITTEN.format(key=kind.key_property),
        label=kind.label,
        key=kind.key_property,
        relations="|".join(kind.edges.relations) if kind.edges else "",
        edge=edge and edge.relation,
        parent_label=edge and edge.label,
        parent_key=edge and edge.key,
        place=place,
        outlives=outlives(kind),
        **more,
    )


def label_prefix(prefix: str) -> str:
    """Return what stands before each label: a label without quotes takes no hyphen."""
    return f"{prefix.replace('-', '_')}_" if prefix else ""


@lru_cache(1000)
def with_prefix(statement: str, prefix: str) -> str:
    """Return a statement with ``prefix`` before every label and schema name of altsync's."""
    return SCHEMA_NAMES.sub(prefix, _labels(entity_types()).sub(prefix, statement))


class _Prefixed:
    """A transaction that names labels with a prefix: one place, so that no statement is left."""

    def __init__(self, tx: ManagedTransaction, prefix: str) -> None:
        self._tx = tx
        self._prefix = prefix

    def run(self, statement: str, parameters: Mapping[str, Any]) -> neo4j.Result:
        return self._tx.run(with_prefix(statement, self._prefix), dict(parameters))


class _Alone:
    """A session whose statements commit themselves: one round trip each, in place of three."""

    def __init__(self, session: neo4j.Session, seconds: float) -> None:
        self._session = session
        self._seconds = seconds

    def run(self, statement: LiteralString, parameters: Mapping[str, Any]) -> neo4j.Result:
        query = neo4j.Query(statement, timeout=self._seconds)
        return self._session.run(query, dict(parameters))


def prefixed(work: Callable[[ManagedTransaction], T], prefix: str) -> Callable[..., T]:
    """Return ``work`` with every label of its statements behind ``prefix``."""
    if not prefix:
        return work
    return lambda tx: work(cast(ManagedTransaction, _Prefixed(tx, prefix)))


class Sink:
    """Mirrors entities as nodes; an older version never overwrites a newer one."""

    traits: ClassVar[SinkTraits] = SINK.traits

    def __init__(
        self,
        uri: str,
        auth: tuple[str, str] | None,
        *,
        database: str | None,
        timeout: float,
        prefix: str = "",
    ) -> None:

        def connect() -> neo4j.Driver:
            return GraphDatabase.driver(
                uri,
                auth=auth,
                connection_timeout=min(timeout, 5.0),
                # An idle connection is asked first whether it still is one: balancers drop them
                # without a word. The rest of the time is for another one.
                connection_acquisition_timeout=timeout / 3,
                liveness_check_timeout=LIVENESS_SECONDS,
                # Retries wait in PostgreSQL. The driver would repeat every transient error, so
                # that an overload is answered with more calls.
                max_transaction_retry_time=-1.0,
                notifications_min_severity="OFF",
                user_agent="altsync",
            )

        # The driver has no read timeout of its own.
        self._driver = SharedClient(connect, neo4j.Driver.close)
        self._database = database
        self._timeout = timeout
        self._prefix = label_prefix(prefix)
        self.belong_to(None)

    def belong_to(self, ownership: Ownership | None) -> None:
        """Write only where the graph is, or becomes, that installation's."""
        self._guard = Guard(
            ownership,
            Store(
                self.traits.name,
                f"the graph ({self._prefix}… labels)" if self._prefix else "the graph",
                read=self._read_owner,
                mark=partial(self._write_owner, MARK_INSTALLATION),
                replace=partial(self._write_owner, REPLACE_INSTALLATION),
                sample=self._sample,
            ),
        )

    def check_owner(self) -> None:
        """Raise ``SinkFailure`` when the graph is another installation's. Writes nothing."""
        self._guard.check()

    def adopt(self) -> list[Installation]:
        """Make the graph this installation's; returns the former owner. Raises ``SinkFailure``."""
        self._create_schema()
        former = self._guard.adopt()
        return [] if former is None else [former]

    def _read_owner(self) -> Installation | None:
        found = self._run(lambda tx: list(_query(tx, READ_INSTALLATION)), write=False)
        return Installation(*(str(v or "") for v in found[0].values())) if found else None

    def _write_owner(self, statement: str, owner: Installation) -> bool:
        try:
            self._run(partial(_execute, statement=statement, **asdict(owner)), guarded=False)
        except SinkFailure as failure:
            if not failure.lock_conflict:
                raise  # else another process has made the node at the same time
        return True

    def _sample(self) -> dict[EntityType, list[str]]:
        kinds = {kind: cypher(SAMPLE_KEYS, kind) for kind in entity_types()}
        return {
            entity_type: [r["key"] for r in self._aggregate(statement, limit=SAMPLED)]
            for entity_type, statement in kinds.items()
        }

    def setup(self) -> None:
        """Create the constraints and the index, and mark the graph as this installation's."""
        self._guard.check()
        self._create_schema()
        self._guard.require()

    def _create_schema(self) -> None:
        """Run all statements within the timeout of one call."""
        ends = time.monotonic() + self._timeout
        self.check_version()
        for statement in constraints():
            left = max(ends - time.monotonic(), MOMENT)
            try:
                self._run(partial(_execute, statement=statement), guarded=False, timeout=left)
            except SinkFailure as failure:
                if getattr(failure.__cause__, "code", None) not in ALREADY_THERE:
                    self._refuse_duplicates(statement)
                    raise

    def _refuse_duplicates(self, constraint: str) -> None:
        """Raise ``SinkFailure`` when nodes have the same key, which ``constraint`` forbids."""
        named = UNIQUE.search(constraint)
        if named is None:
            return
        label, key = named.groups()
        found = self._aggregate(DUPLICATES_OF.format(label=label, key=key))
        if found:
            raise SinkFailure(
                ErrorKind.SINK,
                f"the graph has {found[0]['count']} {self._prefix}{label} nodes with {key} "
                f"{found[0]['key']!r}, and altsync needs that key to be unique: delete those that "
                "are not altsync's (no sync_version) or change their key, or set ALTSYNC_PREFIX "
                "to keep altsync's labels apart; then run altsync migrate",
            )

    def check_version(self) -> None:
        """Raise ``SinkFailure`` when the server is older than altsync's statements."""
        agent = self._run(_agent, write=False)
        found = re.match(r"Neo4j/(\d+)\.(\d+)", agent)
        if found and (int(found[1]), int(found[2])) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise SinkFailure(
                ErrorKind.SINK,
                f"the graph is {agent}, altsync needs Neo4j {oldest} or newer: upgrade the server",
            )

    def split(self, rows: Sequence[Row], model: Model) -> list[Sequence[Row]]:
        """By count, and by bytes as they will be sent."""
        parts: list[Sequence[Row]] = []
        start = size = 0
        for place, row in enumerate(rows):
            more = _sent_bytes(row)
            if place > start and (size + more > MAX_BYTES or place - start >= BATCH):
                parts.append(rows[start:place])
                start, size = place, 0
            size += more
        return [*parts, rows[start:]] if rows else parts

    def upsert(self, rows: Sequence[Row], model: Model) -> Answer:
        """Write nodes, their edge to the parent and their relationships in one transaction.

        All sorted by key, so that two writers wait for each other instead of in a circle. Without
        relationships one statement writes all of it.
        """
        kind = rows[0].entity_type
        moves = [cypher(MOVE_TO_PARENT, kind, parent) for parent in required_parents(kind)]
        parts = [cypher(UPSERT_NODE, kind), *moves, RETURN_WRITTEN]
        statement = "".join(parts)
        parameters = [_upsert_parameters(row) for row in sorted(rows, key=_by_key)]

        def work(tx: ManagedTransaction) -> _Upserted:
            nodes = _write_nodes(tx, kind, statement, parameters)
            _write_optional_parents(tx, kind, [one for one in parameters if one["key"] in nodes])
            edges = _write_edges(tx, [row for row in rows if row.key in nodes])
            refused = [row.key for row in rows if row.key not in nodes]
            newer = _newer_versions(tx, kind, refused) if refused else {}
            strangers = _strangers(tx, kind, refused) if refused else set[str]()
            return _Upserted(nodes, edges, newer, strangers)

        alone = (
            len(rows) <= FEW
            and all(row.edges is None for row in rows)
            and not optional_parents(kind)
        )
        answer = self._run(work, alone=alone)
        label = self._prefix + kind.label
        return Answer(tuple(_upserted(row, answer, label, kind.key_property) for row in rows))

    def delete(self, rows: Sequence[Row]) -> Answer:
        """Remove nodes with all their edges, and leave tombstones for late upserts."""
        kind = rows[0].entity_type
        parameters = [
            {"key": row.key, "version": row.graph_version} for row in sorted(rows, key=_by_key)
        ]

        ends = time.monotonic() + self._timeout
        deletion = partial(_records, statement=cypher(DELETE_NODE, kind), rows=parameters)
        went = {record["key"] for record in self._run(deletion)}
        others = [row.key for row in rows if row.key not in went]
        kept: dict[str, int] = {}
        if others:
            look = partial(_records, statement=cypher(VERSIONS_OF, kind), keys=others)
            left = max(ends - time.monotonic(), MOMENT)
            found = self._run(look, write=False, timeout=left)
            kept = {record["key"]: _whole(record["version"]) for record in found}
        return Answer(tuple(_deleted(row, kept) for row in rows))

    def versions(self, entity_type: EntityType) -> Iterator[SinkVersion]:
        """Every node of the type that altsync wrote, in the order of keys."""
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
        """Return what the graph holds of one entity now. Raises ``SinkFailure``."""
        return self._run(partial(_find, kind=entity_type, key=key), write=False)

    def count(self, entity_type: EntityType) -> int:
        """Nodes of the type that altsync wrote. Raises ``SinkFailure``."""
        (found,) = self._aggregate(cypher(COUNT_NODES, entity_type))
        return int(found["count"])

    def digest(self, entity_type: EntityType, modulus: int) -> Digest:
        """Return what the graph holds of a type, by ``sync_version`` modulo ``modulus``.

        Costs a statement for nodes, one for parents, one for relationships, however many nodes
        there are. Nodes of no version or key are in the bucket ``STRANGE``. Raises
        ``SinkFailure``.
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

    def _aggregate(self, statement: str, **parameters: Any) -> list[neo4j.Record]:
        def work(tx: ManagedTransaction) -> list[neo4j.Record]:
            return list(_query(tx, statement, **parameters))

        return self._run(work, write=False, timeout=max(self._timeout, AGGREGATE_SECONDS))

    def keys_in(
        self, entity_type: EntityType, modulus: int, buckets: Sequence[int], ask: Ask = once
    ) -> Iterator[list[str]]:
        """Pages of the keys of nodes in some buckets of a digest, each asked for by ``ask``.

        Raises ``SinkFailure``.
        """
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
        """The graph's ids of nodes with a version and no key. Raises ``SinkFailure``."""
        found = self._aggregate(cypher(LIST_WITHOUT_KEY, entity_type), limit=limit)
        return [record["id"] for record in found]

    def remove_without_key(self, entity_type: EntityType, ids: Sequence[str]) -> None:
        """Remove those that have no key still. Raises ``SinkFailure``."""
        statement = cypher(DELETE_WITHOUT_KEY, entity_type)
        self._run(partial(_execute, statement=statement, ids=list(ids)))

    def nodes(self, entity_type: EntityType, keys: Sequence[str]) -> dict[str, Node]:
        """The nodes that altsync wrote among ``keys``. Raises ``SinkFailure``."""
        return self._run(partial(_nodes, entity_type=entity_type, keys=list(keys)), write=False)

    def tombstones(self, entity_type: EntityType, keys: Sequence[str]) -> dict[str, int]:
        """Versions at which ``keys`` were deleted, while the graph remembers it.

        Raises ``SinkFailure``.
        """
        work = partial(_tombstones, kind=entity_type, keys=list(keys))
        return self._run(work, write=False)

    def strangers(self, entity_type: EntityType, after: str) -> list[str]:
        """A page of the keys of nodes that altsync neither wrote nor made, those after ``after``.

        Raises ``SinkFailure``.
        """
        statement = cypher(LIST_STRANGERS, entity_type)
        found = self._aggregate(statement, after=after, limit=LIST_PAGE)
        return [record["key"] for record in found]

    def adopt_nodes(self, entity_type: EntityType, keys: Sequence[str]) -> int:
        """Make strangers' nodes of ``keys`` altsync's, to be written; returns how many there were.

        Raises ``SinkFailure``.
        """
        statement = cypher(ADOPT_NODES, entity_type)
        (found,) = self._run(partial(_records, statement=statement, keys=sorted(keys)))
        return int(found["count"])

    def label(self, entity_type: EntityType) -> str:
        """Return the label of a type's nodes, with the prefix."""
        return self._prefix + entity_type.label

    def reset_versions(self, entity_type: EntityType, keys: Sequence[str], highest: int) -> None:
        """Take from nodes and tombstones what no version is: no number, or above ``highest``.

        Both guards would refuse every write over it. Raises ``SinkFailure``.
        """
        kind = entity_type
        stones = [f"{kind.label}:{key}" for key in keys]

        def work(tx: ManagedTransaction) -> None:
            _execute(
                tx, statement=cypher(RESET_NODE_VERSIONS, kind), keys=sorted(keys), highest=highest
            )
            _execute(tx, statement=RESET_TOMBSTONE_VERSIONS, keys=sorted(stones), highest=highest)

        self._run(work)

    def remove(self, entity_type: EntityType, keys: Sequence[str], version: int) -> None:
        """Remove nodes that are not above ``version``, and leave tombstones of it."""
        rows = [{"key": key, "version": version} for key in sorted(keys)]
        statement = cypher(DELETE_NODE, entity_type)
        self._run(partial(_execute, statement=statement, rows=rows))

    def query(self, statement: str, **parameters: Any) -> list[neo4j.Record]:
        """All records of a read. Raises ``SinkFailure``."""
        work = partial(_records, statement=statement, **parameters)
        return self._run(work, write=False, follower=True)

    def forget_tombstones(self) -> None:
        """Remove deletions that no upsert can be late for any more, and stubs of no use."""
        milliseconds = TOMBSTONE_HOURS * 3600 * 1000
        self._run(partial(_execute, statement=FORGET_TOMBSTONES, milliseconds=milliseconds))
        for label in stub_labels():
            statement = FORGET_STUBS.format(label=label)
            (found,) = self._run(partial(_records, statement=statement))
            if found["count"]:
                log.info("stubs.removed", label=label, count=found["count"])

    def close(self) -> None:
        """Close the driver."""
        self._driver.close()

    def _run(
        self,
        work: Callable[[ManagedTransaction], T],
        *,
        write: bool = True,
        guarded: bool = True,
        follower: bool = False,
        alone: bool = False,
        timeout: float | None = None,
    ) -> T:
        """Run ``work`` in one managed transaction within the timeout.

        ``alone``: each statement of ``work`` commits itself, and may be repeated.

        Of a cluster, the leader answers, and a ``follower`` only where it may: it may lack what was
        just written, by this process or another, and a comparison would call that drift.
        A write that is ``guarded`` is refused where the graph is another installation's.
        """
        if write and guarded:
            self._guard.require()
        seconds = timeout or self._timeout
        work = prefixed(work, self._prefix)

        def once(driver: neo4j.Driver) -> T:
            with driver.session(database=self._database) as session:
                if alone:
                    return work(cast(ManagedTransaction, _Alone(session, seconds)))
                execute = session.execute_read if follower else session.execute_write
                return execute(neo4j.unit_of_work(timeout=seconds)(work))

        def call(driver: neo4j.Driver) -> T:
            until = time.monotonic() + seconds * REPEATED
            while True:
                try:
                    return once(driver)
                except (errors.Neo4jError, errors.DriverError) as error:
                    if time.monotonic() >= until or not _passes_again(error):
                        raise
                time.sleep(random.uniform(0, REPEAT_PAUSE))  # noqa: S311

        ends = time.monotonic() + seconds
        try:
            try:
                return self._driver.call(seconds, call, broken=NOT_SENT)
            except NOT_SENT:
                # Idle connections were dropped without a word. The new client has none of them.
                left = max(ends - time.monotonic(), MOMENT)
                return self._driver.call(left, call, broken=NOT_SENT)
        except TimeoutError:
            raise SinkFailure(
                ErrorKind.SINK,
                f"Neo4j did not answer within {seconds:g} s",
                outcome_unknown=True,
                timed_out=True,
            ) from None
        except (errors.Neo4jError, errors.DriverError) as error:
            raise translate(error) from error


def _passes_again(error: errors.Neo4jError | errors.DriverError) -> bool:
    """Return whether the same call may pass at once: two writers met, or a connection is old."""
    if isinstance(error, errors.DriverError):
        return error.is_retryable()
    return (error.code or "").startswith((*MET, "Neo.ClientError.Security.AuthorizationExpired"))


def translate(error: errors.Neo4jError | errors.DriverError) -> SinkFailure:
    """Whose fault an error of the driver is."""
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, errors.DriverError):
        return SinkFailure(ErrorKind.SINK, reason, outcome_unknown=True)
    code = error.code or ""
    if code == CONSTRAINT_VIOLATED:
        reason = (
            f"a constraint of the graph refuses the record: {error.message}. Delete the other "
            "node or change its value; a constraint that altsync did not make can be dropped "
            "(SHOW CONSTRAINTS lists them)"
        )
    if code.startswith(MET):
        return SinkFailure(ErrorKind.UNKNOWN, reason, lock_conflict=True)
    if code.startswith(TIMED_OUT):
        return SinkFailure(ErrorKind.SINK, reason, outcome_unknown=True, timed_out=True)
    if code.startswith(FOR_EVERY_RECORD):
        return SinkFailure(ErrorKind.SINK, reason)
    if isinstance(error, errors.ClientError):
        return SinkFailure(ErrorKind.ITEM, reason)
    # Overload, memory, a defect of the server: fewer calls, and later. One large transaction may
    # be the cause, so its records come in smaller ones then.
    return SinkFailure(ErrorKind.SINK, reason, outcome_unknown=True, timed_out=True)


def _agent(tx: ManagedTransaction) -> str:
    return str(_query(tx, "RETURN 1").consume().server.agent)


def _records(tx: ManagedTransaction, *, statement: str, **parameters: Any) -> list[neo4j.Record]:
    return list(_query(tx, statement, **parameters))


def _execute(tx: ManagedTransaction, *, statement: str, **parameters: Any) -> None:
    _query(tx, statement, **parameters).consume()


def _page_of_versions(
    tx: ManagedTransaction, *, kind: EntityType, after: str
) -> list[neo4j.Record]:
    return list(_query(tx, cypher(LIST_VERSIONS, kind), after=after, limit=PAGE))


def _nodes(tx: ManagedTransaction, *, entity_type: EntityType, keys: list[str]) -> dict[str, Node]:
    kind = entity_type
    parents: dict[str, list[tuple[str, Any]]] = defaultdict(list)
    edges: dict[str, list[tuple[str, str, float | None]]] = defaultdict(list)
    for parent in enumerate(kind.graph_parents):
        for record in _query(tx, cypher(PARENTS_OF, kind, parent), keys=keys):
            parents[record["key"]].append((str(parent[1].relation), record["parent"]))
    if kind.edges:
        for record in _query(tx, cypher(RELATIONSHIPS_OF, kind), keys=keys):
            target, score = record["target"], record["score"]
            edge = (record["type"], target if isinstance(target, str) else repr(target), score)
            edges[record["key"]].append(edge)
    found: dict[str, Node] = {}
    for record in _query(tx, cypher(NODES_OF, kind), keys=keys):
        key, properties = record["key"], dict(record["properties"])
        version = _whole(properties.pop("sync_version"))
        found[key] = Node(version, properties, tuple(parents[key]), tuple(edges[key]))
    return found


def _whole(version: Any) -> int:
    """Return a version as any program may have written it; 0 for what is none."""
    return version if isinstance(version, int) and not isinstance(version, bool) else 0


def _fact(value: Any) -> Any:
    """A value of a digest; the graph may hold lists where altsync writes text."""
    return value if isinstance(value, str | int | float | None) else repr(value)


def _find(tx: ManagedTransaction, *, kind: EntityType, key: str) -> Held:
    stones = list(_query(tx, TOMBSTONES_OF, keys=[f"{kind.label}:{key}"]))
    tombstone = stones[0]["version"] if stones else None
    node = _query(tx, cypher(FIND_NODE, kind), key=key).single()
    if node is None:
        return Held(tombstone=tombstone)
    edges = [
        Edges(r["type"], direction, r["count"], tuple(r["names"]))
        for direction, tail, head in (("out", "-", "->"), ("in", "<-", "-"))
        for r in _query(
            tx,
            cypher(EDGES_OF, kind, tail=tail, head=head, keys=_any_key()),
            key=key,
            sample=SAMPLE,
        )
    ]
    properties = dict(node["properties"])
    properties.pop("altsync_stub", None)
    version = _whole(properties.pop("sync_version")) if "sync_version" in properties else None
    return Held(node["id"], version, properties, tuple(edges), tombstone)


def _any_key() -> str:
    """The key properties of all nodes, by which a neighbour of any type is named."""
    names = [kind.key_property for kind in entity_types()]
    names += [parent.key for kind in entity_types() for parent in kind.graph_parents]
    return ", ".join(f"other.{name}" for name in dict.fromkeys(names))


def _query(tx: ManagedTransaction, statement: str, **parameters: Any) -> neo4j.Result:
    return tx.run(statement, parameters)


def _by_key(row: Row) -> str:
    return row.key


def _upsert_parameters(row: Row) -> Mapping[str, Any]:
    node = graph_node(row)
    return {
        "key": row.key,
        "version": row.graph_version,
        "properties": dict(node.properties),
        **{f"parent{place}": key for place, key in enumerate(node.parents)},
    }


def _sent_bytes(row: Row) -> int:
    """Return about how many bytes one row takes in a transaction; a deletion, those of its key."""
    if row.deleted:
        return len(row.key.encode())
    values = graph_node(row).properties.values()
    texts = (text for value in values for text in (value if isinstance(value, list) else [value]))
    size = sum(len(text.encode()) for text in texts if isinstance(text, str))
    return size + EDGE_BYTES * len(row.edges or ())


def _newer_versions(
    tx: ManagedTransaction, kind: EntityType, keys: Sequence[str]
) -> dict[str, int]:
    """Return what stands in the way of ``keys``: newer nodes, or tombstones."""
    nodes = _query(tx, cypher(VERSIONS_OF, kind), keys=list(keys))
    found = {r["key"]: _whole(r["version"]) for r in nodes}
    for key, version in _tombstones(tx, kind, keys).items():
        found[key] = max(version, found.get(key, 0))
    return found


def _strangers(tx: ManagedTransaction, kind: EntityType, keys: Sequence[str]) -> set[str]:
    """Return those of ``keys`` that nodes have which altsync neither wrote nor made."""
    found = _query(tx, cypher(STRANGERS_OF, kind), keys=list(keys))
    return {record["key"] for record in found}


def _tombstones(tx: ManagedTransaction, kind: EntityType, keys: Sequence[str]) -> dict[str, int]:
    """Versions at which the graph remembers the deletion of ``keys``."""
    prefix = f"{kind.label}:"
    stones = _query(tx, TOMBSTONES_OF, keys=[prefix + key for key in keys])
    return {stone["key"].removeprefix(prefix): _refusing(stone["version"]) for stone in stones}


def _refusing(version: Any) -> int:
    """A tombstone's version: what is no whole number refuses every row."""
    if isinstance(version, float) and version.is_integer():
        return int(version)
    whole = isinstance(version, int) and not isinstance(version, bool)
    return version if whole else NO_VERSION


def _write_nodes(
    tx: ManagedTransaction, kind: EntityType, statement: str, rows: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """Write nodes, each with one edge to each parent; returns the graph's ids by key."""
    found = [(record["key"], record["id"]) for record in _query(tx, statement, rows=rows)]
    twice = _twice([key for key, _ in found])
    for _place, parent in required_parents(kind) if twice else ():
        _remove_duplicates(tx, kind, twice, types=str(parent.relation), target=parent.label)
    return dict(found)


def _write_optional_parents(
    tx: ManagedTransaction, kind: EntityType, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Move nodes that were written to parents that they may lack."""
    for parent in optional_parents(kind) if rows else ():
        name = f"parent{parent[0]}"
        _query(tx, cypher(LEAVE_PARENT, kind, parent), rows=list(rows)).consume()
        joining = [row for row in rows if row[name] is not None]
        if joining:
            _query(tx, cypher(JOIN_PARENT, kind, parent), rows=joining).consume()
            keys = [row["key"] for row in joining]
            relation, label = str(parent[1].relation), parent[1].label
            _remove_duplicates(tx, kind, keys, types=relation, target=label)


def _twice(keys: Sequence[str]) -> list[str]:
    """Return those that are there more than once."""
    return sorted(key for key, count in Counter(keys).items() if count > 1)


def _remove_duplicates(
    tx: ManagedTransaction, kind: EntityType, keys: Sequence[str], *, types: str, target: str
) -> None:
    statement = cypher(REMOVE_DUPLICATES, kind, types=types, target=target)
    _query(tx, statement, keys=list(keys)).consume()


def _write_edges(tx: ManagedTransaction, rows: Sequence[Row]) -> dict[UUID, str]:
    """Make the relationships of entities those of their rows; returns the graph's ids of them.

    What is right already is left alone. Entities that never had any cost nothing here.
    """
    linked = sorted((row for row in rows if row.edges is not None), key=_by_key)
    if not linked:
        return {}
    kind = linked[0].entity_type
    there = _read_edges(tx, kind, [row.key for row in linked])
    _remove_edges(tx, kind, linked, there)
    remote: dict[UUID, str] = {}
    for relation in kind.edge_table.relations:
        missing: list[Mapping[str, Any]] = []
        changed: list[Mapping[str, Any]] = []
        for row in linked:
            for edge in row.edges or ():
                if edge.relation != relation:
                    continue
                found = there[row.key].get((relation, edge.target))
                if found is None:
                    missing.append(_edge_parameters(row, edge))
                    continue
                remote[edge.id] = min(id_ for id_, _ in found)
                if any(score != edge.score for _, score in found):
                    changed.append(_edge_parameters(row, edge))
        if changed:
            statement = cypher(SET_SCORES, kind, relation=relation)
            _query(tx, statement, edges=changed).consume()
        if missing:
            answer = _query(tx, cypher(CREATE_EDGES, kind, relation=relation), edges=missing)
            remote |= {UUID(record["id"]): record["remote"] for record in answer}
    return remote


#: Relationships of one entity, by type and target: the graph's ids and scores, with duplicates.
_Edges = Mapping[tuple[str, Any], list[tuple[str, Any]]]


def _read_edges(tx: ManagedTransaction, kind: EntityType, keys: list[str]) -> Mapping[str, _Edges]:
    there: dict[str, dict[tuple[str, Any], list[tuple[str, Any]]]] = {key: {} for key in keys}
    for record in _query(tx, cypher(READ_EDGES, kind), keys=keys):
        place = record["type"], _target(record["target"])
        there[record["key"]].setdefault(place, []).append((record["id"], record["score"]))
    return there


def _target(key: Any) -> str | None:
    """The key of an entity at the end of a relationship; None for what is no key."""
    return key if isinstance(key, str) else None


def _remove_edges(
    tx: ManagedTransaction, kind: EntityType, rows: Sequence[Row], there: Mapping[str, _Edges]
) -> None:
    """Remove relationships that are not wanted, and all but one of those that are there twice."""
    unwanted, twice = [], []
    for row in rows:
        wanted = {(e.relation, e.target) for e in row.edges or ()}
        if there[row.key].keys() - wanted:
            unwanted.append({"key": row.key, "wanted": [f"{r} {t}" for r, t in sorted(wanted)]})
        if any(len(found) > 1 for found in there[row.key].values()):
            twice.append(row.key)
    if unwanted:
        _query(tx, cypher(REMOVE_EDGES, kind), rows=unwanted).consume()
    if twice:
        relations = "|".join(kind.edge_table.relations)
        _remove_duplicates(tx, kind, twice, types=relations, target=kind.label)


def _edge_parameters(row: Row, edge: Edge) -> Mapping[str, Any]:
    return {
        "id": str(edge.id),
        "source": row.key,
        "target": edge.target,
        "target_version": edge.target_version,
        "score": edge.score,
    }


def _upserted(row: Row, answer: _Upserted, label: str, key: str) -> RecordOutcome:
    if row.key not in answer.nodes:
        newer = answer.newer.get(row.key, 0)
        if row.key in answer.strangers and newer <= row.graph_version:
            return Failed(
                row.id,
                ErrorKind.ITEM,
                f"the graph has a {label} node with {key} {row.key!r} that altsync did not write "
                "(no sync_version): delete it, change its key, or have altsync take it over by "
                "altsync adopt --nodes; then run altsync retry",
                final=True,
            )
        return AlreadyNewer(row.id, answer.newer.get(row.key))
    ids = {e.id: answer.edges[e.id] for e in row.edges or () if e.id in answer.edges}
    return Written(row.id, row.graph_version, remote_id=answer.nodes[row.key], edge_ids=ids)


def _deleted(row: Row, kept: Mapping[str, int]) -> RecordOutcome:
    if kept.get(row.key, 0) > row.graph_version:
        return AlreadyNewer(row.id, kept[row.key])
    return Written(row.id, row.graph_version)


def open_sink(settings: Settings, vectors: VectorStore) -> Sink | None:
    """The sink, or None when no NEO4J_URI is set."""
    if settings.neo4j_uri is None:
        return None
    password = settings.neo4j_password.get_secret_value()
    try:
        return Sink(
            settings.neo4j_uri,
            (settings.neo4j_username, password) if password else None,
            database=settings.neo4j_database,
            timeout=settings.altsync_sink_timeout_seconds,
            prefix=settings.altsync_prefix,
        )
    except (errors.ConfigurationError, ValueError) as error:
        raise ConfigurationError(f"NEO4J_URI is no address of a graph: {error}") from None
