"""Check at rest that every store holds exactly what PostgreSQL holds."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from tests.acceptance.stack import Stack

#: Matches of one query: the most that the service allows.
TOP_K = 10_000

#: Vectors asked for at once: so few that what should not be there fits beside them.
SLICE = TOP_K // 2

#: Vectors whose numbers are compared; fetching all would say no more.
SAMPLE = 20


@dataclass(frozen=True)
class Kind:
    """How one table shows in the two other stores."""

    table: str
    key: str
    name: str
    #: The metadata field of a vector for the name; None when it carries none.
    metadata_name: str | None
    label: str
    graph_key: str
    graph_name: str
    #: The node it hangs on, as column, relationship, label.
    parent: tuple[str, str, str] | None
    index: str
    #: SQL for the namespace.
    namespace: str


KINDS = (
    Kind(
        "sport_archetype",
        "archetype_name",
        "display_name",
        "display_name",
        "SportArchetype",
        "name",
        "display_name",
        None,
        "altsports-archetypes",
        "''",
    ),
    Kind(
        "league",
        "league_tag",
        "league_name",
        "league_name",
        "League",
        "league_tag",
        "league_name",
        ("sport_archetype", "BELONGS_TO_ARCHETYPE", "SportArchetype"),
        "altsports-leagues",
        "'default'",
    ),
    Kind(
        "few_shot_example",
        "example_id",
        "input_text",
        None,
        "FewShotExample",
        "example_id",
        "input_text",
        ("category", "IN_CATEGORY", "ExampleCategory"),
        "altsports-examples",
        "category",
    ),
)


def assert_agreement(stack: Stack) -> None:
    """Fails with every difference between PostgreSQL and the sinks, statuses included."""
    assert statuses(stack) == {"live": 0, "dead": 0, "not synced": 0, "wrong model": 0}
    assert differences(*graph_nodes(stack)) == {}
    assert other_nodes(stack) == set()
    assert differences(*vectors(stack)) == {}
    assert wrong_numbers(stack) == []
    assert differences(*relationships(stack)) == {}


def differences(
    expected: Mapping[Hashable, Any], actual: Mapping[Hashable, Any]
) -> dict[Hashable, tuple[Any, Any]]:
    """Keys at which the two differ, with both values."""
    keys = expected.keys() | actual.keys()
    pairs = {key: (expected.get(key), actual.get(key)) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def statuses(stack: Stack) -> dict[str, int]:
    """Operations that are not done, and entities that are not synced or wrongly embedded."""
    entities = " UNION ALL ".join(
        "SELECT neo4j_sync_status, pinecone_sync_status, embedding_sync_status, embedding_model,"
        f" embedding_text_hash = text_hash AS embedded FROM {kind.table} WHERE deleted_at IS NULL"
        for kind in KINDS
    )
    not_synced = (
        "neo4j_sync_status <> 'synced' OR pinecone_sync_status <> 'synced'"
        " OR embedding_sync_status <> 'synced'"
    )
    wrong = "embedding_model IS DISTINCT FROM %s OR embedded IS DISTINCT FROM true"
    model = stack.addresses["ALTSYNC_EMBEDDING_MODEL"]
    return {
        "live": stack.live(),
        "dead": stack.number("SELECT count(*) FROM sync_operation WHERE status = 'dead'"),
        "not synced": stack.number(f"SELECT count(*) FROM ({entities}) e WHERE {not_synced}"),
        "wrong model": stack.number(f"SELECT count(*) FROM ({entities}) e WHERE {wrong}", model),
    }


def relationships(stack: Stack) -> tuple[dict[Hashable, Any], dict[Hashable, Any]]:
    """Relationships between leagues: scores, and the graph's ids as PostgreSQL has them."""
    expected: dict[Hashable, Any] = {
        (source, relation, target): (None if score is None else float(score), remote)
        for source, relation, target, score, remote in stack.rows(
            "SELECT s.league_tag, r.relationship_type, t.league_tag, r.strength_score,"
            " r.neo4j_rel_id FROM league_relationship r"
            " JOIN league s ON s.id = r.source_league_id JOIN league t ON t.id = r.target_league_id"
        )
    }
    actual: dict[Hashable, Any] = {
        (one["source"], one["relation"], one["target"]): (one["score"], one["remote"])
        for one in stack.cypher(
            "MATCH (a:League)-[r]->(b:League) RETURN a.league_tag AS source, type(r) AS relation,"
            " b.league_tag AS target, r.score AS score, elementId(r) AS remote"
        )
    }
    return expected, actual


