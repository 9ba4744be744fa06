"""Questions to the stores: search, similar, archetypes, explore, examples, leagues, graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from altsync.cli import queries as generic
from altsync.cli import terminal
from altsync.cli.common import Json, application
from altsync.cli.once import App
from altsync.cli.queries import (
    EntityName,
    Limit,
    Question,
    TopK,
    VersionsToo,
    Where,
    open_stores,
    print_unavailable,
    show,
)
from altsync.cli.terminal import Exit, answers, notes

if TYPE_CHECKING:
    from altsports.queries import LeagueFilter
    from altsync.db import Conn
    from altsync.queries import Stores


class _Graph(TyperGroup):
    """The group ``graph``. An option in place of a command means the command ``around``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put ``around`` before an option, then parse as Typer does."""
        if args and args[0].partition("=")[0] in ("--entity", "--limit", "--json"):
            args = ["around", *args]
        return super().parse_args(ctx, args)


graph = App(cls=_Graph, no_args_is_help=True, help="Query the graph alone.")
graph.command("around")(generic.graph)


@graph.callback()
def _of_any_entity(
    entity: Annotated[
        str | None, typer.Option("--entity", help="As around: graph --entity TYPE KEY.")
    ] = None,
) -> None:
    pass


Tag = Annotated[str, typer.Argument(help="The league's tag, as in ufc.")]
Status = Annotated[str | None, typer.Option("--status", help="Only leagues with this status.")]
Archetype = Annotated[
    str | None, typer.Option("--archetype", help="Only leagues of this archetype.")
]
Tier = Annotated[str | None, typer.Option("--tier", help="Only leagues of this tier.")]
ContractStatus = Annotated[
    str | None,
    typer.Option("--contract-status", help="Only leagues with a contract of this status."),
]


def search(
    text: Question,
    status: Status = None,
    archetype: Archetype = None,
    tier: Tier = None,
    contract_status: ContractStatus = None,
    entity: EntityName = None,
    where: Where = None,
    top_k: TopK = 50,
    versions: VersionsToo = False,
    as_json: Json = False,
) -> None:
    """Find leagues by meaning: Pinecone finds them, PostgreSQL checks and completes them."""
    if entity is not None or where or versions:
        _refuse(status=status, archetype=archetype, tier=tier, contract_status=contract_status)
        generic.search(text, entity or LEAGUE, where, top_k, versions, as_json)
        return
    with open_stores() as stores:
        from altsports import queries
        from altsports.cli import views

        wanted = _filter(status, archetype, tier, contract_status)
        found = queries.search(stores, text, wanted, top_k=top_k)
        _print_unmatched(found, stores, wanted)
        show(found, views.found_table, as_json, views.as_json)


def similar(
    tag: Tag,
    top_k: TopK = 20,
    same_archetype: Annotated[
        bool, typer.Option("--same-archetype", help="Only leagues of its own archetype.")
    ] = False,
    entity: EntityName = None,
    where: Where = None,
    versions: VersionsToo = False,
    as_json: Json = False,
) -> None:
    """Find leagues like one: neighbours in Neo4j and Pinecone, with the path to each."""
    if entity is not None or where or versions:
        _refuse(same_archetype=same_archetype or None)
        generic.similar(tag, entity or LEAGUE, where, top_k, versions, as_json)
        return
    with open_stores() as stores:
        from altsports import queries
        from altsports.cli import views

        found = queries.similar(stores, tag, top_k=top_k, cross_archetype=not same_archetype)
        print_unavailable(found.unavailable)
        if len(found.unavailable) == 2:
            raise typer.Exit(Exit.ERROR)
        show(found.results, views.similar_table, as_json, views.as_json)


def archetypes(
    tier: Tier = None,
    status: Status = None,
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """List archetypes by their leagues in Neo4j, with those leagues from PostgreSQL."""
    with open_stores() as stores:
        from altsports import queries
        from altsports.cli import views

        each = None if as_json else views.SAMPLE
        found = queries.archetypes(stores, tier=tier, status=status, limit=limit, each=each)
        _print_unmatched(found, stores, _filter(status, None, tier, None))
        show(found, views.archetypes_table, as_json, views.as_json)


def explore(
    text: Question,
    top_k: TopK = 10,
    entity: EntityName = None,
    where: Where = None,
    versions: VersionsToo = False,
    as_json: Json = False,
) -> None:
    """Find leagues by meaning, each with its neighbourhood in Neo4j."""
    if entity is not None or where or versions:
        generic.explore(text, entity or LEAGUE, where, top_k, versions, as_json)
        return
    with open_stores() as stores:
        from altsports import queries
        from altsports.cli import views

        found = queries.explore(stores, text, top_k=top_k)
        print_unavailable(found.unavailable)
        show(found.results, views.explored_view, as_json, views.explored_json)


def examples(
    text: Question,
    category: Annotated[
        str | None, typer.Option("--category", help="Only examples of this category.")
    ] = None,
    top_k: TopK = 5,
    as_json: Json = False,
) -> None:
    """Find few-shot examples by meaning, of one category or of all."""
    with open_stores() as stores:
        from altsports import queries
        from altsports.cli import views

        found = queries.examples(stores, text, category=category, top_k=top_k)
        show(found, views.examples_table, as_json, views.as_json)


def leagues(
    archetype: Archetype = None,
    tier: Tier = None,
    status: Status = None,
    contract_status: ContractStatus = None,
    synced: Annotated[
        bool, typer.Option("--synced", help="Only leagues that Neo4j and Pinecone have confirmed.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, max=1_000_000, help="Leagues at most.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List leagues by their properties in PostgreSQL."""
    with application() as app:
        from altsports import queries
        from altsports.cli import views

        where = _filter(status, archetype, tier, contract_status, synced=synced)
        with app.database.autocommit() as conn:
            found = queries.leagues(conn, where, limit=limit)
            _print_unmatched(found, conn, where)
        show(found, views.leagues_table, as_json, views.as_json)


