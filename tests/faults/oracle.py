"""The judge: PostgreSQL and the simulated servers at rest, compared by rules of its own.

Nothing here uses the product's SQL or projections, so what is broken there is seen here.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Set
from typing import Any

import psycopg
from psycopg.rows import dict_row

from altsync.contract import EMBEDDING
from altsync.delivery import Policy
from tests.faults.embedder import text_vector
from tests.faults.sandbox import MODEL, NEO4J, PINECONE, Sandbox
from tests.faults.server import Charge, Held
from tests.faults.violations import Problem, Violation

#: Key of each entity in its sinks, and the namespace of its vector, as SQL.
TABLES = {
    "sport_archetype": ("archetype_name", "''"),
    "league": ("league_tag", "'default'"),
    "few_shot_example": ("example_id", "category"),
}

#: Seconds for sessions of processes that are gone to end at the server.
SESSIONS_END = 5.0

#: Events that no run may have, whatever happens in it.
FORBIDDEN = ("call.in_transaction", "role.failed", "sink.ahead", "sink.failed")


def at_rest(sandbox: Sandbox, dead_keys: Set[str] = frozenset()) -> list[Violation]:
    """Everything that must hold when nothing is live any more.

    ``dead_keys`` are keys of entities that may have been given up on, and so may be dead, be
    missing from a sink, and say so.
    """
    found: list[Violation] = []
    with psycopg.connect(sandbox.url, autocommit=True, row_factory=dict_row) as conn:
        rows = [row for row in _rows(conn) if row["key"] not in dead_keys]
        for name, check in ((NEO4J, _check_graph), (PINECONE, _check_vectors)):
            found += check(
                rows, [held for held in _held(sandbox, name) if held.key not in dead_keys]
            )
        found += _check_embeddings(rows)
        found += _check_statuses(rows)
        found += _check_operations(conn, sandbox.policy, dead_keys)
    return found


def at_any_time(sandbox: Sandbox, sinks: Iterable[str] = (NEO4J,)) -> list[Violation]:
    """Check what must hold even while all processes work.

    ``sinks`` are those whose "synced" must be true: an unguarded one only when nothing is late.
    """
    with psycopg.connect(sandbox.url, autocommit=True, row_factory=dict_row) as conn:
        claims = [claim for sink in sinks for claim in _false_claims(conn, sandbox, sink)]
        return [*_two_live(conn), *_without_vectors(conn), *claims]


def over_all(sandbox: Sandbox) -> list[Violation]:
    """Check the whole history of a run. Every other session has ended."""
    found = [Violation(Problem.ERROR, str(entry)) for entry in _forbidden(sandbox)]
    with psycopg.connect(sandbox.url, autocommit=True, row_factory=dict_row) as conn:
        found += [
            Violation(Problem.VERSION_DOWN, str(row))
            for row in conn.execute("SELECT * FROM faults_audit")
        ]
        count = _deadlocks(conn)
    if count:
        found.append(Violation(Problem.DEADLOCK, f"{count} of them"))
    graph, embedder = sandbox.server(NEO4J), sandbox.server(EMBEDDING)
    found += [
        Violation(Problem.OLDER_OVER_NEWER, str(entry)) for entry in graph.older_after_newer()
    ]
    found += [
        Violation(Problem.PAID_TWICE, f"{charge.text_hash}, its vector was safe")
        for charge in unneeded(embedder.charges())
    ]
    graph.close()
    embedder.close()
    return found


def _deadlocks(conn: psycopg.Connection[Any]) -> int:
    """Deadlocks that the server has resolved in this database, of any victim.

    Sessions count their own and hand that in when they end.
    """
    deadline = time.monotonic() + SESSIONS_END
    while time.monotonic() < deadline and _sessions(conn):
        time.sleep(0.01)
    row = conn.execute(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    ).fetchone()
    assert row is not None
    return int(row["deadlocks"])


def _sessions(conn: psycopg.Connection[Any]) -> int:
    row = conn.execute(
        """
        SELECT count(*) AS others FROM pg_stat_activity
        WHERE datname = current_database() AND backend_type = 'client backend'
          AND pid <> pg_backend_pid()
        """
    ).fetchone()
    assert row is not None
    return int(row["others"])


def unneeded(charges: Iterable[Charge]) -> list[Charge]:
    """Payments for a text whose vector was safe by then.

    A text may be paid again when the worker that had the answer died with it or never got it,
    and when two workers had the same new text at once.
    """
    safe: dict[str, float] = {}
    found = []
    for charge in charges:
        if charge.at > safe.get(charge.text_hash, float("inf")):
            found.append(charge)
        if charge.kept_at is not None:
            known = safe.get(charge.text_hash, charge.kept_at)
            safe[charge.text_hash] = min(known, charge.kept_at)
    return found


# --- rows ---------------------------------------------------------------------------------------


def _rows(conn: psycopg.Connection[Any]) -> Iterator[dict[str, Any]]:
    for table, (key, space) in TABLES.items():
        yield from conn.execute(
            f"""
            SELECT '{table}' AS kind, id, {key} AS key, {space} AS space, version, graph_version,
                   deleted_at IS NOT NULL AS deleted, content_hash, text_hash,
                   embedding_text_hash, embedding_model, l.embedding_vector,
                   embedding_sync_status, neo4j_sync_status, pinecone_sync_status
            FROM {table} l
            """
        )


def _name(row: dict[str, Any]) -> str:
    return f"{row['kind']} {row['key']} at {row['version']}"


def _held(sandbox: Sandbox, sink: str) -> list[Held]:
    """Return the records of a sink, delayed writes that are due included."""
    server = sandbox.server(sink)
    server.apply_delayed()
    held = server.held()
    server.close()
    return held


def _check_graph(rows: list[dict[str, Any]], nodes: list[Held]) -> Iterator[Violation]:
    held = {(node.kind, node.key): node for node in nodes}
    for row in rows:
        if row["deleted"]:
            continue
        node = held.pop((row["kind"], row["key"]), None)
        if node is None:
            yield Violation(Problem.LOST, f"{NEO4J}: {_name(row)}", row["key"])
        elif (node.version, node.body["content_hash"]) != (
            row["graph_version"],
            row["content_hash"],
        ):
            where = f"{NEO4J}: {_name(row)} is held at {node.version}"
            yield Violation(Problem.STALE, where, row["key"])
    for orphan in held.values():
        where = f"{NEO4J}: {orphan.kind} {orphan.key} at {orphan.version}"
        yield Violation(Problem.ORPHAN, where, orphan.key)


def _check_vectors(rows: list[dict[str, Any]], vectors: list[Held]) -> Iterator[Violation]:
    held = {(vector.kind, vector.space, vector.key): vector for vector in vectors}
    for row in rows:
        if row["deleted"]:
            continue
        vector = held.pop((row["kind"], row["space"], row["key"]), None)
        if vector is None:
            where = f"{PINECONE}: {_name(row)} in {row['space']!r}"
            yield Violation(Problem.LOST, where, row["key"])
            continue
        expected = {
            "content_hash": row["content_hash"],
            "model": MODEL,
            "vector": text_vector(row["text_hash"]).hex(),
        }
        if (vector.version, dict(vector.body)) != (row["version"], expected):
            where = f"{PINECONE}: {_name(row)} is held at {vector.version}"
            yield Violation(Problem.STALE, where, row["key"])
    for orphan in held.values():
        where = f"{orphan.kind} {orphan.key} in {orphan.space!r} at {orphan.version}"
        yield Violation(Problem.ORPHAN, f"{PINECONE}: {where}", orphan.key)


def _check_embeddings(rows: list[dict[str, Any]]) -> Iterator[Violation]:
    for row in rows:
        if row["deleted"]:
            continue
        if row["embedding_text_hash"] is None:
            yield Violation(Problem.LOST, f"{EMBEDDING}: {_name(row)}")
        elif (row["embedding_text_hash"], row["embedding_model"], row["embedding_vector"]) != (
            row["text_hash"],
            MODEL,
            text_vector(row["text_hash"]),
        ):
            yield Violation(Problem.STALE, f"{EMBEDDING}: {_name(row)}")


def _check_statuses(rows: list[dict[str, Any]]) -> Iterator[Violation]:
    for row in rows:
        for sink in (EMBEDDING, NEO4J, PINECONE):
            status = row[f"{sink}_sync_status"]
            if status != "synced":
                deleted = ", deleted" if row["deleted"] else ""
                where = f"{sink}: {_name(row)}{deleted} is {status}"
                yield Violation(Problem.STATUS, where, row["key"])


# --- operations ---------------------------------------------------------------------------------


def _check_operations(
    conn: psycopg.Connection[Any], policy: Policy, dead_keys: Set[str]
) -> Iterator[Violation]:
    most = max(policy.max_attempts, policy.max_lost_leases)
    for row in conn.execute(
        """
        SELECT sink, entity_type, entity_key, version, status, attempts, error_kind, last_error
        FROM sync_operation
        WHERE status IN ('pending', 'in_progress', 'dead') OR attempts > %s OR attempts < 0
        """,
        (most,),
    ):
        where = str({name: str(value) for name, value in row.items()})
        if row["status"] == "dead" and row["entity_key"] not in dead_keys:
            yield Violation(Problem.DEAD, where, row["entity_key"])
        elif row["status"] in ("pending", "in_progress"):
            yield Violation(Problem.LIVE, where, row["entity_key"])
        if not 0 <= row["attempts"] <= most:
            yield Violation(Problem.ATTEMPTS, where)


def _two_live(conn: psycopg.Connection[Any]) -> Iterator[Violation]:
    for row in conn.execute(
        """
        SELECT sink, entity_key, count(*) AS operations,
               count(DISTINCT lease_token) AS leases
        FROM sync_operation WHERE status IN ('pending', 'in_progress')
        GROUP BY sink, entity_id, entity_key HAVING count(*) > 1
        """
    ):
        yield Violation(Problem.TWO_LIVE, str(row))


def _without_vectors(conn: psycopg.Connection[Any]) -> Iterator[Violation]:
    """Rows that say what is embedded of them, and it is not."""
    for row in _rows(conn):
        text_hash = row["embedding_text_hash"]
        if text_hash is not None and row["embedding_vector"] != text_vector(text_hash):
            yield Violation(Problem.SYNCED_IS_FALSE, f"{EMBEDDING}: {_name(row)}", row["key"])


def _false_claims(
    conn: psycopg.Connection[Any], sandbox: Sandbox, sink: str
) -> Iterator[Violation]:
    """Rows that say "synced" of a sink which holds something else.

    The row is read before and after the sink: only a claim that stood all the time is false.
    """
    before = _claims(conn, sink)
    held = {(h.kind, h.key): h.version for h in _held(sandbox, sink)}
    after = _claims(conn, sink)
    for row_id in before.keys() & after.keys():
        row, still = before[row_id], after[row_id]
        found = held.get((row["kind"], row["key"]))
        version = row["graph_version" if sink == NEO4J else "version"]
        expected = None if row["deleted"] else version
        if still["graph_version"] == row["graph_version"] and found != expected:
            where = f"{sink}: {_name(row)} is held at {found}"
            yield Violation(Problem.SYNCED_IS_FALSE, where, row["key"])


def _claims(conn: psycopg.Connection[Any], sink: str) -> dict[Any, dict[str, Any]]:
    return {row["id"]: row for row in _rows(conn) if row[f"{sink}_sync_status"] == "synced"}


def _forbidden(sandbox: Sandbox) -> Iterator[dict[str, Any]]:
    for entry in sandbox.audit_log.read():
        if entry["event"] in FORBIDDEN:
            yield {**entry, "at": time.strftime("%H:%M:%S", time.localtime(entry["at"]))}
