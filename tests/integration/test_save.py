"""Entities that a program saves and deletes in its own transaction."""

from __future__ import annotations

import os
import runpy
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from sqlalchemy import create_engine, text
from sqlmodel import Session

import altsync
from altsports.catalogue import FewShotExample, League, SportArchetype
from altsync import db, saving
from altsync.entities import entity_id
from altsync.errors import SeedError
from altsync.seed.changes import Changes
from altsync.seed.sql.edits import accept_edits
from altsync.store.reads import all_keys
from altsync.verify.gaps import edited_rows
from tests import sports
from tests.children import exit_code
from tests.conftest import TOPOLOGY
from tests.docs_blocks.blocks import ROOT, blocks_of
from tests.integration.database_fixture import DatabaseFixture
from tests.integration.seeds import archetype_line, league_line, living, seed, write
from tests.integration.verifying import Site


@pytest.fixture(autouse=True)
def _sinks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sinks that these tests deliver to."""
    monkeypatch.setattr(saving, "_topology", lambda: TOPOLOGY)


#: Arguments without a required field.
NOTHING: Any = None


def league(key: str | None = None, **changes: Any) -> League:
    """A league that a program makes; its seed id is the key."""
    fields: dict[str, Any] = {
        "league_tag": key,
        "league_name": f"The {key}",
        "sport_name": "Football",
        "sport_archetype": "racing",
    }
    return League(**(fields | changes))


Open = Callable[[str], Any]


@contextmanager
def psycopg_transaction(url: str) -> Iterator[Any]:
    """A program's own connection, with rows as it likes them."""
    with psycopg.connect(url, row_factory=dict_row) as conn:
        yield conn


@contextmanager
def autocommit_block(url: str) -> Iterator[Any]:
    """A connection that commits by itself, in a block that does not."""
    with psycopg.connect(url, autocommit=True) as conn, conn.transaction():
        yield conn


@contextmanager
def session(url: str) -> Iterator[Any]:
    """A session of SQLModel."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with Session(engine) as opened, opened.begin():
        yield opened
    engine.dispose()


@contextmanager
def core_connection(url: str) -> Iterator[Any]:
    """A connection of SQLAlchemy."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as conn:
        yield conn
    engine.dispose()


OPENS = [psycopg_transaction, autocommit_block, session, core_connection]
EVERY = pytest.mark.parametrize("opened", OPENS, ids=lambda one: str(one.__name__))


def tags(pg: DatabaseFixture) -> set[str]:
    """The keys of living leagues."""
    return set(all_keys(pg.conn, sports.LEAGUE))


def version(pg: DatabaseFixture, key: str) -> int:
    """The version of a league."""
    return int(pg.scalar("SELECT version FROM league WHERE league_tag = %s", key))


# --- the caller's transaction --------------------------------------------------------------------


@EVERY
def test_what_is_saved_is_there_with_its_operations_when_the_caller_commits(
    pg: DatabaseFixture, opened: Open
) -> None:
    with opened(pg.url) as target:
        changes = altsync.save(target, league("one"), league("two"))
        assert tags(pg) == set()
    assert (changes.created, changes.updated, changes.operations) == (2, 0, 4)
    assert tags(pg) == {"one", "two"}
    assert {(op.sink, op.entity_key, op.action, op.origin) for op in pg.ops()} == {
        (sink, key, "upsert", "update") for sink in ("neo4j", "embedding") for key in ("one", "two")
    }
    assert {op.version for op in pg.ops()} == {version(pg, "one"), version(pg, "two")}


@EVERY
def test_a_rollback_leaves_nothing(pg: DatabaseFixture, opened: Open) -> None:
    with pytest.raises(ZeroDivisionError), opened(pg.url) as target:
        altsync.save(target, league("one"))
        raise ZeroDivisionError
    assert (tags(pg), pg.ops()) == (set(), [])
    assert pg.scalar("SELECT count(*) FROM tag_registry") == 0


