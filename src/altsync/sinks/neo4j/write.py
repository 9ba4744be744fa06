"""The sink that mirrors entities as nodes with edges, guarded by version.

One module: a sink of altsync is set up, owned and written to by one class.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar
from uuid import UUID

from neo4j import ManagedTransaction
from neo4j import exceptions as errors

from altsync.catalogue.current import entity_types
from altsync.config import Settings
from altsync.contract import (
    AlreadyNewer,
    Answer,
    Failed,
    Installation,
    RecordOutcome,
    SinkTraits,
    Written,
)
from altsync.entities import EntityType, Model, Row
from altsync.errors import ConfigurationError, SinkFailure
from altsync.operations import ErrorKind
from altsync.ownership import SAMPLED, Guard, Ownership, Store
from altsync.projection import graph_node
from altsync.protocols import VectorStore
from altsync.sinks.neo4j import SINK, client
from altsync.sinks.neo4j.client import SHORTEST_TIMEOUT
from altsync.sinks.neo4j.edges import write_edges, write_nodes, write_optional_parents
from altsync.sinks.neo4j.read import find_strangers, newer_versions, whole_version
from altsync.sinks.neo4j.repair import Repairs
from altsync.sinks.neo4j.statements import (
    DELETE_NODE,
    DUPLICATES_OF,
    MARK_INSTALLATION,
    MOVE_TO_PARENT,
    READ_INSTALLATION,
    REPLACE_INSTALLATION,
    RETURN_WRITTEN,
    RETURN_WRITTEN_WITH_EDGES,
    SAMPLE_KEYS,
    UNIQUE,
    UPSERT_NODE,
    VERSIONS_OF,
    constraints,
    cypher,
    optional_parents,
    required_parents,
)

#: Rows per transaction: within the 500 to 5,000 where UNWIND + MERGE runs best, and small
#: enough that one call stays far below its timeout.
BATCH = 500

#: Bytes of keys, texts and relationships per transaction: a row has 1 MiB at most, and a server
#: keeps all of a transaction in memory until it commits.
MAX_BYTES = 4_000_000

#: Approximate bytes of one relationship in a transaction.
EDGE_BYTES = 200

#: Codes of a CREATE … IF NOT EXISTS while another process creates the same.
ALREADY_THERE = {
    "Neo.ClientError.Schema.EquivalentSchemaRuleAlreadyExists",
    "Neo.ClientError.Schema.ConstraintAlreadyExists",
    "Neo.ClientError.Schema.IndexAlreadyExists",
}

#: Maximum nodes of a statement that is a transaction of its own. Larger ones would conflict more
#: often, and would save a smaller share of their time.
MOST_AUTOCOMMIT_NODES = 50

#: The oldest release whose Cypher has ``IS :: INTEGER NOT NULL``.
OLDEST = (5, 10)


@dataclass(frozen=True, slots=True)
class _Upserted:
    """The result of an upsert: ids of nodes and edges, and the keys that were refused.

    ``newer`` are versions by key, ``strangers`` are keys of nodes that altsync did not write.
    """

    nodes: Mapping[str, str]
    edges: Mapping[UUID, str]
    newer: Mapping[str, int]
    strangers: Set[str]


class Sink(Repairs):
    """Mirrors entities as nodes; an older version never overwrites a newer one."""

    traits: ClassVar[SinkTraits] = SINK.traits

    def belong_to(self, ownership: Ownership | None) -> None:
        """Set the installation. Writes to the graph of another one are refused."""
        self._guard = Guard(
            ownership,
            Store(
                self.traits.name,
                f"the graph ({self._prefix}… labels)" if self._prefix else "the graph",
                read=self._read_owner,
                mark=partial(self._write_owner, MARK_INSTALLATION),
                replace=partial(self._write_owner, REPLACE_INSTALLATION),
                sample=self._sample,
            ),
        )

    def check_owner(self) -> None:
        """Raise ``SinkFailure`` when the graph is another installation's. Writes nothing."""
        self._guard.check()

    def adopt(self) -> list[Installation]:
        """Make the graph this installation's; return the former owner. Raises ``SinkFailure``."""
        self._create_schema()
        former = self._guard.adopt()
        return [] if former is None else [former]

    def _read_owner(self) -> Installation | None:
        found = self._run(lambda tx: list(client.query(tx, READ_INSTALLATION)), write=False)
        return Installation(*(str(v or "") for v in found[0].values())) if found else None

    def _write_owner(self, statement: str, owner: Installation) -> bool:
        try:
            self._run(partial(client.execute, statement=statement, **asdict(owner)), guarded=False)
        except SinkFailure as failure:
            if not failure.lock_conflict:
                raise  # otherwise another process created the node at the same time
        return True

    def _sample(self) -> dict[EntityType, list[str]]:
        kinds = {kind: cypher(SAMPLE_KEYS, kind) for kind in entity_types()}
        return {
            entity_type: [r["key"] for r in self._aggregate(statement, limit=SAMPLED)]
            for entity_type, statement in kinds.items()
        }

    def setup(self) -> None:
        """Create the constraints and the index, and mark the graph as this installation's."""
        self._guard.check()
        self._create_schema()
        self._guard.require()

    def _create_schema(self) -> None:
        """Run all statements within the timeout of one call."""
        ends = time.monotonic() + self._timeout
        self.check_version()
        for statement in constraints():
            left = max(ends - time.monotonic(), SHORTEST_TIMEOUT)
            try:
                self._run(partial(client.execute, statement=statement), guarded=False, timeout=left)
            except SinkFailure as failure:
                if getattr(failure.__cause__, "code", None) not in ALREADY_THERE:
                    self._refuse_duplicates(statement)
                    raise

    def _refuse_duplicates(self, constraint: str) -> None:
        """Raise ``SinkFailure`` when nodes have the same key, which ``constraint`` forbids."""
        named = UNIQUE.search(constraint)
        if named is None:
            return
        label, key = named.groups()
        found = self._aggregate(DUPLICATES_OF.format(label=label, key=key))
        if found:
            raise SinkFailure(
                ErrorKind.SINK,
                f"the graph has {found[0]['count']} {self._prefix}{label} nodes with {key} "
                f"{found[0]['key']!r}, and altsync needs that key to be unique: delete those that "
                "are not altsync's (no sync_version) or change their key, or set ALTSYNC_PREFIX "
                "to keep altsync's labels apart; then run altsync migrate",
            )

    def check_version(self) -> None:
        """Raise ``SinkFailure`` when the server is older than altsync's statements."""
        agent = self._run(client.agent, write=False)
        found = re.match(r"Neo4j/(\d+)\.(\d+)", agent)
        if found and (int(found[1]), int(found[2])) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise SinkFailure(
                ErrorKind.SINK,
                f"the graph is {agent}, altsync needs Neo4j {oldest} or newer: upgrade the server",
            )

    def split(self, rows: Sequence[Row], model: Model) -> list[Sequence[Row]]:
        """Cut rows into transactions, by count and by bytes as they are sent."""
        parts: list[Sequence[Row]] = []
        start = size = 0
        for place, row in enumerate(rows):
            more = _sent_bytes(row)
            if place > start and (size + more > MAX_BYTES or place - start >= BATCH):
                parts.append(rows[start:place])
                start, size = place, 0
            size += more
        return [*parts, rows[start:]] if rows else parts

    def upsert(self, rows: Sequence[Row], model: Model) -> Answer:
        """Write nodes, their edges to parents and their relationships in one transaction.

        Rows are sorted by key, so that two writers cannot deadlock. A batch without relationships,
        or with the right ones, takes one statement.
        """
        kind = rows[0].entity_type
        moves = [cypher(MOVE_TO_PARENT, kind, parent) for parent in required_parents(kind)]
        linked = any(row.edges is not None for row in rows)
        returned = cypher(RETURN_WRITTEN_WITH_EDGES, kind) if linked else RETURN_WRITTEN
        statement = "".join([cypher(UPSERT_NODE, kind), *moves, returned])
        parameters = [_upsert_parameters(row) for row in sorted(rows, key=_by_key)]

        def work(tx: ManagedTransaction) -> _Upserted:
            nodes = write_nodes(tx, kind, statement, parameters)
            write_optional_parents(tx, kind, [one for one in parameters if one["key"] in nodes])
            edges = write_edges(tx, [row for row in rows if row.key in nodes], nodes)
            refused = [row.key for row in rows if row.key not in nodes]
            newer = newer_versions(tx, kind, refused) if refused else {}
            strangers = find_strangers(tx, kind, refused) if refused else set[str]()
            ids = {key: node.id for key, node in nodes.items()}
            return _Upserted(ids, edges, newer, strangers)

        alone = len(rows) <= MOST_AUTOCOMMIT_NODES and not linked and not optional_parents(kind)
        answer = self._run(work, alone=alone)
        label = self._prefix + kind.label
        return Answer(tuple(_upserted(row, answer, label, kind.key_property) for row in rows))

    def delete(self, rows: Sequence[Row]) -> Answer:
        """Remove nodes with all their edges, and leave tombstones for late upserts."""
        kind = rows[0].entity_type
        parameters = [
            {"key": row.key, "version": row.graph_version} for row in sorted(rows, key=_by_key)
        ]

        ends = time.monotonic() + self._timeout
        deletion = partial(client.records, statement=cypher(DELETE_NODE, kind), rows=parameters)
        deleted_keys = {record["key"] for record in self._run(deletion)}
        others = [row.key for row in rows if row.key not in deleted_keys]
        kept: dict[str, int] = {}
        if others:
            look = partial(client.records, statement=cypher(VERSIONS_OF, kind), keys=others)
            left = max(ends - time.monotonic(), SHORTEST_TIMEOUT)
            found = self._run(look, write=False, timeout=left)
            kept = {record["key"]: whole_version(record["version"]) for record in found}
        return Answer(tuple(_deleted(row, kept) for row in rows))

    def label(self, entity_type: EntityType) -> str:
        """Return the label of a type's nodes, with the prefix."""
        return self._prefix + entity_type.label


