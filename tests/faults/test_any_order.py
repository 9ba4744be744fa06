"""A random search among orders of edits, deliveries, crashes, outages and repairs.

The orders of ``tests/integration/test_state_machine.py``, others each time. A failure prints the
command that runs its order again, one that searches again for the shortest, and the steps.
"""

from __future__ import annotations

import secrets
import time

import pytest

from tests.integration.test_state_machine import scene, search  # noqa: F401  (a fixture by name)

pytestmark = pytest.mark.slow

#: Seconds in which new searches are begun: some hundred orders on an idle machine.
SECONDS = 75

#: Orders of one search: few, so that a repetition does not take long.
ORDERS = 25


@pytest.mark.usefixtures("scene")
def test_many_orders_of_steps_end_in_agreement() -> None:
    """Search after search, each with a seed of its own, until the time is over."""
    began = time.monotonic()
    while time.monotonic() - began < SECONDS:
        search(ORDERS, secrets.randbelow(10**6), shrink=False)
