"""Every block of the documentation is of a known kind, and well-formed; how they are tried."""

from __future__ import annotations

import ast
import configparser
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.docs_blocks.blocks import PAGES, ROOT, Block, blocks_of, commands_of, unknown_markers
from tests.docs_blocks.loosely import first_missing

#: Tried by tests/acceptance/test_docs_commands.py, unless a marker says why they cannot be.
RUN = {"sh", "console", "python", "sql", "cypher"}

#: Read as what they are, here.
PARSED = {"json", "jsonl", "toml", "yaml", "ini", "diff"}

#: Pictures and output.
SHOWN = {"text", "mermaid"}

#: The mark for more of the same in JSON that is shown.
_MORE = ((r"\{…\}", "{}"), (r"\[…\]", "[]"), (r",\s*…", ""))


def problem_of(block: Block) -> str | None:
    """Return what is wrong with a block, or None."""
    try:
        match block.language:
            case "json" | "jsonl":
                _check_json(block.body)
            case "python":
                ast.parse(block.body)
            case "yaml":
                yaml.safe_load(block.body)
            case "toml":
                tomllib.loads(block.body)
            case "ini":
                configparser.ConfigParser(interpolation=None, strict=False).read_string(block.body)
            case language if language not in RUN | PARSED | SHOWN:
                return f"{block.place}: a block of unknown kind {language!r}"
    except (ValueError, SyntaxError, yaml.YAMLError, configparser.Error) as error:
        return f"{block.place}: {error}"
    return None


def _check_json(body: str) -> None:
    for more, none in _MORE:
        body = re.sub(more, none, body)
    try:
        json.loads(body)
    except ValueError:
        for line in body.splitlines():
            json.loads(line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_are_well_formed(page: Path) -> None:
    """JSON, YAML, units and Python can be read, and no block is of a kind that is not tested."""
    problems = [problem_of(block) for block in blocks_of(page)]

    assert [problem for problem in problems if problem] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_markers_stand_before_blocks(page: Path) -> None:
    """Each excuses one block that could run, with a reason."""
    assert unknown_markers(page) == []
    excused = {block.language for block in blocks_of(page) if block.not_run is not None}
    assert excused <= RUN


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_patches_fit(page: Path) -> None:
    """All patches of a page together can be applied to the files as they are."""
    patch = "".join(block.body for block in blocks_of(page) if block.language == "diff")
    if not patch:
        return
    # Blank lines of context lose their space where editors trim lines.
    patch = re.sub(r"^$(?=\n)", " ", patch, flags=re.MULTILINE)
    command = ["git", "apply", "--check", "-"]
    done = subprocess.run(
        command, cwd=ROOT, input=patch, text=True, capture_output=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_blocks_are_found(tmp_path: Path) -> None:
    """With their markers, their indent taken away, and the output that belongs to them."""
    page = ROOT / "docs" / "page.md"
    text = (
        "```sh\naltsync doctor\n```\n\n```text\nfine\n```\n\nWords.\n\n"
        "1. In a list:\n\n   <!-- not run: needs a key -->\n   ```console\n   $ one\n   1\n"
        "   $ two\n   ```\n\n```sh\nls\n```\n"
    )
    path = tmp_path / "page.md"
    path.write_text(text)
    first, output, third, last = blocks_of(path)

    assert [b.language for b in (first, output, third, last)] == ["sh", "text", "console", "sh"]
    assert (output.follows, third.follows, last.follows) == (True, False, True)
    assert (first.not_run, third.not_run) == (None, "needs a key")
    assert third.body == "$ one\n1\n$ two\n"
    block = Block(page, 1, "console", third.body, None, follows=False)
    assert [(c.code, c.expected) for c in commands_of(block, None)] == [
        ("one", ("1",)),
        ("two", ()),
    ]
    block = Block(page, 1, "sh", first.body, None, follows=False)
    assert [c.expected for c in commands_of(block, output)] == [("fine",)]


@pytest.mark.parametrize(
    ("shown", "output", "missing"),
    [
        (["a  b", "┏━┓", "c"], "x\na b\ny\nc\n", None),
        (["c", "a"], "a\nc\n", "a"),
        (["at 127.0.0.1:29438/altsync"], "at 127.0.0.1:1025/altsync", None),
        (["… wait", "…", "took 3 s"], "all wait\ntook 14 s", None),
        (["at 2026-11-22 17:10:22 (0:00:01)"], "at 2027-01-01 00:00:00 (0:01:00)", None),
        (["score 0.75"], "score 0.76", "score 0.75"),
        (["a.b"], "axb", "a.b"),
    ],
)
def test_output_is_compared_loosely(shown: list[str], output: str, missing: str | None) -> None:
    """Spaces, frames, times and long numbers may differ, and … is anything; nothing else is."""
    assert first_missing(shown, output) == missing
