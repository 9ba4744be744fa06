"""Data cannot control a terminal, and a terminal hides no part of the data."""

from __future__ import annotations

import ast
import io
import json
import logging
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import rich.text
import structlog
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.progress import Progress, TextColumn

import altsync.cli
from altsports import demo
from altsports.catalogue import LEAGUE
from altsports.cli import views as answered
from altsync import log
from altsync.cli import operate, retry, seed_run, status, terminal, verify, views, why
from altsync.cli.tables import Table, Text
from altsync.cli.terminal import Terminal
from altsync.contract import Drift
from altsync.doctor import Finding, Health
from altsync.operations import BreakerState
from altsync.seed.report import SeedReport
from altsync.sinks.neo4j.show import node_lines
from altsync.sinks.vectors import vector_lines
from altsync.verify.report import Options, Report, Tally
from altsync.wording import one_line, visible
from tests import sports

#: Signs that steer a terminal, reorder text or hide it, and how each is shown.
HIDDEN = {
    "\x1b]0;owned\x07": r"\x1b]0;owned\x07",
    "\x1b[31m": r"\x1b[31m",
    "\x9b2J": r"\x9b2J",
    "\x9d52;c;aGk=\x9c": r"\x9d52;c;aGk=\x9c",
    "\x90q\x9c": r"\x90q\x9c",
    "\x85": r"\x85",
    "\x7f": r"\x7f",
    "\x00\x08\x0b\x0c\x0e": r"\x00\x08\x0b\x0c\x0e",
    "safe\rover": r"safe\rover",
    "\u202eabc\u202c": r"\u202eabc\u202c",
    "\u2066abc\u2069": r"\u2066abc\u2069",
    "\u200e\u200f\u061c": r"\u200e\u200f\u061c",
    "a\u200bb\u2060c\ufeffd": r"a\u200bb\u2060c\ufeffd",
    "Bund\u200desliga": r"Bund\u200desliga",
    "\u2028\u2029": r"\u2028\u2029",
    "\U000e0041": r"\U000e0041",
    "\ud800": r"\ud800",
    "\xad": r"\xad",
}

#: Text of people, in which joiners and tags belong to the signs around them.
PLAIN = ("می‌خواهم", "क्‍ष", "👨‍👩‍👧", "❤️‍🔥", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "日本プロ野球", "a\tb\nc", "İstanbul", "שלום")

HOSTILE = "".join(HIDDEN)

#: Characters that no output may contain.
FORBIDDEN = {sign for text in HIDDEN for sign in text if visible(sign) != sign}


def assert_harmless(text: str) -> None:
    assert not FORBIDDEN & set(text), ascii(text)


@pytest.mark.parametrize("text", HIDDEN, ids=ascii)
def test_a_sign_that_steers_or_hides_is_written_out(text: str) -> None:
    assert visible(text) == HIDDEN[text]
    assert visible(visible(text)) == HIDDEN[text]
    assert_harmless(one_line(text))


@pytest.mark.parametrize("text", PLAIN)
def test_text_of_people_stays(text: str) -> None:
    assert visible(text) == text


def test_every_control_sign_of_unicode_is_written_out() -> None:
    for number in (*range(32), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)):
        if chr(number) not in "\t\n":
            assert chr(number) not in visible(f"a{chr(number)}b"), hex(number)


@pytest.mark.parametrize("tty", [False, True])
@pytest.mark.parametrize(
    "made",
    [
        lambda text: text,
        Text,
        rich.text.Text,
        lambda text: Text("head ").append(text, "red"),
        lambda text: Table("name", title=text),
    ],
    ids=["str", "Text", "Text of rich", "append", "title"],
)
def test_a_console_shows_no_sign_of_data_as_it_is(made: Any, tty: bool) -> None:
    output = io.StringIO()
    console = Terminal(file=output, width=4000, force_terminal=tty, color_system=None)
    shown = made(HOSTILE)
    if isinstance(shown, Table):
        shown.add_row(HOSTILE)
    console.print(shown)
    console.rule(HOSTILE)
    with Progress(TextColumn("{task.description}"), console=console, transient=True) as bars:
        bars.add_task(HOSTILE)
    # Rich's own controls of the cursor stand around progress bars.
    own = ("\x1b[?25l", "\x1b[?25h", "\r", "\x1b[2K", "\x1b[1A") if tty else ()
    text = output.getvalue()
    for control in own:
        text = text.replace(control, "")
    assert_harmless(text)
    assert r"\x1b]0;owned" in text


