"""The schema's history against the models, and what only the history can say."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg import errors, sql
from sqlalchemy import text

import altsports.catalogue  # noqa: F401  (registers the tables)
import altsync.models  # noqa: F401  (registers the tables)
from altsync import __version__, db, revisions, schema
from altsync.errors import SchemaError
from altsync.local.services.postgres import Postgres

ROOT = Path(__file__).parents[2]

#: The largest integer that a float64 holds exactly: how a vector index keeps versions.
EXACT_FLOAT = 2**53

#: The parts of a schema in PostgreSQL, beyond what alembic compares. The query's name comes
#: first in each row.
CATALOG = {
    "columns": """
        SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
               a.attidentity::text, a.attgenerated::text, pg_get_expr(d.adbin, d.adrelid)
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND c.relkind = 'r'
        LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
        WHERE c.relnamespace = current_schema()::regnamespace AND a.attnum > 0
          AND NOT a.attisdropped
    """,
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = current_schema()::regnamespace
    """,
    "indexes": "SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = current_schema()",
    "options": """
        SELECT relname, array_to_string(reloptions, ',') FROM pg_class
        WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'
    """,
}

ALL_TABLES = {
    "sport_archetype",
    "league",
    "few_shot_example",
    "league_relationship",
    "document",
    "contract",
    "sync_operation",
    "sink_state",
    "embedding",
    "tag_registry",
    "delivery_batch",
}


def heads() -> list[str]:
    """The newest revisions in the folder."""
    return list(ScriptDirectory(str(revisions.migrations_folder())).get_heads())


def catalog(url: str) -> dict[str, set[tuple[Any, ...]]]:
    """The schema as PostgreSQL has it, without alembic's own table."""
    with db.connect(url) as conn:
        found = {name: set(conn.execute(query).fetchall()) for name, query in CATALOG.items()}
    return {
        name: {row for row in rows if row[0] != "alembic_version"} for name, rows in found.items()
    }


def tables(url: str) -> set[str]:
    """Tables, views and sequences of the current schema, but for alembic's own table."""
    with db.connect(url) as conn:
        rows = conn.execute(
            """
            SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace
              AND relkind IN ('r', 'v', 'm', 'S', 'p') AND relname <> 'alembic_version'
            """
        )
        return {row[0] for row in rows}


@contextmanager
def database_of(server: Postgres, template: str) -> Iterator[str]:
    """The URL of a database that is gone at the end."""
    name = f"schema_{uuid4().hex}"
    created = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
    with psycopg.connect(server.url, autocommit=True) as conn:
        conn.execute(created.format(sql.Identifier(name), sql.Identifier(template)))
        yield server.url.rsplit("/", 1)[0] + "/" + name
    with psycopg.connect(server.superuser_url, autocommit=True) as conn:
        conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="module")
def _migrated(postgres: Postgres) -> Iterator[str]:
    with database_of(postgres, "migrated") as url:
        yield url


@pytest.fixture
def conn(_migrated: str) -> Iterator[db.Conn]:
    """A connection to a migrated database that is as before afterwards."""
    with db.connect(_migrated) as connection, connection.transaction(force_rollback=True):
        yield connection


def take_down(url: str) -> None:
    """Every migration back, one by one."""
    for _ in ScriptDirectory(str(revisions.migrations_folder())).walk_revisions():
        schema.migrate(url, "-1")


def create_from_models(url: str) -> None:
    """The tables that the models say, with the sequence that they draw from."""
    with db.engine(url).connect() as connection:
        connection.execute(text("CREATE SEQUENCE entity_version"))
        schema.declared().create_all(connection)
        connection.commit()


def test_the_head_is_what_the_models_say(empty_database_url: str) -> None:
    """Alembic finds nothing to do: tables, columns, types, indexes, server defaults."""
    schema.migrate(empty_database_url)
    with db.engine(empty_database_url).connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, schema.declared()) == []


@pytest.fixture(scope="module")
def catalogs(postgres: Postgres) -> tuple[dict[str, set[Any]], dict[str, set[Any]]]:
    """The schema as the migrations make it, and as the models say it."""
    with (
        database_of(postgres, "template0") as by_history,
        database_of(postgres, "template0") as by_models,
    ):
        schema.migrate(by_history)
        create_from_models(by_models)
        return catalog(by_history), catalog(by_models)


