"""Relationships from seed files: loaded, carried to the graph, pruned, refused with a reason."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from altsync.errors import SeedError
from altsync.seed.loader import Loader
from altsync.seed.options import SeedOptions
from altsync.seed.report import SeedReport
from tests import sports
from tests.conftest import TOPOLOGY
from tests.integration.database_fixture import DatabaseFixture

LEAGUES = [
    {"id": f"s{n}", "league_name": f"League {n}", "sport_name": "MMA", "sport_archetype": "combat"}
    for n in range(6)
]


def line(number: int, source: str, target: str, **more: Any) -> dict[str, Any]:
    """A line of relationships.jsonl."""
    first = {"id": f"r{number}", "type": "COMPETES_WITH", "source": source, "target": target}
    return {**first, **more}


def write(folder: Path, relationships: Sequence[Any], leagues: Sequence[Any] = LEAGUES) -> None:
    """A seed folder."""
    for name, lines in (("leagues", leagues), ("relationships", relationships)):
        text = "".join(json.dumps(one) + "\n" for one in lines)
        (folder / f"{name}.jsonl").write_text(text)


def seed(pg: DatabaseFixture, folder: Path, **options: Any) -> SeedReport:
    """One run over the folder."""
    report = SeedReport(None)
    parts = (sports.LEAGUES, sports.RELATIONSHIPS)
    Loader(pg.conn, TOPOLOGY, SeedOptions(folder, parts, **options), report).run()
    return report


def edges(pg: DatabaseFixture) -> list[tuple[str, str, str, float | None]]:
    """Source, type, target and strength of every relationship, by names of leagues."""
    rows = pg.conn.execute(
        """
        SELECT s.seed_id, r.relationship_type, t.seed_id, r.strength_score::float8
        FROM league_relationship r JOIN league s ON s.id = r.source_league_id
        JOIN league t ON t.id = r.target_league_id ORDER BY 1, 2, 3
        """
    )
    return [tuple(row) for row in rows]


def finish(pg: DatabaseFixture) -> None:
    """Take every live operation as delivered."""
    pg.conn.execute(
        "UPDATE sync_operation SET status = 'synced', finished_at = now() WHERE finished_at IS NULL"
    )


def live(pg: DatabaseFixture) -> set[tuple[str, str]]:
    """Live operations by sink and key."""
    return {(op.sink, op.entity_key) for op in pg.ops() if op.live}


def test_lines_become_relationships(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Each type, with and without a strength; fields that are not named are kept."""
    lines = [
        line(1, "s0", "s1", strength=0.8, note="rivals"),
        line(2, "s1", "s0", type="SAME_ARCHETYPE"),
    ]
    write(tmp_path, lines)
    report = seed(pg, tmp_path)
    assert report.total.rejected == 0
    assert report.parts[sports.RELATIONSHIPS].created == 2
    assert edges(pg) == [
        ("s0", "COMPETES_WITH", "s1", 0.8),
        ("s1", "SAME_ARCHETYPE", "s0", None),
    ]
    kept = pg.scalar("SELECT attributes FROM league_relationship WHERE seed_id = 'r1'")
    assert kept == {"note": "rivals"}


def test_only_the_graph_is_asked(pg: DatabaseFixture, tmp_path: Path) -> None:
    """A relationship takes a number for the graph alone: nothing is embedded or upserted."""
    write(tmp_path, [])
    seed(pg, tmp_path)
    finish(pg)
    versions: dict[str, int] = dict(
        pg.conn.execute("SELECT seed_id, version FROM league").fetchall()
    )
    write(tmp_path, [line(1, "s0", "s1")])
    assert seed(pg, tmp_path).total.operations == 1
    assert live(pg) == {("neo4j", "league_0")}
    assert dict(pg.conn.execute("SELECT seed_id, version FROM league").fetchall()) == versions
    row = pg.conn.execute(
        "SELECT graph_version > version, neo4j_sync_status, pinecone_sync_status "
        "FROM league WHERE seed_id = 's0'"
    ).fetchone()
    assert row == (True, "pending", "pending")
    op = pg.live("neo4j", "league_0")
    assert op.version == pg.scalar("SELECT graph_version FROM league WHERE seed_id = 's0'")
    assert op.origin == "seed"


def test_the_same_file_again_changes_nothing(pg: DatabaseFixture, tmp_path: Path) -> None:
    """No row, no operation."""
    write(tmp_path, [line(n, f"s{n}", "s0") for n in range(1, 6)])
    seed(pg, tmp_path)
    finish(pg)
    report = seed(pg, tmp_path)
    assert report.parts[sports.RELATIONSHIPS].unchanged == 5
    assert report.total.operations == 0
    assert live(pg) == set()


def test_an_edited_line_carries_both_of_its_sources(pg: DatabaseFixture, tmp_path: Path) -> None:
    """The league that it left loses the edge, the one that it now begins at gets it."""
    write(tmp_path, [line(1, "s0", "s1")])
    seed(pg, tmp_path)
    finish(pg)
    write(tmp_path, [line(1, "s2", "s1")])
    assert seed(pg, tmp_path).parts[sports.RELATIONSHIPS].updated == 1
    assert edges(pg) == [("s2", "COMPETES_WITH", "s1", None)]
    assert live(pg) == {("neo4j", "league_0"), ("neo4j", "league_2")}


