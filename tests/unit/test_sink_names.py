"""No part of the engine treats a sink by its name: a sink declares its differences."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from altsync.contract import EMBEDDING
from altsync.declarations import SINKS

ENGINE = Path(__file__).resolve().parents[2] / "src" / "altsync"

#: Modules that may name a store, with the reason. All others must not.
ALLOWED = {
    "addresses.py": "the forms of each store's address",
    "catalogue/": "columns of the described tables",
    "cli/": "the help, and settings of new projects and of the embedded stack",
    "config.py": "settings of the sinks that altsync brings",
    "environment.py": "settings of the sinks that altsync brings",
    "local/": "the servers of the embedded stack",
    "log.py": "loggers of libraries",
    "redaction.py": "words that are no secrets",
    "sentences.py": "titles of libraries in messages",
    "sinks/": "the sinks themselves",
}

NAMES = re.compile("|".join(name for name in SINKS if name != EMBEDDING), re.IGNORECASE)


def code_of(file: Path) -> str:
    """Return a file without comments and docstrings."""
    if file.suffix != ".py":
        return re.sub(r"//.*", "", file.read_text())
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body[0] = ast.Pass()
    return ast.unparse(tree)


def engine() -> dict[str, str]:
    """Return the code of the engine by path, without the modules that may name a store."""
    files = {file.relative_to(ENGINE).as_posix(): file for file in sorted(ENGINE.rglob("*.*"))}
    return {
        path: code_of(file)
        for path, file in files.items()
        if file.suffix in {".py", ".js", ".html"} and not path.startswith(tuple(ALLOWED))
    }


def test_no_sink_is_named_in_the_engine() -> None:
    assert [path for path, code in engine().items() if NAMES.search(code)] == []


def test_no_sink_is_compared_by_its_name() -> None:
    compared = re.compile(r"(traits|sink)\.name (==|!=) ")
    found = {path for path, code in engine().items() if compared.search(code)}
    # Topology.traits finds a sink by its name.
    assert found <= {"contract.py"}
