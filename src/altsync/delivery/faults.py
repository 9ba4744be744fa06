"""Update the breaker and the faults of destinations after a batch."""

from __future__ import annotations

import structlog

from altsync.circuit.breaker import (
    Fault,
    Gate,
    abandon_probe,
    close_breaker,
    note_faults,
    open_breaker,
)
from altsync.db import Conn
from altsync.delivery.evidence import ALONE
from altsync.delivery.state import BatchState
from altsync.log import redact

log = structlog.get_logger(__name__)


def update_breaker(
    conn: Conn, sink: str, state: BatchState, gate: Gate, delay: float, longest: float
) -> None:
    """Open the breaker for ``delay`` seconds after a failure; close it after a probe's answer."""
    passed = {one.name for one in state.destinations.values() if one.passed}
    recovered = (gate.faults.keys() & passed) - state.blamed.keys()
    if state.blamed or recovered:
        note_faults(conn, sink, _faults(sink, state, gate), list(recovered))
    if state.failure is not None:
        open_breaker(conn, sink, state.token, redact(state.failure.reason), delay, longest)
        log.warning("breaker.opened", sink=sink, seconds=round(delay, 2))
    elif gate.probing and state.answered:
        close_breaker(conn, sink, state.token)
        log.info("breaker.closed", sink=sink)
    elif gate.probing:
        abandon_probe(conn, sink, state.token)


def _faults(sink: str, state: BatchState, gate: Gate) -> dict[str, Fault]:
    """Return the faults of destinations that accepted nothing in this batch."""
    found: dict[str, Fault] = {}
    for name, failure in state.blamed.items():
        before = gate.faults.get(name)
        few = len(state.destinations[name].refused) < ALONE and (before is None or before.few)
        times = before.times + 1 if before else 1
        found[name] = Fault(redact(failure.reason), times, few)
        log.warning("destination.refuses", sink=sink, destination=name, times=times)
    return found
