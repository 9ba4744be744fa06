"""A worker is killed around a remote call: the next one finishes what it had, and nothing more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from altsync.local.vectors.faults import FaultKind, FaultRule
from tests.acceptance.oracle import assert_agreement
from tests.acceptance.seeds import write_leagues
from tests.acceptance.stack import SINKS, Stack
from tests.faults.proxies import graph_behind
from tests.proxy import Proxy

pytestmark = pytest.mark.slow

#: As few as the graph writes by one statement.
LEAGUES = 40

#: A lease that is soon over, and calls long enough that the kill always comes before their end.
#: Without relationships, the graph's write does not wait for the embedder.
SETTINGS = {
    "ALTSYNC_LEASE_SECONDS": "5",
    "ALTSYNC_SINK_TIMEOUT_SECONDS": "4.5",
    "ALTSYNC_SIMILARITY": "off",
}

#: Seconds for which a call is held up: longer than its worker lives.
HELD_UP = 30.0

#: Text of the only statement that writes leagues without relationships, and commits itself.
WRITE = b"MERGE (n:League"

#: The vectors server's names for the writes of a sink.
WRITES = {"embedding": "openai.embeddings", "pinecone": "pinecone.upsert"}


@pytest.fixture
def graph_relay(stack: Stack) -> Iterator[tuple[Proxy, Mapping[str, str]]]:
    """A proxy in front of the graph, and the settings that lead through it."""
    with graph_behind(stack) as found:
        yield found


@contextmanager
def held_up(stack: Stack, sink: str, relay: Proxy, *, applied: bool) -> Iterator[None]:
    """The next write to a sink hangs, before or after it is applied; at the end it is let go."""
    if sink == "neo4j":
        relay.delay = 0.0 if applied else HELD_UP
        relay.stalls_answer_to = WRITE if applied else None
    else:
        kind: FaultKind = "timeout_after_apply" if applied else "hang"
        stack.vectors.set_faults([FaultRule(WRITES[sink], kind, seconds=HELD_UP)])
    yield
    relay.delay, relay.stalled = 0.0, False
    stack.vectors.clear()


@pytest.mark.parametrize("applied", [False, True], ids=["before the write", "before the settle"])
@pytest.mark.parametrize("sink", SINKS)
def test_a_worker_killed_around_a_remote_call(
    stack: Stack,
    folder: Path,
    graph_relay: tuple[Proxy, Mapping[str, str]],
    sink: str,
    applied: bool,
) -> None:
    """kill -9: claimed again when the lease ends, and written (again) to the same end."""
    relay, through = graph_relay
    settings = {**SETTINGS, **through}
    others = [name for name in SINKS if name != sink]
    stack.start_relay(settings)
    victim = stack.start_worker(sink, settings=settings)
    # Connected, set up and warm: what follows meets the write and nothing before it.
    stack.start_worker(*others, settings=SETTINGS)
    env = {**stack.env, **SETTINGS}
    stack.seed("--leagues", "--dir", str(write_leagues(folder, 1)), "--wait", env=env)
    stack.vectors.reset_stats()
    with held_up(stack, sink, relay, applied=applied):
        stack.seed("--leagues", "--dir", str(write_leagues(folder, LEAGUES, first=1)), env=env)
        stack.until(lambda: reached(stack, sink, applied=applied), "the write under way")
        held = stack.leases(sink)
        victim.kill()

    assert held == {victim.pid: LEAGUES}
    stack.start_worker(sink, settings=SETTINGS)
    stack.wait_until_drained()
    assert stack.number("SELECT count(*) FROM league") == LEAGUES + 1
    assert_agreement(stack)
    taken = stack.rows("SELECT DISTINCT attempts FROM sync_operation WHERE sink = %s", sink)
    assert max(row[0] for row in taken) == 2
    if sink == "embedding":
        paid = stack.vectors.stats().records["openai.embeddings"]
        assert paid == (2 * LEAGUES if applied else LEAGUES)


def reached(stack: Stack, sink: str, *, applied: bool) -> bool:
    """Return whether the victim has claimed everything, and the write is where it is to be."""
    if sum(stack.leases(sink).values()) < LEAGUES:
        return False
    if sink == "neo4j":
        nodes = stack.cypher("MATCH (l:League) RETURN count(l) AS count")[0]["count"]
        return not applied or nodes == LEAGUES + 1
    return sum(stack.vectors.stats().injected.values()) > 0