def league(
    tag: Annotated[str, typer.Argument(help="The league's tag, or the id of its seed.")],
    operations: Annotated[
        bool, typer.Option("--operations", help="Also the latest operations on it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show one league with its documents, contracts and relationships, from PostgreSQL."""
    with application() as app:
        from altsports import queries
        from altsports.cli import views

        with app.database.autocommit() as conn:
            found = queries.league(conn, tag)
            edges = queries.relationships(conn, found.league_tag)
            trail = queries.audit_trail(conn, found.league_tag) if operations else []
        if as_json:
            more: dict[str, Any] = {"relationships": [views.as_json(one) for one in edges]}
            if operations:
                more["operations"] = [views.as_json(one) for one in trail]
            terminal.print_json({**views.as_json(found), **more})
            return
        answers.print(views.league_view(found, edges))
        if operations:
            answers.print(views.audit_table(trail))


@graph.command("archetype")
def graph_archetype(
    name: Annotated[str, typer.Argument(help="The archetype's name, as in combat.")],
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """Leagues that belong to an archetype."""
    with open_stores() as stores:
        from altsports import queries
        from altsports.cli import views

        found = queries.leagues_of_archetype(stores, name, limit=limit)
        show(found, views.graph_table, as_json, views.as_json)


@graph.command("same-archetype")
def graph_same_archetype(tag: Tag, limit: Limit = 100, as_json: Json = False) -> None:
    """The other leagues of a league's archetype."""
    with open_stores() as stores:
        from altsports import queries
        from altsports.cli import views

        found = queries.leagues_of_same_archetype(stores, tag, limit=limit)
        show(found, views.graph_table, as_json, views.as_json)


@graph.command("cross-archetype")
def graph_cross_archetype(limit: Limit = 100, as_json: Json = False) -> None:
    """Pairs of similar leagues that belong to different archetypes."""
    with open_stores() as stores:
        from altsports import queries
        from altsports.cli import views

        found = queries.cross_archetype_pairs(stores, limit=limit)
        show(found, views.pairs_table, as_json, views.as_json)


#: The table of leagues, which a question is about unless it names another entity.
LEAGUE = "league"


def _refuse(**given: object) -> None:
    """Refuse options of leagues beside those of any entity."""
    for name, value in given.items():
        if value is not None:
            option = f"--{name.replace('_', '-')}"
            raise typer.BadParameter(f"{option} does not go with --entity, --where or --versions")


def _filter(
    status: str | None,
    archetype: str | None,
    tier: str | None,
    contract_status: str | None,
    *,
    synced: bool = False,
) -> LeagueFilter:
    from altsports.queries import LeagueFilter

    return LeagueFilter(status, archetype, tier, contract_status, synced)


def _print_unmatched(found: Sequence[Any], source: Conn | Stores, where: LeagueFilter) -> None:
    """Name the values of a filter that explain why nothing was found."""
    if found:
        return
    from altsports import queries

    for sentence in queries.unmatched(source, where):
        notes.print(sentence, style="yellow")
