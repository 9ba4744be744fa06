"""Queues that the pages, compose and the Procfile name, against those that workers know."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from altsync.contract import SIMILARITY

ROOT = Path(__file__).resolve().parents[2]

#: The default of ALTSYNC_SINKS: one queue each. A sink that the pages add brings its own.
QUEUES = {"embedding", "neo4j", "pinecone"}

#: Sinks that altsync brings and ALTSYNC_SINKS does not name by default.
MORE = {"pgvector"}

#: Placeholders of a queue: systemd's instance, and the sink that is written as an example.
STANDS_FOR_ONE = {"%i"}

PAGES = sorted(
    file
    for pattern in ("*.md", "docs/**/*.md", "Procfile", "docker-compose.yml", "ops/*")
    for file in ROOT.glob(pattern)
    if file.name not in ("add-a-sink.md", "CHANGELOG.md")
)

#: As an argument of Celery, of Redis' commands, or in prose.
NAMED = (
    r"(?:\s|\[|\")-Q[\s\",]+([\w%,]+)",
    r"--queues[=\s]+([\w%,]+)",
    r"\bllen ([\w:-]+)",
    r"\bqueue `(\w+)`",
    r"`(\w+)` queue\b",
)


def queues_in(text: str) -> set[str]:
    """Return the names of queues that a text uses."""
    found = {match for pattern in NAMED for match in re.findall(pattern, text)}
    return {name for names in found for name in names.split(",") if name}


def test_what_is_found_in_a_text() -> None:
    text = (
        'celery -A w -Q similarity,neo4j\nmore of the queue `a`, the `b` queue, `llen c` "-Q", "d"'
    )
    assert queues_in(text) == {"similarity", "neo4j", "a", "b", "c", "d"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_queues_in_the_pages_are_queues(page: Path) -> None:
    assert queues_in(page.read_text(encoding="utf-8")) - STANDS_FOR_ONE <= QUEUES | MORE


def test_the_queues_are_those_of_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    from altsync.config import read_settings
    from altsync.workers.app import create, queue_of

    app = create(read_settings(_env_file=None))
    assert {queue.name for queue in app.conf.task_queues} == QUEUES
    assert queue_of(SIMILARITY) == "pinecone"
    assert "pinecone" in QUEUES
