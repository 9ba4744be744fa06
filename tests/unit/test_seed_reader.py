"""Seed files as a stream: a bad line costs itself, and is refused with its place and reason."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from altsync.catalogue.parts import Part
from altsync.entities import Attached
from altsync.errors import SeedError
from altsync.projection import content_hash
from altsync.seed.files import SeedFile
from altsync.seed.lines import Line, Rejected
from altsync.seed.listing import find_files
from altsync.seed.parsing import DEPTH, LINE_BYTES
from altsync.seed.reader import read
from tests import sports

#: Seconds for what takes milliseconds, before it is given up.
TIMEOUT = 20.0

ARCHETYPES = {"sport_archetype": frozenset({"racing", "team_sport"})}

LEAGUE = {
    "id": "racing_001",
    "league_name": "Formula 1",
    "sport_name": "Motorsport",
    "sport_archetype": "racing",
}
ARCHETYPE = {
    "id": "archetype_racing",
    "archetype_name": "racing",
    "display_name": "Racing",
    "code_pattern": "RaceEvent",
}
EXAMPLE = {"id": "triage_001", "input_text": "in", "output_text": "out"}
DOCUMENT = {"id": "document_001", "league": "racing_001", "title": "Rules"}
CONTRACT = {"id": "contract_001", "league": "racing_001", "title": "Rights"}
RELATIONSHIP = {
    "id": "relationship_001",
    "type": "COMPETES_WITH",
    "source": "racing_001",
    "target": "racing_002",
}

GOOD = {
    sports.ARCHETYPES: ARCHETYPE,
    sports.LEAGUES: LEAGUE,
    sports.EXAMPLES: EXAMPLE,
    sports.DOCUMENTS: DOCUMENT,
    sports.CONTRACTS: CONTRACT,
    sports.RELATIONSHIPS: RELATIONSHIP,
}


def text(*objects: Any) -> str:
    """JSONL of these objects, with a final newline."""
    return "".join(json.dumps(one) + "\n" for one in objects)


class Folder:
    """A seed folder that a test writes one file into."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, data: str | bytes, part: Part = sports.LEAGUES) -> list[Line | Rejected]:
        """Return the lines and errors of a file with this content."""
        file = self.path / f"{part}.jsonl"
        file.write_bytes(data if isinstance(data, bytes) else data.encode())
        return list(read(SeedFile(part, file, file.name), ARCHETYPES))

    def refused(self, data: str | bytes, part: Part = sports.LEAGUES) -> Rejected:
        """The one line of this content, refused."""
        (line,) = self.read(data, part)
        assert isinstance(line, Rejected), line
        return line

    def accepted(self, data: str | bytes, part: Part = sports.LEAGUES) -> Line:
        """The one line of this content, accepted."""
        (line,) = self.read(data, part)
        assert isinstance(line, Line), line
        return line


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A folder without files."""
    return Folder(tmp_path)


def ids(lines: list[Line | Rejected]) -> list[tuple[int, str | None]]:
    """Line numbers and seed ids."""
    return [(line.number, line.seed_id) for line in lines]


# --- files that are fine ----------------------------------------------------------------------


def test_an_empty_file_holds_nothing(folder: Folder) -> None:
    """No line, no error."""
    assert folder.read("") == []


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n\n", "  ", "\n \t\r\n"])
def test_the_end_of_a_file_may_be_anything(folder: Folder, end: str) -> None:
    """A missing final newline and trailing blank lines do no harm."""
    assert ids(folder.read(text(LEAGUE).strip() + end)) == [(1, "racing_001")]


def test_blank_lines_are_counted_and_left_out(folder: Folder) -> None:
    """Line numbers are those that an editor shows."""
    body = f"\n{json.dumps(LEAGUE)}\n\n   \n\t\r\n{json.dumps({**LEAGUE, 'id': 'b'})}\n"
    assert ids(folder.read(body)) == [(2, "racing_001"), (6, "b")]


def test_windows_line_ends_are_fine(folder: Folder) -> None:
    """CRLF belongs to no value."""
    body = text(LEAGUE, {**LEAGUE, "id": "b"}).replace("\n", "\r\n")
    lines = folder.read(body)
    assert ids(lines) == [(1, "racing_001"), (2, "b")]
    assert "\r" not in repr(lines)


@pytest.mark.parametrize("rest", [text(LEAGUE), ""])
def test_a_byte_order_mark_is_skipped(folder: Folder, rest: str) -> None:
    """Windows editors put one at the start; it belongs to no value."""
    assert ids(folder.read(b"\xef\xbb\xbf" + rest.encode())) == [(1, "racing_001")] * bool(rest)


def test_a_byte_order_mark_further_down_is_skipped_too(folder: Folder) -> None:
    """Files that were put together have one in the middle."""
    body = text(LEAGUE).encode() + b"\xef\xbb\xbf" + text({**LEAGUE, "id": "b"}).encode()
    assert ids(folder.read(body)) == [(1, "racing_001"), (2, "b")]


def test_a_league_as_plain_data(folder: Folder) -> None:
    """Every field in its place; those that no model names are kept as attributes."""
    full = {
        **LEAGUE,
        "location": "World",
        "tier": "TIER1",
        "status": "inactive",
        "league_tag": "formula_1",
        "description": "Grand prix racing.",
        "founded": 1950,
        "rounds": {"2026": 24},
    }
    assert folder.accepted(text(full)).item == sports.League(
        "formula_1",
        "Formula 1",
        "Motorsport",
        "racing",
        "World",
        "TIER1",
        "inactive",
        "Grand prix racing.",
        {"founded": 1950, "rounds": {"2026": 24}},
    )
    assert folder.accepted(text(LEAGUE)).item == sports.League(
        "", "Formula 1", "Motorsport", "racing"
    )


def test_an_archetype_as_plain_data(folder: Folder) -> None:
    """Nested characteristics stay as they are."""
    full = {**ARCHETYPE, "characteristics": {"scoring": ["a", 1, None]}, "more": True}
    assert folder.accepted(text(full), sports.ARCHETYPES).item == sports.SportArchetype(
        "racing", "Racing", "RaceEvent", None, {"scoring": ["a", 1, None]}, {"more": True}
    )


def test_an_examples_category_is_its_files_name(folder: Folder) -> None:
    """A line may say it, too; then it is what the line says."""
    (folder.path / "triage.jsonl").write_text(text(EXAMPLE, {**EXAMPLE, "category": "other"}))
    file = SeedFile(sports.EXAMPLES, folder.path / "triage.jsonl", "triage.jsonl")
    lines = [line for line in read(file, ARCHETYPES) if isinstance(line, Line)]
    assert [line.item for line in lines] == [
        sports.FewShotExample("triage_001", "triage", "in", "out"),
        sports.FewShotExample("triage_001", "other", "in", "out"),
    ]


def test_contracts_have_dates(folder: Folder) -> None:
    """Dates are dates, not texts; a wrong one is refused by its name."""
    item = folder.accepted(text({**CONTRACT, "start_date": "2026-01-31"}), sports.CONTRACTS).item
    assert isinstance(item, Attached)
    assert str(item.fields["start_date"]) == "2026-01-31"
    assert item.fields["status"] == "active"
    for wrong in ("31.1.2026", 20260131, "2026-02-30", True):
        refused = folder.refused(text({**CONTRACT, "end_date": wrong}), sports.CONTRACTS)
        assert refused.field == "end_date"


@pytest.mark.parametrize(
    "name",
    [
        "x}) DETACH DELETE n //",
        "`League`) RETURN 1 //",
        "'; DROP TABLE league; --",
        '" OR 1=1 "',
        "$name ${HOME} {{x}} %s %(x)s {0}",
        "🏆⚽ 👩‍👩‍👧",
        "الدوري الممتاز",
        "\u202eleft-to-right?\u202c",
        "Ⅷ ﬁ ß İ ı",
        "line one\nline two\ttab\\ \\u0041",
        "\u2028\u2029\u0085\x0b",
        "\x01\x1f\x7f",
        " spaces around ",
        "../../etc/passwd",
        "<script>alert(1)</script>",
        "null",
    ],
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_hostile_names_are_kept_as_they_are(folder: Folder, name: str, ascii_only: bool) -> None:
    """No character is changed, dropped or taken for a line's end, escaped or not."""
    seed = {**LEAGUE, "league_name": name, "remark": name}
    line = folder.accepted(json.dumps(seed, ensure_ascii=ascii_only) + "\n")
    assert isinstance(line.item, sports.League)
    assert line.item.league_name == name
    assert line.item.attributes == {"remark": name}


