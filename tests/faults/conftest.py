"""The embedded stack with the real processes, as the acceptance tests have it, and a database."""

from tests.acceptance.conftest import (  # noqa: F401  (fixtures and a hook of this folder, too)
    beginning,
    folder,
    pytest_runtest_makereport,
    session_crew,
    stack,
)
from tests.integration.conftest import site, world  # noqa: F401
