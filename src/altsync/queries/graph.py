"""Query the graph around entities. Nodes without a ``sync_version`` are left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from altsync.catalogue.current import children_of, current
from altsync.db import Conn
from altsync.entities import EntityType, ParentEdge
from altsync.queries.kinds import Kind, entity_named
from altsync.queries.sql import Link, living_names
from altsync.queries.stores import (
    GRAPH,
    GraphStore,
    Stores,
    check_count,
    require_graph,
    unknown_entity,
)
from altsync.queries.versions import Answers, ask

# Each subquery has a limit: an entity may have more relationships than fit into memory.
EDGES = """
UNWIND $keys AS key
MATCH (n:{label} {{{key}: key}}) WHERE n.sync_version IS NOT NULL
CALL (n) {{
  MATCH (n)-[r:{relations}]-(o:{label}) WHERE o.sync_version IS NOT NULL AND o.{key} <> n.{key}
  WITH r, o, startNode(r).{key} = n.{key} AS out
  ORDER BY coalesce(r.score, -1) DESC, o.{key}, out DESC LIMIT $limit
  RETURN collect({{type: type(r), out: out, key: o.{key}, name: o.{name}, score: r.score}}) AS found
}}
RETURN key, found
"""

# A parent node that only the relationship creates has no version.
PARENTS = """
UNWIND $keys AS key
MATCH (n:{label} {{{key}: key}})-[:{relation}]->(p:{parent_label})
WHERE n.sync_version IS NOT NULL
RETURN key, collect({{type: '{relation}', out: true, key: p.{parent_key}, name: p.{parent_key},
                     score: null}}) AS found
"""

CHILDREN = """
UNWIND $keys AS key
MATCH (p:{parent_label} {{{parent_key}: key}}) WHERE p.sync_version IS NOT NULL
CALL (p) {{
  MATCH (n:{label})-[:{relation}]->(p) WHERE n.sync_version IS NOT NULL
  WITH n ORDER BY n.{key} LIMIT $limit
  RETURN collect({{type: '{relation}', out: false, key: n.{key}, name: n.{name}, score: null}})
    AS found
}}
RETURN key, found
"""

SIBLINGS = """
UNWIND $keys AS key
MATCH (n:{label} {{{key}: key}}) WHERE n.sync_version IS NOT NULL
CALL (n) {{
  MATCH (n)-[:{relation}]->(p:{parent_label})<-[:{relation}]-(o:{label})
  WHERE o.sync_version IS NOT NULL AND o.{key} <> n.{key}
  WITH o, p ORDER BY CASE WHEN o.{key} IN $near THEN 0 ELSE 1 END, o.{key} LIMIT $limit
  RETURN collect({{type: '{relation}', out: true, key: o.{key}, name: p.{parent_key}, score: null}})
    AS found
}}
RETURN key, found
"""


@dataclass
class Around:
    """The relationships of one entity in the graph. ``siblings`` have the same parent."""

    links: list[Link] = field(default_factory=list)
    siblings: list[Link] = field(default_factory=list)


def neighbours(stores: Stores, kind: Kind, key: str, *, limit: int = 100) -> Answers[Link]:
    """Return the relationships of an entity in the graph: to parents, children and its type.

    At most ``limit`` of each kind are returned, the strongest first. Entities that PostgreSQL has
    deleted are left out. Raises ``UnknownName``, ``MissingStore`` or ``SinkFailure``.
    """
    check_count("limit", limit)
    graph = require_graph(stores)
    kind = entity_named(kind)
    with stores.database.autocommit() as conn:
        if not living_names(conn, kind, [key]):
            raise unknown_entity(conn, kind, key)
    asked = ask(stores, GRAPH)
    around = read_around(graph, kind, [key], limit=limit, children=True)
    with stores.database.autocommit() as conn:
        return Answers(living(conn, around[key].links), asked.versions)


def read_around(
    graph: GraphStore, kind: EntityType, keys: Sequence[str], *, limit: int, children: bool = False
) -> dict[str, Around]:
    """Return the relationships of entities by their keys. Raises ``SinkFailure``."""
    found = {key: Around() for key in keys}
    own = names_of(kind)

    def query(statement: str, entity: str, **names: str) -> None:
        records = graph.query(statement.format(**{**own, **names}), keys=list(keys), limit=limit)
        for record in records:
            found[record["key"]].links += as_links(entity, record["found"])

    for parent in kind.graph_parents:
        query(
            PARENTS,
            parent.parent or parent.label,
            relation=str(parent.relation),
            parent_label=parent.label,
            parent_key=parent.key,
        )
    if kind.edges and kind.edges.relations:
        query(EDGES, kind.value, relations="|".join(kind.edges.relations))
    for child in children_of(kind) if children else ():
        for parent in child.graph_parents:
            if parent.parent == kind:
                names = {**names_of(child), "relation": str(parent.relation)}
                names |= {"parent_label": parent.label, "parent_key": parent.key}
                query(CHILDREN, child.value, **names)
    return found


def siblings_of(
    graph: GraphStore, kind: EntityType, keys: Sequence[str], near: Sequence[str], *, limit: int
) -> dict[str, list[Link]]:
    """Return entities with the same parent; those of ``near`` first. Raises ``SinkFailure``.

    The parent is the one that entities are compared within, or else the first. A sibling's
    ``name`` is the parent's key.
    """
    parent = next(iter(common_parents(kind)), None)
    if parent is None:
        return {}
    statement = SIBLINGS.format(
        **names_of(kind),
        relation=parent.relation,
        parent_label=parent.label,
        parent_key=parent.key,
    )
    records = graph.query(statement, keys=list(keys), near=list(near), limit=limit)
    return {record["key"]: as_links(kind.value, record["found"]) for record in records}


def common_parents(kind: EntityType) -> list[ParentEdge]:
    """Return the parents that siblings share, the one of ``Similar(within=)`` first."""
    within = kind.similar.within if kind.similar else None
    return sorted(kind.graph_parents, key=lambda parent: parent.column != within)


def names_of(kind: EntityType) -> dict[str, str]:
    """Return a type's label, key and name as its nodes have them."""
    named = kind.name_column in kind.properties
    return {
        "label": kind.label,
        "key": kind.key_property,
        "name": kind.name_column if named else kind.key_property,
    }


def as_links(entity: str, records: Sequence[Mapping[str, object]]) -> list[Link]:
    """Return records of the graph as relationships."""
    return [
        Link(
            str(one["type"]),
            "out" if one["out"] else "in",
            entity,
            str(one["key"]),
            str(one["name"]),
            None if one["score"] is None else float(str(one["score"])),
        )
        for one in records
    ]


def living(conn: Conn, links: Sequence[Link]) -> list[Link]:
    """Return the relationships to living entities, with the names that PostgreSQL has."""
    by_type: dict[str, set[str]] = {}
    for link in links:
        by_type.setdefault(link.entity, set()).add(link.key)
    known = current().by_table
    names = {
        entity: living_names(conn, known[entity], sorted(keys))
        for entity, keys in by_type.items()
        if entity in known
    }
    return [
        replace(link, name=names[link.entity][link.key]) if link.entity in names else link
        for link in links
        if link.entity not in names or link.key in names[link.entity]
    ]
