"""Files that are not JSON lines: one sentence says what each is, and nothing of it is loaded."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from altsync.seed.files import SeedFile
from altsync.seed.foreign import WANTED
from altsync.seed.lines import Line, Rejected
from altsync.seed.reader import read
from tests import sports

LEAGUES = [
    {
        "id": f"l{n}",
        "league_name": f"Ligue {n} – été",
        "sport_name": "Football",
        "sport_archetype": "racing",
        "nested": {"a": [1, {"b": 2}]},
    }
    for n in range(300)
]

TEXT = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in LEAGUES)


KNOWN = {"sport_archetype": frozenset({"racing"})}


def _zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("leagues.jsonl", TEXT)
    return stream.getvalue()


def _tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo("leagues.jsonl")
        info.size = len(TEXT.encode())
        archive.addfile(info, io.BytesIO(TEXT.encode()))
    return stream.getvalue()


CSV = "id,league_name,sport_name\n" + "".join(f"l{n},League {n},Football\n" for n in range(300))

FOREIGN: dict[str, tuple[bytes, str]] = {
    "UTF-16": (TEXT.encode("utf-16"), "UTF-16 text"),
    "UTF-16 big": (b"\xfe\xff" + TEXT.encode("utf-16-be"), "UTF-16 text"),
    "UTF-16 without a mark": (TEXT.encode("utf-16-le"), "UTF-16LE text"),
    "UTF-16 big without a mark": (TEXT.encode("utf-16-be"), "UTF-16BE text"),
    "UTF-32": (TEXT.encode("utf-32"), "UTF-32 text"),
    "UTF-32 without a mark": (TEXT.encode("utf-32-be"), "UTF-32BE text"),
    "a mark alone": (b"\xff\xfe", "UTF-16 text"),
    "gzip": (gzip.compress(TEXT.encode()), "compressed by gzip: end its name in .jsonl.gz"),
    "zip": (_zip(), "a zip archive"),
    "tar": (_tar(), "a tar archive"),
    "parquet": (b"PAR1" + bytes(range(256)) * 20 + b"PAR1", "a Parquet file"),
    "sqlite": (b"SQLite format 3\x00" + bytes(4000), "an SQLite database"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(range(1, 200)), "compressed by zstd"),
    "zeros": (bytes(9000), "nothing but zero bytes"),
    "binary": (bytes(range(256)) * 300, "binary data"),
    "array": (json.dumps(LEAGUES).encode(), "a JSON array"),
    "pretty array": (json.dumps(LEAGUES, indent=2).encode(), "a JSON array"),
    "array by line": (("[\n" + ",\n".join(TEXT.splitlines()) + "\n]\n").encode(), "a JSON array"),
    "array of one": (("[\n" + TEXT.splitlines()[0] + "\n]\n").encode(), "a JSON array"),
    "array in one": (("[" + ",\n".join(TEXT.splitlines()) + "]").encode(), "a JSON array"),
    "commas": (",\n".join(TEXT.splitlines()).encode(), "commas between them"),
    "pretty": (json.dumps(LEAGUES[0], indent=2).encode(), "JSON over several lines"),
    "pretty all": ("\n".join(json.dumps(o, indent=4) for o in LEAGUES).encode(), "several lines"),
    "pretty with a mark": (
        b"\xef\xbb\xbf\n" + json.dumps(LEAGUES[0], indent=1).encode(),
        "several",
    ),
    "within": (json.dumps({"leagues": LEAGUES}, indent=2).encode(), "JSON over several lines"),
    "within by line": (
        ('{"leagues": [\n' + ",\n".join(TEXT.splitlines()) + "\n]}").encode(),
        "JSON over several lines",
    ),
    "within in one line": (json.dumps({"leagues": LEAGUES}).encode(), "an object around"),
    "merge": (
        "\n".join(
            ["<<<<<<< HEAD", *TEXT.splitlines(), "=======", *TEXT.splitlines(), ">>>>>>> other", ""]
        ).encode(),
        "a merge with conflicts",
    ),
    "python": ("".join(f"{one}\n" for one in LEAGUES).encode(), "single quotes"),
    "CR alone": (TEXT.replace("\n", "\r").encode(), "CR alone"),
    "CSV": (CSV.encode(), "a table (CSV)"),
    "CSV by semicolons": (CSV.replace(",", ";").encode(), "a table (CSV)"),
    "TSV": (CSV.replace(",", "\t").encode("utf-8-sig"), "a table (CSV)"),
    "HTML": (b"<!DOCTYPE html>\n<html>\n<body>Not found</body></html>\n", "HTML or XML"),
    "YAML": (b"- id: l1\n  league_name: A\n- id: l2\n", "YAML"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "Git LFS"),
    "prose": (b"Nothing here\nis a seed\nof any kind\n" * 40, "no line begins with '{'"),
}


def _read(folder: Path, data: bytes, name: str = "leagues.jsonl") -> list[Line | Rejected]:
    file = folder / name
    file.write_bytes(data)
    return list(read(SeedFile(sports.LEAGUES, file, name), KNOWN))


@pytest.mark.parametrize("kind", FOREIGN)
def test_one_sentence_says_what_a_file_is(tmp_path: Path, kind: str) -> None:
    data, what = FOREIGN[kind]
    (only,) = _read(tmp_path, data)
    assert isinstance(only, Rejected)
    assert (only.number, only.field, only.seed_id) == (0, None, None)
    assert what in only.reason
    assert only.reason.endswith(WANTED)


@pytest.mark.parametrize("kind", ["array", "pretty", "CSV", "UTF-16", "gzip", "zeros"])
def test_so_it_does_of_what_is_compressed(tmp_path: Path, kind: str) -> None:
    (only,) = _read(tmp_path, gzip.compress(FOREIGN[kind][0]), "leagues.jsonl.gz")
    assert isinstance(only, Rejected)
    assert only.reason.endswith(WANTED)


@pytest.mark.parametrize(
    "bad",
    ["[", "[1]", "[{", "{", '{"id": "a",', "a,b", "<xml/>", "- id: a", "\x00", "PAR1", "\x1f\x8b"],
)
def test_a_bad_first_line_costs_itself_alone(tmp_path: Path, bad: str) -> None:
    first, *others = _read(tmp_path, bad.encode("latin-1") + b"\n" + TEXT.encode())
    assert isinstance(first, Rejected)
    assert first.number == 1
    assert len(others) == len(LEAGUES)


def test_json_lines_are_none_of_these(tmp_path: Path) -> None:
    for data in (TEXT, "\ufeff" + TEXT, "\n\n" + TEXT, TEXT.replace("\n", "\r\n"), TEXT.rstrip()):
        lines = _read(tmp_path, data.encode())
        assert [type(line) for line in lines] == [Line] * len(LEAGUES)
