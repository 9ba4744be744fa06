"""The plain data that every package of altsync uses. Import nothing of altsync here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha1
from typing import Any, ClassVar
from uuid import UUID

#: Namespace of every entity id. Never changed: ids are derived by each seeder, not stored.
ENTITY_NAMESPACE = UUID("6f1c1c1e-8f0b-5b43-9d3a-0c6a7f6f2a11")

_NAMESPACE_BYTES = ENTITY_NAMESPACE.bytes

#: Hex digits of a hash, and what they become where a UUID keeps its variant in their high bits.
_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))

#: The name of the sink that embeds. Others may need it, none may replace it.
EMBEDDING = "embedding"

#: The name of the sink that keeps computed relationships in step with vectors.
SIMILARITY = "similarity"


@dataclass(frozen=True, slots=True)
class ParentEdge:
    """A field that names the parent of an entity, and the relationship that follows from it.

    ``column`` holds the parent's key. ``parent`` is the table of the parent, None for a node that
    the relationship itself makes. ``relation``, ``label`` and ``key`` are names in the graph;
    ``relation`` is None where nothing is written there. ``known`` are keys that may be named
    without being loaded.
    """

    column: str
    parent: str | None
    relation: str | None = None
    label: str = ""
    key: str = "name"
    known: frozenset[str] = frozenset()
    name: str = ""


@dataclass(frozen=True, slots=True)
class Similarity:
    """Relationships from each entity to those whose vectors are near, kept in step.

    ``within`` is the column whose value both ends share, None for all entities of the type. The
    numbers are those of :class:`altsync.Similar`.
    """

    relation: str
    within: str | None = None
    enter: float = 0.80
    leave: float = 0.77
    top: int = 10


@dataclass(frozen=True, slots=True)
class EdgeTable:
    """The table of the relationships between entities of one type.

    ``source`` and ``target`` are columns with ids. ``seeded`` are the types that seeds give, and
    ``computed`` is the one that vectors decide, if any.
    """

    table: str
    source: str
    target: str
    seeded: tuple[str, ...] = ()
    computed: str | None = None
    part: str | None = None

    @property
    def relations(self) -> tuple[str, ...]:
        """All types of relationships in the table."""
        return (self.computed, *self.seeded) if self.computed else self.seeded


class Content:
    """The seeded fields of one entity, in the order of their declaration.

    The base of the frozen dataclasses that are made from declarations; the last field holds
    what a seed line says beside the declared fields.
    """

    __slots__ = ()

    entity_type: ClassVar[EntityType]
    attributes: Mapping[str, Any]


class EntityType(str):
    """A mirrored type of entity. The value is its table's name, so it may stand in SQL.

    Made from a class by :mod:`altsync.catalogue`. ``columns`` are the content columns with their
    PostgreSQL types, in the order of COPY; ``content`` is the dataclass of the same fields.
    ``namespace_column`` or else ``namespace`` is where vectors go.
    """

    #: The part of a seed folder that holds its lines, and how one and many are called.
    part: str
    one: str
    many: str

    #: Column of the key in all sinks; columns that a missing key is made from; whether the seed
    #: id is the key.
    key_column: str
    key_made_from: tuple[str, ...]
    key_is_id: bool
    name_column: str

    columns: Mapping[str, str]
    #: Columns that a line may leave out, and those among them that may be null.
    optional: frozenset[str]
    nullable: frozenset[str]
    content: type[Content]
    #: Whether a content takes its values by position, in the order of the columns.
    is_positional: bool
    json_columns: tuple[str, ...]
    list_columns: tuple[str, ...]
    filters: tuple[str, ...]
    file_name_column: str | None

    #: The graph: label, key property, columns that become properties, parents.
    label: str
    key_property: str
    properties: tuple[str, ...]
    parents: tuple[ParentEdge, ...]

    #: The vector index.
    index_name: str
    namespace: str
    namespace_column: str | None

    embedded: tuple[str, ...]
    text_of: Callable[[Any], str]

    similar: Similarity | None
    edges: EdgeTable | None

    def __new__(cls, name: str, **declared: Any) -> EntityType:
        """Make a type by its table's name."""
        made = super().__new__(cls, name)
        made.__dict__.update(declared)
        return made

    def __copy__(self) -> EntityType:
        return self

    def __deepcopy__(self, memo: Any) -> EntityType:
        return self

    def __reduce__(self) -> Any:
        """Travel by name alone."""
        return str, (str(self),)

    @property
    def value(self) -> str:
        """The table's name as a plain text."""
        return str.__str__(self)

    @property
    def moves(self) -> bool:
        """Whether its vectors may have to leave a namespace for another one."""
        return self.namespace_column is not None

    @property
    def graph_parents(self) -> tuple[ParentEdge, ...]:
        """Parents that the graph shows."""
        return tuple(parent for parent in self.parents if parent.relation)

    @property
    def edge_table(self) -> EdgeTable:
        """The table of its relationships; ``LookupError`` for a type without any."""
        if self.edges is None:
            raise LookupError(f"{self} has no relationships")
        return self.edges

    @property
    def similarity(self) -> Similarity:
        """How it is searched for neighbours; ``LookupError`` for a type that is not."""
        if self.similar is None:
            raise LookupError(f"{self} has no Similar")
        return self.similar


