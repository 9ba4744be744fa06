"""The seeds fit the catalogue. Run by ``python -m pytest`` in this folder."""

from pathlib import Path

from catalogue import catalogue

from altsync.seed.lines import Rejected
from altsync.seed.reader import read_folder

SEEDS = Path(__file__).parents[1] / "seeds"


def test_every_line_fits() -> None:
    lines = list(read_folder(SEEDS, catalogue))
    assert [str(line) for line in lines if isinstance(line, Rejected)] == []
    assert len(lines) == 13