@pytest.mark.parametrize(
    "field",
    [
        "item",
        "rest",
        "archetype",
        "model_extra",
        "model_config",
        "copy",
        "__class__",
        "__dict__",
        "",
    ],
)
def test_extra_fields_may_have_any_name(folder: Folder, field: str) -> None:
    """Names that mean something to Python mean nothing in a seed."""
    line = folder.accepted(text({**LEAGUE, field: "kept"}))
    assert isinstance(line.item, sports.League)
    assert line.item.attributes == {field: "kept"}


@pytest.mark.parametrize("part", [sports.ARCHETYPES, sports.DOCUMENTS, sports.CONTRACTS])
@pytest.mark.parametrize("value", [["x"], {"a": 1}, 7, "of no league", None])
def test_a_field_of_another_part_is_an_extra_field(
    folder: Folder, part: Part, value: object
) -> None:
    """Only leagues and examples have an archetype; elsewhere the name is free."""
    item = folder.accepted(text({**GOOD[part], "sport_archetype": value}), part).item
    assert isinstance(item, sports.SportArchetype | Attached)
    assert item.attributes == {"sport_archetype": value}


@pytest.mark.parametrize(
    "number", [2**63 - 1, -(2**63), 0, -1, 1.5, 1e308, 5e-324, 12345678901234567]
)
def test_numbers_within_64_bits_are_kept(folder: Folder, number: float) -> None:
    """A number that PostgreSQL and other readers agree on stays the same."""
    item = folder.accepted(text({**LEAGUE, "number": number})).item
    assert isinstance(item, sports.League)
    assert item.attributes["number"] == number
    assert type(item.attributes["number"]) is type(number)


