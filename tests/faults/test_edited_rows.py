"""Rows of PostgreSQL that SQL has edited: found, taken back by their seeds, or carried on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from altsync.projection import content_hash, same_content, text_hash
from altsync.store.rows import read_rows
from altsync.store.vectors import EmbeddingCache
from altsync.verify.gaps import edited_rows
from altsync.verify.parts import edited_parts
from altsync.why.explain import explain
from altsync.why.explanation import Explanation
from tests import sports
from tests.integration.database_fixture import DatabaseFixture
from tests.integration.seeds import (
    archetype_line,
    contract_line,
    document_line,
    example_line,
    league_id,
    league_line,
    seed,
    write,
)
from tests.integration.verifying import Site

#: The edits made by SQL, by table, and the column that shows each.
EDITS = (
    ("league", "tier = 'EDITED'"),
    ("league", "description = NULL"),
    ("league", "league_name = 'Edited'"),
    ("league", """attributes = attributes || '{"founded": 1}'"""),
    ("league", "attributes = '{}'"),
    ("league", "sport_archetype = 'racing', location = 'Edited'"),
    ("league", "text_hash = 'edited'"),
    ("league", "content_hash = 'edited'"),
    ("sport_archetype", "display_name = 'Edited'"),
    ("sport_archetype", """characteristics = '{"laps": 3}'"""),
    ("few_shot_example", "tags = '{edited}'"),
    ("few_shot_example", "output_text = 'Edited'"),
    ("few_shot_example", "category = 'other'"),
)

LEAGUE = {
    "tier": "TIER1",
    "description": "Much.",
    "founded": 1950,
    "size": 1e16,
    "shift": -0.0,
    "deep": {"list": [1e17, 2.5, True, None]},
}


def seeds(folder: Path) -> Path:
    """One entity of each type."""
    write(folder, "archetypes.jsonl", [archetype_line("a1", "team_sport")])
    write(folder, "leagues.jsonl", [league_line("l1", **LEAGUE), league_line("l2")])
    write(folder, "examples/naming.jsonl", [example_line("e1", tags=["a"])])
    return folder


def contents(pg: DatabaseFixture) -> list[tuple[Any, ...]]:
    """Return the contents of all rows."""
    found: list[tuple[Any, ...]] = []
    for kind in sports.TYPES:
        names = ", ".join([*kind.columns, "content_hash", "text_hash"])
        found += pg.conn.execute(f"SELECT {names} FROM {kind} ORDER BY seed_id").fetchall()
    return found


def edited(pg: DatabaseFixture) -> set[str]:
    """Keys of the rows that are found to be edited."""
    pages = (edited_rows(pg.conn, t, after=None, limit=100) for t in sports.TYPES)
    return {row.key for rows, _ in pages for row in rows}


@pytest.mark.parametrize(("table", "change"), EDITS, ids=lambda value: str(value)[:30])
def test_seeding_the_same_line_takes_the_value_back(
    pg: DatabaseFixture, tmp_path: Path, table: str, change: str
) -> None:
    """Though line and hashes are as they were; a dry run says so, and a third run does nothing."""
    seeds(tmp_path)
    seed(pg, tmp_path)
    before = contents(pg)
    assert edited(pg) == set()
    pg.conn.execute(f"UPDATE {table} SET {change} WHERE seed_id IN ('l1', 'a1', 'e1')")
    assert contents(pg) != before
    assert len(edited(pg)) == 1
    planned = seed(pg, tmp_path, dry_run=True).total
    done = seed(pg, tmp_path).total
    assert (done.updated, done.unchanged, done.operations > 0) == (1, 3, True)
    assert (planned.updated, planned.operations) == (done.updated, done.operations)
    assert contents(pg) == before
    assert edited(pg) == set()
    again = seed(pg, tmp_path).total
    assert (again.unchanged, again.operations) == (4, 0)


def test_what_belongs_to_leagues_is_taken_back(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Documents, contracts and relationships, which are no entities."""
    seeds(tmp_path)
    write(tmp_path, "documents.jsonl", [document_line("d1", "l1", body="Long")])
    write(tmp_path, "contracts.jsonl", [contract_line("c1", "l1", start_date="2026-01-31")])
    line = {"id": "r1", "type": "COMPETES_WITH", "source": "l1", "target": "l2", "strength": 0.5}
    write(tmp_path, "relationships.jsonl", [line])
    seed(pg, tmp_path)
    pg.conn.execute("UPDATE document SET body = 'Edited'")
    pg.conn.execute("UPDATE contract SET end_date = '2027-01-31'")
    pg.conn.execute("UPDATE league_relationship SET strength_score = 0.9")
    done = seed(pg, tmp_path).total
    assert done.updated == 3
    assert pg.scalar("SELECT body FROM document") == "Long"
    assert pg.scalar("SELECT end_date FROM contract") is None
    assert float(pg.scalar("SELECT strength_score FROM league_relationship")) == 0.5
    again = seed(pg, tmp_path).total
    assert (again.updated, again.operations) == (0, 0)


