"""The view of a sink that declares none of its own: what its ``versions`` lists."""

from __future__ import annotations

from altsync.entities import Row
from altsync.protocols import Shown, Sink
from altsync.wording import version_differs


def show_listed(sink: Sink, row: Row) -> Shown:
    """Find the entity among all records that the sink lists. Raises ``SinkFailure``."""
    listed = sink.versions(row.entity_type)
    held = next((one for one in listed if one.key == row.key), None)
    if row.deleted or held is None:
        agrees = row.deleted is (held is None)
        return Shown(agrees, "nothing" if held is None else "it is still there", held)
    wanted = row.graph_version if sink.traits.edges else row.version
    if held.version != wanted:
        problem = version_differs(held.version, wanted)
    elif held.content_hash not in (None, row.content_hash):
        problem = "the version fits, and its content does not"
    else:
        problem = ""
    return Shown(not problem, problem or f"version {held.version}", held, (), (held.version,))