def test_surrogate_pairs_are_characters(folder: Folder) -> None:
    """An escaped pair is one character, as JSON says."""
    line = folder.accepted('{"x":"\\ud83c\\udfc6",' + text(LEAGUE)[1:])
    assert isinstance(line.item, sports.League)
    assert line.item.attributes == {"x": "🏆"}


# --- lines that are not -----------------------------------------------------------------------


def test_bad_utf_8_is_refused_with_file_line_and_byte(folder: Folder) -> None:
    """Line 7,001 of many: it alone is lost, and its place is told."""
    good = [text({**LEAGUE, "id": f"id_{n}"}).encode() for n in range(1, 7011)]
    good[7000] = b'{"id":"id_7001","league_name":"\xe9"}\n'
    lines = folder.read(b"".join(good))
    refused = [line for line in lines if isinstance(line, Rejected)]
    assert len(lines) == 7010
    assert [(line.file, line.number) for line in refused] == [("leagues.jsonl", 7001)]
    assert refused[0].reason == "not UTF-8: byte 0xe9 at byte 32 of the line"
    assert str(refused[0]) == f"leagues.jsonl:7001: {refused[0].reason}"
    assert refused[0].raw == '{"id":"id_7001","league_name":"\\xe9"}'
    assert refused[0].seed_id is None


@pytest.mark.parametrize(
    "sequence",
    [
        b"\xff",
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xe2\x82",
        "é".encode("latin-1"),
        "é".encode("utf-16"),
    ],
)
def test_every_kind_of_bad_utf_8_is_refused(folder: Folder, sequence: bytes) -> None:
    """Overlong forms, half surrogates, cut sequences and other encodings."""
    body = b'{"x":"' + sequence + b'",' + text(LEAGUE).encode()[1:] + text(LEAGUE).encode()
    bad, good = folder.read(body)
    assert isinstance(bad, Rejected)
    assert bad.reason.startswith("not UTF-8: byte 0x")
    assert isinstance(good, Line)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400"])
