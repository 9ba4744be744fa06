"""Commands that query any entity type: search, similar, explore, graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType

from altsync import log
from altsync.cli import terminal
from altsync.cli.common import Json, application
from altsync.cli.terminal import Exit, answers, notes

if TYPE_CHECKING:
    from altsync.queries import Stores, Unavailable
    from altsync.queries.versions import Versions

#: Greatest number of matches: the limit of the vector index.
MOST = 10_000

Question = Annotated[str, typer.Argument(help="The text to search for.")]
EntityName = Annotated[
    str | None, typer.Option("--entity", help="The type of entity, as in product.")
]
Where = Annotated[
    list[str] | None,
    typer.Option("--where", help="Only entities whose field has this value: field=value."),
]
TopK = Annotated[int, typer.Option("--top-k", min=1, max=MOST, help="Answers at most.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=MOST, help="Answers at most.")]
VersionsToo = Annotated[
    bool, typer.Option("--versions", help="Also the version up to which each store is complete.")
]
Key = Annotated[str, typer.Argument(help="The entity's key, as every store has it.")]


def search(
    text: Question,
    entity: EntityName = None,
    where: Where = None,
    top_k: TopK = 10,
    versions: VersionsToo = False,
    as_json: Json = False,
) -> None:
    """Find entities by meaning: the index finds them, PostgreSQL checks and completes."""
    wanted = read_where(where)
    with open_stores() as stores:
        from altsync import queries
        from altsync.cli import views

        kind = queries.entity_named(entity) if entity else queries.only_entity()
        found = queries.search(stores, kind, text, wanted, top_k=top_k)
        show(found, views.found_table, as_json, versions=found.versions if versions else None)


def similar(
    key: Key,
    entity: EntityName = None,
    where: Where = None,
    top_k: TopK = 20,
    versions: VersionsToo = False,
    as_json: Json = False,
) -> None:
    """Find entities like one: neighbours in graph and index, with the path to each."""
    wanted = read_where(where)
    with open_stores() as stores:
        from altsync import queries
        from altsync.cli import views

        kind = queries.entity_named(entity) if entity else queries.only_entity("similar")
        found = queries.similar(stores, kind, key, wanted, top_k=top_k)
        print_unavailable(found.unavailable)
        if len(found.unavailable) == 2:
            raise typer.Exit(Exit.ERROR)
        had = found.versions if versions else None
        show(found.results, views.similar_table, as_json, versions=had)


def explore(
    text: Question,
    entity: EntityName = None,
    where: Where = None,
    top_k: TopK = 10,
    versions: VersionsToo = False,
    as_json: Json = False,
) -> None:
    """Find entities by meaning, each with its neighbourhood in the graph."""
    wanted = read_where(where)
    with open_stores() as stores:
        from altsync import queries
        from altsync.cli import views

        kind = queries.entity_named(entity) if entity else queries.only_entity("edges")
        found = queries.explore(stores, kind, text, wanted, top_k=top_k)
        print_unavailable(found.unavailable)
        had = found.versions if versions else None
        show(found.results, views.explored_view, as_json, versions=had)


def graph(
    key: Key,
    entity: EntityName = None,
    limit: Limit = 100,
    versions: VersionsToo = False,
    as_json: Json = False,
) -> None:
    """Show what the graph has around one entity."""
    with open_stores() as stores:
        from altsync import queries
        from altsync.cli import views

        kind = queries.entity_named(entity) if entity else queries.only_entity("edges")
        found = queries.neighbours(stores, kind, key, limit=limit)
        show(found, views.links_table, as_json, versions=found.versions if versions else None)


@contextmanager
def open_stores() -> Iterator[Stores]:
    """Open the stores for a question."""
    with application() as app:
        # An unavailable store is reported in one sentence. Its driver would log much more.
        log.set_up(level="ERROR", form=app.settings.altsync_log_format)
        yield app.stores()


def read_where(pairs: Sequence[str] | None) -> dict[str, str]:
    """Return the fields and values of ``--where``. Raises ``typer.BadParameter``."""
    found: dict[str, str] = {}
    for pair in pairs or ():
        field, equals, value = pair.partition("=")
        if not (field.strip() and equals):
            raise typer.BadParameter(f"invalid filter {pair!r}: use --where field=value")
        if field.strip() in found:
            raise typer.BadParameter(f"--where names {field.strip()} twice: give it once")
        found[field.strip()] = value
    return found


def print_unavailable(missing: Sequence[Unavailable]) -> None:
    """Name the stores that could not be asked."""
    for one in missing:
        reason = " ".join(log.redact(one.reason).split())
        notes.print(f"{one.store} could not be asked: {reason}", style="yellow")


def show(
    found: Sequence[Any],
    view: Callable[[Any], RenderableType],
    as_json: bool,
    form: Callable[[Any], dict[str, Any]] = asdict,
    *,
    versions: Versions | None = None,
) -> None:
    """Show answers, as JSON by ``form`` or for people by ``view``; with ``versions`` if given."""
    if as_json:
        results = [form(one) for one in found]
        given = versions is not None
        terminal.print_json({"versions": versions, "results": results} if given else results)
        return
    for store, version in (versions or {}).items():
        notes.print(f"{store}: {'behind its writes' if version is None else f'version {version}'}")
    if found:
        answers.print(view(found))
    else:
        notes.print("Nothing matches.")
