"""Remote calls, counted by those who answer them: as few as the limits allow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from altsync.embedding import MAX_REQUEST_TOKENS
from altsync.seed.loader import BATCH as SEEDER_BATCH
from altsync.sinks.pinecone.write import MAX_BYTES
from benchmarks.bench import Bench
from benchmarks.loading import write_leagues
from benchmarks.report import Figure, Gate, Measured
from tests.acceptance import seeds
from tests.acceptance.stack import SINKS, Stack

NUMBER = 6
TITLE = "Remote calls"

LEAGUES = 5_000

#: Operations per batch: what ``ALTSYNC_BATCH_SIZE`` is when nothing else is set.
BATCH = 500

#: One in a hundred, all in the seeder's first transaction: workers that are awake see them at once.
EDITED = frozenset(range(0, SEEDER_BATCH, SEEDER_BATCH * 100 // LEAGUES))

#: Leagues whose texts are long enough that tokens cut the requests, not their number.
LONG = 200

#: Bytes of such a description.
LONG_TEXT = 6_000

#: Leagues whose neighbours are searched.
ASKED = 500

#: Similarity as it is when nothing is set.
SIMILARITY = {"ALTSYNC_SIMILARITY": "local"}

#: The counters of the local server beside what the workers wrote down.
ANSWERED = {"embedding": "openai.embeddings", "pinecone": "pinecone.upsert"}


def measure(bench: Bench) -> Figure:
    """Four seeding runs on the embedded stack, each drained before the next, and similarity."""
    stack = bench.stack
    stack.reset()
    folder = bench.folder / "remote-calls"
    write_leagues(folder, LEAGUES)
    with bench.doing(f"{LEAGUES:,} new leagues"):
        stack.seed("--leagues", "--dir", str(folder))
        stack.start_relay()
        for sink in SINKS:
            stack.start_worker(sink)
        new = _drained(stack, "new leagues", LEAGUES, {})
    with bench.doing("the same once more"):
        before = _calls(stack)
        stack.seed("--leagues", "--dir", str(folder))
        unchanged = _drained(stack, "unchanged leagues", LEAGUES, before)
    with bench.doing("1 % edited"):
        edited = _edited(stack, folder)
    with bench.doing(f"{LONG} leagues of {LONG_TEXT:,} bytes"):
        long = _long(stack, folder)
    stack.kill_all()
    with bench.doing(f"{ASKED} new leagues, similarity on"):
        asked = _asked(stack, bench.folder / "similarity")
    stack.kill_all()
    vector_bytes = new.counts["bytes a vector"]
    return Figure(
        NUMBER,
        TITLE,
        [new, unchanged, edited, long, asked],
        [
            *_gates(new, _least(LEAGUES, vector_bytes)),
            *_gates(unchanged, dict.fromkeys(SINKS, 0)),
            *_gates(edited, _least(len(EDITED), vector_bytes)),
            *_gates(long, {"embedding": _requests(LONG), "neo4j": 1}),
            *_gates(asked, {"similarity": 0}),
        ],
        [
            f"The least: Neo4j ⌈rows/{BATCH}⌉; OpenAI ⌈texts/{BATCH}⌉, and no request above "
            f"{MAX_REQUEST_TOKENS:,} tokens by their upper bound; Pinecone, for each batch, "
            f"⌈bytes/{MAX_BYTES:,}⌉. Calls to OpenAI and Pinecone are those that the server "
            f"counted, and are the same as the workers wrote down.",
            "Similarity is off but in the last line: it compares the vectors in PostgreSQL, and "
            "calls nothing.",
        ],
    )


def _edited(stack: Stack, folder: Path) -> Measured:
    before = _calls(stack)
    write_leagues(folder, LEAGUES, EDITED)
    stack.seed("--leagues", "--dir", str(folder))
    return _drained(stack, "leagues of which 1 % are edited", LEAGUES, before)


def _asked(stack: Stack, folder: Path) -> Measured:
    """New leagues with similarity on, as it is when nothing is set."""
    stack.reset()
    write_leagues(folder, ASKED)
    env = {**stack.env, **SIMILARITY}
    stack.seed("--leagues", "--dir", str(folder), env=env)
    stack.start_relay(SIMILARITY)
    stack.start_worker(size=4, settings=SIMILARITY)
    stack.wait_until_recorded()
    calls = {sink: stack.remote_calls(sink) for sink in (*SINKS, "similarity")}
    return Measured("new leagues, similarity on", ASKED, 0, calls)


def _long(stack: Stack, folder: Path) -> Measured:
    before = _calls(stack)
    seeds.write(
        folder,
        "leagues/long.jsonl",
        ({**seeds.league(LEAGUES + n), "description": _long_text(n)} for n in range(LONG)),
    )
    stack.seed("--leagues", "--dir", str(folder))
    return _drained(stack, "new leagues with long texts", LONG, before)


def _long_text(number: int) -> str:
    return f"{number:06} ".ljust(LONG_TEXT, "x")


def _drained(stack: Stack, what: str, rows: int, before: Mapping[str, int]) -> Measured:
    """The remote calls until no operation was live."""
    stack.wait_until_recorded()
    after = _calls(stack)
    stats = stack.vectors.stats()
    for sink, counter in ANSWERED.items():
        answered = stats.requests[counter]
        assert answered == after[sink], f"{sink}: {answered} answered, {after[sink]} written down"
    calls = {sink: after[sink] - before.get(sink, 0) for sink in SINKS}
    per_vector = stats.bytes["pinecone.upsert"] / stats.records["pinecone.upsert"]
    return Measured(what, rows, 0, {**calls, "bytes a vector": round(per_vector)})


def _calls(stack: Stack) -> dict[str, int]:
    return {sink: stack.remote_calls(sink) for sink in SINKS}


def _least(changed: int, vector_bytes: float) -> dict[str, int]:
    """The fewest calls that so many changed leagues take, batch by batch."""
    batches = [min(BATCH, changed - start) for start in range(0, changed, BATCH)]
    upserts = sum(math.ceil(size * vector_bytes / MAX_BYTES) for size in batches)
    return {"embedding": len(batches), "neo4j": len(batches), "pinecone": upserts}


def _requests(texts: int) -> int:
    """Requests for texts that are all somewhat longer than ``LONG_TEXT``."""
    return math.ceil(texts / (MAX_REQUEST_TOKENS // (LONG_TEXT + 100)))


def _gates(measured: Measured, least: Mapping[str, int]) -> list[Gate]:
    return [
        Gate(
            f"{measured.what}: calls of {sink} beyond the least, {wanted}",
            abs(measured.counts[sink] - wanted),
            0,
            at_least=False,
        )
        for sink, wanted in least.items()
    ]
