"""The composition root: it builds all clients and parts of a process from the settings.

More than 300 lines: programs, commands and workers use one class, and its methods are short.
"""

from __future__ import annotations

import importlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import psycopg
import structlog

from altsync import db, revisions
from altsync.catalogue.current import entity_types
from altsync.catalogue.tables import check_tables
from altsync.circuit.sinks import register_sinks, set_enabled, sink_health
from altsync.config import Settings, protect_settings, read_settings
from altsync.contract import (
    EMBEDDING,
    SHADOW,
    SIMILARITY,
    Declaration,
    Installation,
    Topology,
    imported,
)
from altsync.db import Database, Outage
from altsync.declarations import (
    GRAPHS,
    INDEXES,
    LOCAL_SIMILARITY,
    SINKS,
    index_similarity,
    not_installed,
)
from altsync.delivery import Delivery, DrainResult
from altsync.delivery.shadow import ShadowSink
from altsync.embedding import Embedder
from altsync.entities import EntityType, Model
from altsync.errors import ConfigurationError, SchemaError, SinkFailure
from altsync.generations import (
    Generation,
    Generations,
    read_generations,
    with_settings,
    without_limits,
)
from altsync.installation import installation
from altsync.lazy_embedder import LazyEmbedder
from altsync.moves.state import fill, search_again
from altsync.operations import BreakerState
from altsync.ownership import Ownership
from altsync.policies import delivery_policy, relay_policy
from altsync.relay import Relay
from altsync.retention import Retention
from altsync.sentences import describe
from altsync.similarity.rules import declared_rules
from altsync.status.collect import IDLE_SECONDS, Status, collect, idle_message
from altsync.status.sql import idle_sinks
from altsync.store.reads import known_keys, living_keys
from altsync.store.vectors import EmbeddingCache

if TYPE_CHECKING:
    from pathlib import Path

    from altsync.protocols import Index, Sink
    from altsync.queries.stores import GraphStore, Stores, VectorIndex
    from altsync.schema import Plan
    from altsync.verify.report import Options, Report

logger = structlog.get_logger(__name__)

#: Part of a lease that one statement may take. A worker that waits longer has lost its lease.
STATEMENT_SHARE = 0.8

#: Pages of a move that one round of housekeeping enqueues: a second or two.
MOVE_PAGES = 5

#: Seconds for which ``migrate`` waits for new indexes, and between two checks of them.
READY_WITHIN = 120.0
READY_PAUSE = 1.0


