"""The same leagues with CocoIndex: JSONL, embedded, to Neo4j and a table with pgvector.

Runs in an environment of its own (``benchmarks/cocoindex.lock``), and knows nothing of altsync:
``python cocoindex_leagues.py FOLDER MORE.jsonl`` updates what FOLDER holds, puts MORE.jsonl into
it, updates again, and prints the rows and seconds of this second update as JSON. Servers are
named by NEO4J_*, DATABASE_URL, OPENAI_* and EMBEDDING_MODEL; COCOINDEX_DB is its own state.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import asyncpg
import cocoindex as coco
import openai
from cocoindex.connectors import neo4j, postgres

#: Texts of one request, as many as altsync sends.
BATCH = 500

GRAPH = coco.ContextKey[neo4j.ConnectionFactory]("graph")
TABLES = coco.ContextKey[asyncpg.Pool]("tables")


@dataclass
class League:
    """A node."""

    league_tag: str
    league_name: str
    sport_name: str
    sport_archetype: str
    location: str
    tier: str
    description: str


@dataclass
class SportArchetype:
    """A node that leagues belong to."""

    name: str


@coco.lifespan
async def connect(builder: coco.EnvironmentBuilder) -> AsyncIterator[None]:
    """Clients of the graph and of PostgreSQL."""
    factory = neo4j.ConnectionFactory(
        uri=os.environ["NEO4J_URI"],
        auth=(os.environ["NEO4J_USERNAME"], os.environ["NEO4J_PASSWORD"]),
        database=os.environ["NEO4J_DATABASE"],
    )
    builder.provide(GRAPH, factory)
    async with asyncpg.create_pool(os.environ["DATABASE_URL"]) as pool:
        builder.provide(TABLES, pool)
        yield


@cache
def embedder() -> openai.AsyncOpenAI:
    """The client; batched functions have no context to take it from."""
    return openai.AsyncOpenAI()


@coco.fn.as_async(batching=True, max_batch_size=BATCH)
async def embed(texts: list[str]) -> list[list[float]]:
    """One request for all texts."""
    answer = await embedder().embeddings.create(model=os.environ["EMBEDDING_MODEL"], input=texts)
    return [item.embedding for item in answer.data]


@coco.fn(memo=True)
async def mirror(
    line: dict[str, Any],
    leagues: neo4j.TableTarget[League],
    belongs: neo4j.RelationTarget[Any],
    vectors: postgres.TableTarget[dict[str, Any]],
) -> None:
    """One league: a node, its relationship, its vector."""
    text = f"{line['league_name']}: {line['sport_name']} ({line['sport_archetype']}). "
    vector = await embed(text + line["description"])
    fields = {name: line[name] for name in League.__annotations__ if name != "league_tag"}
    leagues.declare_record(row=League(league_tag=line["id"], **fields))
    belongs.declare_relation(from_id=line["id"], to_id=line["sport_archetype"])
    vectors.declare_row(row={"league_tag": line["id"], "embedding": vector})


@coco.fn
async def mirror_all(folder: Path) -> None:
    """Every league of every file."""
    leagues = await neo4j.mount_table_target(
        GRAPH,
        "League",
        await neo4j.TableSchema.from_class(League, primary_key="league_tag"),
        primary_key="league_tag",
    )
    archetypes = await neo4j.mount_table_target(
        GRAPH,
        "SportArchetype",
        await neo4j.TableSchema.from_class(SportArchetype, primary_key="name"),
        primary_key="name",
    )
    belongs = await neo4j.mount_relation_target(GRAPH, "BELONGS_TO_ARCHETYPE", leagues, archetypes)
    columns = {
        "league_tag": postgres.ColumnDef("text", nullable=False),
        "embedding": postgres.ColumnDef("vector(1536)", encoder=json.dumps),
    }
    schema = postgres.TableSchema(columns, primary_key=["league_tag"])
    vectors = await postgres.mount_table_target(TABLES, "league_vector", schema)
    lines = [json.loads(line) for file in sorted(folder.iterdir()) for line in file.open()]
    for name in sorted({line["sport_archetype"] for line in lines}):
        archetypes.declare_record(row=SportArchetype(name))
    items = ((line["id"], line) for line in lines)
    await coco.mount_each(mirror, items, leagues, belongs, vectors)


async def main() -> None:
    """Two updates; the second one counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("more", type=Path)
    options = parser.parse_args()
    app = coco.App("Leagues", mirror_all, options.folder)
    await app.update()
    shutil.copy(options.more, options.folder / "more.jsonl")
    started = time.perf_counter()
    await app.update()
    seconds = time.perf_counter() - started
    rows = len(options.more.read_text(encoding="utf-8").splitlines())
    print(json.dumps({"rows": rows, "seconds": seconds}))


if __name__ == "__main__":
    asyncio.run(main())
