"""The reference of the Python API against the program."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from types import ModuleType

import pytest

import altsports.queries
from altsync import queries, saving, waiting
from altsync.app import Application
from altsync.why import history
from tests.docs_blocks.blocks import ROOT, blocks_of
from tests.docs_blocks.signatures import Signature, public_names, signature, signature_of

PAGE = ROOT / "docs" / "reference" / "python.md"


def documented(module: str) -> dict[str, Signature]:
    """Return the signatures in the section of a module, by name."""
    return {name: signature(source) for name, source in _sources(module)}


def _sources(module: str) -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    lines = PAGE.read_text().splitlines()
    begin = lines.index(f"## {module}") + 1
    later = (n for n, line in enumerate(lines[begin:], begin + 1) if re.match("## ", line))
    end = next(later, len(lines))
    for block in blocks_of(PAGE):
        if begin <= block.line <= end and block.not_run == "signatures":
            for source in ast.parse(block.body).body:
                assert isinstance(source, ast.FunctionDef | ast.ClassDef)
                yield source.name, source


@pytest.mark.parametrize(
    "module", [queries, altsports.queries, history], ids=lambda module: str(module.__name__)
)
def test_every_public_name_is_documented_as_it_is(module: ModuleType) -> None:
    """Functions with parameters and answers, classes with fields; all of them, and no others."""
    expected = {name: signature_of(getattr(module, name)) for name in public_names(module)}

    assert documented(module.__name__) == expected


def test_saving_is_documented_as_it_is() -> None:
    """Its functions with their parameters."""
    expected = {name: signature_of(getattr(saving, name)) for name in ("save", "delete")}
    expected["wait"] = signature_of(waiting.wait)
    assert documented("altsync") == expected


def test_the_application_is_documented_as_it_is() -> None:
    """Its public methods and properties."""
    assert documented("altsync.app") == {"Application": signature_of(Application)}
