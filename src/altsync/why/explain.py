"""Why an entity is where it is: every store asked about it, compared, and put into words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from altsync.app import Application
from altsync.catalogue.current import entity_types, part_of, parts
from altsync.circuit.sinks import SinkHealth, sink_health, wanted_model
from altsync.contract import EMBEDDING, imported
from altsync.db import Conn
from altsync.declarations import SINKS, shown_sinks, title_of
from altsync.entities import Content, Model, Row
from altsync.errors import SeedError, SinkFailure
from altsync.log import redact
from altsync.operations import BreakerState, Origin
from altsync.projection import (
    content_hash,
    embedding_text,
    is_edited,
    same_content,
    text_hash,
)
from altsync.protocols import Shown
from altsync.seed import reader
from altsync.seed.lines import Rejected
from altsync.store.reads import clock
from altsync.store.rows import read_rows
from altsync.store.vectors import EmbeddingCache
from altsync.tokens import most_tokens
from altsync.why import history as why_history
from altsync.why.history import EntityState, OperationRow, entity_state, suggestions
from altsync.wording import plural, sentences

#: The latest operations that are shown of an entity.
OPERATIONS = 10

#: Time that an operation may be due without any claim before no worker seems to run. The relay
#: looks every second.
SILENCE = timedelta(seconds=10)

#: What is said of a row that altsync did not write as it is.
EDITED = "edited by SQL: its content is not what its hashes are of"


@dataclass(frozen=True, slots=True)
class SeedLine:
    """The line of the seed folder that gives the entity.

    ``same`` says whether PostgreSQL holds what it says; None when that cannot be told, as it
    would be ``refused`` (for that reason).
    """

    file: str
    line: int
    text: str
    same: bool | None = None
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class Embedding:
    """The vector in PostgreSQL, and what another one would cost.

    ``most_tokens`` is an upper bound of the text's tokens: its bytes. What was really paid is
    known by batch (``delivery_batch``), not by entity. ``kept``: the wanted model's vector of
    the text is there already, for this entity or any other, and costs nothing.
    """

    wanted_model: str | None
    model: str | None
    up_to_date: bool
    updated_at: datetime | None
    most_tokens: int
    kept: bool


@dataclass(frozen=True, slots=True)
class Check:
    """Whether one store holds what it should; None when it was not asked, or did not answer."""

    store: str
    agrees: bool | None
    detail: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """One entity in every store. ``stores`` are what the sinks hold, by their names."""

    entity: EntityState
    seed: SeedLine | None
    embedding: Embedding
    stores: Mapping[str, Shown]
    checks: tuple[Check, ...]
    operations: tuple[OperationRow, ...]
    reasons: tuple[str, ...]

    @property
    def agrees(self) -> bool | None:
        """Return whether all stores agree; None when nothing differs and not all could be asked.

        The seed folder need not be there.
        """
        if any(check.agrees is False for check in self.checks):
            return False
        asked = (check.agrees for check in self.checks if check.store != "seed")
        return None if None in asked else True


@dataclass(frozen=True, slots=True)
class Unknown:
    """PostgreSQL has no such entity: why not, and which names are ``near``."""

    key: str
    reason: str
    near: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _DeliveryState:
    """What is under way for the entity, and how each sink stands."""

    now: datetime
    live: Mapping[str, OperationRow]
    dead: Mapping[str, OperationRow]
    discarded: Mapping[str, OperationRow]
    health: Mapping[str, SinkHealth]
    disabled: Mapping[str, str | None]
    graph: Sequence[str] = ()


def explain(app: Application, key: str, folder: Path) -> Explanation | Unknown:
    """Ask every store about the entity that goes by ``key``. A store that is away is said."""
    with app.database.autocommit() as conn:
        entity = entity_state(conn, key)
        if entity is None:
            past = why_history.operations(conn, entity=key, limit=1)
            near = tuple(suggestions(conn, key))
            model = _model(app, wanted_model(conn))
            return Unknown(key, _why_unknown(folder, key, past, model), near)
        (row,) = read_rows(conn, entity.type, [entity.id])
        wanted = wanted_model(conn)
        operations = why_history.operations(conn, entity=entity.id, limit=OPERATIONS)
        delivery = _DeliveryState(
            clock(conn),
            _by_sink(conn, entity, "pending", "in_progress"),
            _by_sink(conn, entity, "dead"),
            _by_sink(conn, entity, "discarded"),
            sink_health(conn),
            {sink: app.disabled_reason(sink) for sink in app.topology.names},
            graph=app.topology.graph,
        )
    edited = not row.deleted and is_edited(row)
    if edited:  # judged by what it holds, not by hashes of what it held
        own = row.content
        row = replace(row, content_hash=content_hash(own), text_hash=text_hash(own))
    embedding = _embedding(app, row, entity, wanted)
    line, seed = _seed(folder, entity, row, _model(app, wanted))
    stores = {sink: _ask(app, row, sink) for sink in shown_sinks(app.topology.names)}
    asked = (Check(sink, shown.agrees, shown.detail) for sink, shown in stores.items())
    postgresql = (Check("postgresql", False, EDITED),) if edited else ()
    checks = (*postgresql, seed, _check_embedding(row, embedding), *asked)
    reasons = _reasons(app, entity, embedding, line, checks, delivery)
    return Explanation(entity, line, embedding, stores, checks, tuple(operations), reasons)


def _model(app: Application, wanted: tuple[str, int] | None) -> str | None:
    """Return the model whose limit refuses a seed, None where nothing is embedded or cut."""
    refuses = EMBEDDING in app.topology.names and app.settings.altsync_long_text == "refuse"
    return wanted[0] if wanted and refuses else None


def _by_sink(conn: Conn, entity: EntityState, *statuses: str) -> dict[str, OperationRow]:
    rows = [
        row
        for status in statuses
        for row in why_history.operations(conn, entity=entity.id, status=status)
    ]
    return {row.sink: row for row in sorted(rows, key=lambda row: row.id)}


# --- the seed folder --------------------------------------------------------------------------


def _why_unknown(folder: Path, key: str, past: Sequence[OperationRow], model: str | None) -> str:
    for part in parts():
        try:
            line = next(reader.find(folder, part, key, model), None) if part.entity_type else None
        except SeedError:
            break
        if isinstance(line, Rejected):
            return f"{key}: not in PostgreSQL, as its seed line is refused: {line}"
        if line is not None:
            return (
                f"{key}: not in PostgreSQL yet: {line.file}:{line.number} gives it; "
                f"altsync seed --{part} loads it"
            )
    if past:
        last = past[0]
        return (
            f"{key}: deleted, and its row was removed after every sink had confirmed "
            f"(the last operation: {last.action} in {last.sink}, {last.status})"
        )
    kinds = [one.one for one in entity_types()]
    named = f"{', '.join(kinds[:-1])} or {kinds[-1]}" if kinds[1:] else kinds[0]
    return f"{key}: no {named} goes by this tag, name or id"


def _seed(
    folder: Path, entity: EntityState, row: Row, model: str | None
) -> tuple[SeedLine | None, Check]:
    part = part_of(entity.type)
    try:
        found = list(reader.find(folder, part, entity.seed_id, model))
    except SeedError as error:
        return None, Check("seed", None, str(error))
    if not found:
        gone = entity.deleted_at is not None
        return None, Check("seed", gone or None, f"no line of {folder} gives {entity.seed_id}")
    # As in a run: the first good line counts.
    line = next((one for one in found if not isinstance(one, Rejected)), found[0])
    if isinstance(line, Rejected):
        refused = f"{line.field}: {line.reason}" if line.field else line.reason
        place = SeedLine(line.file, line.number, line.raw, refused=refused)
        return place, Check("seed", False, f"the line is refused: {refused}")
    content = cast("Content", line.item)
    if not getattr(content, entity.type.key_column):
        content = replace(cast("Any", content), **{entity.type.key_column: entity.key})
    same = same_content(content, row.content) and entity.deleted_at is None
    detail = "PostgreSQL holds what it says" if same else "PostgreSQL holds something else"
    return SeedLine(line.file, line.number, line.raw, same), Check("seed", same, detail)


# --- the sinks --------------------------------------------------------------------------------


def _embedding(
    app: Application, row: Row, entity: EntityState, wanted: tuple[str, int] | None
) -> Embedding:
    cache = EmbeddingCache(app.database)
    kept = bool(wanted and cache.known(Model(*wanted), [row.text_hash]))
    name = wanted[0] if wanted else None
    return Embedding(
        name,
        entity.embedding_model,
        name is not None and row.is_embedded_by(name),
        entity.embedding_updated_at,
        most_tokens(embedding_text(row.content)),
        kept,
    )


def _check_embedding(row: Row, embedding: Embedding) -> Check:
    if row.deleted:
        return Check(EMBEDDING, True, "a deleted entity needs none")
    if embedding.up_to_date:
        return Check(EMBEDDING, True, f"of the current text, by {embedding.model}")
    return Check(EMBEDDING, False, _gap(embedding))


def _gap(embedding: Embedding) -> str:
    """Return how the vector differs from the one that is wanted."""
    if embedding.model is None:
        return "there is none yet"
    if embedding.model != embedding.wanted_model:
        return f"by {embedding.model}, not by {embedding.wanted_model}"
    return "of a former text"


def _ask(app: Application, row: Row, name: str) -> Shown:
    """Ask a sink for the entity; without an answer, return why there is none."""
    # For scripts, an index has a list of vectors, any other sink one record or none.
    nothing = () if SINKS[name].is_index else None
    if name not in app.topology.names:
        return Shown(None, "not among ALTSYNC_SINKS", nothing)
    disabled = app.disabled_reason(name)
    if disabled is not None:
        return Shown(None, f"switched off: {disabled}", nothing)
    with app.database.autocommit() as conn:
        written = read_rows(conn, row.entity_type, [row.id], sink=name)
    if written:
        row = replace(row, written_namespace=written[0].written_namespace)
    try:
        found: Shown = imported(SINKS[name].show)(app.sink(name), row)
    except SinkFailure as failure:
        return Shown(None, f"no answer: {redact(failure.reason)}", nothing)
    return found


# --- in words ---------------------------------------------------------------------------------


def _reasons(
    app: Application,
    entity: EntityState,
    embedding: Embedding,
    line: SeedLine | None,
    checks: Sequence[Check],
    delivery: _DeliveryState,
) -> tuple[str, ...]:
    """Return why it is where it is: a sentence for everything that is not as it should be."""
    edited = any(check.store == "postgresql" for check in checks)
    found = [_edited_reason(entity) if edited else _seed_reason(entity, line)]
    told: set[str] = set()
    for sink in app.topology.names:
        said = _sink_reason(app, entity, embedding, sink, delivery, edited=edited)
        if said:
            told.add(sink)
            found.append(said)
    by_store = {check.store: check for check in checks}
    for sink in shown_sinks(app.topology.names):
        check = by_store[sink]
        if check.agrees is False and edited and sink not in told:
            found.append(f"{title_of(sink)} does not hold the edit ({check.detail}).")
        elif check.agrees is False and sink not in told:
            found.append(
                f"{title_of(sink)} differs though it has confirmed ({check.detail}): it was "
                f"changed there. altsync backfill --sink {sink} --force writes everything again."
            )
        elif check.agrees is None and sink not in told:
            found.append(sentences(f"{title_of(sink)} was not compared: {check.detail}"))
    reasons = tuple(reason for reason in found if reason)
    if reasons:
        return reasons
    if entity.deleted_at is not None:
        return (f"Deleted everywhere at version {entity.version}.",)
    return (f"Every store agrees at version {entity.version}.",)


def _edited_reason(entity: EntityState) -> str:
    part = part_of(entity.type)
    return (
        f"PostgreSQL's row was {EDITED}. altsync seed --{part} takes the seed's values back; "
        "altsync verify --repair keeps the edit and carries it to every store."
    )


def _seed_reason(entity: EntityState, line: SeedLine | None) -> str | None:
    if line is None or line.same:
        return None
    if line.refused:
        return sentences(
            f"Its seed line is refused, so PostgreSQL keeps what it had: {line.refused}"
        )
    part = part_of(entity.type)
    return f"Its seed line has changed and is not loaded: altsync seed --{part} loads it."


def _sink_reason(
    app: Application,
    entity: EntityState,
    embedding: Embedding,
    sink: str,
    delivery: _DeliveryState,
    *,
    edited: bool,
) -> str | None:
    title = title_of(sink)
    live, dead = delivery.live.get(sink), delivery.dead.get(sink)
    if live is not None:
        return sentences(f"{title} {_live_reason(live, delivery)}")
    if dead is not None:
        return sentences(
            f"{title} was given up on after {_attempts(dead)}: {dead.last_error}",
            f"Remove the cause, then altsync retry --entity {entity.key}",
        )
    lacks = entity.sinks.get(sink)
    discarded = delivery.discarded.get(sink)
    if discarded is not None and lacks is not None and lacks.status == "failed":
        return sentences(
            f"{title} was given up on for good by {discarded.discarded_by} "
            f"({discarded.discarded_why}) after: {discarded.last_error}",
            "It is tried again when the entity changes",
        )
    if embedding.up_to_date or edited or entity.deleted_at is not None:
        return None
    if lacks is not None and lacks.status == "failed" and _waits(app, sink):
        return f"{title} lacks the entity, as its embedding was given up on."
    if sink == EMBEDDING:
        return (
            f"{title} is not as wanted ({_gap(embedding)}), and nothing is under way: "
            "altsync reembed finds such rows."
        )
    return f"{title} waits for the embedding." if _waits(app, sink) else None


def _waits(app: Application, sink: str) -> bool:
    traits = app.topology.traits(sink)
    return traits.needs_embedding and traits.follows is None


def _live_reason(op: OperationRow, delivery: _DeliveryState) -> str:
    """Return what a live operation waits for."""
    sink, now = op.sink, delivery.now
    health, disabled = delivery.health.get(sink), delivery.disabled.get(sink)
    if op.status == "in_progress":
        if op.available_at <= now:
            return f"was being worked on by {op.leased_by}, which has vanished; another takes over"
        return f"is being worked on by {op.leased_by}"
    paused = health is not None and health.state is BreakerState.PAUSED
    if disabled is not None and not paused:
        return f"waits: it is switched off ({disabled})"
    if health is None:
        return "waits: it was never set up; run altsync migrate"
    match health.state:
        case BreakerState.OPEN | BreakerState.PROBING:
            return f"waits: its breaker is open since {_time(health.since)}: {health.reason}"
        case BreakerState.PAUSED:
            return (
                f"waits: it is paused since {_time(health.since)} ({health.reason}); "
                f"altsync resume --sink {sink} lets it go on"
            )
        case BreakerState.DISABLED:
            return f"waits: the relay has it switched off ({health.reason})"
        case BreakerState.CLOSED:
            return _due_reason(op, health, now, held=sink in delivery.graph)


#: Origins of operations that were enqueued with the change itself.
_CHANGES = (Origin.SEED, Origin.UPDATE)


def _due_reason(op: OperationRow, health: SinkHealth, now: datetime, *, held: bool) -> str:
    if op.available_at > now and op.origin == Origin.CONFIRM:
        when = _time(op.available_at)
        return f"is written once more at {when}, as the outcome of an earlier write is unknown"
    if op.available_at > now and op.last_error is None and held and op.origin in _CHANGES:
        return f"waits for its relationships, until {_time(op.available_at)} at most"
    if op.available_at > now and op.last_error is None:
        return f"is due at {_time(op.available_at)}"
    if op.available_at > now:
        return f"is tried again at {_time(op.available_at)}, after {_attempts(op)}: {op.last_error}"
    claimed = health.last_claim_at
    if op.available_at < now - SILENCE and (claimed is None or claimed < op.available_at):
        when = f"since {_time(claimed)}" if claimed else "yet"
        return f"is due, and no worker has claimed it {when}: see whether relay and worker run"
    return "is due, and will be worked on in its turn"


def _attempts(op: OperationRow) -> str:
    return plural(op.attempts, "attempt")


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