@EVERY
def test_the_callers_own_statements_share_the_transaction(
    pg: DatabaseFixture, opened: Open
) -> None:
    """Rows come back in the form that the caller has chosen."""
    with opened(pg.url) as target:
        altsync.save(target, league("one"))
        query = "SELECT league_tag FROM league"
        if isinstance(target, psycopg.Connection):
            found = target.execute(query).fetchone()
            expected: Any = {"league_tag": "one"}
            assert found == (expected if target.row_factory is dict_row else ("one",))
        else:
            assert tuple(target.execute(text(query)).one()) == ("one",)


@EVERY
def test_a_deletion_is_there_when_the_caller_commits(pg: DatabaseFixture, opened: Open) -> None:
    with opened(pg.url) as target:
        altsync.save(target, league("one"), league("two"))
    with opened(pg.url) as target:
        changes = altsync.delete(target, League, "one", "never was")
        assert tags(pg) == {"one", "two"}
    assert (changes.deleted, tags(pg)) == (1, {"two"})
    assert pg.live("neo4j", "one").action == "delete"


def test_a_connection_that_commits_each_statement_is_refused(pg: DatabaseFixture) -> None:
    with psycopg.connect(pg.url, autocommit=True) as conn:
        with pytest.raises(altsync.SaveError, match="begin a transaction first"):
            altsync.save(conn, league("one"))
        with pytest.raises(altsync.SaveError, match="begin a transaction first"):
            altsync.delete(conn, League, "one")
    engine = create_engine(pg.url.replace("postgresql://", "postgresql+psycopg://"))
    by_itself = engine.execution_options(isolation_level="AUTOCOMMIT")
    with Session(by_itself) as opened, pytest.raises(altsync.SaveError, match="by itself"):
        altsync.save(opened, league("one"))
    engine.dispose()
    assert tags(pg) == set()


@pytest.mark.parametrize("target", [None, "postgresql://", object()])
def test_what_is_no_connection_is_refused(target: Any) -> None:
    with pytest.raises(altsync.SaveError, match="connection of psycopg 3"):
        altsync.save(target, league("one"))


def test_a_process_that_is_killed_before_its_commit_leaves_nothing(pg: DatabaseFixture) -> None:
    assert exit_code(save_and_die, pg.url, False) == 1
    pg.until_alone()
    assert (tags(pg), pg.ops()) == (set(), [])
    assert exit_code(save_and_die, pg.url, True) == 1
    pg.until_alone()
    assert (tags(pg), len(pg.ops())) == ({"one", "two"}, 4)


def save_and_die(url: str, committed: bool) -> None:
    """Save, commit or not, and end without a word."""
    saving._topology = lambda: TOPOLOGY  # type: ignore[assignment]
    conn = psycopg.connect(url)
    altsync.save(conn, league("one"), league("two"))
    if committed:
        conn.commit()
    os._exit(1)


def test_nothing_is_enqueued_before_the_commit_wakes_the_relay(pg: DatabaseFixture) -> None:
    with db.connect(pg.url) as listener, psycopg.connect(pg.url) as conn:
        listener.execute("LISTEN altsync")
        altsync.save(conn, league("one"))
        assert list(listener.notifies(timeout=0)) == []
        conn.commit()
        woken = {note.payload for note in listener.notifies(timeout=5, stop_after=2)}
    assert woken <= set(TOPOLOGY.names)
    assert woken


# --- what changed --------------------------------------------------------------------------------


def test_what_did_not_change_writes_nothing(pg: DatabaseFixture) -> None:
    """No operation, no version, no time."""
    with psycopg.connect(pg.url) as conn:
        altsync.save(conn, league("one"))
    before = pg.conn.execute("SELECT * FROM league").fetchall(), pg.ops()
    with psycopg.connect(pg.url) as conn:
        changes = altsync.save(conn, league("one"))
    assert changes == Changes()
    now = pg.conn.execute("SELECT * FROM league").fetchall(), pg.ops()
    assert [op.id for op in now[1]] == [op.id for op in before[1]]
    assert now[0] == before[0]


