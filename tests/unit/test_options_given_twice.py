"""An option that is given twice: both values count, or it is an error; in every command."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from altsync import cli
from altsync.cli.terminal import Exit


def _options(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    for name, sub in getattr(command, "commands", {}).items():
        yield from _options(sub, (*path, name))
    if path and not hasattr(command, "commands"):
        for parameter in command.params:
            flag = getattr(parameter, "is_flag", False)
            if parameter.param_type_name == "option" and not (flag or parameter.multiple):
                yield path, max(parameter.opts, key=len)


@pytest.mark.parametrize("path, option", list(_options(get_command(cli.app))))
def test_an_option_given_twice_is_refused_by_name(path: tuple[str, ...], option: str) -> None:
    result = CliRunner().invoke(cli.app, [*path, option, "1", f"{option}=2"])
    assert result.exit_code == Exit.USAGE
    assert f"{option} was given 2 times" in " ".join(result.output.replace("│", " ").split())
