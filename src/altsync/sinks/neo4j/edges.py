"""Writing nodes with their edges, in a transaction of the caller."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from neo4j import ManagedTransaction

from altsync.entities import Edge, EntityType, Row
from altsync.sinks.neo4j import client
from altsync.sinks.neo4j.statements import (
    CREATE_EDGES,
    JOIN_PARENT,
    LEAVE_PARENT,
    REMOVE_DUPLICATES,
    REMOVE_EDGES,
    SET_SCORES,
    cypher,
    optional_parents,
    required_parents,
)

#: Relationships of one entity, by type and target: the graph's ids and scores.
_Edges = Mapping[tuple[str, str | None], list[tuple[str, Any]]]


@dataclass(frozen=True, slots=True)
class WrittenNode:
    """The graph's id of a node, and the relationships that it has."""

    id: str
    edges: _Edges


def write_nodes(
    tx: ManagedTransaction, kind: EntityType, statement: str, rows: Sequence[Mapping[str, Any]]
) -> dict[str, WrittenNode]:
    """Write nodes with one edge to each parent, and return them by key."""
    found = client.records(tx, statement=statement, rows=rows)
    duplicated = _duplicates([record["key"] for record in found])
    for _place, parent in required_parents(kind) if duplicated else ():
        _remove_duplicates(tx, kind, duplicated, types=str(parent.relation), target=parent.label)
    return {r["key"]: WrittenNode(r["id"], _edges(r.get("edges") or ())) for r in found}


def write_optional_parents(
    tx: ManagedTransaction, kind: EntityType, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Write the edges to optional parents."""
    for parent in optional_parents(kind) if rows else ():
        name = f"parent{parent[0]}"
        client.query(tx, cypher(LEAVE_PARENT, kind, parent), rows=list(rows)).consume()
        joining = [row for row in rows if row[name] is not None]
        if joining:
            client.query(tx, cypher(JOIN_PARENT, kind, parent), rows=joining).consume()
            keys = [row["key"] for row in joining]
            relation, label = str(parent[1].relation), parent[1].label
            _remove_duplicates(tx, kind, keys, types=relation, target=label)


def _duplicates(keys: Sequence[str]) -> list[str]:
    """Return the keys that occur more than once."""
    return sorted(key for key, count in Counter(keys).items() if count > 1)


def _remove_duplicates(
    tx: ManagedTransaction, kind: EntityType, keys: Sequence[str], *, types: str, target: str
) -> None:
    statement = cypher(REMOVE_DUPLICATES, kind, types=types, target=target)
    client.query(tx, statement, keys=list(keys)).consume()


def write_edges(
    tx: ManagedTransaction, rows: Sequence[Row], nodes: Mapping[str, WrittenNode]
) -> dict[UUID, str]:
    """Write the relationships of rows whose nodes were written; return the graph's ids of them.

    Correct ones are not written again. Rows that never had a relationship cost no statement.
    """
    linked = sorted((row for row in rows if row.edges is not None), key=lambda row: row.key)
    if not linked:
        return {}
    kind = linked[0].entity_type
    existing = {row.key: nodes[row.key].edges for row in linked}
    _remove_edges(tx, kind, linked, existing)
    remote: dict[UUID, str] = {}
    for relation in kind.edge_table.relations:
        missing: list[Mapping[str, Any]] = []
        changed: list[Mapping[str, Any]] = []
        for row in linked:
            for edge in row.edges or ():
                if edge.relation != relation:
                    continue
                found = existing[row.key].get((relation, edge.target))
                if found is None:
                    missing.append(_edge_parameters(row, edge))
                    continue
                remote[edge.id] = min(id_ for id_, _ in found)
                if any(score != edge.score for _, score in found):
                    changed.append(_edge_parameters(row, edge))
        if changed:
            statement = cypher(SET_SCORES, kind, relation=relation)
            client.query(tx, statement, edges=changed).consume()
        if missing:
            answer = client.query(tx, cypher(CREATE_EDGES, kind, relation=relation), edges=missing)
            remote |= {UUID(record["id"]): record["remote"] for record in answer}
    return remote


def _edges(found: Iterable[tuple[str, Any, Any, str]]) -> _Edges:
    """Group relationships (type, target, score, id) by their ends."""
    edges: dict[tuple[str, str | None], list[tuple[str, Any]]] = defaultdict(list)
    for relation, target, score, remote in found:
        edges[relation, _target(target)].append((remote, score))
    return edges


def _target(key: Any) -> str | None:
    """Return a key that another program may have written; None when it is no text."""
    return key if isinstance(key, str) else None


def _remove_edges(
    tx: ManagedTransaction, kind: EntityType, rows: Sequence[Row], existing: Mapping[str, _Edges]
) -> None:
    """Remove unwanted relationships, and all but one of those that exist twice."""
    unwanted, duplicated = [], []
    for row in rows:
        wanted = {(e.relation, e.target) for e in row.edges or ()}
        if existing[row.key].keys() - wanted:
            unwanted.append({"key": row.key, "wanted": [f"{r} {t}" for r, t in sorted(wanted)]})
        if any(len(found) > 1 for found in existing[row.key].values()):
            duplicated.append(row.key)
    if unwanted:
        client.query(tx, cypher(REMOVE_EDGES, kind), rows=unwanted).consume()
    if duplicated:
        relations = "|".join(kind.edge_table.relations)
        _remove_duplicates(tx, kind, duplicated, types=relations, target=kind.label)


def _edge_parameters(row: Row, edge: Edge) -> Mapping[str, Any]:
    return {
        "id": str(edge.id),
        "source": row.key,
        "target": edge.target,
        "target_version": edge.target_version,
        "score": edge.score,
    }