@pytest.mark.parametrize(
    ("form", "field"),
    [
        ("{}", "x"),
        ('{{"deep":[1,{}]}}', "x.deep[1]"),
    ],
)
def test_numbers_that_are_none_are_refused(
    folder: Folder, value: str, form: str, field: str
) -> None:
    """JSON has no such numbers, PostgreSQL's jsonb neither."""
    refused = folder.refused('{"x":' + form.format(value) + "," + text(LEAGUE)[1:])
    assert (refused.field, refused.reason) == (field, "not a finite number")
    assert refused.seed_id == "racing_001"


@pytest.mark.parametrize(
    "number", [str(2**63), str(-(2**63) - 1), str(2**64), "1" + "0" * 30, "9" * 4000]
)
@pytest.mark.parametrize(
    ("form", "field"), [("{}", "x"), ("[ {}]", "x[0]"), ("[1,{}]", "x[1]"), ('{{"y": {}}}', "x.y")]
)
def test_huge_integers_are_refused(folder: Folder, number: str, form: str, field: str) -> None:
    """Readers that make floats of them would store another number."""
    refused = folder.refused('{"x":' + form.format(number) + "," + text(LEAGUE)[1:])
    assert refused.field == field
    assert refused.reason == "an integer beyond 64 bits; write it as a string"
    assert refused.seed_id == "racing_001"


def test_an_integer_of_a_million_digits_is_refused(folder: Folder) -> None:
    """Reading it as a number would take seconds."""
    refused = folder.refused('{"x":' + "7" * 1_000_000 + "," + text(LEAGUE)[1:])
    assert refused.reason.startswith("not JSON")


@pytest.mark.parametrize(
    ("part", "changes", "field"),
    [
        (sports.LEAGUES, {"league_name": 7}, "league_name"),
        (sports.LEAGUES, {"league_name": None}, "league_name"),
        (sports.LEAGUES, {"league_name": ""}, "league_name"),
        (sports.LEAGUES, {"league_name": ["a"]}, "league_name"),
        (sports.LEAGUES, {"league_name": "x" * 501}, "league_name"),
        (sports.LEAGUES, {"tier": 1}, "tier"),
        (sports.LEAGUES, {"tier": True}, "tier"),
        (sports.LEAGUES, {"description": {"en": "x"}}, "description"),
        (sports.LEAGUES, {"league_tag": "has space"}, "league_tag"),
        (sports.LEAGUES, {"league_tag": "é"}, "league_tag"),
        (sports.LEAGUES, {"league_tag": "a\n"}, "league_tag"),
        (sports.LEAGUES, {"id": 1}, "id"),
        (sports.LEAGUES, {"id": ""}, "id"),
        (sports.LEAGUES, {"id": "x" * 201}, "id"),
        (sports.ARCHETYPES, {"archetype_name": "a b"}, "archetype_name"),
        (sports.ARCHETYPES, {"characteristics": ["a"]}, "characteristics"),
        (sports.ARCHETYPES, {"characteristics": "a"}, "characteristics"),
        (sports.EXAMPLES, {"id": "é"}, "id"),
        (sports.EXAMPLES, {"category": "Not A Name"}, "category"),
        (sports.EXAMPLES, {"category": "../up"}, "category"),
        (sports.EXAMPLES, {"tags": "a,b"}, "tags"),
        (sports.EXAMPLES, {"tags": ["a", 1]}, "tags.1"),
        (sports.EXAMPLES, {"input_text": ""}, "input_text"),
        (sports.DOCUMENTS, {"league": None}, "league"),
        (sports.DOCUMENTS, {"body": 1}, "body"),
        (sports.CONTRACTS, {"status": 1}, "status"),
    ],
)
def test_wrong_types_are_refused_by_field(
    folder: Folder, part: Part, changes: dict[str, Any], field: str
) -> None:
    """Nothing is converted: a number is no text, a text no list."""
    refused = folder.refused(text({**GOOD[part], **changes}), part)
    assert refused.field == field
    assert refused.reason
    seed_id = changes.get("id", GOOD[part]["id"])
    assert refused.seed_id == (seed_id if isinstance(seed_id, str) else None)


