"""The path of a row is the one that the architecture page shows."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from inspect import unwrap
from operator import attrgetter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from altsync.db import Database
from altsync.protocols import Sink
from altsync.relay import Relay, RelayPolicy
from tests.conftest import TOPOLOGY
from tests.docs_blocks.blocks import ROOT
from tests.integration.database_fixture import DatabaseFixture, delivery, embedding_sink
from tests.integration.fakes import FakeEmbedder, FakeGraph, FakeIndex
from tests.integration.seeds import league_line, seed, write

PAGE = ROOT / "docs" / "architecture.md"

#: A row of the page's table: number, function, file.
STOP = re.compile(r"^\| (\d+) \| `([\w.]+)` \| `src/([\w/]+)\.py` \|", re.MULTILINE)

STOPS = STOP.findall(PAGE.read_text())


def code_of(name: str, module: str) -> CodeType:
    """Import the function of a stop."""
    function = attrgetter(name)(import_module(module.replace("/", ".")))
    code: CodeType = unwrap(function).__code__
    return code


@contextmanager
def traced(codes: dict[CodeType, str]) -> Iterator[list[str]]:
    """Record the calls of functions, in this thread and in new ones."""
    calls: list[str] = []

    def profile(frame: FrameType, event: str, _argument: Any) -> None:
        if event == "call" and frame.f_code in codes:
            calls.append(codes[frame.f_code])

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def test_the_page_shows_ten_stops() -> None:
    assert [int(number) for number, _name, _module in STOPS] == list(range(1, 11))


def test_a_row_passes_the_stops_in_this_order(
    pg: DatabaseFixture, database: Database, tmp_path: Path
) -> None:
    """The first passage of each: later sinks repeat the second half."""
    write(tmp_path, "leagues.jsonl", [league_line("nfl")])
    codes = {code_of(name, module): f"{module}.{name}" for _number, name, module in STOPS}
    sinks: list[Sink] = [embedding_sink(database, FakeEmbedder()), FakeGraph(), FakeIndex()]
    woken: list[str] = []
    relay = Relay(database, lambda: pg.conn, woken.append, TOPOLOGY, TOPOLOGY.names, RelayPolicy())
    with traced(codes) as calls:
        seed(pg, tmp_path)
        relay.poll(TOPOLOGY.names)
        for sink in sinks:
            delivery(database, sink).deliver_batch()
    assert list(dict.fromkeys(calls)) == list(codes.values())
    assert set(woken) == {"embedding", "neo4j"}
    columns = ", ".join(f"{name}_sync_status" for name in TOPOLOGY.names)
    assert pg.conn.execute(f"SELECT {columns} FROM league").fetchall() == [("synced",) * 3]