@pytest.mark.parametrize("what", CATALOG)
def test_the_catalog_is_what_the_models_say(
    catalogs: tuple[dict[str, set[Any]], dict[str, set[Any]]], what: str
) -> None:
    """Alembic does not compare checks, generated columns, partial indexes and fillfactor."""
    by_history, by_models = (found[what] for found in catalogs)
    assert by_history - by_models == set()
    assert by_models - by_history == set()
    assert by_history


def test_up_down_up(empty_database_url: str) -> None:
    """Every step can be taken back to nothing, and the way up gives the same again."""
    schema.migrate(empty_database_url)
    first = catalog(empty_database_url)
    assert tables(empty_database_url) > ALL_TABLES
    take_down(empty_database_url)
    assert tables(empty_database_url) == set()
    with db.connect(empty_database_url) as conn:
        assert revisions.schema_revision(conn) is None
    schema.migrate(empty_database_url)
    assert catalog(empty_database_url) == first


def test_the_way_down_takes_rows_along(database_url: str) -> None:
    """A database in use can be taken down, relations between its tables and all."""
    with db.connect(database_url) as conn:
        league = insert(conn, "league")
        other = insert(conn, "league", seed_id="b", league_tag="b")
        insert(conn, "document", league_id=league)
        insert(conn, "league_relationship", source_league_id=league, target_league_id=other)
        insert(conn, "sync_operation")
    take_down(database_url)
    assert tables(database_url) == set()


def test_the_revision_is_told(empty_database_url: str) -> None:
    """None before the first migration, the head after it."""
    with db.connect(empty_database_url) as conn:
        assert revisions.schema_revision(conn) is None
        schema.migrate(empty_database_url)
        assert [revisions.schema_revision(conn)] == heads()


def test_migrating_twice_changes_nothing(empty_database_url: str) -> None:
    """The second run finds the head; versions go on from where they were."""
    schema.migrate(empty_database_url)
    before = catalog(empty_database_url)
    with db.connect(empty_database_url) as conn:
        drawn = conn.execute("SELECT nextval('entity_version')").fetchone()
        schema.migrate(empty_database_url)
        again = conn.execute("SELECT nextval('entity_version')").fetchone()
    assert drawn is not None
    assert again == (drawn[0] + 1,)
    assert catalog(empty_database_url) == before


def test_four_that_migrate_at_once_are_as_good_as_one(empty_database_url: str) -> None:
    """A deployment starts several processes; one migrates, the others wait for it."""
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(schema.migrate, empty_database_url) for _ in range(4)]
    assert [run.exception() for run in runs] == [None] * 4
    assert tables(empty_database_url) > ALL_TABLES


def test_another_schema_than_public(empty_database_url: str) -> None:
    """``?schema=`` as the described system's URLs have it: everything lands there."""
    with db.connect(empty_database_url) as conn:
        conn.execute("CREATE SCHEMA app")
    url = f"{empty_database_url}?schema=app"
    schema.migrate(url)
    assert tables(url) > ALL_TABLES
    assert tables(empty_database_url) == set()
    with db.connect(url) as conn:
        assert [revisions.schema_revision(conn)] == heads()
        insert(conn, "league")


def test_alembics_own_command_line_finds_everything(database_url: str) -> None:
    """As CONTRIBUTING.md has it, to draft a migration; ``check`` finds none to draft."""
    environment = {**os.environ, "DATABASE_URL": database_url}
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "check"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "No new upgrade operations detected.\n"), done


# --- what the history alone says --------------------------------------------------------------


def test_versions_start_above_every_earlier_life(empty_database_url: str) -> None:
    """Microseconds since 1970: sinks that outlived their database hold nothing newer."""
    before = time.time_ns() // 1000
    schema.migrate(empty_database_url)
    after = time.time_ns() // 1000
    with db.connect(empty_database_url) as conn:
        row = conn.execute(
            """
            SELECT start_value, cache_size, increment_by, cycle, data_type::text, max_value
            FROM pg_sequences WHERE sequencename = 'entity_version'
            """
        ).fetchone()
        assert row is not None
        start, cache, increment, cycle, kind, largest = row
        first = conn.execute("SELECT nextval('entity_version')").fetchone()
    assert before <= start <= after
    assert first == (start,)
    # A cache would hand out numbers in another order than they are drawn in.
    assert (cache, increment, cycle) == (1, 1, False)
    assert (kind, largest) == ("bigint", 2**63 - 1)
    assert start < EXACT_FLOAT
    assert float(start) == start


