"""Which files of a seed folder are read, which are refused by name, and which are noted."""

from __future__ import annotations

import gzip
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from altsync.catalogue.parts import Part
from altsync.errors import SeedError
from altsync.seed.lines import Rejected
from altsync.seed.listing import NAMED, Listing, list_files
from altsync.seed.reader import read
from tests import sports

#: An account that owns nothing.
STRANGER = 65534


def touch(folder: Path, *names: str) -> None:
    """Empty files, with the folders that they need."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def labels(listing: Listing, part: Part = sports.LEAGUES) -> list[str]:
    """The files of a part."""
    return [file.label for file in listing.files[part]]


def look(folder: Path, *parts: Part) -> Listing:
    """List a folder; its leagues alone unless parts are named."""
    return list_files(folder, parts or (sports.LEAGUES,))


def refused(folder: Path) -> dict[str, str]:
    """Reasons by file."""
    return {label: reason for _part, label, reason in look(folder).refused}


@contextmanager
def as_stranger() -> Iterator[None]:
    """Look with the permissions of another account: root may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(STRANGER)
    try:
        yield
    finally:
        os.seteuid(0)


def test_every_form_of_json_lines_is_read(tmp_path: Path) -> None:
    names = ["a.jsonl", "b.ndjson", "c.jsonl.gz", "d.ndjson.gz", "E.JSONL", "f.JSONL.GZ"]
    nested = ["sub/a.jsonl", "sub/deeper/b.ndjson"]
    touch(tmp_path / "leagues", *names, *nested)
    touch(tmp_path, "LEAGUES.JSONL", "leagues.ndjson.gz")
    listing = look(tmp_path)
    assert labels(listing)[:2] == ["LEAGUES.JSONL", "leagues.ndjson.gz"]
    assert sorted(labels(listing)[2:]) == sorted(f"leagues/{name}" for name in names + nested)
    assert (listing.refused, listing.unread, listing.notes) == ([], [], [])


@pytest.mark.parametrize(
    "name",
    [
        *(".#a.jsonl", "._a.jsonl", ".r.jsonl", "a.jsonl~", "#a.jsonl#", "#a#", ".a.jsonl.swp"),
        *(".DS_Store", "Thumbs.db", "THUMBS.DB", "desktop.ini", "~$a.jsonl", "__MACOSX/a.jsonl"),
        *("a.jsonl.bak", "a.jsonl.orig", "a.jsonl.tmp", "a.jsonl.part", "a.jsonl.crdownload"),
        *("a.jsonl.BAK", "a.jsonl.rej", "a.jsonl.swp", ".git/a.jsonl", "a.jsonl.~1~"),
    ],
)
def test_hidden_files_and_leavings_are_left_out_in_silence(tmp_path: Path, name: str) -> None:
    touch(tmp_path / "leagues", "a.jsonl", name)
    touch(tmp_path, name)
    listing = look(tmp_path)
    assert labels(listing) == ["leagues/a.jsonl"]
    assert (listing.refused, listing.unread) == ([], [])


def test_an_editors_lock_is_left_out(tmp_path: Path) -> None:
    """Emacs makes it a link that leads nowhere."""
    touch(tmp_path, "leagues/a.jsonl")
    (tmp_path / "leagues/.#a.jsonl").symlink_to("someone@host.1234")
    assert labels(look(tmp_path)) == ["leagues/a.jsonl"]
    assert refused(tmp_path) == {}


@pytest.mark.parametrize(
    "name",
    ["leagues/a.json", "leagues/a.csv", "leagues/a.txt", "leagues/sub/a.jsonl.zst", "leagues.json"],
)
def test_a_file_that_is_not_read_is_named(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "leagues/good.jsonl", name)
    listing = look(tmp_path)
    assert labels(listing) == ["leagues/good.jsonl"]
    assert [label for label, _ in listing.unread] == [name]
    assert listing.notes[0].startswith(f"{name}: not read: ")


def test_files_of_no_part_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "leagues/a.jsonl", "venues.jsonl", "old/leagues.jsonl", "README.md")
    unread = [label for label, _ in look(tmp_path).unread]
    assert unread == ["README.md", "old/leagues.jsonl", "venues.jsonl"]


def test_files_of_parts_that_are_not_asked_for_are_not_named(tmp_path: Path) -> None:
    touch(tmp_path, "leagues/a.jsonl", "documents.json", "examples/a.csv", "contracts.jsonl")
    assert look(tmp_path).unread == []


