"""A project's own revisions: drafted, run once before the tables are compared, and noted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from altsync import db

FIRST = """
from typing import Annotated
from altsync import *

class Part(Entity, table=True):
    code: Annotated[Tag, Key()]
    title: Annotated[Name, Embed]
    size: int

    seeds = Seeds("parts")
    node = Node("Part")
    vectors = Vectors("parts")

catalogue = Catalogue("parts", entities=[Part])
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of one class."""
    (tmp_path / "catalogue.py").write_text(FIRST)
    return tmp_path


def altsync(folder: Path, url: str, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "altsync", *arguments],
        cwd=folder,
        env={**os.environ, "DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_change_that_loses_data_is_drafted_and_run(
    project: Path, empty_database_url: str
) -> None:
    url = empty_database_url
    altsync(project, url, "migrate")
    with db.connect(url) as conn:
        conn.execute(
            "INSERT INTO part (id, seed_id, code, title, size, content_hash, text_hash) "
            "VALUES (gen_random_uuid(), 'p', 'P-1', 'One', 3, '', '')"
        )
    changed = FIRST.replace("    size: int\n", "    size_mm: int\n    colour: str | None = None\n")
    (project / "catalogue.py").write_text(changed)
    refused = altsync(project, url, "migrate", code=10)
    assert "part.size_mm is new and required" in refused
    assert "part.size is no longer declared, and every row needs a value of it" in refused
    assert "altsync revision MESSAGE drafts a revision" in refused
    said = altsync(project, url, "revision", "Keep sizes in mm")
    (file,) = (project / "migrations").glob("*_keep_sizes_in_mm.py")
    assert file.name in said.replace("\n", "")
    drafted = file.read_text()
    assert "op.drop_column('part', 'size')" in drafted
    kept = '    op.execute("ALTER TABLE part RENAME COLUMN size TO size_mm")\n'
    head, _, tail = drafted.partition("    op.add_column")
    file.write_text(head + kept + "\n\ndef downgrade() -> None:\n    pass\n")
    assert tail
    altsync(project, url, "migrate")
    with db.connect(url) as conn:
        row = conn.execute("SELECT size_mm, colour FROM part").fetchone()
        noted = conn.execute("SELECT version_num FROM catalogue_version").fetchone()
    assert row == (3, None)
    assert noted == (file.name.partition("_")[0],)
    altsync(project, url, "migrate")
    assert "nothing to draft" in altsync(project, url, "revision", "Again", code=10)