#: The edits made by SQL to what belongs to leagues, by table.
PART_EDITS = (
    ("document", "body = 'Edited'"),
    ("document", "kind = NULL"),
    ("document", "title = 'Edited'"),
    ("document", "league_id = (SELECT id FROM league WHERE seed_id = 'l2')"),
    ("document", """attributes = '{"pages": 3}'"""),
    ("contract", "end_date = '2027-01-31'"),
    ("contract", "start_date = NULL"),
    ("contract", "status = 'ended'"),
    ("contract", "counterparty = 'Edited'"),
    ("league_relationship", "strength_score = 0.9"),
    ("league_relationship", "strength_score = NULL"),
    ("league_relationship", "relationship_type = 'SAME_ARCHETYPE'"),
    ("league_relationship", """attributes = '{"since": 2020}'"""),
    ("league_relationship", "content_hash = 'edited'"),
)


def parts(folder: Path) -> Path:
    """One of each of what belongs to leagues, with numbers that PostgreSQL writes otherwise."""
    odd = {"size": 1e16, "shift": -0.0, "deep": [1e17, 2.5, True, None]}
    seeds(folder)
    write(folder, "documents.jsonl", [document_line("d1", "l1", kind="rules", body="Long", **odd)])
    contract = contract_line("c1", "l1", start_date="2026-01-31", counterparty="A", **odd)
    write(folder, "contracts.jsonl", [contract])
    line = {"id": "r1", "type": "COMPETES_WITH", "source": "l1", "target": "l2", **odd}
    write(
        folder,
        "relationships.jsonl",
        [
            {**line, "strength": 0.123455},
            {"id": "r2", "type": "SAME_ARCHETYPE", "source": "l2", "target": "l1", "strength": 1},
            {"id": "r3", "type": "COMPETES_WITH", "source": "l2", "target": "l1"},
        ],
    )
    return folder


def edited_of(pg: DatabaseFixture) -> set[str]:
    """Documents, contracts and relationships that are found to be edited, page by page."""
    found = set()
    for part in sports.PARTS[3:]:
        after: str | None = ""
        while after is not None:
            page, after = edited_parts(pg.conn, part, after=after, limit=1)
            found |= {f"{part.table} {one.seed_id}" for one in page}
    return found


@pytest.mark.parametrize(("table", "change"), PART_EDITS, ids=lambda value: str(value)[:30])
def test_an_edit_of_what_belongs_to_leagues_is_found_and_taken_back(
    pg: DatabaseFixture, tmp_path: Path, table: str, change: str
) -> None:
    parts(tmp_path)
    seed(pg, tmp_path)
    assert edited_of(pg) == set()
    one = {"document": "d1", "contract": "c1", "league_relationship": "r1"}[table]
    pg.conn.execute(f"UPDATE {table} SET {change} WHERE seed_id = %s", (one,))
    assert edited_of(pg) == {f"{table} {one}"}
    assert seed(pg, tmp_path).total.updated == 1
    assert edited_of(pg) == set()
    again = seed(pg, tmp_path).total
    assert (again.updated, again.operations) == (0, 0)


def test_a_repair_keeps_the_edit_of_what_belongs_to_leagues(site: Site, tmp_path: Path) -> None:
    """A relationship goes to the graph; the others have no store but PostgreSQL."""
    parts(tmp_path)
    names = (sports.LEAGUES, sports.DOCUMENTS, sports.CONTRACTS, sports.RELATIONSHIPS)
    seed(site.pg, tmp_path, *names)
    site.deliver()
    for change in ("document SET body = 'Edited'", "contract SET status = 'ended'"):
        site.pg.conn.execute(f"UPDATE {change}")
    change = "UPDATE league_relationship SET strength_score = 0.9 WHERE seed_id = 'r1'"
    site.pg.conn.execute(change)
    body = site.json("--grace", "0", code=1)
    assert body["sinks"]["postgresql"]["edited"] == 3
    wanted = ["document d1", "contract c1", "league_relationship r1"]
    assert body["samples"]["postgresql"] == {"edited": wanted}
    planned = site.verify(repair=True, dry_run=True, max_delete=0.5)
    assert planned.rows.enqueued == 3
    assert edited_of(site.pg) == set(wanted)
    site.repair(max_delete=0.5)
    assert edited_of(site.pg) == set()
    assert site.pg.scalar("SELECT body FROM document") == "Edited"
    (edge,) = site.graph.ask(
        "MATCH (:League {league_tag: $tag})-[r:COMPETES_WITH]->() RETURN r.score AS score",
        tag=site.pg.scalar("SELECT league_tag FROM league WHERE seed_id = 'l1'"),
    )
    assert edge["score"] == 0.9


