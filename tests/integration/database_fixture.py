"""Helpers that change and read the database of a test."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import orjson
from psycopg.rows import class_row, dict_row

from altsync import arrays, db
from altsync.catalogue.current import entity_types
from altsync.circuit.sinks import register_sinks
from altsync.contract import SinkTraits, Topology
from altsync.db import Conn, Database
from altsync.delivery import Batch, Delivery, Policy
from altsync.entities import Content, EntityType, Model, entity_id
from altsync.operations import Operation, Outcome, Settlement
from altsync.outbox import claim as outbox_claim
from altsync.outbox import settle as outbox_settle
from altsync.outbox.settle import Plan
from altsync.projection import content_hash, text_hash
from altsync.protocols import Sink
from altsync.relay import Relay, RelayPolicy
from altsync.seed.changes import Changes
from altsync.seed.sql.deletion import tombstone
from altsync.seed.sql.entities import copy_to_staging, create_staging, upsert_staged
from altsync.seed.sql.seen import create_changed_in_run
from altsync.sinks.embedding import write as embedding
from altsync.store.rows import HALF_HASH, row_sum
from altsync.store.vectors import EmbeddingCache
from tests import sports
from tests.conftest import DIMENSIONS, MODEL, TOPOLOGY
from tests.integration.fakes import FakeEmbedder

#: Seconds for things that happen by themselves; far more than they need.
TIMEOUT = 30.0

#: Seconds of a lease, long enough that none runs out unless a test says so.
LEASE = 30.0

#: Seconds after which an outcome_unknown write is repeated: lease and timeout together.
CONFIRM_AFTER = 40.0

GRAPH = TOPOLOGY.traits("neo4j")
INDEX = TOPOLOGY.traits("pinecone")
EMBEDDER = TOPOLOGY.traits("embedding")


def league(key: str, **changes: Any) -> sports.League:
    """A league whose tag, and seed id, is ``key``."""
    content: dict[str, Any] = {
        "league_name": f"The {key}",
        "sport_name": "Football",
        "sport_archetype": "team_sport",
    }
    return sports.League(key, **{**content, **changes})


def leagues(count: int) -> list[sports.League]:
    """So many leagues: l000, l001 …"""
    return [league(f"l{number:03}") for number in range(count)]


def example(key: str, category: str = "triage", **changes: Any) -> sports.FewShotExample:
    """An example whose id is ``key``."""
    return sports.FewShotExample(
        key, category, **{"input_text": key, "output_text": "yes", **changes}
    )


def archetype(key: str, **changes: Any) -> sports.SportArchetype:
    """An archetype whose name is ``key``."""
    content: dict[str, Any] = {"display_name": key.title(), "code_pattern": "TeamMatch"}
    return sports.SportArchetype(key, **{**content, **changes})


def type_of(content: Content) -> EntityType:
    """The table of a content."""
    return content.entity_type


def key_of(content: Content) -> str:
    """The key of a content in every sink; these tests take it as the seed id too."""
    return str(getattr(content, type_of(content).key_column))


def id_of(content: Content) -> UUID:
    """The id of a content's entity."""
    return entity_id(type_of(content), key_of(content))


@dataclass(frozen=True, slots=True)
class Op:
    """A row of the outbox. ``wait`` is in seconds from now until it is available."""

    id: int
    entity_type: str
    entity_id: UUID
    entity_key: str
    sink: str
    action: str
    version: int
    origin: str
    priority: int
    status: str
    attempts: int
    timeout_count: int
    lease_token: UUID | None
    leased_by: str | None
    rerun_requested: bool
    outcome_unknown: bool
    last_error: str | None
    error_kind: str | None
    wait: float

    @property
    def live(self) -> bool:
        """Return whether it is still to be done."""
        return self.status in ("pending", "in_progress")