class Application:
    """The parts of one process, each built at its first use. Create it after a fork.

    ``serving``: the process holds leases or answers requests, and its statements are limited to
    ``STATEMENT_SHARE`` of a lease. A command has no limit.
    """

    def __init__(self, settings: Settings | None = None, *, serving: bool = False) -> None:
        self.settings = settings or read_settings()
        self._serving = serving
        self._outage = Outage()
        self._deliveries: dict[str, Delivery | None] = {}
        self._sinks: dict[tuple[str, Generation | None], Sink | None] = {}
        self._me: Installation | None = None
        self._lock = threading.Lock()
        self.stopping = threading.Event()
        protect_settings(dict(self.settings))
        if serving:
            self.load()

    def load(self) -> None:
        """Import every module that delivery needs, with its SDK.

        Call it before a fork, so that the children share the memory. Call it before threads start:
        two threads that import one SDK may see a half-imported module.
        """
        declared = [self._declared(sink) for sink in self.topology.names]
        functions = [path for one in declared for path in (one.open, one.compare)]
        modules = [path.partition(":")[0] for path in functions]
        for module in dict.fromkeys([*modules, "altsync.openai_embedder", "altsync.verify.run"]):
            importlib.import_module(module)

    @cached_property
    def topology(self) -> Topology:
        """All sinks of the settings. Raises ``ConfigurationError`` for an unknown one."""
        names = self.settings.sink_names
        traits = [_declaration(name).traits for name in names]
        lacking = [one.name for one in traits if one.needs_embedding]
        if lacking and EMBEDDING not in names:
            raise ConfigurationError(
                f"ALTSYNC_SINKS: {', '.join(lacking)} needs the sink embedding: add it"
            )
        similarity = self._similarity
        if similarity is not None and similarity.traits.follows in names:
            traits.append(similarity.traits)
        return Topology(tuple(traits))

    @cached_property
    def _index(self) -> str | None:
        """The vector index of queries: the first enabled one that the settings name."""
        named = [name for name in INDEXES if name in self.settings.sink_names]
        ready = (name for name in named if self.disabled_reason(name) is None)
        return next(ready, named[0] if named else None)

    @property
    def _similarity(self) -> Declaration | None:
        match self.settings.altsync_similarity:
            case "local":
                return LOCAL_SIMILARITY
            case "index" if self._index is not None:
                return index_similarity(self._index)
            case _:
                return None

    @cached_property
    def database(self) -> Database:
        """The pool of connections for workers and commands."""
        limit = self.settings.altsync_lease_seconds * STATEMENT_SHARE
        return self._pool(limit if self._serving else None)

    @cached_property
    def _unlimited_database(self) -> Database:
        """A pool without a statement timeout: a comparison reads whole tables."""
        return self._pool(None) if self._serving else self.database

    def _pool(self, statement_timeout: float | None) -> Database:
        return Database(
            self.settings.require_database_url(),
            pooled=self.settings.altsync_direct_database_url is not None,
            statement_timeout=statement_timeout,
        )

    def connect(self, name: str = "altsync") -> db.Conn:
        """Open a session connection, for LISTEN and temporary tables."""
        return db.connect(self.settings.require_database_url(direct=True), name=name)

    def disabled_reason(self, sink: str) -> str | None:
        """Return why a sink is disabled: the setting that it lacks. None if it is enabled."""
        setting = self._declared(sink).setting
        if setting and self.settings.of_sink(setting) is None:
            return f"{setting} is not set"
        return None

    def _declared(self, sink: str) -> Declaration:
        if sink == SIMILARITY:
            return self._similarity or LOCAL_SIMILARITY
        return _declaration(sink)

    @property
    def disabled_reasons(self) -> dict[str, str | None]:
        """The reason of each disabled sink, None for others."""
        return {sink: self.disabled_reason(sink) for sink in self.topology.names}

    @property
    def enabled(self) -> list[str]:
        """The sinks that are configured."""
        return [s for s in self.topology.names if self.disabled_reason(s) is None]

    def sink(self, name: str, found: Generations | None = None) -> Sink | None:
        """Return a sink, opened once; None if it is not configured.

        A sink of vectors is that of the serving generation, or the sink's shadow by its name.
        ``found`` are the generations, read from the database by default.
        """
        base, is_shadow = name.removeprefix(SHADOW), name.startswith(SHADOW)
        if found is None and self._is_of_vectors(base):
            with suppress(psycopg.Error):  # the caller's own statements will say so
                found = self.generations()
        # Without a move the settings decide, as they do before the first migration.
        own = found.of(name) if found and found.moved else None
        if is_shadow and own is None:
            return None
        own = without_limits(own) if own and self._is_of_vectors(base) else None
        with self._lock:
            if (name, own) not in self._sinks:
                opened = self._open(base, own)
                if opened is not None and is_shadow:
                    opened = cast("Sink", ShadowSink(opened))
                self._sinks[name, own] = opened
            return self._sinks[name, own]

    def _is_of_vectors(self, name: str) -> bool:
        return self._declared(name).traits.needs_embedding

    def generations(self) -> Generations | None:
        """Return the models of the database; None before the first migration."""
        if self.settings.database_url is None:
            return None
        with self.database.autocommit() as conn:
            return read_generations(conn)

    def _open(self, name: str, own: Generation | None = None) -> Sink | None:
        if name != SIMILARITY:
            settings = with_settings(self.settings, own) if own else self.settings
            opened = imported(_declaration(name).open)(settings, EmbeddingCache(self.database))
            if hasattr(opened, "belong_to"):
                opened.belong_to(Ownership(self._installation, self._known_keys))
            return cast("Sink | None", opened)
        make = imported(self._declared(name).open)
        if self.settings.altsync_similarity == "local":
            return cast("Sink", make(self.database, self.topology, declared_rules))
        # Open the index again: each sink is closed separately.
        assert self._index is not None
        index = self._open(self._index, own)
        if index is None:
            return None
        queried = cast("Index", index)
        made = make(self.database, queried, self.topology, declared_rules, follows=self._index)
        return cast("Sink", made)

    def _installation(self) -> Installation | None:
        """Return this installation, read once; None before the first migration."""
        if self._me is None:
            with self.database.autocommit() as conn:
                self._me = installation(conn)
        return self._me

    def _known_keys(self, entity_type: EntityType, keys: Sequence[str]) -> set[str]:
        with self.database.autocommit() as conn:
            return known_keys(conn, entity_type, keys)

    def adopt(self, name: str) -> list[Installation] | None:
        """Make this installation the owner of a sink's store. Return the former owners.

        Return None for a sink without a mark, or one that is not configured. Raises
        ``SinkFailure``.
        """
        adopt: Callable[[], list[Installation]] | None = getattr(self.sink(name), "adopt", None)
        return adopt() if adopt else None

    def adopt_nodes(self, *, dry_run: bool) -> dict[str, int]:
        """Take over other programs' nodes with an entity's key. Return their number by label.

        Their other properties stay. Raises ``SinkFailure``.
        """
        graph: Any = self.sink(GRAPHS[0])
        graph.check_owner()
        return {
            graph.label(entity_type): self._adopt_nodes_of(graph, entity_type, dry_run=dry_run)
            for entity_type in entity_types()
        }

    def _adopt_nodes_of(self, graph: Any, entity_type: EntityType, *, dry_run: bool) -> int:
        count, after = 0, ""
        while page := graph.strangers(entity_type, after):
            with self.database.autocommit() as conn:
                keys = list(living_keys(conn, entity_type, page))
            if keys:
                count += len(keys) if dry_run else graph.adopt_nodes(entity_type, keys)
            after = page[-1]
        return count

    def stores(self) -> Stores:
        """Return the stores of queries. Raises ``SchemaError`` before the first migration."""
        with self.database.autocommit() as conn:
            found = read_generations(conn)
        if found is None:
            raise SchemaError("no sink is registered: run altsync migrate")
        return self.stores_of(found)

    def stores_of(self, found: Generations, *, shadow: bool = False) -> Stores:
        """Return the stores of queries by one generation: the serving one, or the shadow."""
        from altsync.queries.stores import Stores

        own = found.shadow if shadow else found.serving
        assert own is not None
        index = (SHADOW if shadow else "") + (self._index or "")

        def renew(stores: Stores) -> Stores:
            with self.database.autocommit() as conn:
                now = read_generations(conn)
            if now is None or now.serving == found.serving:
                return stores
            fresh = self.stores_of(now)
            return replace(stores, model=fresh.model, vectors=fresh.vectors, renew=fresh.renew)

        names = self.settings.sink_names
        graph = next((name for name in GRAPHS if name in names), None)
        return Stores(
            database=self.database,
            graph=cast("GraphStore | None", self.sink(graph) if graph else None),
            vectors=cast("VectorIndex | None", self.sink(index, found) if self._index else None),
            index=self._index,
            sinks=names,
            embedder=self._embedder,
            cache=EmbeddingCache(self.database),
            model=own.model,
            renew=None if shadow else renew,
        )

    @cached_property
    def _embedder(self) -> Embedder | None:
        return LazyEmbedder(self.settings) if self.settings.openai_api_key else None

    def _opened_for(self, name: str) -> Sink | None:
        """Return any generation of a sink, for its traits; each batch opens its own."""
        base = name.removeprefix(SHADOW)
        sink = self.sink(base)
        return cast("Sink", ShadowSink(sink)) if sink and base != name else sink

    def delivery(self, name: str) -> Delivery | None:
        """Return the delivery of a sink; None if the sink is not configured."""
        with self._lock:
            if name in self._deliveries:
                return self._deliveries[name]
        sink = self._opened_for(name)
        with self._lock:
            if name not in self._deliveries:
                self._deliveries[name] = None if sink is None else self._deliver_to(sink)
            return self._deliveries[name]

    def _deliver_to(self, sink: Sink) -> Delivery:
        policy = delivery_policy(self.settings, sink.traits.name)
        worker = f"{socket.gethostname()}:{os.getpid()}"

        def open_for(found: Generations) -> Sink:
            opened = self.sink(sink.traits.name, found)
            assert opened is not None  # it was configured when this delivery was made
            return opened

        return Delivery(
            self.database, sink, self.topology, policy, worker=worker, open_for=open_for
        )

    def deliver(self, sink: str) -> DrainResult:
        """Claim and deliver for ``ALTSYNC_TASK_SECONDS``. Do nothing for a disabled sink.

        If PostgreSQL does not answer, this is logged once. Claimed operations are due again when
        their lease ends, and the relay then sends a wake-up.
        """
        delivery = self.delivery(sink)
        if delivery is None:
            return DrainResult()
        try:
            drained = delivery.drain(self.settings.altsync_task_seconds, self.stopping.is_set)
        except psycopg.Error as error:
            self._outage.failed(error, sink=sink)
            return DrainResult()
        self._outage.ended()
        return drained

    def relay(self, wake: Callable[[str], None]) -> Relay:
        """Return a relay with this process' settings. ``wake`` sends a wake-up for a sink."""
        return Relay(
            self.database,
            lambda: self.connect("altsync-relay"),
            wake,
            self.topology,
            [*self.enabled, *self._enabled_shadows],
            relay_policy(self.settings),
            housekeeping=[self._continue_move, self._forget_tombstones, *self._retention()],
            announce=self.announce,
        )

    @property
    def _enabled_shadows(self) -> list[str]:
        return [one.name for one in self.topology.shadows if self.disabled_reason(one.base) is None]

    def _retention(self) -> list[Callable[[], None]]:
        days = self.settings.altsync_retention_days
        return [Retention(self.database, self.topology, days).step] if days else []

    def _continue_move(self) -> None:
        """Go on with a move whose command was ended: a page of each step."""
        for step in (fill, search_again):
            for _ in islice(step(self.database, self.topology), MOVE_PAGES):
                pass

    def _forget_tombstones(self) -> None:
        with self.database.autocommit() as conn:
            health = sink_health(conn)
        for name in self.enabled:
            if name in health and health[name].state is BreakerState.PAUSED:
                continue
            forget = getattr(self.sink(name), "forget_tombstones", None)
            if forget is None:
                continue
            try:
                forget()
            except SinkFailure as failure:
                logger.warning("tombstones.kept", sink=name, reason=failure.reason)

    def verify(
        self,
        options: Options,
        sinks: Sequence[str] | None = None,
        *,
        wait: Callable[[float], Any] = time.sleep,
        progress: Callable[[str, int, int], None] = lambda sink, done, total: None,
    ) -> Report:
        """Compare PostgreSQL with all configured sinks, or with ``sinks``.

        ``wait`` sleeps for seconds. ``progress`` gets a sink, the records read, and all records.
        """
        from altsync.verify import run as verify_run

        names = list(self.topology.names) if sinks is None else list(sinks)
        disabled = {name: self.disabled_reason(name) for name in names}
        skipped = {name: reason for name, reason in disabled.items() if reason is not None}
        opened = {name: self.sink(name) for name in names if name not in skipped}
        skipped |= {name: "it is not configured" for name, one in opened.items() if one is None}
        return verify_run.verify(
            self._unlimited_database,
            self.topology,
            {name: sink for name, sink in opened.items() if sink is not None},
            options,
            skipped=skipped,
            keep=sinks is None,
            wait=wait,
            progress=progress,
            idle=self.idle,
        )

    def verify_shadow(
        self,
        options: Options,
        *,
        progress: Callable[[str, int, int], None] = lambda sink, done, total: None,
    ) -> Report:
        """Compare the indexes of the model beside the serving one with PostgreSQL."""
        from altsync.verify import run as verify_run

        found = self.generations()
        assert found is not None and found.shadow is not None
        names = [one for one in self.topology.vector if self.disabled_reason(one) is None]
        opened = {name: self.sink(SHADOW + name, found) for name in names}
        return verify_run.verify_shadow(
            self._unlimited_database,
            self.topology,
            {name: sink for name, sink in opened.items() if sink is not None},
            found.shadow.model,
            options,
            progress=progress,
        )

    def drop_indexes(self, generation: Generation) -> dict[str, str | None]:
        """Remove the indexes of a generation that neither serves nor is kept in step.

        Return an error or None for each sink of vectors.
        """
        serving = self.generations()
        assert serving is not None and generation.prefix != serving.serving.prefix
        found = Generations(serving.serving, generation, moved=True)
        results: dict[str, str | None] = {}
        for name in self.topology.vector:
            if self.disabled_reason(name) is not None:
                continue
            remove = getattr(self.sink(SHADOW + name, found), "remove_indexes", None)
            if remove is None:
                results[name] = "it cannot remove its indexes: remove them by hand"
                continue
            try:
                remove()
                results[name] = None
            except SinkFailure as failure:
                results[name] = failure.reason
        return results

    def status(self, conn: db.Conn, model: Model | None = None) -> Status:
        """Return the status by the settings. ``model`` is that of the settings, to compare."""
        return collect(
            conn,
            self.topology,
            self.disabled_reasons,
            model,
            self.settings.freshness_objectives,
            self.settings.altsync_freshness_target,
            self.settings.altsync_max_cost_per_day,
        )

    def idle(self, conn: db.Conn) -> dict[str, str]:
        """Return the sinks whose due work no worker claims, each with what to start."""
        found = idle_sinks(conn, IDLE_SECONDS)
        return {
            sink: idle_message(sink, one, self.topology.names)
            for sink, one in found.items()
            if sink in self.topology.names and self.disabled_reason(sink) is None
        }

    @contextmanager
    def verifying(self) -> Iterator[None]:
        """Compare all stores every ``ALTSYNC_VERIFY_EVERY`` seconds within the block, if set."""
        every = self.settings.altsync_verify_every
        if every is None:
            yield
            return
        from altsync.verify.report import Options
        from altsync.verify.schedule import Schedule

        schedule = Schedule(
            self.database,
            lambda: self.connect("altsync-verify"),
            every,
            lambda wait: self.verify(Options(), wait=wait),
        )
        schedule.start()
        try:
            yield
        finally:
            schedule.stop()

    def migrate(self) -> Plan:
        """Migrate the schema, and register every sink. Return the changes of tables.

        Raises ``SchemaError`` if data would be lost.
        """
        from altsync import schema

        done = schema.migrate(self.settings.require_database_url(direct=True))
        with self.database.transaction() as conn:
            self.register_sinks(conn)
        return done

    def draft_revision(self, message: str) -> Path:
        """Write a revision of the catalogue's tables for its author to complete."""
        from altsync import schema

        return schema.draft(self.settings.require_database_url(direct=True), message)

    def plan_migration(self) -> Plan:
        """Return the changes that ``migrate`` would make. Write nothing."""
        from altsync import schema

        return schema.plan(self.settings.require_database_url(direct=True))

    def require_schema(self) -> None:
        """Raise ``SchemaError`` if the schema is that of another release.

        If PostgreSQL does not answer, or refuses the role, only log it.
        """
        try:
            with self.connect() as conn:
                revisions.check_schema(conn)
                check_tables(conn, entity_types())
        except psycopg.Error as error:
            reason = describe(error, self.settings.database_role).text
            logger.warning("schema.not_checked", error=reason)

    def register_sinks(self, conn: db.Conn) -> None:
        """Add the missing rows of ``sink_state`` for the sinks of the settings."""
        model = self.settings.wanted_model
        register_sinks(conn, self.topology, model.name, model.dimensions)

    def announce(self) -> None:
        """Record the enabled sinks for all processes, and register new ones.

        Only the relay calls it: a process with fewer settings would disable sinks for all.
        """
        with self.database.transaction() as conn:
            revisions.check_schema(conn)
            self.register_sinks(conn)
            for name in self.topology.names:
                set_enabled(conn, name, self.disabled_reason(name))

    def set_up_sinks(self) -> dict[str, str | None]:
        """Create constraints and indexes. Return an error or None for each configured sink.

        A new index may take a minute, which is longer than the limit of one call.
        """
        return self._set_up(self.enabled)

    def _set_up(self, names: Sequence[str]) -> dict[str, str | None]:
        results: dict[str, str | None] = {}
        ends = time.monotonic() + READY_WITHIN
        for name in names:
            sink = self.sink(name)
            assert sink is not None
            results[name] = "not set up"
            while results[name] is not None:
                try:
                    sink.setup()
                    results[name] = None
                except SinkFailure as failure:
                    results[name] = failure.reason
                    if not failure.lock_conflict or time.monotonic() > ends:
                        break
                    self.stopping.wait(READY_PAUSE)
        return results

    def set_up_shadows(self) -> dict[str, str | None]:
        """Create the indexes of the model beside the serving one, as ``set_up_sinks`` does."""
        names = [name for name in self._enabled_shadows if name.removeprefix(SHADOW) != EMBEDDING]
        return self._set_up(names)

    def close(self) -> None:
        """Close every connection."""
        self.stopping.set()
        for sink in self._sinks.values():
            if sink is not None:
                sink.close()
        if isinstance(self.__dict__.get("_embedder"), LazyEmbedder):
            self.__dict__["_embedder"].close()
        for pool in {self.__dict__.get("database"), self.__dict__.get("_unlimited_database")}:
            if pool is not None:
                pool.close()


def _declaration(sink: str) -> Declaration:
    """Return a sink's declaration. Raises ``ConfigurationError`` if it is not installed."""
    if sink in SINKS:
        return SINKS[sink]
    raise ConfigurationError(not_installed(sink))
