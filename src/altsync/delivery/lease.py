"""Hold the lease of a batch while it is delivered."""

from __future__ import annotations

import time

import structlog

from altsync.db import Database
from altsync.delivery.policy import Policy
from altsync.delivery.state import BatchState
from altsync.outbox.claim import extend

log = structlog.get_logger(__name__)


def hold_lease(database: Database, sink: str, policy: Policy, state: BatchState) -> bool:
    """Make sure that the lease lasts for one more call; False when it was taken away.

    The first call needs no statement while enough of the lease is left.
    """
    if not state.attempted and state.lease_ends - time.monotonic() > policy.timeout:
        return True
    extended = time.monotonic()
    with database.autocommit() as conn:
        held = extend(conn, state.op_ids, state.token, policy.lease)
    state.lease_ends = extended + policy.lease
    if not held:
        log.error("lease.lost", sink=sink, operations=len(state.op_ids))
    return held
