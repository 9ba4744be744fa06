"""``altsync seed``, with options for the parts of the catalogue."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from altsync.catalogue.current import parts
from altsync.catalogue.parts import Part
from altsync.cli.common import Json, application
from altsync.cli.costs import MaxCost
from altsync.cli.seed_run import Until, run
from altsync.errors import ConfigurationError
from altsync.seed.files import named_by
from altsync.seed.options import SeedOptions

#: The parameter of ``--all``.
EVERYTHING = "everything"


Limit = Annotated[int | None, typer.Option(min=0, help="At most so many lines of each part.")]
Folder = Annotated[Path, typer.Option("--dir", help="The seed folder.")]
Prune = Annotated[bool, typer.Option("--prune", help="Delete what the files no longer hold.")]
PruneSaved = Annotated[
    bool, typer.Option("--prune-saved", help="With --prune: also what programs have saved.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Prune even more than a fifth of a part.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse a whole file for one bad line in it.")
]


def _seed(
    chosen: tuple[Part, ...],
    only: Mapping[str, str],
    limit: Limit = None,
    folder: Folder = Path("seeds"),
    prune: Prune = False,
    prune_saved: PruneSaved = False,
    yes: Yes = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would happen, and write nothing.")
    ] = False,
    strict: Strict = False,
    allow_erased: Annotated[
        bool, typer.Option("--allow-erased", help="Load lines of erased entities, too.")
    ] = False,
    wait: Annotated[
        Until | None,
        typer.Option(
            "--wait",
            metavar="[=searchable]",
            help="Wait until every sink has this run's changes, or until queries show them.",
        ),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="With --wait: give up after so many seconds.")
    ] = None,
    max_cost: MaxCost = None,
    as_json: Json = False,
) -> None:
    """Load JSONL seeds into PostgreSQL and its outbox, in one transaction per batch.

    Exit codes: 0 done, 1 error, 2 usage, 3 some lines were refused or nothing was pruned,
    4 a sink gave up on some, 5 --timeout passed, 6 over --max-cost.
    """
    if prune_saved and not prune:
        raise typer.BadParameter("--prune-saved needs --prune")
    waits = wait is not None
    options = SeedOptions(folder, chosen, limit, only, prune, yes, strict, dry_run, waits)
    options = replace(options, prune_saved=prune_saved, allow_erased=allow_erased)
    with application() as app:
        raise typer.Exit(
            run(app, options, wait=wait, timeout=timeout, as_json=as_json, max_cost=max_cost)
        )


def _plan(
    chosen: tuple[Part, ...],
    only: Mapping[str, str],
    limit: Limit = None,
    folder: Folder = Path("seeds"),
    prune: Prune = False,
    prune_saved: PruneSaved = False,
    yes: Yes = False,
    model: Annotated[
        str | None, typer.Option("--model", help="As if this model embedded the texts.")
    ] = None,
    dimensions: Annotated[
        int | None, typer.Option("--dimensions", min=1, help="As if vectors had so many numbers.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Plan ``altsync seed``: what it would change in every store, and what that costs.

    Exit codes: 0 done, 1 error, 2 usage, 3 some lines would be refused or nothing pruned.
    """
    if prune_saved and not prune:
        raise typer.BadParameter("--prune-saved needs --prune")
    options = SeedOptions(folder, chosen, limit, only, prune, yes, dry_run=True)
    options = replace(options, prune_saved=prune_saved)
    with application() as app:
        code = run(app, options, as_json=as_json, model=model, dimensions=dimensions)
        raise typer.Exit(code)


def seed() -> Callable[..., None]:
    """Return ``altsync seed``."""
    return _command(_seed)


def plan_seed() -> Callable[..., None]:
    """Return ``altsync plan seed``."""
    return _command(_plan)


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """Return a command, with an option for each part of the catalogue and each file name."""
    flags = {_parameter(part): part for part in parts()}
    columns = {_parameter(column): column for part in parts() if (column := named_by(part))}
    fixed = [
        p
        for p in signature(function, eval_str=True).parameters.values()
        if p.default is not p.empty
    ]
    _check_options([*flags.values(), *columns.values()], {EVERYTHING, *(p.name for p in fixed)})

    def command(**given: Any) -> None:
        everything = given.pop(EVERYTHING)
        chosen = tuple(part for flag, part in flags.items() if given.pop(flag) or everything)
        named = {column: given.pop(name) for name, column in columns.items()}
        only = {column: name for column, name in named.items() if name is not None}
        if not chosen:
            options = ", ".join(["--all", *map(_option, flags)])
            raise typer.BadParameter(f"say what to seed: {options}")
        for column in only:
            if not any(named_by(part) == column for part in chosen):
                needed = " or ".join([*_options_of(column), "--all"])
                raise typer.BadParameter(f"{_option(column)} needs {needed}")
        function(chosen, only, **given)

    def parameter(name: str, option: str, kind: Any, default: Any, text: str) -> Parameter:
        annotation = Annotated[kind, typer.Option(option, help=text)]
        return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)

    limit, *rest = (one.replace(kind=Parameter.KEYWORD_ONLY) for one in fixed)
    command.__signature__ = Signature(  # type: ignore[attr-defined]
        [
            parameter(EVERYTHING, "--all", bool, False, "Every part that is there."),
            *(
                parameter(flag, _option(flag), bool, False, f"{part}.jsonl, {part}/*.jsonl")
                for flag, part in flags.items()
            ),
            limit,
            *(
                parameter(name, _option(name), str | None, None, _only_help(column))
                for name, column in columns.items()
            ),
            *rest,
        ]
    )
    command.__doc__ = function.__doc__
    return command


def _parameter(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _option(name: str) -> str:
    return f"--{re.sub('[^A-Za-z0-9]', '-', name)}"


def _options_of(column: str) -> list[str]:
    return [_option(part) for part in parts() if named_by(part) == column]


def _only_help(column: str) -> str:
    files = ", ".join(f"{part}/<{column}>.jsonl" for part in parts() if named_by(part) == column)
    needed = " or ".join([*_options_of(column), "--all"])
    return f"Only {files}; needs {needed}."


def _check_options(made: Sequence[str], taken: set[str]) -> None:
    """Raise ``ConfigurationError`` for a part or field whose option is taken already."""
    known = {_option(name) for name in (*taken, "all", "dir", "json")}
    for name in dict.fromkeys(made):
        if _option(name) in known:
            raise ConfigurationError(
                f"catalogue: {name!r} cannot be a part of the seeds or a file_name: "
                f"altsync seed {_option(name)} is another option"
            )
