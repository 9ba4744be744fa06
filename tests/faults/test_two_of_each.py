"""Two relays, two workers and two seeders of the same files at once: the result is that of one."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.acceptance.oracle import assert_agreement
from tests.acceptance.seeds import write_leagues
from tests.acceptance.stack import SINKS, Stack

LEAGUES = 3000


@pytest.mark.slow
def test_two_of_each_do_the_work_of_one(stack: Stack, folder: Path) -> None:
    """Every league is created, embedded, claimed and written once, by either process."""
    write_leagues(folder, LEAGUES)
    for _ in range(2):
        stack.start_relay()
        stack.start_worker(size=3)
    seed = partial(stack.seed, "--leagues", "--dir", str(folder), "--json")
    reports = [run.json for run in stack.together(seed, seed)]
    stack.wait_until_recorded()

    assert sum(report["created"] for report in reports) == LEAGUES
    assert sum(report["unchanged"] for report in reports) == LEAGUES
    assert [report["rejected"] for report in reports] == [0, 0]
    assert_agreement(stack)
    stats = stack.vectors.stats()
    assert stats.records["openai.embeddings"] == LEAGUES
    assert stats.records["pinecone.upsert"] == LEAGUES
    assert stack.number("SELECT sum(claimed) FROM delivery_batch") == LEAGUES * len(SINKS)
    assert [process.alive for process in stack.running] == [True] * 4