@pytest.mark.parametrize(
    ("part", "field"),
    [
        (part, field)
        for part, seed in GOOD.items()
        for field in seed
        if not (part is sports.EXAMPLES and field == "category")
    ],
)
def test_a_missing_field_is_named(folder: Folder, part: Part, field: str) -> None:
    """Every field that a line must have."""
    seed = {name: value for name, value in GOOD[part].items() if name != field}
    refused = folder.refused(text(seed), part)
    assert (refused.field, refused.reason) == (field, "Field required")


def test_the_first_of_several_reasons_says_how_many_there_are(folder: Folder) -> None:
    """One sentence a line."""
    refused = folder.refused('{"id":"a","league_name":7}\n')
    assert (refused.field, refused.seed_id) == ("league_name", "a")
    assert refused.reason.endswith(" (and 2 more: sport_name, sport_archetype)")


def test_reasons_do_not_repeat_values(folder: Folder) -> None:
    """The raw line has the value; reasons may go to a log."""
    refused = folder.refused(text({**LEAGUE, "league_name": ["hunter2"]}))
    assert "hunter2" not in refused.reason
    assert "hunter2" in refused.raw


@pytest.mark.parametrize("part", [sports.LEAGUES, sports.EXAMPLES])
def test_an_unknown_archetype_is_refused_with_the_known_ones(folder: Folder, part: Part) -> None:
    """A misspelt name would make a node of its own in the graph."""
    refused = folder.refused(text({**GOOD[part], "sport_archetype": "raicng"}), part)
    assert refused.field == "sport_archetype"
    assert refused.reason == (
        "no archetype 'raicng'; there are racing, team_sport; did you mean 'racing'?"
    )
    assert refused.seed_id == GOOD[part]["id"]


@pytest.mark.parametrize(
    "escape", ["\\u0000", "a\\u0000b", "\\ud83c", "\\udfc6", "\\udfc6\\ud83c", "\\ud83cx"]
)
@pytest.mark.parametrize(
    ("form", "field"),
    [
        ('"league_name":"{}"', "league_name"),
        ('"x":"{}"', "x"),
        ('"x":{{"y":["{}"]}}', "x.y[0]"),
    ],
)
def test_what_no_database_stores_is_refused(
    folder: Folder, escape: str, form: str, field: str
) -> None:
    """One such character would fail the whole batch in SQL."""
    seed = {name: value for name, value in LEAGUE.items() if name != field}
    refused = folder.refused("{" + form.format(escape) + "," + text(seed)[1:])
    assert refused.field == field
    assert refused.reason == "holds \\u0000 or half a surrogate pair, which no database stores"
    assert refused.seed_id == "racing_001"


@pytest.mark.parametrize("escape", ["\\u0000", "\\ud83c"])
@pytest.mark.parametrize(("form", "field"), [('"{}":1', None), ('"x":{{"a{}":1}}', "x")])
def test_field_names_are_checked_too(
    folder: Folder, escape: str, form: str, field: str | None
) -> None:
    """jsonb refuses them in names as in values."""
    refused = folder.refused("{" + form.format(escape) + "," + text(LEAGUE)[1:])
    assert refused.field == field
    assert refused.reason == "a field's name holds a character that no database stores"


@pytest.mark.parametrize("escape", ["\\u0000", "\\ud83c"])
def test_an_id_that_no_database_stores_is_no_id(folder: Folder, escape: str) -> None:
    """Such an id could not even be noted down as seen."""
    refused = folder.refused('{"id":"a' + escape + '"}\n')
    assert (refused.field, refused.seed_id) == ("id", None)


