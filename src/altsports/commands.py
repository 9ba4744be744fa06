"""List the commands of the sports catalogue without importing them."""

from __future__ import annotations

from altsync.cli.lazy import Lazy

#: Commands in the order of the help, with the first line of the docstring of each.
LINES = {
    "search": "Find leagues by meaning: Pinecone finds them, PostgreSQL checks and completes them.",
    "similar": "Find leagues like one: neighbours in Neo4j and Pinecone, with the path to each.",
    "explore": "Find leagues by meaning, each with its neighbourhood in Neo4j.",
    "graph": "Query the graph alone.",
    "archetypes": "List archetypes by their leagues in Neo4j, with those leagues from PostgreSQL.",
    "examples": "Find few-shot examples by meaning, of one category or of all.",
    "leagues": "List leagues by their properties in PostgreSQL.",
    "league": "Show one league with its documents, contracts and relationships, from PostgreSQL.",
}

COMMANDS = {name: Lazy("altsports.cli.queries", name, line) for name, line in LINES.items()}