def test_a_change_keeps_one_live_operation_for_each_sink(pg: DatabaseFixture) -> None:
    for name in ("A", "B", "C"):
        with psycopg.connect(pg.url) as conn:
            altsync.save(conn, league("one", league_name=name))
    assert {op.sink for op in pg.ops()} == {"neo4j", "embedding"}
    assert len(pg.ops()) == 2
    assert {op.version for op in pg.ops()} == {version(pg, "one")}


def test_a_row_that_was_loaded_is_changed_and_saved(pg: DatabaseFixture) -> None:
    """By ORM: the object has the version and statuses afterwards."""
    with session(pg.url) as opened:
        altsync.save(opened, league("one"))
    with session(pg.url) as opened:
        found = opened.get(League, entity_id("league", "one"))
        found.league_name = "A New Name"
        changes = altsync.save(opened, found)
        assert changes.updated == 1
        assert found.version == opened.scalar(text("SELECT version FROM league"))
        assert found.pinecone_sync_status == "pending"
    row = pg.conn.execute("SELECT league_name, content_hash FROM league").fetchone()
    assert row is not None
    assert row[0] == "A New Name"
    assert edited_rows(pg.conn, sports.LEAGUE, after=None, limit=10)[0] == []


def test_a_row_that_is_added_to_a_session_is_not_saved_twice(pg: DatabaseFixture) -> None:
    engine = create_engine(pg.url.replace("postgresql://", "postgresql+psycopg://"))
    with Session(engine) as opened:
        one = league("one")
        opened.add(one)
        with pytest.raises(altsync.SaveError, match="save it only"):
            altsync.save(opened, one)
        opened.rollback()
    engine.dispose()


def test_fields_of_every_kind_are_saved_as_a_seed_line_says_them(
    pg: DatabaseFixture, tmp_path: Path
) -> None:
    """The content hash of both is the same, so that seeding the same writes nothing."""
    extra = {"rank": 1, "big": 1e20, "note": 'tab\t "quote" \\ 語 🏈', "deep": [{"a": None}]}
    with psycopg.connect(pg.url) as conn:
        altsync.save(
            conn,
            SportArchetype(
                archetype_name="rowing",
                display_name="Rowing",
                code_pattern="Race",
                characteristics={"boats": [1, 2.5, "eight"]},
                attributes=extra,
            ),
            FewShotExample(
                example_id="e1",
                category="triage",
                input_text="in",
                output_text="out",
                tags=["a", 'b"c', "d,e", "f\\g", "NULL", "{}"],
            ),
        )
    line = archetype_line("rowing", "rowing", code_pattern="Race", **extra)
    write(tmp_path, "archetypes.jsonl", [line | {"characteristics": {"boats": [1, 2.5, "eight"]}}])
    tags = ["a", 'b"c', "d,e", "f\\g", "NULL", "{}"]
    example = {"id": "e1", "input_text": "in", "output_text": "out", "tags": tags}
    write(tmp_path, "examples/triage.jsonl", [example])
    report = seed(pg, tmp_path)
    assert (report.total.unchanged, report.total.updated, report.total.rejected) == (2, 0, 0)


