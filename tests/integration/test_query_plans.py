"""The cost of the hot statements on full tables: indexes, not scans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import TupleRow, tuple_row

from altsync import db
from altsync.circuit.clock import Bounds, set_back, set_deletions_back
from altsync.contract import EMBEDDING
from altsync.local.services.postgres import Postgres
from altsync.operations import (
    Dead,
    ErrorKind,
    Operation,
    Outcome,
    Retry,
    Settlement,
    Superseded,
    Synced,
)
from altsync.outbox.claim import claim, due, exhausted, extend, release
from altsync.outbox.upkeep import backfill_page, purge_deleted
from altsync.retry import (
    Selection,
    count_dead,
    dead_by_sink,
    dead_ids,
    discard_dead,
    failures,
    most_frequent,
    retry_dead,
)
from altsync.seed.sql.entities import create_staging
from altsync.seed.sql.seen import create_changed_in_run
from altsync.status.sql import backlog
from altsync.store.rows import read_rows
from altsync.why import history as why_history
from altsync.why.history import entity_state
from tests import sports
from tests.conftest import DIMENSIONS, MODEL, TOPOLOGY
from tests.integration.database_fixture import LEASE, leagues, save, settle

#: Leagues, each with an operation that waits for one of the sinks.
WAITING = 50_000

#: Operations that are history.
HISTORY = 300_000

BATCH = 500

#: Tables whose scan would make each batch cost as much as everything there is.
LARGE = {"league", "sync_operation"}


class Recording(psycopg.Connection[TupleRow]):
    """A connection that notes what is asked of it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.asked: list[tuple[str, Any]] = []

    def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
        """Note it, then do it."""
        self.asked.append((query, params))
        return super().execute(query, params, **options)


@dataclass(frozen=True, slots=True)
class Node:
    """One step of a plan. ``buffers`` are pages touched, those below it included."""

    kind: str
    table: str | None
    index: str | None
    rows: float
    buffers: int


@pytest.fixture(scope="module")
def full(postgres: Postgres) -> Iterator[str]:
    """A database with a large history and a long queue."""
    base = postgres.url.rsplit("/", 1)[0]
    with psycopg.connect(postgres.url, autocommit=True) as conn:
        conn.execute("CREATE DATABASE full_tables TEMPLATE migrated")
    with db.connect(f"{base}/full_tables") as conn:
        conn.execute("SET synchronous_commit = off")
        _fill(conn)
    yield f"{base}/full_tables"


def test_a_claim_reads_its_index_and_little_else(full: str) -> None:
    """With 300,000 finished operations as without any."""
    with _recording(full) as conn, conn.transaction(force_rollback=True):
        with conn.transaction(force_rollback=True):
            assert len(_lease(conn, "neo4j")) == BATCH
        (statement,) = conn.asked
        crowded = _explain(conn, *statement)
        conn.execute(
            "CREATE TEMP TABLE kept AS SELECT * FROM sync_operation WHERE finished_at IS NULL"
        )
        conn.execute("TRUNCATE sync_operation")
        conn.execute("INSERT INTO sync_operation OVERRIDING SYSTEM VALUE SELECT * FROM kept")
        conn.execute("ANALYZE sync_operation")
        alone = _explain(conn, *statement)
    assert "sync_operation_due" in {node.index for node in crowded}
    assert _scanned(crowded) == set()
    assert crowded[0].buffers <= 2 * alone[0].buffers
    assert crowded[0].buffers < 20 * BATCH


def test_the_relays_questions_read_indexes(full: str) -> None:
    """Due operations, the wait of the others, and exhausted ones."""
    with _recording(full) as conn:
        due(conn, TOPOLOGY.names, 4 * BATCH)
        exhausted(conn, 10)
        plans = _explain_all(conn)
    assert _scanned(*plans) == set()
    assert plans[0][0].buffers < 20 * BATCH