class SyncStatus(StrEnum):
    """What a ``*_sync_status`` column says."""

    PENDING = "pending"
    SYNCED = "synced"
    FAILED = "failed"


class Action(StrEnum):
    """What an operation was enqueued for. A hint for people: the current row decides."""

    UPSERT = "upsert"
    DELETE = "delete"


class ErrorKind(StrEnum):
    """Whose fault an error is, and so what it costs.

    ``ITEM``: the record's; spends an attempt. ``SINK``: the sink is down, throttled or refuses
    the key; opens the breaker and gives the attempt back. ``UNKNOWN``: not told; spends an
    attempt. ``LOST``: the worker vanished with its lease.
    """

    ITEM = "item"
    SINK = "sink"
    UNKNOWN = "unknown"
    LOST = "lost"


#: What the column ``status`` of an operation may say.
OPERATION_STATUSES = ("pending", "in_progress", "synced", "dead", "superseded", "discarded")


class Origin(StrEnum):
    """Who asked for an operation."""

    SEED = "seed"
    UPDATE = "update"
    EMBEDDING = "embedding"
    RETRY = "retry"
    RECONCILE = "reconcile"
    BACKFILL = "backfill"
    SIMILARITY = "similarity"
    MODEL = "model"
    ECHO = "echo"


class BreakerState(StrEnum):
    """Whether workers may claim for a sink."""

    CLOSED = "closed"
    OPEN = "open"
    PROBING = "probing"
    PAUSED = "paused"
    DISABLED = "disabled"


def entity_id(entity_type: str, seed_id: str) -> UUID:
    """The id of an entity: permanently the same, over delete and re-create."""
    return UUID(entity_hex(entity_type, seed_id))


def entity_hex(entity_type: str, seed_id: str) -> str:
    """The id of an entity as 32 hex digits: ``uuid.uuid5``, RFC 9562, without its objects."""
    name = (entity_type + ":" + seed_id).encode()  # formatting an enum takes as long as the rest
    digits = sha1(_NAMESPACE_BYTES + name, usedforsecurity=False).hexdigest()
    return f"{digits[:12]}5{digits[13:16]}{_VARIANT[digits[16]]}{digits[17:32]}"


@dataclass(frozen=True, slots=True)
class Attached:
    """The seeded fields of a row that belongs to an entity and stays in PostgreSQL.

    ``owner`` is the entity's seed id, and ``field`` what a seed line calls it.
    """

    field: str
    owner: str
    title: str
    fields: Mapping[str, Any]
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Relationship:
    """A relationship between two entities of one type, by their seed ids."""

    source: str
    target: str
    relation: str
    strength: float | None
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Model:
    """An embedding model by its provider's name, with the length of its vectors."""

    name: str
    dimensions: int


