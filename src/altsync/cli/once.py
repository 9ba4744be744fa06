"""Commands that refuse an option given twice, and complete an option whose value may be left out.

Of two values of one option only one would be used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand

#: Options whose value may be left out, each with the value that it then has. Typer has no option
#: for that.
BARE = {"--wait": "confirmed"}


class OnceCommand(TyperCommand):
    """A command whose options with one value may be given once."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as Typer does. Raises a usage error that names the doubled option."""
        valued = {name for one in self.params for name in one.opts if not _is_flag(one)}
        args = [f"{one}={BARE[one]}" if one in BARE and one in valued else one for one in args]
        if not ctx.resilient_parsing:
            _, _, order = self.make_parser(ctx).parse_args(args=list(args))
            # An option with several values appears once for each in one call.
            for parameter, count in Counter(order).items():
                one_value = not (getattr(parameter, "multiple", False) or parameter.nargs != 1)
                if count > 1 and parameter.param_type_name == "option" and one_value:
                    name = max(parameter.opts, key=len)
                    ctx.fail(f"{name} was given {count} times: give it once")
        return super().parse_args(ctx, args)


def _is_flag(parameter: Any) -> bool:
    return bool(getattr(parameter, "is_flag", False))


class App(typer.Typer):
    """A Typer whose commands are ``OnceCommand``."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        """Add a command."""
        return super().command(name, **{"cls": OnceCommand, **options})
