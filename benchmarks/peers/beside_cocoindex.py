"""altsync and CocoIndex on the same leagues, the same Neo4j, PostgreSQL and embedder."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.report import Gate, Measured, Part
from benchmarks.whole import ROOT, Whole, every, whole
from tests.acceptance.seeds import league, write
from tests.real_neo4j.server import start_real_neo4j, why_unavailable

#: CocoIndex' own environment, made from its own lock.
PYTHON = ROOT / ".venv-cocoindex" / "bin" / "python"

PROGRAM = Path(__file__).parent / "cocoindex_leagues.py"

#: Leagues that it has before the clock starts, so that its tables and connections are there.
FIRST = 50

#: Leagues by the milliseconds of each call, some seconds' work, and altsync's rate by its own.
ROWS = {0: 1000, 20: 200}
TIMES = {0: 4.0, 20: 25.0}

#: Leagues that altsync delivers.
ALTSYNC_ROWS = 4000

NOTES = (
    "CocoIndex: one process, as its documentation has it: each league a component, texts embedded "
    "up to 500 in a request, nodes and relationships to Neo4j, vectors to a pgvector table. It "
    "has no connector for Pinecone; PostgreSQL is as near for it as for altsync.",
    "altsync beside it: one worker, the same Neo4j 5.26, and vectors to PostgreSQL and to the "
    "local vectors server.",
)


def beside_cocoindex(bench: Bench) -> Part:
    """The same on both; where it cannot be measured its gates are missed, and a note says why."""
    missing = _missing()
    if missing:
        unknown = [Gate(_named(milliseconds), 0, times) for milliseconds, times in TIMES.items()]
        return Part([], unknown, [f"CocoIndex was not measured: {missing}."])
    measured: list[Measured] = []
    gates: list[Gate] = []
    folder = bench.folder / "beside"
    with _real_neo4j(folder / "neo4j") as graph, whole(folder / "stack", graph) as stack:
        with bench.doing("CocoIndex"):
            peers = {milliseconds: _cocoindex(stack, milliseconds) for milliseconds in ROWS}
        stack.slow(every(0))
        with bench.doing("altsync on Neo4j"), stack.crew(1):
            for milliseconds, peer in peers.items():
                stack.slow(every(milliseconds / 1000))
                what = f"altsync, 1 worker, Neo4j, {every(milliseconds / 1000)}"
                ours = Measured(what, ALTSYNC_ROWS, stack.deliver(ALTSYNC_ROWS))
                measured += [peer, ours]
                ratio = ours.rate / peer.rate
                gates.append(Gate(_named(milliseconds), ratio, TIMES[milliseconds]))
            stack.assert_all_there()
    return Part(measured, gates, NOTES)


def _named(milliseconds: int) -> str:
    return f"times CocoIndex' rate, {every(milliseconds / 1000)}"


def _missing() -> str | None:
    if not PYTHON.exists():
        return f"there is no {PYTHON.relative_to(ROOT)}, which make bench makes"
    return why_unavailable()


@contextmanager
def _real_neo4j(folder: Path) -> Iterator[Mapping[str, str]]:
    """The variables of a running Neo4j."""
    with start_real_neo4j(folder) as server:
        user, password = server.auth
        yield {
            "NEO4J_URI": server.uri,
            "NEO4J_USERNAME": user,
            "NEO4J_PASSWORD": password,
            "NEO4J_DATABASE": server.database,
        }


def _cocoindex(stack: Whole, milliseconds: int) -> Measured:
    """Its second update, on state and tables of its own."""
    latency = every(milliseconds / 1000)
    stack.slow(latency)
    stack.stack.cypher("MATCH (n) DETACH DELETE n")
    folder = stack.stack.folders.work / f"cocoindex-{milliseconds}"
    rows = ROWS[milliseconds]
    write(folder / "leagues", "first.jsonl", (league(n) for n in range(FIRST)))
    write(folder, "more.jsonl", (league(n) for n in range(FIRST, FIRST + rows)))
    command = [PYTHON, PROGRAM, folder / "leagues", folder / "more.jsonl"]
    with stack.database() as url:
        env = {
            **stack.stack.bare_env,
            **stack.env,
            "DATABASE_URL": url,
            "EMBEDDING_MODEL": stack.env["ALTSYNC_EMBEDDING_MODEL"],
            "COCOINDEX_DB": str(folder / "state"),
            "COCOINDEX_DISABLE_USAGE_TRACKING": "1",
        }
        done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE)
    answer = json.loads(done.stdout)
    found = stack.stack.cypher("MATCH (:League)-[r:BELONGS_TO_ARCHETYPE]->() RETURN count(r)")
    assert found[0][0] == FIRST + answer["rows"]
    return Measured(f"CocoIndex, Neo4j, {latency}", answer["rows"], answer["seconds"])
