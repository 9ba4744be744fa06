"""Questions about the entities of any catalogue: search, similar, explore, graph."""

from __future__ import annotations

from typing import Annotated

import typer

from altsync.cli.asking import (
    EntityName,
    Limit,
    Question,
    TopK,
    Where,
    asked_stores,
    read_where,
    say_unavailable,
    show,
)
from altsync.cli.common import Json
from altsync.cli.terminal import Exit

Key = Annotated[str, typer.Argument(help="The entity's key, as every store has it.")]


def search(
    text: Question,
    entity: EntityName = None,
    where: Where = None,
    top_k: TopK = 10,
    as_json: Json = False,
) -> None:
    """Find entities by meaning: the index finds them, PostgreSQL checks and completes."""
    wanted = read_where(where)
    with asked_stores() as stores:
        from altsync import queries
        from altsync.cli import views

        kind = queries.entity_named(entity) if entity else queries.only_entity()
        found = queries.search(stores, kind, text, wanted, top_k=top_k)
        show(found, views.found_table, as_json)


def similar(
    key: Key,
    entity: EntityName = None,
    where: Where = None,
    top_k: TopK = 20,
    as_json: Json = False,
) -> None:
    """Find entities like one: neighbours in graph and index, with the path to each."""
    wanted = read_where(where)
    with asked_stores() as stores:
        from altsync import queries
        from altsync.cli import views

        kind = queries.entity_named(entity) if entity else queries.only_entity("similar")
        found = queries.similar(stores, kind, key, wanted, top_k=top_k)
        say_unavailable(found.unavailable)
        if len(found.unavailable) == 2:
            raise typer.Exit(Exit.ERROR)
        show(found.results, views.similar_table, as_json)


def explore(
    text: Question,
    entity: EntityName = None,
    where: Where = None,
    top_k: TopK = 10,
    as_json: Json = False,
) -> None:
    """Find entities by meaning, each with its neighbourhood in the graph."""
    wanted = read_where(where)
    with asked_stores() as stores:
        from altsync import queries
        from altsync.cli import views

        kind = queries.entity_named(entity) if entity else queries.only_entity("edges")
        found = queries.explore(stores, kind, text, wanted, top_k=top_k)
        say_unavailable(found.unavailable)
        show(found.results, views.explored_view, as_json)


def graph(key: Key, entity: EntityName = None, limit: Limit = 100, as_json: Json = False) -> None:
    """Show what the graph has around one entity."""
    with asked_stores() as stores:
        from altsync import queries
        from altsync.cli import views

        kind = queries.entity_named(entity) if entity else queries.only_entity("edges")
        show(queries.neighbours(stores, kind, key, limit=limit), views.links_table, as_json)
