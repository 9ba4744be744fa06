"""The documentation against the code: links, commands, and references that leave nothing out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pydantic import SecretStr
from sqlalchemy.dialects import postgresql
from sqlmodel import SQLModel

from altsync import cli, models
from altsync.catalogue.current import current
from altsync.catalogue.entity import Entity
from altsync.catalogue.parts import Part
from altsync.cli.terminal import Exit
from altsync.config import Settings
from tests import sports

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"

#: Folders of the checkout that may hold pages; others hold data or other people's pages.
FOLDERS = ("docs", "src", "workers", "migrations", "seeds", "tests", "benchmarks")

PAGES = sorted(
    [*ROOT.glob("*.md"), *(page for name in FOLDERS for page in ROOT.glob(f"{name}/**/*.md"))]
)

#: Pages that promise commands to users.
USER_PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_HEREDOC = re.compile(r"<<'(\w+)'\n.*?^\1$", re.MULTILINE | re.DOTALL)

#: A command at a place where a shell would run one, with its arguments.
_COMMAND = re.compile(
    r"(?:^|[;&|(]|\$ |^ExecStart=)\s*(?:[A-Z_]+=\S+ +)*(?:docker compose exec \w+ )?(?:\S*/bin/)?"
    r"(altsync|make|python -m altsync\.seed)(?![\w.:/-])((?: +[^\s;&|#()]+)*)",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Command:
    """A command of ``altsync`` by its path, such as ``local up``."""

    options: frozenset[str]
    arguments: frozenset[str]
    is_group: bool


@cache
def commands() -> dict[tuple[str, ...], Command]:
    """Every command and group that the program has; the program itself is ``()``."""
    return dict(_walk(typer.main.get_command(cli.app), ()))


def _walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Command]]:
    members: dict[str, Any] = getattr(command, "commands", {})
    options = {name for p in command.params if p.param_type_name == "option" for name in p.opts}
    arguments = {p.name.upper() for p in command.params if p.param_type_name == "argument"}
    yield path, Command(frozenset(options), frozenset(arguments), bool(members))
    for name, member in members.items():
        yield from _walk(member, (*path, name))


@cache
def make_targets() -> frozenset[str]:
    """The targets of the Makefile."""
    found = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return frozenset(found)


def commands_in(text: str) -> Iterator[tuple[str, list[str]]]:
    """(program, arguments) of every command in shell blocks and in inline code."""
    for _indent, language, body in _FENCE.findall(text):
        match language:
            case "sh":
                code = _HEREDOC.sub("", body)
            case "console":
                code = "\n".join(li for li in body.splitlines() if li.lstrip().startswith("$ "))
            case "ini":
                code = body
            case _:
                continue
        yield from ((program, words.split()) for program, words in _COMMAND.findall(code))
    for span in _INLINE.findall(_FENCE.sub("", text)):
        found = _COMMAND.match(span)
        if found:
            yield found[1], found[2].split()


def problem_of(program: str, words: list[str]) -> str | None:
    """Return what is wrong with a command as a reader would type it, or None."""
    if program == "make":
        unknown = [w for w in words if "=" not in w and w not in make_targets()]
        return f"no make target {unknown[0]}" if unknown else None
    path: tuple[str, ...] = ("seed",) if program.startswith("python") else ()
    for word in words:
        command = commands()[path]
        if word.startswith("-"):
            if word.partition("=")[0] not in {*command.options, "--help"}:
                return f"altsync {' '.join(path)} has no {word}"
        elif command.is_group:
            path = (*path, word)
            if path not in commands():
                return f"no command altsync {' '.join(path)}"
    return None


def sections(page: Path) -> dict[str, str]:
    """The text below each heading, up to the next one of any level."""
    parts = re.split(r"^#{2,6} (.+)$", _FENCE.sub("", page.read_text()), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(text: str) -> list[list[str]]:
    """Cells of those table rows whose first cell is code, without the backticks there."""
    found = []
    for line in re.findall(r"^\| `.+\|$", text, re.MULTILINE):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        found.append([cells[0].strip("`"), *cells[1:]])
    return found


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings make, by GitHub's rule."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", page.read_text())):
        plain = _LINK.sub("", heading.replace("`", "")).strip().lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file that is there, and every anchor a heading."""
    dead = []
    text = _INLINE.sub("", _FENCE.sub("", page.read_text()))
    for link in _LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)

    assert dead == []


