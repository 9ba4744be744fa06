"""``altsync why``: one entity in every store, with the reasons of differences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType

from altsync.cli import ending, terminal
from altsync.cli.common import application
from altsync.cli.tables import Table, Text
from altsync.cli.terminal import answers
from altsync.declarations import title_of
from altsync.wording import plural, shortened

if TYPE_CHECKING:
    from altsync.why.explanation import Check, Explanation

#: Characters of a seed line that fit on a screen.
SHOWN = 160

_STYLE = {
    "synced": "green",
    "dead": "red",
    "discarded": "red",
    "pending": "yellow",
    "in_progress": "yellow",
}

_MARKS = {
    True: ("✔", "green"),
    False: ("✘", "red"),
    None: ("–", "dim"),
}


def why(
    key: Annotated[str, typer.Argument(help="The entity's key, or its seed id.")],
    folder: Annotated[Path, typer.Option("--dir", help="The seed folder.")] = Path("seeds"),
    as_json: Annotated[bool, typer.Option("--json", help="As JSON on stdout.")] = False,
) -> None:
    """Show one entity's seed line, its operations, and what every store holds of it."""
    from altsync.queries.stores import UnknownName
    from altsync.why.explain import explain
    from altsync.why.explanation import Unknown

    with application() as app:
        found = explain(app, key, folder)
    if isinstance(found, Unknown):
        error = UnknownName(str(found))
        ending.attach(error, asdict(found))
        raise error
    if as_json:
        terminal.print_json(as_plain(found))
    else:
        answers.print(view(found))


def as_plain(found: Explanation) -> dict[str, Any]:
    """Return the JSON document."""
    body = asdict(found)
    stores = {name: shown["held"] for name, shown in body.pop("stores").items()}
    return {"agrees": found.agrees, **body, **stores}


def view(found: Explanation) -> RenderableType:
    """Return the explanation as text and tables."""
    return Group(_head(found), _stores(found), _operations(found))


def _head(found: Explanation) -> Text:
    entity = found.entity
    head = Text(f"{entity.type.value} {entity.key}", style="bold")
    if entity.key != entity.seed_id:
        head.append(f"  (seed id {entity.seed_id})", style="dim")
    style = {True: "green", False: "yellow", None: "yellow"}[found.agrees]
    for reason in found.reasons:
        head.append(f"\n{reason}", style=style)
    return head


def _stores(found: Explanation) -> Table:
    table = Table("mark", "store", "holds", names=("mark", "store"), plain=True)
    checks = {check.store: check for check in found.checks}
    for name, title, lines in (
        ("seed", "Seed", _seed_lines(found)),
        (None, "PostgreSQL", _row_lines(found)),
        ("embedding", "Embedding", _embedding_lines(found)),
        *((name, title_of(name), shown.lines) for name, shown in found.stores.items()),
    ):
        check = checks[name] if name else None
        mark = Text(*_MARKS[check.agrees if check else True])
        table.add_row(mark, title, Text("\n".join([*_detail(check), *lines])))
    return table


def _detail(check: Check | None) -> list[str]:
    return [check.detail] if check else []


def _seed_lines(found: Explanation) -> Iterator[str]:
    if found.seed:
        yield f"{found.seed.file}:{found.seed.line}"
        yield shortened(found.seed.text, SHOWN)


def _row_lines(found: Explanation) -> Iterator[str]:
    entity = found.entity
    yield f"version {entity.version}, changed {_time(entity.updated_at)}"
    if entity.graph_version != entity.version:
        yield f"graph version {entity.graph_version}: its relationships changed later"
    if entity.deleted_at:
        yield f"deleted {_time(entity.deleted_at)}"
    statuses = (f"{sink} {mark.status}" for sink, mark in entity.sinks.items())
    yield ", ".join(statuses)
    for edge in entity.relationships:
        arrow = "→" if edge.direction == "out" else "←"
        score = f" {edge.score:.3f}" if edge.score is not None else ""
        yield f"{edge.type} {arrow} {edge.key}{score}"


def _embedding_lines(found: Explanation) -> Iterator[str]:
    embedding = found.embedding
    if embedding.updated_at:
        yield f"stored {_time(embedding.updated_at)}"
    cost = (
        "nothing: the vector of this text is stored"
        if embedding.kept
        else f"at most {plural(embedding.most_tokens, 'token')} (its bytes, an upper bound)"
    )
    yield f"to embed it by {embedding.wanted_model} costs {cost}"


def _operations(found: Explanation) -> Text:
    """Return a line for each operation: time, status, attempts, origin, error."""
    text = Text("Latest operations", style="italic")
    for op in found.operations:
        when = _time(op.finished_at or op.available_at)
        due = "" if op.finished_at else " due"
        what = op.origin if op.action == "upsert" else f"{op.origin} {op.action}"
        text.append(f"\n{op.sink:<11}{when}{due} ", style="not italic")
        text.append(op.status, style=f"not italic {_STYLE.get(op.status, '')}")
        text.append(f" ×{op.attempts} {what}, version {op.version}", style="not italic")
        if op.last_error:
            text.append(f"\n           {op.last_error}", style="not italic dim")
        if op.discarded_why:
            gone = f"discarded by {op.discarded_by}: {op.discarded_why}"
            text.append(f"\n           {gone}", style="not italic dim")
    return text


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