def graph_nodes(stack: Stack) -> tuple[dict[Hashable, Any], dict[Hashable, Any]]:
    """Nodes as they should be, and as they are: version, name, content and parents by key."""
    expected: dict[Hashable, Any] = {}
    actual: dict[Hashable, Any] = {}
    for kind in KINDS:
        column, edge, parent_label = kind.parent or ("''", "NO_EDGE", "NoLabel")
        for key, version, name, content, parent in stack.rows(
            f"SELECT {kind.key}, graph_version, {kind.name}, content_hash, {column}"
            f" FROM {kind.table} WHERE deleted_at IS NULL"
        ):
            parents = [(edge, parent_label, parent)] if kind.parent else []
            expected[kind.label, key] = (version, name, content, parents)
        for record in stack.cypher(
            f"MATCH (n:{kind.label}) WHERE n.sync_version IS NOT NULL "
            "OPTIONAL MATCH (n)-[r]->(p) WHERE NOT p:League "
            f"RETURN n.{kind.graph_key} AS key, n.sync_version AS version,"
            f" n.{kind.graph_name} AS name, n.content_hash AS content,"
            " collect(CASE WHEN r IS NULL THEN NULL ELSE [type(r), labels(p)[0], p.name] END)"
            " AS parents"
        ):
            parents = sorted(tuple(one) for one in record["parents"] if one)
            found = (record["version"], record["name"], record["content"], parents)
            first = actual.setdefault((kind.label, record["key"]), found)
            assert first is found, f"two nodes of {kind.label} {record['key']}"
    return expected, actual


def other_nodes(stack: Stack) -> set[tuple[str, str]]:
    """Nodes that stand for no entity: categories and archetypes are fine while one names them."""
    found = stack.cypher(
        "MATCH (n) WHERE n.sync_version IS NULL"
        " AND NOT n:AltsyncTombstone AND NOT n:AltsyncInstallation"
        " RETURN labels(n)[0] AS label, n.name AS name"
    )
    categories = stack.rows("SELECT category FROM few_shot_example WHERE deleted_at IS NULL")
    archetypes = stack.rows("SELECT sport_archetype FROM league WHERE deleted_at IS NULL")
    named = {("ExampleCategory", r[0]) for r in categories}
    named |= {("SportArchetype", r[0]) for r in archetypes}
    return {(record["label"], record["name"]) for record in found} - named


def vectors(stack: Stack) -> tuple[dict[Hashable, Any], dict[Hashable, Any]]:
    """Vectors as they should be, and as they are: version, model, content and name by place."""
    model = stack.addresses["ALTSYNC_EMBEDDING_MODEL"]
    expected: dict[Hashable, Any] = {}
    actual: dict[Hashable, Any] = {}
    for kind in KINDS:
        for space, key, version, content, name in stack.rows(
            f"SELECT {kind.namespace}, {kind.key}, version, content_hash, {kind.name}"
            f" FROM {kind.table} WHERE deleted_at IS NULL"
        ):
            shown = name if kind.metadata_name else None
            expected[kind.index, space, key] = (version, model, content, shown)
        for space, key, metadata in _stored(stack, kind):
            actual[kind.index, space, key] = (
                int(metadata["version"]),
                metadata["model"],
                metadata["content_hash"],
                metadata[kind.metadata_name] if kind.metadata_name else None,
            )
    return expected, actual


def _stored(stack: Stack, kind: Kind) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(namespace, id, metadata) of every vector of a kind's index."""
    index = stack.indexes[kind.index]
    stats = index.describe_index_stats()
    for label, summary in stats.namespaces.items():
        space = "" if label == "__default__" else label
        found = 0
        for versions in _slices(stack, kind):
            answer = index.query(
                vector=[1.0] * int(stats.dimension or 0),
                top_k=TOP_K,
                namespace=space,
                include_metadata=True,
                filter=versions,
            )
            found += len(answer.matches)
            yield from ((space, match.id, dict(match.metadata or {})) for match in answer.matches)
        assert found == summary.vector_count


def _slices(stack: Stack, kind: Kind) -> list[dict[str, Any] | None]:
    """Filters that part an index by version, so that one query can answer for each part."""
    rows = stack.rows(f"SELECT version FROM {kind.table} WHERE deleted_at IS NULL ORDER BY 1")
    if len(rows) <= SLICE:
        return [None]
    bounds = [-1, *(row[0] for row in rows[SLICE::SLICE]), 2**53]
    return [{"version": {"$gt": low, "$lte": high}} for low, high in pairwise(bounds)]


def wrong_numbers(stack: Stack) -> list[str]:
    """Of a sample of entities, those whose vector is not the one that PostgreSQL holds."""
    wrong = []
    for kind in KINDS:
        for space, key, vector in stack.rows(
            f"SELECT {kind.namespace}, {kind.key}, l.embedding_vector FROM {kind.table} l"
            f" WHERE deleted_at IS NULL ORDER BY md5({kind.key}) LIMIT {SAMPLE}"
        ):
            answer = stack.indexes[kind.index].fetch(ids=[key], namespace=space)
            held = np.asarray(answer.vectors[key].values, "<f4")
            if not np.array_equal(held, np.frombuffer(vector, "<f4")):
                wrong.append(key)
    return wrong
