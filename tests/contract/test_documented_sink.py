"""The sink that the how-to builds, taken from its page."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from altsync.contract import SinkVersion, Written
from altsync.entities import EntityType
from tests import sports
from tests.contract import harness
from tests.contract.harness import Harness
from tests.contract.rows import MAKERS, deleted
from tests.docs_blocks.blocks import ROOT, blocks_of

PAGE = ROOT / "docs" / "howto" / "add-a-sink.md"


def python_block(containing: str) -> str:
    """The Python block of the page that holds a text."""
    (found,) = [b.body for b in blocks_of(PAGE) if b.language == "python" and containing in b.body]
    return found


@pytest.fixture
def documented() -> Iterator[ModuleType]:
    """The page's module, as if it were in ``altsync.sinks``."""
    module = ModuleType("documented_sink")
    sys.modules[module.__name__] = module
    exec(python_block("def open_sink"), module.__dict__)  # noqa: S102  (the page's own code)
    yield module
    del sys.modules[module.__name__]


@pytest.fixture
def files(documented: ModuleType, tmp_path: Path) -> Harness:
    """The page's harness over the page's sink."""
    more = {"files": documented, "json": json, "shutil": shutil, "Path": Path}
    names: dict[str, Any] = {**vars(harness), **more}
    exec(python_block("class FilesHarness"), names)  # noqa: S102  (the page's own code)
    made: Harness = names["FilesHarness"](tmp_path / "files")
    return made


@pytest.mark.parametrize("entity_type", sports.TYPES)
def test_it_writes_reports_and_deletes(files: Harness, entity_type: EntityType) -> None:
    """What was written is stored and listed, once; what was deleted is gone."""
    sink = files.open()
    row = MAKERS[entity_type]("one", 7)
    sink.setup()
    for _ in range(2):
        (outcome,) = sink.upsert([row], files.model).outcomes
        assert isinstance(outcome, Written)
        assert (outcome.id, outcome.version) == (row.id, 7)

    assert files.stored(entity_type)[row.key]["version"] == 7
    assert list(sink.versions(entity_type)) == [SinkVersion(row.key, 7, row.content_hash)]

    sink.delete([deleted(row, 8)])
    assert files.stored(entity_type) == {}
    sink.close()