class DatabaseFixture:
    """A database seen from a session of its own, which seeds, looks, and moves the time."""

    #: The sinks that a save enqueues for.
    topology: Topology = TOPOLOGY

    def __init__(self, url: str) -> None:
        self.url = url
        self.conn = db.connect(url)

    def close(self) -> None:
        """End the session."""
        self.conn.close()

    # --- seeding --------------------------------------------------------------------------------

    def save(self, *contents: Content) -> Changes:
        """Seed contents in one transaction."""
        with self.saving(*contents) as changes:
            return changes

    @contextmanager
    def saving(self, *contents: Content) -> Iterator[Changes]:
        """Seed contents in a transaction that is committed at the end."""
        create_changed_in_run(self.conn)
        for entity_type in {type_of(c) for c in contents}:
            create_staging(self.conn, entity_type)
        with self.conn.transaction():
            yield save(self.conn, *contents, topology=self.topology)

    def delete(self, *contents: Content) -> Changes:
        """Delete in one transaction."""
        create_changed_in_run(self.conn)
        with self.conn.transaction():
            return delete(self.conn, *contents)

    def note_lines(self) -> None:
        """Give every row the hash of a line that wrote it, as a seeding run does."""
        for kind in entity_types():
            self.conn.execute(
                f"UPDATE {kind} l SET line_hash = repeat('0', {HALF_HASH}) "
                f"|| left(l.content_hash, {HALF_HASH}) || {row_sum(kind, 'l')}"
            )

    # --- looking --------------------------------------------------------------------------------

    def ops(self, sink: str | None = None, key: str | None = None) -> list[Op]:
        """Operations, by sink and entity, in the order in which they came up."""
        with self.conn.cursor(row_factory=class_row(Op)) as cursor:
            return cursor.execute(
                """
                SELECT id, entity_type, entity_id, entity_key, sink, action, version, origin,
                       priority, status, attempts, timeout_count, lease_token, leased_by,
                       rerun_requested,
                       outcome_unknown, last_error, error_kind,
                       EXTRACT(epoch FROM available_at - now())::float8 AS wait
                FROM sync_operation
                WHERE (%(sink)s::text IS NULL OR sink = %(sink)s)
                  AND (%(key)s::text IS NULL OR entity_key = %(key)s) ORDER BY id
                """,
                {"sink": sink, "key": key},
            ).fetchall()

    def live(self, sink: str, key: str) -> Op:
        """The one live operation of a sink and entity."""
        (op,) = (op for op in self.ops(sink, key) if op.live)
        return op

    def last(self, sink: str, key: str) -> Op:
        """The latest operation of a sink and entity."""
        return self.ops(sink, key)[-1]

    def counts(self, sink: str) -> dict[str, int]:
        """Operations of a sink by status."""
        rows = self.conn.execute(
            "SELECT status, count(*) FROM sync_operation WHERE sink = %s GROUP BY 1", (sink,)
        )
        return dict(rows.fetchall())

    def find(self, content: Content) -> dict[str, Any] | None:
        """The row of an entity, if it is there."""
        with self.conn.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(
                f"SELECT * FROM {type_of(content)} WHERE id = %s", (id_of(content),)
            ).fetchone()

    def row(self, content: Content) -> dict[str, Any]:
        """The row of an entity."""
        found = self.find(content)
        assert found is not None
        return found

    def vector(self, content: Content) -> bytes | None:
        """The vector of an entity."""
        query = f"SELECT l.embedding_vector FROM {type_of(content)} l WHERE id = %s"
        vector: bytes | None = self.scalar(query, id_of(content))
        return vector

    def version(self, content: Content) -> int:
        """The version of an entity."""
        return int(self.row(content)["version"])

    def statuses(self, content: Content) -> dict[str, str]:
        """The status of each sink on an entity."""
        row = self.row(content)
        return {sink: row[f"{sink}_sync_status"] for sink in TOPOLOGY.names}

    def scalar(self, query: str, *parameters: Any) -> Any:
        """The one value of a query."""
        row = self.conn.execute(query, parameters).fetchone()
        assert row is not None
        return row[0]

    # --- time -----------------------------------------------------------------------------------

    def advance_time(self, seconds: float) -> None:
        """Let everything that waits in the database be nearer by so many seconds."""
        advance_time(self.conn, seconds)

    def expire_leases(self) -> None:
        """Let the leases of workers that vanished run out."""
        self.conn.execute(
            "UPDATE sync_operation SET available_at = now() WHERE status = 'in_progress'"
        )

    def until_waiting(self, conn: Conn) -> None:
        """Wait until another session is held up by a lock."""
        eventually(
            lambda: bool(
                self.scalar(
                    "SELECT count(*) FROM pg_stat_activity "
                    "WHERE pid = %s AND wait_event_type = 'Lock'",
                    conn.info.backend_pid,
                )
            )
        )

    def until_alone(self) -> None:
        """Wait until PostgreSQL has noticed that every other session is gone."""
        eventually(
            lambda: (
                not self.scalar(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND pid <> pg_backend_pid() AND backend_type = 'client backend' "
                    "AND application_name = 'altsync'"
                )
            )
        )

    # --- claiming and settling ------------------------------------------------------------------

    def claim(self, sink: str, *, limit: int = 500, **changes: Any) -> tuple[UUID, list[Operation]]:
        """Lease as a worker does; returns the lease's token too."""
        token = changes.pop("token", None) or uuid4()
        numbers = {"worker": "tests", "lease": LEASE, "max_attempts": 10, **changes}
        return token, outbox_claim.claim(self.conn, sink, token=token, limit=limit, **numbers)

    def settle(
        self, sink: SinkTraits, token: UUID, outcomes: Sequence[Outcome], **changes: Any
    ) -> Settlement:
        """Settle as a worker does."""
        with self.conn.transaction():
            return settle(self.conn, sink, token, outcomes, **changes)


