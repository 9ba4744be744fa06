"""The engine knows no catalogue: no word of the shipped one stands in it."""

from __future__ import annotations

import re
from pathlib import Path

from altsports.catalogue import KNOWN_ARCHETYPES

ROOT = Path(__file__).resolve().parents[2]

ENGINE = ROOT / "src" / "altsync"

#: Kinds of files that say something: code, statements, the page.
KINDS = {".py", ".js", ".html", ".css", ".sql", ".cypher", ".svg"}

#: Names of the categories of examples.
CATEGORIES = {file.name.partition(".")[0] for file in (ROOT / "seeds" / "examples").iterdir()}

#: Words that mean something else in the engine: PostgreSQL's ``double precision``.
ELSEWHERE = {"precision"}

NAMES = sorted((CATEGORIES | KNOWN_ARCHETYPES) - ELSEWHERE)

WORD = re.compile(
    "league|archetype|few.?shot|altsports|(?<!tran)(?<!pas)sports?(?![a-z])"
    f"|(?<![a-z_])({'|'.join(map(re.escape, NAMES))})(?![a-z_])",
    re.IGNORECASE,
)


def found_in(text: str) -> list[str]:
    return [found[0] for found in WORD.finditer(text)]


def test_no_word_of_a_catalogue_stands_in_the_engine() -> None:
    said = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in sorted(ENGINE.rglob("*"))
        if file.suffix in KINDS
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if found_in(line)
    ]
    assert said == []


def test_the_words_are_found_however_they_are_written() -> None:
    text = "LeagueFilter few_shot sport_archetype Few-shot team_sport a sport SPORTS altsports.x"
    assert len(found_in(text)) == 9
    assert found_in("transport passport importlib supported raw_support") == []