def test_a_second_life_begins_above_the_first(empty_database_url: str) -> None:
    """Down and up again: no version is given twice."""
    schema.migrate(empty_database_url)
    with db.connect(empty_database_url) as conn:
        last = conn.execute("SELECT nextval('entity_version') FROM generate_series(1, 50)")
        highest = max(row[0] for row in last)
    take_down(empty_database_url)
    schema.migrate(empty_database_url)
    with db.connect(empty_database_url) as conn:
        row = conn.execute("SELECT nextval('entity_version')").fetchone()
    assert row is not None
    assert row[0] > highest


def test_vectors_are_not_compressed(conn: db.Conn) -> None:
    """EXTERNAL: compressing floats gains nothing."""
    row = conn.execute(
        """
        SELECT attstorage::text FROM pg_attribute
        WHERE attrelid = 'embedding'::regclass AND attname = 'vector'
        """
    ).fetchone()
    assert row == ("e",)


def test_no_index_on_what_settling_writes(conn: db.Conn) -> None:
    """An index on a status or time column of an entity would forbid HOT updates.

    Settling does not write ``deleted_at``.
    """
    rows = conn.execute(
        """
        SELECT c.relname, a.attname FROM pg_index i
        JOIN pg_class c ON c.oid = i.indrelid
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY(i.indkey)
        WHERE c.relname IN ('league', 'sport_archetype', 'few_shot_example')
        """
    ).fetchall()
    written = [
        (table, column)
        for table, column in rows
        if column.endswith(("_status", "_at", "version", "_hash")) or column.startswith("embedding")
        if column != "deleted_at"
    ]
    assert rows
    assert written == []


def test_the_graphs_version_follows_both(conn: db.Conn) -> None:
    """The greater of the content's and the edges' version, kept by PostgreSQL itself."""
    insert(conn, "league", version=10, edges_version=7)
    assert conn.execute("SELECT graph_version FROM league").fetchone() == (10,)
    conn.execute("UPDATE league SET edges_version = 11")
    assert conn.execute("SELECT graph_version FROM league").fetchone() == (11,)


# --- rows that must not be --------------------------------------------------------------------

SAMPLES: dict[str, dict[str, Any]] = {
    "league": {
        "seed_id": "racing_001",
        "content_hash": "c",
        "text_hash": "t",
        "league_tag": "formula_1",
        "league_name": "Formula 1",
        "sport_name": "Motorsport",
        "sport_archetype": "racing",
    },
    "sport_archetype": {
        "seed_id": "archetype_racing",
        "content_hash": "c",
        "text_hash": "t",
        "archetype_name": "racing",
        "display_name": "Racing",
        "code_pattern": "RaceEvent",
    },
    "few_shot_example": {
        "seed_id": "triage_001",
        "content_hash": "c",
        "text_hash": "t",
        "example_id": "triage_001",
        "category": "triage",
        "input_text": "in",
        "output_text": "out",
    },
    "document": {"seed_id": "d", "league_id": None, "title": "t", "content_hash": "c"},
    "contract": {"seed_id": "c", "league_id": None, "title": "t", "content_hash": "c"},
    "league_relationship": {
        "source_league_id": None,
        "target_league_id": None,
        "relationship_type": "SIMILAR_TO",
    },
    "sync_operation": {
        "entity_type": "league",
        "entity_id": UUID(int=1),
        "entity_key": "formula_1",
        "sink": "neo4j",
        "action": "upsert",
        "version": 1,
        "origin": "seed",
    },
    "sink_state": {"sink": "neo4j_too"},
    "embedding": {"model": "m", "dimensions": 1, "text_hash": "t", "vector": b"\0\0\0\0"},
    "tag_registry": {"entity_type": "league", "seed_id": "racing_001", "tag": "formula_1"},
}

#: Tables whose id the caller gives.
GIVEN_ID = {
    "league_relationship",
    "league",
    "sport_archetype",
    "few_shot_example",
    "document",
    "contract",
}


