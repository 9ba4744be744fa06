"""What people see in the terminal: tables, summaries, exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import rich.text
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment

from altsync.cli.tables import Table, Text, shown
from altsync.health import Finding, Health
from altsync.outbox import FailureGroup
from altsync.reconcile import Drift
from altsync.records import BreakerState, SyncStatus
from altsync.seed.report import Report
from altsync.sentences import Exit as Exit  # noqa: PLC0414  (exported)
from altsync.status import Status, idle_message
from altsync.store import RunProgress
from altsync.wording import plural, visible, visible_json


class Terminal(Console):
    """A console that shows every text as it is: no markup, and no sign that steers a terminal.

    A closed pipe is left to the command's end.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> rich.text.Text:
        """Make a text of a string, before its width is measured."""
        return super().render_str(shown(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render; what others made of data is written out here at the latest."""
        for segment in super().render(renderable, options):
            if segment.control or (text := visible(segment.text)) == segment.text:
                yield segment
            else:
                yield Segment(text, segment.style)

    def on_broken_pipe(self) -> None:
        """Raise what the system said."""
        raise BrokenPipeError


#: Everything for people that is not the answer itself goes to stderr, so that --json is clean.
notes = Terminal(stderr=True)
answers = Terminal()

_STATUS_STYLE = {
    SyncStatus.SYNCED.value: "green",
    SyncStatus.PENDING.value: "yellow",
    SyncStatus.FAILED.value: "red",
}
_STATE_STYLE = {
    BreakerState.CLOSED: "green",
    BreakerState.PROBING: "yellow",
    BreakerState.OPEN: "red",
    BreakerState.PAUSED: "yellow",
    BreakerState.DISABLED: "dim",
}
#: States that end when an operation goes through.
_TRIED = (BreakerState.OPEN, BreakerState.PROBING)

#: What a breaker's state is called for people.
_STATE_WORD = {BreakerState.CLOSED: "ready"}

_IN_ORDER = (SyncStatus.SYNCED, SyncStatus.PENDING, SyncStatus.FAILED)

_RULE = "=" * 50


def print_json(body: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(f"{_json(body, indent=2)}\n")


def print_json_line(body: Any) -> None:
    """One JSON document on one line of stdout."""
    sys.stdout.write(f"{_json(body)}\n")
    sys.stdout.flush()


def _json(body: Any, indent: int | None = None) -> str:
    # Escapes are read by every parser, whatever the encoding of the terminal or pipe.
    is_utf8 = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    return visible_json(json.dumps(body, default=_plain, ensure_ascii=not is_utf8, indent=indent))


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def seed_table(report: Report, title: str = "Seeded") -> Table:
    """Counts by part."""
    numbers = ("processed", "created", "updated", "unchanged", "deleted", "rejected")
    table = Table("part", *numbers, title=title, numbers=numbers)
    for part, c in report.parts.items():
        counts = (c.processed, c.created, c.updated, c.unchanged, c.deleted, c.rejected)
        table.add_row(part.value, *(f"{n:,}" for n in counts))
    return table


def seed_summary(report: Report, progress: dict[str, RunProgress]) -> str:
    """The closing summary of a seeding run that was waited for."""
    total = report.total
    lines = [
        "MULTI-DATABASE SEEDING SUMMARY",
        _RULE,
        f"Total Processed: {total.processed}",
        "PostgreSQL:",
        f"  Created: {total.created}",
        f"  Updated: {total.updated}",
        f"  Unchanged: {total.unchanged}",
        *([f"  Deleted: {total.deleted}"] if total.deleted else []),
        f"  Errors: {total.rejected}",
    ]
    for sink, title in (("neo4j", "Neo4j"), ("pinecone", "Pinecone")):
        if sink in progress:
            lines += [
                f"{title}:",
                f"  Synced: {progress[sink].synced}",
                f"  Errors: {progress[sink].failed}",
            ]
        else:
            lines += [f"{title}: disabled"]
    return "\n".join([*lines, _RULE])


def print_rejects(report: Report) -> None:
    """The first refused lines, and where all of them are."""
    for line in report.shown:
        notes.print(Text(f"rejected {line}", style="red"))
    more = report.total.rejected - len(report.shown)
    if more > 0:
        notes.print(f"… and {more:,} more refused, which are in that file:")
    if report.rejects_file:
        notes.print(f"All refused lines: {report.rejects_file}")
    for note in report.notes:
        notes.print(Text(note, style="yellow"))


def status_view(status: Status) -> RenderableType:
    """The whole status."""
    tables = (matrix_table(status), entity_table(status), sink_table(status))
    return Group(*tables, *model_note(status), *verify_note(status))


def model_note(status: Status) -> list[Text]:
    """What to say when settings and database name different embedding models."""
    database, settings = status.model.database, status.model.settings
    if database is None or settings is None or database == settings:
        return []
    text = (
        f"The database wants embeddings by {database.name} ({database.dimensions} dimensions), "
        f"the settings say {settings.name} ({settings.dimensions}): altsync reembed shows what "
        "a change costs."
    )
    return [Text(text, style="yellow")]


def verify_note(status: Status) -> list[Text]:
    """What the last ``altsync verify`` came to, by hand or by the relay."""
    last = status.verified
    if last is None:
        return []
    when = f"Last verified {age(last.age)} ago"
    problems = last.result.get("problems") or {}
    sinks = last.result.get("sinks") or {}
    drift = {
        sink: sum(n for kind, n in numbers.items() if kind in tuple(Drift))
        for sink, numbers in sinks.items()
    }
    differs = ", ".join(f"{sink} ({count:,})" for sink, count in drift.items() if count)
    if last.consistent:
        return [Text(f"{when}: {_agreed(last.result)}", style="green")]
    if differs:
        return [Text(f"{when}: {differs} did not agree. altsync verify says more.", style="red")]
    return [Text(f"{when}: {', '.join(problems)} could not be compared.", style="yellow")]


def _agreed(result: Mapping[str, Any]) -> str:
    """What a result without any difference says."""
    counted = plural(result.get("entities", 0), "entity", "entities")
    left_out = result.get("left_out") or []
    rest = f" Not compared: {', '.join(left_out)}." if left_out else ""
    waiting = result.get("under_way", 0)
    if waiting:
        return f"nothing differed ({counted}); under way: {waiting:,}.{rest}"
    return f"every {'compared ' if left_out else ''}store agreed ({counted}).{rest}"


def matrix_table(status: Status) -> Table:
    """Entities by both statuses."""
    columns = ("entity", "neo4j", "pinecone", "count")
    table = Table(*columns, title="Sync status", numbers=("count",))
    for row in status.matrix:
        table.add_row(
            row.entity.value,
            Text(row.neo4j_sync_status, style=_STATUS_STYLE[row.neo4j_sync_status]),
            Text(row.pinecone_sync_status, style=_STATUS_STYLE[row.pinecone_sync_status]),
            f"{row.count:,}",
        )
    if not status.matrix:
        table.add_row("nothing seeded yet", "", "", "0")
    return table


def entity_table(status: Status) -> Table:
    """Entities by sink, each as synced / pending / failed."""
    sinks = list(next(iter(status.entities.values())).by_sink)
    title = "Synced / pending / failed"
    table = Table("entity", "total", *sinks, title=title, numbers=("total", *sinks))
    for kind, entity in status.entities.items():
        cells = []
        for sink in sinks:
            counts = entity.by_sink[sink]
            cell = Text()
            for place, state in enumerate(_IN_ORDER):
                style = _STATUS_STYLE[state] if counts[state] else "dim"
                cell.append(" / " if place else "").append(f"{counts[state]:,}", style=style)
            cells.append(cell)
        table.add_row(kind.value, f"{entity.total:,}", *cells)
    return table


def sink_table(status: Status) -> RenderableType:
    """Breakers, operations, and the work of the last minute by sink."""
    # In two lines, so that the table fits into 80 columns.
    numbers = ("pending", "in\nprogress", "dead", "oldest", "synced\n/min", "calls\n/min")
    table = Table(
        "sink", "state", *numbers, title="Operations", numbers=numbers, names=("sink", "state")
    )
    for sink, backlog in status.operations.items():
        standing = status.sinks[sink]
        table.add_row(
            sink,
            Text(
                _STATE_WORD.get(standing.state, standing.state.value),
                style=_STATE_STYLE[standing.state],
            ),
            f"{backlog.pending:,}",
            f"{backlog.in_progress:,}",
            Text(f"{backlog.dead:,}", style="red" if backlog.dead else ""),
            age(backlog.oldest_pending_seconds),
            f"{status.recent[sink].synced:,}",
            f"{status.recent[sink].remote_calls:,}",
        )
    whys = [(sink, _why(status, sink)) for sink in status.operations]
    idle = [Text(f"{s}: {idle_message(s, one)}", style="red") for s, one in status.idle.items()]
    return Group(table, *(Text(f"{sink}: {why}") for sink, why in whys if why), *idle)


def _why(status: Status, sink: str) -> str:
    standing = status.sinks[sink]
    waits = status.operations[sink].pending
    reason = standing.reason or ""
    if standing.state is BreakerState.DISABLED and waits:
        return f"{reason}; {plural(waits, 'operation waits', 'operations wait')}"
    if standing.since is not None and standing.state is not BreakerState.CLOSED:
        since = f"{reason} (since {standing.since:%Y-%m-%d %H:%M:%S} UTC)"
        idle = standing.state in _TRIED and not (waits or status.operations[sink].in_progress)
        return f"{since}; nothing waits, the next operation tries it" if idle else since
    return reason


def age(seconds: float | None) -> str:
    """A duration for people."""
    if seconds is None:
        return ""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def failures_table(groups: Sequence[FailureGroup]) -> Table:
    """Dead operations by reason."""
    table = Table(
        *("sink", "kind", "count", "reason", "for example"),
        title="Dead operations",
        numbers=("count",),
        names=("sink", "kind"),
    )
    for group in groups:
        samples = ", ".join(group.sample_keys)
        table.add_row(group.sink, group.error_kind, f"{group.count:,}", group.reason, samples)
    return table


_HEALTH_MARK = {
    Health.OK: ("✔", "green"),
    Health.FAILED: ("✘", "red"),
    Health.DISABLED: ("–", "dim"),
}


def finding_line(finding: Finding) -> Text:
    """One service and how it answered."""
    line = Text("  ")
    line.append(*_HEALTH_MARK[finding.health]).append(f" {finding.name:<11}")
    if finding.health is Health.DISABLED:
        line.append(" disabled:", "dim")
    line.append(f" {finding.detail}")
    return line
