"""All statements of the graph, side by side."""

from __future__ import annotations

import re
from functools import lru_cache

from altsync.catalogue.current import entity_types
from altsync.entities import EntityType, ParentEdge

#: A relationship whose source was written after the target's deletion stays: its target is the
#: entity that was created again. A deletion enqueues the sources of all others.
TO_NEWER_TARGET = (
    "type(old) IN {relations} "
    "AND CASE WHEN o.sync_version IS :: INTEGER NOT NULL THEN o.sync_version ELSE -1 END "
    "> row.version"
)


@lru_cache
def outlives(kind: EntityType) -> str:
    """Return the condition on which an edge ``old`` from ``o`` stays after a node's deletion."""
    if kind.edges is None and not children(kind):
        return "false"
    reasons = []
    if kind.edges is not None:
        relations = ", ".join(f"'{one}'" for one in kind.edges.relations)
        reasons.append(TO_NEWER_TARGET.format(relations=f"[{relations}]"))
    if children(kind):
        relations = ", ".join(f"'{one}'" for one in children(kind))
        reasons.append(f"type(old) IN [{relations}]")
    return f"startNode(old) = o AND (({') OR ('.join(reasons)}))"


@lru_cache
def children(kind: EntityType) -> tuple[str, ...]:
    """Return the types of edges from children to entities of a type."""
    found = {p.relation for one in entity_types() for p in one.graph_parents if p.parent == kind}
    return tuple(sorted(str(relation) for relation in found))


def required_parents(kind: EntityType) -> list[tuple[int, ParentEdge]]:
    """Return the parents that each entity has, with their positions."""
    return [(i, p) for i, p in enumerate(kind.graph_parents) if p.column not in kind.nullable]


def optional_parents(kind: EntityType) -> list[tuple[int, ParentEdge]]:
    """Return the parents that an entity may lack, with their positions."""
    return [(i, p) for i, p in enumerate(kind.graph_parents) if p.column in kind.nullable]


def constraints() -> tuple[str, ...]:
    """Return the statements that create constraints and indexes."""
    unique = "CREATE CONSTRAINT {name} IF NOT EXISTS FOR (n:{label}) REQUIRE n.{key} IS UNIQUE"
    columns = [kind.key_column for kind in entity_types()]
    found: dict[tuple[str, str], str] = {}
    for kind in entity_types():
        shared = columns.count(kind.key_column) > 1
        name = f"{kind}_{kind.key_column}" if shared else kind.key_column
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
    """Return the labels of nodes that may be stubs: ends of relationships."""
    found = [kind.label for kind in entity_types() if kind.edges]
    found += [parent.label for kind in entity_types() for parent in kind.graph_parents]
    return tuple(dict.fromkeys(found))


#: Label and key of a constraint.
UNIQUE = re.compile(r"FOR \(n:(\w+)\) REQUIRE n\.(\w+) IS UNIQUE")


@lru_cache
def _labels(catalogue: tuple[EntityType, ...]) -> re.Pattern[str]:
    """Return a pattern that matches before each of altsync's labels in a statement."""
    names = {kind.label for kind in catalogue}
    names |= {parent.label for kind in catalogue for parent in kind.graph_parents}
    names |= {"AltsyncTombstone", "AltsyncInstallation"}
    return re.compile(rf"(?<=:)(?=(?:{'|'.join(sorted(names))})\b)")


#: The names that belong to a database as a whole.
SCHEMA_NAMES = re.compile(r"(?<=CONSTRAINT )(?=\w)|(?<=INDEX )(?=\w)")

#: The node that names the installation. The constraint on its key allows only one.
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

#: A node with a valid version and key. Every text is >= ''; the comparison of another type with ''
#: is null. ``cypher`` fills in the names.
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

# A parent that does not exist yet is created as a stub. Its own operation fills it.
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

# The relationships of nodes that this statement has locked, in the same round trip.
RETURN_WRITTEN_WITH_EDGES = """
RETURN row.key AS key, elementId(n) AS id,
       [(n)-[r:{relations}]->(o:{label}) | [type(r), o.{key}, r.score, elementId(r)]] AS edges
"""

