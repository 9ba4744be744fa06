"""The declaration of a sink, and its answers to calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from importlib import import_module
from typing import Any
from uuid import UUID

from altsync.entities import EntityType, Row
from altsync.operations import ErrorKind

#: The name of the sink that embeds. Others may need it, none may replace it.
EMBEDDING = "embedding"

#: The name of the sink that keeps computed relationships in step with vectors.
SIMILARITY = "similarity"

#: Prefix of the names under which operations bring entities to the indexes of another model.
SHADOW = "shadow_"


@dataclass(frozen=True, slots=True)
class Written:
    """The sink holds this version now (or, for a delete, nothing).

    ``edge_ids`` maps the ids of the written relationships to the sink's own ids.
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
    """A record that could not be written; :class:`altsync.errors.SinkFailure` has the fields.

    ``final``: the record can never be written as it is. It needs no evidence and no retry.
    """

    id: UUID
    kind: ErrorKind
    reason: str
    outcome_unknown: bool = False
    timed_out: bool = False
    retry_after: float | None = None
    final: bool = False


RecordOutcome = Written | AlreadyNewer | Failed


@dataclass(frozen=True, slots=True)
class Usage:
    """The units that a provider charges for: tokens of texts, read units, write units."""

    tokens: int = 0
    read_units: int = 0
    write_units: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.tokens + other.tokens,
            self.read_units + other.read_units,
            self.write_units + other.write_units,
        )

    def __bool__(self) -> bool:
        return bool(self.tokens or self.read_units or self.write_units)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one call: an outcome for every record, and what the provider charges.

    ``marks`` are for a sink that lags behind its writes: the position of the call's last write, by
    namespace. A query that names this position or a later one has seen the write. Positions of one
    type and namespace grow with each write. ``read_units`` and ``write_units`` are of a service
    that charges by them.
    """

    outcomes: tuple[RecordOutcome, ...]
    calls: int = 1
    tokens: int = 0
    marks: Mapping[str, int] = field(default_factory=dict)
    read_units: int = 0
    write_units: int = 0

    @property
    def usage(self) -> Usage:
        """Return what the provider charges for."""
        return Usage(self.tokens, self.read_units, self.write_units)


@dataclass(frozen=True, slots=True)
class SinkVersion:
    """One entity as a sink lists it, to compare with PostgreSQL."""

    key: str
    version: int
    content_hash: str | None = None
    model: str | None = None
    namespace: str | None = None


#: Facts of a store by bucket; two stores that agree have equal facts.
Digest = Mapping[int, set[tuple[Any, ...]]]


@dataclass(frozen=True, slots=True)
class Installation:
    """One altsync installation: the id of its database, and where that database is.

    A copied database has the same ``id``, but another ``database`` (name and schema) or ``system``
    (PostgreSQL's system identifier, empty where the role may not read it). ``since`` is the time
    when the id was created.
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
    """A kind of difference between a sink and PostgreSQL over one entity.

    ``ORPHAN``: the sink holds what PostgreSQL does not. ``AHEAD``: the sink's version is above
    PostgreSQL's, as after a restore. A record with an invalid version is ``STALE``.
    ``WRONG_NAMESPACE``: a vector in a namespace that its entity does not belong to. ``EDITED``: a
    row of PostgreSQL that SQL has changed, so its hashes do not fit; no sink is compared with it.
    """

    MISSING = "missing"
    STALE = "stale"
    ORPHAN = "orphan"
    AHEAD = "ahead"
    WRONG_MODEL = "wrong_model"
    WRONG_NAMESPACE = "wrong_namespace"
    EDITED = "edited"


@dataclass(frozen=True, slots=True)
class SinkTraits:
    """The traits of a sink by which the outbox and delivery treat it.

    ``guarded``: the sink itself refuses older versions. ``needs_embedding``: its operations are
    enqueued when the embedding settles. ``edges``: the sink mirrors relationships too, and is
    written at ``graph_version``. ``follows``: its operations are enqueued when that sink settles.
    ``delay``: seconds after which these are due. ``similar``: it takes only entities that are
    searched for neighbours. ``local``: it calls no remote service. ``in_flight``: parallel calls
    of one batch, each in a thread of its own. ``only_vectors``: it holds of an entity its key,
    namespace, vector and ``vector_metadata``. A change of other fields is not written, and its
    comparison accepts the older version.
    """

    name: str
    guarded: bool = False
    needs_embedding: bool = False
    edges: bool = False
    follows: str | None = None
    delay: float = 0.0
    local: bool = False
    similar: bool = False
    in_flight: int = 1
    only_vectors: bool = False

    @property
    def embeds(self) -> bool:
        """Return whether this is the embedding sink, which others wait for."""
        return self.base == EMBEDDING

    @property
    def shadow(self) -> bool:
        """Return whether it writes the vectors of the model beside the serving one."""
        return self.name.startswith(SHADOW)

    @property
    def base(self) -> str:
        """Return the name of the sink that it is a shadow of, or its own."""
        return self.name.removeprefix(SHADOW)

    @property
    def of_vectors(self) -> bool:
        """Return whether it embeds, or writes vectors that others have made."""
        return self.embeds or (self.needs_embedding and self.follows is None)

    def as_shadow(self) -> SinkTraits:
        """Return the traits of its shadow, which has operations and a breaker of its own."""
        return replace(self, name=SHADOW + self.name)

    def version_of(self, row: Row) -> int:
        """Return the version of a row that the sink stores."""
        return row.graph_version if self.edges else row.version

    def takes(self, entity_type: EntityType) -> bool:
        """Return whether entities of this type are mirrored to the sink."""
        return not self.similar or entity_type.similar is not None


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns of an entity that a sink uses; None for a column that it lacks.

    ``remote_id`` keeps the sink's own id of the entity, ``namespace`` the entity's namespace in
    the sink.
    """

    status: str
    synced_at: str | None = None
    remote_id: str | None = None
    namespace: str | None = None


#: Kinds of drift that a sink can show, unless it declares fewer.
EVERY_DRIFT = tuple(kind for kind in Drift if kind is not Drift.EDITED)


@dataclass(frozen=True, slots=True)
class Declaration:
    """A sink as its package declares it.

    Functions are named as ``module:function`` and imported when they are called, so that a
    declaration costs no SDK:

    - ``open``: (settings, vectors) -> the sink, or None while it is not configured
    - ``compare``: (run, sink, tally), for ``verify``
    - ``show``: (sink, row) -> ``Shown``, for ``why``
    - ``check``: (settings, sink, timeout) -> a line, for ``doctor``
    - ``estimate``: (batch size) -> ``Estimate``, of planned writes to a service that charges
    - ``price``: (sizes of namespaces) -> ``Reads``, of a comparison that costs money
    - ``forget``: (sink, row), to remove what a deletion leaves of an entity, such as a tombstone

    ``setting`` is the variable that switches the sink on; empty for one that is always on.
    ``settings`` are further variables of its own, ``secrets`` are the variables that logs hide.
    ``title`` is the name in messages. ``rank`` orders sinks in tables; the index of the lowest
    rank is asked first. ``is_index``: it finds the vectors nearest to one. ``lag``: seconds after
    which queries mostly see a write. ``edge_id`` is the column of relationships for the sink's own
    ids.
    """

    traits: SinkTraits
    open: str
    setting: str = ""
    title: str = ""
    columns: Columns | None = None
    edge_id: str | None = None
    compare: str = "altsync.verify.listing:compare"
    show: str = "altsync.why.stores:show_listed"
    check: str = "altsync.doctor:check_store"
    price: str = ""
    estimate: str = ""
    forget: str = ""
    drifts: tuple[Drift, ...] = EVERY_DRIFT
    is_index: bool = False
    lag: float = 0.0
    settings: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    rank: int = 100

    @property
    def name(self) -> str:
        """The sink's name."""
        return self.traits.name


def imported(path: str) -> Any:
    """Import and return the object that ``module:name`` names."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


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
            if not s.needs_embedding and s.follows is None and not s.embeds
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
        """Sinks whose operations are enqueued when ``sink`` settles."""
        return [s.name for s in self.sinks if s.follows == sink]

    @property
    def names(self) -> list[str]:
        """Every sink, in the order of the settings."""
        return [s.name for s in self.sinks]

    @property
    def shadows(self) -> tuple[SinkTraits, ...]:
        """The sinks that write the vectors of another model, while there is one."""
        return tuple(s.as_shadow() for s in self.sinks if s.of_vectors)

    def traits(self, sink: str) -> SinkTraits:
        """Return the traits of a sink or of its shadow. Raises ``KeyError``."""
        for traits in (*self.sinks, *self.shadows):
            if traits.name == sink:
                return traits
        raise KeyError(sink)
