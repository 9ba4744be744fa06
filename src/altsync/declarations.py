"""The sinks that are installed, as declared: found by entry point, without their SDKs.

Other modules ask here instead of naming a sink.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules

from altsync.contract import (
    EMBEDDING,
    SHADOW,
    SIMILARITY,
    Columns,
    Declaration,
    Drift,
    SinkTraits,
    imported,
)
from altsync.wording import suggestion

#: The group of entry points by which a package declares a sink, as ``name = "module:SINK"``.
GROUP = "altsync.sinks"

#: Sinks that were found and cannot be imported, with the reason.
BROKEN: dict[str, str] = {}


def _found() -> Iterator[Declaration]:
    """Find altsync's own sinks, then those of other packages."""
    own = import_module("altsync.sinks").__path__
    for module in iter_modules(own, "altsync.sinks."):
        if module.ispkg:
            yield import_module(module.name).SINK
    for entry in entry_points(group=GROUP):
        if entry.module.startswith("altsync.sinks."):
            continue
        try:
            found = imported(entry.value)
        except Exception as error:  # noqa: BLE001  (another package's code; named when it is used)
            BROKEN[entry.name] = f"{entry.value}: {type(error).__name__}: {error}"
            continue
        yield found


SINKS = {one.name: one for one in sorted(_found(), key=lambda one: (one.rank, one.name))}

#: Sinks that altsync does not bring.
OF_OTHER_PACKAGES = tuple(
    name for name, one in SINKS.items() if not one.open.startswith("altsync.sinks.")
)

#: Sinks that a seeding run can wait for, and whose status an entity keeps.
WITH_STATUS = tuple(name for name, one in SINKS.items() if one.columns)

#: Sinks with a status that mirror entities: a change of the entity makes each of them pending.
MIRRORS = tuple(name for name in WITH_STATUS if name != EMBEDDING)

#: Sinks that find the nearest vectors, the first choice first.
INDEXES = tuple(name for name, one in SINKS.items() if one.is_index)

#: Sinks that mirror relationships, the first choice first.
GRAPHS = tuple(name for name, one in SINKS.items() if one.traits.edges)

#: Columns of relationships that keep sinks' own ids.
EDGE_IDS = tuple(one.edge_id for one in SINKS.values() if one.edge_id)

#: Sinks that charge for what a comparison reads.
CHARGED = tuple(name for name, one in SINKS.items() if one.price)

#: Seconds from a new vector to the search of its neighbours, so that several changes share one.
SEARCH_DELAY = 0.2

#: The sink that finds neighbours by the vectors in PostgreSQL. It needs an embedder.
LOCAL_SIMILARITY = Declaration(
    SinkTraits(
        SIMILARITY, guarded=True, follows=EMBEDDING, delay=SEARCH_DELAY, similar=True, local=True
    ),
    "altsync.similarity.local:Sink",
    SINKS[EMBEDDING].setting,
    "Similarity",
    compare="altsync.verify.derived:compare_neighbours",
    drifts=(Drift.MISSING,),
)


def index_similarity(index: str) -> Declaration:
    """Return the sink that finds neighbours by queries to a vector index."""
    traits = SinkTraits(
        SIMILARITY,
        guarded=True,
        needs_embedding=True,
        follows=index,
        delay=max(SEARCH_DELAY, SINKS[index].lag),
        similar=True,
    )
    return replace(
        LOCAL_SIMILARITY,
        traits=traits,
        open="altsync.similarity.index:Sink",
        setting=SINKS[index].setting,
    )


def declaration(sink: str) -> Declaration:
    """Return a sink's declaration. Raises ``KeyError`` if it is not installed."""
    return LOCAL_SIMILARITY if sink == SIMILARITY else SINKS[sink.removeprefix(SHADOW)]


def not_installed(sink: str) -> str:
    """Return the message for a sink of ALTSYNC_SINKS that no package declares."""
    if sink in BROKEN:
        return (
            f"the sink {sink!r} cannot be imported: {BROKEN[sink]} (the module of its declaration "
            "may import only altsync.contract of altsync)"
        )
    near = suggestion(sink, SINKS)
    return f"there is no sink {sink!r}: no installed package declares it in {GROUP}{near}"


def queue_of(sink: str, sinks: Sequence[str] = INDEXES) -> str:
    """Return the queue of a sink's wake-ups: one per sink, so that a failing sink delays no other.

    Similarity shares the queue of the vector index among ``sinks``, or else of the embedder.
    """
    if sink != SIMILARITY:
        return sink.removeprefix(SHADOW)
    return next((index for index in INDEXES if index in sinks), EMBEDDING)


def columns_of(sink: str) -> Columns | None:
    """Return the columns of a sink on an entity's row; None if it has none."""
    return SINKS[sink].columns if sink in SINKS else None


def edge_id_column(sink: str) -> str | None:
    """Return the column of relationships that keeps a sink's own ids."""
    return SINKS[sink].edge_id if sink in SINKS else None


def namespace_column(sink: str) -> str | None:
    """Return the column with the namespace of an entity in a sink; None if it has none."""
    columns = columns_of(sink)
    return columns.namespace if columns else None


def title_of(sink: str) -> str:
    """Return the displayed name of a sink."""
    known = sink == SIMILARITY or sink in SINKS
    return (declaration(sink).title if known else "") or sink


def shown_sinks(sinks: Sequence[str]) -> list[str]:
    """Return the sinks of entities among ``sinks``, and the first graph or index if none is named.

    So a user sees that no graph, or no index, is set up.
    """
    absent = [sort[0] for sort in (GRAPHS, INDEXES) if sort and not set(sort) & set(sinks)]
    named = [sink for sink in sinks if sink not in (EMBEDDING, SIMILARITY)]
    ranks = list(SINKS)
    return sorted([*named, *absent], key=ranks.index)


#: Sinks with a status that hold vectors and their metadata alone.
ONLY_VECTORS = tuple(name for name in MIRRORS if SINKS[name].traits.only_vectors)


def pending(sinks: tuple[str, ...] = MIRRORS) -> str:
    """Return assignments in SQL that make sinks pending for an entity."""
    known = (columns_of(sink) for sink in sinks)
    return ", ".join(f"{columns.status} = 'pending'" for columns in known if columns)