def test_two_lines_may_change_places(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Uniqueness of pairs is looked at when both have moved."""
    write(tmp_path, [line(1, "s0", "s1"), line(2, "s2", "s3")])
    seed(pg, tmp_path)
    write(tmp_path, [line(1, "s2", "s3"), line(2, "s0", "s1")])
    assert seed(pg, tmp_path).total.rejected == 0
    assert len(edges(pg)) == 2


def test_prune_deletes_what_the_file_no_longer_holds(pg: DatabaseFixture, tmp_path: Path) -> None:
    """And carries the league that it began at."""
    write(tmp_path, [line(n, f"s{n}", "s0") for n in range(1, 6)])
    seed(pg, tmp_path)
    finish(pg)
    write(tmp_path, [line(n, f"s{n}", "s0") for n in range(2, 6)])
    report = seed(pg, tmp_path, prune=True, yes=True)
    assert report.parts[sports.RELATIONSHIPS].deleted == 1
    assert len(edges(pg)) == 4
    assert live(pg) == {("neo4j", "league_1")}


def test_prune_leaves_computed_relationships_alone(pg: DatabaseFixture, tmp_path: Path) -> None:
    """SIMILAR_TO is not in any file."""
    write(tmp_path, [line(1, "s0", "s1")])
    seed(pg, tmp_path)
    pg.conn.execute(
        "INSERT INTO league_relationship (id, source_league_id, target_league_id, "
        "relationship_type) SELECT gen_random_uuid(), s.id, t.id, 'SIMILAR_TO' "
        "FROM league s, league t WHERE s.seed_id = 's3' AND t.seed_id = 's4'"
    )
    seed(pg, tmp_path, prune=True)
    assert ("s3", "SIMILAR_TO", "s4", None) in edges(pg)


def test_a_league_that_goes_takes_its_relationships(pg: DatabaseFixture, tmp_path: Path) -> None:
    """In both directions; when it is back, so are they."""
    lines = [line(1, "s0", "s1"), line(2, "s1", "s2"), line(3, "s3", "s4")]
    write(tmp_path, lines)
    seed(pg, tmp_path)
    write(tmp_path, lines, [one for one in LEAGUES if one["id"] != "s1"])
    seed(pg, tmp_path, prune=True, yes=True)
    assert edges(pg) == [("s3", "COMPETES_WITH", "s4", None)]
    write(tmp_path, lines)
    seed(pg, tmp_path)
    assert len(edges(pg)) == 3


def test_a_dry_run_counts_and_writes_nothing(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Leagues of the same run count as loaded."""
    write(tmp_path, [line(1, "s0", "s1"), line(2, "s0", "unknown")])
    report = seed(pg, tmp_path, dry_run=True)
    counts = report.parts[sports.RELATIONSHIPS]
    assert (counts.created, counts.rejected, counts.operations) == (1, 1, 1)
    assert pg.scalar("SELECT count(*) FROM league") == 0


@pytest.mark.parametrize(
    ("bad", "field", "reason"),
    [
        ({"target": "unknown"}, "target", "no league with the seed id 'unknown' is loaded"),
        ({"source": "unknown"}, "source", "no league with the seed id 'unknown' is loaded"),
        ({"type": "SIMILAR_TO"}, "type", "SIMILAR_TO is computed"),
        (
            {"type": "HATES"},
            "type",
            "no relationship 'HATES'; there are COMPETES_WITH, SAME_ARCHETYPE",
        ),
        ({"target": "s4"}, "target", "a league has no relationship with itself"),
        ({"strength": 1.5}, "strength", "less than or equal to 1"),
        ({"strength": "much"}, "strength", "number"),
        ({"source": "s0", "target": "s1"}, "target", "the line with the id 'r1' says the same"),
    ],
)
def test_bad_lines_cost_themselves(
    pg: DatabaseFixture, tmp_path: Path, bad: dict[str, Any], field: str, reason: str
) -> None:
    """File, line, field and reason; the others are loaded."""
    write(tmp_path, [line(1, "s0", "s1"), {**line(2, "s4", "s5"), **bad}, line(3, "s2", "s3")])
    report = seed(pg, tmp_path)
    (refused,) = report.shown
    assert (refused.file, refused.number, refused.field) == ("relationships.jsonl", 2, field)
    assert reason in refused.reason
    assert len(edges(pg)) == 2


def test_a_pair_of_an_earlier_run_is_refused(pg: DatabaseFixture, tmp_path: Path) -> None:
    """The first source keeps it, over runs."""
    write(tmp_path, [line(1, "s0", "s1")])
    seed(pg, tmp_path)
    write(tmp_path, [line(2, "s0", "s1")])
    (refused,) = seed(pg, tmp_path).shown
    assert "the line with the id 'r1' says the same" in refused.reason


def test_pruning_most_of_them_wants_to_be_told_twice(pg: DatabaseFixture, tmp_path: Path) -> None:
    """The fifth of a part counts relationships, too."""
    write(tmp_path, [line(n, f"s{n}", "s0") for n in range(1, 6)])
    seed(pg, tmp_path)
    write(tmp_path, [line(1, "s1", "s0")])
    with pytest.raises(SeedError, match="4 of 5 relationships"):
        seed(pg, tmp_path, prune=True)