# --- checks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entity", "field", "reason"),
    [
        (league("one", league_name=None), "league_name", "required"),
        (league("one", league_name=7), "league_name", "string"),
        (league("one", league_name="x" * 501), "league_name", "500 characters"),
        (league("one", league_name="a\x00b"), "league_name", "no database stores"),
        (league("one", league_name="a\ud800b"), "league_name", "no database stores"),
        (league("with spaces"), "league_tag", "'with spaces'"),
        (league("one", sport_archetype="nowhere"), "sport_archetype", "nowhere"),
        (league("one", location=date(2026, 1, 1)), "location", "date"),
        (league("one", location=b"bytes"), "location", "bytes"),
        (league("one", attributes={"n": float("nan")}), "attributes.n", "finite"),
        (league("one", attributes={"n": 2**70}), "attributes.n", "64 bits"),
        (league("one", attributes={"n": {1, 2}}), "attributes.n", "set"),
        (league("one", attributes={"tier": "A"}), "attributes.tier", "declared"),
        (league("one", seed_id="x" * 201), "seed_id", "200 characters"),
        (league(None, league_name="!!!"), "league_tag", "makes no key"),
        (
            FewShotExample(example_id="e", category="No Good", input_text="i", output_text="o"),
            "category",
            "No Good",
        ),
        (
            FewShotExample(example_id=NOTHING, category="c", input_text="i", output_text="o"),
            "example_id",
            "required",
        ),
        (
            FewShotExample(
                example_id="e", seed_id="f", category="c", input_text="i", output_text="o"
            ),
            "example_id",
            "seed id",
        ),
    ],
)
def test_an_entity_is_checked_as_a_seed_line_is(
    pg: DatabaseFixture, entity: Any, field: str, reason: str
) -> None:
    """The error names the class and the field, and nothing of the call is written."""
    with psycopg.connect(pg.url) as conn:
        with pytest.raises(altsync.SaveError) as refused:
            altsync.save(conn, league("good"), entity)
        assert (refused.value.entity, refused.value.field) == (type(entity).__name__, field)
        assert reason in str(refused.value).replace("Field required", "required")
        # The transaction goes on.
        altsync.save(conn, league("after"))
    assert tags(pg) == {"after"}


def test_a_class_of_no_catalogue_is_refused(pg: DatabaseFixture) -> None:
    with (
        psycopg.connect(pg.url) as conn,
        pytest.raises(altsync.SaveError, match="catalogue sports"),
    ):
        altsync.save(conn, object())  # type: ignore[arg-type]


def test_a_text_over_the_models_limit_is_refused(pg: DatabaseFixture) -> None:
    pg.conn.execute(
        'UPDATE sink_state SET config = config || \'{"model": "text-embedding-3-small"}\' '
        "WHERE sink = 'embedding'"
    )
    with (
        psycopg.connect(pg.url) as conn,
        pytest.raises(altsync.SaveError, match=r"League\.description: .*8,192"),
    ):
        altsync.save(conn, league("one", description="語 " * 20_000))


def test_a_parent_may_be_saved_in_the_same_call(pg: DatabaseFixture) -> None:
    """In any order: parents are written first."""
    parent = SportArchetype(archetype_name="rowing", display_name="Rowing", code_pattern="Race")
    with psycopg.connect(pg.url) as conn:
        altsync.save(conn, league("one", sport_archetype="rowing"), parent)
    assert tags(pg) == {"one"}


def test_a_parent_that_entities_name_cannot_be_deleted(pg: DatabaseFixture) -> None:
    parent = SportArchetype(archetype_name="rowing", display_name="Rowing", code_pattern="Race")
    with psycopg.connect(pg.url) as conn:
        altsync.save(conn, parent, league("one", sport_archetype="rowing"))
        with pytest.raises(altsync.SaveError, match="1 league still name it"):
            altsync.delete(conn, SportArchetype, "rowing")
        altsync.delete(conn, League, "one")
        altsync.delete(conn, SportArchetype, "rowing")
    assert living(pg, "sport_archetype") == set()


# --- keys ----------------------------------------------------------------------------------------


def test_a_key_is_made_as_in_seeding_and_set_on_the_object(pg: DatabaseFixture) -> None:
    one = league(None, league_name="Premier League", location="England")
    two = league(None, league_name="Premier League", location="Ghana")
    with psycopg.connect(pg.url) as conn:
        altsync.save(conn, one, two)
    assert [one.league_tag, two.league_tag] == ["premier_league", "premier_league_ghana"]
    assert [one.seed_id, two.seed_id] == ["premier_league", "premier_league_ghana"]
    assert one.id == entity_id("league", "premier_league")