@pytest.mark.parametrize(("sink", "statements"), [("neo4j", 9), (EMBEDDING, 11), ("pinecone", 9)])
def test_settling_reads_no_table_as_a_whole(full: str, sink: str, statements: int) -> None:
    """Every outcome, with follow-ups, on fifty thousand entities; the statements are counted."""
    with _recording(full) as conn:
        settled, plans = _settling(conn, sink)
    assert (settled.synced, settled.dead, settled.retried, settled.superseded) == (
        BATCH - 30,
        10,
        10,
        10,
    )
    assert len(plans) == statements
    assert _scanned(*plans) == set()
    assert sum(plan[0].buffers for plan in plans) < 200 * BATCH


def test_settling_in_a_database_without_statistics(database_url: str) -> None:
    """Vectors are looked up one by one, though nothing is known of how many there are."""
    with _recording(database_url) as conn:
        conn.execute("ALTER TABLE embedding SET (autovacuum_enabled = off)")
        _fill_queue(conn, 4 * BATCH, sink=f"'{EMBEDDING}'")
        _, plans = _settling(conn, EMBEDDING)
    read = [node.rows for plan in plans for node in plan if node.table == "embedding"]
    assert read != []
    assert max(read) <= BATCH


def test_seeding_a_batch_reads_a_batch(full: str) -> None:
    """Of new leagues, into a table of fifty thousand."""
    with _recording(full) as conn:
        create_changed_in_run(conn)
        create_staging(conn, sports.LEAGUE)
        conn.asked.clear()
        with conn.transaction(force_rollback=True):
            assert save(conn, *leagues(BATCH)).created == BATCH
            upsert = next(entry for entry in conn.asked if "changed AS" in entry[0])
            plan = _explain(conn, *upsert)
    assert _scanned(plan) == set()


def test_reading_a_batch_reads_a_batch(full: str) -> None:
    """Rows by id."""
    with _recording(full) as conn:
        ids = [r[0] for r in conn.execute("SELECT id FROM league LIMIT %s", (BATCH,))]
        conn.asked.clear()
        assert len(read_rows(conn, sports.LEAGUE, ids, with_vectors=True)) == BATCH
        plans = _explain_all(conn)
    assert _scanned(*plans) == set()


def test_extending_and_releasing_read_their_own_rows(full: str) -> None:
    """By the operations' ids."""
    with _recording(full) as conn, conn.transaction(force_rollback=True):
        operations = _lease(conn, "neo4j")
        token = _token(conn, operations)
        ids = [op.id for op in operations]
        conn.asked.clear()
        assert extend(conn, ids, token, LEASE)
        release(conn, ids, token)
        plans = _explain_all(conn)
    assert _scanned(*plans) == set()


def test_a_page_of_backfill_reads_a_page(full: str) -> None:
    """However many pages there are."""
    with _recording(full) as conn, conn.transaction(force_rollback=True):
        backfill_page(
            conn,
            TOPOLOGY.traits("neo4j"),
            sports.LEAGUE,
            after=UUID("80000000-0000-0000-0000-000000000000"),
            force=True,
            limit=BATCH,
        )
        plans = _explain_all(conn)
    assert _scanned(*plans) == set()


def test_one_entitys_history_reads_its_own_rows(full: str) -> None:
    """By name or id, live and finished, whatever filter comes with it."""
    with _recording(full) as conn:
        done = conn.execute(
            "SELECT entity_id FROM sync_operation WHERE finished_at IS NOT NULL LIMIT 1"
        ).fetchone()
        assert done is not None
        conn.asked.clear()
        assert len(why_history.operations(conn, entity=done[0])) == 1
        assert len(why_history.operations(conn, entity="t7", sink="pinecone")) == 0
        assert len(why_history.operations(conn, entity="t7", status="pending")) == 1
        assert entity_state(conn, "t7") is not None
        plans = _explain_all(conn)
    assert _scanned(*plans) == set()
    assert max(plan[0].buffers for plan in plans) < 50


@pytest.mark.parametrize(
    "asked", [{}, {"sink": "neo4j"}, {"status": "synced"}, {"before": 200_000}], ids=str
)
def test_a_page_of_operations_reads_a_page(full: str, asked: dict[str, Any]) -> None:
    """From the newest on, however many there are."""
    with _recording(full) as conn:
        assert len(why_history.operations(conn, **asked)) == 50
        (plan,) = _explain_all(conn)
    assert _scanned(plan) == set()


