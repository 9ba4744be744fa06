"""SIMILAR_TO alone, from the vectors in PostgreSQL, beside numpy's bare products of a group."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import psycopg

from altsync import log
from altsync.circuit.sinks import register_sinks
from altsync.config import Settings
from altsync.contract import EMBEDDING, SIMILARITY, Topology
from altsync.db import Database
from altsync.delivery import Delivery
from altsync.embedding import Embedded
from altsync.entities import Model
from altsync.policies import delivery_policy
from altsync.similarity.local import Sink
from altsync.similarity.rules import declared_rules
from altsync.sinks.embedding import write as embedding
from altsync.store.vectors import EmbeddingCache
from benchmarks.bench import DIMENSIONS, MODEL, TOPOLOGY, Bench
from benchmarks.loading import seed, seeding
from benchmarks.processes import in_own_process, peak_megabytes
from benchmarks.report import Figure, Gate, Measured
from tests.acceptance import seeds

NUMBER = 11
TITLE = "SIMILAR_TO alone, from the vectors in PostgreSQL"

#: Leagues of a group, and what a full run adds.
SIZES, FULL_SIZES = (600, 4_000, 20_000), (100_000,)

#: Leagues that lie near each other: each has all of the others, and no more, for neighbours.
CLUSTER = 8

#: Length of the difference between a vector and its cluster's centre, of length 1: cosines of 0.9.
SPREAD = 1 / 3

#: Neighbours that numpy chooses, and rows of a block of scores: 200 MB in a group of 100,000.
TOP_K, BLOCK = 10, 500

#: Rows of the largest group that numpy is measured with: all of it would take minutes.
BARE_ROWS = 20_000

#: Megabytes (of 2^20 bytes) that a worker may take beside what it has before its first batch.
MEGABYTES = 300

#: The sinks of this figure: embeddings and their derived sinks.
SINKS = Topology((TOPOLOGY.traits("embedding"), Sink.traits))

NOTES = (
    f"New leagues of one archetype, in random clusters of {CLUSTER} with cosines of about 0.9, "
    f"vectors of {DIMENSIONS:,} numbers. They are in PostgreSQL before the clock starts, without "
    "a call for embeddings. altsync's seconds are those of a worker in a process of its own, with "
    "the settings as they are when nothing is set, from the first claim until none is due: it "
    "reads the vectors, finds every neighbour, writes the relationships and settles.",
    f"numpy: the same vectors in memory, multiplied in blocks of {BLOCK} rows, and the {TOP_K} "
    f"nearest of each; of more than {BARE_ROWS:,} leagues the first {BARE_ROWS:,}, against all.",
    "MB is the most that the worker ever had resident, less what it had before its first claim. "
    "Calls are what it wrote down, and every connection that Python opened: the driver of "
    "PostgreSQL opens its own.",
)

Floats = npt.NDArray[np.float32]


def measure(bench: Bench) -> Figure:
    """Each group by numpy, then by altsync."""
    sizes = (*SIZES, *(FULL_SIZES if bench.full else ()))
    measured = [one for size in sizes for one in (_bare(bench, size), _ours(bench, size))]
    bare, ours = measured[::2], measured[1::2]
    ours = [_beside(*pair) for pair in zip(bare, ours, strict=True)]
    worst = max(one.counts["MB"] for one in ours)
    calls = sum(one.counts["calls"] for one in ours)
    return Figure(
        NUMBER,
        TITLE,
        [one for pair in zip(bare, ours, strict=True) for one in pair],
        [
            Gate("similarity alone, MB of a worker above its start", worst, MEGABYTES, False),
            Gate("similarity alone, remote calls", calls, 0, False),
        ],
        NOTES,
    )


def _beside(bare: Measured, ours: Measured) -> Measured:
    """With its rate by that of numpy."""
    return replace(ours, counts={"× numpy": ours.rate / bare.rate, **ours.counts})


def _bare(bench: Bench, size: int) -> Measured:
    with bench.doing(f"numpy, a group of {size:,}"):
        rows = min(size, BARE_ROWS)
        return Measured(f"numpy, a group of {size:,}", rows, in_own_process(_multiply, size, rows))


def _multiply(size: int, rows: int) -> float:
    """Seconds that the bare products take, with the nearest of each row."""
    vectors = np.concatenate([_cluster(first, CLUSTER) for first in range(0, size, CLUSTER)])
    started = time.perf_counter()
    for start in range(0, rows, BLOCK):
        scores = vectors[start : start + BLOCK] @ vectors.T
        np.argpartition(-scores, TOP_K, axis=1)[:, :TOP_K].sort(axis=1)
    return time.perf_counter() - started


def _ours(bench: Bench, size: int) -> Measured:
    what = f"altsync, a group of {size:,}"
    folder = bench.folder / f"similarity-{size}"
    with bench.database() as url:
        with bench.doing(f"{size:,} vectors in place"):
            _prepare(url, folder, size)
        with bench.doing(what):
            seconds, counts = in_own_process(_search, url)
        with psycopg.connect(url) as conn:
            edges = conn.execute("SELECT count(*) FROM league_relationship").fetchone()
    wanted = size * (CLUSTER - 1)
    assert edges == (wanted,), f"{edges} relationships, not {wanted}"
    return Measured(what, size, seconds, {"SIMILAR_TO": wanted, **counts})


def _prepare(url: str, folder: Path, size: int) -> None:
    """Seed leagues of one group, and keep a vector of each without a call."""
    lines = ({**seeds.league(n), "sport_archetype": seeds.ARCHETYPES[0]} for n in range(size))
    seeds.write(folder, "leagues/generated.jsonl", lines)
    with seeding(url) as conn:
        register_sinks(conn, SINKS, MODEL, DIMENSIONS)
        seed(conn, folder, SINKS)
    database = Database(url)
    sink = embedding.Sink(Clusters(), EmbeddingCache(database))
    numbers = delivery_policy(Settings(), EMBEDDING)
    Delivery(database, sink, SINKS, numbers, worker="bench").drain(float("inf"))
    with database.autocommit() as conn:
        conn.execute("TRUNCATE delivery_batch")  # a search waits for embeddings in numbers
        conn.execute("ANALYZE")
    database.close()


def _search(url: str) -> tuple[float, dict[str, float]]:
    """Seconds until no search is due, megabytes beside those of the start, and calls."""
    log.set_up(level="WARNING", form="json")
    settings, connections = Settings(), 0

    def count(event: str, _arguments: object) -> None:
        nonlocal connections
        connections += event == "socket.connect"

    database = Database(url)
    sink = Sink(database, SINKS, declared_rules)
    with database.autocommit() as conn:
        conn.execute("SELECT 1")
    sys.addaudithook(count)
    before = psutil.Process().memory_info().rss / 2**20
    delivery = Delivery(
        database, sink, SINKS, delivery_policy(settings, SIMILARITY), worker="bench"
    )
    drained = delivery.drain(float("inf"))
    database.close()
    megabytes = peak_megabytes() - before
    return drained.seconds, {"MB": megabytes, "calls": drained.remote_calls + connections}


class Clusters:
    """In the place of OpenAI: a vector near its cluster's centre for each league."""

    def embed(self, texts: Sequence[str], model: Model) -> Embedded:
        """No request."""
        vectors = (_cluster(_number(text), 1)[0].tobytes() for text in texts)
        return Embedded(tuple(vectors), tokens=len(texts))


def _number(text: str) -> int:
    """The number of a generated league, by its text."""
    found = re.search(r"League (\d+)", text)
    assert found is not None, text
    return int(found.group(1))


def _cluster(first: int, count: int) -> Floats:
    """Unit vectors of so many leagues of one cluster, by their numbers."""
    centre = _direction(0, first // CLUSTER)
    vectors = [centre + SPREAD * _direction(1, n) for n in range(first, first + count)]
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / lengths, "<f4")


def _direction(kind: int, number: int) -> Floats:
    """A random unit vector, the same for the same numbers."""
    vector = np.random.default_rng((kind, number)).standard_normal(DIMENSIONS, np.float32)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)
