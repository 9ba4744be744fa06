"""``altsync seed`` has an option for each part of the catalogue, and for each file's name."""

from __future__ import annotations

from typing import Annotated

import pytest
import typer

from altsync import Catalogue, Embed, Entity, Key, Node, Seeds, Vectors
from altsync.catalogue.current import using
from altsync.cli.seed import seed
from altsync.errors import ConfigurationError
from tests import toy

OWN = {
    *("--limit", "--dir", "--prune", "--prune-saved", "--yes", "--dry-run", "--strict"),
    *("--wait", "--timeout", "--json", "--all", "--allow-erased", "--max-cost"),
}


def options_of(catalogue: Catalogue) -> set[str]:
    with using(catalogue):
        app = typer.Typer()
        app.command()(seed())
        command = typer.main.get_command(app)
    known = {name for one in command.params for name in one.opts}
    return known - {"--install-completion", "--show-completion"}


def test_parts_and_file_names_are_options() -> None:
    parts = {"--brands", "--shelves", "--products", "--reviews", "--pairs"}
    assert options_of(toy.catalogue) == OWN | parts | {"--season"}


def test_a_part_that_would_hide_an_option_is_refused() -> None:
    class Odd(Entity, table=True):
        """A thing whose part has the name of an option."""

        __tablename__ = "odd_part"

        code: Annotated[str, Key(), Embed]

        seeds = Seeds("limit")
        node = Node("Odd")
        vectors = Vectors("odd")

    with pytest.raises(ConfigurationError, match="altsync seed --limit is another option"):
        options_of(Catalogue("odd", entities=[Odd]))