@pytest.fixture(name="dead")
def _dead(full: str) -> Iterator[Recording]:
    """Twenty thousand dead letters of four errors, beside much history; undone at the end."""
    with _recording(full) as conn, conn.transaction(force_rollback=True):
        conn.execute(
            """
            UPDATE sync_operation o SET status = 'dead', error_kind = 'item', finished_at = now(),
              last_error = 'value ' || o.id || ' is bad', error_group = 'g' || mod(o.id, 4),
              entity_id = l.id, entity_key = l.league_tag
            FROM (SELECT id, row_number() OVER (ORDER BY id) AS place FROM sync_operation
                  WHERE status = 'synced' ORDER BY id LIMIT %(dead)s) chosen
            JOIN (SELECT id, league_tag, row_number() OVER (ORDER BY id) AS place
                  FROM league) l USING (place)
            WHERE o.id = chosen.id
            """,
            {"dead": DEAD},
        )
        conn.execute("ANALYZE sync_operation")
        conn.asked.clear()
        yield conn


def test_dead_letters_are_read_by_their_index(dead: Recording) -> None:
    """A look at twenty thousand, and a page of a retry."""
    groups = failures(dead)
    assert sum(group.count for group in groups) == DEAD
    which = Selection(group=groups[0].group)
    first = dead_ids(dead, which, limit=BATCH)
    dead_ids(dead, which, limit=BATCH, after=first[-1][0])
    look, *pages = _explain_all(dead)
    assert _scanned(look, *pages) == set()
    assert all(page[0].buffers < 20 * BATCH for page in pages)


def test_a_look_at_many_errors_computes_the_patterns_that_it_shows(dead: Recording) -> None:
    """Every dead letter with an error of its own: the page asks every 2 seconds."""
    dead.execute("UPDATE sync_operation SET error_group = 'own' || id WHERE status = 'dead'")
    dead.execute("ANALYZE sync_operation")
    dead.asked.clear()
    found = most_frequent(dead, 100)
    assert (len(found.groups), found.all_groups, found.operations) == (100, DEAD, DEAD)
    (plan,) = _explain_all(dead)
    assert _scanned(plan) == set()
    samples = [n for n in plan if n.index == "sync_operation_pkey"]
    assert sum(node.rows for node in samples) == 100


@pytest.mark.parametrize("page", [0, 10])
def test_a_page_of_a_retry_costs_the_same_at_any_place(dead: Recording, page: int) -> None:
    """Its own rows, whatever was retried before it: all of them cost what their number says."""
    after = 0
    for _ in range(page):
        done = dead_ids(dead, limit=BATCH, after=after)
        retry_dead(dead, done, TOPOLOGY)
        after = done[-1][0]
    found = dead_ids(dead, limit=BATCH, after=after)
    dead.asked.clear()
    with dead.transaction(force_rollback=True):
        assert retry_dead(dead, found, TOPOLOGY) >= BATCH
    assert len(dead.asked) < 20
    plans = _explain_all(dead)
    assert _scanned(*plans) == set()
    assert sum(plan[0].buffers for plan in plans) < 100 * BATCH


def test_a_page_of_a_discard_reads_its_own_rows(dead: Recording) -> None:
    found = dead_ids(dead, limit=BATCH)
    dead.asked.clear()
    with dead.transaction(force_rollback=True):
        assert discard_dead(dead, found, TOPOLOGY, by="me", why="no") == BATCH
    plans = _explain_all(dead)
    assert _scanned(*plans) == set()
    assert sum(plan[0].buffers for plan in plans) < 50 * BATCH


def test_counting_dead_letters_reads_no_history(dead: Recording) -> None:
    """For the page, for metrics and for commands: by sink, by reason, and as a number."""
    assert count_dead(dead) == DEAD
    assert sum(dead_by_sink(dead).values()) == DEAD
    assert count_dead(dead, Selection(reason="is bad")) == DEAD
    assert backlog(dead) != {}
    plans = _explain_all(dead)
    assert _scanned(*plans) == set()


