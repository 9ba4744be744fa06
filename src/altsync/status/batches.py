"""The work of batches over time: throughput, remote calls, tokens, durations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from altsync.db import Conn


@dataclass(frozen=True, slots=True)
class Work:
    """The work of some batches of one sink. The fields up to ``lost`` count operations."""

    claimed: int = 0
    synced: int = 0
    superseded: int = 0
    retried: int = 0
    dead: int = 0
    lost: int = 0
    batches: int = 0
    remote_calls: int = 0
    tokens: int = 0
    read_units: int = 0
    write_units: int = 0
    dollars: float = 0.0


_WORK = """
sum(claimed)::bigint, sum(synced)::bigint, sum(superseded)::bigint, sum(retried)::bigint,
sum(dead)::bigint, sum(lost)::bigint, count(*), sum(remote_calls)::bigint, sum(tokens)::bigint,
sum(read_units)::bigint, sum(write_units)::bigint, sum(dollars)::float8
"""


def recent_work(conn: Conn, seconds: float) -> dict[str, Work]:
    """Return the work of the last ``seconds``, by sink. A sink without batches is left out."""
    rows = conn.execute(
        f"""
        SELECT sink, {_WORK} FROM delivery_batch
        WHERE finished_at > now() - make_interval(secs => %s) GROUP BY sink
        """,
        (seconds,),
    )
    return {r[0]: Work(*r[1:]) for r in rows}


@dataclass(frozen=True, slots=True)
class Throughput:
    """Work in slices of time, oldest first. ``start`` is the beginning of the first slice.

    ``step`` is the length of a slice in seconds. Slices begin at multiples of it. The last one
    is not over yet. ``sinks`` holds the sinks with batches, each with a value for every slice.
    """

    start: datetime
    step: int
    slices: int
    sinks: dict[str, tuple[Work, ...]]


def throughput(conn: Conn, *, step: int, slices: int) -> Throughput:
    """Return the last ``slices`` slices of ``step`` seconds, including the present one."""
    row = conn.execute(
        """
        SELECT to_timestamp((floor(EXTRACT(epoch FROM now()) / %(step)s) - %(slices)s + 1)
                            * %(step)s::int)
        """,
        {"step": step, "slices": slices},
    ).fetchone()
    assert row is not None
    start = row[0]
    found: dict[str, list[Work]] = {}
    for sink, position, *numbers in conn.execute(
        f"""
        SELECT sink, floor(EXTRACT(epoch FROM finished_at - %(start)s) / %(step)s)::int, {_WORK}
        FROM delivery_batch
        WHERE finished_at >= %(start)s
          AND finished_at < %(start)s + make_interval(secs => %(step)s::int * %(slices)s::int)
        GROUP BY 1, 2
        """,
        {"start": start, "step": step, "slices": slices},
    ):
        found.setdefault(sink, [Work()] * slices)[position] = Work(*numbers)
    return Throughput(start, step, slices, {sink: tuple(works) for sink, works in found.items()})


@dataclass(frozen=True, slots=True)
class BatchTotals:
    """Work of one sink, and the sum of its batches' durations in seconds.

    ``at_most`` counts, for each bound, the batches that took no longer.
    """

    work: Work
    seconds: float
    at_most: tuple[int, ...]


def last_settled_batch(conn: Conn, seconds: float) -> int:
    """Return the id of the newest batch that is older than ``seconds``, 0 for none.

    Ids are drawn before rows are committed: a younger id may still appear.
    """
    row = conn.execute(
        """
        SELECT COALESCE(max(id), 0) FROM delivery_batch
        WHERE finished_at < now() - make_interval(secs => %s)
        """,
        (seconds,),
    ).fetchone()
    assert row is not None
    return int(row[0])


def batch_totals(
    conn: Conn, bounds: Sequence[float], *, after: int = 0, until: int | None = None
) -> dict[str, BatchTotals]:
    """Return the totals of each sink over the batches with ``after`` < id <= ``until``.

    ``bounds`` are in seconds.
    """
    counts = ", ".join(f"count(*) FILTER (WHERE seconds <= {float(bound)})" for bound in bounds)
    rows = conn.execute(
        f"""
        SELECT sink, {_WORK}, sum(seconds), ARRAY[{counts}] FROM delivery_batch
        WHERE id > %(after)s AND (%(until)s::bigint IS NULL OR id <= %(until)s) GROUP BY sink
        """,
        {"after": after, "until": until},
    )
    return {r[0]: BatchTotals(Work(*r[1:-2]), r[-2], tuple(r[-1])) for r in rows}
