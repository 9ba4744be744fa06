"""Show one entity of the graph for ``why``, and check the server for ``doctor``."""

from __future__ import annotations

from collections.abc import Iterator

from neo4j import GraphDatabase

from altsync.config import Settings
from altsync.entities import Row
from altsync.projection import graph_node
from altsync.protocols import Shown
from altsync.redaction import without_login
from altsync.sinks.neo4j.read import Held
from altsync.sinks.neo4j.write import Sink
from altsync.wording import listed_fields, version_differs


def show(sink: Sink, row: Row) -> Shown:
    """Ask the graph for the node of an entity. Raises ``SinkFailure``."""
    held = sink.find(row.entity_type, row.key)
    problem = _differs(row, held)
    agrees = problem is None
    found = "no node" if row.deleted else f"version {held.version}"
    versions = (held.version,) if held.node_id else ()
    return Shown(agrees, problem or found, held, tuple(node_lines(held)), versions)


def _differs(row: Row, held: Held) -> str | None:
    """Return how a node differs from its row, None where it does not."""
    if row.deleted:
        return None if held.version is None else "the node is still there"
    if held.node_id is None:
        return "no node"
    if held.version is None:
        return "a stub that another node's edge has made"
    if held.version != row.graph_version:
        return version_differs(held.version, row.graph_version)
    node = graph_node(row)
    wrong = [name for name, value in node.properties.items() if held.properties.get(name) != value]
    if wrong:
        return f"the version fits, and {', '.join(sorted(wrong))} does not"
    for edge, key in zip(row.entity_type.graph_parents, node.parents, strict=True):
        led = [e for e in held.edges if e.type == edge.relation and e.direction == "out"]
        if [name for e in led for name in e.names] != ([] if key is None else [key]):
            target = f"does not lead to {key} alone" if key else "leads somewhere"
            return f"the version fits, and {edge.relation} {target}"
    return None


def node_lines(held: Held) -> Iterator[str]:
    """Describe a node for people."""
    if held.node_id is not None:
        yield f"node {held.node_id}"
    # The hash was compared already.
    yield from listed_fields({n: v for n, v in held.properties.items() if n != "content_hash"})
    for edges in held.edges:
        arrow = "→" if edges.direction == "out" else "←"
        more = ", …" if edges.count > len(edges.names) else ""
        yield f"{edges.type} {arrow} {edges.count:,}: {', '.join(edges.names)}{more}"
    if held.tombstone is not None:
        yield f"deleted there as of version {held.tombstone}"


def forget(sink: Sink, row: Row) -> None:
    """Remove the tombstones of a deleted entity. Raises ``SinkFailure``."""
    sink.forget_deletions(row.entity_type, [row.key, *row.former_keys])


def check(settings: Settings, sink: Sink, timeout: float) -> str:
    """Return which server answers. Raises what the driver raises."""
    assert settings.neo4j_uri is not None
    password = settings.neo4j_password.get_secret_value()
    auth = (settings.neo4j_username, password) if password else None
    with GraphDatabase.driver(
        settings.neo4j_uri, auth=auth, connection_timeout=timeout, max_transaction_retry_time=0.0
    ) as driver:
        info = driver.execute_query("RETURN 1", database_=settings.neo4j_database).summary.server
    bolt = ".".join(str(part) for part in info.protocol_version)
    return f"{info.agent}, Bolt {bolt}, at {without_login(settings.neo4j_uri)}"