@pytest.mark.parametrize(
    "line",
    [
        "null",
        "7",
        '"text"',
        "[]",
        "{",
        '{"id":"a"',
        "{'id':'a'}",
        '{"id":"a",}',
        '{"id":"a"} {"id":"b"}',
        '{"id":"a"}}',
        "\x00",
        '{"id":"a\x01"}',
        "id,league_name",
        "<xml/>",
        "\u00a0",
    ],
)
def test_what_is_no_object_is_refused(folder: Folder, line: str) -> None:
    """One JSON object a line, and nothing after it."""
    bad, good = folder.read(line + "\n" + text(LEAGUE))
    assert isinstance(bad, Rejected)
    assert bad.reason.startswith("not ")
    assert isinstance(good, Line)


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        "[" * 100_000 + "]" * 100_000,
        '{"x":' * 100_000 + "1" + "}" * 100_000,
        '{"x":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"x":' + "[" * (DEPTH) + "]" * (DEPTH) + "}",
    ],
    ids=["open", "list", "object", "field", "one too deep"],
)
def test_deep_nesting_is_refused(folder: Folder, line: str) -> None:
    """Parsers would run out of stack; they are never asked."""
    refused = folder.refused(line + "\n")
    assert refused.reason == "nested deeper than 64 levels"
    assert len(refused.raw) <= 2000


def test_nesting_within_the_limit_is_kept(folder: Folder) -> None:
    """As deep as allowed, and brackets within texts do not count."""
    deep = '{"x":' + "[" * (DEPTH - 1) + "]" * (DEPTH - 1) + ","
    item = folder.accepted(deep + '"y":"' + "[{" * 5000 + '\\"[",' + text(LEAGUE)[1:]).item
    assert isinstance(item, sports.League)
    assert item.attributes["y"] == "[{" * 5000 + '"['
    content_hash(item)


_READ_ONE = """
import sys
from pathlib import Path
from altsports.catalogue import catalogue
from altsync.seed.files import SeedFile
from altsync.seed.reader import read
for line in read(SeedFile(catalogue.part("leagues"), Path(sys.argv[1]), "x"), {}):
    print(line)
"""


def test_quotes_that_never_close_cost_no_time(tmp_path: Path) -> None:
    """Looking for the end of every quote anew would take hours for a line of a megabyte.

    In a process of its own, which can be ended: a regular expression cannot.
    """
    file = tmp_path / "leagues.jsonl"
    file.write_text('{"x":' + "[" * 70 + '"' + '\\"' * 500_000 + "\n")
    done = subprocess.run(
        [sys.executable, "-c", _READ_ONE, str(file)],
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT,
    )
    assert done.stdout == "x:1: nested deeper than 64 levels\n"


def test_a_line_of_the_largest_size_is_read(folder: Folder) -> None:
    """1 MiB without its end, whichever end that is; one byte more is refused."""
    start = json.dumps(LEAGUE)[:-1] + ',"x":"'
    for end in ("\n", "\r\n", ""):
        exact = start + "y" * (LINE_BYTES - len(start) - 2) + '"}'
        assert len(exact) == LINE_BYTES
        assert ids(folder.read(exact + end + "\n" * (not end))) == [(1, "racing_001")]
        refused = folder.refused(exact[:-2] + 'y"}' + end)
        assert refused.reason == "the line is longer than 1,048,576 bytes"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("filler", [b" ", b"\r"])
@pytest.mark.parametrize("start", [json.dumps(LEAGUE).encode(), b""], ids=["good", "blank"])
def test_a_long_line_is_refused_whatever_is_cut_from_it(
    folder: Folder, mark: bytes, filler: bytes, start: bytes
) -> None:
    """A beginning that is good or blank, and a filler: what comes after it still counts."""
    line = start + filler * (LINE_BYTES - len(start)) + filler * 20 + b"and more\n"
    refused = folder.refused(mark + line)
    assert refused.reason == "the line is longer than 1,048,576 bytes"


