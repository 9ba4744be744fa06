"""The plain data that every package of altsync uses. Import nothing of altsync here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha1
from typing import Any
from uuid import UUID

#: Namespace of every entity id. Never changed: ids are derived by each seeder, not stored.
ENTITY_NAMESPACE = UUID("6f1c1c1e-8f0b-5b43-9d3a-0c6a7f6f2a11")

_NAMESPACE_BYTES = ENTITY_NAMESPACE.bytes

#: Hex digits of a hash, and what they become where a UUID keeps its variant in their high bits.
_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))

#: The name of the sink that embeds. Others may need it, none may replace it.
EMBEDDING = "embedding"

#: The name of the sink that keeps leagues' SIMILAR_TO relationships in step with their vectors.
SIMILARITY = "similarity"

#: The sink that it follows, and asks: the vector index.
SIMILARITY_FOLLOWS = "pinecone"


#: The archetypes that the described system has; seeds may add more.
KNOWN_ARCHETYPES = frozenset({"racing", "combat", "team_sport", "precision", "large_field"})


class EntityType(StrEnum):
    """What is mirrored. The value is the table's name, so it may stand in SQL."""

    SPORT_ARCHETYPE = "sport_archetype"
    LEAGUE = "league"
    FEW_SHOT_EXAMPLE = "few_shot_example"


class Relation(StrEnum):
    """A relationship from one league to another. The value is its type in the graph.

    ``SIMILAR_TO`` is computed from vectors; the others are seeded.
    """

    SIMILAR_TO = "SIMILAR_TO"
    COMPETES_WITH = "COMPETES_WITH"
    SAME_ARCHETYPE = "SAME_ARCHETYPE"


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
class League:
    """A league or competition, as its seed says it."""

    league_tag: str
    league_name: str
    sport_name: str
    sport_archetype: str
    location: str | None = None
    tier: str | None = None
    status: str = "active"
    description: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SportArchetype:
    """A family of sports that share the shape of their events."""

    archetype_name: str
    display_name: str
    code_pattern: str
    description: str | None = None
    characteristics: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FewShotExample:
    """An input and the output wanted for it, by category."""

    example_id: str
    category: str
    input_text: str
    output_text: str
    sport_archetype: str | None = None
    tags: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)


Content = League | SportArchetype | FewShotExample


@dataclass(frozen=True, slots=True)
class LeaguePart:
    """A document or contract of a league, by the league's seed id."""

    league: str
    title: str
    fields: Mapping[str, Any]
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Relationship:
    """A relationship from one league to another, by their seed ids."""

    source: str
    target: str
    relation: Relation
    strength: float | None
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Model:
    """An embedding model by its provider's name, with the length of its vectors."""

    name: str
    dimensions: int


@dataclass(frozen=True, slots=True)
class Edge:
    """A relationship to a living league, as its source's projection carries it.

    ``target_version`` is the target's ``graph_version`` when the edge was read: a deletion of
    the target that is newer means that the edge must not be written any more.
    """

    id: UUID
    relation: Relation
    target: str
    target_version: int
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """The current state of one entity in PostgreSQL, as a sink gets it.

    ``vector`` is float32 little-endian, ``4 * dimensions`` bytes, and only read for sinks that
    need it. ``written_namespace`` is where the vector index holds the entity now, and
    ``doubtful_namespaces`` are those where a late write of it may turn up. ``edges`` are only
    read for sinks that mirror them; None says that the entity never had any.
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
    that sink has settled. ``types``: what it takes of the entities. ``local``: it calls no
    remote service. ``in_flight``: calls of one batch that may be under way at once, each
    from a thread of its own.
    """

    name: str
    guarded: bool = False
    needs_embedding: bool = False
    edges: bool = False
    follows: str | None = None
    local: bool = False
    types: tuple[EntityType, ...] = tuple(EntityType)
    in_flight: int = 1


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
        """Sinks that find the neighbours of leagues."""
        return [s.name for s in self.sinks if s.follows is not None]

    @property
    def relating_locally(self) -> list[str]:
        """Sinks that find the neighbours of leagues by the vectors in PostgreSQL."""
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