def test_few_of_many_unread_files_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "leagues/a.jsonl", *(f"leagues/{n}.png" for n in range(NAMED + 5)))
    listing = look(tmp_path)
    assert len(listing.unread) == NAMED + 5
    assert len(listing.notes) == NAMED + 1
    assert listing.notes[-1].startswith("5 more files")


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        here = Path.cwd()
        os.chdir(path.parent)  # the name of a socket is short
        try:
            one.bind(path.name)
        finally:
            os.chdir(here)


SPECIAL: dict[str, tuple[Callable[[Path], None], str]] = {
    "pipe": (_pipe, "a named pipe"),
    "socket": (_socket, "a socket"),
    "folder": (lambda path: touch(path, "inner.jsonl"), "a folder"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "out of the folder"),
    "file outside": (lambda path: path.symlink_to("/etc/hostname"), "out of the folder"),
    "folder outside": (lambda path: path.symlink_to("/usr"), "out of the folder"),
    "parent": (lambda path: path.symlink_to("../.."), "out of the folder"),
    "dangling": (lambda path: path.symlink_to("nowhere"), "leads nowhere"),
    "itself": (lambda path: path.symlink_to(path.name), "leads nowhere"),
    "its own folder": (lambda path: path.symlink_to("."), "a folder that holds it"),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_regular_file_of_the_folder_is_refused_by_name(
    tmp_path: Path, kind: str
) -> None:
    make, reason = SPECIAL[kind]
    folder = tmp_path / "outer" / "seeds"
    touch(folder, "leagues/good.jsonl")
    make(folder / "leagues" / "x.jsonl")
    assert labels(look(folder)) == ["leagues/good.jsonl"]
    (label,) = refused(folder)
    assert label == "leagues/x.jsonl"
    assert reason in refused(folder)[label]


def test_two_links_that_lead_to_each_other_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "leagues/good.jsonl")
    (tmp_path / "leagues/a.jsonl").symlink_to("b.jsonl")
    (tmp_path / "leagues/b.jsonl").symlink_to("a.jsonl")
    assert set(refused(tmp_path)) == {"leagues/a.jsonl", "leagues/b.jsonl"}
    assert labels(look(tmp_path)) == ["leagues/good.jsonl"]


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    """As a ConfigMap of Kubernetes is mounted: links by way of a hidden folder."""
    touch(tmp_path, "..2026_01/leagues.jsonl", "data/examples/triage.jsonl", "data/more.jsonl")
    (tmp_path / "..data").symlink_to("..2026_01")
    (tmp_path / "leagues.jsonl").symlink_to("..data/leagues.jsonl")
    (tmp_path / "examples").symlink_to("data/examples")
    listing = look(tmp_path, sports.LEAGUES, sports.EXAMPLES)
    assert labels(listing) == ["leagues.jsonl"]
    assert labels(listing, sports.EXAMPLES) == ["examples/triage.jsonl"]
    assert [label for label, _ in listing.unread] == ["data/more.jsonl"]
    assert listing.refused == []


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    touch(tmp_path, "real/leagues/a.jsonl")
    (tmp_path / "seeds").symlink_to("real")
    assert labels(look(tmp_path / "seeds")) == ["leagues/a.jsonl"]


