"""``python -m benchmarks.script LEAGUES.jsonl``: seed one file, print what it took as JSON.

Servers are named as altsync's are: DATABASE_URL, NEO4J_URI and so on. With ``--asleep`` there
are none but PostgreSQL, and every remote call is a sleep. With ``--similarity`` the described pass
over all leagues follows, and is a part of the seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import neo4j
import openai
import pinecone
from sqlalchemy import Engine, create_engine
from sqlmodel import Session, SQLModel

from benchmarks.script.asleep import SleepingGraph, SleepingIndex, sleeping_embed
from benchmarks.script.seeding import Clients, seed_leagues
from benchmarks.script.similarity import relate_leagues

INDEX = "script-leagues"

ARCHETYPES = ("racing", "combat", "team_sport", "precision", "large_field")

#: Statements that the guide runs before the first seed.
INIT_DB = (
    "CREATE CONSTRAINT league_tag_unique IF NOT EXISTS "
    "FOR (l:League) REQUIRE l.league_tag IS UNIQUE",
    "CREATE CONSTRAINT archetype_name_unique IF NOT EXISTS "
    "FOR (a:SportArchetype) REQUIRE a.name IS UNIQUE",
    *(f'MERGE (:SportArchetype {{name: "{name}"}})' for name in ARCHETYPES),
)


def main() -> None:
    """Seed, and print rows and seconds; connecting is not counted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.script", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--asleep", type=float, nargs=3, metavar=("NEO4J", "PINECONE", "OPENAI"))
    parser.add_argument("--similarity", action="store_true")
    options = parser.parse_args()
    if options.similarity and options.asleep:
        parser.error("--similarity asks a real index")
    lines = [json.loads(line) for line in options.file.read_text(encoding="utf-8").splitlines()]
    engine = _engine()
    with Session(engine) as session, _clients(session, options.asleep) as clients:
        started = time.perf_counter()
        count = seed_leagues(lines, clients)
        counts = _related(clients) if options.similarity else {}
        seconds = time.perf_counter() - started
    engine.dispose()
    print(json.dumps({"rows": count, "seconds": seconds, "counts": counts}))


def _related(clients: Clients) -> dict[str, float]:
    """The similarity pass: matches written, and its own seconds."""
    started = time.perf_counter()
    matches = relate_leagues(clients)
    return {"SIMILAR_TO": matches, "seconds of the pass": time.perf_counter() - started}


def _engine() -> Engine:
    url = os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://", 1)
    engine = create_engine(url)
    SQLModel.metadata.create_all(engine)
    return engine


@contextmanager
def _clients(session: Session, asleep: list[float] | None) -> Iterator[Clients]:
    if asleep is not None:
        graph, index, embed = asleep
        sleeping = SleepingGraph(graph).session
        yield Clients(session, sleeping_embed(embed), sleeping, SleepingIndex(index), "asleep")
        return
    model = os.environ["ALTSYNC_EMBEDDING_MODEL"]
    with _driver() as driver, openai.OpenAI() as client:

        def embed_one(text: str) -> list[float]:
            return client.embeddings.create(model=model, input=text).data[0].embedding

        sessions = partial(driver.session, database=os.environ["NEO4J_DATABASE"])
        yield Clients(session, embed_one, sessions, _index(len(embed_one("ready?"))), model)


@contextmanager
def _driver() -> Iterator[neo4j.Driver]:
    auth = (os.environ["NEO4J_USERNAME"], os.environ["NEO4J_PASSWORD"])
    with neo4j.GraphDatabase.driver(os.environ["NEO4J_URI"], auth=auth) as driver:
        for statement in INIT_DB:
            driver.execute_query(statement, database_=os.environ["NEO4J_DATABASE"])
        yield driver


def _index(dimension: int) -> pinecone.Index:
    client = pinecone.Pinecone(
        api_key=os.environ["PINECONE_API_KEY"], host=os.environ["PINECONE_CONTROLLER_HOST"]
    )
    if INDEX not in {index.name for index in client.indexes.list()}:
        client.create_index(
            name=INDEX,
            dimension=dimension,
            metric="cosine",
            spec=pinecone.ServerlessSpec(cloud="aws", region="us-east-1"),
        )
    host = client.indexes.describe(INDEX).host
    return pinecone.Index(host=str(host), api_key=os.environ["PINECONE_API_KEY"])


if __name__ == "__main__":
    main()
