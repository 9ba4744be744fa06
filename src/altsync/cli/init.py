"""``altsync init``: a new project that is ready to run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Annotated

import typer

from altsync.cli.common import command
from altsync.cli.terminal import answers
from altsync.errors import AltsyncError

#: Files that are not copied from the template.
_NOT_COPIED = shutil.ignore_patterns(".env", ".altsync", "__pycache__", ".pytest_cache")

_ENV = """\
# Settings of this project. `altsync local up` needs none of them.
#DATABASE_URL=postgresql://user:password@localhost:5432/{name}
#REDIS_URL=redis://localhost:6379/0
#NEO4J_URI=bolt://localhost:7687
#NEO4J_PASSWORD=
#PINECONE_API_KEY=
#OPENAI_API_KEY=
ALTSYNC_CATALOGUE=catalogue:catalogue
"""


def init(
    name: Annotated[str, typer.Argument(help="The folder to make; its name is the project's.")],
) -> None:
    """Write a project with a catalogue, seeds and settings of its own, ready to run."""
    with command():
        folder = Path(name)
        make(folder)
        answers.print(
            f"{folder}: a catalogue of two entities, their seeds, .env, Procfile and a test.\n\n"
            f"  cd {folder}\n"
            "  altsync demo        # the embedded stack: no Docker, no keys\n\n"
            "Then change catalogue.py and seeds/, and run:\n\n"
            "  altsync migrate\n"
            "  altsync seed --all",
            highlight=False,
        )


def make(folder: Path) -> None:
    """Write the project. Raises ``AltsyncError`` when the folder holds something."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", folder.name):
        raise AltsyncError(f"invalid project name {folder.name!r}: use letters, digits, - and _")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AltsyncError(f"{folder} exists already: name another folder")
    try:
        shutil.copytree(_template(), folder, ignore=_NOT_COPIED, dirs_exist_ok=True)
        catalogue = folder / "catalogue.py"
        text = catalogue.read_text(encoding="utf-8")
        # Indexes of two projects on one account need different names.
        text = text.replace('Vectors("shop-', f'Vectors("{_index(folder.name)}-')
        catalogue.write_text(
            text.replace('Catalogue("shop"', f'Catalogue("{folder.name}"'), encoding="utf-8"
        )
        (folder / ".env").write_text(_ENV.format(name=folder.name), encoding="utf-8")
    except OSError as error:
        raise AltsyncError(f"{folder} cannot be written: {error.strerror}") from error


def _index(name: str) -> str:
    """Return a valid index name: lower case, hyphens."""
    return name.lower().replace("_", "-").strip("-")


def _template() -> Path:
    """Return the folder of the template: in the package, or in the checkout."""
    package = Path(__file__).resolve().parents[1]
    folders = (package / "template", package.parents[1] / "examples" / "shop")
    return next(folder for folder in folders if folder.is_dir())