def test_data_is_no_markup_and_no_emoji_code() -> None:
    output = io.StringIO()
    Terminal(file=output, width=80).print("[red]a[/red] [/b] :smile:")
    assert output.getvalue() == "[red]a[/red] [/b] :smile:\n"


def test_json_is_valid_and_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    body = {"text": HOSTILE.replace("\ud800", ""), "people": list(PLAIN)}
    for write in (terminal.print_json, terminal.print_json_line):
        write(body)
        text = capsys.readouterr().out
        assert json.loads(text) == body
        write(body["text"])
        assert_harmless(capsys.readouterr().out)


def test_json_lines_are_json_in_any_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(
        "sys.stdout", io.TextIOWrapper(raw, encoding="ascii", errors="backslashreplace")
    )
    terminal.print_json_line({"a": "é日"})
    assert json.loads(raw.getvalue()) == {"a": "é日"}


def test_layout_counts_what_a_stream_writes_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="backslashreplace")
    monkeypatch.setattr("sys.stdout", stream)
    table = Table("score", "league", numbers=("score",))
    table.add_row("0.912", "日本プロ野球リーグ" * 3)
    Terminal(file=stream, width=60).print(table)
    stream.flush()
    lines = raw.getvalue().decode("ascii").splitlines()
    assert max(map(len, lines)) <= 60
    assert any("0.912" in line for line in lines)


@pytest.fixture
def logs(capsys: pytest.CaptureFixture[str]) -> Iterator[pytest.CaptureFixture[str]]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield capsys
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize("form", ["console", "json"])
def test_logs_show_no_sign_of_data_as_it_is(logs: pytest.CaptureFixture[str], form: str) -> None:
    log.set_up(form=form)
    structlog.get_logger("altsync").info(
        f"event {HOSTILE}", key=HOSTILE, nested={"a": [HOSTILE]}, error=ValueError(HOSTILE)
    )
    logging.getLogger("other").warning("said %s", HOSTILE)
    try:
        raise RuntimeError(HOSTILE)
    except RuntimeError:
        structlog.get_logger("altsync").exception("failed")
    text = logs.readouterr().err
    for style in ("\x1b[0m", "\x1b[1m", "\x1b[2m", *(f"\x1b[3{n}m" for n in (2, 3, 5, 6))):
        text = text.replace(style, "")
    # One of the styles is among the data, in which it is no style.
    assert_harmless(text.replace("\x1b[31m", "") if form == "console" else text)
    assert r"\x1b" in text or r"\u001b" in text


def test_a_value_begins_no_line_of_a_console_log(logs: pytest.CaptureFixture[str]) -> None:
    log.set_up(form="console")
    structlog.get_logger("altsync").info("said", text="a\n2026-01-01 [error] forged")
    assert logs.readouterr().err.count("\n") == 1


# --- every table of every command -------------------------------------------------------------

LONG = "t" * 80
WIDE = "日本プロ野球リーグ🏆" * 4
SCORE = "0.912"
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def data(**fields: Any) -> Any:
    return SimpleNamespace(**fields)


def league(text: str) -> Any:
    contract = data(
        title=text,
        counterparty=text,
        contract_type=text,
        status="active",
        start_date=date(2026, 1, 2),
        end_date=date(2027, 3, 4),
    )
    return data(
        score=0.912,
        league_tag=text,
        league_name=text,
        sport_name=text,
        sport_archetype=text,
        location=text,
        tier="TIER1",
        status="active",
        attributes={text: text},
        description=text,
        documents=(data(title=text, kind=text, body=text),),
        contracts=(contract,),
        sources=("neo4j", "pinecone"),
        path=text,
        same_archetype=(),
        similar_to=(),
    )


