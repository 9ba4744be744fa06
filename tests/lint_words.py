"""Find sentences and words that CONTRIBUTING's rules of prose exclude: ``make lint`` runs it.

It prints file, line and word of each finding in a file that has more than its ceiling. Without
a ceiling a file has none, except that new files may have those of files that are gone.
``--lower`` writes today's counts as the ceilings, ``--all`` prints every finding.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

#: Words that no sentence begins with, unless it is a question.
OPENERS = ("What", "Who", "Whoever", "Whose", "Where", "Those", "Nobody")

#: Words that have a replacement in the field's vocabulary, as patterns of whole words.
WORDS = (
    *("whoever", "nobody", "somebody", "culprits?", "innocents?", "ghosts?", "strays?", "twins?"),
    *(
        "mend(s|ed|ing)?",
        "doubt(s|ed|ful|fully)?",
        "unsure",
        "asking",
        "asked again",
        "disown(s|ed)?",
    ),
    *("bur(y|ies|ied|ying|ials?)", "echo(es|ed|ing)?", "suspicions?", "suspect(s|ed)?", "absurd"),
    *("nameless", "believable", "patience", "unkept", "standing still"),
)

#: Findings that stay, as (file, word): the reason.
EXCEPTIONS: Mapping[tuple[str, str], str] = {
    ("tests/lint_words.py", ""): "the list itself",
    ("tests/unit/test_lint_words.py", ""): "examples of what is found",
    ("tests/unit/test_proxy.py", "echo"): "an echo server, as in RFC 862",
    ("src/altsync/cli/__init__.py", "echo"): "typer.echo",
    ("src/altsync/cli/local.py", "echo"): "typer.echo",
    ("src/altsync/local/runtime.py", "nobody"): "the account of that name",
    ("tests/docs_blocks/shell.py", "echo"): "the command of the shell",
}

FOLDERS = ("src", "tests", "docs")

#: Lines of "count file": the findings that a file may still have.
CEILINGS = ROOT / "tests" / "lint_words.txt"

SENTENCE = re.compile(r"(?:(?<=[.!?:;])\s+|\n\s*\n|^\s*(?:[-*]|\d+\.)\s+|^#+\s+)", re.MULTILINE)
OPENER = re.compile(rf"[\"'`*_(]*({'|'.join(OPENERS)})\b")
WORD = re.compile(rf"(?<![a-z])(?:{'|'.join(WORDS)})(?![a-z])", re.IGNORECASE)
SPLIT = re.compile(r"_+|(?<=[a-z])(?=[A-Z])")

Finding = tuple[int, str]


def openers(text: str, line: int) -> Iterator[Finding]:
    """Find the sentences of a text that begin with one of OPENERS and are no questions."""
    position = 0
    for sentence in SENTENCE.split(text):
        position = text.index(sentence, position)
        found = OPENER.match(sentence.strip())
        if found and not sentence.rstrip().endswith("?"):
            yield line + text.count("\n", 0, position), found[1]
        position += len(sentence)


def words(text: str, line: int) -> Iterator[Finding]:
    """Find the words of WORDS in a text or an identifier."""
    for number, part in enumerate(text.splitlines()):
        for found in WORD.finditer(SPLIT.sub(" ", part)):
            yield line + number, found[0].lower()


def in_python(source: str) -> Iterator[Finding]:
    """Find sentences of docstrings and comments, and words of the whole module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            if docstring is not None:
                yield from openers(docstring, node.body[0].lineno)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield from openers(token.string.lstrip("#: "), token.start[0])
        if token.type in (tokenize.COMMENT, tokenize.STRING, tokenize.NAME):
            yield from words(token.string, token.start[0])


def in_markdown(source: str) -> Iterator[Finding]:
    """Find sentences and words of the prose; code keeps its line numbers and is left out."""
    prose = re.sub(
        r"^```.*?^```$|<!--.*?-->|`[^`\n]*`",
        lambda found: "\n" * found[0].count("\n"),
        source,
        flags=re.MULTILINE | re.DOTALL,
    )
    yield from openers(prose, 1)
    yield from words(prose, 1)


def findings() -> list[tuple[str, int, str]]:
    """Return file, line and word of each finding."""
    found = []
    for file in sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*")):
        check = {".py": in_python, ".md": in_markdown}.get(file.suffix)
        name = str(file.relative_to(ROOT))
        if check is None or (name, "") in EXCEPTIONS:
            continue
        for line, word in sorted(set(check(file.read_text()))):
            if (name, word) not in EXCEPTIONS:
                found.append((name, line, word))
    return found


def above(
    counts: Mapping[str, int], ceilings: Mapping[str, int], existing: Callable[[str], bool]
) -> list[str]:
    """Return the files with more findings than their ceilings.

    A file that was moved or split keeps its ceiling: files without one share the ceilings of those
    that no longer exist.
    """
    over = [file for file, count in counts.items() if count > ceilings.get(file, 0)]
    new = [file for file in over if file not in ceilings]
    freed = sum(ceiling for file, ceiling in ceilings.items() if not existing(file))
    if sum(counts[file] for file in new) <= freed:
        return [file for file in over if file in ceilings]
    return over


def main(options: Collection[str]) -> int:
    """Print the findings of each file that has too many; return the exit status."""
    found = findings()
    counts = Counter(file for file, _, _ in found)
    lines = [line.split() for line in CEILINGS.read_text().splitlines()]
    ceilings = {file: int(count) for count, file in lines}
    over = above(counts, ceilings, lambda file: (ROOT / file).exists())
    shown = counts if "--all" in options else over
    print(*(f"{file}:{line}: {word}" for file, line, word in found if file in shown), sep="\n")
    print(f"{len(found)} words or sentences to replace, {sum(ceilings.values())} allowed")
    if "--lower" in options and not over:
        CEILINGS.write_text("".join(f"{counts[file]} {file}\n" for file in sorted(counts)))
    return bool(over)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
