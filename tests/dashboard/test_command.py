"""``altsync dashboard`` as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from altsync.app import Application
from altsync.dashboard.access import Access
from tests.dashboard.site import TIMEOUT, Site
from tests.integration.database_fixture import eventually


@contextmanager
def started(database_url: str, folder: Path, *arguments: str) -> Iterator[tuple[Path, int]]:
    """The command, the file that holds what it says, and its process id."""
    said = folder / "said.txt"
    with said.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "altsync", "dashboard", *arguments],
            env={**os.environ, "DATABASE_URL": database_url, "COLUMNS": "200"},
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=output,
        )
    try:
        yield said, process.pid
        assert process.wait(TIMEOUT) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_is_and_ends_when_told(
    database_url: str, tmp_path: Path, app: Application, number: signal.Signals
) -> None:
    """It serves at the address it prints, and ends with code 0."""
    with started(database_url, tmp_path, "--port", "0") as (said, pid):
        eventually(lambda: "started server process" in said.read_text().lower())
        url = said.read_text().split("The dashboard is at ")[1].split()[0]
        assert urlsplit(url).hostname == "127.0.0.1"
        site = Site(url, app, Access(None))
        assert site.get("/readyz").json["ready"] is True
        assert site.get("/").status == 401
        link = urlsplit(said.read_text().split("Sign in by ")[1].split()[0])
        signed_in = site.get(f"{link.path}?{link.query}")
        assert (signed_in.status, signed_in.headers["location"]) == (303, "/")
        cookie = signed_in.headers["set-cookie"].partition(";")[0]
        assert site.get("/", headers={"Cookie": cookie}).status == 200
        assert said.read_text().count(link.query) == 1
        os.kill(pid, number)
