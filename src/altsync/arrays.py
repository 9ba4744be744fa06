"""Write lists as PostgreSQL's arrays, faster than psycopg."""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType
from typing import Any
from uuid import UUID

from psycopg.abc import Buffer
from psycopg.types.array import ListDumper


class FlatListDumper(ListDumper):
    """A dumper of lists of texts, ids, whole numbers, flags or nulls.

    psycopg dumps a list element by element, which took as long as the statement that gets it.
    """

    def dump(self, obj: list[Any]) -> Buffer | None:
        """Return the list in PostgreSQL's form of an array."""
        kinds = set(map(type, obj))
        if kinds == {str}:
            if "\x00" in "".join(obj):
                return super().dump(obj)  # psycopg refuses it
            return array_of_texts(obj).encode()
        if kinds == {UUID}:
            items = [item.hex for item in obj]
        elif kinds == {int}:
            items = list(map(str, obj))
        elif kinds == {bool}:
            items = ["t" if item else "f" for item in obj]
        elif kinds == {NoneType}:
            items = ["NULL"] * len(obj)
        else:
            return super().dump(obj)
        return f"{{{','.join(items)}}}".encode()


def array_of_texts(items: Sequence[str]) -> str:
    """Return texts in PostgreSQL's form of an array."""
    text = "".join(items)
    if '"' in text or "\\" in text:
        items = [item.replace("\\", "\\\\").replace('"', '\\"') for item in items]
    return '{"' + '","'.join(items) + '"}' if items else "{}"
