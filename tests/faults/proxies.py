"""Proxies in front of the stores of a stack, and the settings that lead through them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.acceptance.stack import Stack
from tests.proxy import LOOPBACK, Proxy, proxy


@contextmanager
def relayed(address: str) -> Iterator[tuple[Proxy, str]]:
    """A proxy in front of the server at a URL, and the URL that leads through it."""
    parts = urlsplit(address)
    assert parts.hostname is not None
    assert parts.port is not None
    with proxy(parts.hostname, parts.port) as relay:
        login = f"{parts.username}:{parts.password}@" if parts.username else ""
        yield relay, parts._replace(netloc=f"{login}{LOOPBACK}:{relay.port}").geturl()


@contextmanager
def graph_behind(stack: Stack) -> Iterator[tuple[Proxy, Mapping[str, str]]]:
    """A proxy in front of the graph, and the settings that lead through it."""
    with relayed(stack.addresses["NEO4J_URI"]) as (relay, address):
        # A group of settings is taken as a whole, or not at all.
        own = {name: value for name, value in stack.addresses.items() if name.startswith("NEO4J")}
        yield relay, {**own, "NEO4J_URI": address}