def empty(conn: Conn) -> None:
    """Make a migrated database as good as new.

    A table without a page is empty already, and truncating it takes milliseconds.
    """
    filled = conn.execute(
        """
        SELECT string_agg(oid::regclass::text, ', ') FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
          AND relname <> 'alembic_version' AND pg_relation_size(oid) > 0
        """
    ).fetchone()
    if filled and filled[0]:
        conn.execute(f"TRUNCATE {filled[0]} CASCADE")
    register_sinks(conn, TOPOLOGY, MODEL, DIMENSIONS)


def save(conn: Conn, *contents: Content, topology: Topology = TOPOLOGY) -> Changes:
    """Seed inside the caller's transaction; the session has its temporary tables already."""
    changes = Changes()
    for entity_type in entity_types():
        members = [content for content in contents if type_of(content) is entity_type]
        if members:
            copy_to_staging(conn, entity_type, [_staged(content) for content in members])
            changes += upsert_staged(conn, entity_type, topology)
    return changes


def delete(conn: Conn, *contents: Content) -> Changes:
    """Delete inside the caller's transaction."""
    changes = Changes()
    for entity_type in entity_types():
        ids = [id_of(content) for content in contents if type_of(content) is entity_type]
        if ids:
            changes += tombstone(conn, entity_type, ids, TOPOLOGY)
    return changes


def settle(
    conn: Conn, sink: SinkTraits, token: UUID, outcomes: Sequence[Outcome], **changes: Any
) -> Settlement:
    """Settle inside the caller's transaction."""
    numbers = {"confirm_after": CONFIRM_AFTER, "model": Model(MODEL, DIMENSIONS), **changes}
    return outbox_settle.settle(conn, sink, token, outcomes, Plan(TOPOLOGY, **numbers))


def advance_time(conn: Conn, seconds: float) -> None:
    """Move everything that waits in the database so many seconds into the past."""
    for statement in (
        "UPDATE sync_operation SET available_at = available_at - {t} WHERE finished_at IS NULL",
        "UPDATE sink_state SET open_until = open_until - {t}, probe_until = probe_until - {t}, "
        "last_claim_at = last_claim_at - {t}, last_wake_at = last_wake_at - {t}",
        *(
            f"UPDATE {entity_type} SET deleted_at = deleted_at - {{t}} WHERE deleted_at < now()"
            for entity_type in entity_types()
        ),
    ):
        conn.execute(statement.format(t=f"make_interval(secs => {float(seconds)})"))


def embedding_sink(database: Database, embedder: FakeEmbedder) -> embedding.Sink:
    """The product's own embedding sink, over a fake embedder."""
    return embedding.Sink(embedder, EmbeddingCache(database))


def delivery(
    database: Database, sink: Sink, at: Callable[[str], None] = lambda point: None, **policy: Any
) -> Delivery:
    """Delivery as a worker has it."""
    numbers = Policy(**{"lease": LEASE, "confirm_after": CONFIRM_AFTER, **policy})
    return Delivery(database, sink, TOPOLOGY, numbers, worker="tests", at=at)


def deliver(database: Database, sink: Sink, **policy: Any) -> Batch:
    """Deliver one batch."""
    return delivery(database, sink, **policy).deliver_batch()


def embed(database: Database, embedder: FakeEmbedder | None = None) -> FakeEmbedder:
    """Embed all that waits for it."""
    embedder = embedder or FakeEmbedder()
    delivery(database, embedding_sink(database, embedder)).drain(TIMEOUT)
    return embedder


def dead_letter_exhausted(pg: DatabaseFixture, database: Database) -> None:
    """Let the relay give up on operations whose workers vanished too often."""
    relay = Relay(database, lambda: pg.conn, lambda sink: None, TOPOLOGY, [], RelayPolicy())
    relay.poll([])


def eventually(condition: Callable[[], bool], timeout: float = TIMEOUT) -> None:
    """Wait for a condition, for so many seconds at most."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def _staged(content: Content) -> tuple[str | None, ...]:
    entity_type = type_of(content)
    columns = (getattr(content, name) for name in entity_type.columns)
    return (
        entity_id(entity_type, key_of(content)).hex,
        key_of(content),
        *(_column(value) for value in columns),
        content_hash(content),
        text_hash(content),
        None,
    )


def _column(value: Any) -> Any:
    if isinstance(value, dict):
        return orjson.dumps(value).decode()
    return arrays.array_of_texts(value) if isinstance(value, tuple) else value
