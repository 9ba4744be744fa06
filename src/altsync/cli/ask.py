"""Questions to the stores: search, similar, archetypes, explore, examples, leagues, graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType

from altsync import log
from altsync.cli import terminal
from altsync.cli.common import Json, application
from altsync.cli.once import App
from altsync.cli.terminal import Exit, answers, notes

if TYPE_CHECKING:
    from altsync.db import Conn
    from altsync.queries import LeagueFilter, Stores, Unavailable

#: Matches that one question may have: the vector index gives no more.
MOST = 10_000

graph = App(no_args_is_help=True, help="Query the graph alone.")

Question = Annotated[str, typer.Argument(help="What to look for, in plain words.")]
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
TopK = Annotated[int, typer.Option("--top-k", min=1, max=MOST, help="Answers at most.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=MOST, help="Answers at most.")]


def search(
    text: Question,
    status: Status = None,
    archetype: Archetype = None,
    tier: Tier = None,
    contract_status: ContractStatus = None,
    top_k: TopK = 50,
    as_json: Json = False,
) -> None:
    """Find leagues by meaning: Pinecone finds them, PostgreSQL checks and completes them."""
    with _stores() as stores:
        from altsync import queries
        from altsync.cli import answered

        where = _filter(status, archetype, tier, contract_status)
        found = queries.search(stores, text, where, top_k=top_k)
        _say_unmatched(found, stores, where)
        _show(found, answered.found_table, as_json)


def similar(
    tag: Tag,
    top_k: TopK = 20,
    same_archetype: Annotated[
        bool, typer.Option("--same-archetype", help="Only leagues of its own archetype.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Find leagues like one: neighbours in Neo4j and Pinecone, with the path to each."""
    with _stores() as stores:
        from altsync import queries
        from altsync.cli import answered

        found = queries.similar(stores, tag, top_k=top_k, cross_archetype=not same_archetype)
        _say_unavailable(found.unavailable)
        if len(found.unavailable) == 2:
            raise typer.Exit(Exit.ERROR)
        _show(found.results, answered.similar_table, as_json)


def archetypes(
    tier: Tier = None,
    status: Status = None,
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """List archetypes by their leagues in Neo4j, with those leagues from PostgreSQL."""
    with _stores() as stores:
        from altsync import queries
        from altsync.cli import answered

        each = None if as_json else answered.SAMPLE
        found = queries.archetypes(stores, tier=tier, status=status, limit=limit, each=each)
        _say_unmatched(found, stores, _filter(status, None, tier, None))
        _show(found, answered.archetypes_table, as_json)


def explore(text: Question, top_k: TopK = 10, as_json: Json = False) -> None:
    """Find leagues by meaning, each with its neighbourhood in Neo4j."""
    with _stores() as stores:
        from altsync import queries
        from altsync.cli import answered

        found = queries.explore(stores, text, top_k=top_k)
        _say_unavailable(found.unavailable)
        _show(found.results, answered.explored_view, as_json, answered.explored_json)


def examples(
    text: Question,
    category: Annotated[
        str | None, typer.Option("--category", help="Only examples of this category.")
    ] = None,
    top_k: TopK = 5,
    as_json: Json = False,
) -> None:
    """Find few-shot examples by meaning, of one category or of all."""
    with _stores() as stores:
        from altsync import queries
        from altsync.cli import answered

        found = queries.examples(stores, text, category=category, top_k=top_k)
        _show(found, answered.examples_table, as_json)


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
        from altsync import queries
        from altsync.cli import answered

        where = _filter(status, archetype, tier, contract_status, synced=synced)
        with app.database.autocommit() as conn:
            found = queries.leagues(conn, where, limit=limit)
            _say_unmatched(found, conn, where)
        _show(found, answered.leagues_table, as_json)


def league(
    tag: Annotated[str, typer.Argument(help="The league's tag, or the id of its seed.")],
    operations: Annotated[
        bool, typer.Option("--operations", help="Also the latest operations on it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show one league with its documents, contracts and relationships, from PostgreSQL."""
    with application() as app:
        from altsync import queries
        from altsync.cli import answered

        with app.database.autocommit() as conn:
            found = queries.league(conn, tag)
            edges = queries.relationships(conn, found.league_tag)
            trail = queries.audit_trail(conn, found.league_tag) if operations else []
        if as_json:
            more: dict[str, Any] = {"relationships": [answered.as_json(one) for one in edges]}
            if operations:
                more["operations"] = [answered.as_json(one) for one in trail]
            terminal.print_json({**answered.as_json(found), **more})
            return
        answers.print(answered.league_view(found, edges))
        if operations:
            answers.print(answered.audit_table(trail))


@graph.command("archetype")
def graph_archetype(
    name: Annotated[str, typer.Argument(help="The archetype's name, as in combat.")],
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """Leagues that belong to an archetype."""
    with _stores() as stores:
        from altsync import queries
        from altsync.cli import answered

        found = queries.leagues_of_archetype(stores, name, limit=limit)
        _show(found, answered.graph_table, as_json)


@graph.command("same-archetype")
def graph_same_archetype(tag: Tag, limit: Limit = 100, as_json: Json = False) -> None:
    """The other leagues of a league's archetype."""
    with _stores() as stores:
        from altsync import queries
        from altsync.cli import answered

        found = queries.leagues_of_same_archetype(stores, tag, limit=limit)
        _show(found, answered.graph_table, as_json)


@graph.command("cross-archetype")
def graph_cross_archetype(limit: Limit = 100, as_json: Json = False) -> None:
    """Pairs of similar leagues that belong to different archetypes."""
    with _stores() as stores:
        from altsync import queries
        from altsync.cli import answered

        found = queries.cross_archetype_pairs(stores, limit=limit)
        _show(found, answered.pairs_table, as_json)


@contextmanager
def _stores() -> Iterator[Stores]:
    with application() as app:
        # A store that is away is told of once, in a sentence; its driver would say it at length.
        log.set_up(level="ERROR", form=app.settings.altsync_log_format)
        yield app.stores()


def _filter(
    status: str | None,
    archetype: str | None,
    tier: str | None,
    contract_status: str | None,
    *,
    synced: bool = False,
) -> LeagueFilter:
    from altsync.queries import LeagueFilter

    return LeagueFilter(status, archetype, tier, contract_status, synced)


def _say_unavailable(missing: Sequence[Unavailable]) -> None:
    for one in missing:
        reason = " ".join(log.redact(one.reason).split())
        text = f"{one.store} could not be asked: {reason}"
        notes.print(text, style="yellow")


def _say_unmatched(found: Sequence[Any], source: Conn | Stores, where: LeagueFilter) -> None:
    """Name the values of a filter that explain why nothing was found."""
    if found:
        return
    from altsync import queries

    for sentence in queries.unmatched(source, where):
        notes.print(sentence, style="yellow")


def _show(
    found: Sequence[Any],
    view: Callable[[Any], RenderableType],
    as_json: bool,
    form: Callable[[Any], dict[str, Any]] | None = None,
) -> None:
    if as_json:
        from altsync.cli.answered import as_json as plain

        terminal.print_json([(form or plain)(one) for one in found])
    elif found:
        answers.print(view(found))
    else:
        notes.print("Nothing matches.")
