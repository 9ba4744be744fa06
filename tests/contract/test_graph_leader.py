"""Which member of a cluster is asked: only questions of people may go to a follower."""

from __future__ import annotations

from typing import Any

import neo4j
import pytest

from altsync.sinks.neo4j.write import Sink
from tests import sports
from tests.contract.harness import GraphHarness
from tests.contract.rows import MODEL, league

LEAGUE = sports.LEAGUE


@pytest.fixture
def modes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How each transaction was routed."""
    found: list[str] = []
    for mode in ("execute_read", "execute_write"):
        real = getattr(neo4j.Session, mode)

        def noted(
            self: Any, *args: Any, _real: Any = real, _mode: str = mode, **kwargs: Any
        ) -> Any:
            found.append(_mode)
            return _real(self, *args, **kwargs)

        monkeypatch.setattr(neo4j.Session, mode, noted)
    return found


def test_a_comparison_asks_the_leader(graph: GraphHarness, modes: list[str]) -> None:
    sink = graph.shared()
    assert isinstance(sink, Sink)
    sink.upsert([league()], MODEL)
    sink.count(LEAGUE)
    sink.digest(LEAGUE, 7)
    sink.nodes(LEAGUE, ["formula_1"])
    sink.tombstones(LEAGUE, ["formula_1"])
    sink.find(LEAGUE, "formula_1")
    list(sink.keys_in(LEAGUE, 1, [0]))
    sink.without_key(LEAGUE, 10)
    list(sink.versions(LEAGUE))
    assert set(modes) == {"execute_write"}


def test_a_question_may_go_to_a_follower(graph: GraphHarness, modes: list[str]) -> None:
    sink = graph.shared()
    assert isinstance(sink, Sink)
    sink.query("RETURN 1 AS one")
    assert modes == ["execute_read"]
