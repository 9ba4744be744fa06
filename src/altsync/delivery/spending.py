"""Record what the calls of a batch cost, and keep within the cap of a day over all workers.

A call is reserved at its upper bound before it is made, and recorded at its real price after the
answer. A call without a clear outcome counts as spent at its upper bound.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal

import structlog

from altsync.contract import Answer, Usage
from altsync.costs import ledger
from altsync.costs.ledger import CONTROL, Item
from altsync.db import Database
from altsync.delivery.policy import Policy
from altsync.delivery.state import BatchState, Request
from altsync.entities import Model, Row
from altsync.errors import SinkFailure
from altsync.operations import ErrorKind
from altsync.protocols import Sink

log = structlog.get_logger(__name__)

#: The setting of the cap.
SETTING = "ALTSYNC_MAX_COST_PER_DAY"

#: Seconds until a worker tries again whether the cap was raised or the day has turned.
LOOK_AGAIN = 30.0


class Spending:
    """The costs of one sink's calls. Threads may share it: a batch's bill is in ``BatchState``."""

    def __init__(self, database: Database, sink: Sink, policy: Policy) -> None:
        self._database = database
        self._name = sink.traits.name
        self._prices = policy.prices
        self._cap = policy.max_cost_per_day
        self._bound: Callable[[Sequence[Row], Model, bool], Usage] | None = getattr(
            sink, "most_usage", None
        )

    def admit(
        self, wave: Sequence[Request], state: BatchState, model: Model, *, removing: bool
    ) -> tuple[list[Request], list[Request]]:
        """Reserve the calls of a wave; return the granted ones and the rest, in their order.

        Raises ``SinkFailure`` when not even the first one fits below the cap of the day.
        """
        granted: list[Request] = []
        for place, call in enumerate(wave):
            day = self.reserve(call.rows, state, model, removing=removing)
            if isinstance(day, SinkFailure):
                if not granted:
                    raise day
                return granted, list(wave[place:])
            granted.append(replace(call, day=day))
        return granted, []

    def reserve(
        self, rows: Sequence[Row], state: BatchState, model: Model, *, removing: bool
    ) -> date | SinkFailure | None:
        """Reserve one call at its upper bound; return the day, or the failure beyond the cap.

        None for a call that costs nothing, and without a cap.
        """
        if self._cap is None or self._bound is None:
            return None
        usage = self._bound(rows, model, removing)
        if not usage:
            return None
        dollars = self._price(usage, model)
        if dollars is None:
            reason = (
                f"{SETTING} is set, and no price of {model.name} is known: "
                "name one in the file of ALTSYNC_PRICES"
            )
            return SinkFailure(ErrorKind.SINK, reason, retry_after=LOOK_AGAIN)
        if not dollars:
            return None
        with self._database.autocommit() as conn:
            day = ledger.reserve(conn, dollars, self._cap)
            now = ledger.today(conn) if day is None else None
        if now is None:
            assert day is not None
            state.bill.reserved[day] = state.bill.reserved.get(day, Decimal()) + dollars
            return day
        log.warning(
            "cost.cap_reached",
            sink=self._name,
            cap=str(self._cap),
            counted=str(now.counted),
            needed=str(dollars),
        )
        return SinkFailure(
            ErrorKind.SINK,
            cap_reached(self._cap, now.counted, dollars),
            retry_after=min(LOOK_AGAIN, max(1.0, now.seconds_left)),
        )

    def note_all(
        self,
        wave: Sequence[Request],
        answers: Sequence[Answer | SinkFailure],
        state: BatchState,
        model: Model,
        *,
        removing: bool,
    ) -> None:
        """Add the calls of a wave to the bill."""
        for call, answer in zip(wave, answers, strict=True):
            self.note(call.rows, answer, state, model, call.day, removing=removing)

    def note(
        self,
        rows: Sequence[Row],
        answer: Answer | SinkFailure,
        state: BatchState,
        model: Model,
        day: date | None,
        *,
        removing: bool = False,
    ) -> None:
        """Add one call to the bill: its real usage, or its upper bound if that is not known."""
        if isinstance(answer, Answer):
            usage = answer.usage
        elif answer.maybe_charged and self._bound is not None:
            usage = self._bound(rows, model, removing)
        else:
            return
        if not usage:
            return
        origins = Counter(
            op.origin if (op := state.operations.get(row.id)) else CONTROL for row in rows
        )
        for origin, part in ledger.shared(usage, origins or {CONTROL: 1}).items():
            dollars = self._price(part, model) or Decimal()
            state.bill.items.append(Item(origin, part, dollars, day))

    def _price(self, usage: Usage, model: Model) -> Decimal | None:
        return self._prices.dollars(usage, model.name) if self._prices is not None else Decimal()


def cap_reached(cap: Decimal, counted: Decimal, needed: Decimal) -> str:
    """Return the reason of a call that the cap of a day refuses, with the figures."""
    return (
        f"the cap of ${cap:f} a day is reached: ${counted:.6f} are spent or reserved, and the next "
        f"call may cost ${needed:.6f}. Raise {SETTING}, or wait for the next day (UTC)"
    )
