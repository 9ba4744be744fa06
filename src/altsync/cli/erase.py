"""``altsync erase``: remove an entity from every store, and prove it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from altsync import erased
from altsync.app import Application
from altsync.cli.common import Json, application, operator
from altsync.cli.tables import Table, Text
from altsync.cli.terminal import Exit, answers, notes, print_json
from altsync.erase import receipt as receipts
from altsync.erase.receipt import Receipt, Store
from altsync.errors import AltsyncError

if TYPE_CHECKING:
    from altsync.erase.run import Request


def erase(
    entity: Annotated[
        str | None, typer.Option("--entity", help="The entity's type, such as product.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="The entity's key, or its seed id.")
    ] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="Why, for the audit.")] = None,
    folder: Annotated[Path, typer.Option("--dir", help="The seed folder.")] = Path("seeds"),
    to: Annotated[
        Path | None, typer.Option("--receipt", help="The file of the receipt, which is new.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0, help="Wait so many seconds for the workers.")
    ] = 60.0,
    check: Annotated[
        Path | None,
        typer.Option("--check", metavar="RECEIPT", help="Read every store again."),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the erasures.")] = False,
    as_json: Json = False,
) -> None:
    """Remove an entity from every store, and write a receipt of what was found after.

    Exit codes: 0 nothing is left, 1 something was found, 4 a sink gave up, 5 not complete yet.
    """
    from altsync.erase.run import Request

    if sum((check is not None, listed, entity is not None or key is not None)) != 1:
        raise typer.BadParameter("name --entity and --key, or --check, or --list")
    with application() as app:
        app.require_schema()
        if listed:
            _list(app, as_json)
        elif check is not None:
            _check(app, receipts.read(check), as_json)
        elif entity is None or key is None:
            raise typer.BadParameter("--entity and --key belong together")
        else:
            request = Request(entity, key, reason, operator(), timeout)
            _erase(app, request, folder, to, as_json)


def _erase(
    app: Application, request: Request, folder: Path, to: Path | None, as_json: bool
) -> None:
    from altsync.erase.run import Waiting, lines_of, refused_lines
    from altsync.erase.run import erase as erase_entity

    file = to or Path(f"erasure-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json")
    if file.exists():
        raise AltsyncError(f"{file} exists already: name another file by --receipt")
    with notes.status("Deleting from every store"):
        done = erase_entity(app, request)
    if isinstance(done, Waiting):
        code = Exit.SINK_ERRORS if done.is_dead else Exit.TIMED_OUT
        if as_json:
            print_json({"complete": False, "waiting": list(done.reasons)})
        for why in done.reasons:
            notes.print(Text(f"not complete: {why}", style="yellow"))
        notes.print("The same command goes on with it.")
        raise typer.Exit(code)
    _write(file, done)
    lines = lines_of(folder, done.target)
    names = [done.target.seed_id, *done.target.keys]
    refused = refused_lines(app.settings.altsync_home / "runs", names)
    if as_json:
        body = {"complete": True, "file": str(file), "lines": lines, "refused_lines": refused}
        print_json({**body, **done.as_json()})
        return
    stores = [Store(one["name"], tuple(one["found"]), one["not_read"]) for one in _stores(done)]
    answers.print(_table(stores))
    answers.print(f"Receipt: {file}")
    for place in lines:
        notes.print(Text(f"{place} still has it: remove the line; seeds refuse it", "yellow"))
    for place in refused:
        notes.print(Text(f"{place} holds it: delete the file, or run altsync prune", "yellow"))


def _stores(done: Receipt) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = done.body["stores"]
    return found


def _write(file: Path, done: Receipt) -> None:
    """Write a receipt that only its owner may read: it has the key."""
    text = json.dumps(done.as_json(), indent=2, ensure_ascii=False) + "\n"
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        answers.print(text)
        reason = f"{file}: cannot be written: {error.strerror}; the receipt is printed above"
        raise AltsyncError(reason) from None


def _check(app: Application, receipt: Receipt, as_json: bool) -> None:
    from altsync.erase.run import read_stores

    stores = list(read_stores(app, receipt.target))
    is_clear = all(one.ok for one in stores)
    if as_json:
        body = {"clear": is_clear, "stores": [asdict(one) for one in stores]}
        print_json({**body, "hash": receipt.hash})
    else:
        answers.print(_table(stores))
        said = "nothing is left" if is_clear else "not every store is clear"
        answers.print(f"Receipt {receipt.hash[:12]} of {receipt.body['read_at']}: {said}")
    if not is_clear:
        unread = all(one.ok or one.not_read for one in stores)
        raise typer.Exit(Exit.UNAVAILABLE if unread else Exit.ERROR)


def _table(stores: list[Store]) -> Table:
    table = Table("store", "found", title="Read after the erasure")
    for one in stores:
        found = "; ".join(one.found) or one.not_read or "nothing"
        table.add_row(one.name, Text(found, style="green" if one.ok else "red"))
    return table


def _list(app: Application, as_json: bool) -> None:
    with app.database.autocommit() as conn:
        found = erased.erasures(conn)
    if as_json:
        print_json([asdict(one) for one in found])
        return
    table = Table("requested", "entity", "by", "reason", "state", title="Erasures")
    for one in found:
        state = "complete" if one.completed_at else "not complete"
        table.add_row(
            f"{one.requested_at:%Y-%m-%d %H:%M}",
            one.entity,
            one.requested_by,
            one.reason or "",
            "loaded again" if one.lifted_at else state,
        )
    answers.print(table)