# Remove unwanted relationships of altsync's types; others are left alone.
REMOVE_EDGES = """
UNWIND $rows AS row
MATCH (n:{label} {{{key}: row.key}})-[old:{relations}]->(o:{label})
WHERE NOT coalesce((type(old) + ' ' + o.{key}) IN row.wanted, false)
DELETE old
"""

# A target that does not exist yet is created as a stub. A target that was deleted after the edge
# was read gets no edge. The source is locked and its edges were read, so CREATE makes no duplicate;
# it costs half of a MERGE.
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

# Keep one relationship of a type between two nodes. A MERGE returns one row for each, so a key
# that it returned twice has duplicates.
REMOVE_DUPLICATES = """
UNWIND $keys AS key
MATCH (n:{label} {{{key}: key}})-[one:{types}]->(o:{target})
WITH n, o, one ORDER BY elementId(one)
WITH n, o, type(one) AS type, collect(one) AS duplicates
UNWIND duplicates[1..] AS duplicate
DELETE duplicate
"""

# Empty the node first: this locks it, so no edge is created to it before the deletion. It stays as
# a stub while edges of a newer generation lead to it. Return the keys of deleted nodes. Read
# nothing else in this transaction: Neo4j 2026 fails when a read by label meets a deleted node.
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

# Version 0 is below every version, so that the next upsert succeeds. The node is not marked as a
# stub: housekeeping would remove one without edges.
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

#: The bucket of nodes that another program has changed.
STRANGE = -1

#: Distinguishes keys of different length, and the ends of edges, in a digest, without a product
#: that could overflow.
WEIGHT_PRIME = 8191

#: Stands for a tombstone's version that is no whole number: it refuses every write.
NO_VERSION = 2**63

# A version belongs to one state of one entity, so equal counts and sums of versions mean equal
# nodes, unless a node was edited by hand. The lengths of keys and the least and greatest key and
# hash find some edits. Nodes with an invalid version or key are in a bucket of their own.
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

# Sums over the versions of both ends: two edges that swap targets or scores change them. A stub
# counts as 0, a score that PostgreSQL cannot hold as -11. Sums of a million edges fit 64 bits.
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

# Nodes without a key were written by hand.
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

# A neighbour is named by the key property of its type.
EDGES_OF = """
MATCH (n:{label} {{{key}: $key}}){tail}[r]{head}(other)
WITH type(r) AS type, coalesce({keys}) AS name
ORDER BY type, name
WITH type, count(*) AS count, collect(name) AS names
RETURN type, count, names[..$sample] AS names ORDER BY type
"""

FORGET_DELETIONS = """
MATCH (t:AltsyncTombstone) WHERE t.key IN $keys DELETE t
"""

FORGET_TOMBSTONES = """
MATCH (t:AltsyncTombstone) WHERE t.at < timestamp() - $milliseconds
WITH t LIMIT 10000 DELETE t
"""

# Remove stubs without edges: parents that were left, or deleted before their children. Nodes of
# other programs have no mark, and one that was marked by hand has properties of its own.
FORGET_STUBS = """
MATCH (n:{label}) WHERE n.altsync_stub = true AND n.sync_version IS NULL
  AND size(keys(n)) = 2
OPTIONAL MATCH (n)-[kept]-()
WITH n, count(kept) AS kept WHERE kept = 0
DELETE n
RETURN count(*) AS count
"""


def cypher(
    template: str, kind: EntityType, parent: tuple[int, ParentEdge] | None = None, **more: str
) -> str:
    """Return a statement for one type. The catalogue has checked its names: no injection.

    ``parent`` is one of its parents, with its position.
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
    """Return the prefix of labels; an unquoted label cannot contain a hyphen."""
    return f"{prefix.replace('-', '_')}_" if prefix else ""


@lru_cache(1000)
def with_prefix(statement: str, prefix: str) -> str:
    """Return a statement with ``prefix`` before every label and schema name of altsync's."""
    return SCHEMA_NAMES.sub(prefix, _labels(entity_types()).sub(prefix, statement))
