"""The database and folder of a run, and the product put together over simulated servers."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from altsync import db
from altsync.catalogue.parts import Part
from altsync.contract import EMBEDDING, SinkTraits, Topology
from altsync.db import Conn
from altsync.delivery import Delivery, Policy
from altsync.entities import entity_id
from altsync.protocols import Sink
from altsync.relay import Relay, RelayPolicy
from altsync.seed.loader import Loader
from altsync.seed.options import SeedOptions
from altsync.seed.report import SeedReport
from altsync.seed.sql.deletion import tombstone
from altsync.seed.sql.seen import create_changed_in_run
from altsync.sinks.embedding.write import Sink as EmbeddingSink
from tests.faults.audit_log import AuditLog, WatchedDatabase
from tests.faults.connection import Connection
from tests.faults.embedder import SimulatedEmbedder, WatchedCache
from tests.faults.fault_plan import FaultPlan, NoFaults
from tests.faults.server import GuardedServer, Rule, SimulatedServer, UnguardedServer
from tests.faults.sinks import Graph, open_vectors
from tests.faults.workload import Action, Kind

MODEL, DIMENSIONS = "test-model", 4

NEO4J, PINECONE = "neo4j", "pinecone"

TOPOLOGY = Topology(
    (
        SinkTraits(EMBEDDING, guarded=True),
        SinkTraits(NEO4J, guarded=True, edges=True),
        SinkTraits(PINECONE, needs_embedding=True),
    )
)

#: Everything that takes seconds or minutes in production, in a tenth of it.
#: A confirming write waits longer than a lease, a timeout, a late write and a busy machine.
POLICY = Policy(
    batch_size=8,
    lease=1.0,
    timeout=0.4,
    max_attempts=5,
    max_lost_leases=10,
    backoff=0.05,
    backoff_cap=0.4,
    breaker_cap=0.4,
    confirm_after=2.0,
)

#: Seconds that a deleted entity stays: longer than anything late.
PURGE_GRACE = 4.0


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The database of a run, and the folder of its servers' files, seeds and audit log."""

    url: str
    folder: Path
    rules_off: frozenset[Rule] = frozenset()
    policy: Policy = POLICY

    @property
    def audit_log(self) -> AuditLog:
        """The events of all processes."""
        return AuditLog(self.folder / "events.jsonl")

    def server(self, sink: str) -> SimulatedServer:
        """The server behind a sink. Open it after a fork."""
        path = self.folder / f"{sink}.sqlite"
        return (
            GuardedServer(path, without=self.rules_off) if sink == NEO4J else UnguardedServer(path)
        )

    def open_sink(self, name: str, database: WatchedDatabase, faults: FaultPlan) -> Sink:
        """A simulated sink. A call inside an open transaction is noted."""
        server = self.server(name)

        def before() -> None:
            if database.in_transaction:
                self.audit_log.note("call.in_transaction", sink=name)

        connection = Connection(server, faults, before)
        match name:
            case "neo4j":
                return Graph(connection)
            case "pinecone":
                return open_vectors(connection, timeout=self.policy.timeout, dimensions=DIMENSIONS)
            case _:
                cache = WatchedCache(database, server)
                return EmbeddingSink(SimulatedEmbedder(connection), cache)

    def delivery(
        self,
        sink: str,
        database: WatchedDatabase,
        *,
        worker: str,
        faults: FaultPlan | None = None,
        at: Callable[[str], None] = lambda point: None,
    ) -> Delivery:
        """The product's delivery for one simulated sink."""
        opened = self.open_sink(sink, database, faults or NoFaults())
        return Delivery(database, opened, TOPOLOGY, self.policy, worker=worker, at=at)

    def relay(self, database: WatchedDatabase) -> Relay:
        """Return the product's relay without a broker: workers poll for themselves."""
        return Relay(
            database,
            lambda: db.connect(self.url),
            lambda sink: None,
            TOPOLOGY,
            TOPOLOGY.names,
            RelayPolicy(
                poll=0.1,
                batch_size=self.policy.batch_size,
                max_lost_leases=self.policy.max_lost_leases,
                purge_grace=PURGE_GRACE,
                confirm_after=self.policy.confirm_after,
            ),
        )

    def seeder(self, name: str, conn: Conn) -> Seeder:
        """The product's loader on files of its own."""
        return Seeder(conn, self.folder / "seeds" / name)


class Seeder:
    """Carries out actions with the product's loader."""

    def __init__(self, conn: Conn, folder: Path) -> None:
        self._conn = conn
        self._root = folder

    def do(self, action: Action, progress: Callable[[Part, int], None] | None = None) -> None:
        """One run of the loader, or one deletion."""
        if action.kind is Kind.TOMBSTONE:
            self._tombstone(action)
            return
        folder = self._folder()
        path = folder / f"{action.part}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in action.lines))
        options = SeedOptions(folder, (action.part,), prune=action.kind is Kind.PRUNE, yes=True)
        report = SeedReport(None)
        try:
            Loader(
                self._conn, TOPOLOGY, options, report, progress or (lambda part, size: None)
            ).run()
        finally:
            path.unlink()
            folder.rmdir()
        if report.total.rejected:
            raise AssertionError(f"lines were refused: {report.shown}")

    def _tombstone(self, action: Action) -> None:
        entity_type = action.part.entity_type
        assert entity_type is not None
        ids = [entity_id(entity_type, seed_id) for seed_id in action.seed_ids]
        with self._conn.transaction():
            create_changed_in_run(self._conn)
            tombstone(self._conn, entity_type, ids, TOPOLOGY)

    def _folder(self) -> Path:
        self._root.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=self._root))
