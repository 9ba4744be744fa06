"""List the files of a seed folder. Nothing outside the folder is ever read."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from altsync.catalogue.current import parts
from altsync.catalogue.parts import Part
from altsync.errors import SeedError
from altsync.seed.files import SeedFile, kind_of, named_by, suffix_of
from altsync.wording import suggestion

#: All files are listed, whatever their names.
NO_NAMES: Mapping[str, str] = MappingProxyType({})

#: Files that notes name one by one. A folder of pictures must not fill a terminal.
NAMED = 20

#: Ends of names of files that editors, browsers and copying tools leave behind.
_LEFTOVER_ENDS = (
    *("~", ".bak", ".orig", ".rej", ".old", ".save", ".swp", ".swo", ".tmp", ".temp"),
    *(".part", ".partial", ".filepart", ".crdownload", ".download", ".opdownload"),
    *("___jb_tmp___", "___jb_old___"),
)

#: Names of files that operating systems and archivers leave behind.
_LEFTOVER_NAMES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "lost+found"}

_FORMS = "seeds are .jsonl or .ndjson, or these with .gz"


class RefusedFile(NamedTuple):
    """A file of a part, or a folder of files, that may not be read, and why."""

    part: Part
    label: str
    reason: str


@dataclass(frozen=True, slots=True)
class Listing:
    """The seed files of some parts, and the other entries of the folder.

    ``unread`` are files that are no seed files, with the reason. ``repeated`` are links that were
    left out, as their targets are read under their own names.
    """

    files: dict[Part, list[SeedFile]]
    refused: list[RefusedFile] = field(default_factory=list)
    unread: list[tuple[str, str]] = field(default_factory=list)
    repeated: list[tuple[str, str]] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """Return a sentence for each of the first files that were not read."""
        notes = [f"{label}: left out: {reason}" for label, reason in self.repeated[:NAMED]]
        notes += [f"{label}: not read: {reason}" for label, reason in self.unread[:NAMED]]
        more = max(0, len(self.unread) - NAMED)
        if more:
            notes.append(f"{more} more files of this folder are not read: {_FORMS}")
        return notes


def find_files(folder: Path, part: Part, only: Mapping[str, str] = NO_NAMES) -> list[SeedFile]:
    """Return the files of a part, in the order of their names; none when the part is missing.

    Raises ``SeedError`` when the folder is not there, or a name of ``only`` has no file.
    """
    return list_files(folder, (part,), only).files[part]


def list_files(folder: Path, wanted: Sequence[Part], only: Mapping[str, str] = NO_NAMES) -> Listing:
    """List the files of these parts. No file is opened.

    ``only`` maps a field to the name of a file. Parts that take the field from the file's name list
    that file alone. Raises ``SeedError`` when the folder cannot be listed, or the file is missing.
    """
    try:
        walk = _Walk(Path(os.path.realpath(folder, strict=True)), wanted)
        walk.run()
    except (FileNotFoundError, NotADirectoryError):
        raise SeedError(f"{folder}: no such folder; name one with --dir") from None
    except OSError as error:
        raise SeedError(f"{folder}: cannot be read: {error.strerror}") from None
    listing = walk.listing
    for part, files in listing.files.items():
        # The file of a part comes before those of the folder of its name.
        files.sort(key=lambda file: ("/" in file.label, file.label.split("/")))
        column = named_by(part)
        if column is not None and column in only:
            name = only[column]
            known = {file.stem for file in files if file.stem}
            files[:] = [file for file in files if file.stem == name.lower()]
            if not files:
                place = folder / part / f"{name}.jsonl"
                near = suggestion(name, sorted(known))
                raise SeedError(f"{place}: no such file for the {column}{near}")
    return listing


class _Walk:
    """Lists one folder. Links come last: their targets may be listed under their own names."""

    def __init__(self, root: Path, wanted: Sequence[Part]) -> None:
        self.listing = Listing({part: [] for part in wanted})
        self._root = root
        self._files: dict[Path, str] = {}
        self._folders: dict[Path, str] = {}
        self._links: deque[tuple[Path, str, Part | None]] = deque()
        self._unread: list[tuple[Path, str, str]] = []

    def run(self) -> None:
        """List everything. Raises ``OSError`` when the folder itself cannot be read."""
        self._enter(self._root, "", None)
        while self._links:
            self._follow(*self._links.popleft())
        self.listing.unread.extend(
            sorted((label, why) for path, label, why in self._unread if path not in self._files)
        )

    def _enter(self, folder: Path, label: str, part: Part | None) -> None:
        """List a folder and its subfolders. ``part`` is None for the root, and outside parts."""
        pending = [(folder, label, part)]
        while pending:
            folder, label, part = pending.pop()
            if folder in self._folders:
                continue
            if part is not None:
                self._folders[folder] = label
            try:
                names = sorted(entry.name for entry in folder.iterdir())
            except OSError as error:
                if folder == self._root:
                    raise
                self._refuse(part, folder, label, f"cannot be read: {error.strerror}")
                continue
            for name in names:
                if not _is_leftover(name):
                    place = f"{label}{_shown(name)}"
                    pending += self._list(folder / name, place, part or _part(label, name))

    def _list(
        self, path: Path, label: str, part: Part | None
    ) -> list[tuple[Path, str, Part | None]]:
        """List one entry of a folder. Returns the entry if it is a folder to enter, or nothing."""
        if part is not None and part not in self.listing.files:
            return []
        try:
            mode = path.lstat().st_mode
        except OSError as error:
            self._refuse(part, path, label, f"cannot be read: {error.strerror}")
            return []
        if stat.S_ISLNK(mode):
            self._links.append((path, label, part))
            return []
        if stat.S_ISDIR(mode) and not suffix_of(label):
            return [(path, label + "/", part)]
        self._list_file(path, label, part, mode)
        return []

    def _list_file(self, path: Path, label: str, part: Part | None, mode: int) -> None:
        if not suffix_of(label):
            self._unread.append((path, label, _why_unread(label)))
        elif not stat.S_ISREG(mode):
            self._refuse(part, path, label, f"{kind_of(mode)}, not a regular file")
        elif part is None:
            reason = f"no part has its name; parts are {', '.join(parts())}"
            self._unread.append((path, label, reason))
        elif path not in self._files:
            self._files[path] = label
            self.listing.files[part].append(SeedFile(part, path, label))

    def _follow(self, link: Path, label: str, part: Part | None) -> None:
        """Follow a link as far as it stays in the folder."""
        try:
            real = Path(os.path.realpath(link, strict=True))
            mode = real.lstat().st_mode
        except OSError as error:
            self._refuse(part, link, label, f"a link that leads nowhere: {error.strerror}")
            return
        known = self._files.get(real) or self._folders.get(real)
        if not real.is_relative_to(self._root):
            self._refuse(part, link, label, "a link that leads out of the folder")
        elif link.is_relative_to(real):
            self._refuse(part, link, label, "a link to a folder that holds it")
        elif known:
            self.listing.repeated.append((label, f"a link to {known}, which is read itself"))
        elif stat.S_ISDIR(mode) and not suffix_of(label):
            self._enter(real, label + "/", part)
        else:
            self._list_file(real, label, part, mode)

    def _refuse(self, part: Part | None, path: Path, label: str, reason: str) -> None:
        if part is None:
            self._unread.append((path, label, reason))
        else:
            self.listing.refused.append(RefusedFile(part, label, reason))


def _is_leftover(name: str) -> bool:
    """Return whether a file is hidden, or left behind by an editor, a browser or a system."""
    lower = name.lower()
    return (
        lower.startswith((".", "~$"))
        or lower.endswith(_LEFTOVER_ENDS)
        or (lower.startswith("#") and lower.endswith("#"))
        or lower in _LEFTOVER_NAMES
    )


def _part(folder: str, name: str) -> Part | None:
    """Return the part that an entry of the root belongs to by its name."""
    wanted = name.partition(".")[0].lower()
    return None if folder else next((part for part in parts() if part == wanted), None)


def _why_unread(label: str) -> str:
    if label.lower().endswith((".json", ".json.gz")):
        return "a .jsonl file with one JSON object a line is wanted (jq -c '.[]' of an array)"
    return _FORMS


def _shown(name: str) -> str:
    """Return a file's name as text; bytes that are not UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
