"""The limit of a whole call, and the client that calls share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from altsync.deadline import SharedClient, check, within

#: Seconds that nothing in here takes.
LONG = 30.0


def test_a_call_within_its_time_answers_or_raises() -> None:
    assert within(LONG, lambda: 7) == 7
    assert within(LONG, lambda: None) is None

    def fail() -> None:
        raise KeyError("this one")

    with pytest.raises(KeyError, match="this one"):
        within(LONG, fail)


def test_a_call_that_hangs_is_left_behind(hanging: Callable[[], None]) -> None:
    with pytest.raises(TimeoutError):
        within(0.05, hanging)


def test_a_call_that_was_left_behind_begins_nothing_more() -> None:
    go_on, ended = threading.Event(), threading.Event()
    written: list[str] = []

    def slow() -> None:
        go_on.wait(LONG)
        try:
            check()
            written.append("late")
        finally:
            ended.set()

    with pytest.raises(TimeoutError):
        within(0.05, slow)
    go_on.set()
    assert ended.wait(LONG)
    assert written == []


def test_a_call_in_time_may_go_on() -> None:
    check()
    within(LONG, check)


class Client:
    """Notes when it is closed."""

    def __init__(self) -> None:
        self.closed = threading.Event()


def test_a_client_that_hangs_is_replaced_and_closed(hanging: Callable[[], None]) -> None:
    made: list[Client] = []

    def opened() -> Client:
        made.append(Client())
        return made[-1]

    shared = SharedClient(opened, lambda client: client.closed.set())
    with pytest.raises(TimeoutError):
        shared.call(0.05, lambda client: hanging())
    assert shared.call(LONG, lambda client: client) is made[1]
    assert made[0].closed.wait(LONG)
    shared.close()
    assert [client.closed.is_set() for client in made] == [True, True]


def test_a_client_that_hangs_stays_open_for_the_calls_that_use_it(
    hanging: Callable[[], None],
) -> None:
    """One record may make its own call hang; its neighbours' calls go on."""
    shared = SharedClient(Client, lambda client: client.closed.set())
    began, go_on = threading.Event(), threading.Event()

    def other(client: Client) -> bool:
        began.set()
        go_on.wait(LONG)
        return client.closed.is_set()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(shared.call, LONG, other)
        assert began.wait(LONG)
        with pytest.raises(TimeoutError):
            shared.call(0.05, lambda client: hanging())
        go_on.set()
        assert running.result() is False


def test_a_client_that_is_broken_is_replaced() -> None:
    made: list[Client] = []

    def opened() -> Client:
        made.append(Client())
        return made[-1]

    def fail(client: Client) -> None:
        raise OSError("broken")

    shared = SharedClient(opened, lambda client: client.closed.set())
    with pytest.raises(OSError, match="broken"):
        shared.call(LONG, fail)
    assert len(made) == 1
    with pytest.raises(OSError, match="broken"):
        shared.call(LONG, fail, broken=(OSError,))
    assert len(made) == 2
