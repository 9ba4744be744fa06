"""Keys that change under the same seed id: the old one leaves every store, the new one is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

import altsync
from altsports.catalogue import League, SportArchetype
from altsync import saving
from altsync.entities import entity_id
from altsync.errors import SinkFailure
from altsync.operations import ErrorKind
from altsync.outbox.upkeep import forget_former_keys
from altsync.seed.loader import Loader
from altsync.seed.options import SeedOptions
from altsync.seed.report import SeedReport
from altsync.seed.sql.keys import key_holders
from altsync.why.sql import find_entities
from tests import sports
from tests.conftest import TOPOLOGY
from tests.integration.database_fixture import CONFIRM_AFTER, DatabaseFixture
from tests.integration.seeds import (
    archetype_line,
    document_line,
    example_line,
    league_line,
    seed,
    tag_of,
    write,
)
from tests.integration.verifying import Site


class Killed(BaseException):
    """Endpoints a run at a point, and nothing cleans up after it."""


def killing(count: int) -> Callable[[str], None]:
    """Point after point, until the ``count``-th one ends the run."""
    points: list[str] = []

    def at(point: str) -> None:
        points.append(point)
        if len(points) == count:
            raise Killed(point)

    return at


def leagues(folder: Path, *keys: str) -> Path:
    """Leagues l0, l1 … that give these tags."""
    lines = [league_line(f"l{n}", league_tag=key) for n, key in enumerate(keys)]
    write(folder, "leagues.jsonl", lines)
    return folder


def rowing(folder: Path, name: str, named: str | None = None) -> Path:
    """An archetype of this name, three leagues and an example that name it."""
    write(folder, "archetypes.jsonl", [archetype_line("a1", name)])
    lines = [league_line(f"r{n}", sport_archetype=named or name) for n in range(3)]
    write(folder, "leagues.jsonl", lines)
    lines = [example_line("x1", sport_archetype=named or name)]
    write(folder, "examples/triage.jsonl", lines)
    return folder


def nodes(site: Site, *keys: str, label: str = "League", key: str = "league_tag") -> set[str]:
    """Return the ``keys`` that the graph has nodes of."""
    query = f"MATCH (n:{label}) WHERE n.{key} IN $keys RETURN n.{key} AS key"
    return {one["key"] for one in site.graph.ask(query, keys=list(keys))}


def vectors(site: Site, kind: Any = sports.LEAGUE) -> set[str]:
    """The keys that the index holds."""
    sink: Any = site.app.sink("pinecone")
    return {one.key for one in sink.versions(kind)}


def at_rest(site: Site, key: str, *former: str) -> None:
    """Deliver, and see that the stores agree, and hold nothing under a former key."""
    site.deliver()
    assert site.drift(deep=True) == {}
    assert nodes(site, key, *former) == {key}
    assert vectors(site) & {key, *former} == {key}


# --- entities ------------------------------------------------------------------------------------


def test_the_old_key_leaves_every_store(site: Site, tmp_path: Path) -> None:
    seed(site.pg, leagues(tmp_path, "one"))
    at_rest(site, "one")
    paid = site.embedder.paid.total()
    report = seed(site.pg, leagues(tmp_path, "two"))
    assert (report.total.updated, report.total.rejected) == (1, 0)
    at_rest(site, "two", "one")
    assert site.embedder.paid.total() == paid
    assert seed(site.pg, tmp_path).total.unchanged == 1


def test_a_league_is_renamed_back_and_again(site: Site, tmp_path: Path) -> None:
    """Each key is free for the entity that had it, also before anything is delivered."""
    seed(site.pg, leagues(tmp_path, "one"))
    at_rest(site, "one")
    for key, former in (("two", "one"), ("one", "two"), ("two", "one")):
        seed(site.pg, leagues(tmp_path, key))
        at_rest(site, key, former)
    for key in ("three", "four", "one"):
        seed(site.pg, leagues(tmp_path, key))
    at_rest(site, "one", "two", "three", "four")


def test_two_entities_do_not_change_keys(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Nor does one get a key that another had: it never changes hands."""
    seed(pg, leagues(tmp_path, "one", "two"))
    assert seed(pg, leagues(tmp_path, "two", "one")).total.rejected == 2
    seed(pg, leagues(tmp_path, "three", "two"))
    assert seed(pg, leagues(tmp_path, "three", "one")).total.rejected == 1
    assert (tag_of(pg, "l0"), tag_of(pg, "l1")) == ("three", "two")


