"""Read the fields of declared classes and check names; each error names class and field."""

from __future__ import annotations

import re
from typing import Any

from sqlmodel import SQLModel

from altsync.errors import ConfigurationError

#: Names of labels, relationships, tables and fields that may stand in Cypher and SQL unquoted.
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")


class CatalogueError(ConfigurationError):
    """A declaration is missing, or contradicts another one. Names class and field."""


def fail(where: Any, what: str) -> CatalogueError:
    """Return the error of a declaration; ``where`` is a class, or a class and a field."""
    return CatalogueError(f"catalogue: {where}: {what}")


def check_name(where: str, name: str) -> str:
    """Return a name that may stand in statements. Raises ``CatalogueError``."""
    if not _IDENTIFIER.fullmatch(name):
        raise fail(where, f"{name!r} is no name: letters, digits and _, a letter first, 63 at most")
    return name


def marks(cls: type[SQLModel], name: str, kind: type) -> list[Any]:
    """Return the marks of one kind of a field; a bare class counts as one without arguments."""
    found = [m for m in cls.model_fields[name].metadata if m is kind or isinstance(m, kind)]
    try:
        return [kind() if one is kind else one for one in found]
    except TypeError:
        mark = f"{kind.__name__}(…)"
        raise fail(f"{cls.__name__}.{name}", f"{kind.__name__} needs arguments: {mark}") from None


def content_fields(cls: type[SQLModel], own: frozenset[str]) -> list[str]:
    """Return the declared fields in their order, without those of the base class (``own``)."""
    return [name for name in cls.model_fields if name not in own]


def is_optional(cls: type[SQLModel], name: str) -> bool:
    return not cls.model_fields[name].is_required()
