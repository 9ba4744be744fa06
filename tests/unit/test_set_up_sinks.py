"""Setting up all sinks: a new index is waited for beyond the limit of one call."""

from __future__ import annotations

from typing import Any, cast

import pytest

from altsync import app as application
from altsync.app import Application
from altsync.config import read_settings
from altsync.doctor import Health, _finding
from altsync.errors import SinkFailure
from altsync.operations import ErrorKind


class Sink:
    """Fails as often as it is told."""

    def __init__(self, failures: int, *, again: bool = True) -> None:
        self.left, self.asked, self.again = failures, 0, again

    def setup(self) -> None:
        self.asked += 1
        if self.left:
            self.left -= 1
            raise SinkFailure(ErrorKind.SINK, "not ready yet", lock_conflict=self.again)

    def close(self) -> None:
        """Nothing is open."""


def set_up(monkeypatch: pytest.MonkeyPatch, sink: Sink) -> dict[str, str | None]:
    monkeypatch.setattr(application, "READY_PAUSE", 0.0)
    app = Application(read_settings(_env_file=None, pinecone_api_key="key"))
    monkeypatch.setattr(Application, "enabled", ["pinecone"])
    app._sinks["pinecone", None] = cast(Any, sink)
    return app.set_up_sinks()


def test_an_index_that_is_being_made_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Sink(3)
    assert set_up(monkeypatch, sink) == {"pinecone": None}
    assert sink.asked == 4


def test_the_wait_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "READY_WITHIN", -1.0)
    assert set_up(monkeypatch, Sink(9)) == {"pinecone": "not ready yet"}


def test_another_failure_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Sink(9, again=False)
    assert set_up(monkeypatch, sink) == {"pinecone": "not ready yet"}
    assert sink.asked == 1


def test_doctor_ends_though_an_answer_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    over = threading.Event()
    monkeypatch.setattr("altsync.doctor.LIMIT", 0.05)

    def hangs(app: Any) -> str:
        over.wait()
        return "late"

    app = Application(read_settings(_env_file=None))
    found = _finding(app, "Neo4j", None, hangs)
    over.set()
    assert (found.health, found.detail) == (Health.FAILED, "no answer within 0.05 s")
