"""The ways to load leagues into PostgreSQL that are compared: COPY, the ORM, altsync's seeder."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psycopg
from sqlmodel import Session, create_engine

from altsports.catalogue import League as LeagueRow
from altsync import db
from altsync.contract import Topology
from altsync.entities import Content, entity_id
from altsync.models import SyncOperation
from altsync.projection import content_hash, text_hash
from altsync.seed.loader import Loader
from altsync.seed.options import SeedOptions
from altsync.seed.report import SeedReport
from benchmarks.bench import TOPOLOGY
from benchmarks.report import Measured
from tests import sports
from tests.acceptance import seeds

#: Columns of a row in addition to its content.
_COLUMNS = ("id", "seed_id", *sports.LEAGUE.columns, "content_hash", "text_hash")


def write_leagues(folder: Path, count: int, edited: frozenset[int] = frozenset()) -> None:
    """Write a seed folder with ``count`` leagues; those of ``edited`` have new content."""
    seeds.write(
        folder,
        "leagues/generated.jsonl",
        (_edited(n) if n in edited else seeds.league(n) for n in range(count)),
    )


@cache
def _words() -> list[str]:
    """The longer words of the real seeds' leagues."""
    files = sorted((seeds.REAL_SEEDS / "leagues").rglob("*.jsonl"))
    texts = [file.read_text(encoding="utf-8") for file in files]
    return sorted({word for text in texts for word in re.findall(r"[A-Za-z]{5,}", text)})


def unlike_league(number: int) -> seeds.Line:
    """A generated league of random words: no other one is similar to it."""
    chance = random.Random(number)
    words = chance.choices(_words(), k=16)
    return {
        **seeds.league(number),
        "league_name": f"{words[0]} {words[1]} {number:05}",
        "sport_name": words[2],
        "location": words[3],
        "description": " ".join(words[4:]),
    }


def _edited(number: int) -> seeds.Line:
    return {**seeds.league(number), "description": f"Season {number}, told anew."}


@contextmanager
def seeding(url: str) -> Iterator[db.Conn]:
    """The session of one seeding process."""
    with db.connect(url, name="altsync-seed") as conn:
        yield conn


@dataclass(frozen=True, slots=True)
class Run:
    """A seeding run: its counts, its seconds, and the processor seconds of its process."""

    report: SeedReport
    seconds: float
    computing: float

    @property
    def microseconds(self) -> float:
        """Of computing, for each line: what a busy machine does not change much."""
        return round(self.computing * 1e6 / self.report.total.processed, 1)


def seed(conn: db.Conn, folder: Path, topology: Topology = TOPOLOGY) -> Run:
    """One run of the real seeder over the leagues of a folder."""
    report = SeedReport(None)
    started, computed = time.perf_counter(), time.process_time()
    options = SeedOptions(folder, (sports.LEAGUES,), followed=False)
    Loader(conn, topology, options, report).run()
    return Run(report, time.perf_counter() - started, time.process_time() - computed)


def copied(url: str, count: int, *, indexed: bool) -> Measured:
    """COPY of the same rows, in bytes made beforehand, into a table like ``league``."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("DROP TABLE IF EXISTS copied")
        kinds = "INCLUDING ALL" if indexed else "INCLUDING DEFAULTS INCLUDING GENERATED"
        conn.execute(f"CREATE TABLE copied (LIKE league {kinds})")
        lines = "".join(f"{row}\n" for row in _copy_rows(count)).encode()
        statement = f"COPY copied ({', '.join(_COLUMNS)}) FROM STDIN"
        started = time.perf_counter()
        with conn.transaction(), conn.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(lines)
        seconds = time.perf_counter() - started
    where = "the same indexes" if indexed else "no index"
    return Measured(f"COPY, bytes ready made, {where}", count, seconds)


def copied_whole(url: str, count: int) -> Measured:
    """COPY of all that seeding writes: the leagues, their tags, and two operations for each.

    What no seeder can be faster than, however it reads, checks and compares.
    """
    ids = [getattr(content, sports.LEAGUE.key_column) for content in _contents(count)]
    whole = {
        "league": (_COLUMNS, "".join(f"{row}\n" for row in _copy_rows(count)).encode()),
        "tag_registry": (
            ("entity_type", "seed_id", "tag"),
            _lines(("league", seed_id, seed_id) for seed_id in ids),
        ),
        "sync_operation": (
            ("entity_type", "entity_id", "entity_key", "sink", "action", "version", "origin"),
            _lines(
                ("league", entity_id(sports.LEAGUE, key), key, sink, "upsert", 1, "seed")
                for key in ids
                for sink in TOPOLOGY.direct
            ),
        ),
    }
    with psycopg.connect(url, autocommit=True) as conn:
        for table in whole:
            conn.execute(f"DROP TABLE IF EXISTS copied_{table}")
            conn.execute(f"CREATE TABLE copied_{table} (LIKE {table} INCLUDING ALL)")
        started = time.perf_counter()
        with conn.transaction(), conn.cursor() as cursor:
            for table, (names, lines) in whole.items():
                statement = f"COPY copied_{table} ({', '.join(names)}) FROM STDIN"
                with cursor.copy(statement) as copy:
                    copy.write(lines)
        seconds = time.perf_counter() - started
    return Measured("COPY of leagues, tags and operations, bytes ready made", count, seconds)


def _lines(rows: Iterable[Sequence[object]]) -> bytes:
    return "".join("\t".join(map(str, row)) + "\n" for row in rows).encode()


def _contents(count: int) -> Iterable[Content]:
    for number in range(count):
        line = seeds.league(number)
        seed_id = line.pop("id")
        yield sports.League(seed_id, **line)


def _copy_rows(count: int) -> Iterator[str]:
    for content in _contents(count):
        seed_id = getattr(content, sports.LEAGUE.key_column)
        values = (getattr(content, name) for name in sports.LEAGUE.columns)
        row = (
            entity_id(sports.LEAGUE, seed_id),
            seed_id,
            *("{}" if isinstance(value, dict) else value for value in values),
            content_hash(content),
            text_hash(content),
        )
        yield "\t".join(str(value) for value in row)


def one_by_one(url: str, count: int) -> Measured:
    """Load as a script does: an ORM object, its operations, and a commit for each league."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    started = time.perf_counter()
    with Session(engine) as session:
        for content in _contents(count):
            league = _orm_league(content)
            session.add(league)
            session.flush()
            session.add_all([_orm_operation(league, sink) for sink in ("embedding", "neo4j")])
            session.commit()
    seconds = time.perf_counter() - started
    engine.dispose()
    return Measured("SQLModel add + outbox + commit, row by row", count, seconds)


def _orm_league(content: Content) -> LeagueRow:
    columns = {name: getattr(content, name) for name in sports.LEAGUE.columns}
    tag = columns["league_tag"]
    return LeagueRow(
        id=entity_id(sports.LEAGUE, tag),
        seed_id=tag,
        content_hash=content_hash(content),
        text_hash=text_hash(content),
        **columns,
    )


def _orm_operation(league: LeagueRow, sink: str) -> SyncOperation:
    return SyncOperation(
        entity_type=sports.LEAGUE,
        entity_id=league.id,
        entity_key=league.league_tag,
        sink=sink,
        action="upsert",
        version=league.version,
        origin="seed",
        priority=0,
        attempts=0,
        timeout_count=0,
        rerun_requested=False,
        outcome_unknown=False,
        namespaces=[],
    )
