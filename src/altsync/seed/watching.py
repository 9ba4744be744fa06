"""Watch a seed folder, and decide which of its parts are due."""

from __future__ import annotations

import gzip
import json
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import BinaryIO, cast

from altsync.catalogue.parts import Part
from altsync.seed.files import suffix_of

#: Seconds without a change after which a file that ends within a line is seeded as it is.
QUIET_SECONDS = 2.0

#: Milliseconds between two looks at the folder itself, which may be deleted or replaced.
TICK_MS = 500

#: Longest wait for a folder that changes all the time, as a multiple of the quiet time.
MOST_QUIET_TIMES = 10


def changes(folder: Path, quiet: float, stop: Event) -> Iterator[set[Path]]:
    """Yield the paths that changed, after ``quiet`` seconds without a change.

    Yield an empty set about every half second, and the folder itself when it appears or is
    replaced. The watch begins before that, so no edit is lost between them.
    """
    import watchfiles

    while not stop.is_set():
        watched = _identity(folder)
        if watched is None:
            yield set()
            stop.wait(TICK_MS / 1000)
            continue
        found = {folder}
        with suppress(FileNotFoundError):
            for events in watchfiles.watch(
                folder,
                watch_filter=None,
                debounce=int(quiet * 1000) * MOST_QUIET_TIMES,
                step=max(1, int(quiet * 1000)),
                rust_timeout=TICK_MS,
                yield_on_timeout=True,
                stop_event=stop,
            ):
                yield found | {Path(path) for _kind, path in events}
                found = set()
                if _identity(folder) != watched:
                    break


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        state = folder.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino


class Due:
    """The parts of a watched folder that are to be seeded.

    A part waits while one of its changed files is empty or ends within a line: another program is
    writing it. After ``QUIET_SECONDS`` without a change the file is seeded as it is. Parts with
    refused lines are due again with the next change, as it may bring what a line lacked.
    """

    def __init__(
        self,
        folder: Path,
        parts: Collection[Part],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._parts = parts
        self._clock = clock
        self._due: set[Part] = set()
        self._refused: set[Part] = set()
        self._held: dict[Path, tuple[Part, float]] = {}

    def note(self, paths: Iterable[Path]) -> list[str]:
        """Record changed paths. Return the labels of seed files that are gone."""
        gone: list[str] = []
        for path in sorted(paths):
            if path == self._folder:
                self._due.update(self._parts)
                continue
            part, label = self._part_of(path)
            if part is None:
                continue
            self._held.pop(path, None)
            if suffix_of(label) and not path.exists():
                gone.append(label)
            if suffix_of(label) and is_half_written(path):
                self._held[path] = part, self._clock() + QUIET_SECONDS
            else:
                self._due.add(part)
        return gone

    def ready(self) -> tuple[Part, ...]:
        """Return the parts to seed now, in the order of the catalogue."""
        for path, (part, until) in list(self._held.items()):
            if self._clock() >= until or not is_half_written(path):
                del self._held[path]
                self._due.add(part)
        held = {part for part, _until in self._held.values()}
        if not self._due - held:
            return ()
        return tuple(p for p in self._parts if p in self._due | self._refused and p not in held)

    def seeded(self, parts: Collection[Part], refused: Collection[Part]) -> None:
        """Record a run over ``parts``; lines of ``refused`` were refused."""
        self._due -= set(parts)
        self._refused = (self._refused - set(parts)) | set(refused)

    def _part_of(self, path: Path) -> tuple[Part | None, str]:
        """Return the part of a path, and its place in the folder."""
        for folder in (self._folder, self._folder.resolve()):
            if path.is_relative_to(folder):
                place = path.relative_to(folder)
                break
        else:
            return None, str(path)
        top, label = place.parts[0], place.as_posix()
        name = top.partition(".")[0].lower()
        is_named = len(place.parts) > 1 or suffix_of(top) or "." not in top
        part = next((one for one in self._parts if one == name), None)
        return (part if is_named else None), label


def is_half_written(path: Path) -> bool:
    """Return whether a file is empty, or ends within a line. False if it is gone."""
    try:
        with path.open("rb") as stream:
            last = _last_line(stream, packed=path.name.lower().endswith(".gz"))
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return True
    except OSError:
        return False
    if last is None:
        return True
    if last.endswith(b"\n") or not last.strip():
        return False
    try:
        json.loads(last)
    except ValueError:
        return True
    return False


def _last_line(stream: BinaryIO, *, packed: bool) -> bytes | None:
    """Return a file's last line with its end, at most 2 MiB of it. None for an empty file."""
    if packed:
        if not stream.read(1):
            return None
        stream.seek(0)
        last = b""
        with gzip.GzipFile(fileobj=stream) as unpacked:
            for line in cast(BinaryIO, unpacked):
                last = line
        return last
    size = stream.seek(0, 2)
    if not size:
        return None
    stream.seek(max(0, size - (2 << 20)))
    tail = stream.read()
    return tail[tail.rstrip(b"\n").rfind(b"\n") + 1 :] if tail.strip(b"\n") else b"\n"