def insert(conn: db.Conn, table: str, **changes: Any) -> UUID:
    """One row that is fine but for ``changes``; its id where the caller gives it."""
    row_id = changes.pop("id", None) or uuid4()
    row = {**SAMPLES[table], **changes, **({"id": row_id} if table in GIVEN_ID else {})}
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, row)),
        sql.SQL(", ").join(sql.Placeholder() * len(row)),
    )
    with conn.transaction():  # a refused row leaves the caller's transaction whole
        conn.execute(statement, list(row.values()))
    return row_id


@pytest.mark.parametrize(
    "table",
    [
        "league",
        "sport_archetype",
        "few_shot_example",
        "sync_operation",
        "sink_state",
        "embedding",
        "tag_registry",
    ],
)
def test_a_row_without_changes_is_fine(conn: db.Conn, table: str) -> None:
    """The samples that the next tests spoil are themselves good."""
    insert(conn, table)


NOW = "2026-01-01"
TOKEN = UUID(int=7)


@pytest.mark.parametrize(
    ("constraint", "changes"),
    [
        ("action_known", {"action": "merge"}),
        ("version_positive", {"version": 0}),
        ("version_positive", {"version": -1}),
        ("origin_known", {"origin": "rumour"}),
        ("status_known", {"status": "done", "finished_at": NOW}),
        ("attempts_not_negative", {"attempts": -1}),
        (
            "error_kind_known",
            {"status": "dead", "finished_at": NOW, "last_error": "x", "error_kind": "bad luck"},
        ),
        ("lease_iff_in_progress", {"status": "in_progress"}),
        ("lease_iff_in_progress", {"lease_token": TOKEN}),
        (
            "lease_iff_in_progress",
            {"status": "synced", "finished_at": NOW, "lease_token": TOKEN},
        ),
        ("live_iff_unfinished", {"finished_at": NOW}),
        ("live_iff_unfinished", {"status": "synced"}),
        ("live_iff_unfinished", {"status": "superseded"}),
        (
            "live_iff_unfinished",
            {"status": "in_progress", "lease_token": TOKEN, "finished_at": NOW},
        ),
        ("dead_has_reason", {"status": "dead", "finished_at": NOW}),
        ("dead_has_reason", {"status": "dead", "finished_at": NOW, "last_error": "x"}),
        ("dead_has_reason", {"status": "dead", "finished_at": NOW, "error_kind": "item"}),
    ],
)
def test_operations_that_must_not_be(
    conn: db.Conn, constraint: str, changes: dict[str, Any]
) -> None:
    """PostgreSQL itself refuses rows that would break the protocol."""
    with pytest.raises(errors.CheckViolation) as caught:
        insert(conn, "sync_operation", **changes)
    assert caught.value.diag.constraint_name == constraint


def test_one_live_operation_for_each_sink_and_entity(conn: db.Conn) -> None:
    """The one rule: a second live one is refused, in either state; history is free."""
    finished = {"status": "synced", "finished_at": NOW}
    leased = {"status": "in_progress", "lease_token": TOKEN}
    insert(conn, "sync_operation", **finished)
    insert(conn, "sync_operation", **finished)
    insert(conn, "sync_operation")
    insert(conn, "sync_operation", sink="pinecone")
    insert(conn, "sync_operation", entity_id=UUID(int=2))
    for second in ({}, leased):
        with pytest.raises(errors.UniqueViolation) as caught:
            insert(conn, "sync_operation", **second)
        assert caught.value.diag.constraint_name == "sync_operation_live"


@pytest.mark.parametrize(
    ("table", "constraint", "changes"),
    [
        ("sink_state", "state_known", {"state": "ajar"}),
        ("league_relationship", "league_relationship_type", {"relationship_type": "HATES"}),
        ("league_relationship", "computed_or_seeded", {"seed_id": "relationship_001"}),
        ("league_relationship", "computed_or_seeded", {"relationship_type": "COMPETES_WITH"}),
        ("league_relationship", "no_loop", {}),
    ],
)
def test_closed_sets_are_closed(
    conn: db.Conn, table: str, constraint: str, changes: dict[str, Any]
) -> None:
    """States of breakers, and types of edges, which stand in Cypher."""
    if table == "league_relationship":
        one = insert(conn, "league")
        two = insert(conn, "league", seed_id="b", league_tag="b")
        target = one if constraint == "no_loop" else two
        changes = {**changes, "source_league_id": one, "target_league_id": target}
        if constraint == "league_relationship_type":
            changes["seed_id"] = "relationship_001"
    with pytest.raises(errors.CheckViolation) as caught:
        insert(conn, table, **changes)
    assert caught.value.diag.constraint_name == constraint