def test_a_renamed_league_keeps_its_attachments_and_relationships(
    site: Site, tmp_path: Path
) -> None:
    """Edges from it and to it, in the graph as well."""
    seed(site.pg, leagues(tmp_path, "one", "two"))
    write(tmp_path, "documents.jsonl", [document_line("d1", "l0")])
    relations = [
        {"id": "x", "type": "COMPETES_WITH", "source": "l0", "target": "l1", "strength": 0.5},
        {"id": "y", "type": "COMPETES_WITH", "source": "l1", "target": "l0", "strength": 0.25},
    ]
    write(tmp_path, "relationships.jsonl", relations)
    assert seed(site.pg, tmp_path).total.rejected == 0
    at_rest(site, "one")
    seed(site.pg, leagues(tmp_path, "new", "two"))
    at_rest(site, "new", "one")
    query = (
        "MATCH (a:League)-[r:COMPETES_WITH]->(b:League) "
        "RETURN a.league_tag AS a, b.league_tag AS b, r.score AS score"
    )
    found = {(one["a"], one["b"], one["score"]) for one in site.graph.ask(query)}
    assert found == {("new", "two", 0.5), ("two", "new", 0.25)}
    assert site.pg.scalar("SELECT count(*) FROM document") == 1


def test_a_league_is_renamed_and_deleted_before_anything_is_delivered(
    site: Site, tmp_path: Path
) -> None:
    seed(site.pg, leagues(tmp_path, "one", "two", "three"))
    at_rest(site, "one")
    seed(site.pg, leagues(tmp_path, "new", "two", "three"))
    write(tmp_path, "leagues.jsonl", [league_line(f"l{n}") for n in (1, 2)])
    seed(site.pg, tmp_path, sports.LEAGUES, prune=True, yes=True)
    site.deliver()
    assert site.drift(deep=True) == {}
    assert nodes(site, "one", "new") == set()
    assert vectors(site) & {"one", "new"} == set()


# --- parents -------------------------------------------------------------------------------------


def test_what_names_a_renamed_parent_follows_in_the_same_transaction(
    site: Site, tmp_path: Path
) -> None:
    seed(site.pg, rowing(tmp_path, "rowing"))
    site.deliver()
    report = seed(site.pg, rowing(tmp_path, "boats"))
    assert report.total.rejected == 0
    site.deliver()
    assert site.drift(deep=True) == {}
    kind: dict[str, Any] = {"label": "SportArchetype", "key": "name"}
    assert nodes(site, "rowing", "boats", **kind) == {"boats"}
    query = (
        "MATCH (l:League)-[:BELONGS_TO_ARCHETYPE]->(a:SportArchetype {name: 'boats'}) "
        "RETURN count(l) AS count"
    )
    assert site.graph.ask(query)[0]["count"] == 3
    assert vectors(site, sports.SPORT_ARCHETYPE) & {"rowing", "boats"} == {"boats"}
    again = seed(site.pg, tmp_path).total
    assert (again.unchanged, again.operations) == (5, 0)


def test_lines_that_name_the_former_key_are_refused_and_nothing_is_half_done(
    site: Site, tmp_path: Path
) -> None:
    """Their rows have moved along, so that the stores agree; lines and rows agree when edited."""
    seed(site.pg, rowing(tmp_path, "rowing"))
    site.deliver()
    report = seed(site.pg, rowing(tmp_path, "boats", named="rowing"))
    assert (report.total.rejected, report.total.updated) == (4, 1)
    site.deliver()
    assert site.drift(deep=True) == {}
    assert site.pg.scalar("SELECT count(*) FROM league WHERE sport_archetype = 'boats'") == 3


