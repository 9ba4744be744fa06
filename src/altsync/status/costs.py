"""The cost of the present day, and the cap of the settings."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from altsync.costs import ledger
from altsync.costs.ledger import Day, Spent
from altsync.db import Conn


@dataclass(frozen=True, slots=True)
class Costs:
    """The recorded cost of the present day (UTC). ``cap`` is in dollars; None for no cap."""

    day: Day
    spent: tuple[Spent, ...]
    cap: Decimal | None = None

    @property
    def left(self) -> Decimal | None:
        """Return the dollars below the cap; None without one."""
        return None if self.cap is None else max(Decimal(), self.cap - self.day.counted)

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object, with dollars as numbers."""
        return {
            "day": self.day.day.isoformat(),
            "dollars": float(self.day.dollars),
            "reserved": float(self.day.reserved),
            "cap": None if self.cap is None else float(self.cap),
            "left": None if self.left is None else float(self.left),
            "seconds_left": round(self.day.seconds_left),
            "spent": [asdict(one) | {"dollars": float(one.dollars)} for one in self.spent],
        }


def costs_today(conn: Conn, cap: Decimal | None = None) -> Costs:
    """Return the cost of the present day."""
    return Costs(ledger.today(conn), tuple(ledger.spent(conn)), cap)
