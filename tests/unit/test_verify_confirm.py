"""When a difference is drift: PostgreSQL is read before and after the sink."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from altsync.verify.confirm import ROUNDS, Confirmed, Observed, confirm

AT_REST = Observed(1, age=100.0)


def differs(key: str, wanted: int | None, held: int | None) -> str | None:
    """Return the difference of two numbers."""
    return None if wanted == held else f"{held}, not {wanted}"


def run(
    *readings: Observed[int], held: Sequence[int | None], grace: float = 0.0
) -> tuple[Confirmed[str], list[float]]:
    """Confirm one key; the last reading, and what is held last, stay."""
    readings_left, held_left, waits = list(readings), list(held), list[float]()

    def read(keys: Sequence[str]) -> Mapping[str, Observed[int]]:
        return {"k": readings_left.pop(0) if len(readings_left) > 1 else readings_left[0]}

    def fetch(observed: Mapping[str, Observed[int]]) -> Mapping[str, int | None]:
        return {"k": held_left.pop(0) if len(held_left) > 1 else held_left[0]}

    found = confirm(["k"], read=read, fetch=fetch, compare=differs, grace=grace, wait=waits.append)
    return found, waits


def test_what_differs_at_rest_is_drift() -> None:
    """The same before and after, and nothing under way."""
    assert run(AT_REST, held=[None]) == (Confirmed({"k": "None, not 1"}, 0), [])


def test_what_agrees_is_none() -> None:
    """Even while something is under way."""
    assert run(Observed(1, in_progress=True), held=[1]) == (Confirmed({}, 0), [])


def test_an_operation_before_or_after_is_no_drift() -> None:
    """It may be what brings the sink in step."""
    busy = Observed(1, in_progress=True)
    assert run(busy, AT_REST, held=[None]) == (Confirmed({}, 1), [])
    assert run(AT_REST, busy, held=[None]) == (Confirmed({}, 1), [])


def test_a_change_between_the_readings_is_looked_at_again() -> None:
    """It was delivered after the sink was looked at: both readings show nothing under way."""
    assert run(AT_REST, Observed(2), held=[1, 2]) == (Confirmed({}, 0), [])
    assert run(AT_REST, Observed(2), held=[1]) == (Confirmed({"k": "1, not 2"}, 0), [])


def test_what_changes_all_the_while_is_pending() -> None:
    """After some rounds it is left to the next run."""
    readings = [Observed(n) for n in range(2 * ROUNDS + 1)]
    assert run(*readings, held=[-1]) == (Confirmed({}, 1), [])


def test_a_recent_write_gets_the_rest_of_the_grace() -> None:
    """An index may show it late: it is looked at once more, and waited for no longer than that."""
    young = Observed(1, age=2.0)
    assert run(young, held=[None, 1], grace=5.0) == (Confirmed({}, 0), [3.0])
    late = run(young, young, AT_REST, held=[None], grace=5.0)
    assert late == (Confirmed({"k": "None, not 1"}, 0), [3.0])


def test_an_old_write_is_not_waited_for() -> None:
    """Nor what was never confirmed."""
    for observed in (AT_REST, Observed(1)):
        assert run(observed, held=[None], grace=5.0) == (Confirmed({"k": "None, not 1"}, 0), [])
