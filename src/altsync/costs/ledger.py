"""The ledger of costs: units and dollars by day, sink and origin, and reservations of a day.

A day is one of UTC, by the clock of the database. A paid call under a cap is reserved before it is
made. A reservation that is never settled, as its worker was killed, counts as spent on its day.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any, Protocol

from altsync.contract import Usage
from altsync.db import Conn

#: The present day in SQL.
TODAY = "(now() AT TIME ZONE 'UTC')::date"

_NOTHING = Decimal()

#: Origins of costs that no operation of the outbox has caused.
QUERY, VERIFY, CONTROL = "query", "verify", "control"


class Pricing(Protocol):
    """A table of prices."""

    def dollars(self, usage: Usage, model: str) -> Decimal | None:
        """Return the price of units, with tokens of ``model``; None without a known price."""
        ...


@dataclass(frozen=True, slots=True)
class Item:
    """The cost of one origin in one batch. ``day`` is that of its reservation, if it has one."""

    origin: str
    usage: Usage
    dollars: Decimal
    day: date | None = None


@dataclass(slots=True)
class Bill:
    """The costs of one batch, and the dollars that it has reserved by day."""

    items: list[Item] = field(default_factory=list)
    reserved: dict[date, Decimal] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.items or self.reserved)

    @property
    def usage(self) -> Usage:
        """Return the units of all items."""
        return sum((item.usage for item in self.items), Usage())

    @property
    def dollars(self) -> Decimal:
        """Return the dollars of all items."""
        return sum((item.dollars for item in self.items), Decimal())


def shared(usage: Usage, weights: Mapping[str, int]) -> dict[str, Usage]:
    """Divide whole units among names by their weights; the sum of the parts is ``usage``."""
    total, before = sum(weights.values()), 0
    parts: dict[str, Usage] = {}
    for name, weight in weights.items():
        after = before + weight
        parts[name] = Usage(
            *(
                units * after // total - units * before // total
                for units in (usage.tokens, usage.read_units, usage.write_units)
            )
        )
        before = after
    return parts


#: Common table expressions that add a bill to the ledger. The rows of ``spend_day`` and of
#: ``spend`` are written in the order of their keys, so that two workers cannot deadlock.
RECORD = f"""
item AS MATERIALIZED (
  SELECT COALESCE(i.given, {TODAY}) AS day, i.origin, i.tokens, i.read_units, i.write_units,
         i.dollars, i.released
  FROM unnest(%(days)s::date[], %(origins)s::text[], %(tokens_of)s::bigint[],
              %(read_units_of)s::bigint[], %(write_units_of)s::bigint[],
              %(dollars_of)s::numeric[], %(released)s::numeric[])
    AS i(given, origin, tokens, read_units, write_units, dollars, released)),
total AS (
  INSERT INTO spend_day AS d (day, dollars, reserved)
  SELECT day, sum(dollars), GREATEST(0, -sum(released)) FROM item GROUP BY day ORDER BY day
  ON CONFLICT (day) DO UPDATE SET dollars = d.dollars + excluded.dollars,
    reserved = GREATEST(0, d.reserved - (SELECT sum(i.released) FROM item i WHERE i.day = d.day))),
spent AS (
  INSERT INTO spend AS s (day, sink, origin, tokens, read_units, write_units, dollars)
  SELECT day, %(sink)s, origin, sum(tokens), sum(read_units), sum(write_units), sum(dollars)
  FROM item WHERE origin IS NOT NULL GROUP BY day, origin ORDER BY day, origin
  ON CONFLICT (day, sink, origin) DO UPDATE SET tokens = s.tokens + excluded.tokens,
    read_units = s.read_units + excluded.read_units,
    write_units = s.write_units + excluded.write_units, dollars = s.dollars + excluded.dollars)
"""


def record_parameters(sink: str, bill: Bill) -> dict[str, Any]:
    """Return the parameters of ``RECORD``: an element for each item, and for each day reserved."""
    items, days = bill.items, sorted(bill.reserved)
    none = [0] * len(days)
    return {
        "sink": sink,
        "days": [item.day for item in items] + days,
        "origins": [item.origin for item in items] + [None] * len(days),
        "tokens_of": [item.usage.tokens for item in items] + none,
        "read_units_of": [item.usage.read_units for item in items] + none,
        "write_units_of": [item.usage.write_units for item in items] + none,
        "dollars_of": [item.dollars for item in items] + [_NOTHING] * len(days),
        "released": [_NOTHING] * len(items) + [bill.reserved[day] for day in days],
    }


def record(conn: Conn, sink: str, bill: Bill) -> None:
    """Add a bill to the ledger, and release its reservations, in one statement."""
    if bill:
        conn.execute(f"WITH {RECORD} SELECT 1", record_parameters(sink, bill))


def reserve(conn: Conn, dollars: Decimal, cap: Decimal) -> date | None:
    """Reserve dollars of the present day, for which it is returned; None beyond ``cap``.

    One statement locks the day's row, so concurrent workers cannot exceed the cap together.
    """
    row = conn.execute(
        f"""
        INSERT INTO spend_day AS d (day, reserved)
        SELECT {TODAY}, %(dollars)s::numeric WHERE %(dollars)s::numeric <= %(cap)s::numeric
        ON CONFLICT (day) DO UPDATE SET reserved = d.reserved + excluded.reserved
        WHERE d.dollars + d.reserved + excluded.reserved <= %(cap)s::numeric
        RETURNING day
        """,
        {"dollars": dollars, "cap": cap},
    ).fetchone()
    return row[0] if row else None


@dataclass(frozen=True, slots=True)
class Day:
    """The dollars of one day: settled, and reserved by calls without an outcome yet."""

    day: date
    dollars: Decimal
    reserved: Decimal
    seconds_left: float

    @property
    def counted(self) -> Decimal:
        """Return the dollars that count against a cap."""
        return self.dollars + self.reserved


def today(conn: Conn) -> Day:
    """Return the dollars of the present day, and the seconds until the next one."""
    row = conn.execute(
        f"""
        SELECT t.day, COALESCE(d.dollars, 0), COALESCE(d.reserved, 0),
               EXTRACT(epoch FROM (t.day + 1)::timestamp AT TIME ZONE 'UTC' - now())::float8
        FROM (SELECT {TODAY} AS day) t LEFT JOIN spend_day d ON d.day = t.day
        """
    ).fetchone()
    assert row is not None
    return Day(*row)


@dataclass(frozen=True, slots=True)
class Spent:
    """The recorded cost of one sink and origin."""

    sink: str
    origin: str
    tokens: int
    read_units: int
    write_units: int
    dollars: Decimal


def spent(conn: Conn, days: int | None = 1) -> list[Spent]:
    """Return the costs of the last ``days`` days with the present one, or of all days."""
    rows = conn.execute(
        f"""
        SELECT sink, origin, sum(tokens)::bigint, sum(read_units)::bigint,
               sum(write_units)::bigint, sum(dollars)
        FROM spend WHERE %(days)s::int IS NULL OR day > {TODAY} - %(days)s::int
        GROUP BY 1, 2 ORDER BY 1, 2
        """,
        {"days": days},
    )
    return [Spent(*row) for row in rows]