def test_a_link_to_a_file_that_is_read_itself_is_left_out(tmp_path: Path) -> None:
    """Otherwise each of its ids would stand twice."""
    touch(tmp_path, "leagues/b.jsonl", "leagues/sub/c.jsonl")
    (tmp_path / "leagues/a.jsonl").symlink_to("b.jsonl")
    (tmp_path / "leagues/again").symlink_to("sub")
    listing = look(tmp_path)
    assert labels(listing) == ["leagues/b.jsonl", "leagues/sub/c.jsonl"]
    assert [label for label, _ in listing.repeated] == ["leagues/a.jsonl", "leagues/again"]
    assert (listing.refused, listing.unread) == ([], [])


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other accounts may enter: those above ``tmp_path`` are private."""
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_what_may_not_be_read_is_refused_by_name(open_folder: Path) -> None:
    touch(open_folder, "leagues/good.jsonl", "leagues/locked.jsonl", "leagues/closed/a.jsonl")
    for name, mode in (("", 0o755), ("good.jsonl", 0o644), ("locked.jsonl", 0), ("closed", 0)):
        (open_folder / "leagues" / name).chmod(mode)
    with as_stranger():
        listing = look(open_folder)
        files = listing.files[sports.LEAGUES]
        lines = [line for file in files for line in read(file, {})]
    (open_folder / "leagues/closed").chmod(0o700)
    assert [(label, reason) for _part, label, reason in listing.refused] == [
        ("leagues/closed/", "cannot be read: Permission denied")
    ]
    (line,) = lines
    assert isinstance(line, Rejected)
    assert str(line) == "leagues/locked.jsonl: cannot be read: Permission denied"
    assert line.seed_id is None


def test_a_file_that_is_replaced_before_it_is_opened_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "leagues/a.jsonl", "leagues/b.jsonl", "leagues/c.jsonl")
    a, b, c = look(tmp_path).files[sports.LEAGUES]
    a.path.unlink()
    b.path.unlink()
    os.mkfifo(b.path)
    c.path.unlink()
    c.path.symlink_to("/dev/zero")
    for file, reason in ((a, "No such file"), (b, "a named pipe"), (c, "cannot be read")):
        (line,) = read(file, {})
        assert isinstance(line, Rejected)
        assert (line.number, line.place) == (0, file.label)
        assert reason in line.reason


def test_a_name_that_is_not_utf_8_is_shown(tmp_path: Path) -> None:
    touch(tmp_path, "leagues/a.jsonl")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/leagues/\xff.jsonl")).touch()
    assert labels(look(tmp_path)) == ["leagues/\\xff.jsonl", "leagues/a.jsonl"]


def test_a_folder_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "seeds")
    with pytest.raises(SeedError, match="seeds: no such folder; name one with --dir"):
        look(tmp_path / "seeds")


@pytest.mark.parametrize(
    "name", ["triage.jsonl", "TRIAGE.JSONL", "triage.ndjson.gz", "s/triage.jsonl"]
)
def test_a_category_is_a_name_without_suffixes(tmp_path: Path, name: str) -> None:
    touch(tmp_path / "examples", name, "other.jsonl")
    (file,) = list_files(tmp_path, (sports.EXAMPLES,), {"category": "triage"}).files[
        sports.EXAMPLES
    ]
    assert (file.label, file.defaults) == (f"examples/{name}", {"category": "triage"})


# --- compressed files --------------------------------------------------------------------------

GOOD = '{"id":"%s","league_name":"L","sport_name":"S","sport_archetype":"racing"}\n'


def packed(folder: Path, data: bytes) -> list[str]:
    """Read a compressed file: ids of its good lines, and refusals."""
    touch(folder, "leagues.jsonl.gz")
    (folder / "leagues.jsonl.gz").write_bytes(data)
    (file,) = look(folder).files[sports.LEAGUES]
    lines = read(file, {"sport_archetype": frozenset({"racing"})})
    return [str(one) if isinstance(one, Rejected) else one.seed_id for one in lines]


def _many(count: int) -> bytes:
    return "".join(GOOD % f"l{n}-{os.urandom(40).hex()}" for n in range(count)).encode()


def test_a_compressed_file_is_read_as_its_lines(tmp_path: Path) -> None:
    both = gzip.compress((GOOD % "a").encode()) + gzip.compress((GOOD % "b").encode())
    assert packed(tmp_path, both) == ["a", "b"]


def test_compressed_data_that_end_early_are_refused_from_there_on(tmp_path: Path) -> None:
    data = gzip.compress(_many(5000))
    *good, last = packed(tmp_path, data[: len(data) // 2])
    assert 0 < len(good) < 5000
    reason = "the compressed data are broken, or end too early"
    assert last == f"leagues.jsonl.gz:{len(good) + 1}: {reason}"


def test_compressed_data_that_are_broken_are_refused(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(_many(5000)))
    middle = len(data) // 2
    data[middle : middle + 40] = bytes(40)
    assert "broken" in packed(tmp_path, bytes(data))[-1]
    (only,) = packed(tmp_path, gzip.compress(b"{}")[:8])
    assert only.startswith("leagues.jsonl.gz: ")
    (only,) = packed(tmp_path, gzip.compress((GOOD % "a").encode()) + b"what follows is no gzip")
    assert only == "leagues.jsonl.gz: the compressed data are broken, or end too early"


def test_text_under_a_compressed_name_is_refused_by_one_sentence(tmp_path: Path) -> None:
    (only,) = packed(tmp_path, (GOOD % "a").encode() * 3)
    assert only == (
        "leagues.jsonl.gz: the file is not compressed by gzip: end its name without .gz"
    )
