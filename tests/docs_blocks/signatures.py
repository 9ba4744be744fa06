"""List the signatures of a module or class from its source, without the bodies."""

from __future__ import annotations

import ast
import inspect
import textwrap
from types import ModuleType

Signature = tuple[str, ...]


def public_names(module: ModuleType) -> list[str]:
    """Return the public signatures of a module."""
    return list(module.__all__)


def signature(source: ast.stmt) -> Signature:
    """A function's parameters and answer, or a class' bases, fields and public members."""
    match source:
        case ast.FunctionDef():
            answer = ast.unparse(source.returns) if source.returns else ""
            return (f"{source.name}({ast.unparse(source.args)}) -> {answer}",)
        case ast.ClassDef():
            bases = ", ".join(ast.unparse(base) for base in source.bases)
            members = [signature(one)[0] for one in source.body if _is_public(one)]
            return (f"class {source.name}({bases})", *members)
        case ast.AnnAssign():
            value = f" = {ast.unparse(source.value)}" if source.value else ""
            return (f"{ast.unparse(source.target)}: {ast.unparse(source.annotation)}{value}",)
        case _:
            return (ast.unparse(source),)


def signature_of(thing: object) -> Signature:
    """The signature of a function or class of the program."""
    source = textwrap.dedent(inspect.getsource(thing))  # type: ignore[arg-type]
    return signature(ast.parse(source).body[0])


def _is_public(member: ast.stmt) -> bool:
    match member:
        case ast.FunctionDef():
            return not member.name.startswith("_") or member.name == "__init__"
        case ast.AnnAssign():
            return not ast.unparse(member.target).startswith("_")
        case _:
            return False
