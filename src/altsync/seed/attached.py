"""Write lines that name entities by seed id: attachments and relationships."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import orjson

from altsync.catalogue.current import part_of
from altsync.catalogue.parts import AttachmentTable
from altsync.entities import Attached, EntityType, Relationship, entity_id
from altsync.projection import part_hash
from altsync.seed import relationships
from altsync.seed.changes import Changes
from altsync.seed.lines import Line, Rejected
from altsync.seed.relationships import Endpoints
from altsync.seed.run import Run
from altsync.seed.sql import attachments, seen
from altsync.seed.sql import relationships as sql


def write_attachments(
    run: Run, table: AttachmentTable, lines: Sequence[Line], rejected: list[Rejected]
) -> tuple[Changes, Sequence[Line]]:
    """Write attachments. Returns the changes, and the lines that are not rejected."""
    lines = _only_loaded(run, table.owner, lines, rejected)
    attachments.copy_to_staging(run.conn, table, [_attachment_row(table, line) for line in lines])
    run.at("copied")
    return attachments.upsert(run.conn, table, write=not run.options.dry_run), lines


def write_relationships(
    run: Run, kind: EntityType, lines: Sequence[Line], rejected: list[Rejected]
) -> tuple[Changes, Sequence[Line]]:
    """Write relationships. Returns the changes, and the lines that are not rejected."""
    edges = kind.edge_table
    sql.copy_to_staging(run.conn, edges, [_relationship_row(kind, line) for line in lines])
    run.at("copied")
    # Lock before the check: an entity found living is not deleted before the commit.
    endpoints = Endpoints()
    if not run.options.dry_run:
        endpoints = relationships.lock_changed(run.conn, kind)
        run.at("ends locked")
    loaded = _without_duplicates(run, kind, _only_loaded(run, kind, lines, rejected), rejected)
    removed = sorted({line.seed_id for line in lines} - {line.seed_id for line in loaded})
    if removed:
        sql.remove_from_staging(run.conn, edges, removed)
        if not run.options.dry_run:
            # A source that only rejected lines name is not written to the graph.
            endpoints = relationships.lock_changed(run.conn, kind, endpoints)
    if run.options.dry_run:
        return sql.classify(run.conn, edges, run.topology), loaded
    return relationships.upsert(run.conn, kind, endpoints, run.topology, run.at), loaded


def _only_loaded(
    run: Run, named: EntityType, lines: Sequence[Line], rejected: list[Rejected]
) -> list[Line]:
    """Return the lines whose entities are loaded; reject the others, naming the field."""
    wanted = list({seed_id for line in lines for seed_id in _named_entities(line).values()})
    ids = {seed_id: entity_id(named, seed_id) for seed_id in wanted}
    living = seen.living(run.conn, named, list(ids.values()))
    loaded = {seed_id for seed_id in wanted if ids[seed_id] in living}
    pruned: set[str] = set()
    if named in run.pruned:
        pruned = loaded - seen.seen_ids(run.conn, part_of(named), wanted)
        loaded -= pruned
    if run.options.dry_run:
        loaded |= seen.good_ids(run.conn, part_of(named), wanted)
    good = []
    for line in lines:
        missing = next(
            ((name, one) for name, one in _named_entities(line).items() if one not in loaded), None
        )
        if missing is None:
            good.append(line)
            continue
        field, seed_id = missing
        why = "stays: --prune deletes it" if seed_id in pruned else "is loaded"
        rejected.append(line.reject(field, f"no {named.one} with the seed id {seed_id!r} {why}"))
    return good


def _without_duplicates(
    run: Run, kind: EntityType, lines: Sequence[Line], rejected: list[Rejected]
) -> list[Line]:
    """Return the first line of each relationship; reject the others."""
    rows = {line.seed_id: _relationship_row(kind, line) for line in lines}
    pairs = {seed_id: (row[2], row[3], row[4]) for seed_id, row in rows.items()}
    ids = [row[0] for row in rows.values()]
    held = sql.holders(run.conn, kind, ids, list(pairs.values())) if ids else {}
    first = []
    for line in lines:
        holder = held.setdefault(pairs[line.seed_id], line.seed_id)
        if holder == line.seed_id:
            first.append(line)
        else:
            reason = f"the line with the id {holder!r} says the same"
            rejected.append(line.reject("target", reason))
    return first


def _named_entities(line: Line) -> dict[str, str]:
    """Return the seed ids of the entities that a line names, by field."""
    if isinstance(line.item, Relationship):
        return {"source": line.item.source, "target": line.item.target}
    item = cast(Attached, line.item)
    return {item.field: item.owner}


def _relationship_row(kind: EntityType, line: Line) -> tuple[Any, ...]:
    item = cast(Relationship, line.item)
    return (
        entity_id(kind.edge_table.table, line.seed_id),
        line.seed_id,
        entity_id(kind, item.source),
        entity_id(kind, item.target),
        item.relation,
        item.strength,
        orjson.dumps(item.attributes).decode(),
        part_hash(item),
    )


def _attachment_row(table: AttachmentTable, line: Line) -> tuple[Any, ...]:
    item = cast(Attached, line.item)
    return (
        entity_id(table, line.seed_id),
        line.seed_id,
        entity_id(table.owner, item.owner),
        item.title,
        orjson.dumps(item.attributes).decode(),
        part_hash(item),
        *(item.fields[name] for name in table.columns),
    )