@dataclass(frozen=True, slots=True)
class Edge:
    """A relationship to a living entity, as its source's projection carries it.

    ``target_version`` is the target's ``graph_version`` when the edge was read: a deletion of
    the target that is newer means that the edge must not be written any more.
    """

    id: UUID
    relation: str
    target: str
    target_version: int
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """The current state of one entity in PostgreSQL, as a sink gets it.

    ``vector`` is float32 little-endian, ``4 * dimensions`` bytes, and only read for sinks that
    need it. ``written_namespace`` is where the vector index holds the entity now, and
    ``doubtful_namespaces`` are those where a late write of it may turn up. ``edges`` are only
    read for sinks that mirror them; None says that the entity never had any. ``former_keys`` are
    those that sinks may still hold it under.
    """

    entity_type: EntityType
    id: UUID
    key: str
    version: int
    graph_version: int
    deleted: bool
    content: Content
    content_hash: str
    text_hash: str
    embedding_text_hash: str | None = None
    embedding_model: str | None = None
    written_namespace: str | None = None
    vector: bytes | None = None
    doubtful_namespaces: tuple[str, ...] = ()
    edges: tuple[Edge, ...] | None = None
    former_keys: tuple[str, ...] = ()

    def is_embedded_by(self, model: str) -> bool:
        """Return whether what should be embedded is, by the wanted model."""
        return self.embedding_text_hash == self.text_hash and self.embedding_model == model