def test_a_known_parent_that_was_renamed_is_known_no_more(
    pg: DatabaseFixture, tmp_path: Path
) -> None:
    """It may be named without being loaded until an entity that had its key has another one."""
    write(tmp_path, "archetypes.jsonl", [archetype_line("a1", "racing")])
    write(tmp_path, "leagues.jsonl", [league_line("l1", sport_archetype="racing")])
    assert seed(pg, tmp_path).total.rejected == 0
    write(tmp_path, "archetypes.jsonl", [archetype_line("a1", "races")])
    assert seed(pg, tmp_path).total.rejected == 1
    assert pg.scalar("SELECT sport_archetype FROM league") == "races"


def test_a_program_renames_and_its_children_follow(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "_topology", lambda: TOPOLOGY)

    def row(name: str, **more: Any) -> SportArchetype:
        return SportArchetype(
            archetype_name=name, display_name="Rowing", code_pattern="Race", **more
        )

    one = League(league_tag="one", league_name="One", sport_name="Rowing", sport_archetype="rowing")
    with psycopg.connect(site.pg.url) as conn:
        altsync.save(conn, row("rowing", seed_id="a1"), one)
    site.deliver()
    with psycopg.connect(site.pg.url) as conn:
        altsync.save(conn, row("boats", seed_id="a1"))
        with pytest.raises(altsync.SaveError, match="'rowing' was renamed to 'boats'"):
            altsync.save(conn, row("rowing"))
    site.deliver()
    assert site.drift(deep=True) == {}
    query = "SELECT sport_archetype FROM league WHERE league_tag = 'one'"
    assert site.pg.scalar(query) == "boats"


# --- kills ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sink", ["neo4j", "pinecone"])
def test_a_worker_that_is_killed_at_any_point_leaves_nothing_behind(
    site: Site, tmp_path: Path, sink: str
) -> None:
    """Each run ends one point later than the one before, until one comes through.

    The league goes to and fro: each key is the former one of the next run.
    """
    keys = ("even", "odd")
    seed(site.pg, leagues(tmp_path, keys[0]))
    at_rest(site, keys[0])
    count, killed = 0, True
    while killed:
        count += 1
        key, former = keys[count % 2], keys[(count + 1) % 2]
        seed(site.pg, leagues(tmp_path, key))
        site.delivery("embedding").drain(60.0)
        delivery = site.delivery(sink)
        delivery._at = killing(count)
        try:
            delivery.drain(60.0)
            killed = False
        except Killed:
            site.pg.expire_leases()
        site.deliver()
        assert nodes(site, key, former) == {key}
        assert vectors(site) & {key, former} == {key}
    assert count > 6
    assert site.drift(deep=True) == {}


def test_a_seeder_that_is_killed_at_any_point_renames_all_or_nothing(
    pg: DatabaseFixture, tmp_path: Path
) -> None:
    """The archetype, and what names it; another run finishes it."""
    seed(pg, rowing(tmp_path, "n0"))
    count, killed = 0, True
    while killed:
        count += 1
        options = SeedOptions(rowing(tmp_path, f"n{count}"), sports.PARTS)
        try:
            Loader(pg.conn, TOPOLOGY, options, SeedReport(None), at=killing(count)).run()
            killed = False
        except Killed:
            pass
        name = pg.scalar("SELECT archetype_name FROM sport_archetype")
        assert name in (f"n{count - 1}", f"n{count}")
        named = "SELECT count(*) FROM league WHERE sport_archetype = %s"
        assert pg.scalar(named, name) == 3
        assert pg.scalar("SELECT sport_archetype FROM few_shot_example") == name
        assert (
            pg.scalar(
                "SELECT tag FROM tag_registry WHERE entity_type = 'sport_archetype' AND NOT former"
            )
            == name
        )
        seed(pg, tmp_path)
        assert pg.scalar(named, f"n{count}") == 3
    assert count > 10


def test_a_removal_that_fails_is_tried_again(site: Site, tmp_path: Path) -> None:
    """The new key is there, and the operation is not done before the old one is gone."""
    seed(site.pg, leagues(tmp_path, "one"))
    at_rest(site, "one")
    seed(site.pg, leagues(tmp_path, "two"))
    site.delivery("embedding").drain(60.0)
    delivery = site.delivery("pinecone")
    sink: Any = delivery._sink
    remove = sink.delete
    calls: list[int] = []

    def fail(rows: Any) -> Any:
        calls.append(len(rows))
        raise ConnectionResetError

    sink.delete = fail
    delivery.deliver_batch()
    sink.delete = remove
    assert calls
    query = "SELECT pinecone_sync_status FROM league WHERE league_tag = 'two'"
    assert site.pg.scalar(query) == "pending"
    site.pg.advance_time(60)
    at_rest(site, "two", "one")