@pytest.mark.parametrize("page", USER_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    """Every altsync and make command on the page exists, with its options."""
    problems = [problem_of(*command) for command in commands_in(page.read_text())]

    assert [problem for problem in problems if problem] == []


def test_commands_are_found_where_they_stand() -> None:
    """The search sees prompts, prefixes and substitutions, and no output or data."""
    text = (
        "`altsync local up`, `make demo`\n"
        "```sh\nA=1 .venv/bin/altsync seed --all; cat <<'END'\naltsync nothing\nEND\n"
        "env $(altsync local env) python x.py\ndocker compose exec relay altsync status\n```\n"
        "```console\n$ altsync doctor --json\naltsync: output\n```\n"
        "```text\naltsync nothing\n```\n"
    )

    assert [(program, " ".join(words)) for program, words in commands_in(text)] == [
        ("altsync", "seed --all"),
        ("altsync", "local env"),
        ("altsync", "status"),
        ("altsync", "doctor --json"),
        ("altsync", "local up"),
        ("make", "demo"),
    ]
    assert problem_of("altsync", ["seed", "--nothing"]) == "altsync seed has no --nothing"
    assert problem_of("altsync", ["local", "nothing"]) == "no command altsync local nothing"
    assert problem_of("make", ["nothing", "SECONDS=1"]) == "no make target nothing"


def test_contributing_names_make_targets_that_exist() -> None:
    """And all of them, but for help."""
    found = list(commands_in((ROOT / "CONTRIBUTING.md").read_text()))
    named = {word for program, words in found if program == "make" for word in words}

    assert named == make_targets() - {"help"}


def test_command_reference_is_complete() -> None:
    """Every command with every option and argument, and nothing else."""
    documented = {}
    for heading, text in sections(REFERENCE / "cli.md").items():
        if heading.split()[0] == "altsync":
            names = {cells[0].split()[0] for cells in rows(text)}
            documented[tuple(heading.split()[1:])] = names

    assert documented == {path: {*c.options, *c.arguments} for path, c in commands().items()}


def test_command_reference_has_every_exit_code() -> None:
    """Numbers and names, as the program has them."""
    text = sections(REFERENCE / "cli.md")["Exit codes"]
    documented = re.findall(r"^\| (\d+) \| (\w+) \|", text, re.MULTILINE)

    assert [(int(code), name) for code, name in documented] == [(e.value, e.name) for e in Exit]


def test_settings_reference_is_complete() -> None:
    """Every setting with its default, and nothing else."""
    documented = {cells[0]: cells[1] for cells in rows((REFERENCE / "settings.md").read_text())}
    for name, field in Settings.model_fields.items():
        match field.default:
            case None:
                assert documented.pop(name.upper()) == "none", name
            case SecretStr():
                assert documented.pop(name.upper()) == "empty", name
            case default:
                text = documented.pop(name.upper()).strip("`")
                assert getattr(Settings.model_validate({name: text}), name) == default, name

    assert documented == {}


def test_tables_reference_is_complete() -> None:
    """Every table and column with type and null, and nothing else."""
    found = sections(REFERENCE / "tables.md")
    common = _columns(found.pop("Columns of every entity"))
    documented = {name: _columns(text) for name, text in found.items() if rows(text)}
    expected = {}
    # Other tests of the same process may have declared catalogues of their own.
    engine = {str(getattr(one, "__tablename__", "")) for one in vars(models).values()}
    shown = engine | {table.name for table in current().tables}
    for table in SQLModel.metadata.sorted_tables:
        if table.name not in shown:
            continue
        mirrored = set(Entity.model_fields) <= set(table.columns.keys())
        documented[table.name] = (common if mirrored else set()) | documented[table.name]
        expected[table.name] = {
            (column.name, _type_of(column), "yes" if column.nullable else "no")
            for column in table.columns
        }

    assert documented == expected


def _columns(text: str) -> set[tuple[str, str, str]]:
    return {(cells[0], cells[1], cells[2]) for cells in rows(text)}


def _type_of(column: Any) -> str:
    text: str = column.type.compile(postgresql.dialect()).lower()  # type: ignore[no-untyped-call]
    return text.replace("timestamp with time zone", "timestamptz")


@pytest.mark.parametrize("part", sports.PARTS)
def test_seed_reference_is_complete(part: Part) -> None:
    """Every field of a part, and whether a line must have it."""
    text = sections(REFERENCE / "seeds.md")[part]
    documented = {cells[0]: cells[1] for cells in rows(text)}
    fields = part.line.model_fields
    expected = {name: "yes" if field.is_required() else "no" for name, field in fields.items()}
    if part is sports.EXAMPLES:
        expected["category"] = "no"  # the reader fills it in from the file's name

    assert documented == expected


def test_every_page_is_listed() -> None:
    """docs/README.md leads to all other pages."""
    links = _LINK.findall((DOCS / "README.md").read_text())
    listed = {(DOCS / link).resolve() for link in links}

    assert set(DOCS.rglob("*.md")) - {DOCS / "README.md"} == listed


def test_decisions_say_when_to_look_at_them_again() -> None:
    """Each ends with "Revisit when …"."""
    for page in sorted((DOCS / "decisions").glob("*.md")):
        last = page.read_text().strip().splitlines()[-1]
        assert last.startswith("Revisit when "), page.name
