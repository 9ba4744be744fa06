"""Collect evidence: send another record when one was refused alone and none has passed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import psycopg
import structlog

from altsync.circuit.control import begin_control, end_control, passed_since
from altsync.contract import AlreadyNewer, Answer, Written
from altsync.db import Database
from altsync.declarations import namespace_column
from altsync.delivery.budget import Budget
from altsync.delivery.evidence import ALONE, Destination
from altsync.delivery.policy import Policy
from altsync.delivery.spending import Spending
from altsync.delivery.state import BatchState, hold_lease
from altsync.entities import Model, Row
from altsync.errors import SinkFailure
from altsync.operations import ErrorKind, Operation
from altsync.outbox.enqueue import lock_entities
from altsync.projection import namespace
from altsync.protocols import Sink
from altsync.store.rows import read_rows

log = structlog.get_logger(__name__)


def attempt(
    sink: str, rows: Sequence[Row], send: Callable[[Sequence[Row]], Answer]
) -> Answer | SinkFailure:
    """Make one call; return its answer or its failure.

    Raises PostgreSQL's errors, and the batch is given back. An invalid value fails the record.
    """
    try:
        return send(rows)
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        return as_failure(sink, error, len(rows))
    except psycopg.Error:
        raise
    except Exception as error:  # noqa: BLE001  (recorded in the rows; other calls go on)
        return as_failure(sink, error, len(rows))


def as_failure(sink: str, error: Exception, records: int) -> SinkFailure:
    """Return the failure of a call, and log one that its adapter did not translate."""
    if isinstance(error, SinkFailure):
        return error
    log.error("sink.failed", sink=sink, records=records, exc_info=error)
    return SinkFailure(ErrorKind.UNKNOWN, f"{type(error).__name__}: {error}", outcome_unknown=True)


def is_misplaced(row: Row) -> bool:
    """Return whether a row may be in another namespace than it belongs to."""
    namespaces = {row.written_namespace, *row.stale_namespaces}
    return row.entity_type.moves and namespaces != {namespace(row)}


class Controls:
    """The control calls to one sink: its ``probe``, or one more write of a record that it holds."""

    def __init__(
        self,
        database: Database,
        sink: Sink,
        policy: Policy,
        budget: Budget,
        spending: Spending,
        worker: str,
    ) -> None:
        self._database = database
        self._sink = sink
        self._traits = sink.traits
        self._policy = policy
        self._budget = budget
        self._spending = spending
        self._worker = worker
        self._probe: Callable[[Model], Answer] | None = getattr(sink, "probe", None)

    def passes(self, destination: Destination, state: BatchState, model: Model) -> bool:
        """Return whether another record passes now; if so, charge the refused ones."""
        if not hold_lease(self._database, self._traits.name, self._policy, state):
            return False
        answer = self._call(destination, state, model)
        if answer is None:
            return self._passed_since(destination, state)
        state.calls += 1
        if isinstance(answer, SinkFailure):
            log.info(
                "control.failed",
                sink=self._traits.name,
                destination=destination.name,
                reason=answer.reason,
            )
            if answer.retry_after is not None:
                state.failure = answer
            return False
        _charge(destination, state)
        return True

    def _passed_since(self, destination: Destination, state: BatchState) -> bool:
        """Return whether another record has passed since the refused ones failed alone before.

        This is the evidence if the sink holds no record that could be written once more.
        """
        ids = [state.operations[i].id for i in destination.refused]
        # A stored vector needs no call, so it does not show that the embedder answers.
        if not self._traits.embeds:
            with self._database.autocommit() as conn:
                if passed_since(conn, ids):
                    _charge(destination, state)
                    return True
        destination.unjudged = True
        return False

    def _call(
        self, destination: Destination, state: BatchState, model: Model
    ) -> Answer | SinkFailure | None:
        """Make one call; None where there is nothing to send."""
        if self._probe is not None:
            return self._send_probe(self._probe, destination, state, model)
        return self._write_again(destination, state, model)

    def _send_probe(
        self,
        probe: Callable[[Model], Answer],
        destination: Destination,
        state: BatchState,
        model: Model,
    ) -> Answer | SinkFailure | None:
        # A probe is the same for all types: it is no evidence for a type that refuses many.
        many = len(destination.refused) >= ALONE or (
            destination.fault is not None and not destination.fault.few
        )
        if many or destination.deleted:
            return None
        try:
            reserved = self._budget.reserve([[]])
        except SinkFailure as failure:
            return failure
        if reserved:
            time.sleep(reserved.wait)
        answer = self._paid([], state, model, lambda _: probe(model))
        if reserved:
            self._budget.correct(reserved, [answer])
        return answer

    def _paid(
        self,
        rows: Sequence[Row],
        state: BatchState,
        model: Model,
        send: Callable[[Sequence[Row]], Answer],
        *,
        removing: bool = False,
    ) -> Answer | SinkFailure:
        """Make one call within the cap of the day, and add it to the batch's bill."""
        day = self._spending.reserve(rows, state, model, removing=removing)
        if isinstance(day, SinkFailure):
            return day
        answer = attempt(self._traits.name, rows, send)
        self._spending.note(rows, answer, state, model, day, removing=removing)
        return answer

    def _write_again(
        self, destination: Destination, state: BatchState, model: Model
    ) -> Answer | SinkFailure | None:
        with self._database.autocommit() as conn:
            op = begin_control(
                conn,
                self._traits,
                destination.entity_type,
                deleted=destination.deleted,
                token=state.token,
                worker=self._worker,
                lease=self._policy.lease,
            )
        if op is None:
            return None
        settled = False
        try:
            row = self._row_of(op, model)
            answer = None if row is None else self._send(row, state, model)
            # The guard of a guarded sink refuses a write that arrives too late.
            late = isinstance(answer, SinkFailure) and answer.outcome_unknown
            settled = self._traits.guarded or not late
        finally:
            with self._database.transaction() as conn:
                lock_entities(conn, [(op.entity_type, op.entity_id)])
                end_control(conn, op, state.token, settled=settled)
        return answer

    def _send(self, row: Row, state: BatchState, model: Model) -> Answer | SinkFailure:
        def send(rows: Sequence[Row]) -> Answer:
            return self._sink.delete(rows) if row.deleted else self._sink.upsert(rows, model)

        answer = self._paid([row], state, model, send, removing=row.deleted)
        if isinstance(answer, SinkFailure):
            return answer
        if answer.calls and any(isinstance(o, Written | AlreadyNewer) for o in answer.outcomes):
            return answer
        return SinkFailure(ErrorKind.UNKNOWN, "the control write was not taken")

    def _row_of(self, op: Operation, model: Model) -> Row | None:
        """Read the row of a control write; None when the sink holds another state of it."""
        with self._database.autocommit() as conn:
            rows = read_rows(
                conn,
                op.entity_type,
                [op.entity_id],
                with_vectors=self._traits.needs_embedding,
                with_edges=self._traits.edges,
                sink=self._traits.base,
                model=model if self._traits.shadow else None,
            )
        if not rows:
            return None
        (row,) = rows
        if self._traits.version_of(row) != op.version:
            return None
        if self._traits.needs_embedding and not row.deleted:
            misplaced = namespace_column(self._traits.name) is not None and is_misplaced(row)
            return row if row.is_embedded_by(model.name) and not misplaced else None
        return row


def _charge(destination: Destination, state: BatchState) -> None:
    """Charge the records that were refused alone, as another one passes."""
    state.answered = True
    if any(failure is state.failure for failure in destination.refused.values()):
        state.failure, state.failures_in_a_row = None, 0  # the record failed, not the sink
    destination.pass_on()