def test_a_huge_line_is_refused_with_flat_memory(folder: Folder) -> None:
    """A file that lost its line ends: 64 MB are skipped unread, and the next line is found."""
    file = folder.path / "leagues.jsonl"
    with file.open("wb") as stream:
        stream.write(b'{"id":"huge","x":"')
        stream.seek(64_000_000)
        stream.write(b'"}\n' + text(LEAGUE).encode())
    tracemalloc.start()
    try:
        bad, good = read(SeedFile(sports.LEAGUES, file, "leagues.jsonl"), ARCHETYPES)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(bad, Rejected)
    assert bad.reason == "the line is longer than 1,048,576 bytes"
    assert len(bad.raw) <= 2000
    assert (good.number, good.seed_id) == (2, "racing_001")
    assert peak < 8 * LINE_BYTES


def test_many_lines_are_read_with_flat_memory(folder: Folder) -> None:
    """A file is a stream: its size does not show in memory."""
    file = folder.path / "leagues.jsonl"
    long = text({**LEAGUE, "x": "y" * 100_000})
    with file.open("w") as stream:
        for _ in range(80):
            stream.write(long)
    tracemalloc.start()
    try:
        count = sum(1 for _ in read(SeedFile(sports.LEAGUES, file, "x"), ARCHETYPES))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 80
    assert peak < 2_000_000


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ('"x":1,"x":2', "x"),
        ('"x" :1,"x"\t:"y"', "x"),
        ('"x":1,"\\u0078":2', "x"),
        ('"x":{"y":1,"y":1}', "x.y"),
        ('"x":[0,{"y":{"z":null,"z":null}}]', "x[1].y.z"),
        ('"league_name":"Other"', "league_name"),
        ('"status":"a","status":"a"', "status"),
    ],
)
def test_a_key_that_stands_twice_is_refused_by_name(folder: Folder, line: str, field: str) -> None:
    refused = folder.refused("{" + line + "," + text(LEAGUE)[1:])
    assert (refused.field, refused.seed_id) == (field, "racing_001")
    assert refused.reason == f"the key {field.rpartition('.')[2]!r} stands twice; keep one of them"


def test_an_id_that_stands_twice_is_not_known(folder: Folder) -> None:
    refused = folder.refused('{"id":"other",' + text(LEAGUE)[1:])
    assert (refused.field, refused.seed_id) == ("id", None)


@pytest.mark.parametrize(
    "value",
    [
        'a "b": c',
        'https://a.example:80/"x":',
        "12:30",
        {"x": {"x": {"x": 1}}},
        [{"x": 1}, {"x": 2}],
    ],
)
def test_a_key_that_only_looks_repeated_is_kept(folder: Folder, value: object) -> None:
    """Texts hold colons behind quotes, and other objects the same keys."""
    item = folder.accepted(text({**LEAGUE, "x": value})).item
    assert isinstance(item, sports.League)
    assert item.attributes == {"x": value}


def test_a_repeated_id_is_the_loaders_business(folder: Folder) -> None:
    """Reading knows one line at a time; both are handed on."""
    assert ids(folder.read(text(LEAGUE, LEAGUE))) == [(1, "racing_001"), (2, "racing_001")]


def test_progress_is_told_in_bytes(folder: Folder) -> None:
    """Every byte of a file counts, so that a bar ends at its end."""
    sizes: list[int] = []
    file = folder.path / "leagues.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + text(LEAGUE).encode() + b"\n" + b"x" * (LINE_BYTES * 3))
    list(read(SeedFile(sports.LEAGUES, file, "x"), ARCHETYPES, sizes.append))
    assert sum(sizes) == file.stat().st_size


_names = st.text(max_size=8)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=3),
    max_leaves=6,
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
@given(st.dictionaries(_names, _json, max_size=3), st.sampled_from(list(sports.PARTS)))
def test_any_json_is_either_kept_exactly_or_refused(
    folder: Folder, extra: dict[str, Any], part: Part
) -> None:
    """Whatever a line holds: no error but a refusal, and no value comes out another."""
    (line,) = folder.read(text({**extra, **GOOD[part]}), part)
    if isinstance(line, Line):
        attributes = getattr(line.item, "attributes")  # noqa: B009  (all items have them)
        known = {name for name in extra if name not in attributes}
        assert {**attributes, **{name: extra[name] for name in known}} == extra
        json.dumps(attributes, allow_nan=False, ensure_ascii=False).encode()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_line_by_line(folder: Folder, noise: bytes) -> None:
    """Noise costs its own lines alone; the good line after it is read."""
    *_, last = folder.read(noise + b"\n" + text(LEAGUE).encode())
    assert isinstance(last, Line)