@pytest.mark.parametrize(
    ("table", "changes"),
    [
        ("league", {"league_tag": "other"}),
        ("league", {"seed_id": "other"}),
        ("sport_archetype", {"seed_id": "other"}),
        ("sport_archetype", {"archetype_name": "other"}),
        ("few_shot_example", {"seed_id": "other"}),
        ("few_shot_example", {"example_id": "other"}),
        ("tag_registry", {"seed_id": "other"}),
        ("tag_registry", {"tag": "other"}),
        ("embedding", {}),
        ("sink_state", {}),
    ],
)
def test_keys_are_unique(conn: db.Conn, table: str, changes: dict[str, Any]) -> None:
    """A second row that shares a key with the first; ``changes`` is what it does not share."""
    insert(conn, table)
    with pytest.raises(errors.UniqueViolation):
        insert(conn, table, **changes)


def test_namesakes_are_fine(conn: db.Conn) -> None:
    """A Premier League in many countries: the name is not unique, the tag is."""
    insert(conn, "league")
    insert(conn, "league", seed_id="racing_002", league_tag="formula_1_too")


@pytest.mark.parametrize("table", ["document", "contract"])
def test_what_belongs_to_a_league_needs_it_and_goes_with_it(conn: db.Conn, table: str) -> None:
    """No orphans, before or after."""
    with pytest.raises(errors.ForeignKeyViolation):
        insert(conn, table, league_id=UUID(int=5))
    insert(conn, table, league_id=insert(conn, "league"))
    conn.execute("DELETE FROM league")
    query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))
    assert conn.execute(query).fetchone() == (0,)


def test_an_edge_goes_with_either_of_its_leagues(conn: db.Conn) -> None:
    """And there is one of each type between two leagues."""
    one = insert(conn, "league")
    two = insert(conn, "league", seed_id="b", league_tag="b")
    for source, target in ((one, two), (two, one)):
        insert(conn, "league_relationship", source_league_id=source, target_league_id=target)
    with pytest.raises(errors.UniqueViolation):
        insert(conn, "league_relationship", source_league_id=one, target_league_id=two)
    conn.execute("DELETE FROM league WHERE id = %s", (two,))
    assert conn.execute("SELECT count(*) FROM league_relationship").fetchone() == (0,)


@pytest.mark.parametrize(
    ("comment", "release"),
    [("'altsync 9.8.7'", "altsync 9.8.7"), ("NULL", "a newer altsync"), ("'my app'", "a newer")],
)
def test_a_revision_of_another_release_names_that_release(
    database_url: str, comment: str, release: str
) -> None:
    """Neither migrate nor doctor advises to migrate."""
    with db.connect(database_url) as conn:
        conn.execute("UPDATE alembic_version SET version_num = '9999'")
        conn.execute(sql.SQL("COMMENT ON TABLE alembic_version IS {}").format(sql.SQL(comment)))
    for check in (revisions.migrate, check_schema):
        with pytest.raises(SchemaError, match="install") as caught:
            check(database_url)
        assert f"migrated by {release}" in str(caught.value)
        assert "9999" in str(caught.value)
        assert "altsync migrate" not in str(caught.value)


def check_schema(url: str) -> None:
    """The query of doctor."""
    with db.connect(url) as conn:
        revisions.check_schema(conn)


def test_a_schema_behind_this_release_is_to_be_migrated(database_url: str) -> None:
    """Migrating keeps the release beside the revision."""
    with db.connect(database_url) as conn:
        assert revisions.check_schema(conn) == revisions.schema_head()
        row = conn.execute("SELECT obj_description('alembic_version'::regclass)").fetchone()
        assert row == (f"altsync {__version__}",)
        conn.execute("DELETE FROM alembic_version")
        with pytest.raises(SchemaError, match=r"at nothing, not at .*: run altsync migrate"):
            revisions.check_schema(conn)


def test_the_names_of_the_files_say_the_head_of_the_migrations() -> None:
    assert revisions.schema_head() == revisions.own_revision()
