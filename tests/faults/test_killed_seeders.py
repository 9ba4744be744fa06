"""A seeding run is killed at each of its named points: a real process, gone at once.

Files of every part change, grow and lose lines, so each point of a batch and of a pruned page
comes up in every part, at a first and at a second batch. These must hold right after the kill:
whole batches and nothing else are there. And after the same run once more: everything equals
what an undisturbed run leaves.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from altsync import db
from altsync.catalogue.parts import Part
from altsync.db import Database
from altsync.seed import loader, pruning
from altsync.seed.loader import Loader
from altsync.seed.options import SeedOptions
from altsync.seed.report import SeedReport
from tests import points, sports
from tests.children import exit_code
from tests.conftest import TOPOLOGY
from tests.integration import seeds
from tests.integration.database_fixture import (
    TIMEOUT,
    DatabaseFixture,
    delivery,
    embedding_sink,
    empty,
)
from tests.integration.fakes import FakeEmbedder, FakeGraph, FakeIndex

#: Lines of a batch and ids of a page in the process that is killed: two of each in every part.
BATCH, PAGE = 3, 2

#: Lines of a part that stay, come and go. The first two make two batches, the third two pages.
STAY, COME, GO = 4, 1, 3

#: The exit status of a process that was killed here; any other one fails the test.
KILLED = 9

#: Points that a run reaches but once.
ONCE = {"begun", "found", "loaded", "checked", "pruned"}

#: Points that are tried in ``make test``, too.
SOON = ("written", "page committed")

#: More than a run comes to any point; one that goes on for ever ends here.
MOST_KILLS = 40

#: Content of a part's rows by seed id; None for what is deleted.
Rows = dict[str, str | None]


def _league(number: int) -> str:
    return f"{sports.LEAGUES}-stay-{number}"


#: A line of each part by its seed id, number and content.
LINES: dict[Part, Callable[[str, int, str], seeds.Fields]] = {
    sports.ARCHETYPES: lambda seed_id, n, text: seeds.archetype_line(
        seed_id, seed_id.replace("-", "_"), description=text
    ),
    sports.LEAGUES: lambda seed_id, n, text: seeds.league_line(seed_id, description=text),
    sports.EXAMPLES: lambda seed_id, n, text: seeds.example_line(
        seed_id, input_text=seed_id + text
    ),
    sports.DOCUMENTS: lambda seed_id, n, text: seeds.document_line(seed_id, _league(n), body=text),
    sports.CONTRACTS: lambda seed_id, n, text: seeds.contract_line(
        seed_id, _league(n), counterparty=text
    ),
    sports.RELATIONSHIPS: lambda seed_id, n, text: {
        "id": seed_id,
        "source": _league(n),
        "target": _league((n + (2 if "-go-" in seed_id else 1)) % STAY),
        "type": "SAME_ARCHETYPE" if "-come-" in seed_id else "COMPETES_WITH",
        "strength": len(text) / 100,
    },
}

FILES = {part: f"{part}.jsonl" for part in sports.PARTS} | {
    sports.EXAMPLES: "examples/triage.jsonl"
}


def _write(folder: Path, text: str, **counts: int) -> None:
    """A file of each part with so many lines of each sort, and ``text`` in each of them."""
    for part, make in LINES.items():
        named = ((f"{part}-{sort}-{n}", n) for sort, size in counts.items() for n in range(size))
        seeds.write(folder, FILES[part], [make(seed_id, n, text) for seed_id, n in named])


@dataclass(slots=True)
class Site:
    """A database and simulated sinks, first as the former files have left them, at rest."""

    pg: DatabaseFixture
    folder: Path
    graph: FakeGraph = field(default_factory=FakeGraph)
    index: FakeIndex = field(default_factory=FakeIndex)
    embedder: FakeEmbedder = field(default_factory=FakeEmbedder)

    def prepare(self) -> None:
        """As new: seeded with the former files, and delivered."""
        empty(self.pg.conn)
        self.graph, self.index, self.embedder = FakeGraph(), FakeIndex(), FakeEmbedder()
        seeds.seed(self.pg, self.folder / "before")
        self.drain()

    def seed(self) -> None:
        """Do the run without a kill."""
        report = seeds.seed(self.pg, self.folder / "after", prune=True, yes=True)
        assert report.total.rejected == 0

    def kill(self, nth: int, point: str) -> list[str] | None:
        """Kill that run when it comes to a point for the n-th time; the points that it reached.

        None when it came to its end.
        """
        said = self.folder / "reached.json"
        folder = str(self.folder / "after")
        code = exit_code(_seed_and_exit, self.pg.url, folder, str(said), nth, point)
        if code == 0:
            return None
        assert code == KILLED
        reached: list[str] = json.loads(said.read_text())
        return reached

    def drain(self) -> None:
        """Deliver everything, and leave no session behind."""
        with closing(Database(self.pg.url)) as database:
            for sink in (embedding_sink(database, self.embedder), self.graph, self.index):
                delivery(database, sink).drain(TIMEOUT)

    @property
    def calls(self) -> int:
        """To all sinks."""
        return len(self.graph.calls) + len(self.index.calls) + len(self.embedder.requests)

    def rows(self) -> dict[Part, Rows]:
        """Return the contents of the tables that the parts are loaded into."""
        return {part: dict(self._rows(part)) for part in sports.PARTS}

    def _rows(self, part: Part) -> Iterator[tuple[str, str | None]]:
        gone = "deleted_at IS NOT NULL" if part.entity_type else "false"
        rows = self.pg.conn.execute(
            f"SELECT seed_id, CASE WHEN {gone} THEN NULL ELSE content_hash END FROM {part.table}"
        )
        yield from rows.fetchall()

    def operations(self) -> list[tuple[Any, ...]]:
        """The operations that wait, without what numbers them."""
        return sorted(
            (op.sink, op.entity_type, op.entity_key, op.action, op.origin, op.status, op.attempts)
            for op in self.pg.ops()
            if op.live
        )

    def stores(self) -> dict[str, Any]:
        """Return the records of the sinks and the embedded texts, without versions and ids."""
        return {
            "graph": {place: (h.content_hash, h.gone) for place, h in self.graph.held.items()},
            "index": {place: h.content_hash for place, h in self.index.held.items()},
            "paid": dict(self.embedder.paid),
        }


@pytest.fixture
def killing(pg: DatabaseFixture, tmp_path: Path) -> Site:
    """Two folders of seeds, and a database to seed."""
    _write(tmp_path / "before", "was", stay=STAY, go=GO)
    _write(tmp_path / "after", "is now", stay=STAY, come=COME)
    return Site(pg, tmp_path)


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """The contents before the run, and after a run without a kill."""

    before: dict[Part, Rows]
    after: dict[Part, Rows]
    operations: list[tuple[Any, ...]]
    stores: dict[str, Any]


def _undisturbed(site: Site) -> Undisturbed:
    site.prepare()
    before = site.rows()
    site.seed()
    operations = site.operations()
    after = site.rows()
    site.drain()
    return Undisturbed(before, after, operations, site.stores())


#: The contents after an undisturbed run, the same for every test of a process.
_known: list[Undisturbed] = []


@pytest.fixture
def undisturbed(killing: Site) -> Undisturbed:
    """Seen once, before anybody is killed."""
    if not _known:
        _known.append(_undisturbed(killing))
    return _known[0]


@pytest.mark.parametrize("point", SOON)
def test_a_seeder_killed_at_its_second_batch(
    killing: Site, undisturbed: Undisturbed, point: str
) -> None:
    """Around what is written and committed, with one batch or page of the part done."""
    killing.prepare()
    reached = killing.kill(2, point)
    assert reached is not None
    _judge(killing, undisturbed, reached)


@pytest.mark.slow
@pytest.mark.parametrize("point", points.SEEDING)
def test_a_seeder_killed_each_time_that_it_comes_to_a_point(
    killing: Site, undisturbed: Undisturbed, point: str
) -> None:
    """At the first batch or page of each part, at the second, until it ends."""
    for kills in range(MOST_KILLS):
        killing.prepare()
        reached = killing.kill(kills + 1, point)
        if reached is None:
            break
        assert (reached[-1], reached.count(point)) == (point, kills + 1)
        _judge(killing, undisturbed, reached)
    else:
        pytest.fail(f"more than {MOST_KILLS} times")
    assert kills == 1 if point in ONCE else kills >= 2
    assert killing.rows() == undisturbed.after


def _judge(site: Site, undisturbed: Undisturbed, reached: Sequence[str]) -> None:
    """Right after the kill, and after the same run once more."""
    site.pg.until_alone()
    rows = site.rows()
    assert _batches(rows, undisturbed) == reached.count("committed")
    assert _pages(rows, undisturbed) == reached.count("page committed")
    _assert_whole(site.pg)
    _assert_no_lock(site.pg)
    site.seed()
    assert site.rows() == undisturbed.after
    assert site.operations() == undisturbed.operations
    _assert_whole(site.pg)
    site.drain()
    assert site.stores() == undisturbed.stores
    _assert_delivered(site)


def _batches(rows: Mapping[Part, Rows], undisturbed: Undisturbed) -> int:
    """How many batches are there. Each is whole, they are the first of their files, and the rest
    is as it was."""
    count = 0
    for part in sports.PARTS:
        before, after, now = undisturbed.before[part], undisturbed.after[part], rows[part]
        lines = [seed_id for seed_id, content in after.items() if content is not None]
        lines.sort(key=lambda seed_id: ("-come-" in seed_id, seed_id))
        loaded = [seed_id for seed_id in lines if now.get(seed_id) == after[seed_id]]
        assert loaded == lines[: len(loaded)]
        assert len(loaded) % BATCH == 0 or loaded == lines
        for seed_id in lines[len(loaded) :]:
            assert now.get(seed_id) == before.get(seed_id)
        count += math.ceil(len(loaded) / BATCH)
    return count


def _pages(rows: Mapping[Part, Rows], undisturbed: Undisturbed) -> int:
    """How many pages are pruned, each of them whole."""
    count = 0
    for part in sports.PARTS:
        going = [seed_id for seed_id in undisturbed.before[part] if "-go-" in seed_id]
        gone = [seed_id for seed_id in going if rows[part].get(seed_id) is None]
        assert len(gone) % PAGE == 0 or gone == going
        count += math.ceil(len(gone) / PAGE)
    return count


def _assert_whole(pg: DatabaseFixture) -> None:
    """Each pending row has its operation at its version; each tag given has its entity."""
    for kind in sports.TYPES:
        for sink, version in (("neo4j", "graph_version"), ("embedding", "version")):
            broken = pg.conn.execute(
                f"""
                SELECT e.seed_id, o.version, e.{version} FROM {kind} e
                LEFT JOIN sync_operation o ON o.entity_id = e.id AND o.sink = %(sink)s
                  AND o.finished_at IS NULL
                WHERE (e.{sink}_sync_status = 'pending') <> (o.id IS NOT NULL)
                   OR o.version <> e.{version}
                """,
                {"sink": sink},
            ).fetchall()
            assert broken == [], (kind, sink)
    for kind in (sports.LEAGUE, sports.SPORT_ARCHETYPE):
        given = pg.conn.execute(
            "SELECT seed_id, tag FROM tag_registry WHERE entity_type = %s ORDER BY 1", (kind,)
        ).fetchall()
        there = pg.conn.execute(
            f"SELECT seed_id, {kind.key_column} FROM {kind} ORDER BY 1"
        ).fetchall()
        assert given == there


def _assert_no_lock(pg: DatabaseFixture) -> None:
    """No lock is left of a session that has ended."""
    held = pg.scalar(
        """
        SELECT count(*) FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
        WHERE l.pid IS DISTINCT FROM pg_backend_pid()
          AND (a.pid IS NULL OR a.backend_type = 'client backend')
          AND (a.datname = current_database() OR a.pid IS NULL)
        """
    )
    assert held == 0


def _assert_delivered(site: Site) -> None:
    """Everything is written at its version and synced; delivering again calls no sink."""
    for kind in sports.TYPES:
        rows = site.pg.conn.execute(
            f"SELECT {kind.key_column}, graph_version, neo4j_sync_status, "
            f"pinecone_sync_status, embedding_sync_status FROM {kind}"
        ).fetchall()
        for key, version, *statuses in rows:
            assert set(statuses) == {"synced"}
            assert site.graph.held[kind, key].version == version
    calls = site.calls
    site.drain()
    assert site.calls == calls


def _seed_and_exit(url: str, folder: str, said: str, nth: int, point: str) -> None:
    """In a process of its own."""
    reached: list[str] = []

    def at(name: str) -> None:
        reached.append(name)
        if name == point and reached.count(point) == nth:
            Path(said).write_text(json.dumps(reached))
            os._exit(KILLED)

    loader.BATCH = BATCH
    pruning.DELETE_PAGE = PAGE  # type: ignore[attr-defined]
    with db.connect(url) as conn:
        options = SeedOptions(Path(folder), seeds.ALL, prune=True, yes=True)
        Loader(conn, TOPOLOGY, options, SeedReport(None), at=at).run()
