"""The real Neo4j the tests run on: it starts, keeps its data and stays on loopback."""

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from neo4j import Driver, GraphDatabase, Record
from neo4j.exceptions import ConstraintError

from tests.real_neo4j.server import (
    CACHE_VARIABLE,
    RealNeo4j,
    RealNeo4jError,
    start_real_neo4j,
    why_unavailable,
)

CREATE_CONSTRAINT = """
CREATE CONSTRAINT league_tag IF NOT EXISTS FOR (l:League) REQUIRE l.league_tag IS UNIQUE
"""
MERGE_LEAGUES = """
UNWIND $tags AS tag MERGE (l:League {league_tag: tag}) RETURN tag, elementId(l) AS id ORDER BY tag
"""
ALL_LEAGUES = "MATCH (l:League) RETURN l.league_tag AS tag, elementId(l) AS id ORDER BY tag"


@pytest.fixture
def available() -> None:
    """Skip without Java and Maven; in CI they must be there."""
    missing = why_unavailable()
    if missing and not os.environ.get("CI"):
        pytest.skip(missing)


@pytest.fixture
def servers(available: None, tmp_path: Path) -> Iterator[tuple[RealNeo4j, RealNeo4j]]:
    """Two servers started side by side, each on a folder of its own."""
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        starts = [pool.submit(start_real_neo4j, tmp_path / name) for name in ("one", "two")]
        one, two = [stack.enter_context(start.result()) for start in starts]
        yield one, two


def run(server: RealNeo4j, query: str, **parameters: object) -> list[Record]:
    """Return the records of a query through the real driver."""
    with GraphDatabase.driver(server.uri, auth=server.auth) as driver:
        return execute(driver, server.database, query, **parameters)


def execute(driver: Driver, database: str, query: str, **parameters: object) -> list[Record]:
    """One managed transaction."""
    return driver.execute_query(query, parameters, database_=database).records


def listening_addresses(server: RealNeo4j) -> set[str]:
    """The addresses a server's process listens on."""
    return {
        connection.laddr.ip
        for connection in psutil.Process(server.process.pid).net_connections()
        if connection.status == psutil.CONN_LISTEN
    }


@pytest.mark.real_neo4j
def test_two_servers_hold_data_of_their_own_and_keep_it_over_a_stop_and_a_kill(
    servers: tuple[RealNeo4j, RealNeo4j],
) -> None:
    """Constraints, MERGE and element ids work; folders do not mix; restarts lose nothing."""
    one, two = servers
    run(one, CREATE_CONSTRAINT)
    merged = run(one, MERGE_LEAGUES, tags=["ufc", "formula_1"])
    again = run(one, MERGE_LEAGUES, tags=["formula_1", "ufc"])

    assert [record["tag"] for record in merged] == ["formula_1", "ufc"]
    assert merged == again
    with pytest.raises(ConstraintError):
        run(one, "CREATE (:League {league_tag: 'ufc'})")
    assert run(two, ALL_LEAGUES) == []
    assert listening_addresses(one) | listening_addresses(two) <= {"127.0.0.1", "::ffff:127.0.0.1"}

    one.stop()
    with start_real_neo4j(one.folder, port=one.port) as restarted:
        assert restarted.uri == one.uri
        assert run(restarted, ALL_LEAGUES) == merged
        run(restarted, MERGE_LEAGUES, tags=["worlds"])
        restarted.kill()
    with start_real_neo4j(one.folder) as recovered:
        kept = [record["tag"] for record in run(recovered, ALL_LEAGUES)]
        assert kept == ["formula_1", "ufc", "worlds"]
        with pytest.raises(ConstraintError):
            run(recovered, "CREATE (:League {league_tag: 'ufc'})")


@pytest.mark.real_neo4j
def test_a_start_that_fails_says_why(available: None, tmp_path: Path) -> None:
    """A port that is taken is named in the error, and no process stays behind."""
    before = psutil.Process().children()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RealNeo4jError, match=str(port)):
            start_real_neo4j(tmp_path / "data", port=port)
    assert psutil.Process().children() == before


def test_missing_tools_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Java and Maven the error names each of them before anything is tried."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))

    with pytest.raises(RealNeo4jError, match=r"not found: .*mvn;"):
        start_real_neo4j(tmp_path / "data")
    assert not (tmp_path / "cache").exists()
