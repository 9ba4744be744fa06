"""Words of messages: numbers agree with their nouns, sentences end once, names are suggested."""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from altsports import queries
from altsports.store import leagues as store
from altsports.store.leagues import LeagueChoices, LeagueFilter
from altsync.seed.lines import Rejected
from altsync.seed.listing import find_files
from altsync.seed.reader import read
from altsync.wording import plural, sentences, unknown
from tests import sports

SOURCES = Path(__file__).resolve().parents[2] / "src" / "altsync"

#: A number, then a noun that is right for several only.
BY_HAND = re.compile(
    r"\{[^{}]*(?::,|len\()[^{}]*\} (?:[a-z]+ )?"
    r"(?:operations|lines|leagues|entities|rows|files|vectors|requests|texts|tokens|relationships)"
)


def test_no_message_joins_a_number_and_a_plural_by_hand() -> None:
    found = [
        f"{path.relative_to(SOURCES)}: {match[0]}"
        for path in SOURCES.rglob("*.py")
        if "local" not in path.parts
        for match in BY_HAND.finditer(path.read_text())
        if "plural" not in match[0]
    ]
    assert found == []


def test_numbers_agree_with_their_nouns() -> None:
    assert plural(1, "bad line") == "1 bad line"
    assert plural(0, "bad line") == "0 bad lines"
    assert plural(1200, "entity", "entities") == "1,200 entities"


@pytest.mark.parametrize("end", ["", ".", ".."])
def test_a_sentence_ends_once(end: str) -> None:
    assert sentences(f"too many tokens{end}", "Cut it.") == "too many tokens. Cut it."
    assert sentences("who?", "me") == "who? me."


def test_long_lists_are_cut_and_the_name_is_still_suggested() -> None:
    said = unknown("tier", "tier-42x", [f"tier-{n}" for n in range(1000)])
    assert "and 980 more; did you mean 'tier-42'?" in said
    assert unknown("tier", "1", []) == "no tier '1'; there are none"


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (LeagueFilter(status="activ"), "with the status 'activ'; there are active; did you mean"),
        (LeagueFilter(tier="Tier_1"), "of the tier 'Tier_1'; there are tier_1; did you mean"),
        (LeagueFilter(archetype="raicng"), "there are racing; did you mean 'racing'?"),
        (LeagueFilter(contract_status="sgned"), "no contract with the status 'sgned'"),
        (LeagueFilter(status="active", tier="tier_1"), None),
    ],
)
def test_a_filter_that_matches_no_league_names_what_is_like_it(
    monkeypatch: pytest.MonkeyPatch, where: LeagueFilter, said: str | None
) -> None:
    @contextmanager
    def reading(source: Any) -> Any:
        yield source

    monkeypatch.setattr(sys.modules["altsports.queries.leagues"], "reading", reading)
    known = LeagueChoices(("racing",), ("tier_1",), ("active",), ("signed",))
    monkeypatch.setattr(store, "league_choices", lambda _: known)
    found = queries.unmatched(None, where)  # type: ignore[arg-type]
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


@pytest.mark.parametrize("line", ['{"id": "x', '{"id": "a\tb"}', '{"id": 1,}', "{id: 1}"])
def test_a_parser_s_preposition_stands_once(tmp_path: Path, line: str) -> None:
    (tmp_path / "archetypes.jsonl").write_text(line)
    (file,) = find_files(tmp_path, sports.ARCHETYPES)
    (refused,) = read(file, {})
    assert isinstance(refused, Rejected)
    assert " at column " in refused.reason
    assert "at at" not in refused.reason