# --- folders ----------------------------------------------------------------------------------


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()


def test_files_are_found_by_part(tmp_path: Path) -> None:
    """One file, or a folder of files in the order of their names; nothing else in it counts."""
    _touch(tmp_path, "archetypes.jsonl", "leagues/b.jsonl", "leagues/a.jsonl", "leagues/notes.txt")
    assert [f.label for f in find_files(tmp_path, sports.ARCHETYPES)] == ["archetypes.jsonl"]
    assert [f.label for f in find_files(tmp_path, sports.LEAGUES)] == [
        "leagues/a.jsonl",
        "leagues/b.jsonl",
    ]
    assert find_files(tmp_path, sports.DOCUMENTS) == []


def test_a_file_beside_the_folder_comes_first(tmp_path: Path) -> None:
    """Both forms may be there."""
    _touch(tmp_path, "leagues.jsonl", "leagues/a.jsonl")
    found = [file.label for file in find_files(tmp_path, sports.LEAGUES)]
    assert found == ["leagues.jsonl", "leagues/a.jsonl"]


def test_a_category_is_one_file(tmp_path: Path) -> None:
    """Only that one; a category without a file is an error that names the file."""
    _touch(tmp_path, "examples/triage.jsonl", "examples/other.jsonl")
    found = find_files(tmp_path, sports.EXAMPLES, {"category": "triage"})
    assert [file.label for file in found] == ["examples/triage.jsonl"]
    with pytest.raises(SeedError, match=r"examples/missing\.jsonl: no such file"):
        find_files(tmp_path, sports.EXAMPLES, {"category": "missing"})


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """The sentence names the folder and the option."""
    with pytest.raises(SeedError, match=r"nowhere: no such folder; name one with --dir"):
        find_files(tmp_path / "nowhere", sports.LEAGUES)


def test_the_seeds_of_the_repository_are_all_good() -> None:
    """Every line that is shipped can be loaded, with the archetypes that are shipped."""
    seeds = Path(__file__).parents[2] / "seeds"
    (archetypes,) = find_files(seeds, sports.ARCHETYPES)
    items = [line.item for line in read(archetypes, {}) if isinstance(line, Line)]
    names = frozenset(i.archetype_name for i in items if isinstance(i, sports.SportArchetype))
    known = {"sport_archetype": names}
    count, refused = 0, []
    for part in sports.PARTS:
        for file in find_files(seeds, part):
            for line in read(file, known):
                count += 1
                refused += [str(line)] if isinstance(line, Rejected) else []
    assert refused == []
    assert count > 500


@pytest.mark.parametrize("tag", ["Bad Tag!", "-x", "ä", "x" * 5000, "a\x1bb"])
def test_a_key_of_a_wrong_form_is_told_the_right_one(folder: Folder, tag: str) -> None:
    """In words, not by a pattern; the value is cut."""
    (refused,) = folder.read(json.dumps({**LEAGUE, "league_tag": tag}) + "\n")
    assert isinstance(refused, Rejected)
    assert "is not allowed: use letters, digits and _ . : -, at most 200" in str(refused)
    assert len(str(refused)) < 300


@pytest.mark.parametrize("blank", [" ", "   ", "\t", "\r\n", "\xa0"])
def test_white_space_alone_is_as_empty_text(folder: Folder, blank: str) -> None:
    league = {"id": "l1", "league_name": "A", "sport_name": "B", "sport_archetype": "racing"}
    line = folder.accepted(json.dumps(league | {"location": blank, "tier": blank}))
    assert line.emptied == ("location", "tier")
    (rejected,) = folder.read(json.dumps(league | {"league_name": blank}))
    assert isinstance(rejected, Rejected)
    assert (rejected.field, rejected.reason) == (
        "league_name",
        "Field required, and may not be empty",
    )