def test_rows_of_a_release_without_sums_are_not_edited(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Their lines are read once, nothing is written but the line's hash, and then never again."""
    seeds(tmp_path)
    seed(pg, tmp_path)
    full = pg.scalar("SELECT line_hash FROM league WHERE id = %s", league_id("l1"))
    version = pg.scalar("SELECT version FROM league WHERE id = %s", league_id("l1"))
    pg.conn.execute("UPDATE league SET line_hash = left(line_hash, 32)")
    assert edited(pg) == set()
    assert seed(pg, tmp_path).total.operations == 0
    assert pg.scalar("SELECT line_hash FROM league WHERE id = %s", league_id("l1")) == full
    assert pg.scalar("SELECT version FROM league WHERE id = %s", league_id("l1")) == version


def test_contents_are_compared_by_what_they_say() -> None:
    """Numbers as PostgreSQL gives them back are the same; true is not 1."""

    def league(value: Any) -> sports.League:
        return sports.League("t", "n", "s", "a", attributes={"x": {"y": [value]}})

    assert same_content(league(1e16), league(10**16))
    assert same_content(league(-0.0), league(0.0))
    assert not same_content(league(True), league(1))
    assert not same_content(league("1"), league(1))
    assert not same_content(league(1.5), league(1))


def test_a_row_that_sql_has_edited_is_postgresqls_drift(site: Site) -> None:
    """In the table, the JSON and the exit status; no sink is called wrong over it."""
    assert site.json("--grace", "0")["sinks"]["postgresql"]["edited"] == 0
    site.pg.conn.execute("UPDATE league SET tier = 'EDITED' WHERE league_tag = 'l003'")
    for flags in ((), ("--deep",), ("--deep", "--sink", "neo4j")):
        body = site.json("--grace", "0", *flags, code=1)
        assert body["consistent"] is False
        assert body["sinks"]["postgresql"]["edited"] == 1
        assert body["samples"]["postgresql"] == {"edited": ["l003"]}
        assert all(not body["samples"].get(sink) for sink in ("neo4j", "pinecone", "embedding"))
    shown = " ".join(site.run("--grace", "0", "--deep", code=1).output.split())
    assert "postgresql" in shown
    assert "altsync seed restores the seed's values" in shown
    assert site.live() == 0


def test_a_repair_carries_the_edit_to_nodes_and_vectors(site: Site) -> None:
    """The vector is of the edited text, and the share of rows that may be carried is kept."""
    site.pg.conn.execute(
        "UPDATE league SET description = 'Another text', tier = 'EDITED' WHERE league_tag = 'l003'"
    )
    planned = site.verify(repair=True, dry_run=True, deep=True)
    assert planned.rows.enqueued == 1
    assert site.live() == 0
    site.repair(deep=True)
    row = site.pg.conn.execute(
        "SELECT l.content_hash, l.text_hash, l.embedding_text_hash FROM league l "
        "WHERE league_tag = 'l003'"
    ).fetchone()
    (read,) = read_rows(site.pg.conn, sports.LEAGUE, [league_id("l003")])
    assert row == (content_hash(read.content), *[text_hash(read.content)] * 2)
    (node,) = site.graph.ask("MATCH (n:League {league_tag: 'l003'}) RETURN n.description AS text")
    assert node["text"] == "Another text"
    (vector,) = [
        one.values for (_, key), one in site.index.records(sports.LEAGUE).items() if key == "l003"
    ]
    kept = EmbeddingCache(site.database).find(site.app.stores().model, row[1])
    assert kept is not None
    assert [round(n, 5) for n in vector] == [round(float(n), 5) for n in numbers(kept)]

    site.pg.conn.execute("UPDATE league SET tier = 'AGAIN'")
    refused = site.verify(repair=True)
    assert refused.rows.refused is not None
    assert refused.rows.enqueued == 0
    assert site.live() == 0


def numbers(vector: bytes) -> Any:
    """The numbers of a kept vector."""
    import numpy as np

    return np.frombuffer(vector, "<f4")


def test_why_judges_what_the_row_holds(site: Site, tmp_path: Path) -> None:
    """Neither line, nor graph, nor embedding is said to agree or to be edited itself."""
    held = site.pg.conn.execute(
        "SELECT league_name, sport_name, sport_archetype FROM league WHERE league_tag = 'l003'"
    ).fetchone()
    assert held is not None
    fields = dict(zip(("league_name", "sport_name", "sport_archetype"), held, strict=True))
    write(tmp_path, "leagues.jsonl", [{"id": "l003", "league_tag": "l003", **fields}])
    site.pg.conn.execute("UPDATE league SET description = 'Another text' WHERE league_tag = 'l003'")
    found = explain(site.app, "l003", tmp_path)
    assert isinstance(found, Explanation)
    checks = {check.store: check for check in found.checks}
    assert {name: one.agrees for name, one in checks.items()} == dict.fromkeys(
        ("postgresql", "seed", "embedding", "neo4j", "pinecone"), False
    )
    assert "holds something else" in checks["seed"].detail
    text = " ".join(found.reasons)
    assert "edited by SQL" in text
    assert "altsync seed --leagues" in text
    assert "it was changed there" not in text
