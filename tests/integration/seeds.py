"""Seed folders made for a test, and runs over them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from altsync.catalogue.parts import Part
from altsync.entities import entity_id
from altsync.seed.loader import Loader
from altsync.seed.options import SeedOptions
from altsync.seed.report import Counts, SeedReport
from tests import sports
from tests.conftest import TOPOLOGY
from tests.integration.database_fixture import DatabaseFixture

ALL = sports.PARTS

Fields = dict[str, Any]


def league_line(seed_id: str, **changes: Any) -> Fields:
    """A league with a name of its own."""
    return {
        "id": seed_id,
        "league_name": f"League {seed_id}",
        "sport_name": "Football",
        "sport_archetype": "team_sport",
        **changes,
    }


def archetype_line(seed_id: str, name: str, **changes: Any) -> Fields:
    """An archetype."""
    return {
        "id": seed_id,
        "archetype_name": name,
        "display_name": name.title(),
        "code_pattern": "TeamMatch",
        **changes,
    }


def example_line(seed_id: str, **changes: Any) -> Fields:
    """An example; its category is its file's name unless it says another one."""
    return {"id": seed_id, "input_text": f"in {seed_id}", "output_text": "out", **changes}


def document_line(seed_id: str, league: str, **changes: Any) -> Fields:
    """A document of a league, by the league's seed id."""
    return {"id": seed_id, "league": league, "title": f"Document {seed_id}", **changes}


def contract_line(seed_id: str, league: str, **changes: Any) -> Fields:
    """A contract of a league, by the league's seed id."""
    return {"id": seed_id, "league": league, "title": f"Contract {seed_id}", **changes}


def write(folder: Path, name: str, lines: Iterable[Fields | str | bytes]) -> None:
    """A seed file; lines that are text already go in as they are."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as stream:
        for line in lines:
            if isinstance(line, dict):
                line = json.dumps(line)  # noqa: PLW2901
            stream.write((line if isinstance(line, bytes) else line.encode()) + b"\n")


def seed(
    pg: DatabaseFixture,
    folder: Path,
    *parts: Part,
    report: SeedReport | None = None,
    **options: Any,
) -> SeedReport:
    """One run; over every part unless some are named. The report is made without files."""
    report = report or SeedReport(None)
    Loader(pg.conn, TOPOLOGY, SeedOptions(folder, parts or ALL, **options), report).run()
    return report


def league_id(seed_id: str) -> Any:
    """The id of a league by its seed id."""
    return entity_id(sports.LEAGUE, seed_id)


def tag_of(pg: DatabaseFixture, seed_id: str) -> str:
    """The tag that a league has got."""
    return str(pg.scalar("SELECT league_tag FROM league WHERE id = %s", league_id(seed_id)))


def living(pg: DatabaseFixture, table: str = "league") -> set[str]:
    """Seed ids of what is there and not deleted."""
    rows = pg.conn.execute(f"SELECT seed_id FROM {table} WHERE deleted_at IS NULL")
    return {r[0] for r in rows}


def short(counts: Counts) -> tuple[int, int, int, int, int, int]:
    """Processed, created, updated, unchanged, deleted, rejected."""
    return (
        counts.processed,
        counts.created,
        counts.updated,
        counts.unchanged,
        counts.deleted,
        counts.rejected,
    )