def test_times_are_set_back_by_an_index(full: str) -> None:
    """Each minute, and most of the time there is nothing to set back."""
    with _recording(full) as conn, conn.transaction(force_rollback=True):
        assert not set_back(conn, TOPOLOGY.names, Bounds())
        quiet = _explain_all(conn)
        conn.execute(
            """
            UPDATE sync_operation SET available_at = now() + interval '10 years'
            WHERE id IN (SELECT id FROM sync_operation WHERE finished_at IS NULL LIMIT %s)
            """,
            (BATCH,),
        )
        conn.asked.clear()
        assert set_back(conn, TOPOLOGY.names, Bounds()).operations == BATCH
        busy = _explain_all(conn)
    assert _scanned(*quiet, *busy) == set()
    assert "sync_operation_due" in {node.index for node in quiet[0]}
    assert quiet[0][0].buffers < 1000
    assert sum(node.rows for node in quiet[0] if node.table == "sync_operation") == 0


#: Dead letters beside the history.
DEAD = 20_000


def test_deleted_entities_are_found_by_their_index(full: str) -> None:
    """Each minute, whether there are none or some among fifty thousand living ones."""
    with _recording(full) as conn, conn.transaction(force_rollback=True):
        assert purge_deleted(conn, 60.0) == 0
        assert set_deletions_back(conn) == 0
        quiet = _explain_all(conn)
        for when, sort in (("- interval '1 day'", "ASC"), ("+ interval '1 day'", "DESC")):
            conn.execute(
                f"""
                UPDATE league SET deleted_at = now() {when} WHERE id IN (
                  SELECT id FROM league WHERE deleted_at IS NULL ORDER BY id {sort} LIMIT {BATCH})
                """
            )
        conn.execute(
            "UPDATE sync_operation SET status = 'synced', finished_at = now() "
            "WHERE entity_id IN (SELECT id FROM league WHERE deleted_at < now())"
        )
        conn.asked.clear()
        assert set_deletions_back(conn) == BATCH
        back = _explain_all(conn)
        conn.asked.clear()
        with conn.transaction(force_rollback=True):
            assert purge_deleted(conn, 60.0) == BATCH
        purged = _explain_all(conn)
    assert _scanned(*quiet, *back, *purged) == set()
    for plans in (quiet, back, purged):
        assert "league_deleted" in {node.index for plan in plans for node in plan}
    assert sum(plan[0].buffers for plan in quiet) < 100


def _settling(conn: Recording, sink: str) -> tuple[Settlement, list[list[Node]]]:
    """Settle a batch with every outcome, undo it, and explain its statements."""
    with conn.transaction(force_rollback=True):
        operations = _lease(conn, sink)
        token = _token(conn, operations)
        conn.asked.clear()
        settled = settle(conn, TOPOLOGY.traits(sink), token, _outcomes(operations))
        asked = list(conn.asked)
    with conn.transaction(force_rollback=True):
        again = _lease(conn, sink)
        assert [op.id for op in again] == [op.id for op in operations]
        conn.execute(
            "UPDATE sync_operation SET lease_token = %s WHERE id = ANY(%s)",
            (token, [op.id for op in operations]),
        )
        return settled, [_explain(conn, query, params) for query, params in asked if _is_sql(query)]


def _fill(conn: db.Conn) -> None:
    columns = "entity_type, entity_id, entity_key, sink, action, version, origin"
    conn.execute(
        f"""
        INSERT INTO sync_operation ({columns}, status, finished_at)
        SELECT 'league', gen_random_uuid(), 't' || n, {_SINK_OF.format("n")}, 'upsert', 1, 'seed',
          'synced', now() - make_interval(mins => n)
        FROM generate_series(1, %s) n
        """,
        (HISTORY,),
    )
    _fill_queue(conn, WAITING, sink=_SINK_OF.format("text_hash::int"))
    # Statistics stay as they are: an autovacuum amid the tests would see rows of rolled back ones.
    for table in ("league", "sync_operation", "embedding"):
        conn.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
    conn.execute("VACUUM ANALYZE")