def seed_table(text: str) -> RenderableType:
    names = ("processed", "created", "updated", "unchanged", "deleted", "rejected")
    counts = data(**dict.fromkeys(names, 1_234_567))
    return seed_run.seed_table(data(parts={sports.LEAGUES: counts}), text)


def matrix(text: str) -> RenderableType:
    row = data(
        entity=data(value=text),
        statuses={"neo4j_sync_status": "synced", "pinecone_sync_status": "pending"},
        count=1_234_567,
    )
    return status.matrix_table(data(matrix=[row], matrix_sinks=["neo4j", "pinecone"]))


def entities(text: str) -> RenderableType:
    counts = dict.fromkeys(status._IN_ORDER, 1_234_567)
    one = data(total=7_654_321, by_sink={"neo4j": counts, "pinecone": counts})
    return status.entity_table(data(entities={sports.LEAGUES: one}))


def sinks(text: str) -> RenderableType:
    backlog = data(
        pending=1_234_567, in_progress=1_000, dead=7_654_321, oldest_pending_seconds=86_400.0
    )
    health = data(state=BreakerState.DISABLED, reason=text, since=None)
    names = ("embedding", "neo4j", "pinecone", "similarity")
    return status.sink_table(
        data(
            operations=dict.fromkeys(names, backlog),
            sinks=dict.fromkeys(names, health),
            recent=dict.fromkeys(names, data(synced=12_345, remote_calls=54_321)),
            idle={},
        )
    )


def failures(text: str) -> RenderableType:
    group = data(
        sink="pinecone", error_kind=text, count=1_234_567, reason=text, sample_keys=(text, text)
    )
    return retry.failures_table([group])


def differences(text: str) -> RenderableType:
    tally = Tally("pinecone", problem=text)
    tally.kinds[Drift.WRONG_NAMESPACE] = 1_234_567
    tally.samples[Drift.WRONG_NAMESPACE] = [text]
    view: RenderableType = verify.view(
        Report(7_654_321, (tally,), Options(), skipped={"neo4j": text})
    )
    return view


def reasons(text: str) -> RenderableType:
    mark = data(status="synced")
    edge = data(type=text, direction="out", key=text, score=0.912)
    edges = data(type=text, direction="in", count=1_234_567, names=[text])
    operation = data(
        sink="pinecone",
        finished_at=AT,
        available_at=AT,
        origin="seed",
        action="upsert",
        status="dead",
        attempts=5,
        version=7_654_321,
        last_error=text,
        discarded_by=text,
        discarded_why=text,
    )
    node = data(node_id=text, properties={text: text}, edges=[edges], tombstone=None)
    vector = data(index=text, namespace=text, key=text, dimensions=3, metadata={text: 1})
    checks = [
        data(store=name, agrees=True, detail=text)
        for name in ("seed", "embedding", "neo4j", "pinecone")
    ]
    view: RenderableType = why.view(
        data(
            agrees=False,
            entity=data(
                type=data(value="league"),
                key=text,
                seed_id="x",
                version=7_654_321,
                updated_at=AT,
                graph_version=7_654_321,
                deleted_at=None,
                sinks={"neo4j": mark},
                relationships=[edge],
            ),
            reasons=[text],
            checks=checks,
            seed=data(file=text, line=1, text=text),
            embedding=data(updated_at=AT, kept=True, wanted_model=text),
            stores={
                "neo4j": data(lines=list(node_lines(node))),
                "pinecone": data(lines=list(vector_lines([vector]))),
            },
            operations=[operation],
        )
    )
    return view


def audit(text: str) -> RenderableType:
    entry = data(
        action="upsert",
        sink="pinecone",
        version=7_654_321,
        origin="confirm",
        status="pending",
        finished_at=AT,
        last_error=text,
    )
    return answered.audit_table([entry])


def example(text: str) -> RenderableType:
    one = data(score=0.912, example_id=text, category=text, input_text=text, output_text=text)
    return answered.examples_table([one])


def pair(text: str) -> RenderableType:
    names = ("source_name", "source_archetype", "target_name", "target_archetype")
    return answered.pairs_table([data(score=0.912, **dict.fromkeys(names, text))])


