"""Show results of queries as tables and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType

from altsports.queries import (
    ArchetypeLeagues,
    ArchetypePair,
    ExploredLeague,
    FoundExample,
    FoundLeague,
    FullLeague,
    GraphLeague,
    Neighbour,
    OperationRow,
    Relationship,
    SimilarLeague,
)
from altsync.cli.tables import Table, Text
from altsync.wording import one_line

#: Names of leagues shown beside a count.
SAMPLE = 4

#: Characters that a table shows of a text.
EXCERPT = 100

#: Fields that come first in JSON, for human readers.
_HEAD = ("league_tag", "league_name", "example_id", "category", "score")


def as_json(answer: Any) -> dict[str, Any]:
    """Return a dataclass as JSON, with the fields of ``_HEAD`` first."""
    body = asdict(answer)
    return {**{name: body[name] for name in _HEAD if name in body}, **body}


def explored_json(answer: ExploredLeague) -> dict[str, Any]:
    """Return a hit as JSON, with its neighbours beside its own fields."""
    around = {name: asdict(answer)[name] for name in ("same_archetype", "similar_to")}
    for neighbour in around["same_archetype"]:
        del neighbour["score"]  # an archetype's members have no edge to each other
    return {**as_json(answer.league), **around}


def found_table(leagues: Sequence[FoundLeague]) -> Table:
    """Show leagues by meaning."""
    table = _table("score", "tag", *_SUMMARY)
    for one in leagues:
        table.add_row(_score(one.score), one.league_tag, *_summary(one))
    return table


def leagues_table(leagues: Sequence[FullLeague]) -> Table:
    """Show leagues by filter."""
    table = _table("tag", *_SUMMARY)
    for one in leagues:
        table.add_row(one.league_tag, *_summary(one))
    return table


_SUMMARY = ("league", "standing", "contracts")


def _summary(one: FullLeague) -> tuple[str, ...]:
    statuses = ", ".join(sorted({contract.status for contract in one.contracts}))
    contracts = f"{len(one.contracts)} ({statuses})" if statuses else "0"
    marks = (one.sport_archetype, one.tier, one.status)
    return one.league_name, ", ".join(mark for mark in marks if mark), contracts


def similar_table(leagues: Sequence[SimilarLeague]) -> Table:
    """Show neighbours with the connection to each."""
    table = _table("score", "tag", "sources", "path")
    for one in leagues:
        table.add_row(_score(one.score), one.league_tag, " + ".join(one.sources), one.path)
    return table


def archetypes_table(archetypes: Sequence[ArchetypeLeagues]) -> Table:
    """Show archetypes by their number of leagues, with the names of the first."""
    table = _table("archetype", "count", "leagues")
    for one in archetypes:
        names = [league.league_name for league in one.leagues[:SAMPLE]]
        more = f" … and {one.count - SAMPLE:,} more" if one.count > SAMPLE else ""
        table.add_row(one.archetype, f"{one.count:,}", ", ".join(names) + more)
    return table


def explored_view(leagues: Sequence[ExploredLeague]) -> RenderableType:
    """Show each hit with its neighbours in the graph."""
    parts: list[RenderableType] = []
    for one in leagues:
        head = Text(f"{one.league.league_name}:", style="bold")
        around = Table("fact", "value", plain=True)
        for name, value in (
            ("Archetype", one.league.sport_archetype),
            ("Same archetype", _names(one.same_archetype)),
            ("Similar", _names(one.similar_to)),
        ):
            around.add_row(Text(name, style="dim"), Text(value))
        parts += [head.append(f" {_score(one.league.score)}", style="dim"), around]
    return Group(*parts)


def _names(neighbours: Iterable[Neighbour]) -> str:
    return (
        ", ".join(
            n.league_name if n.score is None else f"{n.league_name} ({n.score:.2f})"
            for n in neighbours
        )
        or "–"
    )


def examples_table(examples: Sequence[FoundExample]) -> Table:
    """Show examples by meaning."""
    table = _table("score", "example", "category", "input", "output")
    for one in examples:
        texts = (_excerpt(one.input_text), _excerpt(one.output_text))
        table.add_row(_score(one.score), one.example_id, one.category, *texts)
    return table


def league_view(league: FullLeague, edges: Sequence[Relationship]) -> RenderableType:
    """Show one league with documents, contracts and relationships."""
    facts = Table("fact", "value", plain=True)
    known = {
        "tag": league.league_tag,
        "sport": league.sport_name,
        "archetype": league.sport_archetype,
        "location": league.location,
        "tier": league.tier,
        "status": league.status,
        **{name: str(value) for name, value in league.attributes.items()},
        "description": league.description,
    }
    for name, value in known.items():
        if value is not None:
            facts.add_row(Text(name, style="dim"), Text(value))
    documents = _table("document", "kind", "text")
    for document in league.documents:
        documents.add_row(document.title, document.kind or "", _excerpt(document.body or ""))
    contracts = _table("contract", "with", "type", "status", "from", "to")
    for one in league.contracts:
        contracts.add_row(
            one.title,
            one.counterparty or "",
            one.contract_type or "",
            one.status,
            str(one.start_date or ""),
            str(one.end_date or ""),
        )
    tables = [documents, contracts, relationships_table(edges)]
    return Group(
        Text(league.league_name, style="bold"), facts, *(table for table in tables if table.rows)
    )


def relationships_table(edges: Sequence[Relationship]) -> Table:
    """Show edges of a league."""
    table = _table("score", "relationship", "direction", "tag", "league")
    for one in edges:
        score = _score(one.score)
        table.add_row(score, one.type, one.direction, one.league_tag, one.league_name)
    return table


def audit_table(entries: Sequence[OperationRow]) -> Table:
    """Show operations on one league."""
    table = _table("operation", "sink", "version", "origin", "status", "finished", "why")
    for one in entries:
        finished = "" if one.finished_at is None else f"{one.finished_at:%Y-%m-%d %H:%M:%S}"
        why = _excerpt(one.last_error or "")
        table.add_row(one.action, one.sink, str(one.version), one.origin, one.status, finished, why)
    return table


def graph_table(leagues: Sequence[GraphLeague]) -> Table:
    """Show leagues of the graph."""
    table = _table("tag", "league", "archetype", "tier", "status")
    for one in leagues:
        marks = (one.sport_archetype, one.tier or "", one.status or "")
        table.add_row(one.league_tag, one.league_name, *marks)
    return table


def pairs_table(pairs: Sequence[ArchetypePair]) -> Table:
    """Show similar leagues of different archetypes."""
    table = _table("score", "league", "archetype", "similar league", "archetype")
    for one in pairs:
        source, target = (
            (one.source_name, one.source_archetype),
            (one.target_name, one.target_archetype),
        )
        table.add_row(_score(one.score), *source, *target)
    return table


#: Columns of numbers.
_NUMBERS = ("score", "count", "version")

#: Columns of names that one may copy.
_NAMES = ("tag", "example", "category", "tier", "sources", "status")


def _table(*columns: str) -> Table:
    return Table(*columns, numbers=_NUMBERS, names=_NAMES)


def _score(score: float | None) -> str:
    return "" if score is None else f"{score:.3f}"


def _excerpt(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= EXCERPT else f"{line[: EXCERPT - 1]}…"