#: Each of the three sinks in turn, by a number.
_SINK_OF = "(ARRAY['embedding', 'neo4j', 'pinecone'])[1 + mod({}, 3)]"


def _fill_queue(conn: db.Conn, leagues: int, sink: str) -> None:
    """Embedded leagues, each with an operation that waits for ``sink``, an SQL expression."""
    conn.execute(
        """
        INSERT INTO league (id, seed_id, league_tag, league_name, sport_name, sport_archetype,
          description, content_hash, text_hash, embedding_text_hash, embedding_model)
        SELECT gen_random_uuid(), 's' || n, 't' || n, 'League ' || n, 'Football', 'team_sport',
          repeat('x', 300), n, n, n, %s
        FROM generate_series(1, %s) n
        """,
        (MODEL, leagues),
    )
    conn.execute(
        "INSERT INTO embedding (model, dimensions, text_hash, vector) "
        "SELECT %s, %s, text_hash, repeat('v', 16)::bytea FROM league",
        (MODEL, DIMENSIONS),
    )
    conn.execute(
        f"""
        INSERT INTO sync_operation (entity_type, entity_id, entity_key, sink, action, version,
          origin)
        SELECT 'league', id, league_tag, {sink}, 'upsert', version, 'seed' FROM league
        """
    )


def _lease(conn: db.Conn, sink: str) -> list[Operation]:
    token = uuid4()
    return claim(conn, sink, token=token, worker="tests", limit=BATCH, lease=LEASE, max_attempts=10)


def _token(conn: db.Conn, operations: Sequence[Operation]) -> UUID:
    row = conn.execute(
        "SELECT lease_token FROM sync_operation WHERE id = %s", (operations[0].id,)
    ).fetchone()
    assert row is not None
    return UUID(str(row[0]))


def _outcomes(operations: Sequence[Operation]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for place, op in enumerate(operations):
        if place < 10:
            outcomes.append(Dead(op, op.version, ErrorKind.ITEM, "bad"))
        elif place < 20:
            outcomes.append(Retry(op, ErrorKind.SINK, "down", 5.0, give_back=True))
        elif place < 30:
            outcomes.append(Superseded(op, "the row is gone"))
        else:
            # Some were written newer or older than asked for: history is corrected, and the
            # older ones are followed up.
            outcomes.append(Synced(op, op.version + place % 3 - 1, "id", "default"))
    return outcomes


def _recording(url: str) -> Recording:
    conninfo, options = db.connect_options(url, "tests")
    return Recording.connect(conninfo, autocommit=True, row_factory=tuple_row, **options)


def _explain_all(conn: Recording) -> list[list[Node]]:
    asked = [entry for entry in conn.asked if _is_sql(entry[0])]
    with conn.transaction(force_rollback=True):
        return [_explain(conn, query, params) for query, params in asked]


def _is_sql(query: str) -> bool:
    return "pg_notify" not in query


def _explain(conn: db.Conn, query: str, params: Any) -> list[Node]:
    """The steps of a plan, the whole of it first, as it really ran."""
    row = conn.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}", params).fetchone()
    assert row is not None
    return list(_nodes(row[0][0]["Plan"]))


def _nodes(plan: Mapping[str, Any]) -> Iterator[Node]:
    yield Node(
        plan["Node Type"],
        plan.get("Relation Name"),
        plan.get("Index Name"),
        plan.get("Actual Rows", 0) * plan.get("Actual Loops", 0),
        plan["Shared Hit Blocks"] + plan["Shared Read Blocks"],
    )
    for part in plan.get("Plans", ()):
        yield from _nodes(part)


def _scanned(*plans: Sequence[Node]) -> set[str | None]:
    """Large tables that were read from end to end."""
    return {
        node.table
        for plan in plans
        for node in plan
        if node.kind == "Seq Scan" and node.table in LARGE
    }
