"""Real stores of this session, named to altsync as a user would: by variables."""

from __future__ import annotations

import pytest

from altsync.local.services.graph import Graph
from altsync.local.services.vectors import Vectors
from tests.conftest import DIMENSIONS, MODEL


def name_stores(
    monkeypatch: pytest.MonkeyPatch,
    database_url: str,
    graph_server: Graph,
    vectors_server: Vectors,
    **more: str,
) -> None:
    """Set the variables of every store, and ``more``."""
    user, password = graph_server.auth
    variables = {
        "DATABASE_URL": database_url,
        "NEO4J_URI": graph_server.url,
        "NEO4J_USERNAME": user,
        "NEO4J_PASSWORD": password,
        "NEO4J_DATABASE": "altsync",
        "PINECONE_API_KEY": vectors_server.secret,
        "PINECONE_CONTROLLER_HOST": vectors_server.url,
        "OPENAI_API_KEY": vectors_server.secret,
        "OPENAI_BASE_URL": vectors_server.openai_url,
        "ALTSYNC_SIMILARITY": "false",
        "ALTSYNC_EMBEDDING_MODEL": MODEL,
        "ALTSYNC_EMBEDDING_DIMENSIONS": str(DIMENSIONS),
        # The graph plans each statement anew, and a busy machine is slow at it.
        "ALTSYNC_SINK_TIMEOUT_SECONDS": "25",
    }
    for name, value in {**variables, **more}.items():
        monkeypatch.setenv(name, value)
