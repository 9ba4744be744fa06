"""Each mistake of a catalogue is an error that names class and field."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CATALOGUE = """
from typing import Annotated
from altsync import (
    BelongsTo, Catalogue, Embed, Entity, Filter, Key, Name, Node, Relationships, Seeds, Similar,
    Tag, Vectors,
)

class Author(Entity, table=True):
    orcid: Annotated[Tag, Key()]
    name: Annotated[Name, Embed]
    seeds = Seeds("authors")
    node = Node("Author")
    vectors = Vectors("lab-authors")

class Paper(Entity, table=True):
    doi: Annotated[Tag, Key()]
    title: Annotated[Name, Embed]
    author: Annotated[Tag, BelongsTo(Author, "WRITTEN_BY"), Filter]
    year: Annotated[int | None, Filter] = None
    seeds = Seeds("papers")
    node = Node("Paper")
    vectors = Vectors("lab-papers", namespace="author")
    similar = Similar("SIMILAR_TO", within="author")

catalogue = Catalogue("lab", entities=[Author, Paper])
"""

#: A node, and a text of the embedding with an expression.
TEXT_OF = 'Node("Paper")\n    def embedding_text(self): return self.{}'

#: A part of the catalogue, its replacement, and a part of the error. None: it is no mistake.
MISTAKES = (
    ("doi: Annotated[Tag, Key()]", "doi: Tag", "Paper: one field is to be marked with Key"),
    ("doi: Annotated[Tag,", "doi: Annotated[Tag | None,", "Paper.doi: a key is required"),
    ("doi: Annotated[Tag, Key()]", "doi: Annotated[Tag, Key(made_from=('year',))]", "Paper.doi"),
    ("doi: Annotated[Tag, Key()]", "doi: Annotated[Tag, Key(made_from='title')]", "('title',)"),
    ('Seeds("papers")', 'Seeds("papers/*.jsonl")', "Paper.seeds: 'papers/*.jsonl' is no name"),
    ('Seeds("papers")', 'Seeds("")', "Paper.seeds: '' is no name"),
    ('node = Node("Paper")', 'node = "Paper"', "Paper: node is no Node: node = Node("),
    ('Node("Paper")', 'Node("Paper", key="title")', "Paper.node: key='title' is another field"),
    ("similar = Similar(", "similiar = Similar(", "Paper.similiar: there is no attribute"),
    ('BelongsTo(Author, "WRITTEN_BY")', "BelongsTo", "Paper.author: BelongsTo needs arguments"),
    (
        "BelongsTo(Author,",
        'BelongsTo("Author",',
        "Paper.author: 'Author' is the label",
    ),
    ('"WRITTEN_BY"', '"SIMILAR_TO"', "Paper.author: SIMILAR_TO is declared twice"),
    ("year: Annotated[int | None", "version: Annotated[int | None", "Paper.version: altsync has"),
    ("year: Annotated[int | None", "Year: Annotated[int | None", "Paper.Year: 'Year' is no name"),
    ("year: Annotated[int | None", "user: Annotated[int | None", "Paper.user: 'user' is a word"),
    ("int | None", "dict | None", "Paper.year: a dict cannot be marked with Filter"),
    ("int | None", "list[int] | None", "Paper.year: a list has texts"),
    ("int | None", "set[str] | None", "Paper.year: the type <class 'set'> has no column"),
    ("[int | None, Filter] = None", "[int, Filter] = 'x'", "Paper.year: the default 'x'"),
    ("(Entity, table=True):\n    doi", "(Entity):\n    doi", "Paper: table=True is missing"),
    ("[Author, Paper]", "[Author, Paper, Paper]", "Paper: stands twice in entities"),
    ("[Author, Paper]", "[]", "lab: entities is empty"),
    ("[Author, Paper]", "[Author, dict]", "entities has <class 'dict'>, which is no class"),
    (
        "[Author, Paper]",
        '[Author, Paper], relationships=[Relationships(Paper, seeds=Seeds("cites"))]',
        "Relationships(Paper): name their types",
    ),
    ('namespace="author"', 'namespace="auhtor"', "Paper.vectors: namespace='auhtor' is no field"),
    ('namespace="author"', 'namespace="authors"', None),
    ('Node("Paper")', 'Node("Author")', "Paper: Author has the label 'Author' too"),
    ('"lab-papers"', '"lab-authors"', "Paper: Author has the index 'lab-authors' too"),
    ('Seeds("papers")', 'Seeds("authors")', "Paper: Author has the part of the seeds 'authors'"),
    ('Node("Paper")', TEXT_OF.format("titel"), "Paper.embedding_text: there is no field 'titel'"),
    ('Node("Paper")', TEXT_OF.format("title[9]"), None),
    ("Annotated[Name, Embed]\n    author", "Annotated[Nam, Embed]\n    author", "line 17, title"),
    ("[Author, Paper]", "[Author, Paper], colour=1", "catalogue: catalogue, line 25"),
)


def _load(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    (folder / "catalogue.py").write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "altsync", "seed", "--all", "--dry-run"],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "DATABASE_URL": "postgresql://x@127.0.0.1:1/x"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_catalogue_without_mistakes_reaches_postgresql(tmp_path: Path) -> None:
    assert _load(tmp_path, CATALOGUE).returncode == 8


@pytest.mark.parametrize(("right", "wrong", "error"), MISTAKES, ids=[one[1] for one in MISTAKES])
def test_a_mistake_names_class_and_field(
    tmp_path: Path, right: str, wrong: str, error: str | None
) -> None:
    assert right in CATALOGUE
    done = _load(tmp_path, CATALOGUE.replace(right, wrong))
    if error is None:
        assert done.returncode == 8, done.stderr
        return
    assert done.returncode == 7, done.stderr
    assert error in " ".join(done.stderr.split())
