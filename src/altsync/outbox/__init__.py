"""SQL on the outbox: enqueue, claim, settle, and what keeps it healthy.

The one rule: at most one LIVE row (pending or in progress) per sink and entity. The live row is
that sink's state (wanted version, lease, attempts); finished rows are the audit trail. Its row
lock is the exclusion, so claims need no sweep and no look at other rows.

Lock order of every writer of operations: entities first (tables in the order of
``EntityType``, rows by id), then operations. ``claim`` alone takes operations without their
entities, and never waits.

All clocks are the database's. Functions take a connection and never commit.
"""

from __future__ import annotations

from altsync.errors import LONGEST_WAIT
from altsync.outbox.breaker import (
    Fault,
    Gate,
    SinkHealth,
    abandon_probe,
    close_breaker,
    enabled_sinks,
    gate,
    may_wake,
    note_faults,
    open_breaker,
    pause,
    probe_now,
    register_sinks,
    resume,
    set_enabled,
    sink_health,
    want_model,
    wanted_model,
)
from altsync.outbox.budget import correct, reserve
from altsync.outbox.claim import Due, claim, due, exhausted, extend, release
from altsync.outbox.clock import Bounds, SetBack, set_back, set_deletions_back
from altsync.outbox.control import begin_control, end_control, passed_since
from altsync.outbox.dead import (
    EVERYTHING,
    DeadOperation,
    FailureGroup,
    Failures,
    Selection,
    count_dead,
    dead_by_sink,
    dead_ids,
    discard_dead,
    failures,
    most_frequent,
    retry_dead,
)
from altsync.outbox.edges import (
    ask_for_neighbours,
    basis_of,
    begin_searches,
    carry_edges,
    due_searches,
    end_searches,
    forget_basis,
    is_gathering,
    release_held,
)
from altsync.outbox.enqueue import (
    CHANNEL,
    HOLD,
    LOW_PRIORITY,
    ON_LIVE,
    enqueue_parameters,
    lock_entities,
    notify,
    select_operations,
    status_column,
)
from altsync.outbox.installation import installation, make_installation
from altsync.outbox.prune import (
    PrunedRange,
    claim_pruning,
    count_batches,
    prune_batches,
    prune_range,
)
from altsync.outbox.repair import (
    given_up,
    highest_believable,
    lift,
    repair,
    repair_edges,
    version_above,
)
from altsync.outbox.settle import (
    note_former_places,
    note_places,
    record_batch,
    settle,
)
from altsync.outbox.upkeep import (
    backfill_page,
    forget_former_keys,
    purge_deleted,
    reembed_page,
)
from altsync.outbox.vectors import HAS_VECTOR, VECTOR

__all__ = [
    "CHANNEL",
    "EVERYTHING",
    "HAS_VECTOR",
    "HOLD",
    "LONGEST_WAIT",
    "LOW_PRIORITY",
    "ON_LIVE",
    "VECTOR",
    "Bounds",
    "DeadOperation",
    "Due",
    "FailureGroup",
    "Failures",
    "Fault",
    "Gate",
    "PrunedRange",
    "Selection",
    "SetBack",
    "SinkHealth",
    "abandon_probe",
    "ask_for_neighbours",
    "backfill_page",
    "basis_of",
    "begin_control",
    "begin_searches",
    "carry_edges",
    "claim",
    "claim_pruning",
    "close_breaker",
    "correct",
    "count_batches",
    "count_dead",
    "dead_by_sink",
    "dead_ids",
    "discard_dead",
    "due",
    "due_searches",
    "enabled_sinks",
    "end_control",
    "end_searches",
    "enqueue_parameters",
    "exhausted",
    "extend",
    "failures",
    "forget_basis",
    "forget_former_keys",
    "gate",
    "given_up",
    "highest_believable",
    "installation",
    "is_gathering",
    "lift",
    "lock_entities",
    "make_installation",
    "may_wake",
    "most_frequent",
    "note_faults",
    "note_former_places",
    "note_places",
    "notify",
    "open_breaker",
    "passed_since",
    "pause",
    "probe_now",
    "prune_batches",
    "prune_range",
    "purge_deleted",
    "record_batch",
    "reembed_page",
    "register_sinks",
    "release",
    "release_held",
    "repair",
    "repair_edges",
    "reserve",
    "resume",
    "retry_dead",
    "select_operations",
    "set_back",
    "set_deletions_back",
    "set_enabled",
    "settle",
    "sink_health",
    "status_column",
    "version_above",
    "want_model",
    "wanted_model",
]