@dataclass(frozen=True, slots=True)
class Written:
    """The sink holds this version now (or, for a delete, nothing).

    ``edge_ids`` are the sink's own ids of the relationships that were written, by theirs.
    """

    id: UUID
    version: int
    remote_id: str | None = None
    namespace: str | None = None
    edge_ids: Mapping[UUID, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AlreadyNewer:
    """A guarded sink refused the write because it holds a newer version."""

    id: UUID
    found: int | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """One record could not be written; see :class:`altsync.errors.SinkFailure` for the fields.

    ``final``: altsync itself has found, without a call, that the record cannot be written as it
    is. It needs no evidence and no further attempt.
    """

    id: UUID
    kind: ErrorKind
    reason: str
    unsure: bool = False
    suspect: bool = False
    retry_after: float | None = None
    final: bool = False


Outcome = Written | AlreadyNewer | Failed


@dataclass(frozen=True, slots=True)
class Answer:
    """What one sink call came to: an outcome for every record, and its price."""

    outcomes: tuple[Outcome, ...]
    calls: int = 1
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class SinkVersion:
    """What a sink holds of one entity, for comparing with PostgreSQL."""

    key: str
    version: int
    content_hash: str | None = None
    model: str | None = None
    namespace: str | None = None


#: What a store holds, by bucket: facts that are equal where two stores agree.
Digest = Mapping[int, set[tuple[Any, ...]]]


@dataclass(frozen=True, slots=True)
class Installation:
    """One altsync installation: the id of its database, and where that database is.

    A copied database has the same ``id``, and another ``database`` (its name, and its schema
    unless that is public) or ``system`` (PostgreSQL's system identifier, empty where the role may
    not read it). ``since`` is when the id was made.
    """

    id: str
    since: str
    database: str
    system: str = ""

    def is_same(self, other: Installation) -> bool:
        """Return whether both are one database at one place."""
        systems = {self.system, other.system} - {""}
        return (self.id, self.database) == (other.id, other.database) and len(systems) < 2


class Drift(StrEnum):
    """How a sink differs from PostgreSQL over one entity.

    ``GHOST``: the sink holds what PostgreSQL does not. ``AHEAD``: the sink's version is above
    PostgreSQL's, as after a restore; what is too high to be believed is ``STALE``.
    ``WRONG_NAMESPACE``: a vector in a namespace that its entity does not belong to, beside the
    right one or instead of it. ``EDITED``: PostgreSQL's own row holds what its hashes are not of,
    as it was changed by SQL; of such an entity no sink is said to differ.
    """

    MISSING = "missing"
    STALE = "stale"
    GHOST = "ghost"
    AHEAD = "ahead"
    WRONG_MODEL = "wrong_model"
    WRONG_NAMESPACE = "wrong_namespace"
    EDITED = "edited"


@dataclass(frozen=True, slots=True)
class SinkTraits:
    """What the outbox must know of a sink without opening it.

    ``guarded``: the sink itself refuses older versions. ``needs_embedding``: its operations are
    born when the embedding settles. ``edges``: the sink mirrors relationships too, so it
    follows ``graph_version`` instead of ``version``. ``follows``: its operations are born when
    that sink has settled. ``similar``: it takes only entities that are searched for neighbours.
    ``local``: it calls no remote service. ``in_flight``: calls of one batch that may be under way
    at once, each from a thread of its own.
    """

    name: str
    guarded: bool = False
    needs_embedding: bool = False
    edges: bool = False
    follows: str | None = None
    local: bool = False
    similar: bool = False
    in_flight: int = 1

    def takes(self, entity_type: EntityType) -> bool:
        """Return whether entities of this type are mirrored to the sink."""
        return not self.similar or entity_type.similar is not None


@dataclass(frozen=True, slots=True)
class Topology:
    """All sinks that entities are mirrored to, configured or not."""

    sinks: tuple[SinkTraits, ...]

    @property
    def direct(self) -> list[str]:
        """Sinks whose operations are enqueued with the change itself."""
        return [
            s.name
            for s in self.sinks
            if not s.needs_embedding and s.follows is None and s.name != EMBEDDING
        ]

    @property
    def vector(self) -> list[str]:
        """Sinks whose operations wait for the embedding."""
        return [s.name for s in self.sinks if s.needs_embedding and s.follows is None]

    @property
    def graph(self) -> list[str]:
        """Sinks that mirror relationships."""
        return [s.name for s in self.sinks if s.edges]

    @property
    def relating(self) -> list[str]:
        """Sinks that find neighbours."""
        return [s.name for s in self.sinks if s.follows is not None]

    @property
    def relating_locally(self) -> list[str]:
        """Sinks that find neighbours by the vectors in PostgreSQL."""
        return [s.name for s in self.sinks if s.follows == EMBEDDING and s.local]

    def followers(self, sink: str) -> list[str]:
        """Sinks whose operations are born when ``sink`` has settled."""
        return [s.name for s in self.sinks if s.follows == sink]

    @property
    def names(self) -> list[str]:
        """Every sink, in the order of the settings."""
        return [s.name for s in self.sinks]

    def traits(self, sink: str) -> SinkTraits:
        """The traits of a sink by name; ``KeyError`` when there is none."""
        for traits in self.sinks:
            if traits.name == sink:
                return traits
        raise KeyError(sink)


@dataclass(frozen=True, slots=True)
class Operation:
    """A claimed row of the outbox: this entity must reach the sink at ``version`` or later.

    ``suspicion`` counts its calls that timed out or met a 5xx. ``places`` are the namespaces that
    its writes may have reached.
    """

    id: int
    entity_type: EntityType
    entity_id: UUID
    entity_key: str
    version: int
    attempts: int
    suspicion: int
    unsure: bool
    places: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Synced:
    """Verdict: written, at ``version``, under the sink's own ids.

    ``unsure``: an earlier call for it in this batch may still be applied.
    """

    op: Operation
    version: int
    remote_id: str | None = None
    namespace: str | None = None
    unsure: bool = False
    edge_ids: Mapping[UUID, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Superseded:
    """Verdict: nothing to write any more, or not yet; another operation will carry it.

    ``waits``: not yet. An outcome unknown to the sink stays so until then.
    """

    op: Operation
    reason: str
    waits: bool = False


@dataclass(frozen=True, slots=True)
class Dead:
    """Verdict: given up on; kept, shown, retryable. ``version`` is the row's that failed.

    ``unsure``: its last call may still be applied.
    """

    op: Operation
    version: int
    kind: ErrorKind
    reason: str
    unsure: bool = False


@dataclass(frozen=True, slots=True)
class Retry:
    """Verdict: due again after ``delay`` seconds. ``give_back``: the attempt is not spent.

    ``alone``: the record failed in a call of its own.
    """

    op: Operation
    kind: ErrorKind
    reason: str
    delay: float
    give_back: bool = False
    unsure: bool = False
    suspect: bool = False
    alone: bool = False


Verdict = Synced | Superseded | Dead | Retry


@dataclass(frozen=True, slots=True)
class Settlement:
    """What settling came to, in operations. ``lost`` leases had been taken away meanwhile."""

    synced: int = 0
    superseded: int = 0
    dead: int = 0
    retried: int = 0
    lost: int = 0