def edges(text: str) -> RenderableType:
    edge = data(score=0.912, type=text, direction="out", league_tag=text, league_name=text)
    return answered.relationships_table([edge])


def of_demo(text: str) -> RenderableType:
    table = demo._table("Three", "score", "league", "archetype")
    table.add_row(SCORE, text, text)
    return table


def link(text: str) -> Any:
    return data(score=0.912, type=text, direction="out", entity=text, key=text, name=text)


def neighbour(text: str) -> Any:
    return data(
        score=0.912, key=text, name=text, sources=("graph", "vector"), path=text,
        relationships=[link(text)], siblings=[link(text)],
    )  # fmt: skip


def found(text: str) -> RenderableType:
    content = dict.fromkeys(LEAGUE.filters, text)
    return views.found_table(
        [data(entity="league", score=0.912, key=text, name=text, content=content)]
    )


#: Commands that print data, and the numbers that must be whole in their output.
VIEWS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "search": (lambda text: answered.found_table([league(text)]), (SCORE,)),
    "leagues": (lambda text: answered.leagues_table([league(text)]), ("1 (active)",)),
    "similar": (lambda text: answered.similar_table([league(text)]), (SCORE,)),
    "archetypes": (
        lambda text: answered.archetypes_table(
            [data(archetype=text, count=1_234_567, leagues=[league(text)] * answered.SAMPLE)]
        ),
        ("1,234,567",),
    ),
    "explore": (
        lambda text: answered.explored_view(
            [data(league=league(text), same_archetype=[league(text)], similar_to=[league(text)])]
        ),
        (SCORE, "0.91"),
    ),
    "examples": (example, (SCORE,)),
    "league": (
        lambda text: answered.league_view(league(text), [league_edge(text)]),
        (SCORE, "2027"),
    ),
    "league --operations": (audit, ("7,654,321".replace(",", ""), "03:04:05")),
    "relationships": (edges, (SCORE,)),
    "graph archetype": (lambda text: answered.graph_table([league(text)]), ("TIER1",)),
    "graph cross-archetype": (pair, (SCORE,)),
    "search --entity": (found, (SCORE,)),
    "similar --entity": (lambda text: views.similar_table([neighbour(text)]), (SCORE,)),
    "explore --entity": (lambda text: views.explored_view([neighbour(text)]), (SCORE, "0.91")),
    "graph --entity": (lambda text: views.links_table([link(text)]), (SCORE,)),
    "seed": (seed_table, ("1,234,567",)),
    "status": (matrix, ("1,234,567", "synced", "pending")),
    "status by sink": (entities, ("1,234,567", "7,654,321")),
    "status of sinks": (sinks, ("1,234,567", "7,654,321", "1.0 d", "12,345", "54,321")),
    "failures": (failures, ("1,234,567",)),
    "verify": (differences, ("1,234,567",)),
    "why": (reasons, ("7654321", "1,234,567", "×5")),
    "demo": (of_demo, (SCORE,)),
    "doctor": (
        lambda text: operate.findings_table([Finding("Neo4j", Health.FAILED, text)]),
        ("Neo4j",),
    ),
}


def league_edge(text: str) -> Any:
    return data(score=0.912, type=text, direction="out", league_tag=text, league_name=text)


def rendered(view: RenderableType, width: int, encoding: str = "utf-8") -> list[str]:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace")
    Terminal(file=stream, width=width).print(view)
    stream.flush()
    return raw.getvalue().decode(encoding).splitlines()


def squeezed(lines: list[str]) -> str:
    return "".join(sign for line in lines for sign in line if sign not in "│┃| ")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("width", [40, 60, 80, 200])
