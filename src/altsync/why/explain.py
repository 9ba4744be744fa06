"""Explanation of one entity: read every store, compare, and give the reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from altsync.app import Application
from altsync.catalogue.current import entity_types, part_of, parts
from altsync.circuit.sinks import sink_health, wanted_model
from altsync.contract import EMBEDDING, imported
from altsync.db import Conn
from altsync.declarations import SINKS, shown_sinks
from altsync.entities import Content, Model, Row
from altsync.errors import SeedError, SinkFailure
from altsync.log import redact
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
from altsync.why.explanation import (
    EDITED,
    Check,
    DeliveryState,
    Embedding,
    Explanation,
    SeedLine,
    Unknown,
)
from altsync.why.history import EntityState, OperationRow, entity_state, suggestions
from altsync.why.reasons import reasons_of

#: Number of latest operations in an explanation.
OPERATIONS = 10


def explain(app: Application, key: str, folder: Path) -> Explanation | Unknown:
    """Read the entity of ``key`` from every store. An unavailable store is a finding."""
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
        delivery = DeliveryState(
            clock(conn),
            _by_sink(conn, entity, "pending", "in_progress"),
            _by_sink(conn, entity, "dead"),
            _by_sink(conn, entity, "discarded"),
            sink_health(conn),
            app.disabled_reasons,
            graph=app.topology.graph,
        )
    edited = not row.deleted and is_edited(row)
    if edited:  # compared by its content, as its hashes are outdated
        own = row.content
        row = replace(row, content_hash=content_hash(own), text_hash=text_hash(own))
    embedding = _embedding(app, row, entity, wanted)
    line, seed = _seed(folder, entity, row, _model(app, wanted))
    stores = {sink: _ask(app, row, sink) for sink in shown_sinks(app.topology.names)}
    asked = (Check(sink, shown.agrees, shown.detail) for sink, shown in stores.items())
    postgresql = (Check("postgresql", False, EDITED),) if edited else ()
    checks = (*postgresql, seed, _check_embedding(row, embedding), *asked)
    reasons = reasons_of(app.topology, entity, embedding, line, checks, delivery)
    return Explanation(entity, line, embedding, stores, checks, tuple(operations), reasons)


def _model(app: Application, wanted: tuple[str, int] | None) -> str | None:
    """Return the model whose limit refuses long texts; None if none is refused."""
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
    return f"{key}: no {named} has this key or seed id"


def _seed(
    folder: Path, entity: EntityState, row: Row, model: str | None
) -> tuple[SeedLine | None, Check]:
    part = part_of(entity.type)
    try:
        found = list(reader.find(folder, part, entity.seed_id, model))
    except SeedError as error:
        return None, Check("seed", None, str(error))
    if not found:
        deleted = entity.deleted_at is not None
        return None, Check("seed", deleted or None, f"no line of {folder} gives {entity.seed_id}")
    # As in a seeding run, the first line that is not rejected counts.
    line = next((one for one in found if not isinstance(one, Rejected)), found[0])
    if isinstance(line, Rejected):
        refused = f"{line.field}: {line.reason}" if line.field else line.reason
        seed_line = SeedLine(line.file, line.number, line.raw, refused=refused)
        return seed_line, Check("seed", False, f"the line is refused: {refused}")
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
    return Check(EMBEDDING, False, embedding.gap)


def _ask(app: Application, row: Row, name: str) -> Shown:
    """Ask a sink for the entity; without an answer, return why there is none."""
    # In JSON an index has a list of vectors, any other sink one record or null.
    nothing = () if SINKS[name].is_index else None
    if name not in app.topology.names:
        return Shown(None, "not among ALTSYNC_SINKS", nothing)
    disabled = app.disabled_reason(name)
    if disabled is not None:
        return Shown(None, f"switched off: {disabled}", nothing)
    with app.database.autocommit() as conn:
        written = read_rows(
            conn,
            row.entity_type,
            [row.id],
            with_vectors=SINKS[name].traits.only_vectors,
            sink=name,
        )
    if written:
        row = replace(row, written_namespace=written[0].written_namespace)
    try:
        found: Shown = imported(SINKS[name].show)(app.sink(name), row)
    except SinkFailure as failure:
        return Shown(None, f"no answer: {redact(failure.reason)}", nothing)
    return found