def _by_key(row: Row) -> str:
    return row.key


def _upsert_parameters(row: Row) -> Mapping[str, Any]:
    node = graph_node(row)
    return {
        "key": row.key,
        "version": row.graph_version,
        "properties": dict(node.properties),
        **{f"parent{place}": key for place, key in enumerate(node.parents)},
    }


def _sent_bytes(row: Row) -> int:
    """Return the approximate bytes of a row in a transaction; of a deletion, those of its key."""
    if row.deleted:
        return len(row.key.encode())
    values = graph_node(row).properties.values()
    texts = (text for value in values for text in (value if isinstance(value, list) else [value]))
    size = sum(len(text.encode()) for text in texts if isinstance(text, str))
    return size + EDGE_BYTES * len(row.edges or ())


def _upserted(row: Row, answer: _Upserted, label: str, key: str) -> RecordOutcome:
    if row.key not in answer.nodes:
        newer = answer.newer.get(row.key, 0)
        if row.key in answer.strangers and newer <= row.graph_version:
            return Failed(
                row.id,
                ErrorKind.ITEM,
                f"the graph has a {label} node with {key} {row.key!r} that altsync did not write "
                "(no sync_version): delete it, change its key, or have altsync take it over by "
                "altsync adopt --nodes; then run altsync retry",
                final=True,
            )
        return AlreadyNewer(row.id, answer.newer.get(row.key))
    ids = {e.id: answer.edges[e.id] for e in row.edges or () if e.id in answer.edges}
    return Written(row.id, row.graph_version, remote_id=answer.nodes[row.key], edge_ids=ids)


def _deleted(row: Row, kept: Mapping[str, int]) -> RecordOutcome:
    if kept.get(row.key, 0) > row.graph_version:
        return AlreadyNewer(row.id, kept[row.key])
    return Written(row.id, row.graph_version)


def open_sink(settings: Settings, vectors: VectorStore) -> Sink | None:
    """Return the sink, or None when NEO4J_URI is not set."""
    if settings.neo4j_uri is None:
        return None
    password = settings.neo4j_password.get_secret_value()
    try:
        return Sink(
            settings.neo4j_uri,
            (settings.neo4j_username, password) if password else None,
            database=settings.neo4j_database,
            timeout=settings.altsync_sink_timeout_seconds,
            prefix=settings.altsync_prefix,
        )
    except (errors.ConfigurationError, ValueError) as error:
        raise ConfigurationError(f"NEO4J_URI is no address of a graph: {error}") from None