@pytest.mark.parametrize(
    "text", [LONG, WIDE, "word " * 30, HOSTILE], ids=["tag", "wide", "words", "bad"]
)
@pytest.mark.parametrize("command", VIEWS)
def test_numbers_are_whole_and_columns_fit(
    command: str, text: str, width: int, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if encoding == "ascii":
        stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace")
        monkeypatch.setattr("sys.stdout", stream)
    view, numbers = VIEWS[command]
    lines = rendered(view(text), width, encoding)
    assert max(map(cell_len, lines)) <= width
    for line in lines:
        assert_harmless(line)
    joined = "\n".join(" ".join(line.split()) for line in lines)
    for number in numbers:
        if number.isascii() or encoding == "utf-8":
            assert number in joined, joined


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("command", sorted(set(VIEWS) - {"seed", "why", "doctor"}))
def test_a_long_tag_hides_no_other_column(command: str, width: int) -> None:
    view, _ = VIEWS[command]
    lines = rendered(view(LONG), width)
    short = rendered(view("t"), 500)
    words = {word for line in short for word in line.split() if word.isalpha() and len(word) > 1}
    assert words <= {word for line in lines for word in line.split()}
    assert "".join(lines).count("…") == "".join(rendered(view(LONG), 2000)).count("…")


@pytest.mark.parametrize("width", [24, 40, 60, 80, 120])
@pytest.mark.parametrize("columns", [2, 5, 9, 14])
def test_a_table_of_any_shape_shows_every_cell(width: int, columns: int) -> None:
    names = [f"c{place}" for place in range(columns)]
    table = Table(*names, numbers=names[::3], names=names[1::3])
    cells = [
        "9,876,543" if place % 3 == 0 else f"{place}{LONG[:30]}{WIDE[:9]}"
        for place in range(columns)
    ]
    table.add_row(*cells)
    lines = rendered(table, width)
    assert max(map(cell_len, lines)) <= width
    numbers = sum(line.count("9,876,543") for line in lines)
    assert numbers == len(names[::3])
    # Each fold of a text column is a line of its own: all of its signs are there.
    letters = squeezed(lines)
    for sign in set("".join(cells)):
        assert letters.count(sign) >= "".join(cells).count(sign), sign


def test_a_table_on_a_console_of_rich_is_as_safe() -> None:
    output = io.StringIO()
    table = Table("score", "tag", numbers=("score",), title=HOSTILE)
    table.add_row(SCORE, HOSTILE)
    Console(file=output, width=60).print(table)
    assert_harmless(output.getvalue().replace("\n", ""))
    assert SCORE in output.getvalue()


def test_commands_print_by_the_tables_and_texts_of_the_terminal() -> None:
    """Others would pass by what makes data harmless."""
    folder = Path(altsync.cli.__file__).parent
    for file in folder.glob("*.py"):
        if file.name in ("tables.py", "terminal.py"):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.module not in ("rich.table", "rich.text", "rich.markup"), file.name
                names = {name.name for name in node.names}
                assert node.module != "rich.console" or names <= {"Group", "RenderableType"}
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", file.name


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_own_marks_have_a_plain_form_where_the_stream_lacks_them(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other signs are escapes, so that data can be told apart."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    monkeypatch.setattr("sys.stdout", stream)
    findings = [Finding("Neo4j", Health.OK, "a → b …"), Finding("Redis", Health.FAILED, "日")]
    said = rendered(operate.findings_table(findings), 80, encoding)
    assert [" ".join(line.split()) for line in said] == ["+ Neo4j a -> b ...", "x Redis \\u65e5"]


@pytest.mark.parametrize("width", [50, 60, 80])
def test_an_answer_of_doctor_goes_on_below_itself(width: int) -> None:
    """Whatever the names are, all answers begin in one column."""
    findings = [Finding("Neo4j", Health.OK, LONG), Finding("Delivery to x", Health.FAILED, "y z")]
    lines = rendered(operate.findings_table(findings), width)
    begin = lines[-1].index("y z")
    assert len(lines) > 2
    assert all(not line[len(" x  Neo4j") : begin].strip() for line in lines[:-1])
    assert all(not line[:begin].strip() for line in lines[1:-1])


def test_a_word_is_not_broken_where_its_column_can_be_wider() -> None:
    """The parts of a seed at 80 columns."""
    report = SeedReport(None)
    for part in sports.PARTS:
        report.counts(part).processed = 1
    lines = rendered(seed_run.seed_table(report), 80)
    assert any("relationships" in line for line in lines)
    assert max(map(cell_len, lines)) <= 80
