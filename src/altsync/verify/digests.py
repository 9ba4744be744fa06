"""Digests of PostgreSQL's rows by bucket, for comparison with a sink's own."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from altsync.contract import Digest
from altsync.db import Conn
from altsync.entities import EntityType, Model
from altsync.generations import model_of
from altsync.verify.sql import namespace_sql


def graph_digest(
    conn: Conn, entity_type: EntityType, modulus: int, *, prime: int, weight: int
) -> Digest:
    """Return the digest of a type for the graph: the same facts as the graph's own digest."""
    key = entity_type.key_column
    found: dict[int, set[tuple[Any, ...]]] = defaultdict(set)
    numbers = {"modulus": modulus, "prime": prime, "weight": weight}
    for statement, part in _graph_digests(entity_type, key):
        for bucket, *facts in conn.execute(statement, numbers):
            found[bucket].add((part, *facts))
    return found


def _graph_digests(entity_type: EntityType, key: str) -> list[tuple[str, str]]:
    bucket = "l.graph_version %% %(modulus)s"
    versions = "sum(l.graph_version %% %(prime)s)::bigint"
    parts = [
        (
            f"""
            SELECT {bucket}, count(*), {versions},
                   sum((l.graph_version %% %(weight)s) * length({key}))::bigint,
                   min({key} COLLATE "C"), max({key} COLLATE "C"),
                   min(content_hash COLLATE "C"), max(content_hash COLLATE "C")
            FROM {entity_type} l WHERE deleted_at IS NULL GROUP BY 1
            """,
            "node",
        )
    ]
    parts += [
        (
            f"SELECT {bucket}, {parent.column}, count(*), {versions} FROM {entity_type} l "
            f"WHERE deleted_at IS NULL AND {parent.column} IS NOT NULL GROUP BY 1, 2",
            f"parent {parent.relation}",
        )
        for parent in entity_type.graph_parents
    ]
    edges = entity_type.edges
    if edges:
        parts.append(
            (
                f"""
                SELECT {bucket}, r.relationship_type, count(*),
                       sum((l.graph_version %% %(weight)s)
                           * (t.graph_version %% %(prime)s))::bigint,
                       sum(round(COALESCE(r.strength_score, -1) * 100000)
                           * (l.graph_version %% %(weight)s
                              + t.graph_version %% %(weight)s))::bigint
                FROM {edges.table} r
                JOIN {entity_type} l ON l.id = r.{edges.source} AND l.deleted_at IS NULL
                JOIN {entity_type} t ON t.id = r.{edges.target} AND t.deleted_at IS NULL
                GROUP BY 1, 2
                """,
                "edge",
            )
        )
    return parts


def version_digest(conn: Conn, entity_type: EntityType, modulus: int, *, prime: int) -> Digest:
    """Return count and sum of versions of living entities, by ``version`` modulo ``modulus``."""
    rows = conn.execute(
        f"""
        SELECT version %% %(modulus)s, count(*), sum(version %% %(prime)s)::bigint
        FROM {entity_type} WHERE deleted_at IS NULL GROUP BY 1
        """,
        {"modulus": modulus, "prime": prime},
    )
    return {row[0]: {(row[1], row[2])} for row in rows}


def row_digest(
    conn: Conn,
    entity_type: EntityType,
    modulus: int,
    *,
    digest: str,
    model: Model | None = None,
) -> Digest:
    """Return count and sum of digests of living entities, by ``version`` modulo ``modulus``.

    ``digest`` is SQL for a number made of the ``facts`` of a row. ``model`` is that of the shadow.
    """
    facts = ", ".join(
        [
            entity_type.key_column,
            "version",
            namespace_sql(entity_type),
            "content_hash",
            "%(model)s::text" if model else model_of(),
        ]
    )
    rows = conn.execute(
        f"""
        SELECT version %% %(modulus)s, count(*), sum({digest.format(facts=facts)})::bigint
        FROM {entity_type} l WHERE deleted_at IS NULL GROUP BY 1
        """,
        {"modulus": modulus, **({"model": model.name} if model else {})},
    )
    return {row[0]: {(row[1], row[2])} for row in rows}