def test_a_late_write_under_the_old_key_is_removed_by_the_confirming_write(
    site: Site, tmp_path: Path
) -> None:
    """The first write was cut off, its league was renamed, and only then it is applied."""
    seed(site.pg, leagues(tmp_path, "one"))
    site.delivery("embedding").drain(60.0)
    delivery = site.delivery("pinecone")
    sink: Any = delivery._sink
    upsert, late = sink.upsert, []

    def cut_off(rows: Any, model: Any) -> Any:
        late.append((rows, model))
        raise SinkFailure(ErrorKind.UNKNOWN, "reset", outcome_unknown=True)

    sink.upsert = cut_off
    delivery.deliver_batch()
    sink.upsert = upsert
    seed(site.pg, leagues(tmp_path, "two"))
    site.pg.advance_time(60)
    delivery.drain(60.0)
    for rows, model in late:
        upsert(rows, model)
    assert vectors(site) & {"one", "two"} == {"one", "two"}
    site.pg.advance_time(CONFIRM_AFTER + 60)
    at_rest(site, "two", "one")


# --- views ---------------------------------------------------------------------------------------


def test_a_former_key_is_no_drift_while_its_removal_is_under_way(
    site: Site, tmp_path: Path
) -> None:
    seed(site.pg, leagues(tmp_path, "one"))
    at_rest(site, "one")
    seed(site.pg, leagues(tmp_path, "two"))
    assert site.drift(deep=True) == {}
    at_rest(site, "two", "one")


def test_a_former_key_that_is_left_in_a_store_is_found_and_removed(
    site: Site, tmp_path: Path
) -> None:
    seed(site.pg, leagues(tmp_path, "one"))
    at_rest(site, "one")
    seed(site.pg, leagues(tmp_path, "two"))
    at_rest(site, "two", "one")
    site.graph.ask("CREATE (:League {league_tag: 'one', sync_version: 1})")
    assert site.drift(deep=True) == {"neo4j": {"orphan": 1}}
    site.repair()
    at_rest(site, "two", "one")


def test_former_keys_are_forgotten_after_the_grace(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Not while an operation is live: sinks remove them at each write until then."""
    seed(pg, leagues(tmp_path, "one"))
    seed(pg, leagues(tmp_path, "two"))
    query = "SELECT former_keys FROM league"
    assert pg.scalar(query) == ["one"]
    assert forget_former_keys(pg.conn, -1.0) == 0
    pg.conn.execute("UPDATE sync_operation SET status = 'synced', finished_at = now()")
    assert forget_former_keys(pg.conn, 3600.0) == 0
    assert forget_former_keys(pg.conn, -1.0) == 1
    assert pg.scalar(query) == []
    assert key_holders(pg.conn, sports.LEAGUE, ["one"]) == {"one": "l0"}


def test_a_former_key_leads_to_its_entity(pg: DatabaseFixture, tmp_path: Path) -> None:
    """For ``altsync why``."""
    seed(pg, leagues(tmp_path, "one"))
    seed(pg, leagues(tmp_path, "two"))
    found = find_entities(pg.conn, "one")
    assert (sports.LEAGUE, entity_id("league", "l0")) in found


@pytest.mark.parametrize("part", ["league", "archetype"])
def test_a_dry_run_says_what_a_renaming_comes_to(
    pg: DatabaseFixture, tmp_path: Path, part: str
) -> None:
    make = leagues if part == "league" else rowing
    seed(pg, make(tmp_path, "one"))
    dry = seed(pg, make(tmp_path, "two"), dry_run=True).total
    real = seed(pg, tmp_path).total
    assert (dry.rejected, dry.operations) == (real.rejected, real.operations) == (0, dry.operations)
    assert dry.operations > 0
