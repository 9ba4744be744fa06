"""The embedded stack with the real processes, as the acceptance tests have it, and a database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.conftest import (  # noqa: F401  (fixtures and a hook of this folder, too)
    beginning,
    folder,
    pytest_runtest_makereport,
    session_processes,
    stack,
)
from tests.acceptance.stack import Stack
from tests.integration.conftest import pg, site  # noqa: F401


@pytest.fixture(autouse=True)
def only_what_is_at_fault_dies(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test over real processes where an operation died that it does not name.

    ``@pytest.mark.dies(n)`` says how many records of the test are at fault themselves.
    """
    yield
    used = getattr(request.node, "funcargs", {}).get("stack")
    if not isinstance(used, Stack):
        return
    mark = request.node.get_closest_marker("dies")
    dead = used.rows(
        "SELECT sink, entity_key, error_kind, last_error FROM sync_operation WHERE status = 'dead'"
    )
    assert len(dead) == (mark.args[0] if mark else 0), dead
