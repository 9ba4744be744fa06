"""No part of the engine treats a sink by its name: what differs is declared by the sink."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from altsync.contract import EMBEDDING
from altsync.declarations import SINKS

ROOT = Path(__file__).resolve().parents[2]

ENGINE = ROOT / "src" / "altsync"

#: What is about one store, and so may name it: sinks, and the servers of the embedded stack.
OF_ONE_STORE = ("sinks/", "local/")

#: Where a name stands in code, and why.
ALLOWED = {
    "addresses.py": "the forms of each store's address",
    "catalogue/build.py": "neo4j_rel_id, a column of the described tables",
    "catalogue/entity.py": "columns of the described tables",
    "cli/__init__.py": "the first line of the help",
    "cli/demo.py": "settings of the embedded stack's services",
    "cli/init.py": "settings in the .env of a new project",
    "config.py": "settings of the sinks that altsync brings",
    "log.py": "loggers of libraries",
    "outbox/edges.py": "neo4j_rel_id, a column of the described tables",
    "redaction.py": "words that are no secrets",
    "seed/sql/relationships.py": "neo4j_rel_id, a column of the described tables",
    "sentences.py": "titles of libraries whose errors are shown",
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
    """Return the code of the engine, by its place below ``src/altsync``."""
    files = {f.relative_to(ENGINE).as_posix(): f for f in sorted(ENGINE.rglob("*.*"))}
    return {
        place: code_of(file)
        for place, file in files.items()
        if file.suffix in {".py", ".js", ".html"} and not place.startswith(OF_ONE_STORE)
    }


def test_no_sink_is_named_in_the_engine() -> None:
    named = {place for place, code in engine().items() if NAMES.search(code)}
    assert named == ALLOWED.keys()


def test_no_sink_is_compared_by_its_name() -> None:
    compared = re.compile(r"(traits|sink)\.name (==|!=) ")
    found = {place for place, code in engine().items() if compared.search(code)}
    # Topology.traits finds a sink by its name.
    assert found <= {"contract.py"}