def test_the_same_name_and_place_are_the_same_entity(pg: DatabaseFixture) -> None:
    with psycopg.connect(pg.url) as conn:
        for tier in ("A", "B"):
            for place in ("England", "Ghana"):
                made = league(None, league_name="Premier League", location=place, tier=tier)
                altsync.save(conn, made)
    assert tags(pg) == {"premier_league", "premier_league_ghana"}
    assert pg.scalar("SELECT count(*) FROM league WHERE tier = 'B'") == 2


def test_a_key_leads_to_the_seeded_entity_that_has_it(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Given, or made from the same name and place."""
    write(tmp_path, "leagues.jsonl", [league_line("l-1", league_name="Serie A")])
    seed(pg, tmp_path)
    with psycopg.connect(pg.url) as conn:
        altsync.save(conn, league("serie_a", league_name="Serie A", tier="A"))
        assert altsync.save(conn, league(None, league_name="Serie A", tier="B")).updated == 1
    rows = pg.conn.execute("SELECT seed_id, league_tag, tier FROM league").fetchall()
    assert rows == [("l-1", "serie_a", "B")]


def test_a_seed_id_that_is_another_entitys_is_refused(pg: DatabaseFixture, tmp_path: Path) -> None:
    """A key without an entity of its own may be the seed id of one with another key."""
    write(tmp_path, "leagues.jsonl", [league_line("one", league_tag="serie_a")])
    seed(pg, tmp_path)
    with (
        psycopg.connect(pg.url) as conn,
        pytest.raises(altsync.SaveError, match=r"League\.seed_id: .*'serie_a'"),
    ):
        altsync.save(conn, league("one"))


def test_a_key_never_changes_hands(pg: DatabaseFixture) -> None:
    with psycopg.connect(pg.url) as conn:
        altsync.save(conn, league("one"))
        altsync.delete(conn, League, "one")
        with pytest.raises(altsync.SaveError, match=r"League\.league_tag: .*'one'"):
            altsync.save(conn, league("one", seed_id="another"))


def test_what_was_deleted_comes_back(pg: DatabaseFixture) -> None:
    with psycopg.connect(pg.url) as conn:
        altsync.save(conn, league("one"))
        altsync.delete(conn, League, "one")
        assert altsync.save(conn, league("one")).updated == 1
    assert tags(pg) == {"one"}


def test_an_entity_that_stands_twice_in_a_call_is_refused(pg: DatabaseFixture) -> None:
    with (
        psycopg.connect(pg.url) as conn,
        pytest.raises(altsync.SaveError, match="2 entities of one call"),
    ):
        altsync.save(conn, league("one"), league("one", tier="A"))


# --- others at the same time ---------------------------------------------------------------------


def test_two_writers_of_one_entity_wait_for_each_other(pg: DatabaseFixture) -> None:
    """The later one has the higher version, and its content stays."""
    with psycopg.connect(pg.url) as first, psycopg.connect(pg.url) as second:
        altsync.save(first, league("one", tier="A"))
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(altsync.save, second, league("one", tier="B"))
            pg.until_waiting(second)
            first.commit()
            earlier = version(pg, "one")
            waiting.result()
        second.commit()
    assert pg.scalar("SELECT tier FROM league") == "B"
    assert version(pg, "one") > earlier
    assert [op.version for op in pg.ops("neo4j")] == [version(pg, "one")]


def test_many_writers_of_the_same_entities_all_succeed(pg: DatabaseFixture) -> None:
    """In any order of their arguments."""
    start = threading.Barrier(4)

    def write(number: int) -> None:
        for turn in range(10):
            keys = [f"l{n}" for n in range(20)]
            keys = keys if (number + turn) % 2 else keys[::-1]
            with psycopg.connect(pg.url) as conn:
                start.wait()
                altsync.save(conn, *(league(key, tier=f"{number} {turn}") for key in keys))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert pg.scalar("SELECT count(DISTINCT tier) FROM league") == 1
    assert pg.counts("neo4j") == {"pending": 20}


@pytest.mark.parametrize("first", ["seed", "save"])
def test_the_later_writer_wins_over_seeding(
    pg: DatabaseFixture, tmp_path: Path, first: str
) -> None:
    write(tmp_path, "leagues.jsonl", [league_line("one", league_tag="one", tier="seed")])

    def saved() -> None:
        with psycopg.connect(pg.url) as conn:
            altsync.save(conn, league("one", tier="save"))

    steps = {"seed": lambda: seed(pg, tmp_path), "save": saved}
    second = "save" if first == "seed" else "seed"
    steps[first]()
    before = version(pg, "one")
    steps[second]()
    assert pg.scalar("SELECT tier FROM league") == second
    assert version(pg, "one") > before
    steps[first]()
    assert pg.scalar("SELECT tier FROM league") == first


def test_a_save_meets_a_seeding_run(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Of the same new entities, in one transaction of each."""
    write(tmp_path, "leagues.jsonl", [league_line(f"l{n}", league_tag=f"l{n}") for n in range(5)])
    with psycopg.connect(pg.url) as conn, ThreadPoolExecutor(1) as pool:
        altsync.save(conn, *(league(f"l{n}", tier="save") for n in range(5)))
        waiting = pool.submit(seed, pg, tmp_path)
        with DatabaseFixture(pg.url).conn as other:
            watch = DatabaseFixture.__new__(DatabaseFixture)
            watch.url, watch.conn = pg.url, other
            watch.until_waiting(pg.conn)
        conn.commit()
        report = waiting.result()
    assert (report.total.updated, report.total.rejected) == (5, 0)
    assert pg.scalar("SELECT count(*) FROM league WHERE tier IS NULL") == 5


# --- batches -------------------------------------------------------------------------------------


def statements(url: str, *entities: Any) -> int:
    """How many statements a call takes."""
    count = 0

    class Counting(psycopg.Cursor[Any]):
        def execute(self, *arguments: Any, **more: Any) -> Any:
            nonlocal count
            count += 1
            return super().execute(*arguments, **more)

    with psycopg.connect(url) as conn:
        before, psycopg.Cursor = psycopg.Cursor, Counting  # type: ignore[misc]
        try:
            altsync.save(conn, *entities)
        finally:
            psycopg.Cursor = before  # type: ignore[misc]
    return count


def test_a_call_takes_as_many_statements_for_many_as_for_one(pg: DatabaseFixture) -> None:
    one = statements(pg.url, league("one", sport_archetype="racing"))
    many = statements(pg.url, *(league(f"l{n}") for n in range(1000)))
    assert 0 < many == one <= 18
    assert len(tags(pg)) == 1001


# --- pruning -------------------------------------------------------------------------------------


def folder(tmp_path: Path, *names: str) -> Path:
    """Leagues of a seed folder, with enough others for a small share to go."""
    names = (*names, *(f"k{n}" for n in range(9)))
    write(tmp_path, "leagues.jsonl", [league_line(name, league_tag=name) for name in names])
    return tmp_path


def test_a_pruning_deletes_what_seeding_made_and_not_what_a_program_did(
    pg: DatabaseFixture, tmp_path: Path
) -> None:
    seed(pg, folder(tmp_path, "seeded", "changed"))
    with psycopg.connect(pg.url) as conn:
        altsync.save(conn, league("saved"), league("changed", tier="A"))
    report = seed(pg, folder(tmp_path), prune=True)
    assert report.total.deleted == 2
    assert {"saved"} <= tags(pg)
    assert not {"seeded", "changed"} & tags(pg)
    report = seed(pg, folder(tmp_path), prune=True, prune_saved=True)
    assert (report.total.deleted, "saved" in tags(pg)) == (1, False)


def test_a_saved_entity_that_is_seeded_belongs_to_seeding(
    pg: DatabaseFixture, tmp_path: Path
) -> None:
    """Also when its line says the same."""
    with psycopg.connect(pg.url) as conn:
        same = league_line("same", league_tag="same")
        del same["id"]
        altsync.save(conn, league("other"), League(**same))
    assert seed(pg, folder(tmp_path, "same", "other")).total.unchanged == 1
    report = seed(pg, folder(tmp_path), prune=True)
    assert report.total.deleted == 2


def test_many_saved_entities_do_not_hide_how_much_is_pruned(
    pg: DatabaseFixture, tmp_path: Path
) -> None:
    seed(pg, folder(tmp_path, "one", "two", "three"))
    with psycopg.connect(pg.url) as conn:
        altsync.save(conn, *(league(f"s{n}") for n in range(50)))
    with pytest.raises(SeedError, match="3 of 12 leagues"):
        seed(pg, folder(tmp_path), prune=True)


def test_a_saved_row_that_was_edited_and_accepted_is_still_no_seeded_one(
    pg: DatabaseFixture, tmp_path: Path
) -> None:
    seed(pg, folder(tmp_path))
    with psycopg.connect(pg.url) as conn:
        altsync.save(conn, league("saved"))
    pg.conn.execute("UPDATE league SET tier = 'edited' WHERE league_tag = 'saved'")
    with pg.conn.transaction():
        ids = [entity_id("league", "saved")]
        assert accept_edits(pg.conn, sports.LEAGUE, ids, TOPOLOGY) == 1
    assert seed(pg, folder(tmp_path), prune=True).total.deleted == 0


# --- every store ---------------------------------------------------------------------------------


def test_a_changed_name_reaches_graph_and_index(site: Site) -> None:
    """It is embedded again, and the index is pending until it has the new vector."""
    with session(site.pg.url) as opened:
        altsync.save(opened, league("saved", league_name="Old"))
    site.deliver()
    assert site.drift(deep=True) == {}
    requests = len(site.embedder.requests)
    with session(site.pg.url) as opened:
        altsync.save(opened, league("saved", league_name="New"))
    query = "SELECT pinecone_sync_status FROM league WHERE league_tag = 'saved'"
    assert site.pg.scalar(query) == "pending"
    site.deliver()
    assert site.pg.scalar(query) == "synced"
    assert site.embedder.requests[requests:] == [["New: Football (racing)."]]
    assert site.drift(deep=True) == {}
    with session(site.pg.url) as opened:
        altsync.delete(opened, League, "saved")
    site.deliver()
    assert site.drift(deep=True) == {}


def test_a_row_that_is_written_past_altsync_is_an_edit(pg: DatabaseFixture) -> None:
    """A write of the session itself is found by verify, as every edit by SQL."""
    with session(pg.url) as opened:
        altsync.save(opened, league("one"))
    with session(pg.url) as opened:
        opened.get(League, entity_id("league", "one")).league_name = "By hand"
    found, _after = edited_rows(pg.conn, sports.LEAGUE, after=None, limit=10)
    assert [row.key for row in found] == ["one"]


def test_the_blocks_of_the_page_do_what_it_says(
    pg: DatabaseFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATABASE_URL", pg.url)
    blocks = blocks_of(ROOT / "docs" / "howto" / "write-from-code.md")
    for block in blocks:
        (tmp_path / "block.py").write_text(block.body)
        runpy.run_path(str(tmp_path / "block.py"))
    assert len(blocks) == 2
    assert tags(pg) == {"lake_regatta"}
    assert pg.scalar("SELECT league_name FROM league WHERE league_tag = 'lake_regatta'") == (
        "Great Lake Regatta"
    )
